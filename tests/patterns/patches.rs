//! Patches of images as rows of a product.

use sluicegate::graph::{Op, Padding, Unary, ValueId, Window};

use super::{Words, kernels};
use crate::common::net::Net;

/// A convolution with windows of 4 x 2, as patches if `step` is that, too.
fn embed(net: &mut Net, x: ValueId, step: [usize; 2], pads: Padding) -> ValueId {
    let weights = net.weights(&[10, 3, 4, 2]);
    let bias = net.weights(&[10]);
    let window = Window {
        kernel: vec![4, 2],
        strides: step.to_vec(),
        padding: pads,
        ..Window::default()
    };
    net.node(Op::Conv { window, groups: 1 }, &[x, weights, bias])
}

fn tokens(net: &mut Net, y: ValueId, count: i64) -> ValueId {
    let dims = net.constant::<i64>(&[3], &[0, 10, count]);
    let y = net.node(Op::Reshape { allow_zero: false }, &[y, dims]);
    net.swap(y, &[0, 2, 1])
}

#[test]
fn patches_are_rows() {
    for batch in [1, 3] {
        let mut net = Net::default();
        let x = net.input("x", &[batch, 3, 12, 10]);
        let y = embed(&mut net, x, [4, 2], Padding::Valid);
        let y = tokens(&mut net, y, 15);
        net.output(y);
        assert_eq!(kernels(net, &[&[batch, 3, 12, 10]]), ["Linear"]);
    }
}

#[test]
fn what_only_looks_like_patches_is_left() {
    // Windows overlap, or leave something over.
    for (step, rows, count) in [([2, 2], 12, 25), ([4, 2], 14, 15)] {
        let mut net = Net::default();
        let x = net.input("x", &[1, 3, rows, 10]);
        let y = embed(&mut net, x, step, Padding::Valid);
        let y = tokens(&mut net, y, count);
        net.output(y);
        assert_eq!(kernels(net, &[&[1, 3, rows, 10]]), ["Conv"]);
    }
    // The map is read as it is, too.
    let mut net = Net::default();
    let x = net.input("x", &[1, 3, 12, 10]);
    let map = embed(&mut net, x, [4, 2], Padding::Valid);
    let y = tokens(&mut net, map, 15);
    let z = net.node(Op::Unary(Unary::Neg), &[map]);
    net.output(y);
    net.output(z);
    assert_eq!(kernels(net, &[&[1, 3, 12, 10]]), ["Conv", "Neg"]);
}
