//! Attention from two products.

use crate::*;

#[test]
fn attention_with_its_scale_anywhere() {
    let root = 0.5f64.sqrt();
    let before = of_qkv(|net, [q, k, v]| {
        let q = net.times(q, 0.5);
        let s = products(net, q, k);
        attend(net, s, v, -1)
    });
    let after = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let two = net.number(2.0);
        let s = net.div(s, two);
        attend(net, s, v, 3)
    });
    let split = of_qkv(|net, [q, k, v]| {
        let q = net.times(q, root);
        let k = net.swap(k, &LAST_TWO);
        let k = net.times(k, root);
        let s = net.node(Op::MatMul, &[q, k]);
        attend(net, s, v, -1)
    });
    let inside = of_qkv(|net, [q, k, v]| {
        let k = net.times(k, root);
        let s = products(net, q, k);
        attend(net, s, v, -1)
    });
    for found in [before, after, split, inside] {
        assert_eq!(found, ["Attention"]);
    }
}

#[test]
fn keys_that_were_transposed_once_for_all() {
    // [N, T, H, D] to [N, H, D, T] in one step.
    let dims: [&[usize]; 3] = [&[2, 2, 5, 4], &[2, 6, 2, 4], &[2, 2, 6, 3]];
    let mut net = Net::default();
    let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
    let k = net.swap(k, &[0, 2, 3, 1]);
    let s = net.node(Op::MatMul, &[q, k]);
    let y = attend(&mut net, s, v, -1);
    net.output(y);
    assert_eq!(kernels(net, &dims), ["Attention"]);
    // Through rows of all heads, as torch.export writes it.
    let found = of_qkv(|net, [q, k, v]| {
        let reshape = Op::Reshape { allow_zero: false };
        let rows = net.constant(&[3], &[4i64, 6, 4]);
        let k = net.node(reshape.clone(), &[k, rows]);
        let k = net.swap(k, &[0, 2, 1]);
        let heads = net.constant(&[4], &[2i64, 2, 4, 6]);
        let k = net.node(reshape, &[k, heads]);
        let s = net.node(Op::MatMul, &[q, k]);
        attend(net, s, v, -1)
    });
    assert_eq!(found, ["Attention"]);
}

#[test]
fn attention_without_an_axis_of_heads() {
    let dims: [&[usize]; 3] = [&[3, 5, 4], &[3, 6, 4], &[3, 6, 2]];
    let mut net = Net::default();
    let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
    let k = net.swap(k, &[0, 2, 1]);
    let s = net.node(Op::MatMul, &[q, k]);
    let mask = net.weights(&[5, 6]);
    let s = net.add(s, mask);
    let y = attend(&mut net, s, v, -1);
    net.output(y);
    assert_eq!(kernels(net, &dims), ["Attention"]);
}

#[test]
fn masks_are_added_or_chosen() {
    for dims in [&[5, 6][..], &[2, 1, 5, 6], &[2, 1, 1, 6], &[6]] {
        let found = of_qkv(|net, [q, k, v]| {
            let s = products(net, q, k);
            let s = net.times(s, 0.5);
            let mask = net.weights(dims);
            let s = net.add(mask, s);
            attend(net, s, v, -1)
        });
        assert_eq!(found, ["Attention"], "{dims:?}");
    }
    let seen = [true, true, false, true, true, false];
    for (fill, is_dead) in [
        (f32::NEG_INFINITY, false),
        (f32::MIN, false),
        (f32::MIN, true),
    ] {
        let found = of_qkv(|net, [q, k, v]| {
            let s = products(net, q, k);
            let truth: Vec<bool> = seen.iter().map(|&b| b != is_dead).collect();
            let truth = Tensor::from_bools(&[1, 6], &truth).unwrap();
            let truth = net.graph.add_constant("seen", truth);
            let fill = net.constant(&[], &[fill]);
            let operands = if is_dead {
                [truth, fill, s]
            } else {
                [truth, s, fill]
            };
            let s = net.node(Op::Where, &operands);
            attend(net, s, v, -1)
        });
        assert_eq!(*found.last().unwrap(), "Attention", "{fill} {is_dead}");
        assert!(!found.contains(&"Softmax"));
    }
}

#[test]
fn a_triangle_is_no_mask_that_is_read() {
    let dims: [&[usize]; 3] = [&[1, 2, 3, 4]; 3];
    for finite in [false, true] {
        let mut net = Net::default();
        let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
        let never = if finite { f32::MIN } else { f32::NEG_INFINITY };
        let bias = [0., never, never, 0., 0., never, 0., 0., 0.];
        let bias = net.constant(&[1, 1, 3, 3], &bias);
        let s = products(&mut net, q, k);
        let s = net.add(s, bias);
        let y = attend(&mut net, s, v, -1);
        net.output(y);
        assert_eq!(kernels(net, &dims), ["Attention"]);
    }
}

#[test]
fn scores_that_are_bent() {
    let found = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let s = net.times(s, 0.25);
        let s = net.one(Unary::Tanh, s);
        let s = net.times(s, 2.0);
        attend(net, s, v, -1)
    });
    assert_eq!(found, ["Attention"]);
}

#[test]
fn what_only_looks_like_attention() {
    // Over another axis.
    let other_axis = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        attend(net, s, v, 2)
    });
    // The probabilities are a result.
    let shown = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let op = Op::Softmax {
            axis: -1,
            flatten: false,
        };
        let p = net.node(op, &[s]);
        net.output(p);
        net.node(Op::MatMul, &[p, v])
    });
    // The scores are.
    let scores = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        net.output(s);
        attend(net, s, v, -1)
    });
    // Rows without a key would get the mean of all values.
    let finite = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let truth = net.two(Binary::Less, s, s);
        let fill = net.number(-1e9);
        let s = net.node(Op::Where, &[truth, s, fill]);
        attend(net, s, v, -1)
    });
    // A factor for each key is not a scale.
    let factors = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let w = net.weights(&[6]);
        let s = net.mul(s, w);
        attend(net, s, v, -1)
    });
    // A mask with one key for all would be padded.
    let column = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let w = net.weights(&[5, 1]);
        let s = net.add(s, w);
        attend(net, s, v, -1)
    });
    for found in [other_axis, shown, scores, finite, factors, column] {
        assert!(
            found.contains(&"Softmax") && !found.contains(&"Attention"),
            "{found:?}"
        );
    }
}
