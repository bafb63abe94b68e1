//! Blocks of transformers as PyTorch exports them (`exports/make.py`): they give what PyTorch computed.

mod common;

use std::path::{Path, PathBuf};

use common::npy;
use sluicegate::ops::interpret;
use sluicegate::{Mode, Model, Options, Outcome, Tensor, View};

struct Case {
    name: String,
    inputs: Vec<Tensor>,
    expected: Vec<f32>,
}

fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports");
    // The published crate does not have them.
    if !all.exists() {
        println!("skipped: tests/exports is not there");
        return Vec::new();
    }
    let mut folders: Vec<_> = std::fs::read_dir(all)
        .expect("a folder")
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("model.onnx").exists())
        .collect();
    folders.sort();
    assert!(folders.len() > 50);
    folders
}

fn load(folder: &Path) -> Case {
    let (dims, x) = npy::<f32>(folder.join("in_0.npy"));
    let mut inputs = vec![Tensor::new(&dims, x).unwrap()];
    let mask = folder.join("in_1.npy");
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    if name.starts_with("bool") {
        let (dims, mask) = npy::<bool>(mask);
        inputs.push(Tensor::from_bools(&dims, &mask).unwrap());
    } else if mask.exists() {
        let (dims, mask) = npy::<f32>(mask);
        inputs.push(Tensor::new(&dims, mask).unwrap());
    }
    let expected = npy::<f32>(folder.join("out_0.npy")).1;
    Case {
        name,
        inputs,
        expected,
    }
}

fn close(what: &str, found: View<'_>, expected: &[f32]) {
    let found = found.as_slice::<f32>().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= 2e-6 + 1e-5 * e.abs(),
            "{what}[{i}]: {f}, expected {e}"
        );
    }
}

#[test]
fn exported_blocks_give_what_torch_computed() {
    for folder in folders() {
        let case = load(&folder);
        let model = Model::load(folder.join("model.onnx"));
        let model = model.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let graph = model.graph();
        let views: Vec<View<'_>> = case.inputs.iter().map(Tensor::view).collect();
        let outputs = interpret(graph, &views, 1 << 30).unwrap();
        close(
            &format!("{} interpreted", case.name),
            outputs[0].view(),
            &case.expected,
        );
        let given: Vec<_> = graph
            .inputs
            .iter()
            .zip(views)
            .map(|(&id, view)| (graph.value(id).name.as_str(), view))
            .collect();
        for mode in [Mode::Skip, Mode::Dense] {
            let options = Options {
                mode,
                ..Options::default()
            };
            let mut session = model.session(options).unwrap();
            let run = session.run(&given).unwrap();
            assert_eq!(run.samples(), 1, "{}: nothing is gated", case.name);
            let Outcome::Completed(outputs) = run.outcome(0) else {
                panic!("{}: left at a gate", case.name);
            };
            let y = outputs.get("y").expect("the output");
            close(&format!("{} {mode:?}", case.name), y, &case.expected);
        }
    }
}
