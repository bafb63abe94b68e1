//! Any bytes as an ONNX file: an answer or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::import::from_bytes;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(graph) = from_bytes(bytes, None) {
        // What was read is sound: no operand before its maker.
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
});
