//! What a run gives back.

use sluicegate_kernels::Channels;

use super::State;
use super::step::Frame;
use crate::plan::step::Source;
use crate::plan::{Output, Plan, PlanNode};
use crate::{Isa, Shape, View};

/// Multiply-accumulates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Macs {
    /// Those that were done.
    pub done: u64,
    /// Those of the same run with every channel live and every gate passed.
    pub dense: u64,
}

/// What one node took, over all samples of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeTrace {
    /// Wall time in nanoseconds.
    pub ns: u64,
    /// Multiply-accumulates done.
    pub macs: u64,
}

/// Times and MACs of a run, node by node.
#[derive(Clone, Copy)]
pub struct Trace<'a> {
    plan: &'a Plan,
    nodes: &'a [NodeTrace],
}

impl<'a> Trace<'a> {
    /// Each node of the plan with what it took.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (&'a PlanNode, NodeTrace)> {
        self.plan.nodes().iter().zip(self.nodes.iter().copied())
    }
}

/// How a sample ended.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It left at a gate; nothing behind the gate was computed for it.
    Exited {
        /// The gate's index.
        gate: usize,
        /// Its score, less than the threshold.
        score: f32,
    },
    /// It reached the end.
    Completed(Outputs<'a>),
}

/// The results of a run, borrowed from the session.
pub struct Run<'a> {
    plan: &'a Plan,
    state: &'a State,
    inputs: &'a [(&'a str, View<'a>)],
    traced: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        state: &'a State,
        inputs: &'a [(&'a str, View<'a>)],
        traced: bool,
    ) -> Self {
        Self {
            plan,
            state,
            inputs,
            traced,
        }
    }

    /// Number of samples: the batch for a model with gates or masks, else 1, the whole batch being one sample.
    pub fn samples(&self) -> usize {
        self.state.samples
    }

    /// How sample `i` ended. Panics when there is none.
    pub fn outcome(&self, i: usize) -> Outcome<'a> {
        match self.state.exits[i] {
            Some(exit) => Outcome::Exited {
                gate: exit.gate,
                score: exit.score,
            },
            None => Outcome::Completed(self.outputs(i)),
        }
    }

    /// What was computed for sample `i`, whether it left or not. Panics when there is none.
    pub fn outputs(&self, i: usize) -> Outputs<'a> {
        assert!(
            i < self.state.samples,
            "sample {i} of {}",
            self.state.samples
        );
        Outputs {
            plan: self.plan,
            state: self.state,
            inputs: self.inputs,
            sample: i,
        }
    }

    /// The multiply-accumulates of the run.
    pub fn macs(&self) -> Macs {
        self.state.macs
    }

    /// The masks of sample `i`, in the order of [`Plan::masks`]; `None` where the sample left before the mask was made. Panics when there is
    /// no such sample.
    pub fn masks(&self, i: usize) -> impl Iterator<Item = Option<Channels<'a>>> {
        let state = self.state;
        let steps = state.exits[i].map_or(usize::MAX, |exit| exit.steps);
        let plan = self.plan;
        state
            .masks
            .iter()
            .enumerate()
            .map(move |(m, mask)| (plan.mask_ready(m) <= steps).then(|| mask.sample(i)))
    }

    /// Times and MACs by node, when the session records them.
    pub fn trace(&self) -> Option<Trace<'a>> {
        self.traced.then_some(Trace {
            plan: self.plan,
            nodes: &self.state.trace,
        })
    }
}

/// The outputs of one sample.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    plan: &'a Plan,
    state: &'a State,
    inputs: &'a [(&'a str, View<'a>)],
    sample: usize,
}

impl std::fmt::Debug for Outputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(name, view)| (name, view.map(|v| v.shape()))),
            )
            .finish()
    }
}

impl<'a> Outputs<'a> {
    /// An output by name; `None` when there is no such output or the sample left before it.
    pub fn get(&self, name: &str) -> Option<View<'a>> {
        self.plan
            .outputs
            .iter()
            .find(|o| o.name == name)
            .and_then(|o| self.view(o))
    }

    /// All outputs in the order of the model, `None` where the sample left before one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, Option<View<'a>>)> {
        let this = *self;
        self.plan
            .outputs
            .iter()
            .map(move |o| (o.name.as_str(), this.view(o)))
    }

    fn view(&self, output: &'a Output) -> Option<View<'a>> {
        let state = self.state;
        let steps = state.exits[self.sample].map_or(usize::MAX, |exit| exit.steps);
        if matches!(output.source, Source::Arena(_)) && output.ready > steps {
            return None;
        }
        let frame = Frame {
            plan: self.plan,
            inputs: self.inputs,
            isa: Isa::PORTABLE,
            pool: &sluicegate_kernels::pool::Serial,
        };
        let bytes = frame.whole(
            output.source,
            self.sample,
            state.samples,
            &state.order,
            state.arena.bytes(),
        );
        let shape: Shape = output.shape;
        Some(View::from_bytes(output.dtype, shape, bytes))
    }
}
