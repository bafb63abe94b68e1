//! Threads, sessions and shapes change nothing.

use std::sync::Arc;

use sluicegate::graph::{Binary, Op, Window};
use sluicegate::{Isa, Mode, Model, Options, Session, View};

use crate::common::net::{Net, floats};
use crate::pool::Threads;
use crate::{options, run, samples};

/// Layers large enough to be cut for threads, with a dynamic and a static mask, and a gate that some samples leave at.
fn large() -> Model {
    let model = gated_at(0.0);
    let x = five();
    let inputs = [("x", View::new(&[5, 12, 40, 40], &x).unwrap())];
    let (samples, _) = run(&model, options(Mode::Dense, Isa::best()), &inputs);
    let mut scores: Vec<f32> = samples.iter().map(|s| s.floats(0)[0]).collect();
    scores.sort_by(f32::total_cmp);
    gated_at((scores[1] + scores[2]) / 2.0)
}

fn gated_at(threshold: f32) -> Model {
    let mut net = Net::default();
    let x = net.input("x", &[0, 12, 40, 40]);
    let (w, b) = (net.weights(&[70, 12, 3, 3]), net.weights(&[70]));
    let x = net.conv(x, w, 3, 1, Some(b));
    let mean = net.node(Op::GlobalAveragePool, &[x]);
    let mean = net.node(Op::Flatten { axis: 1 }, &[mean]);
    let gemm = Op::Gemm {
        alpha: 1.0,
        beta: 1.0,
        trans_a: false,
        trans_b: false,
    };
    let w = net.weights(&[70, 1]);
    let score = net.node(gemm.clone(), &[mean, w]);
    net.output(score);
    net.gate(score, threshold);
    let w = net.weights(&[70, 70]);
    let logits = net.node(gemm.clone(), &[mean, w]);
    let zero = net.constant(&[1], &[0.0f32]);
    let keep = net.node(Op::Binary(Binary::Greater), &[logits, zero]);
    let mask = net.node(
        Op::Cast {
            to: sluicegate::DType::F32,
        },
        &[keep],
    );
    let x = net.node(Op::Mask { axis: 1 }, &[x, mask]);
    let w = net.weights(&[64, 70, 1, 1]);
    let x = net.conv(x, w, 1, 1, None);
    let fixed: Vec<f32> = (0..64).map(|c| f32::from(u8::from(c % 4 != 0))).collect();
    let fixed = net.constant(&[1, 64], &fixed);
    let x = net.node(Op::Mask { axis: 1 }, &[x, fixed]);
    let w = net.weights(&[64, 1, 5, 5]);
    let x = net.conv(x, w, 5, 64, None);
    let x = net.node(
        Op::MaxPool {
            window: Window {
                kernel: vec![2; 2],
                strides: vec![2; 2],
                ..Window::default()
            },
            ceil: false,
            column_major_indices: false,
        },
        &[x],
    );
    let shape = net.constant(&[3], &[-1i64, 64, 400]);
    let x = net.node(Op::Reshape { allow_zero: false }, &[x, shape]);
    let x = net.node(
        Op::Transpose {
            perm: Some(vec![0, 2, 1]),
        },
        &[x],
    );
    let w = net.weights(&[64, 96]);
    let x = net.node(Op::MatMul, &[x, w]);
    let x = net.node(
        Op::Softmax {
            axis: -1,
            flatten: false,
        },
        &[x],
    );
    net.output(x);
    Model::from_graph(net.graph)
}

/// Five samples, each brighter than the one before, so that their scores differ.
fn five() -> Vec<f32> {
    let each = 12 * 1600;
    let brighter = |(i, x): (usize, &f32)| x + (i / each) as f32 - 2.0;
    floats(5 * each, 3)
        .iter()
        .enumerate()
        .map(brighter)
        .collect()
}

#[test]
fn threads_change_nothing() {
    let model = large();
    let x = five();
    let inputs = [("x", View::new(&[5, 12, 40, 40], &x).unwrap())];
    for isa in Isa::available() {
        for mode in [Mode::Skip, Mode::Dense] {
            let (expected, macs) = run(&model, options(mode, isa), &inputs);
            let left = expected.iter().filter(|s| s.exit.is_some()).count();
            assert_eq!(left, if mode == Mode::Dense { 0 } else { 2 });
            for threads in [1, 2, 3, 4] {
                let host = Options {
                    pool: Some(Arc::new(Threads(threads))),
                    ..options(mode, isa)
                };
                assert_eq!(
                    run(&model, host, &inputs),
                    (expected.clone(), macs),
                    "{isa} {mode:?}: {threads} threads of the host"
                );
                let own = Options {
                    threads,
                    ..options(mode, isa)
                };
                if cfg!(feature = "rayon") {
                    assert_eq!(
                        run(&model, own, &inputs),
                        (expected.clone(), macs),
                        "{isa} {mode:?}: {threads} threads"
                    );
                } else {
                    assert_eq!(model.session(own).is_err(), threads > 1);
                }
            }
        }
    }
}

fn is_send<T: Send>() {}
fn is_sync<T: Sync>() {}

#[test]
fn sessions_of_one_model_on_many_threads_agree() {
    is_send::<Session>();
    is_send::<Model>();
    is_sync::<Model>();
    is_send::<Options>();
    is_sync::<sluicegate::Plan>();
    let model = large();
    let x = floats(3 * 12 * 1600, 4);
    let inputs = [("x", View::new(&[3, 12, 40, 40], &x).unwrap())];
    let expected = run(&model, options(Mode::Skip, Isa::best()), &inputs);
    std::thread::scope(|scope| {
        for mode in [Mode::Skip, Mode::Dense, Mode::Skip, Mode::Skip] {
            let (model, inputs, expected) = (&model, &inputs, &expected);
            scope.spawn(move || {
                let mut session = model.session(options(mode, Isa::best())).unwrap();
                for _ in 0..3 {
                    let found = samples(&mut session, inputs);
                    if mode == Mode::Skip {
                        assert_eq!(found, *expected);
                    }
                }
            });
        }
    });
}

/// The same session for other shapes and back again.
#[test]
fn a_session_serves_one_shape_after_the_other() {
    let model = large();
    let x = five();
    let each = 12 * 1600;
    let mut session = model.session(options(Mode::Skip, Isa::best())).unwrap();
    let mut of = |from: usize, to: usize| {
        let dims = [to - from, 12, 40, 40];
        samples(
            &mut session,
            &[("x", View::new(&dims, &x[from * each..to * each]).unwrap())],
        )
        .0
    };
    let all = of(0, 5);
    for (from, to) in [(0, 1), (2, 5), (4, 5), (0, 5), (1, 3)] {
        assert_eq!(of(from, to), all[from..to], "{from}..{to}");
    }
}

/// `SLUICEGATE_ISA` pins: a job that asks for an instruction set must not pass without it.
#[test]
fn a_pinned_instruction_set_is_here() {
    let available: Vec<&str> = Isa::available().map(Isa::name).collect();
    println!("instruction sets: {}", available.join(", "));
    if let Ok(pinned) = std::env::var("SLUICEGATE_ISA") {
        assert_eq!(sluicegate::default_isa().unwrap().name(), pinned);
    }
    assert!(Isa::named("portable").is_ok() && Isa::named("vax").is_err());
}
