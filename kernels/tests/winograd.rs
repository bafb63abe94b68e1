//! The laws of convolution when it is computed by Winograd's filtering, on every instruction set of this machine.

mod common;

use common::{Mask, Threads, activation, bits, floats, mask};
use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::Conv;
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::reference::conv as reference;
use sluicegate_kernels::{Channels, Error, Isa};

const FORMS: [Algorithm; 2] = [Algorithm::Winograd2, Algorithm::Winograd4];

#[derive(Debug, Clone)]
struct Case {
    shape: ConvShape,
    hw: (usize, usize),
    bias: bool,
    activation: Activation,
    live_in: Mask,
    live_out: Mask,
    seed: u64,
}

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

impl Case {
    fn dense(shape: ConvShape, hw: (usize, usize)) -> Self {
        Case {
            shape,
            hw,
            bias: true,
            activation: Activation::Relu,
            live_in: Mask::new(&vec![true; shape.c_in]),
            live_out: Mask::new(&vec![true; shape.c_out]),
            seed: 5,
        }
    }
    fn pixels(&self) -> usize {
        let (oh, ow) = self.shape.output(self.hw).unwrap();
        oh * ow
    }
    fn x(&self) -> Vec<f32> {
        floats(self.shape.c_in * self.hw.0 * self.hw.1, self.seed)
    }
    fn weights(&self) -> Vec<f32> {
        floats(self.shape.c_out * self.shape.c_in * 9, self.seed + 1)
    }
    fn bias(&self) -> Option<Vec<f32>> {
        self.bias.then(|| floats(self.shape.c_out, self.seed + 2))
    }
    fn pack(&self, isa: Isa, algorithm: Algorithm, fold: bool) -> Conv {
        let (weights, bias) = (self.weights(), self.bias());
        let spec = ConvSpec {
            shape: self.shape,
            weights: &weights,
            bias: bias.as_deref(),
            activation: self.activation,
            live_in: fold.then(|| self.live_in.view()),
            live_out: fold.then(|| self.live_out.view()),
            algorithm,
        };
        Conv::pack(isa, &spec, self.hw).unwrap()
    }
    /// For each output channel, how far its sums may be off: the documented bound, with the greatest input of the whole map.
    fn tolerances(&self, algorithm: Algorithm) -> Vec<f64> {
        let (x, weights, plane) = (self.x(), self.weights(), self.hw.0 * self.hw.1);
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
        let steps = (self.shape.c_in + 24) as f64;
        weights
            .chunks(9 * self.shape.c_in)
            .map(|w| {
                let terms = w.chunks(9).zip(&greatest);
                let sum: f64 = terms.map(|(w, &x)| norm(w) * x).sum();
                f64::from(f32::EPSILON) / 2.0 * (growth * steps * sum + 2.0)
            })
            .collect()
    }
}

fn case(channels: usize, side: usize) -> impl Strategy<Value = Case> {
    let extents = (1..channels, 1..channels, prop::array::uniform4(0..4usize));
    (extents, [0..side, 0..side]).prop_flat_map(|((c_in, c_out, pads), extra)| {
        let shape = window(c_in, c_out, pads);
        let side = |axis: usize| 3usize.saturating_sub(pads[axis] + pads[axis + 2]).max(1);
        let hw = (side(0) + extra[0], side(1) + extra[1]);
        let masks = (mask(c_in), mask(c_out));
        (any::<bool>(), activation(), masks, 0..1000u64).prop_map(
            move |(bias, activation, (live_in, live_out), seed)| Case {
                shape,
                hw,
                bias,
                activation,
                live_in,
                live_out,
                seed,
            },
        )
    })
}

const CANARY: f32 = 12345.0;

/// Runs with scratch full of NaN and returns y, which held canaries.
fn run(
    conv: &Conv,
    pool: &dyn Pool,
    case: &Case,
    x: &[f32],
    live_in: Option<Channels<'_>>,
    live_out: Option<Channels<'_>>,
) -> Vec<f32> {
    let mut scratch = vec![f32::NAN; conv.scratch_len(pool.threads())];
    let len = case.shape.c_out * case.pixels();
    let mut y = vec![CANARY; len + 7];
    conv.run(pool, x, live_in, live_out, &mut y, &mut scratch)
        .unwrap();
    assert!(y[len..].iter().all(|&x| x == CANARY), "canary");
    y.truncate(len);
    y
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let (x, pixels, plane) = (case.x(), case.pixels(), case.hw.0 * case.hw.1);
    let (live_in, live_out) = (case.live_in.view(), case.live_out.view());
    let (weights, bias) = (case.weights(), case.bias());
    let bias = bias.as_deref();
    let expected =
        reference::conv(&case.shape, case.hw, &x, &weights, bias, Some(live_in)).unwrap();
    let (mut zeroed, mut poisoned) = (x.clone(), x.clone());
    for c in (0..case.shape.c_in).filter(|&c| !live_in.contains(c)) {
        zeroed[c * plane..][..plane].fill(0.0);
        poisoned[c * plane..][..plane].fill(f32::NAN);
    }
    let all = |c: usize| Mask::new(&vec![true; c]);
    let (all_in, all_out) = (all(case.shape.c_in), all(case.shape.c_out));
    for (isa, form) in Isa::available().flat_map(|isa| FORMS.map(|form| (isa, form))) {
        let tolerances = case.tolerances(form);
        let conv = case.pack(isa, form, false);
        let skipped = run(&conv, &Serial, case, &poisoned, Some(live_in), None);
        for (i, (&y, sum)) in skipped.iter().zip(&expected).enumerate() {
            let want = sum.activated(case.activation).value;
            prop_assert!(
                (f64::from(y) - want).abs() <= tolerances[i / pixels],
                "{isa} {form:?} [{}, {}]: {y}, expected {want}",
                i / pixels,
                i % pixels
            );
        }
        let dense = run(&conv, &Serial, case, &zeroed, None, None);
        prop_assert_eq!(bits(&skipped), bits(&dense), "{} skipping is zeroing", isa);

        let mut partly = skipped.clone();
        for c in (0..case.shape.c_out).filter(|&c| !live_out.contains(c)) {
            partly[c * pixels..][..pixels].fill(CANARY);
        }
        let masks = (Some(live_in), Some(live_out));
        let y = run(&conv, &Serial, case, &poisoned, masks.0, masks.1);
        prop_assert_eq!(bits(&y), bits(&partly), "{} output mask", isa);
        let folded = case.pack(isa, form, true);
        for (live_in, live_out) in [(None, None), masks] {
            let y = run(&folded, &Serial, case, &poisoned, live_in, live_out);
            prop_assert_eq!(bits(&y), bits(&partly), "{} fold", isa);
        }
        let full = (Some(all_in.view()), Some(all_out.view()));
        let full = run(&conv, &Serial, case, &zeroed, full.0, full.1);
        prop_assert_eq!(bits(&full), bits(&dense), "{} full mask", isa);
        for threads in [2, 4] {
            let pool = Threads(threads);
            let y = run(&conv, &pool, case, &poisoned, masks.0, masks.1);
            prop_assert_eq!(bits(&y), bits(&partly), "{} threads", isa);
            let y = run(&folded, &pool, case, &poisoned, None, None);
            prop_assert_eq!(bits(&y), bits(&partly), "{} threads, fold", isa);
        }
    }
    Ok(())
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
