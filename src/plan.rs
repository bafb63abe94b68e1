//! Planning: from a graph and the shapes of one run to a list of kernels with packed weights, their storage and their masks.
//!
//! `net` types the graph and folds constants, `extents` knows which values decide shapes, `patterns` finds operators that a file spells out in smaller ones, `rewrite` fuses nodes
//! into kernels, `patches` makes rows of an image's windows, `views` finds the operands of attention where they lie, `blocks` lays maps out, `masks` carries the dead channels, `kernels` picks and packs, `lower` assigns storage by `layout` and writes the `step`s.

mod blocks;
mod extents;
mod kernels;
mod layout;
mod lower;
pub(crate) mod masks;
mod net;
mod patches;
mod patterns;
mod rewrite;
pub(crate) mod step;
pub(crate) mod views;

use std::sync::Arc;

use sluicegate_kernels::Isa;

use self::masks::{MaskDef, MaskTable, Masks};
use self::net::{Given, Net};
use self::rewrite::Work;
use self::step::{Source, Step};
use crate::graph::{Graph, Op};
use crate::{ChannelMask, DType, Error, Mode, Result, Shape, Tensor, View};

pub(crate) use self::extents::shape_inputs;
pub(crate) use self::net::at;

/// What a plan is made for; a run with another key needs another plan.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlanKey {
    /// Type and shape of each input, for one sample where samples are apart.
    pub(crate) inputs: Vec<(DType, Shape)>,
    /// The inputs that shapes depend on.
    pub(crate) values: Vec<Option<Tensor>>,
    pub(crate) mode: Mode,
    pub(crate) isa: Isa,
    pub(crate) memory_limit: usize,
    pub(crate) winograd: bool,
}

/// One node of the plan, for people.
#[derive(Debug, Clone)]
pub struct PlanNode {
    /// The nodes of the model that it computes, as `name (Operator) + ...`.
    pub label: String,
    /// The kernel or operator.
    pub op: &'static str,
    /// Shapes of the results, per sample.
    pub shapes: Vec<Shape>,
    /// Multiply-accumulates per sample with every channel live.
    pub macs: u64,
    /// What masks do here: what is skipped, or why not.
    pub note: String,
}

impl PlanNode {
    fn new(label: String, op: &'static str, shapes: &[Shape]) -> Self {
        Self {
            label,
            op,
            shapes: shapes.to_vec(),
            macs: 0,
            note: String::new(),
        }
    }
}

/// A place where samples leave.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The gate's node.
    pub name: String,
    /// A sample leaves when its score is less.
    pub threshold: f32,
    /// Counted from 0 in the order of the model.
    pub index: usize,
}

/// An output of the graph.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// Per sample.
    pub(crate) shape: Shape,
    pub(crate) source: Source,
    /// Number of steps after which it is there.
    pub(crate) ready: usize,
}

/// A model made ready for inputs of one shape: kernels with packed weights, storage, masks. Immutable; sessions share it.
pub struct Plan {
    pub(crate) key: PlanKey,
    /// Samples run one by one in their own storage, because the graph has gates or masks.
    pub(crate) per_sample: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) constants: Vec<Arc<Tensor>>,
    pub(crate) masks: MaskTable,
    pub(crate) mask_names: Vec<String>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) arena: usize,
    pub(crate) macs: u64,
    nodes: Vec<PlanNode>,
    gates: Vec<Gate>,
}

impl Plan {
    pub(crate) fn new(graph: &Graph, key: PlanKey) -> Result<Self> {
        let given: Vec<Given> = key
            .inputs
            .iter()
            .zip(&key.values)
            .map(|(&(dtype, shape), value)| Given {
                dtype,
                shape,
                value: value.clone(),
            })
            .collect();
        let mut net = Net::new(graph, &given, key.memory_limit)?;
        if key.mode == Mode::Dense {
            net.items.retain(|item| !item.work.is_gate());
        }
        patterns::fuse(&mut net)?;
        rewrite::rewrite(&mut net)?;
        patches::as_rows(&mut net)?;
        views::attend(&mut net);
        blocks::lay_out(&mut net, key.isa)?;
        let masks = match key.mode {
            Mode::Skip => masks::propagate(&net),
            Mode::Dense => Masks::none(&net),
        };
        let lowered = lower::lower(&net, &masks, key.isa, key.winograd)?;
        if lowered.arena > key.memory_limit {
            return Err(Error::TooLarge {
                what: "the arena of one sample".into(),
                needed: lowered.arena,
                limit: key.memory_limit,
            });
        }
        let name = |id| masks::describe(&net, &masks.table, masks::MaskId(id));
        let mask_names = (0..masks.table.defs.len()).map(name).collect();
        Ok(Self {
            per_sample: separates(graph),
            steps: lowered.steps,
            constants: lowered.constants,
            mask_names,
            outputs: lowered.outputs,
            arena: lowered.arena,
            macs: lowered.nodes.iter().map(|n| n.macs).sum(),
            nodes: lowered.nodes,
            gates: lowered.gates,
            masks: masks.table,
            key,
        })
    }

    /// The nodes in the order in which they run, with what masks do at each.
    pub fn nodes(&self) -> &[PlanNode] {
        &self.nodes
    }

    /// The gates at which samples can leave.
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// The masks: a name and the number of channels of each, in the order of [`Run::masks`](crate::Run::masks).
    pub fn masks(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.mask_names
            .iter()
            .map(String::as_str)
            .zip(self.masks.channels.iter().copied())
    }

    /// Multiply-accumulates of one sample with every channel live and every gate passed.
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// Bytes of working storage for one sample.
    pub fn memory(&self) -> usize {
        self.arena
    }

    /// Number of steps after which a mask is there.
    pub(crate) fn mask_ready(&self, i: usize) -> usize {
        let makes = |step: &Step| matches!(step.kernel, step::Kernel::Mask(id) if id.0 == i);
        self.steps.iter().position(makes).map_or(0, |at| at + 1)
    }

    /// The static masks, `None` for those made at run time.
    pub(crate) fn static_mask(&self, i: usize) -> Option<&ChannelMask> {
        match &self.masks.defs[i] {
            MaskDef::Static(mask) => Some(mask),
            _ => None,
        }
    }

    /// Whether the plan serves these inputs of `samples` samples. Does not allocate.
    pub(crate) fn serves<'a>(
        &self,
        inputs: impl Iterator<Item = View<'a>>,
        samples: usize,
    ) -> bool {
        let mut keys = self.key.inputs.iter().zip(&self.key.values);
        for view in inputs {
            let Some((&(dtype, shape), value)) = keys.next() else {
                return false;
            };
            let same_value = value
                .as_ref()
                .is_none_or(|v| v.view().bytes() == view.bytes());
            let ours = sample_dims(view.shape(), self.per_sample.then_some(samples));
            if dtype != view.dtype() || shape != ours || !same_value {
                return false;
            }
        }
        keys.next().is_none()
    }
}

/// The shape of one sample of an input: extent 1 along the batch axis, when the input has the batch's extent there, be it 0.
pub(crate) fn sample_dims(shape: Shape, samples: Option<usize>) -> Shape {
    match samples {
        Some(n) if shape.first() == Some(&n) => shape.with_dim(0, 1),
        _ => shape,
    }
}

/// Whether samples must be kept apart: gates and masks decide for each by itself.
pub(crate) fn separates(graph: &Graph) -> bool {
    graph
        .nodes
        .iter()
        .any(|node| matches!(node.op, Op::Gate { .. } | Op::Mask { .. }))
}

impl Masks {
    /// No masks at all: every channel is computed.
    fn none(net: &Net) -> Self {
        let alias = |work: &Work| {
            matches!(
                work,
                Work::Op(Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze)
            )
        };
        let mut table = MaskTable::default();
        let makers = net.makers();
        let mut skip = |item: &net::Item| masks::Skip {
            alias: alias(&item.work),
            // Dead keys beside another mask of scores: there is one bias.
            input: match (&item.work, item.input(3), item.input(5)) {
                (Work::Attention(_), Some(_), Some(live)) => {
                    Some(table.of_value(net, &makers, live))
                }
                _ => None,
            },
            ..masks::Skip::default()
        };
        Self {
            skips: net.items.iter().map(&mut skip).collect(),
            table,
            ..Self::default()
        }
    }
}
