//! Shapes: Reshape and its kin, windows, what infer says without elements.

use sluicegate::graph::{Op, Padding, Window};
use sluicegate::ops::{Fact, broadcast, infer};
use sluicegate::{DType, Shape, Tensor};

use crate::{ints, iota, refusal, run, tensor};

fn reshaped(from: &[usize], to: &[i64], allow_zero: bool) -> Vec<usize> {
    run(Op::Reshape { allow_zero }, &[&iota(from), &ints(to)])
        .shape()
        .to_vec()
}

#[test]
fn reshape_copies_and_fills() {
    assert_eq!(reshaped(&[2, 3, 4], &[0, -1], false), [2, 12]);
    assert_eq!(reshaped(&[2, 3, 4], &[-1, 0], false), [8, 3]);
    assert_eq!(reshaped(&[0, 3], &[3, 0], true), [3, 0]);
    assert_eq!(reshaped(&[1, 1], &[], false), [0; 0]);
    // A batch of no samples still says how large a sample is.
    assert_eq!(reshaped(&[0, 8, 8], &[0, -1], false), [0, 64]);
    assert_eq!(reshaped(&[0, 8, 8], &[-1, 64], false), [0, 64]);
}

#[test]
fn reshape_refuses_what_does_not_fill() {
    let op = || Op::Reshape { allow_zero: false };
    let x = iota(&[2, 3]);
    for (to, says) in [
        (&[4, -1][..], "do not fill"),
        (&[-1, -1], "more than one -1"),
        (&[-2, 3], "extent of -2"),
        (&[6, 1, 0], "axis 2"),
        (&[i64::MAX, i64::MAX], "too many"),
        (&[1; 9], "8 axes"),
    ] {
        let what = refusal(op(), &[&x, &ints(to)]);
        assert!(what.contains(says), "{to:?}: {what}");
    }
}

#[test]
fn squeeze_and_unsqueeze() {
    let x = iota(&[1, 3, 1]);
    assert_eq!(*run(Op::Squeeze, &[&x]).shape(), [3]);
    assert_eq!(*run(Op::Squeeze, &[&x, &ints(&[-1])]).shape(), [1, 3]);
    assert_eq!(
        *run(Op::Unsqueeze, &[&x, &ints(&[-1, 0])]).shape(),
        [1, 1, 3, 1, 1]
    );
    assert!(refusal(Op::Squeeze, &[&x, &ints(&[1])]).contains("not 1"));
    assert!(refusal(Op::Unsqueeze, &[&x, &ints(&[0, 0])]).contains("twice"));
}

#[test]
fn shape_clamps_its_ends() {
    let x = iota(&[2, 3, 4]);
    let told = |start, end| {
        let y = run(Op::Shape { start, end }, &[&x]);
        y.as_slice::<i64>().expect("integers").to_vec()
    };
    assert_eq!(told(0, None), [2, 3, 4]);
    assert_eq!(told(-2, Some(-1)), [3]);
    assert_eq!(told(i64::MIN, Some(i64::MAX)), [2, 3, 4]);
    assert_eq!(told(2, Some(1)), [0; 0]);
}

#[test]
fn infer_needs_the_values_of_shapes_only() {
    let fact = |dtype, dims: &[usize]| Fact {
        dtype,
        shape: Shape::new(dims).expect("a shape"),
        value: None,
    };
    let (x, list) = (fact(DType::F32, &[2, 3]), fact(DType::I64, &[2]));
    let reshape = Op::Reshape { allow_zero: false };
    let error = infer(&reshape, &[Some(x), Some(list)], 1).expect_err("the shape is not known");
    assert!(error.to_string().contains("depends on data"), "{error}");
    let gathered = infer(&Op::Gather { axis: 0 }, &[Some(x), Some(list)], 1).expect("a shape");
    assert_eq!((gathered[0].0, &*gathered[0].1), (DType::F32, &[2, 3][..]));
}

#[test]
fn broadcasting_shapes() {
    let shape = |dims: &[usize]| Shape::new(dims).expect("a shape");
    let both = |a: &[usize], b: &[usize]| broadcast(shape(a), shape(b)).ok().map(|s| s.to_vec());
    assert_eq!(both(&[2, 1], &[3]), Some(vec![2, 3]));
    assert_eq!(both(&[], &[0, 1]), Some(vec![0, 1]));
    assert_eq!(both(&[0], &[1]), Some(vec![0]));
    assert_eq!(both(&[2], &[3]), None);
    assert_eq!(both(&[0], &[3]), None);
}

fn window(kernel: usize, stride: usize, dilation: usize, padding: Padding) -> Window {
    Window {
        kernel: vec![kernel],
        strides: vec![stride],
        dilations: vec![dilation],
        padding,
    }
}

#[test]
fn windows_resolve() {
    // (kernel, stride, dilation, padding, extent, ceil) -> (begin, end, output)
    let explicit = |begin, end| Padding::Explicit(vec![begin, end]);
    for (case, expected) in [
        ((3, 2, 1, explicit(1, 1), 8, false), Some((1, 1, 4))),
        ((3, 2, 1, explicit(0, 0), 8, true), Some((0, 0, 4))),
        // The last window would begin in the padding behind the map.
        ((1, 2, 1, explicit(0, 1), 2, true), Some((0, 1, 1))),
        ((2, 2, 1, explicit(0, 0), 1, true), Some((0, 0, 1))),
        ((3, 2, 1, Padding::SameUpper, 8, false), Some((0, 1, 4))),
        ((3, 2, 1, Padding::SameLower, 8, false), Some((1, 0, 4))),
        ((3, 1, 2, Padding::SameUpper, 5, false), Some((2, 2, 5))),
        ((3, 1, 1, Padding::SameUpper, 0, false), Some((0, 0, 0))),
        ((3, 1, 2, Padding::Valid, 5, false), Some((0, 0, 1))),
        ((3, 1, 2, Padding::Valid, 4, false), None),
        ((0, 1, 1, Padding::Valid, 4, false), None),
        ((2, 0, 1, Padding::Valid, 4, false), None),
        (
            (usize::MAX, 1, usize::MAX, Padding::SameUpper, 4, false),
            None,
        ),
        (
            (2, usize::MAX, 1, Padding::SameUpper, 4, false),
            Some((0, 0, 1)),
        ),
        ((2, 1, 1, explicit(usize::MAX, 1), 4, false), None),
    ] {
        let (kernel, stride, dilation, padding, extent, ceil) = case.clone();
        let found = window(kernel, stride, dilation, padding).resolve(&[kernel], &[extent], ceil);
        let found = found.ok().map(|w| (w.begins[0], w.ends[0], w.output[0]));
        assert_eq!(found, expected, "{case:?}");
    }
}

#[test]
fn casts() {
    let cast = |x: &Tensor, to| run(Op::Cast { to }, &[x]);
    let x = tensor(&[5], &[-1.9f32, 300.7, f32::NAN, 0.0, f32::INFINITY]);
    assert_eq!(cast(&x, DType::I8), tensor(&[5], &[-1i8, 127, 0, 0, 127]));
    assert_eq!(cast(&x, DType::U8), tensor(&[5], &[0u8, 255, 0, 0, 255]));
    let truth = cast(&x, DType::Bool);
    assert_eq!(truth, crate::bools(&[5], &[true, true, true, false, true]));
    assert_eq!(
        cast(&truth, DType::F32),
        tensor(&[5], &[1f32, 1., 1., 0., 1.])
    );
    assert_eq!(
        cast(&ints(&[257, -1]), DType::U8),
        tensor(&[2], &[1u8, 255])
    );
}
