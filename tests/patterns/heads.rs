//! Heads in other places.

use crate::*;

/// [N, T, heads · width] as [N, heads, T, width].
fn apart(net: &mut Net, x: ValueId, dims: [i64; 4]) -> ValueId {
    let dims = net.constant(&[4], &dims);
    let x = net.node(Op::Reshape { allow_zero: false }, &[x, dims]);
    net.swap(x, &[0, 2, 1, 3])
}

fn together(net: &mut Net, y: ValueId, dims: &[i64]) -> ValueId {
    let y = net.swap(y, &[0, 2, 1, 3]);
    let dims = net.constant(&[dims.len()], dims);
    net.node(Op::Reshape { allow_zero: false }, &[y, dims])
}

#[test]
fn heads_taken_apart_and_put_together() {
    for joined in [&[2i64, 5, 8][..], &[10, 8]] {
        let mut net = Net::default();
        let x = net.input("x", &[2, 5, 8]);
        let [q, k, v] = [0; 3].map(|_| {
            let w = net.weights(&[8, 8]);
            net.node(Op::MatMul, &[x, w])
        });
        let [q, k, v] = [q, k, v].map(|x| apart(&mut net, x, [2, 5, 2, 4]));
        let s = products(&mut net, q, k);
        let y = attend(&mut net, s, v, -1);
        let y = together(&mut net, y, joined);
        net.output(y);
        let expected = ["Linear", "Linear", "Linear", "Attention"];
        assert_eq!(kernels(net, &[&[2, 5, 8]]), expected);
    }
}

#[test]
fn queries_keys_and_values_of_one_product() {
    for way in 0..4 {
        let mut net = Net::default();
        let x = net.input("x", &[2, 5, 8]);
        let (w, b) = (net.weights(&[8, 24]), net.weights(&[24]));
        let mut all = net.node(Op::MatMul, &[x, w]);
        if way > 0 {
            all = net.add(all, b);
        }
        let dims = net.constant(&[5], &[2i64, 5, 3, 2, 4]);
        let all = net.node(Op::Reshape { allow_zero: false }, &[all, dims]);
        let all = net.swap(all, &[2, 0, 3, 1, 4]);
        let zero = net.constant(&[1], &[0i64]);
        let [q, k, v] = [0i64, 1, 2].map(|i| match way {
            0 => {
                let i = net.constant(&[], &[i]);
                net.node(Op::Gather { axis: 0 }, &[all, i])
            }
            1 => {
                let i = net.constant(&[], &[i - 3]);
                net.node(Op::Gather { axis: -5 }, &[all, i])
            }
            2 => {
                let (begin, end) = (net.constant(&[1], &[i]), net.constant(&[1], &[i + 1]));
                let part = net.node(Op::Slice, &[all, begin, end, zero]);
                net.node(Op::Squeeze, &[part, zero])
            }
            // The places of a list keep their axis.
            _ => {
                let i = net.constant(&[1], &[i]);
                let part = net.node(Op::Gather { axis: 0 }, &[all, i]);
                net.node(Op::Squeeze, &[part, zero])
            }
        });
        let s = products(&mut net, q, k);
        let y = attend(&mut net, s, v, -1);
        let y = together(&mut net, y, &[2, 5, 8]);
        net.output(y);
        let found = kernels(net, &[&[2, 5, 8]]);
        assert!(found.contains(&"Attention"), "{way}: {found:?}");
    }
}

#[test]
fn heads_in_other_places() {
    // Heads outside of tokens in memory: nothing to join. Channels inside of which the heads stand: every second element.
    for (dims, perm) in [([2i64, 2, 5, 4], None), ([2, 5, 4, 2], Some([0, 3, 1, 2]))] {
        let mut net = Net::default();
        let x = net.input("x", &[2, 5, 8]);
        let dims = net.constant(&[4], &dims);
        let x = net.node(Op::Reshape { allow_zero: false }, &[x, dims]);
        let x = perm.map_or(x, |perm| net.swap(x, &perm));
        let s = products(&mut net, x, x);
        let y = attend(&mut net, s, x, -1);
        let y = together(&mut net, y, &[2, 5, 8]);
        net.output(y);
        assert_eq!(kernels(net, &[&[2, 5, 8]]), ["Attention"]);
    }
    // A result whose tokens are not put first.
    let mut net = Net::default();
    let x = net.input("x", &[2, 5, 8]);
    let x = apart(&mut net, x, [2, 5, 2, 4]);
    let s = products(&mut net, x, x);
    let y = attend(&mut net, s, x, -1);
    let dims = net.constant(&[3], &[2i64, 5, 8]);
    let y = net.node(Op::Reshape { allow_zero: false }, &[y, dims]);
    net.output(y);
    assert_eq!(kernels(net, &[&[2, 5, 8]]), ["Attention"]);
}

#[test]
fn keys_that_were_repeated_for_heads_that_share_them() {
    let dims: [&[usize]; 3] = [&[2, 6, 5, 4], &[2, 2, 7, 4], &[2, 2, 7, 3]];
    let mut net = Net::default();
    let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
    let [k, v] = [(k, 4i64), (v, 3)].map(|(x, width)| {
        let two = net.constant(&[1], &[2i64]);
        let x = net.node(Op::Unsqueeze, &[x, two]);
        let wide = net.constant(&[5], &[2, 2, 3, 7, width]);
        let x = net.node(Op::Expand, &[x, wide]);
        let dims = net.constant(&[4], &[2, 6, 7, width]);
        net.node(Op::Reshape { allow_zero: false }, &[x, dims])
    });
    let s = products(&mut net, q, k);
    let y = attend(&mut net, s, v, -1);
    net.output(y);
    assert_eq!(kernels(net, &dims), ["Attention"]);
}
