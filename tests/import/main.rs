//! The ONNX importer: every law of `sluicegate::import`, on small models written here and on the bundled ones.

mod attention;
mod bundled;
mod damage;
mod functions;
mod gated;
mod masks;
#[path = "../common/damage.rs"]
mod mutants;
mod operators;
mod order;
mod writer;

use sluicegate::graph::{Graph, Node, ValueId};
use sluicegate::import::from_bytes;
use writer::Model;

/// The graph of a model that must be good.
fn graph(model: &Model) -> Graph {
    from_bytes(&model.bytes(), None).unwrap_or_else(|e| panic!("{e}"))
}

/// The error of a model that must be bad.
fn error(model: &Model) -> String {
    match from_bytes(&model.bytes(), None) {
        Ok(graph) => panic!("the model was read as {graph:?}"),
        Err(e) => e.to_string(),
    }
}

/// The names of the operators, in order.
fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.nodes.iter().map(|n| n.op.name()).collect()
}

/// The operand of a node.
fn operand(node: &Node, i: usize) -> ValueId {
    node.inputs[i].expect("the operand is there")
}

/// The elements of a constant operand.
fn ints(graph: &Graph, node: &Node, i: usize) -> Vec<i64> {
    let constant = graph.value(operand(node, i)).constant.as_ref();
    let constant = constant.expect("the operand is constant");
    constant.as_slice::<i64>().unwrap().to_vec()
}

/// The elements of a constant operand.
fn floats(graph: &Graph, node: &Node, i: usize) -> Vec<f32> {
    let constant = graph.value(operand(node, i)).constant.as_ref();
    let constant = constant.expect("the operand is constant");
    constant.as_slice::<f32>().unwrap().to_vec()
}

/// Every operand is made before it is read, and names are unique.
fn assert_sound(graph: &Graph) {
    let mut made = vec![false; graph.values.len()];
    for (i, value) in graph.values.iter().enumerate() {
        made[i] = value.constant.is_some();
    }
    for input in &graph.inputs {
        made[input.index()] = true;
    }
    for node in &graph.nodes {
        for input in node.inputs.iter().flatten() {
            assert!(made[input.index()], "{} reads too early", node.label());
        }
        for output in node.outputs.iter().flatten() {
            assert!(!made[output.index()], "{} makes it again", node.label());
            made[output.index()] = true;
        }
    }
    assert!(made.iter().all(|&m| m), "a value that nobody makes");
    let mut names: Vec<&str> = graph.values.iter().map(|v| v.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), graph.values.len(), "names are unique");
}
