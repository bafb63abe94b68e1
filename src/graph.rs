//! The graph: what a model says, in one form, whatever file and operator-set version it came from.
//!
//! Attributes that became inputs in later ONNX versions (axes, pads, bounds) are inputs here, as constants. A gated compression layer
//! is its gate head and mask head in ordinary nodes, one [`Op::Gate`] and one [`Op::Mask`].

mod op;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{DType, Tensor};

pub use op::{
    Attention, Binary, Op, PadMode, Padding, Reach, Reduction, Rotary, Scores, Unary, Window,
};

/// A value: an index into [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

impl ValueId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One extent of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Named; equal names are equal extents.
    Symbol(String),
    /// Not said.
    Unknown,
}

/// What the model declares about a value. Types and shapes that count are inferred from the inputs of a run.
#[derive(Debug, Clone, Default)]
pub struct Value {
    /// The name in the file; unique.
    pub name: String,
    /// The declared type.
    pub dtype: Option<DType>,
    /// The declared extents; `None` when the file does not give a shape.
    pub dims: Option<Vec<Dim>>,
    /// The tensor, when the value is a constant of the model.
    pub constant: Option<Arc<Tensor>>,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Node {
    /// The name in the file, or `Operator_3` where it has none.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Operands in the order of ONNX; `None` = an optional one left out. Trailing ones may be missing.
    pub inputs: Vec<Option<ValueId>>,
    /// Results; `None` = not asked for.
    pub outputs: Vec<Option<ValueId>>,
}

impl Node {
    /// `name (Operator)`, as in error messages.
    pub fn label(&self) -> String {
        format!("{} ({})", self.name, self.op.name())
    }
}

/// A model's graph. Nodes are in an order in which every operand is made before it is read.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// All values: inputs, constants and results.
    pub values: Vec<Value>,
    /// The inputs of a run, in order; constants are not among them.
    pub inputs: Vec<ValueId>,
    /// The outputs, in order.
    pub outputs: Vec<ValueId>,
    /// The operations.
    pub nodes: Vec<Node>,
    /// What the file says about itself, such as the labels of its classes.
    pub metadata: BTreeMap<String, String>,
}

impl Graph {
    /// The value of an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Adds a value.
    pub fn add(&mut self, value: Value) -> ValueId {
        let id =
            ValueId(u32::try_from(self.values.len()).expect("a graph has fewer than 2^32 values"));
        self.values.push(value);
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        self.add(Value {
            name: name.into(),
            dtype: Some(tensor.dtype()),
            dims: Some(tensor.shape().iter().map(|&d| Dim::Fixed(d)).collect()),
            constant: Some(Arc::new(tensor)),
        })
    }

    /// Number of gates.
    pub fn gates(&self) -> usize {
        self.nodes
            .iter()
            .filter(|n| matches!(n.op, Op::Gate { .. }))
            .count()
    }
}
