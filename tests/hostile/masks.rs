//! Masks and gates that do not fit, NaN among them.

use sluicegate::graph::{Binary, Op, Unary};
use sluicegate::{DType, Model, Outcome, View};

use crate::common::models;
use crate::common::net::{Net, floats};
use crate::writer::{self, f32s, float, ints};
use crate::{attempt, error, inputs, named, options, plan, refused, says};

/// A mask must have the channels of what it masks.
#[test]
fn masks_of_another_length() {
    for channels in [0, 1, 3, 5, 64] {
        for dynamic in [false, true] {
            let mut net = Net::default();
            let x = net.input("x", &[0, 4, 3, 3]);
            let mask = if dynamic {
                let flat = net.node(Op::GlobalMaxPool, &[x]);
                let flat = net.node(Op::Flatten { axis: 1 }, &[flat]);
                let w = net.weights(&[4, channels.max(1)]);
                net.node(Op::MatMul, &[flat, w])
            } else {
                net.constant(&[1, channels], &vec![1.0f32; channels])
            };
            if dynamic && channels == 0 {
                continue;
            }
            let y = net.node(Op::Mask { axis: 1 }, &[x, mask]);
            net.output(y);
            says(&error(net), &["(Mask)", "mask of shape"]);
        }
    }
    // Given as an input, the shape says it when the run begins.
    let mut net = Net::default();
    let x = net.input("x", &[0, 4, 3, 3]);
    let mask = net.input("mask", &[0, 4]);
    let y = net.node(Op::Mask { axis: 1 }, &[x, mask]);
    net.output(y);
    let model = Model::from_graph(net.graph);
    let (x, long) = (floats(36, 1), [1.0f32; 5]);
    let mut session = model.session(options()).unwrap();
    for n in [3, 5] {
        let given = [
            ("x", View::new(&[1, 4, 3, 3], &x).unwrap()),
            ("mask", View::new(&[1, n], &long[..n]).unwrap()),
        ];
        let e = session
            .run(&given)
            .err()
            .expect("a mask of another length")
            .to_string();
        says(&e, &["input `mask`", "[N, 4]"]);
    }
}

/// Masks of truth values and of integers, and masked integers, have a meaning or are refused.
#[test]
fn masks_of_other_types() {
    for axis in [0, 1, 2, 7] {
        for mask_type in [DType::Bool, DType::I64, DType::F32, DType::U8] {
            for x_type in [DType::F32, DType::I64] {
                for constant in [false, true] {
                    let mut net = Net::default();
                    let x = net.input("x", &[0, 3, 3]);
                    let x = net.node(Op::Cast { to: x_type }, &[x]);
                    let mask = if constant {
                        net.constant(&[1, 3], &[1.0f32, 0.0, 1.0])
                    } else {
                        net.input("mask", &[0, 3])
                    };
                    let mask = net.node(Op::Cast { to: mask_type }, &[mask]);
                    let y = net.node(Op::Mask { axis }, &[x, mask]);
                    let y = net.node(Op::Cast { to: DType::F32 }, &[y]);
                    net.output(y);
                    if let Err(e) = plan(net, 1.0) {
                        says(&e.to_string(), &["(Mask)"]);
                    }
                }
            }
        }
    }
}

/// A gate reads one f32 a sample.
#[test]
fn gates_on_other_than_one_score() {
    for n in [0, 2, 5] {
        let mut net = Net::default();
        let x = net.input("x", &[0, 4]);
        let w = net.constant(&[4, n], &vec![0.25f32; 4 * n]);
        let scores = net.node(Op::MatMul, &[x, w]);
        net.gate(scores, 0.5);
        let y = net.node(Op::Unary(Unary::Relu), &[x]);
        net.output(y);
        says(&error(net), &["gate0 (Gate)"]);
    }
    let mut net = Net::default();
    let x = net.input("x", &[0, 1]);
    let score = net.node(Op::Cast { to: DType::I64 }, &[x]);
    net.gate(score, 0.5);
    net.output(x);
    says(&error(net), &["gate0 (Gate)"]);
}

/// `x` of `[N, 1]` is the score.
fn gated(threshold: f32) -> Model {
    let mut net = Net::default();
    let x = net.input("x", &[0, 1]);
    net.gate(x, threshold);
    let y = net.node(Op::Unary(Unary::Relu), &[x]);
    net.output(y);
    Model::from_graph(net.graph)
}

/// A comparison with NaN is false: such a sample goes on, and such a gate lets all pass.
#[test]
fn nan_does_not_stop_a_sample() {
    let x = [0.0, f32::NAN, 1.0, f32::NEG_INFINITY];
    for (threshold, leaves) in [
        (0.5, [true, false, false, true]),
        (f32::NAN, [false; 4]),
        (f32::INFINITY, [true, false, true, true]),
    ] {
        let model = gated(threshold);
        let mut session = model.session(options()).unwrap();
        let given = [("x", View::new(&[4, 1], &x).unwrap())];
        let run = session.run(&given).unwrap();
        for (i, leaves) in leaves.into_iter().enumerate() {
            assert_eq!(
                matches!(run.outcome(i), Outcome::Exited { .. }),
                leaves,
                "{threshold} sample {i}"
            );
        }
    }
    for name in [
        "kws_dynamic",
        "kws_static",
        "kws_gates",
        "kwt_static",
        "kwt_dynamic",
    ] {
        let model = Model::load(models(&format!("{name}.onnx"))).unwrap();
        let tensors = inputs(model.graph(), f32::NAN).unwrap();
        let given: Vec<(&str, View<'_>)> = tensors
            .iter()
            .map(|(name, t)| (name.as_str(), t.view()))
            .collect();
        let mut session = model.session(options()).unwrap();
        let run = session.run(&given).unwrap();
        // NaN is not greater than zero: a mask of such logits is empty, and behind it are numbers again.
        if let Outcome::Exited { gate, score } = run.outcome(0) {
            let why = "only a gate behind an empty mask may stop it";
            assert!(
                gate > 0 && !score.is_nan() && name.ends_with("dynamic"),
                "{name}: {why}"
            );
        }
        assert!(
            run.masks(0)
                .flatten()
                .all(|mask| mask.count() <= mask.len()),
            "{name}"
        );
    }
}

/// Long chains of masks, sums of masks and products of masks: no stack is that deep, and no note may be that long.
#[test]
fn long_chains_of_masks() {
    let masked = |form: usize, n: usize| {
        let mut net = Net::default();
        let mut x = net.input("x", &[0, 2, 2, 2]);
        let m = net.input("m", &[0, 2]);
        let mut product = m;
        for i in 0..n {
            match form {
                0 => {
                    let scale = net.constant(&[1, 2], &[1.0f32, i as f32 + 1.0]);
                    let own = net.node(Op::Binary(Binary::Add), &[m, scale]);
                    x = net.node(Op::Mask { axis: 1 }, &[x, own]);
                }
                1 => {
                    let own = net.node(Op::Unary(Unary::Abs), &[product]);
                    product = net.node(Op::Binary(Binary::Mul), &[own, product]);
                }
                _ => {
                    let scale = net.constant(&[1, 2], &[1.0f32, i as f32 + 1.0]);
                    let own = net.node(Op::Binary(Binary::Add), &[m, scale]);
                    let y = net.node(Op::Mask { axis: 1 }, &[x, own]);
                    x = net.node(
                        Op::Binary(if i % 2 == 0 { Binary::Max } else { Binary::Mul }),
                        &[x, y],
                    );
                }
            }
        }
        if form == 1 {
            x = net.node(Op::Mask { axis: 1 }, &[x, product]);
        }
        net.output(x);
        net
    };
    for form in 0..3 {
        for n in [40, 3000] {
            if let Err(e) = plan(masked(form, n), 1.0) {
                says(&e.to_string(), &["("]);
            }
        }
    }
}

/// Attributes of gates in a file.
#[test]
fn gate_attributes() {
    for threshold in [f32::NAN, f32::INFINITY, -1.0] {
        for axes in [&[2i64, 3][..], &[], &[1], &[9], &[i64::MIN], &[2, 2]] {
            let layer = named(
                "GatedCompressionStatic",
                &["x", "gw", "gb", "m"],
                &["y", "score", "stop", "mask"],
            )
            .of("gc")
            .with(&[ints("axes", axes), float("threshold", threshold)]);
            let model = writer::Model::new(vec![layer], &["y", "score"])
                .constant(f32s("gw", &[8, 1], &[0.5; 8]))
                .constant(f32s("gb", &[1], &[0.5]))
                .constant(f32s("m", &[1, 4], &[1.0, 0.0, 1.0, 0.0]));
            if let Err(e) = Model::from_bytes(&model.bytes()).and_then(|model| attempt(&model)) {
                says(&e.to_string(), &["culprit"]);
            }
        }
    }
    for mask in [3, 5] {
        let layer = named(
            "GatedCompressionStatic",
            &["x", "gw", "gb", "m"],
            &["y", "score", "stop", "mask"],
        )
        .of("gc")
        .with(&[ints("axes", &[2, 3]), float("threshold", 0.5)]);
        let model = writer::Model::new(vec![layer], &["y", "score"])
            .constant(f32s("gw", &[8, 1], &[0.5; 8]))
            .constant(f32s("gb", &[1], &[0.5]))
            .constant(f32s("m", &[1, mask], &vec![1.0; mask as usize]));
        says(&refused(&model), &["culprit"]);
    }
}
