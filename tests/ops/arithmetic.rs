//! Functions of one and two operands, selections, reductions.

use proptest::prelude::*;
use sluicegate::Tensor;
use sluicegate::graph::{Binary, Op, Reduction, Unary};

use crate::{bools, close, floats, ints, iota, refusal, run, tensor};

fn unary(op: Unary, x: &[f32]) -> Tensor {
    run(Op::Unary(op), &[&tensor(&[x.len()], x)])
}

fn binary(op: Binary, a: &Tensor, b: &Tensor) -> Tensor {
    run(Op::Binary(op), &[a, b])
}

#[test]
fn functions_of_one_float() {
    close(
        &unary(Unary::Round, &[0.5, 1.5, 2.5, -0.5, -1.7]),
        &[0., 2., 2., 0., -2.],
    );
    close(
        &unary(Unary::Erf, &[0.5, -1.0]),
        &[0.520_499_9, -0.842_700_8],
    );
    close(
        &unary(Unary::Gelu { tanh: false }, &[1.0, -2.0]),
        &[0.841_344_7, -0.045_500_3],
    );
    close(
        &unary(Unary::Gelu { tanh: true }, &[1.0, -2.0]),
        &[0.841_192, -0.045_402_3],
    );
    close(
        &unary(Unary::Softplus, &[0.0, 100.0, -100.0]),
        &[std::f32::consts::LN_2, 100., 0.],
    );
    close(
        &unary(Unary::Elu { alpha: 2.0 }, &[1.0, -1.0]),
        &[1.0, -1.264_241_1],
    );
    close(
        &unary(Unary::HardSwish, &[-4.0, 0.0, 1.0, 4.0]),
        &[0., 0., 2. / 3., 4.],
    );
    close(
        &unary(
            Unary::HardSigmoid {
                alpha: 0.2,
                beta: 0.5,
            },
            &[-5.0, 1.0, 9.0],
        ),
        &[0., 0.7, 1.],
    );
    close(&unary(Unary::Silu { alpha: 1.0 }, &[1.0]), &[0.731_058_6]);
    close(
        &unary(Unary::Sigmoid, &[0.0, -1000.0, 1000.0]),
        &[0.5, 0.0, 1.0],
    );
    assert!(floats(&unary(Unary::Relu, &[f32::NAN]))[0].is_nan());
}

#[test]
fn functions_of_one_integer() {
    let x = tensor(&[3], &[i8::MIN, -1, 5]);
    let with = |op| run(Op::Unary(op), &[&x]);
    assert_eq!(with(Unary::Abs), tensor(&[3], &[i8::MIN, 1, 5]));
    assert_eq!(with(Unary::Neg), tensor(&[3], &[i8::MIN, 1, -5]));
    assert_eq!(with(Unary::Relu), tensor(&[3], &[0i8, 0, 5]));
    assert!(refusal(Op::Unary(Unary::Exp), &[&x]).contains("not defined for i8"));
    let truth = bools(&[2], &[true, false]);
    assert_eq!(
        run(Op::Unary(Unary::Not), &[&truth]),
        bools(&[2], &[false, true])
    );
}

#[test]
fn integers_wrap_and_truncate() {
    let (a, b) = (
        tensor(&[3], &[i32::MAX, -7, i32::MIN]),
        tensor(&[3], &[2, 2, -1]),
    );
    assert_eq!(
        binary(Binary::Mul, &a, &b),
        tensor(&[3], &[-2, -14, i32::MIN])
    );
    assert_eq!(
        binary(Binary::Div, &a, &b),
        tensor(&[3], &[i32::MAX / 2, -3, i32::MIN])
    );
    let (a, b) = (tensor(&[2], &[250u8, 3]), tensor(&[2], &[10u8, 5]));
    assert_eq!(binary(Binary::Add, &a, &b), tensor(&[2], &[4u8, 8]));
    assert_eq!(binary(Binary::Sub, &a, &b), tensor(&[2], &[240u8, 254]));
    let zero = Tensor::scalar(0u8);
    assert!(refusal(Op::Binary(Binary::Div), &[&a, &zero]).contains("by zero"));
}

#[test]
fn powers_of_mixed_types() {
    let base = tensor(&[4], &[2i32, -1, 3, 2]);
    assert_eq!(
        binary(Binary::Pow, &base, &tensor(&[4], &[10i64, -3, 0, -1])),
        tensor(&[4], &[1024, -1, 1, 0])
    );
    let roots = tensor(&[4], &[0.5f32, 2.0, 2.0, 3.9]);
    assert_eq!(
        binary(Binary::Pow, &base, &roots),
        tensor(&[4], &[1, 1, 9, 14])
    );
    close(
        &binary(Binary::Pow, &tensor(&[1], &[2f32]), &ints(&[-1])),
        &[0.5],
    );
}

#[test]
fn the_larger_of_nan_is_nan() {
    let (a, b) = (
        tensor(&[3], &[f32::NAN, 1., 2.]),
        tensor(&[3], &[1., f32::NAN, 3.]),
    );
    for op in [Binary::Max, Binary::Min] {
        let y = binary(op, &a, &b);
        assert_eq!(
            floats(&y).iter().map(|y| y.is_nan()).collect::<Vec<_>>(),
            [true, true, false]
        );
    }
}

#[test]
fn comparisons_are_truth_values() {
    let (a, b) = (ints(&[1, 2, 3]), Tensor::scalar(2i64));
    for (op, expected) in [
        (Binary::Less, [true, false, false]),
        (Binary::LessOrEqual, [true, true, false]),
        (Binary::Equal, [false, true, false]),
        (Binary::Greater, [false, false, true]),
        (Binary::GreaterOrEqual, [false, true, true]),
    ] {
        assert_eq!(binary(op, &a, &b), bools(&[3], &expected), "{op:?}");
    }
    let (t, f) = (bools(&[], &[true]), bools(&[], &[false]));
    assert_eq!(binary(Binary::And, &t, &f), f);
    assert_eq!(binary(Binary::Or, &t, &f), t);
    assert_eq!(binary(Binary::Equal, &f, &f), t);
    assert!(refusal(Op::Binary(Binary::Add), &[&t, &f]).contains("bool"));
    assert!(refusal(Op::Binary(Binary::Add), &[&a, &t]).contains("`B`"));
}

#[test]
fn clip_bounds() {
    let x = tensor(&[4], &[-5i8, 0, 5, 9]);
    let (low, high) = (Tensor::scalar(-1i8), Tensor::scalar(6i8));
    assert_eq!(run(Op::Clip, &[&x]), x);
    assert_eq!(run(Op::Clip, &[&x, &low]), tensor(&[4], &[-1i8, 0, 5, 9]));
    assert_eq!(
        run(Op::Clip, &[&x, &low, &high]),
        tensor(&[4], &[-1i8, 0, 5, 6])
    );
    // The upper bound wins.
    assert_eq!(run(Op::Clip, &[&x, &high, &low]), tensor(&[4], &[-1i8; 4]));
    assert!(refusal(Op::Clip, &[&x, &ints(&[1])]).contains("`min`"));
}

#[test]
fn dead_channels_are_zero_whatever_they_hold() {
    let nan = f32::NAN;
    let x = tensor(&[2, 2, 2], &[1., nan, 3., 4., 5., 6., nan, nan]);
    let own = tensor(&[2, 2], &[0f32, 1., 1., 0.]);
    let y = run(Op::Mask { axis: 1 }, &[&x, &own]);
    assert_eq!(floats(&y), [0., 0., 3., 4., 5., 6., 0., 0.]);
    let shared = bools(&[1, 2], &[true, false]);
    let y = run(Op::Mask { axis: 2 }, &[&iota(&[2, 2, 2]), &shared]);
    assert_eq!(floats(&y), [0., 0., 2., 0., 4., 0., 6., 0.]);
    let y = run(Op::Mask { axis: 0 }, &[&iota(&[2, 2]), &shared]);
    assert_eq!(floats(&y), [0., 1., 0., 0.]);
    assert!(refusal(Op::Mask { axis: 1 }, &[&iota(&[3, 2]), &own]).contains("does not fit"));
}

fn reduce(kind: Reduction, x: &Tensor, axes: &[i64]) -> Tensor {
    let op = Op::Reduce {
        kind,
        keep_dims: false,
        noop_with_empty_axes: false,
    };
    run(op, &[x, &ints(axes)])
}

#[test]
fn reductions() {
    let x = iota(&[2, 3, 2]);
    assert_eq!(
        floats(&reduce(Reduction::Sum, &x, &[0, -1])),
        [14., 22., 30.]
    );
    assert_eq!(floats(&reduce(Reduction::Mean, &x, &[1])), [2., 3., 8., 9.]);
    assert_eq!(floats(&reduce(Reduction::Max, &x, &[])), [11.]);
    let noop = Op::Reduce {
        kind: Reduction::Sum,
        keep_dims: true,
        noop_with_empty_axes: true,
    };
    assert_eq!(run(noop, &[&x]), x);
    let truth = bools(&[2, 2], &[true, false, false, false]);
    assert_eq!(
        reduce(Reduction::Max, &truth, &[1]),
        bools(&[2], &[true, false])
    );
    let wrapping = tensor(&[2], &[i32::MAX, 1]);
    assert_eq!(
        reduce(Reduction::Sum, &wrapping, &[0]),
        Tensor::scalar(i32::MIN)
    );
    assert_eq!(
        reduce(Reduction::Mean, &ints(&[-3, -4]), &[0]),
        Tensor::scalar(-3i64)
    );
}

#[test]
fn reductions_of_nothing() {
    let x = tensor::<f32>(&[2, 0], &[]);
    assert_eq!(floats(&reduce(Reduction::Sum, &x, &[1])), [0., 0.]);
    assert_eq!(
        floats(&reduce(Reduction::Max, &x, &[1])),
        [f32::NEG_INFINITY; 2]
    );
    assert!(floats(&reduce(Reduction::Mean, &x, &[1]))[0].is_nan());
    assert_eq!(floats(&reduce(Reduction::Max, &x, &[0])), [0.; 0]);
    let x = tensor::<i8>(&[0], &[]);
    assert_eq!(reduce(Reduction::Max, &x, &[0]), Tensor::scalar(i8::MIN));
    assert_eq!(
        reduce(Reduction::Max, &bools(&[0], &[]), &[0]),
        bools(&[], &[false])
    );
}

/// Two shapes that broadcast: some extents of a common one replaced by 1, leading axes left out.
fn pairs() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    let one = |full: Vec<usize>| {
        let n = full.len();
        (Just(full), prop::collection::vec(any::<bool>(), n), 0..=n).prop_map(
            |(full, ones, skip)| {
                let dims = full
                    .iter()
                    .zip(ones)
                    .map(|(&d, one)| if one { 1 } else { d });
                dims.skip(skip).collect::<Vec<_>>()
            },
        )
    };
    prop::collection::vec(0usize..4, 0..5).prop_flat_map(move |full| (one(full.clone()), one(full)))
}

proptest! {
    #[test]
    fn broadcasting_equals_loops((a, b) in pairs()) {
        let (x, w) = (iota(&a), iota(&b));
        let y = binary(Binary::Sub, &x, &w);
        let strides = y.shape().strides();
        for (i, &found) in floats(&y).iter().enumerate() {
            let pick = |t: &Tensor| {
                let shift = y.shape().rank() - t.shape().rank();
                let own = t.shape().strides();
                let at = |axis: usize| i / strides[axis + shift] % y.shape()[axis + shift];
                let place: usize = (0..t.shape().rank())
                    .map(|axis| if t.shape()[axis] == 1 { 0 } else { at(axis) * own[axis] })
                    .sum();
                floats(t)[place]
            };
            prop_assert_eq!(found, pick(&x) - pick(&w));
        }
    }

    #[test]
    fn reducing_axis_by_axis_is_reducing_all(dims in prop::collection::vec(0usize..4, 1..5)) {
        let x = iota(&dims);
        let once = reduce(Reduction::Sum, &x, &[]);
        let steps = (0..dims.len()).fold(x, |x, _| reduce(Reduction::Sum, &x, &[0]));
        prop_assert_eq!(once, steps);
    }
}
