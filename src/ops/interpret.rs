//! The dense interpreter: a whole graph, node by node, gates ignored. The oracle of the executor.

use std::borrow::Cow;

use crate::graph::{Dim, Graph, Value, ValueId};
use crate::ops::{Fact, at, eval, infer};
use crate::{DType, Error, Result, Shape, Tensor, View};

/// Runs all nodes on whole tensors and returns the outputs of the graph. What has been read for the last time is freed; results that are
/// held at one time take at most `memory_limit` bytes, which is checked before each allocation.
///
/// # Errors
/// [`Error::Input`] when the inputs are not those that the graph declares, [`Error::Node`] when a node cannot be applied to what it gets,
/// [`Error::TooLarge`] when the limit does not allow a result.
pub fn interpret(graph: &Graph, inputs: &[View<'_>], memory_limit: usize) -> Result<Vec<Tensor>> {
    check_inputs(graph, inputs)?;
    let mut values = Values::new(graph, inputs, memory_limit);
    for (i, node) in graph.nodes.iter().enumerate() {
        let operands = node
            .inputs
            .iter()
            .map(|id| id.map(|id| values.get(id)).transpose())
            .collect::<Result<Vec<_>>>()
            .map_err(at(node))?;
        let facts: Vec<_> = operands.iter().map(|v| v.map(Fact::from)).collect();
        let types = infer(&node.op, &facts, node.outputs.len()).map_err(at(node))?;
        let mut held = values.held;
        let mut results = Vec::with_capacity(types.len());
        for (id, (dtype, shape)) in node.outputs.iter().zip(types) {
            results.push(match id {
                Some(_) => {
                    let label = || format!("a result of {}", node.label());
                    Some(allocate(dtype, shape, &mut held, memory_limit, label)?)
                }
                None => None,
            });
        }
        let mut views: Vec<_> = results
            .iter_mut()
            .map(|tensor| tensor.as_mut().map(Tensor::view_mut))
            .collect();
        eval(&node.op, &operands, &mut views).map_err(at(node))?;
        for (id, tensor) in node.outputs.iter().zip(results) {
            if let (Some(id), Some(tensor)) = (id, tensor) {
                values.put(*id, tensor);
            }
        }
        for id in node.inputs.iter().chain(&node.outputs).flatten() {
            values.free_after(*id, i);
        }
    }
    graph.outputs.iter().map(|&id| values.output(id)).collect()
}

/// A tensor of zeros, counted among the bytes that are held.
fn allocate(
    dtype: DType,
    shape: Shape,
    held: &mut usize,
    limit: usize,
    what: impl FnOnce() -> String,
) -> Result<Tensor> {
    let needed = held.saturating_add(bytes(dtype, shape));
    if needed > limit {
        return Err(Error::TooLarge {
            what: what(),
            needed,
            limit,
        });
    }
    *held = needed;
    Ok(Tensor::zeros(dtype, shape))
}

/// Does not overflow: a shape's elements take less than `isize::MAX` bytes in any type.
fn bytes(dtype: DType, shape: Shape) -> usize {
    shape.elements() * dtype.size()
}

/// Where the elements of a value are.
enum Slot<'a> {
    /// Not yet computed, or not read any more.
    Empty,
    /// A constant of the model or an input of the run.
    Given(View<'a>),
    /// A result.
    Held(Tensor),
}

/// All values of a run.
struct Values<'a> {
    graph: &'a Graph,
    slots: Vec<Slot<'a>>,
    /// Node after which a value is not read any more; `usize::MAX` for outputs.
    last_read: Vec<usize>,
    /// Bytes of the results.
    held: usize,
    limit: usize,
}

impl<'a> Values<'a> {
    fn new(graph: &'a Graph, inputs: &[View<'a>], limit: usize) -> Self {
        let constant = |value: &'a Value| match &value.constant {
            Some(tensor) => Slot::Given(tensor.view()),
            None => Slot::Empty,
        };
        let mut slots: Vec<_> = graph.values.iter().map(constant).collect();
        for (id, &view) in graph.inputs.iter().zip(inputs) {
            slots[id.index()] = Slot::Given(view);
        }
        let mut last_read = vec![0; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                last_read[id.index()] = i;
            }
        }
        for id in &graph.outputs {
            last_read[id.index()] = usize::MAX;
        }
        Self {
            graph,
            slots,
            last_read,
            held: 0,
            limit,
        }
    }

    fn get(&self, id: ValueId) -> Result<View<'_>> {
        match &self.slots[id.index()] {
            Slot::Given(view) => Ok(*view),
            Slot::Held(tensor) => Ok(tensor.view()),
            Slot::Empty => {
                let name = &self.graph.value(id).name;
                Err(Error::Model(format!(
                    "`{name}` is read before it is computed"
                )))
            }
        }
    }

    fn put(&mut self, id: ValueId, tensor: Tensor) {
        self.held += bytes(tensor.dtype(), tensor.shape());
        self.slots[id.index()] = Slot::Held(tensor);
    }

    fn free_after(&mut self, id: ValueId, node: usize) {
        let slot = &mut self.slots[id.index()];
        if self.last_read[id.index()] == node
            && let Slot::Held(tensor) = slot
        {
            self.held -= bytes(tensor.dtype(), tensor.shape());
            *slot = Slot::Empty;
        }
    }

    /// A copy: a value may be more than one output, or an input or a constant.
    fn output(&mut self, id: ValueId) -> Result<Tensor> {
        let view = self.get(id)?;
        let (dtype, shape) = (view.dtype(), view.shape());
        let what = || format!("output `{}`", self.graph.value(id).name);
        let mut held = self.held;
        let mut tensor = allocate(dtype, shape, &mut held, self.limit, what)?;
        tensor.view_mut().bytes().copy_from_slice(view.bytes());
        self.held = held;
        Ok(tensor)
    }
}

/// As many inputs as declared, of the declared types and extents; equal names are equal extents.
fn check_inputs(graph: &Graph, inputs: &[View<'_>]) -> Result<()> {
    let mut symbols: Vec<(&str, usize)> = Vec::new();
    for (i, &id) in graph.inputs.iter().enumerate() {
        let value = graph.value(id);
        let wrong = |what: Cow<'_, str>| Error::Input {
            input: value.name.clone(),
            what: what.into_owned(),
        };
        let Some(view) = inputs.get(i) else {
            return Err(wrong("is not given".into()));
        };
        if let Some(dtype) = value.dtype
            && dtype != view.dtype()
        {
            return Err(wrong(format!("is {}, not {dtype}", view.dtype()).into()));
        }
        let Some(dims) = &value.dims else { continue };
        if dims.len() != view.shape().rank() {
            let what = format!("has shape {}, not {} axes", view.shape(), dims.len());
            return Err(wrong(what.into()));
        }
        for (dim, &extent) in dims.iter().zip(view.shape().iter()) {
            let declared = match dim {
                Dim::Fixed(declared) => *declared,
                Dim::Symbol(name) => match symbols.iter().find(|(known, _)| known == name) {
                    Some(&(_, declared)) => declared,
                    None => {
                        symbols.push((name, extent));
                        extent
                    }
                },
                Dim::Unknown => extent,
            };
            if declared != extent {
                let what = format!("has shape {} where the model says {dims:?}", view.shape());
                return Err(wrong(what.into()));
            }
        }
    }
    if let Some(extra) = inputs.len().checked_sub(graph.inputs.len())
        && extra > 0
    {
        return Err(Error::Model(format!(
            "{} inputs are given, {} are declared",
            inputs.len(),
            graph.inputs.len()
        )));
    }
    Ok(())
}
