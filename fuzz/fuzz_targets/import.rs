//! Any bytes as an ONNX file: an answer or an error. What can be read is planned, and what is cheap is run.
#![no_main]

#[path = "../../tests/common/attempt.rs"]
mod attempt;

use attempt::Limits;
use libfuzzer_sys::fuzz_target;
use sluicegate::Model;
use sluicegate::graph::Graph;

/// Runs that take more are not worth the time.
const LIMITS: Limits = Limits {
    memory: 64 << 20,
    macs: 2_000_000,
    elements: 1 << 16,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = Model::from_bytes(bytes) {
        sound(model.graph());
        let _ = LIMITS.attempt(&model, &[(1, 0.0), (3, f32::NAN)]);
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
