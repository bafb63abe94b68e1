//! The laws of convolution when it is computed by Winograd's filtering, on every instruction set of this machine.

mod common;

use common::conv::{Case, case_of, run};
use common::{Mask, floats};
use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::Conv;
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::reference::conv as reference;
use sluicegate_kernels::reference::matmul::Sum;
use sluicegate_kernels::{Channels, Error, Isa};

const FORMS: [Algorithm; 2] = [Algorithm::Winograd2, Algorithm::Winograd4];

fn window(c_in: usize, c_out: usize, pads: [usize; 4]) -> ConvShape {
    ConvShape {
        c_in,
        c_out,
        groups: 1,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads,
    }
}

/// For each output channel, how far its sums may be off: the documented bound, with the greatest input of the whole map.
fn tolerances(case: &Case, algorithm: Algorithm) -> Vec<f64> {
    let (x, weights, plane) = (case.x(), case.weights(), case.hw.0 * case.hw.1);
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
    let greatest: Vec<f64> = x
        .chunks(plane)
        .map(|x| x.iter().fold(0.0, |m: f64, x| m.max(f64::from(x.abs()))))
        .collect();
    let growth = if algorithm == Algorithm::Winograd2 {
        16.0
    } else {
        176.0
    };
    let steps = (case.shape.c_in + 24) as f64;
    weights
        .chunks(9 * case.shape.c_in)
        .map(|w| {
            let terms = w.chunks(9).zip(&greatest);
            let sum: f64 = terms.map(|(w, &x)| norm(w) * x).sum();
            f64::from(f32::EPSILON) / 2.0 * (growth * steps * sum + 2.0)
        })
        .collect()
}

fn case(channels: usize, side: usize) -> impl Strategy<Value = Case> {
    let extents = (1..channels, 1..channels, prop::array::uniform4(0..4usize));
    case_of(
        (extents, [0..side, 0..side]).prop_map(|((c_in, c_out, pads), extra)| {
            let side = |axis: usize| 3usize.saturating_sub(pads[axis] + pads[axis + 2]).max(1);
            let hw = (side(0) + extra[0], side(1) + extra[1]);
            (window(c_in, c_out, pads), hw)
        }),
    )
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let tolerances = FORMS.map(|form| tolerances(case, form));
    let admits = |form, channel: usize, y: f32, sum: Sum| {
        let of = usize::from(form == Algorithm::Winograd4);
        (f64::from(y) - sum.value).abs() <= tolerances[of][channel]
    };
    common::conv::check(case, &FORMS, admits)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn laws_on_small_shapes(case in case(40, 20)) {
        check(&case)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Several blocks of tiles and of channels; enough work for threads.
    #[test]
    fn laws_on_large_shapes(case in case(140, 45)) {
        check(&case)?;
    }
}

/// Output masks under which panels are computed whole, row by row, and not at all; maps of one block and of several.
#[test]
fn outputs_live_in_part_of_a_panel() {
    let masks: [fn(usize) -> bool; 7] = [
        |c| c % 10 != 3,
        |c| c * 7 % 16 < 11,
        |c| c * 5 % 11 < 6,
        |c| c % 16 == 5,
        |c| c % 12 == 11,
        |c| c / 16 != 1 && c % 9 != 0,
        |c| c < 24 || c % 3 == 0,
    ];
    for (c_in, c_out, hw) in [(400, 70, (5, 6)), (19, 100, (14, 14)), (9, 60, (23, 30))] {
        for live in masks {
            let mut case = Case::dense(window(c_in, c_out, [1; 4]), hw);
            case.live_out = Mask::new(&(0..c_out).map(live).collect::<Vec<_>>());
            check(&case).unwrap();
            case.live_in = Mask::new(&(0..c_in).map(|c| c % 10 != 4).collect::<Vec<_>>());
            check(&case).unwrap();
        }
    }
}

#[test]
fn every_width_around_the_vectors() {
    for w in 1..=75 {
        check(&Case::dense(window(2, 3, [1; 4]), (5, w))).unwrap();
        check(&Case::dense(window(1, 2, [0, 2, 1, 0]), (w + 1, 7))).unwrap();
    }
}

#[test]
fn every_channel_count_around_the_tiles() {
    for channels in 1..=50 {
        check(&Case::dense(window(3, channels, [1; 4]), (9, 14))).unwrap();
        check(&Case::dense(window(channels, 5, [1; 4]), (6, 6))).unwrap();
    }
}

/// The measured errors that the documentation states, relative to the sum of the magnitudes of the terms.
#[test]
fn errors_are_as_documented() {
    let case = Case::dense(window(64, 64, [1; 4]), (20, 20));
    let (x, weights, bias) = (case.x(), case.weights(), case.bias());
    let sums = reference::conv(&case.shape, case.hw, &x, &weights, bias.as_deref(), None).unwrap();
    for isa in Isa::available() {
        for (form, most) in FORMS.into_iter().zip([2.5e-7, 8e-7]) {
            let y = run(&case.pack(isa, form, false), &Serial, &case, &x, None, None);
            let worst = y.iter().zip(&sums).fold(0.0, |worst: f64, (&y, sum)| {
                let want = sum.activated(case.activation).value;
                worst.max((f64::from(y) - want).abs() / sum.magnitude)
            });
            assert!(worst < most, "{isa} {form:?}: {worst:e}");
        }
    }
}

#[test]
fn other_windows_and_bad_operands_are_errors() {
    let shape = window(4, 6, [1; 4]);
    let weights = [0.5; 4 * 6 * 9];
    for algorithm in FORMS {
        let spec = |shape| ConvSpec {
            shape,
            weights: &weights,
            bias: None,
            activation: Activation::None,
            live_in: None,
            live_out: None,
            masked_outputs: false,
            algorithm,
        };
        let isa = Isa::best();
        for (kernel, stride, dilation, groups) in [
            ([1, 9], [1, 1], [1, 1], 1),
            ([3, 3], [1, 2], [1, 1], 1),
            ([3, 3], [1, 1], [2, 1], 1),
            ([3, 3], [1, 1], [1, 1], 2),
        ] {
            let other = ConvShape {
                c_out: 6 * groups,
                kernel,
                stride,
                dilation,
                groups,
                ..shape
            };
            let refused = Conv::pack(isa, &spec(other), (9, 9));
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{other:?}");
        }
        for hw in [(usize::MAX, 3), (0, 3), (1 << 20, 1 << 20)] {
            assert!(Conv::pack(isa, &spec(shape), hw).is_err(), "{hw:?}");
        }
        let conv = Conv::pack(isa, &spec(shape), (2, 3)).unwrap();
        let mut scratch = vec![0.0; conv.scratch_len(1)];
        let (x, mut y) = ([0.0; 24], [0.0; 36]);
        let six = Mask::new(&[true; 6]);
        let mut go = |x: &[f32], live: Option<Channels<'_>>, cut: usize| {
            let (y, scratch) = (&mut y[cut..], &mut scratch[cut..]);
            conv.run(&Serial, x, live, None, y, scratch)
        };
        assert_eq!(go(&x, None, 0), Ok(()));
        let short = |operand| matches!(operand, Err(Error::TooShort { .. }));
        assert!(short(go(&x[1..], None, 0)));
        assert!(short(go(&x, None, 1)));
        assert!(go(&x, Some(six.view()), 0).is_err());
    }
}

#[test]
fn the_fastest_is_one_of_them() {
    let isa = Isa::best();
    let name = |shape: ConvShape, side, algorithm| {
        let weights = floats(shape.weights_len().unwrap(), 1);
        let spec = ConvSpec {
            shape,
            weights: &weights,
            bias: None,
            activation: Activation::None,
            live_in: None,
            live_out: None,
            masked_outputs: false,
            algorithm,
        };
        Conv::pack(isa, &spec, (side, side)).unwrap().row_name()
    };
    let shape = window(64, 64, [1; 4]);
    let (direct, large) = (name(shape, 56, Algorithm::Direct), Algorithm::Winograd4);
    assert_eq!(name(shape, 56, Algorithm::Fastest), name(shape, 56, large));
    let narrow = window(1, 8, [1; 4]);
    assert_eq!(name(narrow, 5, Algorithm::Fastest), direct);
    let strided = ConvShape {
        stride: [2, 2],
        ..shape
    };
    assert_eq!(name(strided, 56, Algorithm::Fastest), direct);
}

/// Few live inputs are computed directly, whichever mask says so, and more by the filtering.
#[test]
fn few_live_inputs_are_direct() {
    let (shape, side) = (window(64, 48, [1; 4]), 40);
    let (x, weights) = (
        floats(64 * side * side, 1),
        floats(shape.weights_len().unwrap(), 2),
    );
    for isa in Isa::available() {
        let run = |algorithm, fold: bool, live: &[u64]| {
            let live = Channels::new(live, 64).unwrap();
            let spec = ConvSpec {
                shape,
                weights: &weights,
                bias: None,
                activation: Activation::None,
                live_in: fold.then_some(live),
                live_out: None,
                masked_outputs: false,
                algorithm,
            };
            let conv = Conv::pack(isa, &spec, (side, side)).unwrap();
            let mut scratch = vec![f32::NAN; conv.scratch_len(1)];
            let mut y = vec![0.0; 48 * side * side];
            let live = (!fold).then_some(live);
            conv.run(&Serial, &x, live, None, &mut y, &mut scratch)
                .unwrap();
            y.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
        };
        let mut seen = [false; 2];
        for live in (0..64).map(|n| !0u64 >> n) {
            let adaptive = run(Algorithm::Adaptive, false, &[live]);
            assert_eq!(run(Algorithm::Adaptive, true, &[live]), adaptive, "{isa}");
            let filtered = run(Algorithm::Fastest, false, &[live]) == adaptive;
            let direct = run(Algorithm::Direct, false, &[live]) == adaptive;
            assert!(filtered || direct, "{isa}: {live:b}");
            seen[usize::from(direct)] = true;
        }
        assert_eq!(seen, [true; 2], "{isa}: both are there");
    }
}
