//! Convolutions as cases of property tests, and the laws that hold for each algorithm.

use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::Conv;
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::reference::conv as reference;
use sluicegate_kernels::reference::matmul::Sum;
use sluicegate_kernels::{Channels, Isa};

use super::{Mask, Threads, activation, bits, floats, mask};

/// A layer, its masks, and the seed of its operands.
#[derive(Debug, Clone)]
pub struct Case {
    pub shape: ConvShape,
    pub hw: (usize, usize),
    pub bias: bool,
    pub activation: Activation,
    pub live_in: Mask,
    pub live_out: Mask,
    pub seed: u64,
}

impl Case {
    /// With every channel live.
    pub fn dense(shape: ConvShape, hw: (usize, usize)) -> Self {
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
    pub fn pixels(&self) -> usize {
        let (oh, ow) = self.shape.output(self.hw).unwrap();
        oh * ow
    }
    pub fn x(&self) -> Vec<f32> {
        floats(self.shape.c_in * self.hw.0 * self.hw.1, self.seed)
    }
    pub fn weights(&self) -> Vec<f32> {
        let each = self.shape.c_in / self.shape.groups;
        let taps = self.shape.kernel[0] * self.shape.kernel[1];
        floats(self.shape.c_out * each * taps, self.seed + 1)
    }
    pub fn bias(&self) -> Option<Vec<f32>> {
        self.bias.then(|| floats(self.shape.c_out, self.seed + 2))
    }
    /// Without masks.
    pub fn spec<'a>(
        &self,
        weights: &'a [f32],
        bias: Option<&'a [f32]>,
        algorithm: Algorithm,
    ) -> ConvSpec<'a> {
        ConvSpec {
            shape: self.shape,
            weights,
            bias,
            activation: self.activation,
            live_in: None,
            live_out: None,
            masked_outputs: false,
            algorithm,
        }
    }
    pub fn pack(&self, isa: Isa, algorithm: Algorithm, fold: bool) -> Conv {
        let (weights, bias) = (self.weights(), self.bias());
        let spec = ConvSpec {
            live_in: fold.then(|| self.live_in.view()),
            live_out: fold.then(|| self.live_out.view()),
            ..self.spec(&weights, bias.as_deref(), algorithm)
        };
        Conv::pack(isa, &spec, self.hw).unwrap()
    }
}

/// A case for each shape and map.
pub fn case_of(
    shapes: impl Strategy<Value = (ConvShape, (usize, usize))>,
) -> impl Strategy<Value = Case> {
    shapes.prop_flat_map(|(shape, hw)| {
        let masks = (mask(shape.c_in), mask(shape.c_out));
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

/// Around every output, and in outputs that nobody asked for.
pub const CANARY: f32 = 12345.0;

/// Runs with scratch full of NaN and returns y, which held canaries.
pub fn run(
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

/// The laws for each of the forms; `admits` says whether the value of an output channel may come of its sum.
pub fn check(
    case: &Case,
    forms: &[Algorithm],
    admits: impl Fn(Algorithm, usize, f32, Sum) -> bool,
) -> Result<(), TestCaseError> {
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
    for (isa, form) in Isa::available().flat_map(|isa| forms.iter().map(move |&form| (isa, form))) {
        let conv = case.pack(isa, form, false);
        let skipped = run(&conv, &Serial, case, &poisoned, Some(live_in), None);
        for (i, (&y, sum)) in skipped.iter().zip(&expected).enumerate() {
            let sum = sum.activated(case.activation);
            prop_assert!(
                admits(form, i / pixels, y, sum),
                "{isa} {form:?} [{}, {}]: {y} {sum:?}",
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
