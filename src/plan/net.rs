//! The graph at the shapes of one run: every type and extent known, constants folded.

use std::sync::Arc;

use super::rewrite::Work;
use crate::graph::{Graph, Op, ValueId};
use crate::ops::{self, Fact};
use crate::{DType, Error, Result, Shape, Tensor, View, ViewMut};

/// A value with all that is known before the run.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    /// A map that lies in blocks of channels: `[images, blocks, pixels, channels of a block]`. With a mask it is compact.
    pub(super) in_blocks: bool,
    pub(super) constant: Option<Arc<Tensor>>,
}

impl Value {
    pub(super) fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size()
    }

    /// The elements of an f32 constant.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        self.constant.as_ref()?.as_slice::<f32>().ok()
    }
}

/// One piece of work between values.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// `name (Operator)`, several joined by `+` once fused.
    pub(super) label: String,
    pub(super) work: Work,
    pub(super) inputs: Vec<Option<ValueId>>,
    pub(super) outputs: Vec<Option<ValueId>>,
}

impl Item {
    pub(super) fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// The operand that every form of this work has.
    pub(super) fn x(&self) -> ValueId {
        self.input(0).expect("work reads at least one value")
    }

    /// Adds what was fused into it to its label, as long as that can be read.
    pub(super) fn append_label(&mut self, label: &str) {
        const LONGEST: usize = 400;
        const MORE: &str = " + ...";
        if self.label.len() + label.len() <= LONGEST {
            self.label += " + ";
            self.label += label;
        } else if !self.label.ends_with(MORE) {
            self.label += MORE;
        }
    }

    pub(super) fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }

    /// The first result.
    pub(super) fn y(&self) -> ValueId {
        self.output(0).expect("work makes at least one value")
    }
}

/// The typed graph that planning rewrites.
#[derive(Debug, Clone, Default)]
pub(super) struct Net {
    /// By [`ValueId`]; `None` until the value is reached.
    values: Vec<Option<Value>>,
    pub(super) items: Vec<Item>,
    pub(super) inputs: Vec<ValueId>,
    pub(super) outputs: Vec<ValueId>,
    /// The names of the outputs, which fusion does not change.
    pub(super) output_names: Vec<String>,
    /// Bytes of the constants that were computed, and how many they may be.
    folded: usize,
    pub(super) limit: usize,
}

/// The items that read each value; `usize::MAX` for an output of the graph.
pub(super) struct Readers(Vec<Vec<usize>>);

impl Readers {
    /// The item that alone reads a value.
    pub(super) fn only(&self, id: ValueId) -> Option<usize> {
        match self.0[id.index()][..] {
            [one] if one != usize::MAX => Some(one),
            _ => None,
        }
    }
}

/// What planning knows of a graph input.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    /// Given when shapes depend on it.
    pub(super) value: Option<Tensor>,
}

impl Net {
    /// Infers every type and shape from those of the inputs and folds what is constant.
    pub(super) fn new(graph: &Graph, given: &[Given], memory_limit: usize) -> Result<Self> {
        let mut net = Net {
            values: vec![None; graph.values.len()],
            items: Vec::with_capacity(graph.nodes.len()),
            inputs: graph.inputs.clone(),
            outputs: graph.outputs.clone(),
            output_names: graph
                .outputs
                .iter()
                .map(|&id| graph.value(id).name.clone())
                .collect(),
            folded: 0,
            limit: memory_limit,
        };
        for (slot, value) in net.values.iter_mut().zip(&graph.values) {
            *slot = value.constant.as_ref().map(|tensor| Value {
                name: value.name.clone(),
                dtype: tensor.dtype(),
                shape: tensor.shape(),
                in_blocks: false,
                constant: Some(Arc::clone(tensor)),
            });
        }
        for (&id, given) in graph.inputs.iter().zip(given) {
            net.values[id.index()] = Some(Value {
                name: graph.value(id).name.clone(),
                dtype: given.dtype,
                shape: given.shape,
                in_blocks: false,
                constant: given.value.clone().map(Arc::new),
            });
        }
        for node in &graph.nodes {
            let mut item = Item {
                label: node.label(),
                work: Work::Op(node.op.clone()),
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
            };
            net.type_results(graph, &item, &node.op)?;
            let mut op = &node.op;
            let cast;
            if let (Op::CastLike, Some(y)) = (op, item.output(0)) {
                let to = net.value(y).dtype;
                cast = Op::Cast { to };
                op = &cast;
                item.work = Work::Op(cast.clone());
                item.inputs.truncate(1);
            }
            if let Op::Gate { .. } = op {
                net.check_gate(&item)?;
            }
            if !net.fold(&item, op)? {
                net.items.push(item);
            }
        }
        for &id in &net.outputs {
            if net.values[id.index()].is_none() {
                let name = &graph.value(id).name;
                return Err(Error::Model(format!("nothing makes the output `{name}`")));
            }
        }
        Ok(net)
    }

    pub(super) fn value(&self, id: ValueId) -> &Value {
        self.values[id.index()]
            .as_ref()
            .expect("values are typed before they are read")
    }

    pub(super) fn shape(&self, id: ValueId) -> Shape {
        self.value(id).shape
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Adds an f32 constant.
    pub(super) fn constant(
        &mut self,
        name: String,
        dims: &[usize],
        data: Vec<f32>,
    ) -> Result<ValueId> {
        self.spend(size_of_val(&data[..]), &name)?;
        self.known(name, Tensor::new(dims, data)?)
    }

    /// Adds a small constant of any type.
    pub(super) fn known(&mut self, name: String, tensor: Tensor) -> Result<ValueId> {
        let id = self.next_id()?;
        self.values.push(Some(Value {
            name,
            dtype: tensor.dtype(),
            shape: tensor.shape(),
            in_blocks: false,
            constant: Some(Arc::new(tensor)),
        }));
        Ok(id)
    }

    /// Types the one result of an item that planning adds.
    pub(super) fn make(&mut self, mut item: Item) -> Result<Item> {
        let Work::Op(op) = &item.work else {
            unreachable!("only operators are added");
        };
        let typed = |id: &Option<ValueId>| {
            id.map(|id| self.value(id)).map(|value| Fact {
                dtype: value.dtype,
                shape: value.shape,
                value: value.constant.as_ref().map(|t| t.view()),
            })
        };
        let facts: Vec<_> = item.inputs.iter().map(typed).collect();
        let results = ops::infer(op, &facts, 1).map_err(|e| at(&item.label, e))?;
        let id = self.next_id()?;
        for (dtype, shape) in results {
            self.values.push(Some(Value {
                name: item.label.clone(),
                dtype,
                shape,
                in_blocks: false,
                constant: None,
            }));
        }
        item.outputs = vec![Some(id)];
        Ok(item)
    }

    /// Adds a value as another one, of another shape.
    pub(super) fn like(&mut self, id: ValueId, shape: Shape) -> Result<ValueId> {
        let new = self.next_id()?;
        let value = self.value(id).clone();
        self.values.push(Some(Value { shape, ..value }));
        Ok(new)
    }

    /// Lays a value out in another shape, in blocks of channels or not.
    pub(super) fn lay_out(&mut self, id: ValueId, shape: Shape, in_blocks: bool) {
        if let Some(value) = &mut self.values[id.index()] {
            (value.shape, value.in_blocks) = (shape, in_blocks);
        }
    }

    fn next_id(&self) -> Result<ValueId> {
        let next = u32::try_from(self.values.len());
        next.map(ValueId)
            .map_err(|_| Error::Model("too many values".into()))
    }

    /// How often each value is read, as an operand or as an output of the graph.
    pub(super) fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        let read = self
            .items
            .iter()
            .flat_map(|item| item.inputs.iter().flatten());
        for id in read.chain(&self.outputs) {
            uses[id.index()] += 1;
        }
        uses
    }

    /// Who reads each value.
    pub(super) fn readers(&self) -> Readers {
        let mut readers = vec![Vec::new(); self.len()];
        for (i, item) in self.items.iter().enumerate() {
            for id in item.inputs.iter().flatten() {
                readers[id.index()].push(i);
            }
        }
        for id in &self.outputs {
            readers[id.index()].push(usize::MAX);
        }
        Readers(readers)
    }

    /// The item that makes each value.
    pub(super) fn makers(&self) -> Vec<Option<usize>> {
        let mut makers = vec![None; self.values.len()];
        for (i, item) in self.items.iter().enumerate() {
            for id in item.outputs.iter().flatten() {
                makers[id.index()] = Some(i);
            }
        }
        makers
    }

    /// Drops the work whose results nobody reads, gates excepted.
    pub(super) fn drop_unused(&mut self) {
        let mut needed = vec![false; self.values.len()];
        for id in &self.outputs {
            needed[id.index()] = true;
        }
        let mut kept: Vec<Item> = Vec::with_capacity(self.items.len());
        for mut item in std::mem::take(&mut self.items).into_iter().rev() {
            let live = item.outputs.iter().flatten().any(|id| needed[id.index()]);
            if !live && !item.work.is_gate() {
                continue;
            }
            for output in item.outputs.iter_mut().skip(1) {
                output.take_if(|id| !needed[id.index()]);
            }
            for id in item.inputs.iter().flatten() {
                needed[id.index()] = true;
            }
            kept.push(item);
        }
        kept.reverse();
        self.items = kept;
    }

    fn type_results(&mut self, graph: &Graph, item: &Item, op: &Op) -> Result<()> {
        let limit = self.limit;
        let missing = |id: ValueId| Error::Node {
            node: item.label.clone(),
            what: format!("nothing makes its operand `{}`", graph.value(id).name),
        };
        let mut facts = Vec::with_capacity(item.inputs.len());
        for id in &item.inputs {
            facts.push(match id {
                None => None,
                Some(id) => {
                    let value = self.values[id.index()]
                        .as_ref()
                        .ok_or_else(|| missing(*id))?;
                    Some(Fact {
                        dtype: value.dtype,
                        shape: value.shape,
                        value: value.constant.as_ref().map(|t| t.view()),
                    })
                }
            });
        }
        let results = ops::infer(op, &facts, item.outputs.len()).map_err(|e| at(&item.label, e))?;
        let typed: Vec<_> = item.outputs.iter().zip(results.iter().copied()).collect();
        for (id, (dtype, shape)) in typed {
            let needed = shape.elements() * dtype.size();
            if needed > limit {
                return Err(Error::TooLarge {
                    what: format!("the result of {}", item.label),
                    needed,
                    limit,
                });
            }
            if let Some(id) = id {
                self.values[id.index()] = Some(Value {
                    name: graph.value(*id).name.clone(),
                    dtype,
                    shape,
                    in_blocks: false,
                    constant: None,
                });
            }
        }
        Ok(())
    }

    /// Counts the bytes of a constant that is about to be made.
    fn spend(&mut self, bytes: usize, what: &str) -> Result<()> {
        self.folded = self.folded.saturating_add(bytes);
        if self.folded > self.limit {
            return Err(Error::TooLarge {
                what: format!("the constants computed up to {what}"),
                needed: self.folded,
                limit: self.limit,
            });
        }
        Ok(())
    }

    /// A gate decides by one number.
    fn check_gate(&self, item: &Item) -> Result<()> {
        let score = item.input(0).map(|id| self.value(id));
        match score {
            Some(score) if score.dtype == DType::F32 && score.shape.elements() == 1 => Ok(()),
            _ => Err(Error::Node {
                node: item.label.clone(),
                what: match score {
                    Some(score) => format!(
                        "reads one f32 of each sample, but `{}` is {} {}",
                        score.name, score.dtype, score.shape
                    ),
                    None => "has no score".into(),
                },
            }),
        }
    }

    /// Computes the results now when every operand is constant.
    fn fold(&mut self, item: &Item, op: &Op) -> Result<bool> {
        let known = |id: &ValueId| self.value(*id).constant.is_some();
        let constant = matches!(op, Op::Shape { .. }) || item.inputs.iter().flatten().all(known);
        if !constant || matches!(op, Op::Gate { .. }) {
            return Ok(false);
        }
        let results = item.outputs.iter().flatten();
        let bytes = results.map(|&id| self.value(id).bytes()).sum();
        self.spend(bytes, &item.label)?;
        let shape_only: Option<Tensor> = match op {
            Op::Shape { .. } => Some(Tensor::zeros(
                self.value(item.x()).dtype,
                self.shape(item.x()),
            )),
            _ => None,
        };
        let inputs: Vec<Option<View<'_>>> = match &shape_only {
            Some(t) => vec![Some(t.view())],
            None => item
                .inputs
                .iter()
                .map(|id| {
                    id.and_then(|id| self.value(id).constant.as_ref())
                        .map(|t| t.view())
                })
                .collect(),
        };
        let mut results: Vec<Option<Tensor>> = item
            .outputs
            .iter()
            .map(|id| id.map(|id| Tensor::zeros(self.value(id).dtype, self.shape(id))))
            .collect();
        let mut views: Vec<Option<ViewMut<'_>>> = results
            .iter_mut()
            .map(|t| t.as_mut().map(Tensor::view_mut))
            .collect();
        ops::eval(op, &inputs, &mut views).map_err(|e| at(&item.label, e))?;
        for (id, tensor) in item.outputs.iter().zip(results) {
            if let (Some(id), Some(tensor)) = (id, tensor) {
                let value = self.values[id.index()].as_mut().expect("typed above");
                value.constant = Some(Arc::new(tensor));
            }
        }
        Ok(true)
    }
}

/// Puts the node's name on an error of its operator.
pub(crate) fn at(label: &str, error: Error) -> Error {
    match error {
        Error::Node { node, what } if node.is_empty() => Error::Node {
            node: label.to_owned(),
            what,
        },
        Error::Unsupported { node, what } if node.is_empty() => Error::Unsupported {
            node: label.to_owned(),
            what,
        },
        Error::Kernel(error) => Error::Node {
            node: label.to_owned(),
            what: error.to_string(),
        },
        Error::Shape { dims, why } => Error::Node {
            node: label.to_owned(),
            what: format!("shape {dims:?}: {why}"),
        },
        other => other,
    }
}
