//! Maps in blocks of channels within a plan: where they are, and that results are what the definitions say.

#[path = "common/mod.rs"]
mod common;

use common::net::{Net, floats};
use sluicegate::graph::{Binary, Op, Padding, Unary, ValueId, Window};
use sluicegate::{DType, Isa, Model, Options, View, ops};

/// Depthwise, 3 x 3, with a step.
fn depthwise(net: &mut Net, x: ValueId, c: usize, step: usize) -> ValueId {
    let weights = net.weights(&[c, 1, 3, 3]);
    let window = Window {
        kernel: vec![3; 2],
        strides: vec![step; 2],
        padding: Padding::SameUpper,
        ..Window::default()
    };
    let bias = net.weights(&[c]);
    let y = net.node(Op::Conv { window, groups: c }, &[x, weights, bias]);
    net.node(Op::Unary(Unary::Relu), &[y])
}

fn pointwise(net: &mut Net, x: ValueId, from: usize, to: usize) -> ValueId {
    let weights = net.weights(&[to, from, 1, 1]);
    net.conv(x, weights, 1, 1, None)
}

/// The greatest, or the means, of windows of 3 x 3.
fn pooled(net: &mut Net, x: ValueId, step: usize, max: bool) -> ValueId {
    let window = Window {
        kernel: vec![3; 2],
        strides: vec![step; 2],
        padding: Padding::Explicit(vec![1; 4]),
        ..Window::default()
    };
    let op = match max {
        true => Op::MaxPool {
            window,
            ceil: false,
            column_major_indices: false,
        },
        false => Op::AveragePool {
            window,
            ceil: true,
            count_include_pad: true,
        },
    };
    net.node(op, &[x])
}

/// Values of the plan that lie in blocks, after running the net and comparing it with its definition on every instruction set.
fn blocks(net: Net, sample: [usize; 3]) -> usize {
    let mut found = Vec::new();
    let graph = net.graph.clone();
    let model = Model::from_graph(net.graph);
    for isa in Isa::available() {
        for (batch, threads) in [(1, 1), (3, 1), (2, 2)] {
            let dims: Vec<usize> = [batch].into_iter().chain(sample).collect();
            let x = floats(dims.iter().product(), 7);
            let view = View::new(&dims, &x).unwrap();
            let expected = ops::interpret(&graph, &[view], 1 << 28).unwrap();
            let options = Options {
                isa: Some(isa),
                threads,
                ..Options::default()
            };
            let mut session = model.session(options).unwrap();
            let inputs = [("x", view)];
            let run = session.run(&inputs).unwrap();
            for (i, expected) in expected.iter().enumerate() {
                let (expected, mut at) = (expected.as_slice::<f32>().unwrap(), 0);
                for sample in 0..run.samples() {
                    let (_, y) = run.outputs(sample).iter().nth(i).unwrap();
                    for &y in y.unwrap().as_slice::<f32>().unwrap() {
                        let bound = 1e-4 * (1.0 + expected[at].abs());
                        assert!(
                            (y - expected[at]).abs() <= bound,
                            "{isa}: output {i} at {at}"
                        );
                        at += 1;
                    }
                }
                assert_eq!(at, expected.len(), "{isa}: output {i}");
            }
            let plan = session.plan().expect("it ran");
            let in_blocks = |node: &&sluicegate::PlanNode| node.note.contains("in blocks");
            found.push(plan.nodes().iter().filter(in_blocks).count());
        }
    }
    assert!(found.iter().all(|n| *n == found[0]), "{found:?}");
    found[0]
}

/// A stem, depthwise and pointwise layers, a residual sum, and a head: nothing is transposed.
#[test]
fn a_chain_stays_in_blocks() {
    let mut net = Net::default();
    let x = net.input("x", &[0, 1, 25, 10]);
    let weights = net.weights(&[40, 1, 4, 4]);
    let y = net.conv(x, weights, 4, 1, None);
    let y = depthwise(&mut net, y, 40, 2);
    let y = pointwise(&mut net, y, 40, 24);
    let z = depthwise(&mut net, y, 24, 1);
    let z = pointwise(&mut net, z, 24, 24);
    let y = net.node(Op::Binary(Binary::Add), &[y, z]);
    let y = net.node(Op::GlobalAveragePool, &[y]);
    let y = net.node(Op::Flatten { axis: 1 }, &[y]);
    let weights = net.weights(&[24, 5]);
    let y = net.node(Op::MatMul, &[y, weights]);
    net.output(y);
    assert_eq!(blocks(net, [1, 25, 10]), 7);
}

/// Other windows between depthwise layers, of which the first saves no more than it would take to lay out its input.
#[test]
fn windows_read_blocks() {
    let mut net = Net::default();
    let x = net.input("x", &[0, 20, 11, 7]);
    let y = depthwise(&mut net, x, 20, 1);
    let weights = net.weights(&[33, 20, 5, 5]);
    let y = net.conv(y, weights, 5, 1, None);
    let y = depthwise(&mut net, y, 33, 1);
    let weights = net.weights(&[17, 33, 2, 2]);
    let y = net.conv(y, weights, 2, 1, None);
    let y = depthwise(&mut net, y, 17, 1);
    let y = net.node(Op::GlobalAveragePool, &[y]);
    net.output(y);
    assert_eq!(blocks(net, [20, 11, 7]), 5);
}

/// Groups that are blocks on every instruction set, with windows that would else be Winograd's.
#[test]
fn groups_of_blocks() {
    let mut net = Net::default();
    let x = net.input("x", &[0, 32, 9, 7]);
    let y = pointwise(&mut net, x, 32, 96);
    let weights = net.weights(&[48, 32, 3, 3]);
    let y = net.conv(y, weights, 3, 3, None);
    let y = pointwise(&mut net, y, 48, 20);
    let y = net.node(Op::GlobalAveragePool, &[y]);
    net.output(y);
    assert_eq!(blocks(net, [32, 9, 7]), 4);
}

/// What lives of groups is not so many channels in each.
#[test]
fn masked_groups_stay_in_planes() {
    for kill in [by_constant as Kill, by_its_means] {
        for behind in [false, true] {
            let mut net = Net::default();
            let x = net.input("x", &[0, 32, 9, 7]);
            let mut y = pointwise(&mut net, x, 32, 64);
            if !behind {
                y = kill(&mut net, y, 64, 1);
            }
            let weights = net.weights(&[64, 32, 3, 3]);
            let mut y = net.conv(y, weights, 3, 2, None);
            if behind {
                y = net.node(Op::Unary(Unary::Relu), &[y]);
                y = kill(&mut net, y, 64, 2);
            }
            let y = pointwise(&mut net, y, 64, 20);
            let y = depthwise(&mut net, y, 20, 1);
            net.output(y);
            blocks(net, [32, 9, 7]);
        }
    }
}

/// The stem of a residual net.
#[test]
fn pools_pass_blocks_on() {
    let mut net = Net::default();
    let x = net.input("x", &[0, 3, 27, 31]);
    let weights = net.weights(&[20, 3, 7, 7]);
    let y = net.conv(x, weights, 7, 1, None);
    let y = pooled(&mut net, y, 2, true);
    let y = pooled(&mut net, y, 1, false);
    let y = pointwise(&mut net, y, 20, 24);
    let y = net.node(Op::GlobalAveragePool, &[y]);
    net.output(y);
    assert_eq!(blocks(net, [3, 27, 31]), 5);
}

/// Maps that others read as planes, too, and that leave the graph.
#[test]
fn others_read_planes() {
    let mut net = Net::default();
    let x = net.input("x", &[0, 20, 9, 7]);
    let mut a = x;
    for _ in 0..3 {
        a = depthwise(&mut net, a, 20, 1);
    }
    let b = pointwise(&mut net, a, 20, 33);
    let c = depthwise(&mut net, b, 33, 1);
    let d = depthwise(&mut net, c, 33, 1);
    let weights = net.weights(&[8, 33, 3, 3]);
    let e = net.conv(b, weights, 3, 1, None);
    net.output(d);
    net.output(e);
    net.output(a);
    assert_eq!(blocks(net, [20, 9, 7]), 10);
}

/// One layer that would have to be transposed on both sides stays in planes.
#[test]
fn planes_where_blocks_bring_nothing() {
    let mut net = Net::default();
    let x = net.input("x", &[0, 20, 9, 7]);
    let y = depthwise(&mut net, x, 20, 1);
    net.output(y);
    assert_eq!(blocks(net, [20, 9, 7]), 0);
}

/// Kills channels by a mask: of the model, or of what it makes of the map.
type Kill = fn(&mut Net, ValueId, usize, usize) -> ValueId;

fn by_constant(net: &mut Net, x: ValueId, channels: usize, seed: usize) -> ValueId {
    let live: Vec<f32> = (0..channels)
        .map(|c| f32::from(u8::from(!(c * c + seed).is_multiple_of(3 + seed % 2))))
        .collect();
    let mask = net.constant(&[1, channels], &live);
    net.node(Op::Mask { axis: 1 }, &[x, mask])
}

fn by_its_means(net: &mut Net, x: ValueId, channels: usize, _: usize) -> ValueId {
    let mean = net.node(Op::GlobalAveragePool, &[x]);
    let mean = net.node(Op::Flatten { axis: 1 }, &[mean]);
    let weights = net.weights(&[channels, channels]);
    let logits = net.node(Op::MatMul, &[mean, weights]);
    let zero = net.constant(&[1], &[0.0f32]);
    let keep = net.node(Op::Binary(Binary::Greater), &[logits, zero]);
    let mask = net.node(Op::Cast { to: DType::F32 }, &[keep]);
    net.node(Op::Mask { axis: 1 }, &[x, mask])
}

/// Masks behind everything, sums of maps with the same and with other masks, masks behind masks, and layers that dead channels go through as
/// zeros or become constants by.
fn masked(kill: Kill) -> Net {
    let mut net = Net::default();
    let x = net.input("x", &[0, 3, 25, 10]);
    let weights = net.weights(&[40, 3, 4, 4]);
    let y = net.conv(x, weights, 4, 1, None);
    let y = kill(&mut net, y, 40, 1);
    let y = depthwise(&mut net, y, 40, 2);
    let y = kill(&mut net, y, 40, 1);
    let y = pointwise(&mut net, y, 40, 24);
    let y = kill(&mut net, y, 24, 2);
    let y = pooled(&mut net, y, 1, true);
    let z = depthwise(&mut net, y, 24, 1);
    let z = pooled(&mut net, z, 1, false);
    let z = pointwise(&mut net, z, 24, 24);
    let z = kill(&mut net, z, 24, 3);
    let y = net.node(Op::Binary(Binary::Add), &[y, z]);
    let y = kill(&mut net, y, 24, 4);
    let y = kill(&mut net, y, 24, 5);
    let z = net.node(Op::Unary(Unary::Relu), &[y]);
    let y = net.node(Op::Binary(Binary::Mul), &[y, z]);
    let weights = net.weights(&[33, 24, 5, 5]);
    let y = net.conv(y, weights, 5, 1, None);
    let y = net.node(Op::Unary(Unary::Sigmoid), &[y]);
    let y = kill(&mut net, y, 33, 7);
    net.output(y);
    let y = depthwise(&mut net, y, 33, 1);
    let y = depthwise(&mut net, y, 33, 1);
    let y = kill(&mut net, y, 33, 6);
    let y = net.node(Op::GlobalAveragePool, &[y]);
    net.output(y);
    net
}

#[test]
fn what_masks_leave_is_compact() {
    for kill in [by_constant as Kill, by_its_means] {
        assert!(blocks(masked(kill), [3, 25, 10]) > 12);
    }
}
