//! The graph under construction: unique names, and a budget so that a small file cannot make a huge graph.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::call::Call;
use super::constants::Constants;
use super::proto::TensorProto;
use crate::graph::{Dim, Graph, Node, Op, Value, ValueId};
use crate::{Error, Result, Tensor};

/// Nodes of a graph at most, after functions are inlined. Large published models have 20,000.
pub(super) const MAX_NODES: usize = 1 << 17;
/// Names looked up and operands resolved at most: bounds the time that nested functions and branches take.
const MAX_STEPS: u64 = 1 << 24;
/// Bytes of a made-up name at most.
const MAX_NAME: usize = 128;

/// The graph under construction.
#[derive(Debug)]
pub(super) struct Builder<'m> {
    pub(super) graph: Graph,
    constants: Constants,
    names: HashSet<String>,
    /// What to try next behind a taken name.
    suffixes: HashMap<String, u32>,
    steps: u64,
    gates: usize,
    /// Which node makes a value.
    makers: HashMap<ValueId, usize>,
    /// `stop` results of gates.
    pub(super) stops: HashSet<ValueId>,
    /// Constants inside function bodies, made once however often the function is called.
    shared: HashMap<*const TensorProto<'m>, Arc<Tensor>>,
    /// Numbers of axes that the file declares for values of its own graph.
    pub(super) declared: HashMap<&'m str, usize>,
    /// Values that several gated functions need: (what, operands, axes) -> value.
    pub(super) memo: HashMap<Memo, ValueId>,
}

/// What is computed once per operands and axes.
pub(super) type Memo = (&'static str, ValueId, Option<ValueId>, Vec<i64>);

impl<'m> Builder<'m> {
    /// An empty graph; external data is looked for in `dir`.
    pub(super) fn new(dir: Option<&Path>) -> Self {
        Self {
            graph: Graph::default(),
            constants: Constants::new(dir),
            names: HashSet::new(),
            suffixes: HashMap::new(),
            steps: 0,
            gates: 0,
            makers: HashMap::new(),
            stops: HashSet::new(),
            shared: HashMap::new(),
            declared: HashMap::new(),
            memo: HashMap::new(),
        }
    }

    /// Counts work; an error when a file makes too much of it.
    pub(super) fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps += steps as u64;
        if self.steps > MAX_STEPS {
            return Err(Error::Model(
                "functions and branches make more work than any model needs".into(),
            ));
        }
        Ok(())
    }

    /// Keeps a name of the model's own graph from being made up for something else.
    pub(super) fn reserve(&mut self, name: &str) {
        self.names.insert(name.to_string());
    }

    /// A name that nothing else has.
    pub(super) fn unique(&mut self, prefix: &str, name: &str) -> String {
        let mut wanted = format!(
            "{}/{}",
            tail(prefix, MAX_NAME / 2),
            tail(name, MAX_NAME / 2)
        );
        if prefix.is_empty() {
            wanted.remove(0);
        }
        if self.names.insert(wanted.clone()) {
            return wanted;
        }
        loop {
            let next = self.suffixes.entry(wanted.clone()).or_insert(1);
            *next += 1;
            let tried = format!("{wanted}.{next}");
            if self.names.insert(tried.clone()) {
                return tried;
            }
        }
    }

    /// Adds a node whose results have the given names.
    pub(super) fn node(
        &mut self,
        name: String,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        results: &[Option<String>],
    ) -> Result<Vec<Option<ValueId>>> {
        if self.graph.nodes.len() >= MAX_NODES {
            return Err(Error::Model(format!(
                "the graph has more than {MAX_NODES} nodes once functions are inlined"
            )));
        }
        self.spend(1 + inputs.len() + results.len())?;
        let outputs: Vec<Option<ValueId>> = results
            .iter()
            .map(|name| {
                name.as_ref().map(|name| {
                    let id = self.graph.add(Value {
                        name: name.clone(),
                        ..Value::default()
                    });
                    self.makers.insert(id, self.graph.nodes.len());
                    id
                })
            })
            .collect();
        self.graph.nodes.push(Node {
            name,
            op,
            inputs,
            outputs: outputs.clone(),
        });
        Ok(outputs)
    }

    /// Adds the node of a call: its name, its results.
    pub(super) fn emit(
        &mut self,
        call: &Call<'m>,
        op: Op,
        inputs: Vec<Option<ValueId>>,
    ) -> Result<Vec<Option<ValueId>>> {
        self.node(call.name.clone(), op, inputs, &call.results)
    }

    /// Adds a node with one result, one of several that a call becomes; `role` tells them apart.
    pub(super) fn part(
        &mut self,
        call: &Call<'m>,
        role: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId> {
        let result = self.unique(&call.name, role);
        self.named_part(call, role, op, inputs, result)
    }

    /// The same for a result that has a name already.
    pub(super) fn named_part(
        &mut self,
        call: &Call<'m>,
        role: &str,
        op: Op,
        inputs: &[ValueId],
        result: String,
    ) -> Result<ValueId> {
        let inputs = inputs.iter().map(|&i| Some(i)).collect();
        let name = format!("{}/{role}", call.name);
        let outputs = self.node(name, op, inputs, &[Some(result)])?;
        Ok(outputs[0].expect("the result was asked for"))
    }

    /// The name of a result, made up when nobody asks for it.
    pub(super) fn result_name(&mut self, call: &Call<'m>, i: usize, role: &str) -> String {
        match call.results.get(i) {
            Some(Some(name)) => name.clone(),
            _ => self.unique(&call.name, role),
        }
    }

    /// The node that makes a value.
    pub(super) fn maker(&self, id: ValueId) -> Option<&Node> {
        self.makers.get(&id).map(|&i| &self.graph.nodes[i])
    }

    /// The number of axes of a value, where the file or the operator that makes it says it.
    pub(super) fn rank(&self, id: ValueId) -> Option<usize> {
        let value = self.graph.value(id);
        let dims = value.dims.as_ref().map(Vec::len);
        let declared = || self.declared.get(value.name.as_str()).copied();
        let made = || {
            let node = self.maker(id)?;
            match &node.op {
                Op::Transpose { perm } => perm.as_ref().map(Vec::len),
                Op::Reshape { .. } => {
                    let shape = node.inputs.get(1).copied().flatten()?;
                    Some(self.constant(shape)?.shape().elements())
                }
                _ => None,
            }
        };
        dims.or_else(declared).or_else(made)
    }

    /// The constant that a value is.
    pub(super) fn constant(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        self.graph.value(id).constant.as_ref()
    }

    /// Adds a constant under a name of the model's own.
    pub(super) fn add_constant(&mut self, name: String, tensor: Arc<Tensor>) -> ValueId {
        self.graph.add(Value {
            name,
            dtype: Some(tensor.dtype()),
            dims: Some(tensor.shape().iter().map(|&d| Dim::Fixed(d)).collect()),
            constant: Some(tensor),
        })
    }

    /// An initializer.
    pub(super) fn initializer(&mut self, name: String, proto: &TensorProto<'m>) -> Result<ValueId> {
        let tensor = self.constants.tensor(proto, proto.name)?;
        Ok(self.add_constant(name, Arc::new(tensor)))
    }

    /// The tensor of an attribute; functions that are called often share it.
    pub(super) fn tensor(
        &mut self,
        call: &Call<'m>,
        proto: &'m TensorProto<'m>,
    ) -> Result<Arc<Tensor>> {
        if let Some(tensor) = self.shared.get(&std::ptr::from_ref(proto)) {
            return Ok(Arc::clone(tensor));
        }
        let name = if proto.name.is_empty() {
            &call.name
        } else {
            proto.name
        };
        let tensor = Arc::new(self.constants.tensor(proto, name)?);
        self.shared
            .insert(std::ptr::from_ref(proto), Arc::clone(&tensor));
        Ok(tensor)
    }

    /// A constant operand that was an attribute in the file.
    pub(super) fn operand(&mut self, call: &Call<'m>, role: &str, tensor: Tensor) -> ValueId {
        let name = self.unique(&call.name, role);
        self.graph.add_constant(name, tensor)
    }

    /// A list of integers as a constant operand.
    pub(super) fn list(&mut self, call: &Call<'m>, role: &str, list: &[i64]) -> Result<ValueId> {
        self.spend(list.len())?;
        let tensor = Tensor::new(&[list.len()], list.to_vec())?;
        Ok(self.operand(call, role, tensor))
    }

    /// The number of the next gate.
    pub(super) fn next_gate(&mut self) -> usize {
        self.gates += 1;
        self.gates - 1
    }
}

/// The end of a text, at most `most` bytes.
fn tail(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
