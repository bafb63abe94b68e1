//! The trained models of the repository, computed densely: stock onnxruntime gave the expected outputs.

use sluicegate::ops::interpret;
use sluicegate::{View, import};

use crate::common::{models, npy};
use crate::floats;

/// Clips that are computed: plain loops take their time in a build for tests.
const CLIPS: usize = 12;

fn model_gives_what_is_expected(name: &str, features: &str) {
    // The published crate does not have them.
    if !models("expected").exists() {
        println!("skipped: models/expected is not there");
        return;
    }
    let (mut dims, input) = npy::<f32>(models(&format!("expected/{features}")));
    let clip: usize = dims[1..].iter().product();
    dims[0] = CLIPS;
    let input = View::new(&dims, &input[..CLIPS * clip]).expect("the first clips");
    for form in ["onnx", "inlined.onnx"] {
        let graph = import::from_file(models(&format!("{name}.{form}"))).expect("a model");
        let outputs = interpret(&graph, &[input], 1 << 30).expect("outputs");
        assert!(!outputs.is_empty());
        for (id, found) in graph.outputs.iter().zip(outputs) {
            let output = &graph.value(*id).name;
            let (dims, expected) = npy::<f32>(models(&format!("expected/{name}.{output}.npy")));
            assert_eq!(found.shape()[1..], dims[1..], "{name}.{form}: {output}");
            assert_eq!(found.shape()[0], CLIPS);
            for (i, (a, b)) in floats(&found).iter().zip(expected).enumerate() {
                let error = (a - b).abs();
                assert!(
                    error <= 1e-5 + 1e-4 * b.abs(),
                    "{name}.{form}: {output}[{i}]: {a} not {b}"
                );
            }
        }
    }
}

#[test]
fn kws_gates() {
    model_gives_what_is_expected("kws_gates", "mfcc.npy");
}

#[test]
fn kws_static() {
    model_gives_what_is_expected("kws_static", "mfcc.npy");
}

#[test]
fn kws_dynamic() {
    model_gives_what_is_expected("kws_dynamic", "mfcc.npy");
}

#[test]
fn kwt_static() {
    model_gives_what_is_expected("kwt_static", "logmel.npy");
}

#[test]
fn kwt_dynamic() {
    model_gives_what_is_expected("kwt_dynamic", "logmel.npy");
}
