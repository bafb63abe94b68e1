//! The laws of convolution, on every instruction set of this machine.

mod common;

use common::{Mask, Threads, activation, bits, floats, mask};
use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::Conv;
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::reference::conv as reference;
use sluicegate_kernels::{Channels, Error, Isa};

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

impl Case {
    fn pixels(&self) -> usize {
        let (oh, ow) = self.shape.output(self.hw).unwrap();
        oh * ow
    }
    fn x(&self) -> Vec<f32> {
        floats(self.shape.c_in * self.hw.0 * self.hw.1, self.seed)
    }
    fn weights(&self) -> Vec<f32> {
        let each = self.shape.c_in / self.shape.groups;
        let taps = self.shape.kernel[0] * self.shape.kernel[1];
        floats(self.shape.c_out * each * taps, self.seed + 1)
    }
    fn bias(&self) -> Option<Vec<f32>> {
        self.bias.then(|| floats(self.shape.c_out, self.seed + 2))
    }
    fn pack(&self, isa: Isa, fold: bool) -> Conv {
        let (weights, bias) = (self.weights(), self.bias());
        let spec = ConvSpec {
            shape: self.shape,
            weights: &weights,
            bias: bias.as_deref(),
            activation: self.activation,
            live_in: fold.then(|| self.live_in.view()),
            live_out: fold.then(|| self.live_out.view()),
            algorithm: Algorithm::Direct,
        };
        Conv::pack(isa, &spec, self.hw).unwrap()
    }
}

/// A shape, and an input that its window fits.
fn shape(channels: usize, side: usize) -> impl Strategy<Value = (ConvShape, (usize, usize))> {
    let two = |range: std::ops::Range<usize>| [range.clone(), range];
    let window = (
        two(1..5),
        two(1..4),
        two(1..3),
        prop::array::uniform4(0..3usize),
    );
    let counts = (1..4usize, 1..channels, 1..channels);
    let pointwise = prop::bool::weighted(0.4);
    (counts, window, pointwise, two(0..side)).prop_map(
        |((groups, ci, co), (kernel, stride, dilation, pads), pointwise, extra)| {
            let groups = if groups == 2 { 2 } else { 1 };
            let (kernel, stride, pads) = if pointwise {
                ([1, 1], [1, 1], [0; 4])
            } else {
                (kernel, stride, pads)
            };
            let shape = ConvShape {
                c_in: ci * groups,
                c_out: co * groups,
                groups,
                kernel,
                stride,
                dilation,
                pads,
            };
            let fits = |axis: usize| {
                let span = (kernel[axis] - 1) * dilation[axis] + 1;
                span.saturating_sub(pads[axis] + pads[axis + 2]).max(1) + extra[axis]
            };
            (shape, (fits(0), fits(1)))
        },
    )
}

/// Few pixels and many channels.
fn small_map() -> impl Strategy<Value = (ConvShape, (usize, usize))> {
    let extents = (1..3usize, 4..9usize, 16..70usize, 1..4usize, 1..3usize);
    let map = (0..8usize, 0..8usize);
    (extents, map).prop_map(|((groups, ci, co, kernel, stride), (h, w))| {
        let shape = ConvShape {
            c_in: 128usize.div_ceil(kernel * kernel) * groups + ci * groups,
            c_out: co * groups,
            groups,
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            pads: [kernel / 2; 4],
        };
        (shape, (kernel + h, kernel + w))
    })
}

fn case(channels: usize, side: usize) -> impl Strategy<Value = Case> {
    case_of(shape(channels, side))
}

fn case_of(
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
    for isa in Isa::available() {
        let conv = case.pack(isa, false);
        let skipped = run(&conv, &Serial, case, &poisoned, Some(live_in), None);
        for (i, (y, sum)) in skipped.iter().zip(&expected).enumerate() {
            let sum = sum.activated(case.activation);
            prop_assert!(
                sum.admits(*y),
                "{isa} [{}, {}]: {y} {sum:?}",
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
        let masked = run(
            &conv,
            &Serial,
            case,
            &poisoned,
            Some(live_in),
            Some(live_out),
        );
        prop_assert_eq!(bits(&masked), bits(&partly), "{} output mask", isa);
        let folded = case.pack(isa, true);
        let y = run(&folded, &Serial, case, &poisoned, None, None);
        prop_assert_eq!(bits(&y), bits(&partly), "{} fold", isa);
        let y = run(
            &folded,
            &Serial,
            case,
            &poisoned,
            Some(live_in),
            Some(live_out),
        );
        prop_assert_eq!(bits(&y), bits(&partly), "{} fold and mask", isa);

        let all = |c: usize| Mask::new(&vec![true; c]);
        let (all_in, all_out) = (all(case.shape.c_in), all(case.shape.c_out));
        let (all_in, all_out) = (Some(all_in.view()), Some(all_out.view()));
        let full = run(&conv, &Serial, case, &zeroed, all_in, all_out);
        prop_assert_eq!(bits(&full), bits(&dense), "{} full mask", isa);
        for threads in [2, 4] {
            let pool = Threads(threads);
            let y = run(&conv, &pool, case, &poisoned, Some(live_in), Some(live_out));
            prop_assert_eq!(bits(&y), bits(&partly), "{} threads", isa);
            let y = run(&folded, &pool, case, &poisoned, None, None);
            prop_assert_eq!(bits(&y), bits(&partly), "{} threads, fold", isa);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn laws_on_small_shapes(case in case(30, 14)) {
        check(&case)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn laws_on_small_maps_of_many_channels(case in case_of(small_map())) {
        check(&case)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Several depth blocks, strips and channel blocks; enough work for threads.
    #[test]
    fn laws_on_large_shapes(case in case(90, 45)) {
        check(&case)?;
    }
}

fn dense(shape: ConvShape, hw: (usize, usize)) -> Case {
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

const POINTWISE: ConvShape = ConvShape {
    c_in: 5,
    c_out: 7,
    groups: 1,
    kernel: [1, 1],
    stride: [1, 1],
    dilation: [1, 1],
    pads: [0; 4],
};

#[test]
fn every_pixel_count_around_the_tiles() {
    for pixels in 1..=150 {
        check(&dense(POINTWISE, (1, pixels))).unwrap();
    }
}

#[test]
fn every_channel_count_around_the_tiles() {
    for c_out in 1..=40 {
        check(&dense(ConvShape { c_out, ..POINTWISE }, (5, 7))).unwrap();
    }
}

#[test]
fn layers_of_the_models() {
    let kws = ConvShape {
        c_in: 1,
        c_out: 64,
        kernel: [10, 4],
        stride: [2, 2],
        pads: [4, 1, 5, 1],
        ..POINTWISE
    };
    check(&dense(kws, (49, 10))).unwrap();
    let stem = ConvShape {
        c_in: 3,
        c_out: 8,
        kernel: [3, 3],
        stride: [2, 2],
        pads: [0, 0, 1, 1],
        ..POINTWISE
    };
    check(&dense(stem, (96, 96))).unwrap();
}

#[test]
fn bad_operands_are_errors() {
    let isa = Isa::best();
    let weights = [0.0; 35];
    let spec = ConvSpec {
        shape: POINTWISE,
        weights: &weights,
        bias: None,
        activation: Activation::None,
        live_in: None,
        live_out: None,
        algorithm: Algorithm::Direct,
    };
    let refuses = |spec: ConvSpec<'_>| Conv::pack(isa, &spec, (2, 3)).is_err();
    let shaped = |shape| ConvSpec { shape, ..spec };
    let six = Mask::new(&[true; 6]);
    assert!(refuses(ConvSpec {
        weights: &weights[1..],
        ..spec
    }));
    assert!(refuses(ConvSpec {
        bias: Some(&weights[..6]),
        ..spec
    }));
    assert!(refuses(ConvSpec {
        live_in: Some(six.view()),
        ..spec
    }));
    assert!(refuses(ConvSpec {
        live_out: Some(six.view()),
        ..spec
    }));
    assert!(refuses(shaped(ConvShape {
        groups: 0,
        ..POINTWISE
    })));
    assert!(refuses(shaped(ConvShape {
        groups: 2,
        ..POINTWISE
    })));
    assert!(refuses(shaped(ConvShape {
        kernel: [0, 1],
        ..POINTWISE
    })));
    assert!(refuses(shaped(ConvShape {
        stride: [1, 0],
        ..POINTWISE
    })));
    assert!(refuses(shaped(ConvShape {
        dilation: [0, 1],
        ..POINTWISE
    })));
    assert!(refuses(shaped(ConvShape {
        kernel: [usize::MAX, 2],
        ..POINTWISE
    })));

    assert!(Conv::pack(isa, &spec, (usize::MAX, 3)).is_err());
    assert!(Conv::pack(isa, &spec, (0, 3)).is_err());

    let conv = Conv::pack(isa, &spec, (2, 3)).unwrap();
    let mut scratch = vec![0.0; conv.scratch_len(1)];
    let (x, mut y) = ([0.0; 30], [0.0; 42]);
    let mut go = |x: &[f32], live: Option<Channels<'_>>, cut: usize| {
        conv.run(&Serial, x, live, None, &mut y[cut..], &mut scratch[cut..])
    };
    assert_eq!(go(&x, None, 0), Ok(()));
    let short = |operand| matches!(operand, Err(Error::TooShort { .. }));
    assert!(short(go(&x[1..], None, 0)));
    assert!(short(go(&x, None, 1)));
    assert!(go(&x, Some(six.view()), 0).is_err());
}
