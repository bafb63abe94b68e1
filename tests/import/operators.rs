//! Standard operators at all versions: attributes that became operands are operands, what is unknown is refused.

use sluicegate::DType;
use sluicegate::graph::{Binary, Op, PadMode, Padding, Reduction, Unary, Window};

use crate::writer::{self, Message, Model, f32s, float, i64s, int, node, text};
use crate::{assert_sound, error, floats, graph, ints, ops};

/// The graph of one node from `x` to `y`.
fn one(version: i64, node: Message) -> sluicegate::graph::Graph {
    let graph = graph(&Model::new(vec![node], &["y"]).version(version));
    assert_sound(&graph);
    graph
}

/// The node of an operator from `x` to `y` with attributes.
fn unary(op: &str, attributes: &[Message]) -> Message {
    node(op, &["x"], &["y"]).with(attributes)
}

#[test]
fn axes_that_were_attributes_are_operands() {
    for (version, op) in [
        (7, "Squeeze"),
        (11, "Unsqueeze"),
        (11, "ReduceSum"),
        (17, "ReduceMean"),
        (17, "ReduceMax"),
    ] {
        let graph = one(version, unary(op, &[writer::ints("axes", &[1, 2])]));
        assert_eq!(ops(&graph), [op]);
        assert_eq!(ints(&graph, &graph.nodes[0], 1), [1, 2]);
    }
    let all = one(17, unary("ReduceMean", &[int("keepdims", 0)]));
    assert_eq!(all.nodes[0].inputs.len(), 1);
    assert_eq!(
        all.nodes[0].op,
        Op::Reduce {
            kind: Reduction::Mean,
            keep_dims: false,
            noop_with_empty_axes: false
        }
    );
    // At a version where axes are an operand, the attribute is unknown.
    let late = Model::new(
        vec![unary("ReduceSum", &[writer::ints("axes", &[1])])],
        &["y"],
    );
    let text = error(&late);
    assert!(
        text.contains("ReduceSum_0") && text.contains("`axes`"),
        "{text}"
    );
}

#[test]
fn bounds_and_pads_that_were_attributes_are_operands() {
    let clip = one(6 + 1, unary("Clip", &[float("max", 6.0)]));
    assert_eq!(clip.nodes[0].inputs[1], None);
    assert_eq!(floats(&clip, &clip.nodes[0], 2), [6.0]);

    let pads = [0, 0, 1, 1, 0, 0, 1, 1];
    let attributes = [
        writer::ints("pads", &pads),
        text("mode", "edge"),
        float("value", 2.0),
    ];
    let pad = one(10, unary("Pad", &attributes));
    assert_eq!(
        pad.nodes[0].op,
        Op::Pad {
            mode: PadMode::Edge
        }
    );
    assert_eq!(ints(&pad, &pad.nodes[0], 1), pads);
    assert_eq!(floats(&pad, &pad.nodes[0], 2), [2.0]);

    let attributes = [
        writer::ints("starts", &[0]),
        writer::ints("ends", &[2]),
        writer::ints("axes", &[1]),
    ];
    let slice = one(9, unary("Slice", &attributes));
    assert_eq!(slice.nodes[0].op, Op::Slice);
    let lists = [1, 2, 3].map(|i| ints(&slice, &slice.nodes[0], i));
    assert_eq!(lists, [[0], [2], [1]]);

    let split = node("Split", &["x"], &["y", "z"]).with(&[writer::ints("split", &[1, 3])]);
    let split = graph(&Model::new(vec![split], &["y", "z"]).version(11));
    assert_eq!(split.nodes[0].op, Op::Split { axis: 0 });
    assert_eq!(ints(&split, &split.nodes[0], 1), [1, 3]);
}

#[test]
fn softmax_flattens_before_version_13() {
    let at = |version| one(version, unary("Softmax", &[])).nodes[0].op.clone();
    assert_eq!(
        at(12),
        Op::Softmax {
            axis: 1,
            flatten: true
        }
    );
    assert_eq!(
        at(13),
        Op::Softmax {
            axis: -1,
            flatten: false
        }
    );
    let log = one(11, unary("LogSoftmax", &[int("axis", 2)]));
    assert_eq!(
        log.nodes[0].op,
        Op::LogSoftmax {
            axis: 2,
            flatten: true
        }
    );
}

#[test]
fn operators_of_many_operands_become_chains() {
    let model = |op, operands: &[&str]| {
        let model = Model::new(vec![node(op, operands, &["y"])], &["y"]);
        graph(&model.constant(f32s("c", &[1], &[2.0])))
    };
    assert_eq!(ops(&model("Sum", &["x"])), ["Identity"]);
    assert_eq!(ops(&model("Max", &["x", "c"])), ["Max"]);
    let sum = model("Sum", &["x", "c", "x", "c"]);
    assert_sound(&sum);
    assert_eq!(ops(&sum), ["Add", "Add", "Add"]);
    let mean = model("Mean", &["x", "c", "x"]);
    assert_eq!(ops(&mean), ["Add", "Add", "Div"]);
    assert_eq!(floats(&mean, &mean.nodes[2], 1), [3.0]);
}

#[test]
fn dropout_is_a_copy_and_its_mask_is_all_true() {
    assert_eq!(
        ops(&one(7, unary("Dropout", &[float("ratio", 0.5)]))),
        ["Identity"]
    );
    let both = node("Dropout", &["x"], &["y", "mask"]);
    let both = graph(&Model::new(vec![both], &["y", "mask"]));
    assert_eq!(ops(&both), ["Identity", "Shape", "Expand"]);
    let train = Model::new(vec![node("Dropout", &["x", "", "t"], &["y"])], &["y"]);
    let train = train.constant(writer::bools("t", &[], &[true]));
    assert!(error(&train).contains("training"));
}

#[test]
fn constants_in_every_form() {
    let forms = [
        writer::tensor("value", &i64s("", &[2], &[3, 4])),
        float("value_float", 1.5),
        writer::floats("value_floats", &[1.5, 2.5]),
        int("value_int", -7),
        writer::ints("value_ints", &[3, 4]),
    ];
    let nodes = forms.iter().enumerate().map(|(i, form)| {
        let name = ["a", "b", "c", "d", "e"][i];
        node("Constant", &[], &[name]).with(std::slice::from_ref(form))
    });
    let graph = graph(&Model::new(nodes.collect(), &["a", "b", "c", "d", "e"]));
    assert!(graph.nodes.is_empty());
    let kinds: Vec<_> = (graph.outputs.iter())
        .map(|&o| {
            let constant = graph.value(o).constant.as_ref().unwrap();
            (constant.dtype(), constant.shape().to_vec())
        })
        .collect();
    assert_eq!(
        kinds,
        [
            (DType::I64, vec![2]),
            (DType::F32, vec![]),
            (DType::F32, vec![2]),
            (DType::I64, vec![]),
            (DType::I64, vec![2])
        ]
    );
    let words = node("Constant", &[], &["y"]).with(&[text("value_string", "no")]);
    assert!(error(&Model::new(vec![words], &["y"])).contains("value_string"));
}

#[test]
fn windows() {
    let attributes = [
        writer::ints("kernel_shape", &[3, 3]),
        writer::ints("strides", &[2, 1]),
        writer::ints("pads", &[1, 0, 1, 0]),
        int("group", 2),
    ];
    let conv = node("Conv", &["x", "w"], &["y"]).with(&attributes);
    let weights = f32s("w", &[2, 2, 3, 3], &[0.5; 36]);
    let model = Model::new(vec![conv], &["y"]).constant(weights.clone());
    let window = Window {
        kernel: vec![3, 3],
        strides: vec![2, 1],
        dilations: vec![],
        padding: Padding::Explicit(vec![1, 0, 1, 0]),
    };
    assert_eq!(graph(&model).nodes[0].op, Op::Conv { window, groups: 2 });

    let same = unary(
        "MaxPool",
        &[
            writer::ints("kernel_shape", &[2, 2]),
            text("auto_pad", "SAME_UPPER"),
            int("storage_order", 1),
        ],
    );
    let Op::MaxPool {
        window,
        column_major_indices,
        ceil,
    } = one(12, same).nodes[0].op.clone()
    else {
        panic!("not a pooling");
    };
    assert_eq!(window.padding, Padding::SameUpper);
    assert!(column_major_indices && !ceil);

    for (attribute, says) in [
        (writer::ints("kernel_shape", &[5, 5]), "kernel_shape"),
        (writer::ints("strides", &[0, 1]), "strides"),
        (writer::ints("strides", &[1]), "strides"),
        (writer::ints("dilations", &[i64::MAX, 1]), "dilations"),
        (writer::ints("pads", &[1, 1]), "pads"),
        (writer::ints("pads", &[-1, 0, 0, 0]), "negative padding"),
        (int("group", 0), "group"),
        (text("auto_pad", "BOTH"), "auto_pad"),
        (
            float("group", 1.0),
            "attribute `group` is a float, not an integer",
        ),
    ] {
        let conv = node("Conv", &["x", "w"], &["y"])
            .with(&[attribute])
            .named("first");
        let text = error(&Model::new(vec![conv], &["y"]).constant(weights.clone()));
        assert!(
            text.contains("first (Conv)") && text.contains(says),
            "{text}"
        );
    }
}

#[test]
fn attributes_of_functions_of_one_operand() {
    let op = |version, node| match one(version, node).nodes[0].op {
        Op::Unary(op) => op,
        ref op => panic!("{op:?}"),
    };
    assert_eq!(op(7, unary("Elu", &[])), Unary::Elu { alpha: 1.0 });
    assert_eq!(
        op(20, unary("Gelu", &[text("approximate", "tanh")])),
        Unary::Gelu { tanh: true }
    );
    assert_eq!(
        op(24, unary("Swish", &[float("alpha", 2.0)])),
        Unary::Silu { alpha: 2.0 }
    );
    assert_eq!(
        op(9, unary("LeakyRelu", &[])),
        Unary::LeakyRelu { alpha: 0.01 }
    );
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    for (message, says) in [
        (
            node("Relu", &["x"], &["y"]).of("com.example"),
            "domain `com.example`",
        ),
        (unary("GridSample", &[]), "GridSample"),
        (unary("Relu", &[int("extra", 1)]), "`extra`"),
        (unary("Cast", &[]), "`to` is missing"),
        (unary("Cast", &[int("to", 10)]), "f16"),
        (
            unary("Transpose", &[writer::ints("perm", &[0, 2])]),
            "permutation",
        ),
        (node("Add", &["x"], &["y"]), "operand 1 is missing"),
        (node("Add", &["x", "x", "x"], &["y"]), "3 operands"),
        (node("Add", &["", "x"], &["y"]), "operand 0 is missing"),
        (node("Relu", &["x"], &["y", "z"]), "2 results"),
        (unary("BatchNormalization", &[]), "operand 1 is missing"),
    ] {
        let text = error(&Model::new(vec![message], &["y"]));
        assert!(text.contains(says), "{text}");
    }
    let late = error(&Model::new(vec![unary("Relu", &[])], &["y"]).version(29));
    assert!(late.contains("29"), "{late}");
    // `ai.onnx` is the standard domain under its long name.
    let long = one(17, node("Relu", &["x"], &["y"]).of("ai.onnx"));
    assert_eq!(ops(&long), ["Relu"]);
}

#[test]
fn optional_operands_stay_in_place() {
    let clip = node("Clip", &["x", "", "c"], &["y"]);
    let clip = graph(&Model::new(vec![clip], &["y"]).constant(f32s("c", &[], &[6.0])));
    assert_eq!(clip.nodes[0].inputs[1], None);
    assert_eq!(clip.nodes[0].inputs.len(), 3);
    let less = graph(&Model::new(vec![node("Less", &["x", "x"], &["y"])], &["y"]));
    assert_eq!(less.nodes[0].op, Op::Binary(Binary::Less));
}
