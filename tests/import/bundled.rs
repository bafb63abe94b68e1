//! The models in `models/`, in every form.

use std::path::{Path, PathBuf};

use sluicegate::graph::{Graph, Op};
use sluicegate::import::from_file;

/// The ONNX files, sorted.
pub(crate) fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let entries = std::fs::read_dir(&folder).expect("models/ is part of the repository");
    let mut files: Vec<_> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn count(graph: &Graph, is: impl Fn(&Op) -> bool) -> usize {
    graph.nodes.iter().filter(|n| is(&n.op)).count()
}

#[test]
fn every_form_is_read() {
    for file in files() {
        let graph = from_file(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        crate::assert_sound(&graph);
        let name = file.file_name().unwrap().to_str().unwrap();
        let masks = count(&graph, |op| matches!(op, Op::Mask { .. }));
        let outputs: Vec<_> = (graph.outputs.iter())
            .map(|&o| graph.value(o).name.as_str())
            .collect();
        assert_eq!(outputs[0], "logits", "{name}");
        let scores = outputs.iter().filter(|o| o.starts_with("gate_")).count();
        // Inlined, a gate is a score like any other.
        let gates = if name.contains("inlined") { 0 } else { scores };
        assert_eq!(graph.gates(), gates, "{name}");
        let is_ungated = name.contains("gates.staged");
        assert!(masks >= scores || is_ungated, "{name}: {masks} masks");
        let axis = if name.starts_with("kwt") { 2 } else { 1 };
        let elsewhere = |op: &Op| matches!(op, Op::Mask { axis: a } if *a != axis);
        assert_eq!(count(&graph, elsewhere), 0, "{name}");
    }
}
