//! The functions of gated compression, flat and staged.

use sluicegate::Tensor;
use sluicegate::graph::{Attention, Graph, Op, Reach};
use sluicegate::ops::interpret;

use crate::writer::{self, Message, Model, f32s, float, ints, node};
use crate::{assert_sound, error, floats, graph, operand, ops};

/// The weights of gate and mask heads for 4 channels.
fn heads(model: Model) -> Model {
    model
        .constant(f32s("gw", &[8, 1], &[0.5; 8]))
        .constant(f32s("gb", &[1], &[0.5]))
        .constant(f32s("aw", &[4, 2], &[0.5; 8]))
        .constant(f32s("ab", &[2], &[0.5; 2]))
        .constant(f32s("bw", &[2, 4], &[0.5; 8]))
        .constant(f32s("bb", &[4], &[0.5; 4]))
        .constant(f32s("m", &[1, 4], &[1.0, 0.0, 1.0, 0.0]))
        .constant(f32s("half", &[1, 4], &[0.5; 4]))
        .constant(f32s("w", &[2, 4, 1, 1], &[0.5; 8]))
}

fn layer(domain: &str, name: &str, operands: &[&str], results: &[&str]) -> Message {
    let attributes = [ints("axes", &[2, 3]), float("threshold", 0.25)];
    node(name, operands, results).of(domain).with(&attributes)
}

fn masks(graph: &Graph) -> Vec<usize> {
    let axis = |n: &sluicegate::graph::Node| match n.op {
        Op::Mask { axis } => Some(axis),
        _ => None,
    };
    graph.nodes.iter().filter_map(axis).collect()
}

fn gates(graph: &Graph) -> Vec<(f32, usize)> {
    let gate = |n: &sluicegate::graph::Node| match n.op {
        Op::Gate { threshold, index } => Some((threshold, index)),
        _ => None,
    };
    graph.nodes.iter().filter_map(gate).collect()
}

#[test]
fn a_static_layer() {
    for (domain, name) in [
        ("ai.sluicegate", "GcStatic"),
        ("gc", "GatedCompressionStatic"),
    ] {
        let node = layer(
            domain,
            name,
            &["x", "gw", "gb", "m"],
            &["y", "score", "stop", "mask"],
        );
        let graph = graph(&heads(Model::new(
            vec![node],
            &["y", "score", "stop", "mask"],
        )));
        assert_sound(&graph);
        assert_eq!(
            ops(&graph),
            [
                "ReduceMean",
                "ReduceMax",
                "Concat",
                "Gemm",
                "Sigmoid",
                "Less",
                "Gate",
                "Identity",
                "Mask"
            ]
        );
        assert_eq!(gates(&graph), [(0.25, 0)]);
        assert_eq!(masks(&graph), [1]);
        let mask = &graph.nodes[8];
        assert_eq!(floats(&graph, mask, 1), [1.0, 0.0, 1.0, 0.0]);
        let names: Vec<_> = (graph.outputs.iter())
            .map(|&o| graph.value(o).name.as_str())
            .collect();
        assert_eq!(names, ["y", "score", "stop", "mask"]);
    }
}

#[test]
fn chained_dynamic_layers() {
    let dynamic = ["aw", "ab", "bw", "bb"];
    let first = [&["x", "gw", "gb"][..], &dynamic].concat();
    let second = [&["a", "gw", "gb"][..], &dynamic, &["ma"]].concat();
    let nodes = vec![
        layer("ai.sluicegate", "GcDynamic", &first, &["a", "", "", "ma"]),
        layer(
            "ai.sluicegate",
            "GcDynamicChained",
            &second,
            &["y", "", "", "mb"],
        ),
    ];
    let graph = graph(&heads(Model::new(nodes, &["y"])));
    assert_sound(&graph);
    assert_eq!(gates(&graph), [(0.25, 0), (0.25, 1)]);
    assert_eq!(masks(&graph), [1, 1]);
    assert!(!ops(&graph).contains(&"Less"), "`stop` is not asked for");
    let last = graph.nodes.last().unwrap();
    let product = (graph.nodes.iter())
        .find(|n| n.outputs.contains(&last.inputs[1]))
        .unwrap();
    assert_eq!(product.op.name(), "Mul");
}

#[test]
fn channels_behind_tokens() {
    let axes = [ints("axes", &[-2])];
    let node = node("GcStatic", &["t", "gw", "gb", "m"], &["y"]);
    let node = node.of("ai.sluicegate").with(&axes);
    let model = Model::new(vec![node], &["y"]).input(writer::value("t", 1, &[-1, 7, 4]));
    let graph = graph(&heads(model));
    assert_eq!(masks(&graph), [2]);
    assert_eq!(gates(&graph), [(0.5, 0)], "0.5 is the default");
}

#[test]
fn a_mask_that_is_not_proven_stays_a_product() {
    let node = layer(
        "ai.sluicegate",
        "GcStatic",
        &["x", "gw", "gb", "half"],
        &["y"],
    );
    let graph = graph(&heads(Model::new(vec![node], &["y"])));
    assert!(masks(&graph).is_empty());
    assert_eq!(ops(&graph)[6..], ["Unsqueeze", "Mul"]);
}

#[test]
fn what_a_layer_refuses() {
    let results = ["y", "s"];
    for (node, says) in [
        (
            node("GcGate", &["x", "gw", "gb"], &results).of("ai.sluicegate"),
            "`axes` is missing",
        ),
        (
            node("GcGate", &["x", "gw", "gb"], &results)
                .of("ai.sluicegate")
                .with(&[ints("axes", &[0, 1])]),
            "`axes`",
        ),
        (
            node("GcGate", &["x", "gw", "gb"], &results)
                .of("ai.sluicegate")
                .with(&[ints("axes", &[2, 2])]),
            "`axes`",
        ),
        (
            node("GcGate", &["x", "gw"], &results)
                .of("ai.sluicegate")
                .with(&[ints("axes", &[2, 3])]),
            "operand 2 is missing",
        ),
        (
            node("GcNew", &["x"], &["y"]).of("ai.sluicegate"),
            "domain `ai.sluicegate`",
        ),
        (node("GcGate", &["x"], &["y"]).of("gc"), "domain `gc`"),
        (node("GcGate", &["x"], &["y"]), "GcGate"),
    ] {
        let text = error(&heads(Model::new(vec![node], &["y"])));
        assert!(text.contains(says), "{text}");
    }
}

/// A gate, and behind it an `If` whose else-branch masks, convolves and has a gate of its own.
fn staged() -> Model {
    let gate = |x: &str, score: &str, stop: &str| {
        layer("ai.sluicegate", "GcGate", &[x, "gw", "gb"], &[score, stop])
    };
    let zeros = |name: &str| {
        let zeros = f32s("", &[1, 2, 3, 3], &[0.0; 18]);
        let zeros = node("Constant", &[], &[name]).with(&[writer::tensor("value", &zeros)]);
        writer::graph(&[zeros], &[], &[], &[name])
    };
    let when = |stop: &str, result: &str, exit: &str, stay: &Message| {
        let branches = [
            writer::branch("then_branch", &zeros(exit)),
            writer::branch("else_branch", stay),
        ];
        node("If", &[stop], &[result]).with(&branches)
    };
    let pooled = [ints("axes", &[2, 3])];
    let inner = writer::graph(
        &[node("GcConvNoBias", &["x2", "mask"], &["out"])
            .of("ai.sluicegate")
            .with(&[])
            .text(1, "w")],
        &[],
        &[],
        &["out"],
    );
    let outer = writer::graph(
        &[
            node("GcMask", &["a", "aw", "ab", "bw", "bb"], &["mask"])
                .of("ai.sluicegate")
                .with(&pooled),
            node("Relu", &["a"], &["x2"]),
            gate("x2", "score1", "stop1"),
            node("Squeeze", &["stop1"], &["exit1"]),
            when("exit1", "inner", "none", &inner),
        ],
        &[],
        &[],
        &["inner"],
    );
    heads(Model::new(
        vec![
            node("Abs", &["x"], &["a"]),
            gate("a", "score0", "stop0"),
            node("Reshape", &["stop0", "scalar"], &["exit0"]),
            when("exit0", "y", "zero", &outer),
        ],
        &["y", "score0"],
    ))
    .constant(writer::i64s("scalar", &[0], &[]))
}

#[test]
fn the_staged_form_is_the_graph_behind_its_gates() {
    let graph = graph(&staged());
    assert_sound(&graph);
    assert_eq!(gates(&graph), [(0.25, 0), (0.25, 1)]);
    let ops = ops(&graph);
    let at = |name| ops.iter().position(|&o| o == name).unwrap();
    let last_gate = ops.iter().rposition(|&o| o == "Gate").unwrap();
    assert!(at("Gate") < at("Relu") && last_gate < at("Conv"), "{ops:?}");
    assert_eq!(masks(&graph), [1]);
    assert!(
        !ops.contains(&"Less") && !ops.contains(&"Reshape"),
        "{ops:?}"
    );
    // The average of `a` is shared by its gate and its mask head.
    assert_eq!(ops.iter().filter(|&&o| o == "ReduceMean").count(), 2);
    assert_eq!(graph.value(graph.outputs[0]).name, "y");
    let conv = graph.nodes.iter().find(|n| n.op.name() == "Conv").unwrap();
    assert_eq!(graph.value(operand(conv, 1)).name, "w");
}

#[test]
fn a_condition_may_say_go_on_instead_of_stop() {
    let stay = writer::graph(&[node("Relu", &["x"], &["t"])], &[], &[], &["t"]);
    let leave = writer::graph(&[node("Neg", &["x"], &["e"])], &[], &[], &["e"]);
    let branches = [
        writer::branch("then_branch", &stay),
        writer::branch("else_branch", &leave),
    ];
    let nodes = vec![
        layer(
            "ai.sluicegate",
            "GcGate",
            &["x", "gw", "gb"],
            &["score", "stop"],
        ),
        node("Not", &["stop"], &["on"]),
        node("If", &["on"], &["y"]).with(&branches),
    ];
    let graph = graph(&heads(Model::new(nodes, &["y"])));
    assert!(ops(&graph).contains(&"Relu") && !ops(&graph).contains(&"Neg"));
}

#[test]
fn masked_matrix_products() {
    let node = node("GcMatMul", &["t", "m", "b"], &["y"]).of("ai.sluicegate");
    let model = Model::new(vec![node], &["y"]).input(writer::value("t", 1, &[-1, 7, 4]));
    let graph = graph(&heads(model).constant(f32s("b", &[4, 2], &[0.5; 8])));
    assert_eq!(ops(&graph), ["Mask", "MatMul"]);
    assert_eq!(masks(&graph), [2]);
}

/// Attention of two heads that share one of keys, three tokens, heads of width 2.
fn attention(operands: &[&str], more: &[Message]) -> Model {
    let attributes = [writer::int("heads", 2), writer::int("kv_heads", 1)];
    let call = node("GcAttention", operands, &["y"]).of("ai.sluicegate");
    let call = call.with(&attributes).with(more);
    let model = Model::new(vec![call], &["y"])
        .input(writer::value("q", 1, &[-1, 3, 4]))
        .input(writer::value("k", 1, &[-1, 3, 2]))
        .input(writer::value("v", 1, &[-1, 3, 2]))
        .input(writer::value("dh", 9, &[-1, 2]));
    model
        .constant(f32s("hm", &[1, 2], &[1.0, 0.0]))
        .constant(f32s("tm", &[1, 3], &[1.0, 0.0, 1.0]))
        .constant(f32s("all", &[1, 2], &[1.0, 1.0]))
}

fn of(graph: &Graph) -> (Attention, Vec<Option<String>>) {
    let found = graph.nodes.iter().find_map(|n| match n.op {
        Op::Attention(of) => Some((of, n)),
        _ => None,
    });
    let (of, node) = found.expect("an attention");
    let name = |id: &Option<sluicegate::graph::ValueId>| id.map(|id| graph.value(id).name.clone());
    (of, node.inputs.iter().map(name).collect())
}

#[test]
fn attention_of_live_heads_among_live_tokens() {
    let causal = [writer::int("causal", 1), float("scale", 0.5)];
    let graph = graph(&attention(&["q", "k", "v", "hm", "tm"], &causal));
    assert_sound(&graph);
    assert_eq!(
        ops(&graph),
        ["Attention", "Mask", "Reshape", "Mask", "Reshape"]
    );
    assert_eq!(masks(&graph), [1, 2]);
    let (of, operands) = of(&graph);
    assert_eq!((of.heads, of.scale), (Some((2, 1)), Some(0.5)));
    assert_eq!(of.reach, Reach::CAUSAL);
    let name = |name: &str| Some(name.to_string());
    let expected = [name("q"), name("k"), name("v"), None, None, name("tm")];
    assert_eq!(operands, expected);

    // What dead tokens hold does not show, and neither do dead heads.
    let dims = [[2, 3, 4], [2, 3, 2], [2, 3, 2]];
    let clean = dims.map(|d| {
        Tensor::new(
            &d,
            (0..d.iter().product()).map(|i| i as f32 / 8.0).collect(),
        )
        .unwrap()
    });
    let mut poisoned = clean.clone();
    for t in &mut poisoned {
        let width = t.shape()[2];
        let mut view = t.view_mut();
        let x = view.as_slice::<f32>().unwrap();
        x[width..2 * width].fill(f32::NAN);
        x[4 * width..5 * width].fill(f32::NAN);
    }
    let x = Tensor::zeros(
        sluicegate::DType::F32,
        sluicegate::Shape::new(&[2, 4, 3, 3]).unwrap(),
    );
    let heads = Tensor::from_bools(&[2, 2], &[true; 4]).unwrap();
    let run = |t: &[Tensor; 3]| {
        let views = [&x, &t[0], &t[1], &t[2], &heads].map(Tensor::view);
        interpret(&graph, &views, 1 << 20).unwrap().remove(0)
    };
    let y = run(&clean);
    assert_eq!(run(&poisoned), y);
    for (i, y) in y.as_slice::<f32>().unwrap().iter().enumerate() {
        let (token, head) = (i / 4 % 3, i % 4 / 2);
        assert_eq!(*y == 0.0, (token == 1 || head == 1) || i < 1, "{i}");
    }
}

#[test]
fn masks_of_attention_that_are_not_there() {
    let plain = graph(&attention(&["q", "k", "v"], &[]));
    assert_eq!(ops(&plain), ["Attention"]);
    assert_eq!(of(&plain).1.len(), 3);
    assert_eq!(
        ops(&graph(&attention(&["q", "k", "v", "all"], &[]))),
        ["Attention"]
    );
    let tokens = graph(&attention(&["q", "k", "v", "all", "tm"], &[]));
    assert_eq!(ops(&tokens), ["Attention", "Mask"]);
    let heads = graph(&attention(&["q", "k", "v", "hm"], &[]));
    assert_eq!(ops(&heads), ["Attention", "Reshape", "Mask", "Reshape"]);
    assert_eq!(heads.value(heads.outputs[0]).name, "y");
    let call = node("GcAttention", &["q", "k", "v"], &["y"]).of("ai.sluicegate");
    let mut bare = attention(&["q", "k", "v"], &[]);
    bare.nodes = vec![call];
    assert!(error(&bare).contains("`heads` is missing"));
}
