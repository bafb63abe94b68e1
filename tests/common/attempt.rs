//! Any model: planned for the shapes that it declares, and run when that is cheap.

use sluicegate::graph::{Dim, Graph, ValueId};
use sluicegate::{DType, Model, Options, Result, Shape, Tensor, View};

/// What an attempt may take.
pub(crate) struct Limits {
    /// Bytes, see [`Options::memory_limit`].
    pub(crate) memory: usize,
    /// Multiplications of a run.
    pub(crate) macs: u64,
    /// Elements of an input.
    pub(crate) elements: usize,
}

impl Limits {
    pub(crate) fn options(&self) -> Options {
        Options {
            memory_limit: self.memory,
            ..Options::default()
        }
    }

    /// Inputs of the declared shapes: open extents are `open`, floats `fill`. None when they are too large.
    pub(crate) fn inputs(
        &self,
        graph: &Graph,
        open: usize,
        fill: f32,
    ) -> Option<Vec<(String, Tensor)>> {
        let tensor = |&id: &ValueId| {
            let value = graph.value(id);
            let extent = |d: &Dim| if let Dim::Fixed(n) = d { *n } else { open };
            let dims: Vec<usize> = value
                .dims
                .as_ref()
                .map_or(vec![open], |dims| dims.iter().map(extent).collect());
            let fits = |s: &Shape| s.elements() <= self.elements;
            let shape = Shape::new(&dims).ok().filter(fits)?;
            let mut tensor = Tensor::zeros(value.dtype.unwrap_or(DType::F32), shape);
            if let Ok(all) = tensor.view_mut().as_slice::<f32>() {
                all.fill(fill);
            }
            Some((value.name.clone(), tensor))
        };
        graph.inputs.iter().map(tensor).collect()
    }

    /// Plans the model, and runs it for each pair of an open extent and a number, in one session.
    pub(crate) fn attempt(&self, model: &Model, runs: &[(usize, f32)]) -> Result<()> {
        let mut session = model.session(self.options())?;
        for &(open, fill) in runs {
            let Some(tensors) = self.inputs(model.graph(), open, fill) else {
                return Ok(());
            };
            let given: Vec<(&str, View<'_>)> = tensors
                .iter()
                .map(|(name, t)| (name.as_str(), t.view()))
                .collect();
            session.prepare(&given)?;
            if session.plan().is_some_and(|plan| plan.macs() <= self.macs) {
                let run = session.run(&given)?;
                for i in 0..run.samples() {
                    let _ = run.outcome(i);
                    assert!(run.outputs(i).iter().count() <= model.graph().outputs.len());
                    let _ = run.masks(i).flatten().count();
                }
            }
        }
        Ok(())
    }
}
