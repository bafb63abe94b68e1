//! Convolutions, pools, products of matrices, normalisations.

use proptest::prelude::*;
use sluicegate::Tensor;
use sluicegate::graph::{Op, Padding, Window};

use crate::{close, floats, iota, refusal, run, run_all, tensor};

fn conv(window: Window, groups: usize) -> Op {
    Op::Conv { window, groups }
}

fn ones(dims: &[usize]) -> Tensor {
    tensor(dims, &vec![1f32; dims.iter().product()])
}

#[test]
fn conv_by_hand() {
    let x = iota(&[1, 1, 3, 3]);
    let y = run(
        conv(Window::default(), 1),
        &[&x, &ones(&[1, 1, 2, 2]), &tensor(&[1], &[100f32])],
    );
    assert_eq!(floats(&y), [108., 112., 120., 124.]);
    let same = Window {
        padding: Padding::SameUpper,
        strides: vec![2, 2],
        ..Window::default()
    };
    assert_eq!(
        floats(&run(conv(same, 1), &[&x, &ones(&[1, 1, 2, 2])])),
        [8., 7., 13., 8.]
    );
    let dilated = Window {
        dilations: vec![2],
        ..Window::default()
    };
    let y = run(conv(dilated, 2), &[&iota(&[1, 2, 4]), &ones(&[2, 1, 2])]);
    assert_eq!(floats(&y), [2., 4., 10., 12.]);
    let none = tensor::<f32>(&[0, 1, 3, 3], &[]);
    let y = run(conv(Window::default(), 1), &[&none, &ones(&[5, 1, 2, 2])]);
    assert_eq!(*y.shape(), [0, 5, 2, 2]);
    let what = refusal(conv(Window::default(), 2), &[&x, &ones(&[1, 1, 2, 2])]);
    assert!(what.contains("2 groups"), "{what}");
}

/// Σ over all taps, each looked up on its own, in two dimensions.
fn conv_direct(x: &Tensor, w: &Tensor, groups: usize, win: &Window, out: &[usize]) -> Vec<f32> {
    let (xs, ws) = (x.shape(), w.shape());
    let Padding::Explicit(pads) = &win.padding else {
        unreachable!("explicit in this test")
    };
    let mut all = Vec::new();
    for (n, m) in (0..out[0]).flat_map(|n| (0..out[1]).map(move |m| (n, m))) {
        for (oh, ow) in (0..out[2]).flat_map(|h| (0..out[3]).map(move |w| (h, w))) {
            let mut sum = 0.0;
            for (c, i) in (0..ws[1]).flat_map(|c| (0..ws[2] * ws[3]).map(move |i| (c, i))) {
                let (kh, kw) = (i / ws[3], i % ws[3]);
                let h = (oh * win.strides[0] + kh * win.dilations[0]).wrapping_sub(pads[0]);
                let v = (ow * win.strides[1] + kw * win.dilations[1]).wrapping_sub(pads[1]);
                if h < xs[2] && v < xs[3] {
                    let from = m / (ws[0] / groups) * ws[1] + c;
                    let x = floats(x)[((n * xs[1] + from) * xs[2] + h) * xs[3] + v];
                    sum += f64::from(x * floats(w)[(m * ws[1] + c) * ws[2] * ws[3] + i]);
                }
            }
            all.push(sum as f32);
        }
    }
    all
}

fn windows() -> impl Strategy<Value = Window> {
    let pair = || prop::collection::vec(1usize..4, 2);
    (pair(), pair(), pair(), prop::collection::vec(0usize..4, 4)).prop_map(
        |(kernel, strides, dilations, pads)| Window {
            kernel,
            strides,
            dilations,
            padding: Padding::Explicit(pads),
        },
    )
}

proptest! {
    #[test]
    fn conv_equals_direct_sums(
        win in windows(),
        (groups, c, m, n) in (1usize..3, 1usize..3, 1usize..3, 0usize..3),
        (h, w) in (0usize..8, prop::sample::select(vec![0usize, 1, 2, 5, 9, 63, 70, 130])),
    ) {
        let x = iota(&[n, c * groups, h, w]);
        let k = iota(&[m * groups, c, win.kernel[0], win.kernel[1]]);
        match crate::try_run(conv(win.clone(), groups), &[&x, &k]) {
            Ok(y) => {
                let expected = conv_direct(&x, &k, groups, &win, &y.shape());
                prop_assert_eq!(floats(&y), expected);
            }
            Err(error) => prop_assert!(error.to_string().contains("does not fit")),
        }
    }

    #[test]
    fn pools_equal_what_lies_under_the_window(
        win in windows(),
        (h, w, ceil) in (1usize..9, 1usize..9, any::<bool>()),
    ) {
        let x = run(
            Op::Binary(sluicegate::graph::Binary::Mul),
            &[&iota(&[1, 2, h, w]), &tensor(&[w], &vec![-1f32; w])],
        );
        let op = Op::MaxPool { window: win.clone(), ceil, column_major_indices: false };
        let Ok(all) = run_all(&op, &[Some(&x)], 2) else { return Ok(()) };
        let (y, places) = (&all[0], all[1].as_slice::<i64>().expect("places"));
        let average = |count_include_pad| {
            run(Op::AveragePool { window: win.clone(), ceil, count_include_pad }, &[&x])
        };
        let (mean, over_pad) = (average(false), average(true));
        let Padding::Explicit(pads) = &win.padding else { unreachable!("explicit in this test") };
        let (oh, ow) = (y.shape()[2], y.shape()[3]);
        for i in 0..2 * oh * ow {
            let (c, a, b) = (i / (oh * ow), i / ow % oh, i % ow);
            let (mut under, mut counted) = (Vec::new(), 0);
            for (kh, kw) in (0..win.kernel[0]).flat_map(|k| (0..win.kernel[1]).map(move |l| (k, l))) {
                let r = a * win.strides[0] + kh * win.dilations[0];
                let s = b * win.strides[1] + kw * win.dilations[1];
                counted += usize::from(r < h + pads[0] + pads[2] && s < w + pads[1] + pads[3]);
                let (r, s) = (r.wrapping_sub(pads[0]), s.wrapping_sub(pads[1]));
                if r < h && s < w {
                    under.push((c * h + r) * w + s);
                }
            }
            let values = || under.iter().map(|&p| floats(&x)[p]);
            let max = values().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(floats(y)[i], max);
            let sum: f32 = values().sum();
            if !under.is_empty() {
                prop_assert!(under.contains(&(places[i] as usize)));
                prop_assert_eq!(floats(&x)[places[i] as usize], max);
                prop_assert!((floats(&mean)[i] - sum / under.len() as f32).abs() < 1e-4);
                prop_assert!((floats(&over_pad)[i] - sum / counted as f32).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_convolution_of_points_is_a_product(
        (n, c, m, pixels) in (0usize..3, 0usize..5, 1usize..5, 1usize..140),
    ) {
        let (x, w) = (iota(&[n, c, pixels]), iota(&[m, c, 1]));
        let y = run(conv(Window::default(), 1), &[&x, &w]);
        let product = run(Op::MatMul, &[&iota(&[m, c]), &x]);
        prop_assert_eq!(y, product);
    }
}

#[test]
fn max_pool_of_other_types_and_nan() {
    let window = Window {
        kernel: vec![2],
        ..Window::default()
    };
    let op = Op::MaxPool {
        window,
        ceil: false,
        column_major_indices: false,
    };
    let y = run(op.clone(), &[&tensor(&[1, 1, 3], &[-3i8, -4, -5])]);
    assert_eq!(y, tensor(&[1, 1, 2], &[-3i8, -4]));
    let y = run(op, &[&tensor(&[1, 1, 4], &[1., f32::NAN, 3., 4.])]);
    assert!(floats(&y)[0].is_nan() && floats(&y)[1].is_nan() && floats(&y)[2] == 4.0);
}

#[test]
fn max_pool_indices_in_both_orders() {
    let window = Window {
        kernel: vec![2, 2],
        ..Window::default()
    };
    for (column_major_indices, expected) in [(false, [4, 5, 10, 11]), (true, [3, 5, 9, 11])] {
        let op = Op::MaxPool {
            window: window.clone(),
            ceil: false,
            column_major_indices,
        };
        let all = run_all(&op, &[Some(&iota(&[1, 2, 2, 3]))], 2).expect("two results");
        assert_eq!(all[1], tensor(&[1, 2, 1, 2], &expected.map(|i: i64| i)));
    }
}

#[test]
fn global_pools() {
    let x = iota(&[1, 2, 2, 2]);
    let average = run(Op::GlobalAveragePool, &[&x]);
    assert_eq!(
        (&*average.shape(), floats(&average)),
        (&[1, 2, 1, 1][..], &[1.5, 5.5][..])
    );
    assert_eq!(floats(&run(Op::GlobalMaxPool, &[&x])), [3., 7.]);
}

#[test]
fn matmul_of_vectors_and_batches() {
    let (v, m) = (iota(&[2]), iota(&[2, 3]));
    assert_eq!(run(Op::MatMul, &[&v, &m]), tensor(&[3], &[3f32, 4., 5.]));
    assert_eq!(
        run(Op::MatMul, &[&m, &iota(&[3])]),
        tensor(&[2], &[5f32, 14.])
    );
    assert_eq!(run(Op::MatMul, &[&v, &v]), Tensor::scalar(1f32));
    let y = run(Op::MatMul, &[&iota(&[2, 1, 1, 2]), &iota(&[3, 2, 1])]);
    assert_eq!(
        (&*y.shape(), floats(&y)),
        (&[2, 3, 1, 1][..], &[1., 3., 5., 3., 13., 23.][..])
    );
    let y = run(
        Op::MatMul,
        &[&tensor(&[1, 2], &[i32::MAX, 3]), &tensor(&[2, 1], &[2, 1])],
    );
    assert_eq!(y, tensor(&[1, 1], &[1]));
    let empty = run(
        Op::MatMul,
        &[&tensor::<f32>(&[2, 0], &[]), &tensor::<f32>(&[0, 1], &[])],
    );
    assert_eq!(floats(&empty), [0., 0.]);
    assert!(refusal(Op::MatMul, &[&m, &m]).contains("cannot be multiplied"));
    assert!(refusal(Op::MatMul, &[&Tensor::scalar(1f32), &m]).contains("cannot be multiplied"));
}

#[test]
fn gemm_scales_and_adds() {
    let op = |trans_a, trans_b| Op::Gemm {
        alpha: 2.0,
        beta: 0.5,
        trans_a,
        trans_b,
    };
    let (a, b) = (iota(&[3, 2]), iota(&[2, 3]));
    let c = tensor(&[2, 1], &[2f32, 4.]);
    assert_eq!(
        floats(&run(op(true, true), &[&a, &b, &c])),
        [21., 57., 28., 82.]
    );
    let row = tensor(&[3], &[2f32, 4., 6.]);
    let y = run(op(false, false), &[&a, &b, &row]);
    assert_eq!(floats(&y), [7., 10., 13., 19., 30., 41., 31., 50., 69.]);
    let y = run(
        op(true, true),
        &[&tensor(&[1, 1], &[3i32]), &tensor(&[1, 1], &[4])],
    );
    assert_eq!(y, tensor(&[1, 1], &[24]));
    assert!(refusal(op(false, false), &[&a, &b, &iota(&[2])]).contains("`C`"));
}

#[test]
fn normalisations() {
    let x = tensor(&[1, 2, 2], &[1f32, 3., 2., 6.]);
    let pair = |a, b| tensor(&[2], &[a, b]);
    let y = run(
        Op::BatchNorm { epsilon: 0.0 },
        &[
            &x,
            &pair(2., 1.),
            &pair(1., 0.),
            &pair(1., 2.),
            &pair(4., 1.),
        ],
    );
    close(&y, &[1., 3., 0., 4.]);
    let op = Op::LayerNorm {
        axis: -1,
        epsilon: 0.0,
    };
    let all = run_all(
        &op,
        &[Some(&x), Some(&pair(1., 2.)), Some(&pair(0., 10.))],
        3,
    );
    let all = all.expect("three results");
    close(&all[0], &[-1., 12., -1., 12.]);
    close(&all[1], &[2., 4.]);
    close(&all[2], &[1., 0.5]);
    assert_eq!(*all[1].shape(), [1, 2, 1]);
    let y = run(
        Op::RmsNorm {
            axis: 1,
            epsilon: 0.0,
        },
        &[&x, &pair(1., 2.)],
    );
    let root = 12.5f32.sqrt();
    close(&y, &[1. / root, 6. / root, 2. / root, 12. / root]);
}

#[test]
fn softmax_along_one_axis_and_flattened() {
    let x = tensor(&[1, 2, 2], &[0f32, 1000., 0., 1000.]);
    let softmax = |axis, flatten| run(Op::Softmax { axis, flatten }, &[&x]);
    close(&softmax(1, false), &[0.5; 4]);
    close(&softmax(-1, false), &[0., 1., 0., 1.]);
    close(&softmax(1, true), &[0., 0.5, 0., 0.5]);
    let y = run(
        Op::LogSoftmax {
            axis: 2,
            flatten: false,
        },
        &[&x],
    );
    close(&y, &[-1000., 0., -1000., 0.]);
}
