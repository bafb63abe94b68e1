//! Operators that move elements.

use proptest::prelude::*;
use sluicegate::graph::{Op, PadMode};
use sluicegate::{Tensor, View};

use crate::{bools, floats, ints, iota, refusal, run, run_all, tensor};

fn slice(x: &Tensor, cuts: &[(i64, i64, i64, i64)]) -> Tensor {
    let list = |f: fn(&(i64, i64, i64, i64)) -> i64| ints(&cuts.iter().map(f).collect::<Vec<_>>());
    let (starts, ends) = (list(|c| c.1), list(|c| c.2));
    let (axes, steps) = (list(|c| c.0), list(|c| c.3));
    run(Op::Slice, &[x, &starts, &ends, &axes, &steps])
}

#[test]
fn slice_walks_backwards_and_clamps() {
    let x = iota(&[5]);
    assert_eq!(floats(&slice(&x, &[(0, -1, i64::MIN, -2)])), [4., 2., 0.]);
    assert_eq!(floats(&slice(&x, &[(0, 1, i64::MAX, 3)])), [1., 4.]);
    assert_eq!(
        floats(&slice(&x, &[(0, i64::MAX, i64::MIN, i64::MIN)])),
        [4.]
    );
    assert_eq!(floats(&slice(&x, &[(0, 3, 1, 1)])), [0.; 0]);
    assert_eq!(floats(&slice(&x, &[(-1, -3, -1, 1)])), [2., 3.]);
    let empty = tensor::<f32>(&[0, 3], &[]);
    assert_eq!(*slice(&empty, &[(0, -1, 9, -1)]).shape(), [0, 3]);
    assert!(refusal(Op::Slice, &[&x, &ints(&[0]), &ints(&[1]), &ints(&[1])]).contains("axis 1"));
}

#[test]
fn gather_counts_from_the_back_and_refuses_what_is_out_of_range() {
    let x = iota(&[2, 3]);
    let y = run(Op::Gather { axis: 1 }, &[&x, &tensor(&[1, 2], &[-1i32, 0])]);
    assert_eq!(
        (&*y.shape(), floats(&y)),
        (&[2, 1, 2][..], &[2., 0., 5., 3.][..])
    );
    let one = run(Op::Gather { axis: 0 }, &[&x, &Tensor::scalar(1i64)]);
    assert_eq!((&*one.shape(), floats(&one)), (&[3][..], &[3., 4., 5.][..]));
    for index in [3, -4, i64::MIN, i64::MAX] {
        let what = refusal(Op::Gather { axis: 1 }, &[&x, &ints(&[index])]);
        assert!(what.contains("out of range"), "{what}");
    }
}

#[test]
fn pad_modes() {
    let x = tensor(&[3], &[1f32, 2., 3.]);
    let pad = |mode, pads: &[i64]| floats(&run(Op::Pad { mode }, &[&x, &ints(pads)])).to_vec();
    assert_eq!(pad(PadMode::Constant, &[1, 2]), [0., 1., 2., 3., 0., 0.]);
    assert_eq!(pad(PadMode::Edge, &[1, 2]), [1., 1., 2., 3., 3., 3.]);
    assert_eq!(
        pad(PadMode::Reflect, &[2, 3]),
        [3., 2., 1., 2., 3., 2., 1., 2.]
    );
    assert_eq!(
        pad(PadMode::Wrap, &[2, 4]),
        [2., 3., 1., 2., 3., 1., 2., 3., 1.]
    );
    assert_eq!(pad(PadMode::Constant, &[-1, 1]), [2., 3., 0.]);
    assert_eq!(pad(PadMode::Edge, &[-1, -1]), [2.]);
    let what = refusal(
        Op::Pad {
            mode: PadMode::Edge,
        },
        &[&x, &ints(&[-2, -2])],
    );
    assert!(what.contains("extent of 3"), "{what}");
}

#[test]
fn pad_of_named_axes_with_a_value() {
    let x = tensor(&[1, 2], &[1i64, 2]);
    let value = Tensor::scalar(7i64);
    let y = run(
        Op::Pad {
            mode: PadMode::Constant,
        },
        &[&x, &ints(&[1, 0]), &value, &ints(&[-2])],
    );
    assert_eq!(y, tensor(&[2, 2], &[7i64, 7, 1, 2]));
}

#[test]
fn concat_and_split() {
    let (a, b) = (iota(&[2, 1]), tensor(&[2, 2], &[10f32, 11., 12., 13.]));
    let joined = run(Op::Concat { axis: -1 }, &[&a, &b]);
    assert_eq!(floats(&joined), [0., 10., 11., 1., 12., 13.]);
    let parts = run_all(&Op::Split { axis: 0 }, &[Some(&iota(&[7]))], 4).expect("parts");
    assert_eq!(
        parts.iter().map(|p| p.shape()[0]).collect::<Vec<_>>(),
        [2, 2, 2, 1]
    );
    let sizes = ints(&[0, 3]);
    let parts = run_all(&Op::Split { axis: 1 }, &[Some(&joined), Some(&sizes)], 2).expect("parts");
    assert_eq!((&*parts[0].shape(), &parts[1]), (&[2, 0][..], &joined));
    assert!(refusal(Op::Split { axis: 0 }, &[&a, &ints(&[-1, 3])]).contains("sizes"));
}

#[test]
fn expand_stretches_both_ways() {
    let x = tensor(&[2, 1], &[1i8, 2]);
    let y = run(Op::Expand, &[&x, &ints(&[2, 1, 2])]);
    assert_eq!(y, tensor(&[2, 2, 2], &[1i8, 1, 2, 2, 1, 1, 2, 2]));
    assert_eq!(run(Op::Expand, &[&x, &ints(&[1])]), x);
}

#[test]
fn truth_values_move_too() {
    let x = bools(&[2, 2], &[true, false, false, false]);
    let y = run(Op::Transpose { perm: None }, &[&x]);
    assert_eq!(y, x);
    let y = run(
        Op::Where,
        &[&x, &Tensor::scalar(1i32), &tensor(&[2], &[2i32, 3])],
    );
    assert_eq!(y, tensor(&[2, 2], &[1, 3, 2, 3]));
}

/// Any shape of up to four axes, some of extent 0 or 1, with its elements counted.
fn tensors() -> impl Strategy<Value = Tensor> {
    prop::collection::vec(0usize..5, 0..5).prop_map(|dims| iota(&dims))
}

fn permutations() -> impl Strategy<Value = (Tensor, Vec<usize>)> {
    tensors().prop_flat_map(|x| {
        let perm = Just((0..x.shape().rank()).collect::<Vec<_>>()).prop_shuffle();
        (Just(x), perm)
    })
}

proptest! {
    #[test]
    fn transposing_back_is_the_identity((x, perm) in permutations()) {
        let mut back = vec![0; perm.len()];
        for (to, &from) in perm.iter().enumerate() {
            back[from] = to;
        }
        let y = run(Op::Transpose { perm: Some(perm.clone()) }, &[&x]);
        // One element by its definition: Y[i] = X[i permuted].
        let (own, turned) = (x.shape().strides(), y.shape().strides());
        for (i, &found) in floats(&y).iter().enumerate() {
            let at: usize = (0..perm.len())
                .map(|a| i / turned[a] % y.shape()[a] * own[perm[a]])
                .sum();
            prop_assert_eq!(found, floats(&x)[at]);
        }
        prop_assert_eq!(run(Op::Transpose { perm: Some(back) }, &[&y]), x);
    }

    #[test]
    fn joining_the_parts_is_the_identity(x in tensors(), axis in 0usize..4, at in 0i64..6) {
        prop_assume!(axis < x.shape().rank());
        let axis = axis as i64;
        let head = slice(&x, &[(axis, 0, at, 1)]);
        let tail = slice(&x, &[(axis, at, i64::MAX, 1)]);
        prop_assert_eq!(run(Op::Concat { axis }, &[&head, &tail]), x);
    }

    #[test]
    fn reversing_twice_is_the_identity(x in tensors()) {
        let all: Vec<_> = (0..x.shape().rank() as i64).map(|a| (a, -1, i64::MIN, -1)).collect();
        let back = slice(&x, &all);
        let reversed: Vec<f32> = floats(&x).iter().rev().copied().collect();
        prop_assert_eq!(floats(&back), reversed);
        prop_assert_eq!(slice(&back, &all), x);
    }

    #[test]
    fn cutting_the_padding_off_is_the_identity(
        x in tensors(),
        mode in prop::sample::select(vec![
            PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap,
        ]),
        pads in prop::collection::vec(0i64..7, 8),
    ) {
        prop_assume!(mode == PadMode::Constant || !floats(&x).is_empty());
        let rank = x.shape().rank();
        let pads = &pads[..2 * rank];
        let y = run(Op::Pad { mode }, &[&x, &ints(pads)]);
        let cuts: Vec<_> = (0..rank)
            .map(|a| (a as i64, pads[a], pads[a] + x.shape()[a] as i64, 1))
            .collect();
        prop_assert_eq!(&slice(&y, &cuts), &x);
        let negative = ints(&pads.iter().map(|p| -p).collect::<Vec<_>>());
        prop_assert_eq!(run(Op::Pad { mode }, &[&y, &negative]), x);
    }

    #[test]
    fn gathering_all_is_the_identity(x in tensors(), axis in 0usize..4) {
        prop_assume!(axis < x.shape().rank());
        let n = x.shape()[axis] as i64;
        let from_back = ints(&(-n..0).collect::<Vec<_>>());
        prop_assert_eq!(run(Op::Gather { axis: axis as i64 }, &[&x, &from_back]), x);
    }

    #[test]
    fn reshaping_keeps_the_order(x in tensors(), axis in 0i64..5) {
        prop_assume!(axis <= x.shape().rank() as i64);
        let flat = run(Op::Flatten { axis }, &[&x]);
        prop_assert_eq!(floats(&flat), floats(&x));
        let dims: Vec<i64> = x.shape().iter().map(|&d| d as i64).collect();
        let back = run(Op::Reshape { allow_zero: true }, &[&flat, &ints(&dims)]);
        prop_assert_eq!(&back, &x);
        let view = View::new(&x.shape(), floats(&x)).expect("the same elements");
        prop_assert_eq!(view.to_tensor(), x);
    }
}

#[test]
fn ranges_up_and_down() {
    let range = |all: [i64; 3]| run(Op::Range, &all.map(Tensor::scalar).each_ref());
    assert_eq!(range([3, 9, 3]), ints(&[3, 6]));
    assert_eq!(range([3, 10, 3]), ints(&[3, 6, 9]));
    assert_eq!(range([10, 4, -2]), ints(&[10, 8, 6]));
    assert_eq!(range([1, 1, 5]), ints(&[]));
    assert_eq!(range([1, 0, 5]), ints(&[]));
    let half = run(Op::Range, &[1f32, 2.2, 0.5].map(Tensor::scalar).each_ref());
    assert_eq!(floats(&half), [1., 1.5, 2.]);
    let refused = |all: [i64; 3], says: &str| {
        let text = crate::try_run(Op::Range, &all.map(Tensor::scalar).each_ref());
        let text = text.expect_err("refused").to_string();
        assert!(text.contains(says), "{text}");
    };
    refused([1, 2, 0], "`delta`");
    refused([i64::MIN, i64::MAX, 1], "too many elements");
}
