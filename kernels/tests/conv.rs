//! The laws of convolution, on every instruction set of this machine.

mod common;

use common::Mask;
use common::conv::{Case, case_of};
use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::Conv;
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::reference::matmul::Sum;
use sluicegate_kernels::{Channels, Error, Isa};

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

/// Single pixels of a small map for many panels of channels.
fn many_panels() -> impl Strategy<Value = (ConvShape, (usize, usize))> {
    let counts = (120..180usize, 200..340usize);
    let map = (1..10usize, 1..10usize);
    (counts, map).prop_map(|((c_in, c_out), hw)| {
        let shape = ConvShape {
            c_in,
            c_out,
            ..POINTWISE
        };
        (shape, hw)
    })
}

fn case(channels: usize, side: usize) -> impl Strategy<Value = Case> {
    case_of(shape(channels, side))
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let admits = |_, _, y, sum: Sum| sum.admits(y);
    common::conv::check(case, &[Algorithm::Direct], admits)
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
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn laws_on_many_panels(case in case_of(many_panels())) {
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
        check(&Case::dense(POINTWISE, (1, pixels))).unwrap();
    }
}

#[test]
fn every_channel_count_around_the_tiles() {
    for c_out in 1..=40 {
        check(&Case::dense(ConvShape { c_out, ..POINTWISE }, (5, 7))).unwrap();
    }
}

#[test]
fn every_channel_count_around_the_panels() {
    for vectors in [2, 3, 4, 6, 8, 9, 12, 16] {
        for c_out in 16 * vectors - 1..=16 * vectors + 2 {
            let shape = ConvShape {
                c_in: 150,
                c_out,
                ..POINTWISE
            };
            check(&Case::dense(shape, (7, 7))).unwrap();
        }
    }
}

#[test]
fn masks_of_more_outputs_than_a_block_of_weights() {
    let shape = ConvShape {
        c_in: 576,
        c_out: 300,
        ..POINTWISE
    };
    for period in [2, 10] {
        for live in [true, false] {
            let mask: Vec<_> = (0..300).map(|c| (c % period == 0) == live).collect();
            let mut case = Case::dense(shape, (4, 8));
            case.live_out = Mask::new(&mask);
            check(&case).unwrap();
        }
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
    check(&Case::dense(kws, (49, 10))).unwrap();
    let stem = ConvShape {
        c_in: 3,
        c_out: 8,
        kernel: [3, 3],
        stride: [2, 2],
        pads: [0, 0, 1, 1],
        ..POINTWISE
    };
    check(&Case::dense(stem, (96, 96))).unwrap();
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
        masked_outputs: false,
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
