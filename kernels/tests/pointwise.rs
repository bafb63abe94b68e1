//! Vector mathematics against f64, on every instruction set.

mod nn;

use nn::{bits, data, guarded, ulps};
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::pointwise::{activate, activate_in_place, settle};
use sluicegate_kernels::reference::pointwise::activation;
use sluicegate_kernels::{Channels, Isa};

/// Every `step`th float, in the order of their bits: both signs, denormal numbers, infinities and NaN.
fn sweep(step: usize) -> impl Iterator<Item = Vec<f32>> {
    let all = (0..=u32::MAX).step_by(step).map(f32::from_bits);
    let mut all = all.chain([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    std::iter::from_fn(move || {
        let chunk: Vec<f32> = all.by_ref().take(1 << 16).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// The greatest error over all floats, in units of the last place, and where it is.
fn worst(
    isa: Isa,
    act: Activation,
    step: usize,
    error: impl Fn(f32, f32, f64) -> f64,
) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    for x in sweep(step) {
        let mut y = vec![0.0; x.len()];
        activate(isa, act, &x, &mut y).expect("same lengths");
        for (&x, &y) in x.iter().zip(&y) {
            let e = error(x, y, activation(act, f64::from(x)));
            if e > worst.0 || e.is_nan() {
                worst = (e, x);
            }
        }
    }
    worst
}

fn check_bounds(step: usize) {
    for isa in Isa::available() {
        for act in [
            Activation::Exp,
            Activation::Sigmoid,
            Activation::Tanh,
            Activation::Erf,
        ] {
            let (e, x) = worst(isa, act, step, |_, y, want| ulps(y, want));
            println!("{isa} {act:?}: {e:.2} ulp at {x:e}");
            let bound = if act == Activation::Sigmoid { 3.0 } else { 2.0 };
            assert!(e <= bound, "{isa} {act:?}: {e} ulp at {x:e}");
        }
        for act in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            let scaled = |x: f32, y: f32, want: f64| {
                if x.is_infinite() || y.is_nan() && want.is_nan() {
                    return 0.0;
                }
                let unit = f64::from(x).abs() * f64::from(f32::EPSILON) / 2.0;
                (f64::from(y) - want).abs() / unit.max(1e-45)
            };
            let (e, x) = worst(isa, act, step, scaled);
            println!("{isa} {act:?}: {e:.2} times |x| eps / 2 at {x:e}");
            assert!(e <= 4.0, "{isa} {act:?}: {e} at {x:e}");
        }
    }
}

#[test]
fn bounds_over_the_range_of_f32() {
    check_bounds(9973);
}

#[test]
#[ignore = "minutes: every seventh float"]
fn bounds_over_nearly_all_floats() {
    check_bounds(7);
}

#[test]
fn plain_activations_are_exact_or_rounded_once() {
    let x: Vec<f32> = data(3, 200).iter().map(|x| x * 8.0).collect();
    for isa in Isa::available() {
        for act in [
            Activation::None,
            Activation::Relu,
            Activation::Clip { lo: -1.0, hi: 6.0 },
            Activation::LeakyRelu(0.1),
            Activation::HardSigmoid {
                alpha: 0.2,
                beta: 0.5,
            },
            Activation::HardSwish,
            Activation::Sqrt,
        ] {
            for n in [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 200] {
                let x = &x[..n];
                let y = guarded(n, |y| activate(isa, act, x, y).expect("same lengths"));
                for (&x, &y) in x.iter().zip(&y) {
                    let want = activation(act, f64::from(x));
                    let close = (f64::from(y) - want).abs() <= 4e-7 * (1.0 + want.abs());
                    assert!(
                        close || y.is_nan() && want.is_nan(),
                        "{isa} {act:?} {x} {y}"
                    );
                }
                let mut z = x.to_vec();
                activate_in_place(isa, act, &mut z);
                assert_eq!(bits(&z), bits(&y), "{isa} {act:?} in place");
            }
        }
    }
}

#[test]
fn nan_stays_and_limits_hold() {
    use Activation as A;
    for isa in Isa::available() {
        let one = |act, x: f32| {
            let mut y = [x];
            activate_in_place(isa, act, &mut y);
            y[0]
        };
        for act in [
            A::None,
            A::Relu,
            A::Clip { lo: -1.0, hi: 1.0 },
            A::LeakyRelu(0.1),
            A::Sigmoid,
            A::Tanh,
            A::Erf,
            A::Gelu,
            A::GeluTanh,
            A::Silu,
            A::HardSigmoid {
                alpha: 0.2,
                beta: 0.5,
            },
            A::HardSwish,
            A::Exp,
            A::Sqrt,
        ] {
            assert!(one(act, f32::NAN).is_nan(), "{isa} {act:?}");
        }
        let (inf, low) = (f32::INFINITY, f32::NEG_INFINITY);
        assert_eq!((one(A::Exp, inf), one(A::Exp, low)), (inf, 0.0));
        assert_eq!((one(A::Sigmoid, inf), one(A::Sigmoid, low)), (1.0, 0.0));
        assert_eq!((one(A::Tanh, inf), one(A::Tanh, low)), (1.0, -1.0));
        assert_eq!((one(A::Erf, inf), one(A::Erf, low)), (1.0, -1.0));
        // Exact where erf is: what is beyond multiplies.
        for x in [5.8, 6.0, 30.0, 1e5, 1e30] {
            assert_eq!((one(A::Gelu, x), one(A::Gelu, -x)), (x, 0.0), "{isa}: {x}");
        }
        assert_eq!((one(A::Gelu, inf), one(A::Gelu, 0.0)), (inf, 0.0));
        assert_eq!(one(A::Exp, 0.0), 1.0);
        assert_eq!(one(A::Tanh, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(one(A::Tanh, 1e-40), 1e-40);
    }
}

#[test]
fn lengths_must_agree() {
    assert!(activate(Isa::best(), Activation::Exp, &[0.0; 3], &mut [0.0; 4]).is_err());
}

#[test]
fn dead_channels_are_settled() {
    for isa in Isa::available() {
        for (channels, inner) in [
            (1, 1),
            (7, 1),
            (64, 1),
            (100, 1),
            (131, 1),
            (5, 3),
            (33, 20),
            (0, 4),
            (4, 0),
        ] {
            let words: Vec<u64> = (0..3)
                .map(|w| 0x9d3a_55c1_f00f_1e24u64.rotate_left(7 * w))
                .collect();
            let words = &words[..usize::div_ceil(channels, 64)];
            let spare = words.len() * 64 - channels;
            let mut words = words.to_vec();
            if let Some(last) = words.last_mut() {
                *last &= !0 >> spare;
            }
            let live = Channels::new(&words, channels).expect("a mask");
            let at = |i: usize| match live.contains(i / inner % channels) {
                true => i as f32,
                false => f32::NAN,
            };
            let len = 3 * channels * inner;
            let mut y: Vec<f32> = (0..len).map(at).collect();
            // Less than one more.
            y.resize(len + (channels * inner).saturating_sub(1).min(3), f32::NAN);
            settle(isa, live, inner, &mut y);
            let whole = |(i, y): (usize, &f32)| *y == if at(i).is_nan() { 0.0 } else { i as f32 };
            assert!(
                y[..len].iter().enumerate().all(whole),
                "{isa} {channels} {inner}"
            );
            assert!(
                len == 0 || y[len..].iter().all(|y| y.is_nan()),
                "{isa} {channels} {inner}"
            );
        }
    }
}
