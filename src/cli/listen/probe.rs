//! What is read off the graph and off a run.

use anyhow::{Context, Result};
use sluicegate::graph::{Graph, Op};
use sluicegate::{Outcome, Run};

/// A gate of the graph.
pub(crate) struct GateInfo {
    /// A sample whose score is less leaves.
    pub(crate) threshold: f32,
    /// The value that holds the score.
    score: String,
}

/// Where to look in a run of a model.
pub(crate) struct Probe {
    /// The gates, in order.
    pub(crate) gates: Vec<GateInfo>,
    logits: String,
}

/// What a run of one window did.
pub(crate) struct Observation {
    /// The gate at which it left.
    pub(crate) exit: Option<usize>,
    /// Scores of the gates that it reached, if they are outputs of the model.
    pub(crate) scores: Vec<Option<f32>>,
    /// Live channels of the masks of the plan that it reached.
    pub(crate) live: Vec<Option<usize>>,
    /// Multiply-accumulates done, and those of a dense run.
    pub(crate) macs: (u64, u64),
}

impl Probe {
    /// Finds gates, masks and logits.
    pub(crate) fn new(graph: &Graph) -> Result<Self> {
        let mut gates = Vec::new();
        for node in &graph.nodes {
            if let Op::Gate { threshold, index } = node.op {
                let score = node.inputs.first().copied().flatten();
                let score = score.map(|id| graph.value(id).name.clone());
                let score = score.unwrap_or_default();
                gates.push((index, GateInfo { threshold, score }));
            }
        }
        gates.sort_by_key(|g| g.0);
        let outputs = || {
            graph
                .outputs
                .iter()
                .map(|&id| graph.value(id).name.as_str())
        };
        let logits = outputs()
            .find(|name| *name == "logits")
            .or_else(|| outputs().next())
            .context("the graph has no outputs")?;
        Ok(Self {
            gates: gates.into_iter().map(|g| g.1).collect(),
            logits: logits.to_owned(),
        })
    }

    /// Reads a run of one sample.
    pub(crate) fn observe(&self, run: &Run<'_>) -> Observation {
        let outputs = run.outputs(0);
        let mut scores: Vec<Option<f32>> = self
            .gates
            .iter()
            .map(|gate| outputs.get(&gate.score)?.as_slice().ok()?.first().copied())
            .collect();
        let exit = match run.outcome(0) {
            Outcome::Exited { gate, score } => {
                if let Some(known) = scores.get_mut(gate) {
                    *known = Some(score);
                }
                Some(gate)
            }
            Outcome::Completed(_) => None,
        };
        let macs = run.macs();
        Observation {
            exit,
            scores,
            live: run.masks(0).map(|mask| mask.map(|m| m.count())).collect(),
            macs: (macs.done, macs.dense),
        }
    }

    /// The logits of a run of one sample, if they were computed.
    pub(crate) fn logits<'r>(&self, run: &'r Run<'_>) -> Option<Result<&'r [f32]>> {
        let view = run.outputs(0).get(&self.logits)?;
        let name = || format!("output `{}`", self.logits);
        Some(view.as_slice().with_context(name))
    }
}
