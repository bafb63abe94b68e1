//! Functions of the model's own and the branches of an `If`.

use sluicegate::graph::{Op, Unary};

use crate::writer::{self, Model, bools, f32s, float, function, node, reference};
use crate::{assert_sound, error, floats, graph, ops};

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> writer::Message {
    node(name, inputs, outputs).of("local")
}

/// leaky(a) = LeakyRelu(a) with the attribute `slope`, 0.25 by default
fn leaky() -> writer::Message {
    let body = [node("LeakyRelu", &["a"], &["b"]).with(&[reference("alpha", "slope", 1)])];
    function("leaky", &["a"], &["b"], &body, &[float("slope", 0.25)])
}

#[test]
fn attributes_are_handed_down_or_defaulted() {
    let body = [call("leaky", &["p"], &["q"]).with(&[reference("slope", "outer", 1)])];
    let twice = function("nested", &["p"], &["q"], &body, &[]);
    let nodes = vec![
        call("leaky", &["x"], &["a"]),
        call("leaky", &["a"], &["b"]).with(&[float("slope", 0.5)]),
        call("nested", &["b"], &["c"]).with(&[float("outer", 0.75)]),
        // `outer` has no default, so `slope` is left out and takes its own.
        call("nested", &["c"], &["y"]),
    ];
    let model = Model::new(nodes, &["y"]).function(leaky()).function(twice);
    let graph = graph(&model);
    assert_sound(&graph);
    let slopes: Vec<f32> = (graph.nodes.iter())
        .map(|n| match n.op {
            Op::Unary(Unary::LeakyRelu { alpha }) => alpha,
            ref op => panic!("{op:?}"),
        })
        .collect();
    assert_eq!(slopes, [0.25, 0.5, 0.75, 0.25]);
    assert_eq!(graph.value(graph.outputs[0]).name, "y");
}

#[test]
fn optional_operands_and_results_may_be_left_out() {
    let body = [
        node("Clip", &["a", "low", "high"], &["b"]),
        node("Neg", &["a"], &["c"]),
    ];
    let clip = function("clip", &["a", "low", "high"], &["b", "c"], &body, &[]);
    let nodes = vec![call("clip", &["x", "", "six"], &["y"])];
    let model = Model::new(nodes, &["y"]).function(clip);
    let graph = graph(&model.constant(f32s("six", &[], &[6.0])));
    assert_eq!(ops(&graph), ["Clip"]);
    assert_eq!(graph.nodes[0].inputs[1], None);
    assert_eq!(floats(&graph, &graph.nodes[0], 2), [6.0]);
}

#[test]
fn bodies_do_not_see_names_around_them() {
    let body = [node("Add", &["a", "x"], &["b"])];
    let bad = function("bad", &["a"], &["b"], &body, &[]);
    let text = error(&Model::new(vec![call("bad", &["x"], &["y"])], &["y"]).function(bad));
    assert!(text.contains("`x`"), "{text}");
}

#[test]
fn functions_that_do_not_end_are_refused() {
    let ping = function("ping", &["a"], &["b"], &[call("pong", &["a"], &["b"])], &[]);
    let pong = function("pong", &["a"], &["b"], &[call("ping", &["a"], &["b"])], &[]);
    let model = Model::new(vec![call("ping", &["x"], &["y"])], &["y"]);
    assert!(error(&model.function(ping).function(pong)).contains("calls itself"));
}

#[test]
fn a_small_file_cannot_make_a_huge_graph() {
    // f0 is one node, each next function calls the one before twice: 2^40 nodes in 2 kB.
    let mut model = Model::new(vec![call("f40", &["x"], &["y"])], &["y"]);
    model = model.function(function(
        "f0",
        &["a"],
        &["b"],
        &[node("Abs", &["a"], &["b"])],
        &[],
    ));
    for i in 1..=40 {
        let callee = format!("f{}", i - 1);
        let body = [call(&callee, &["a"], &["b"]), call(&callee, &["b"], &["c"])];
        model = model.function(function(&format!("f{i}"), &["a"], &["c"], &body, &[]));
    }
    let text = error(&model);
    assert!(text.contains("nodes") || text.contains("work"), "{text}");
}

#[test]
fn nesting_ends() {
    let mut model = Model::new(vec![call("f99", &["x"], &["y"])], &["y"]);
    model = model.function(function(
        "f0",
        &["a"],
        &["b"],
        &[node("Abs", &["a"], &["b"])],
        &[],
    ));
    for i in 1..100 {
        let body = [call(&format!("f{}", i - 1), &["a"], &["b"])];
        model = model.function(function(&format!("f{i}"), &["a"], &["b"], &body, &[]));
    }
    assert!(error(&model).contains("too deeply"));
}

/// If(c) then Relu(x) else Neg(x)
fn choice(condition: &str) -> writer::Message {
    let then = writer::graph(&[node("Relu", &["x"], &["t"])], &[], &[], &["t"]);
    let other = writer::graph(
        &[node("Add", &["x", "k"], &["e"])],
        &[f32s("k", &[], &[1.0])],
        &[],
        &["e"],
    );
    let branches = [
        writer::branch("then_branch", &then),
        writer::branch("else_branch", &other),
    ];
    node("If", &[condition], &["y"]).with(&branches)
}

#[test]
fn a_constant_condition_chooses() {
    for (value, expected) in [(true, "Relu"), (false, "Add")] {
        let nodes = vec![node("Identity", &["c"], &["d"]), choice("d")];
        let model = Model::new(nodes, &["y"]).constant(bools("c", &[1], &[value]));
        let graph = graph(&model);
        assert_sound(&graph);
        assert_eq!(ops(&graph), [expected]);
        assert_eq!(graph.value(graph.outputs[0]).name, "y");
    }
}

#[test]
fn another_condition_is_refused() {
    let model = Model::new(vec![choice("c")], &["y"]).input(writer::value("c", 9, &[]));
    let text = error(&model);
    assert!(
        text.contains("If_0 (If)") && text.contains("condition"),
        "{text}"
    );
}

#[test]
fn a_branch_may_hand_out_what_is_outside() {
    let pass = writer::graph(&[], &[], &[], &["a"]);
    let branches = [
        writer::branch("then_branch", &pass),
        writer::branch("else_branch", &pass),
    ];
    // The If stands before the node that makes what its branches name.
    let nodes = vec![
        node("If", &["c"], &["y"]).with(&branches),
        node("Abs", &["x"], &["a"]),
    ];
    let graph = graph(&Model::new(nodes, &["y"]).constant(bools("c", &[], &[true])));
    assert_sound(&graph);
    assert_eq!(ops(&graph), ["Abs", "Identity"]);
    assert_eq!(graph.value(graph.outputs[0]).name, "y");
}
