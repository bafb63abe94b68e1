//! Names and order: who makes what, who reads it, what is left over.

use sluicegate::graph::Dim;

use crate::writer::{Message, Model, f32s, node, value};
use crate::{assert_sound, error, graph, ops};

#[test]
fn unsorted_nodes_are_sorted_and_sorted_ones_stay() {
    let nodes = vec![
        node("Exp", &["b"], &["y"]),
        node("Neg", &["a"], &["b"]),
        node("Abs", &["x"], &["a"]),
    ];
    let graph = graph(&Model::new(nodes, &["y"]));
    assert_sound(&graph);
    assert_eq!(ops(&graph), ["Abs", "Neg", "Exp"]);
}

#[test]
fn a_cycle_names_a_node_on_it() {
    let nodes = vec![
        node("Relu", &["c"], &["y"]).named("behind"),
        node("Add", &["x", "c"], &["b"]).named("first"),
        node("Abs", &["b"], &["c"]).named("second"),
    ];
    let text = error(&Model::new(nodes, &["y"]));
    assert!(text.contains("cycle"), "{text}");
    assert!(text.contains("first") || text.contains("second"), "{text}");
    let own = node("Abs", &["y"], &["y"]).named("own");
    assert!(error(&Model::new(vec![own], &["y"])).contains("own"));
}

#[test]
fn names_must_be_made_once() {
    let text = error(&Model::new(
        vec![node("Relu", &["nobody"], &["y"]).named("r")],
        &["y"],
    ));
    assert!(
        text.contains("r (Relu)") && text.contains("`nobody`"),
        "{text}"
    );
    assert!(error(&Model::new(vec![], &["y"])).contains("`y`"));
    let twice = vec![node("Relu", &["x"], &["y"]), node("Abs", &["x"], &["y"])];
    assert!(error(&Model::new(twice, &["y"])).contains("`y`"));
    let input = vec![node("Relu", &["x"], &["x"])];
    assert!(error(&Model::new(input, &["x"])).contains("`x`"));
    let constants = Model::new(vec![], &["c"]);
    let constants = constants.constant(f32s("c", &[], &[1.0]));
    assert!(error(&constants.constant(f32s("c", &[], &[1.0]))).contains("`c`"));
    let twice = Model::new(vec![], &["x", "x"]);
    assert!(error(&twice).contains("two outputs"));
}

#[test]
fn outputs_may_be_inputs_or_constants() {
    let model = Model::new(vec![], &["x", "c"]).constant(f32s("c", &[1], &[1.0]));
    let graph = graph(&model);
    assert!(graph.nodes.is_empty());
    assert_eq!(graph.outputs[0], graph.inputs[0]);
    assert!(graph.value(graph.outputs[1]).constant.is_some());
}

#[test]
fn an_initializer_that_is_also_an_input_is_a_constant() {
    let model = Model::new(vec![node("Add", &["x", "c"], &["y"])], &["y"]);
    let model = model.input(value("c", 1, &[1]));
    let graph = graph(&model.constant(f32s("c", &[1], &[1.0])));
    assert_eq!(graph.inputs.len(), 1);
    let dims = graph.value(graph.inputs[0]).dims.clone().unwrap();
    assert_eq!(dims[..2], [Dim::Symbol("N".into()), Dim::Fixed(4)]);
}

#[test]
fn what_nobody_reads_is_dropped() {
    let nodes = vec![
        node("Relu", &["x"], &["y"]),
        node("Abs", &["x"], &["dead"]),
        node("Add", &["dead", "c"], &["deader"]),
    ];
    let graph = graph(&Model::new(nodes, &["y"]).constant(f32s("c", &[], &[1.0])));
    assert_eq!(ops(&graph), ["Relu"]);
    assert_eq!(graph.values.len(), 2);
}

#[test]
fn inputs_of_other_kinds_are_refused() {
    let half = Model::new(vec![], &["x"]).input(value("h", 10, &[1]));
    let text = error(&half);
    assert!(text.contains("`h`") && text.contains("f16"), "{text}");
    let sequence = Message::default().message(4, &Message::default());
    let sequence = Message::default().text(1, "s").message(2, &sequence);
    assert!(error(&Model::new(vec![], &["x"]).input(sequence)).contains("sequence"));
    let deep = Model::new(vec![], &["x"]).input(value("d", 1, &[1; 9]));
    assert!(error(&deep).contains("8 axes"));
}

#[test]
fn damage_is_told_with_its_place() {
    let bytes = Model::new(vec![node("Relu", &["x"], &["y"])], &["y"]).bytes();
    let cut = sluicegate::import::from_bytes(&bytes[..bytes.len() - 3], None);
    assert!(cut.unwrap_err().to_string().contains("at byte"));
    let nothing = sluicegate::import::from_bytes(&[], None).unwrap_err();
    assert!(nothing.to_string().contains("no graph"));
    let missing = sluicegate::import::from_file("no/such/file.onnx").unwrap_err();
    assert!(missing.to_string().contains("file.onnx"));
}
