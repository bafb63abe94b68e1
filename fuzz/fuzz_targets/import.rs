//! Any bytes as an ONNX file: an answer or an error. What can be read is planned, and what is cheap is run.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::graph::{Dim, Graph, ValueId};
use sluicegate::{DType, Model, Options, Result, Shape, Tensor, View};

/// Runs that take more are not worth the time.
const MACS: u64 = 2_000_000;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = Model::from_bytes(bytes) {
        sound(model.graph());
        let _ = attempt(&model);
    }
});

/// No operand is read before it is made.
fn sound(graph: &Graph) {
    let mut made: Vec<bool> = graph.values.iter().map(|v| v.constant.is_some()).collect();
    for input in &graph.inputs {
        made[input.index()] = true;
    }
    for node in &graph.nodes {
        assert!(node.inputs.iter().flatten().all(|i| made[i.index()]));
        for output in node.outputs.iter().flatten() {
            made[output.index()] = true;
        }
    }
    assert!(graph.outputs.iter().all(|o| made[o.index()]));
}

/// Inputs of the declared shapes; open extents are `open`, and floats `fill`.
fn inputs(graph: &Graph, open: usize, fill: f32) -> Option<Vec<(String, Tensor)>> {
    let tensor = |&id: &ValueId| {
        let value = graph.value(id);
        let extent = |d: &Dim| if let Dim::Fixed(n) = d { *n } else { open };
        let dims: Vec<usize> = value
            .dims
            .as_ref()
            .map_or(vec![open], |dims| dims.iter().map(extent).collect());
        let shape = Shape::new(&dims).ok().filter(|s| s.elements() <= 1 << 16)?;
        let mut tensor = Tensor::zeros(value.dtype.unwrap_or(DType::F32), shape);
        if let Ok(all) = tensor.view_mut().as_slice::<f32>() {
            all.fill(fill);
        }
        Some((value.name.clone(), tensor))
    };
    graph.inputs.iter().map(tensor).collect()
}

fn attempt(model: &Model) -> Result<()> {
    let mut session = model.session(Options {
        memory_limit: 64 << 20,
        ..Options::default()
    })?;
    for (open, fill) in [(1, 0.0), (3, f32::NAN)] {
        let Some(tensors) = inputs(model.graph(), open, fill) else {
            return Ok(());
        };
        let given: Vec<(&str, View<'_>)> = tensors
            .iter()
            .map(|(name, t)| (name.as_str(), t.view()))
            .collect();
        session.prepare(&given)?;
        if session.plan().is_some_and(|plan| plan.macs() <= MACS) {
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
