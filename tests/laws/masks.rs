//! Masks given in any way before readers of any kind; what is dead is never read.

use sluicegate::graph::{Binary, Op, Padding, Reduction, Unary, Window};
use sluicegate::{Isa, Mode, Model, View};

use crate::common::net::{Net, floats};
use crate::{Sample, options, run};

const CHANNELS: usize = 70;

/// Who reads the masked value.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reader {
    Conv,
    Pointwise,
    Grouped,
    Depthwise,
    DepthwiseBias,
    MaxPool,
    AveragePool,
    GlobalPools,
    Relu,
    Sigmoid,
    Gemm,
    Residual,
    Product,
    Softmax,
    Output,
}

const READERS: [Reader; 15] = [
    Reader::Conv,
    Reader::Pointwise,
    Reader::Grouped,
    Reader::Depthwise,
    Reader::DepthwiseBias,
    Reader::MaxPool,
    Reader::AveragePool,
    Reader::GlobalPools,
    Reader::Relu,
    Reader::Sigmoid,
    Reader::Gemm,
    Reader::Residual,
    Reader::Product,
    Reader::Softmax,
    Reader::Output,
];

/// Where the mask comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Given<'a> {
    Nowhere,
    Constant(&'a [f32]),
    /// A second input `mask` of extents `[N, channels]`.
    Input,
}

/// x `[N, 3, 6, 7]` -> convolution to 70 channels -> ReLU -> mask -> reader -> output. `dead` sets the weights that make a dead channel.
fn masked(mask: Given<'_>, reader: Reader, dead: impl Fn(usize) -> Option<f32>) -> Model {
    let mut net = Net::default();
    let x = net.input("x", &[0, 3, 6, 7]);
    let mut w = floats(CHANNELS * 27, 1);
    for c in 0..CHANNELS {
        if let Some(value) = dead(c) {
            w[c * 27..][..27].fill(value);
        }
    }
    let w = net.constant(&[CHANNELS, 3, 3, 3], &w);
    let x = net.conv(x, w, 3, 1, None);
    let x = net.node(Op::Unary(Unary::Relu), &[x]);
    let x = match mask {
        Given::Nowhere => x,
        Given::Constant(mask) => {
            let mask = net.constant(&[1, CHANNELS], mask);
            net.node(Op::Mask { axis: 1 }, &[x, mask])
        }
        Given::Input => {
            let mask = net.input("mask", &[0, CHANNELS]);
            net.node(Op::Mask { axis: 1 }, &[x, mask])
        }
    };
    let window = |k: usize| Window {
        kernel: vec![k; 2],
        padding: Padding::SameLower,
        ..Window::default()
    };
    let y = match reader {
        Reader::Conv | Reader::Pointwise => {
            let k = if reader == Reader::Conv { 3 } else { 1 };
            let (w, b) = (net.weights(&[20, CHANNELS, k, k]), net.weights(&[20]));
            let y = net.conv(x, w, k, 1, Some(b));
            net.node(Op::Unary(Unary::LeakyRelu { alpha: 0.5 }), &[y])
        }
        Reader::Grouped => {
            let (w, b) = (net.weights(&[14, CHANNELS / 7, 3, 3]), net.weights(&[14]));
            net.conv(x, w, 3, 7, Some(b))
        }
        Reader::Depthwise | Reader::DepthwiseBias => {
            let w = net.weights(&[CHANNELS, 1, 3, 3]);
            let b = (reader == Reader::DepthwiseBias).then(|| net.weights(&[CHANNELS]));
            let y = net.conv(x, w, 3, CHANNELS, b);
            let w = net.weights(&[9, CHANNELS, 1, 1]);
            net.conv(y, w, 1, 1, None)
        }
        Reader::MaxPool => net.node(
            Op::MaxPool {
                window: window(2),
                ceil: false,
                column_major_indices: false,
            },
            &[x],
        ),
        Reader::AveragePool => net.node(
            Op::AveragePool {
                window: window(3),
                ceil: false,
                count_include_pad: false,
            },
            &[x],
        ),
        Reader::GlobalPools => {
            let mean = net.node(Op::GlobalAveragePool, &[x]);
            let axes = net.constant(&[2], &[2i64, 3]);
            let reduce = Op::Reduce {
                kind: Reduction::Max,
                keep_dims: true,
                noop_with_empty_axes: false,
            };
            let max = net.node(reduce, &[x, axes]);
            net.node(Op::Concat { axis: 1 }, &[mean, max])
        }
        Reader::Relu => net.node(Op::Unary(Unary::Relu), &[x]),
        Reader::Sigmoid => net.node(Op::Unary(Unary::Sigmoid), &[x]),
        Reader::Gemm => {
            let flat = net.node(Op::Flatten { axis: 1 }, &[x]);
            let (w, b) = (net.weights(&[CHANNELS * 42, 11]), net.weights(&[11]));
            let op = Op::Gemm {
                alpha: 1.0,
                beta: 1.0,
                trans_a: false,
                trans_b: false,
            };
            net.node(op, &[flat, w, b])
        }
        Reader::Residual => {
            let y = net.node(Op::Unary(Unary::Tanh), &[x]);
            net.node(Op::Binary(Binary::Add), &[x, y])
        }
        Reader::Product => {
            let gain = net.weights(&[CHANNELS, 1, 1]);
            net.node(Op::Binary(Binary::Mul), &[x, gain])
        }
        Reader::Softmax => net.node(
            Op::Softmax {
                axis: 1,
                flatten: false,
            },
            &[x],
        ),
        Reader::Output => x,
    };
    net.output(y);
    Model::from_graph(net.graph)
}

fn masks() -> Vec<Vec<f32>> {
    let of = |live: &dyn Fn(usize) -> bool| -> Vec<f32> {
        (0..CHANNELS)
            .map(|c| f32::from(u8::from(live(c))))
            .collect()
    };
    vec![
        of(&|_| true),
        of(&|_| false),
        of(&|c| c % 3 == 1),
        of(&|c| c < 64),
        of(&|c| c >= 64),
        of(&|c| !(20..50).contains(&c)),
        of(&|c| c != 69),
    ]
}

/// Each reader behind a static and a dynamic mask, with weights that make NaN in the dead channels, for a batch of two.
#[test]
fn masks_given_in_any_way() {
    let x = floats(2 * 3 * 42, 9);
    let x = View::new(&[2, 3, 6, 7], &x).unwrap();
    for isa in Isa::available() {
        for reader in READERS {
            for (i, mask) in masks().iter().enumerate() {
                let what = format!("{isa} {reader:?} mask {i}");
                let twice = [&mask[..], &mask[..]].concat();
                let given = View::new(&[2, CHANNELS], &twice).unwrap();
                let poison = |c: usize| (mask[c] == 0.0).then_some(f32::NAN);
                let zero = |c: usize| (mask[c] == 0.0).then_some(0.0);
                let by_constant = |dead: &dyn Fn(usize) -> Option<f32>, mode| {
                    run(
                        &masked(Given::Constant(mask), reader, dead),
                        options(mode, isa),
                        &[("x", x)],
                    )
                    .0
                };
                let by_input = |dead: &dyn Fn(usize) -> Option<f32>| {
                    run(
                        &masked(Given::Input, reader, dead),
                        options(Mode::Skip, isa),
                        &[("mask", given), ("x", x)],
                    )
                    .0
                };
                let expected = by_constant(&|_| None, Mode::Skip);
                let numbers = |s: &[Sample]| s.iter().flat_map(|s| s.floats(0)).collect::<Vec<_>>();
                assert!(numbers(&expected).iter().all(|x| x.is_finite()), "{what}");
                assert_eq!(by_input(&|_| None), expected, "{what}: dynamic");
                assert_eq!(
                    by_constant(&poison, Mode::Skip),
                    expected,
                    "{what}: NaN behind a static mask"
                );
                assert_eq!(
                    by_input(&poison),
                    expected,
                    "{what}: NaN behind a dynamic mask"
                );
                // Dead channels are zeros: as if their weights were, and as in a dense run.
                let zeroed = run(
                    &masked(Given::Nowhere, reader, zero),
                    options(Mode::Skip, isa),
                    &[("x", x)],
                )
                .0;
                let zeroed_numbers: Vec<f32> = numbers(&zeroed);
                assert_eq!(numbers(&expected), zeroed_numbers, "{what}: zeroed weights");
                assert_eq!(
                    numbers(&expected),
                    numbers(&by_constant(&|_| None, Mode::Dense)),
                    "{what}: dense"
                );
                if i == 0 {
                    let bits =
                        |s: &[Sample]| numbers(s).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        bits(&expected),
                        bits(&zeroed),
                        "{what}: a full mask is none"
                    );
                }
            }
        }
    }
}

/// A sum over no channels is the bias, and a constant of the function.
#[test]
fn an_empty_mask_gives_the_epilogue_of_zero() {
    let x = floats(3 * 42, 9);
    let x = View::new(&[1, 3, 6, 7], &x).unwrap();
    let mask = masks().remove(1);
    for isa in Isa::available() {
        for reader in [Reader::Conv, Reader::Pointwise, Reader::Gemm] {
            let model = masked(Given::Constant(&mask), reader, |_| None);
            let bias = model
                .graph()
                .nodes
                .iter()
                .rev()
                .find_map(|n| n.inputs.get(2).copied().flatten());
            let bias = model
                .graph()
                .value(bias.expect("a bias"))
                .constant
                .as_ref()
                .unwrap()
                .as_slice::<f32>()
                .unwrap()
                .to_vec();
            let (samples, macs) = run(&model, options(Mode::Skip, isa), &[("x", x)]);
            let y = samples[0].floats(0);
            let each = y.len() / bias.len();
            for (i, y) in y.iter().enumerate() {
                let b = bias[i / each];
                let expected = if reader == Reader::Gemm || b > 0.0 {
                    b
                } else {
                    0.5 * b
                };
                assert_eq!(y.to_bits(), expected.to_bits(), "{isa} {reader:?}");
            }
            assert_eq!(macs.done, 0, "{isa} {reader:?}: nothing is left to compute");
        }
    }
}

/// Values that share storage: each reader sees its own dead channels, whoever fills them with zeros, and when.
#[test]
fn masks_of_one_storage() {
    let (x, c) = (floats(2 * 3 * 42, 9), 12);
    let bits = |seed| -> Vec<f32> {
        let live = |x: &f32| f32::from(u8::from(*x > 0.0));
        floats(2 * c, seed).iter().map(live).collect()
    };
    let (m, k) = (bits(5), bits(6));
    let inputs = [
        ("x", View::new(&[2, 3, 6, 7], &x).unwrap()),
        ("m", View::new(&[2, c], &m).unwrap()),
        ("k", View::new(&[2, c], &k).unwrap()),
    ];
    let softmax = |axis| Op::Softmax {
        axis,
        flatten: false,
    };
    for between in 0..3 {
        for sibling in [false, true] {
            for readers in 0..64 {
                let mut net = Net::default();
                let x = net.input("x", &[0, 3, 6, 7]);
                let (m, k) = (net.input("m", &[0, c]), net.input("k", &[0, c]));
                let w = net.weights(&[c, 3, 3, 3]);
                let h = net.conv(x, w, 3, 1, None);
                let a = net.node(Op::Mask { axis: 1 }, &[h, m]);
                let from = if sibling { h } else { a };
                let b = match between {
                    0 => from,
                    1 => {
                        let full = net.constant(&[1, c], &[1.0f32; 12]);
                        net.node(Op::Mask { axis: 1 }, &[from, full])
                    }
                    _ => {
                        let flat = net.constant(&[3], &[-1i64, 12, 42]);
                        let reshape = Op::Reshape { allow_zero: false };
                        net.node(reshape, &[from, flat])
                    }
                };
                let z = net.node(Op::Mask { axis: 1 }, &[b, k]);
                // Who reads what, in which order.
                let whole = |net: &mut Net, v| {
                    let y = net.node(softmax(1), &[v]);
                    net.output(y);
                };
                let live = |net: &mut Net, v| {
                    let y = net.node(Op::GlobalMaxPool, &[v]);
                    net.output(y);
                };
                if readers & 1 != 0 {
                    whole(&mut net, z);
                }
                if readers & 2 != 0 {
                    live(&mut net, a);
                }
                if readers & 4 != 0 {
                    whole(&mut net, a);
                }
                if readers & 8 != 0 {
                    live(&mut net, z);
                }
                if readers & 16 != 0 {
                    net.output(a);
                }
                if readers & 32 != 0 {
                    net.output(h);
                }
                net.output(z);
                let model = Model::from_graph(net.graph);
                let (skip, _) = run(&model, options(Mode::Skip, Isa::best()), &inputs);
                let (dense, _) = run(&model, options(Mode::Dense, Isa::best()), &inputs);
                for (skip, dense) in skip.iter().zip(&dense) {
                    for i in 0..skip.outputs.len() {
                        let what = format!("between {between} sibling {sibling} readers {readers}");
                        assert_eq!(skip.floats(i), dense.floats(i), "{what}: output {i}");
                    }
                }
            }
        }
    }
}

/// A mask that is an input of the graph is there before any layer runs.
#[test]
fn a_mask_known_before_saves_inputs_and_outputs() {
    let x = floats(3 * 42, 9);
    let (m, k) = ([1.0f32, 0.0, 0.0, 1.0, 0.0], [0.0f32, 1.0, 0.0, 0.0]);
    let inputs = [
        ("x", View::new(&[1, 3, 6, 7], &x).unwrap()),
        ("m", View::new(&[1, 5], &m).unwrap()),
        ("k", View::new(&[1, 4], &k).unwrap()),
    ];
    let mut net = Net::default();
    let x = net.input("x", &[0, 3, 6, 7]);
    let (m, k) = (net.input("m", &[0, 5]), net.input("k", &[0, 4]));
    let (w, b) = (net.weights(&[5, 3, 3, 3]), net.weights(&[5]));
    let x = net.conv(x, w, 3, 1, Some(b));
    let x = net.node(Op::Unary(Unary::Relu), &[x]);
    let x = net.node(Op::Mask { axis: 1 }, &[x, m]);
    let (w, b) = (net.weights(&[5, 1, 3, 3]), net.weights(&[5]));
    let x = net.conv(x, w, 3, 5, Some(b));
    let x = net.node(Op::Mask { axis: 1 }, &[x, m]);
    let w = net.weights(&[4, 5, 3, 3]);
    let x = net.conv(x, w, 3, 1, None);
    let x = net.node(Op::Mask { axis: 1 }, &[x, k]);
    net.output(x);
    let model = Model::from_graph(net.graph);
    for isa in Isa::available() {
        let (skip, macs) = run(&model, options(Mode::Skip, isa), &inputs);
        let (dense, _) = run(&model, options(Mode::Dense, isa), &inputs);
        assert_eq!(skip[0].floats(0), dense[0].floats(0), "{isa}");
        assert_eq!(macs.done, 42 * 9 * (3 * 2 + 2 + 2), "{isa}");
        assert_eq!(macs.dense, 42 * 9 * (3 * 5 + 5 + 5 * 4), "{isa}");
    }
}
