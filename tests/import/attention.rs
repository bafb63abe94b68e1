//! Attention, rotary embeddings and the norms and activations of transformers, in the standard's and in onnxruntime's forms.

use sluicegate::graph::{Attention, Graph, Op, Reach, Rotary, Scores, Unary};
use sluicegate::ops::interpret;
use sluicegate::{DType, Tensor};

use crate::writer::{self, Message, Model, f32s, float, int, node};
use crate::{assert_sound, error, graph, ops};

const F32: i64 = 1;
const I32: i64 = 6;
const I64: i64 = 7;

/// A model of one node from the named inputs, at version 24.
fn one(node: Message, inputs: &[(&str, i64, &[i64])], outputs: &[&'static str]) -> Model {
    let mut model = Model::new(vec![node], outputs).version(24);
    model.inputs = (inputs.iter())
        .map(|(name, kind, dims)| writer::value(name, *kind, dims))
        .collect();
    model
}

fn read(model: &Model) -> Graph {
    let graph = graph(model);
    assert_sound(&graph);
    graph
}

fn attention(graph: &Graph) -> Attention {
    let of = |n: &sluicegate::graph::Node| match n.op {
        Op::Attention(of) => Some(of),
        _ => None,
    };
    graph.nodes.iter().find_map(of).expect("an attention")
}

/// Numbers that repeat late.
fn wave(dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let at = |i: usize| (((i + seed) * 37) % 101) as f32 / 50.0 - 1.0;
    Tensor::new(dims, (0..n).map(at).collect()).expect("small")
}

fn run(graph: &Graph, inputs: &[&Tensor]) -> Vec<Tensor> {
    let views: Vec<_> = inputs.iter().map(|t| t.view()).collect();
    interpret(graph, &views, 1 << 24).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
    assert!(
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5),
        "{a:?} is not {b:?}"
    );
}

const QKV: [(&str, i64, &[i64]); 3] = [
    ("q", F32, &[2, 3, 8]),
    ("k", F32, &[2, 5, 4]),
    ("v", F32, &[2, 5, 6]),
];

#[test]
fn attributes_of_attention() {
    let attributes = [
        int("q_num_heads", 4),
        int("kv_num_heads", 2),
        int("is_causal", 1),
        float("scale", 0.5),
        float("softcap", 2.0),
        int("qk_matmul_output_mode", 3),
        int("softmax_precision", 1),
    ];
    let call = node("Attention", &["q", "k", "v"], &["y", "", "", "s"]).with(&attributes);
    let graph = read(&one(call, &QKV, &["y", "s"]));
    assert_eq!(ops(&graph), ["Attention"]);
    let expected = Attention {
        heads: Some((4, 2)),
        reach: Reach::CAUSAL,
        scale: Some(0.5),
        softcap: 2.0,
        scores: Scores::Probabilities,
    };
    assert_eq!(attention(&graph), expected);
    let window = [int("left_window_size", 3), int("right_window_size", 1)];
    let call = node("Attention", &["q", "k", "v"], &["y"]).with(&window);
    let graph = read(&one(call, &QKV, &["y"]).version(25));
    let reach = Reach {
        before: Some(3),
        after: Some(1),
    };
    assert_eq!(attention(&graph).reach, reach);
}

#[test]
fn the_past_is_put_in_front() {
    let heads = [
        int("q_num_heads", 4),
        int("kv_num_heads", 2),
        int("is_causal", 1),
    ];
    let inputs = ["q", "k", "v", "", "pk", "pv"];
    let call = node("Attention", &inputs, &["y", "nk", "nv"]).with(&heads);
    let past: [(&str, i64, &[i64]); 2] = [("pk", F32, &[2, 2, 4, 2]), ("pv", F32, &[2, 2, 4, 3])];
    let inputs = [&QKV[..], &past].concat();
    let with_past = read(&one(call, &inputs, &["y", "nk", "nv"]));
    let whole = [int("q_num_heads", 4), int("kv_num_heads", 2)];
    let call = node("Attention", &["q", "k", "v", "m"], &["y", "nk", "nv"]).with(&whole);
    let all: [(&str, i64, &[i64]); 4] = [
        ("q", F32, &[2, 3, 8]),
        ("k", F32, &[2, 9, 4]),
        ("v", F32, &[2, 9, 6]),
        ("m", 9, &[3, 9]),
    ];
    let without = read(&one(call, &all, &["y", "nk", "nv"]));

    // The last five of nine keys are new.
    let (q, k, v) = (
        wave(&[2, 3, 8], 1),
        wave(&[2, 9, 4], 2),
        wave(&[2, 9, 6], 3),
    );
    let seen: Vec<bool> = (0..27).map(|i| i % 9 <= i / 9 + 4).collect();
    let mask = Tensor::from_bools(&[3, 9], &seen).expect("a mask");
    let expected = run(&without, &[&q, &k, &v, &mask]);
    let rows = |t: &Tensor, from: usize, to: usize| {
        let (s, x) = (t.shape(), t.as_slice::<f32>().unwrap());
        let part = |n: usize| &x[(n * s[1] + from) * s[2]..(n * s[1] + to) * s[2]];
        Tensor::new(&[2, to - from, s[2]], [part(0), part(1)].concat()).unwrap()
    };
    let apart = |t: &Tensor, width: usize| {
        let tokens = t.shape()[1];
        let x = t.as_slice::<f32>().unwrap();
        let at = |i: usize| {
            let (d, j, h, n) = (
                i % width,
                i / width % tokens,
                i / width / tokens % 2,
                i / width / tokens / 2,
            );
            x[(n * tokens + j) * 2 * width + h * width + d]
        };
        Tensor::new(&[2, 2, tokens, width], (0..x.len()).map(at).collect()).unwrap()
    };
    let (pk, pv) = (apart(&rows(&k, 0, 4), 2), apart(&rows(&v, 0, 4), 3));
    let found = run(
        &with_past,
        &[&q, &rows(&k, 4, 9), &rows(&v, 4, 9), &pk, &pv],
    );
    for (found, expected) in found.iter().zip(&expected) {
        close(found, expected);
    }
    assert_eq!(found[1], apart(&k, 2));
}

#[test]
fn what_attention_refuses() {
    let refused = |inputs: &[&str], outputs: &[&str], attributes: &[Message], says: &str| {
        let call = node("Attention", inputs, outputs).with(attributes);
        let text = error(&one(call, &QKV, &["y"]));
        assert!(
            text.contains("Attention_0") && text.contains(says),
            "{text}"
        );
    };
    let qkv = ["q", "k", "v"];
    refused(&["q", "k"], &["y"], &[], "operand 2 is missing");
    refused(&qkv, &["y"], &[int("q_num_heads", 2)], "must come together");
    let heads = |n| [int("q_num_heads", n), int("kv_num_heads", 1)];
    refused(&qkv, &["y"], &heads(0), "`q_num_heads` is 0");
    refused(&qkv, &["y"], &heads(i64::MAX), "`q_num_heads`");
    refused(&qkv, &["y"], &[int("qk_matmul_output_mode", 4)], "is 4");
    refused(
        &qkv,
        &["y"],
        &[int("softmax_precision", 7)],
        "type of floats",
    );
    refused(
        &qkv,
        &["y"],
        &[int("left_window_size", 1)],
        "`left_window_size`",
    );
    refused(&["q", "k", "v", "", "k"], &["y"], &[], "must come together");
    refused(
        &["q", "k", "v", "", "k", "v", "q"],
        &["y"],
        &[],
        "exclude each other",
    );
    let call = node("Attention", &qkv, &["y"]);
    assert!(error(&one(call, &QKV, &["y"]).version(22)).contains("begins with 23"));
}

#[test]
fn rotary_embeddings_of_both_domains() {
    let inputs: [(&str, i64, &[i64]); 4] = [
        ("x", F32, &[2, 3, 8]),
        ("cos", F32, &[9, 2]),
        ("sin", F32, &[9, 2]),
        ("at", I64, &[2, 3]),
    ];
    let attributes = [int("num_heads", 2), int("interleaved", 1)];
    let standard = node("RotaryEmbedding", &["x", "cos", "sin", "at"], &["y"]).with(&attributes);
    let other = node("RotaryEmbedding", &["x", "at", "cos", "sin"], &["y"]).with(&attributes);
    let graphs = [standard, other.of("com.microsoft")].map(|n| read(&one(n, &inputs, &["y"])));
    for graph in &graphs {
        let of = Rotary {
            heads: Some(2),
            dims: None,
            interleaved: true,
        };
        assert_eq!(graph.nodes[0].op, Op::RotaryEmbedding(of));
        let order = graph.nodes[0].inputs.iter().flatten();
        let names: Vec<_> = order.map(|&id| graph.value(id).name.as_str()).collect();
        assert_eq!(names, ["x", "cos", "sin", "at"]);
    }
    let bad = node("RotaryEmbedding", &["x", "at", "cos", "sin"], &["y"]).of("com.microsoft");
    assert!(error(&one(bad, &inputs, &["y"])).contains("`num_heads` = 0"));
}

#[test]
fn norms_with_what_is_skipped() {
    let model = |op: &str, inputs: &[&str], outputs: &[&'static str]| {
        let call = node(op, inputs, outputs).of("com.microsoft");
        let named: Vec<_> = outputs.iter().copied().filter(|o| !o.is_empty()).collect();
        let x: [(&str, i64, &[i64]); 2] = [("x", F32, &[2, 3, 4]), ("s", F32, &[2, 3, 4])];
        read(&one(call, &x, &named).constant(f32s("g", &[4], &[2.0; 4])))
    };
    let all = ["x", "s", "g", "g", "g"];
    let graph = model("SkipLayerNormalization", &all, &["y", "", "", "sum"]);
    assert_eq!(ops(&graph), ["Add", "Add", "LayerNormalization"]);
    let Op::LayerNorm { axis: -1, epsilon } = graph.nodes[2].op else {
        panic!("{:?}", graph.nodes[2].op);
    };
    assert_eq!(epsilon, 1e-12);
    let (x, s) = (wave(&[2, 3, 4], 1), wave(&[2, 3, 4], 9));
    let results = run(&graph, &[&x, &s]);
    let sum = x
        .as_slice::<f32>()
        .unwrap()
        .iter()
        .zip(s.as_slice::<f32>().unwrap());
    let sum: Vec<f32> = sum.map(|(a, b)| a + b + 2.0).collect();
    close(&results[1], &Tensor::new(&[2, 3, 4], sum).unwrap());

    let graph = model("SkipLayerNormalization", &all[..3], &["y"]);
    assert_eq!(ops(&graph), ["Add", "LayerNormalization"]);
    let graph = model("SkipSimplifiedLayerNormalization", &all[..4], &["y"]);
    assert_eq!(ops(&graph), ["Add", "Add", "RMSNormalization"]);
    let graph = model("SimplifiedLayerNormalization", &["x", "g"], &["y"]);
    assert_eq!(ops(&graph), ["RMSNormalization"]);
    let call = node("SimplifiedLayerNormalization", &["x", "g"], &["y"]);
    let standard = Model::new(vec![call], &["y"]).constant(f32s("g", &[3], &[2.0; 3]));
    assert_eq!(ops(&graph_of(&standard)), ["RMSNormalization"]);
    let call = node("SkipLayerNormalization", &["x", "x", "x"], &["y", "m"]).of("com.microsoft");
    assert!(error(&Model::new(vec![call], &["y", "m"])).contains("training"));
}

fn graph_of(model: &Model) -> Graph {
    read(model)
}

#[test]
fn activations_of_onnxruntime() {
    let model = |op: &str, inputs: &[&str]| {
        let call = node(op, inputs, &["y"]).of("com.microsoft");
        let graph = read(&Model::new(vec![call], &["y"]).constant(f32s("b", &[3], &[2.0; 3])));
        (ops(&graph), graph.nodes.last().unwrap().op.clone())
    };
    let gelu = |tanh| Op::Unary(Unary::Gelu { tanh });
    assert_eq!(model("Gelu", &["x"]), (vec!["Gelu"], gelu(false)));
    assert_eq!(
        model("BiasGelu", &["x", "b"]),
        (vec!["Add", "Gelu"], gelu(false))
    );
    assert_eq!(model("FastGelu", &["x"]), (vec!["Gelu"], gelu(true)));
    assert_eq!(
        model("FastGelu", &["x", "b"]),
        (vec!["Add", "Gelu"], gelu(true))
    );
    let quick = Op::Unary(Unary::Silu { alpha: 1.702 });
    assert_eq!(model("QuickGelu", &["x"]), (vec!["Swish"], quick));
    let call = node("NhwcConv", &["x"], &["y"]).of("com.microsoft");
    assert!(error(&Model::new(vec![call], &["y"])).contains("NhwcConv"));
}

#[test]
fn attention_of_onnxruntime() {
    let inputs: [(&str, i64, &[i64]); 5] = [
        ("q", F32, &[2, 3, 4]),
        ("k", F32, &[2, 5, 4]),
        ("v", F32, &[2, 5, 4]),
        ("keys", I32, &[2, 5]),
        ("bias", F32, &[1, 1, 3, 5]),
    ];
    let attributes = [int("num_heads", 2)];
    let operands = ["q", "k", "v", "b", "keys", "bias"];
    let call = node("MultiHeadAttention", &operands, &["y"])
        .of("com.microsoft")
        .with(&attributes);
    let b = f32s(
        "b",
        &[12],
        &[
            0.5, 0.25, -0.5, 1.0, 0.0, 1.0, 2.0, 0.5, -1.0, 0.5, 0.25, 0.0,
        ],
    );
    let found = read(&one(call, &inputs, &["y"]).constant(b));
    assert_eq!(attention(&found).heads, Some((2, 2)));

    let heads = [int("q_num_heads", 2), int("kv_num_heads", 2)];
    let call = node("Attention", &["q", "k", "v", "m"], &["y"]).with(&heads);
    let mask = ("m", F32, &[2, 1, 3, 5][..]);
    let standard = read(&one(call, &[inputs[0], inputs[1], inputs[2], mask], &["y"]));
    let (q, k, v) = (
        wave(&[2, 3, 4], 1),
        wave(&[2, 5, 4], 2),
        wave(&[2, 5, 4], 3),
    );
    let seen = [1, 1, 0, 1, 1, 0, 1, 1, 1, 0];
    let keys = Tensor::new(&[2, 5], seen.to_vec()).unwrap();
    assert_eq!(keys.dtype(), DType::I32);
    let bias = wave(&[1, 1, 3, 5], 4);
    let sum = (0..30).map(|i| {
        let masked = if seen[i / 15 * 5 + i % 5] == 0 {
            -10000.0
        } else {
            0.0
        };
        masked + bias.as_slice::<f32>().unwrap()[i % 15]
    });
    let sum = Tensor::new(&[2, 1, 3, 5], sum.collect()).unwrap();
    let plus = |t: &Tensor, b: [f32; 4]| {
        let x = t.as_slice::<f32>().unwrap().iter().enumerate();
        Tensor::new(&t.shape(), x.map(|(i, x)| x + b[i % 4]).collect()).unwrap()
    };
    let expected = run(
        &standard,
        &[
            &plus(&q, [0.5, 0.25, -0.5, 1.0]),
            &plus(&k, [0.0, 1.0, 2.0, 0.5]),
            &plus(&v, [-1.0, 0.5, 0.25, 0.0]),
            &sum,
        ],
    );
    close(&run(&found, &[&q, &k, &v, &keys, &bias])[0], &expected[0]);
}

#[test]
fn products_of_onnxruntime() {
    let inputs: [(&str, i64, &[i64]); 2] = [("x", F32, &[2, 3, 4]), ("z", F32, &[2, 3, 5])];
    let model = |attributes: &[Message]| {
        let call = node("FusedMatMul", &["x", "z"], &["y"]).of("com.microsoft");
        one(call.with(attributes), &inputs, &["y"])
    };
    let graph = read(&model(&[int("transA", 1), float("alpha", 0.5)]));
    assert_eq!(ops(&graph), ["Transpose", "MatMul", "Mul"]);
    assert_eq!(
        *run(&graph, &[&wave(&[2, 3, 4], 1), &wave(&[2, 3, 5], 2)])[0].shape(),
        [2, 4, 5]
    );
    assert_eq!(ops(&read(&model(&[]))), ["MatMul"]);
    assert!(error(&model(&[int("transBatchA", 1)])).contains("transposed batches"));
    // What is computed has a shape only where the file says so.
    let nodes = vec![
        node("Abs", &["x"], &["a"]),
        node("FusedMatMul", &["a", "x"], &["y"])
            .of("com.microsoft")
            .with(&[int("transB", 1)]),
    ];
    assert_eq!(
        ops(&graph_of(&Model::new(nodes, &["y"])))[1..],
        ["Transpose", "MatMul"]
    );
    let nodes = vec![
        node("Abs", &["x"], &["a"]),
        node("FusedMatMul", &["x", "a"], &["y"])
            .of("com.microsoft")
            .with(&[int("transB", 1)]),
    ];
    assert!(error(&Model::new(nodes, &["y"])).contains("declared shape"));
}

#[test]
fn attention_of_packed_weights() {
    let attributes = [int("num_heads", 2), int("unidirectional", 1)];
    let call = node("Attention", &["x", "w", "b"], &["y"])
        .of("com.microsoft")
        .with(&attributes);
    let x: [(&str, i64, &[i64]); 1] = [("x", F32, &[2, 3, 4])];
    let model = one(call, &x, &["y"]);
    let model = model
        .constant(f32s("w", &[4, 12], &[0.5; 48]))
        .constant(f32s("b", &[12], &[0.5; 12]));
    let graph = read(&model);
    assert_eq!(ops(&graph), ["MatMul", "Add", "Split", "Attention"]);
    assert_eq!(attention(&graph).reach, Reach::CAUSAL);
    assert_eq!(*run(&graph, &[&wave(&[2, 3, 4], 1)])[0].shape(), [2, 3, 4]);
    let refused = |inputs: &[&str], attributes: &[Message], says: &str| {
        let call = node("Attention", inputs, &["y"])
            .of("com.microsoft")
            .with(attributes);
        let text = error(&one(call, &x, &["y"]).constant(f32s("w", &[4, 12], &[0.5; 48])));
        assert!(text.contains(says), "{text}");
    };
    refused(&["x", "w"], &[], "`num_heads` is missing");
    refused(
        &["x", "w", "", "", "w"],
        &attributes,
        "a past in one tensor",
    );
    let attributes = [int("num_heads", 2), int("do_rotary", 1)];
    refused(&["x", "w"], &attributes, "RotaryEmbedding apart");
}

#[test]
fn numbers_of_elements_and_their_remainders() {
    let nodes = vec![
        node("Size", &["x"], &["n"]),
        node("Mod", &["n", "by"], &["m"]),
        node("Range", &["zero", "m", "two"], &["r"]),
        node("CastLike", &["r", "x"], &["y"]),
    ];
    let model = Model::new(nodes, &["y"])
        .constant(writer::i64s("by", &[], &[-10]))
        .constant(writer::i64s("zero", &[], &[0]))
        .constant(writer::i64s("two", &[], &[-2]));
    let graph = read(&model);
    // 36 modulo -10 is -4.
    let y = run(&graph, &[&wave(&[1, 4, 3, 3], 0)]);
    assert_eq!(y[0], Tensor::new(&[2], vec![0f32, -2.]).unwrap());
    let fmod = node("Mod", &["x", "x"], &["y"]).with(&[int("fmod", 1)]);
    assert!(error(&Model::new(vec![fmod], &["y"])).contains("Floor"));
}
