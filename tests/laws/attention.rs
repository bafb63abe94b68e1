//! A transformer's block whose channels, tokens and heads are dead for each sample: nothing of them is computed, and nothing of it shows.

use sluicegate::graph::{Attention, Binary, Node, Op, Reduction, Unary, Value, ValueId};
use sluicegate::{Isa, Mode, Model, Options, View, ops};

use crate::common::net::{Net, floats};
use crate::{options, run};

const TOKENS: usize = 21;
const HEADS: usize = 4;
const WIDTH: usize = 8;
const CHANNELS: usize = HEADS * WIDTH;
const HIDDEN: usize = 48;
const SAMPLES: usize = 3;

/// How the operands of attention are written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// Queries, keys and values of one product, heads in front of tokens; the mask of heads too.
    Packed,
    /// Three products, heads and width in one axis; the mask of heads on a view with an axis for heads.
    Apart,
}

struct Masks {
    tokens: ValueId,
    channels: ValueId,
    heads: ValueId,
}

fn reshape(net: &mut Net, x: ValueId, to: &[i64]) -> ValueId {
    let to = net.constant(&[to.len()], to);
    net.node(Op::Reshape { allow_zero: false }, &[x, to])
}

fn linear(net: &mut Net, x: ValueId, from: usize, to: usize) -> ValueId {
    let (w, b) = (net.weights(&[from, to]), net.weights(&[to]));
    let y = net.node(Op::MatMul, &[x, w]);
    net.node(Op::Binary(Binary::Add), &[y, b])
}

fn norm(net: &mut Net, x: ValueId) -> ValueId {
    let scale = net.weights(&[CHANNELS]);
    let op = Op::RmsNorm {
        axis: -1,
        epsilon: 1e-5,
    };
    net.node(op, &[x, scale])
}

fn attention(net: &mut Net, [q, k, v]: [ValueId; 3], heads: bool, live: ValueId) -> ValueId {
    let y = net.graph.add(Value {
        name: "attended".into(),
        ..Value::default()
    });
    net.graph.nodes.push(Node {
        name: "attention".into(),
        op: Op::Attention(Attention {
            heads: heads.then_some((HEADS, HEADS)),
            ..Attention::default()
        }),
        inputs: vec![Some(q), Some(k), Some(v), None, None, Some(live)],
        outputs: vec![Some(y)],
    });
    y
}

/// x `[N, tokens, channels]` -> masks -> a block -> x, and a class.
fn block(form: Form) -> Model {
    let mut net = Net::default();
    let x = net.input("x", &[0, TOKENS, CHANNELS]);
    let masks = Masks {
        tokens: net.input("tokens", &[0, TOKENS]),
        channels: net.input("channels", &[0, CHANNELS]),
        heads: net.input("heads", &[0, HEADS]),
    };
    let both = |net: &mut Net, x| {
        let x = net.node(Op::Mask { axis: 2 }, &[x, masks.channels]);
        net.node(Op::Mask { axis: 1 }, &[x, masks.tokens])
    };
    let x = both(&mut net, x);
    let n = norm(&mut net, x);
    let y = match form {
        Form::Packed => {
            let packed = linear(&mut net, n, CHANNELS, 3 * CHANNELS);
            let packed = reshape(&mut net, packed, &[0, 0, 3, HEADS as i64, WIDTH as i64]);
            let perm = Some(vec![2, 0, 3, 1, 4]);
            let packed = net.node(Op::Transpose { perm }, &[packed]);
            let qkv = [0, 1, 2].map(|part: i64| {
                let index = net.constant::<i64>(&[], &[part]);
                net.node(Op::Gather { axis: 0 }, &[packed, index])
            });
            let y = attention(&mut net, qkv, false, masks.tokens);
            let y = net.node(Op::Mask { axis: 1 }, &[y, masks.heads]);
            let perm = Some(vec![0, 2, 1, 3]);
            let y = net.node(Op::Transpose { perm }, &[y]);
            reshape(&mut net, y, &[0, 0, CHANNELS as i64])
        }
        Form::Apart => {
            let qkv = [(); 3].map(|()| linear(&mut net, n, CHANNELS, CHANNELS));
            let y = attention(&mut net, qkv, true, masks.tokens);
            let y = net.node(Op::Mask { axis: 1 }, &[y, masks.tokens]);
            let y = reshape(&mut net, y, &[0, 0, HEADS as i64, WIDTH as i64]);
            let y = net.node(Op::Mask { axis: 2 }, &[y, masks.heads]);
            reshape(&mut net, y, &[0, 0, CHANNELS as i64])
        }
    };
    let y = linear(&mut net, y, CHANNELS, CHANNELS);
    let y = both(&mut net, y);
    let x = net.node(Op::Binary(Binary::Add), &[x, y]);
    let n = norm(&mut net, x);
    let y = linear(&mut net, n, CHANNELS, HIDDEN);
    let y = net.node(Op::Unary(Unary::Gelu { tanh: false }), &[y]);
    let y = linear(&mut net, y, HIDDEN, CHANNELS);
    let y = both(&mut net, y);
    let x = net.node(Op::Binary(Binary::Add), &[x, y]);
    net.output(x);
    let (scale, shift) = (net.weights(&[CHANNELS]), net.weights(&[CHANNELS]));
    let op = Op::LayerNorm {
        axis: -1,
        epsilon: 1e-5,
    };
    let y = net.node(op, &[x, scale, shift]);
    let axes = net.constant::<i64>(&[1], &[1]);
    let op = Op::Reduce {
        kind: Reduction::Mean,
        keep_dims: false,
        noop_with_empty_axes: false,
    };
    let y = net.node(op, &[y, axes]);
    let y = linear(&mut net, y, CHANNELS, 5);
    net.output(y);
    Model::from_graph(net.graph)
}

/// A mask of each sample: about half, all, and one alone.
fn mask(n: usize, seed: u64) -> Vec<f32> {
    let half = floats(n, seed)
        .into_iter()
        .map(|x| f32::from(u8::from(x > 0.0)));
    let mut one = vec![0.0; n];
    one[n / 2] = 1.0;
    half.chain(vec![1.0; n]).chain(one).collect()
}

struct Inputs {
    x: Vec<f32>,
    tokens: Vec<f32>,
    channels: Vec<f32>,
    heads: Vec<f32>,
}

impl Inputs {
    fn new() -> Self {
        Self {
            x: floats(SAMPLES * TOKENS * CHANNELS, 3),
            tokens: mask(TOKENS, 4),
            channels: mask(CHANNELS, 5),
            heads: mask(HEADS, 7),
        }
    }
    /// NaN wherever the masks say dead.
    fn poisoned() -> Self {
        let mut inputs = Self::new();
        for (i, x) in inputs.x.iter_mut().enumerate() {
            let (sample, token, channel) =
                (i / (TOKENS * CHANNELS), i / CHANNELS % TOKENS, i % CHANNELS);
            let live = inputs.tokens[sample * TOKENS + token]
                * inputs.channels[sample * CHANNELS + channel];
            if live == 0.0 {
                *x = f32::NAN;
            }
        }
        inputs
    }
    fn views(&self) -> [(&str, View<'_>); 4] {
        let view = |dims: &[usize], data| View::new(dims, data).unwrap();
        [
            ("x", view(&[SAMPLES, TOKENS, CHANNELS], &self.x)),
            ("tokens", view(&[SAMPLES, TOKENS], &self.tokens)),
            ("channels", view(&[SAMPLES, CHANNELS], &self.channels)),
            ("heads", view(&[SAMPLES, HEADS], &self.heads)),
        ]
    }
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= 2e-5 * most,
            "{what}: element {i} is {a}, expected {b}"
        );
    }
}

#[test]
fn skipping_is_multiplying_by_zeros() {
    let (inputs, poisoned) = (Inputs::new(), Inputs::poisoned());
    for form in [Form::Packed, Form::Apart] {
        let model = block(form);
        let truth =
            ops::interpret(model.graph(), &inputs.views().map(|(_, x)| x), 1 << 24).unwrap();
        for isa in Isa::available() {
            let (skipped, _) = run(&model, options(Mode::Skip, isa), &poisoned.views());
            let (dense, _) = run(&model, options(Mode::Dense, isa), &inputs.views());
            for (o, truth) in truth.iter().enumerate() {
                let truth = truth.as_slice::<f32>().unwrap();
                for (s, truth) in truth.chunks(truth.len() / SAMPLES).enumerate() {
                    let what = format!("{form:?} {isa} output {o} sample {s}");
                    close(&format!("{what}, skipped"), &skipped[s].floats(o), truth);
                    close(&format!("{what}, dense"), &dense[s].floats(o), truth);
                }
            }
        }
    }
}

#[test]
fn what_is_dead_is_not_computed() {
    let inputs = Inputs::new();
    let live = |mask: &[f32], n: usize, s: usize| {
        mask[s * n..][..n].iter().filter(|&&x| x != 0.0).count() as u64
    };
    for form in [Form::Packed, Form::Apart] {
        let model = block(form);
        let (_, macs) = run(&model, options(Mode::Skip, Isa::best()), &inputs.views());
        let expected: u64 = (0..SAMPLES)
            .map(|s| {
                let (t, c, h) = (
                    live(&inputs.tokens, TOKENS, s),
                    live(&inputs.channels, CHANNELS, s),
                    live(&inputs.heads, HEADS, s),
                );
                let (width, hidden) = (WIDTH as u64, HIDDEN as u64);
                let projections = 3 * t * c * h * width + t * h * width * c;
                let attention = 2 * h * t * t * width;
                projections + attention + 2 * t * c * hidden + 5 * CHANNELS as u64
            })
            .sum();
        assert_eq!(macs.done, expected, "{form:?}");
    }
}

#[test]
fn samples_and_threads_do_not_matter() {
    let inputs = Inputs::new();
    for form in [Form::Packed, Form::Apart] {
        let model = block(form);
        let (one, _) = run(&model, options(Mode::Skip, Isa::best()), &inputs.views());
        for threads in [2, 4] {
            let many = Options {
                threads,
                ..options(Mode::Skip, Isa::best())
            };
            assert_eq!(
                run(&model, many, &inputs.views()).0,
                one,
                "{threads} threads"
            );
        }
    }
}
