//! The graph: what a model says, in one form, whatever file and operator-set version it came from.
//!
//! Attributes that became inputs in later ONNX versions (axes, pads, bounds) are inputs here, as constants. A gated compression layer
//! is its gate head and mask head in ordinary nodes, one [`Op::Gate`] and one [`Op::Mask`].

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{DType, Tensor};

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

/// A sliding window over the spatial axes. Empty lists stand for ones (strides, dilations) and, for a convolution, for the extents of
/// its weights (kernel).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    /// Extents.
    pub kernel: Vec<usize>,
    /// Steps between outputs.
    pub strides: Vec<usize>,
    /// Steps between taps.
    pub dilations: Vec<usize>,
    /// What lies around the input.
    pub padding: Padding,
}

/// Padding of a [`Window`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// All begins, then all ends; empty = none.
    Explicit(Vec<usize>),
    /// Output = ceil(input / stride), the odd element at the end.
    SameUpper,
    /// Output = ceil(input / stride), the odd element at the beginning.
    SameLower,
    /// None.
    Valid,
}

impl Default for Padding {
    fn default() -> Self {
        Padding::Explicit(Vec::new())
    }
}

/// Functions of one operand, element by element.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the operators of ONNX under their own names")]
pub enum Unary {
    Abs,
    Ceil,
    Elu {
        alpha: f32,
    },
    Erf,
    Exp,
    Floor,
    Gelu {
        tanh: bool,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    LeakyRelu {
        alpha: f32,
    },
    Log,
    Neg,
    Not,
    Reciprocal,
    Relu,
    Round,
    Sigmoid,
    /// x * sigmoid(alpha * x); ONNX calls it Swish.
    Silu {
        alpha: f32,
    },
    Softplus,
    Sqrt,
    Tanh,
}

/// Functions of two operands with broadcasting, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operators of ONNX under their own names")]
pub enum Binary {
    Add,
    And,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    Mul,
    Or,
    Pow,
    Sub,
}

/// What a reduction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operators of ONNX under their own names")]
pub enum Reduction {
    Max,
    Mean,
    Sum,
}

/// How [`Op::Pad`] fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the modes of ONNX under their own names")]
pub enum PadMode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}

/// The operations. Operands are those of the ONNX operator of the same name at its latest version, unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "attributes of ONNX under their own names")]
pub enum Op {
    AveragePool {
        window: Window,
        ceil: bool,
        count_include_pad: bool,
    },
    BatchNorm {
        epsilon: f32,
    },
    Binary(Binary),
    Cast {
        to: DType,
    },
    /// (X, min?, max?)
    Clip,
    Concat {
        axis: i64,
    },
    Conv {
        window: Window,
        groups: usize,
    },
    Expand,
    Flatten {
        axis: i64,
    },
    Gather {
        axis: i64,
    },
    /// (score) -> nothing. The sample leaves the graph here when its score is less than the threshold.
    Gate {
        threshold: f32,
        index: usize,
    },
    Gemm {
        alpha: f32,
        beta: f32,
        trans_a: bool,
        trans_b: bool,
    },
    GlobalAveragePool,
    GlobalMaxPool,
    Identity,
    LayerNorm {
        axis: i64,
        epsilon: f32,
    },
    LogSoftmax {
        axis: i64,
        flatten: bool,
    },
    /// (X, mask) -> X * mask, the mask of shape [N or 1, C] with elements 0 and 1, C along `axis` of X.
    Mask {
        axis: usize,
    },
    MatMul,
    MaxPool {
        window: Window,
        ceil: bool,
        column_major_indices: bool,
    },
    /// (X, pads, value?, axes?)
    Pad {
        mode: PadMode,
    },
    /// (X, axes?)
    Reduce {
        kind: Reduction,
        keep_dims: bool,
        noop_with_empty_axes: bool,
    },
    Reshape {
        allow_zero: bool,
    },
    RmsNorm {
        axis: i64,
        epsilon: f32,
    },
    Shape {
        start: i64,
        end: Option<i64>,
    },
    /// (X, starts, ends, axes?, steps?)
    Slice,
    /// `flatten`: the meaning before version 13, over all axes from `axis` on.
    Softmax {
        axis: i64,
        flatten: bool,
    },
    /// (X, sizes?); without sizes as many equal parts as outputs.
    Split {
        axis: i64,
    },
    /// (X, axes?)
    Squeeze,
    Transpose {
        perm: Option<Vec<usize>>,
    },
    Unary(Unary),
    /// (X, axes)
    Unsqueeze,
    Where,
}

impl Op {
    /// The name of the ONNX operator.
    pub fn name(&self) -> &'static str {
        match self {
            Op::AveragePool { .. } => "AveragePool",
            Op::BatchNorm { .. } => "BatchNormalization",
            Op::Binary(op) => match op {
                Binary::Add => "Add",
                Binary::And => "And",
                Binary::Div => "Div",
                Binary::Equal => "Equal",
                Binary::Greater => "Greater",
                Binary::GreaterOrEqual => "GreaterOrEqual",
                Binary::Less => "Less",
                Binary::LessOrEqual => "LessOrEqual",
                Binary::Max => "Max",
                Binary::Min => "Min",
                Binary::Mul => "Mul",
                Binary::Or => "Or",
                Binary::Pow => "Pow",
                Binary::Sub => "Sub",
            },
            Op::Cast { .. } => "Cast",
            Op::Clip => "Clip",
            Op::Concat { .. } => "Concat",
            Op::Conv { .. } => "Conv",
            Op::Expand => "Expand",
            Op::Flatten { .. } => "Flatten",
            Op::Gather { .. } => "Gather",
            Op::Gate { .. } => "Gate",
            Op::Gemm { .. } => "Gemm",
            Op::GlobalAveragePool => "GlobalAveragePool",
            Op::GlobalMaxPool => "GlobalMaxPool",
            Op::Identity => "Identity",
            Op::LayerNorm { .. } => "LayerNormalization",
            Op::LogSoftmax { .. } => "LogSoftmax",
            Op::Mask { .. } => "Mask",
            Op::MatMul => "MatMul",
            Op::MaxPool { .. } => "MaxPool",
            Op::Pad { .. } => "Pad",
            Op::Reduce { kind, .. } => match kind {
                Reduction::Max => "ReduceMax",
                Reduction::Mean => "ReduceMean",
                Reduction::Sum => "ReduceSum",
            },
            Op::Reshape { .. } => "Reshape",
            Op::RmsNorm { .. } => "RMSNormalization",
            Op::Shape { .. } => "Shape",
            Op::Slice => "Slice",
            Op::Softmax { .. } => "Softmax",
            Op::Split { .. } => "Split",
            Op::Squeeze => "Squeeze",
            Op::Transpose { .. } => "Transpose",
            Op::Unary(op) => match op {
                Unary::Abs => "Abs",
                Unary::Ceil => "Ceil",
                Unary::Elu { .. } => "Elu",
                Unary::Erf => "Erf",
                Unary::Exp => "Exp",
                Unary::Floor => "Floor",
                Unary::Gelu { .. } => "Gelu",
                Unary::HardSigmoid { .. } => "HardSigmoid",
                Unary::HardSwish => "HardSwish",
                Unary::LeakyRelu { .. } => "LeakyRelu",
                Unary::Log => "Log",
                Unary::Neg => "Neg",
                Unary::Not => "Not",
                Unary::Reciprocal => "Reciprocal",
                Unary::Relu => "Relu",
                Unary::Round => "Round",
                Unary::Sigmoid => "Sigmoid",
                Unary::Silu { .. } => "Swish",
                Unary::Softplus => "Softplus",
                Unary::Sqrt => "Sqrt",
                Unary::Tanh => "Tanh",
            },
            Op::Unsqueeze => "Unsqueeze",
            Op::Where => "Where",
        }
    }
}
