//! Softmax and normalisations against their reference, on every instruction set.

mod nn;

use nn::{CANARY, Mask, assert_close, bits, data, guarded};
use proptest::prelude::*;
use sluicegate_kernels::ops::norm::{
    Moments, layer_norm, log_softmax, rms_norm, scale_shift, softmax,
};
use sluicegate_kernels::{Isa, reference};

const EPS: f64 = f32::EPSILON as f64;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn softmax_equals_reference(outer in 1usize..4, axis in 1usize..90, strided: bool, inner in 1usize..40, seed in 0u64..1 << 40) {
        let extents = [outer, axis, if strided { inner } else { 1 }];
        let n = extents.iter().product();
        let x: Vec<f32> = data(seed, n).iter().map(|x| x * 30.0).collect();
        for isa in Isa::available() {
            let y = guarded(n, |y| softmax(isa, &x, extents, y).expect("valid"));
            let want = reference::norm::softmax(&x, extents);
            // x - max is rounded once: an error of eps |x - max| in the exponent, 60 at most.
            assert_close(&format!("{isa} softmax"), &y, &want, |i| {
                (axis as f64 + 80.0) * EPS * want[i] + 1e-44
            });
            let y = guarded(n, |y| log_softmax(isa, &x, extents, y).expect("valid"));
            let want = reference::norm::log_softmax(&x, extents);
            assert_close(&format!("{isa} log softmax"), &y, &want, |i| {
                (axis as f64 + 8.0) * EPS * (1.0 + want[i].abs())
            });
        }
    }

    #[test]
    fn layer_norm_equals_reference(m in 1usize..5, n in 2usize..150, scale: bool, bias: bool, seed in 0u64..1 << 40) {
        let x = data(seed, m * n);
        let (g, b) = (data(seed + 1, n), data(seed + 2, n));
        let (g, b) = (scale.then_some(&g[..]), bias.then_some(&b[..]));
        let (want, means, inv_stds) = reference::norm::layer_norm(&x, (m, n), g, b, 1e-5);
        for isa in Isa::available() {
            let (mut mean, mut inv_std) = (vec![0.0; m], vec![0.0; m]);
            let y = guarded(m * n, |y| {
                let moments = Moments { mean: &mut mean, inv_std: &mut inv_std };
                layer_norm(isa, &x, (m, n), g, b, 1e-5, y, Some(moments)).expect("valid");
            });
            let by = |i: usize| inv_stds[i] * (n as f64 + 8.0) * EPS;
            assert_close(&format!("{isa} layer norm"), &y, &want, |i| {
                by(i / n) * (2.0 + want[i].abs())
            });
            assert_close("mean", &mean, &means, |_| n as f64 * EPS);
            assert_close("inverse deviation", &inv_std, &inv_stds, |i| by(i) * inv_stds[i]);
            let again = guarded(m * n, |y| {
                layer_norm(isa, &x, (m, n), g, b, 1e-5, y, None).expect("valid");
            });
            assert_eq!(bits(&again), bits(&y));
        }
    }

    #[test]
    fn rms_norm_obeys_the_laws(m in 1usize..5, n in 1usize..150, scale: bool, seed in 0u64..1 << 40, density in 0u32..9) {
        let x = data(seed, m * n);
        let g = data(seed + 1, n);
        let g = scale.then_some(&g[..]);
        let live = Mask::new(seed + 2, n, density);
        let full = Mask::full(n);
        let dead = |i: usize| !live.live().contains(i % n);
        let with = |value: f32| -> Vec<f32> {
            x.iter().enumerate().map(|(i, &x)| if dead(i) { value } else { x }).collect()
        };
        for isa in Isa::available() {
            let run = |x: &[f32], live| {
                guarded(m * n, |y| rms_norm(isa, x, (m, n), g, 1e-5, live, y).expect("valid"))
            };
            let close = |i: usize, want: &[f64]| (n as f64 + 8.0) * EPS * want[i].abs() + 1e-9;
            let y = run(&x, None);
            let want = reference::norm::rms_norm(&x, (m, n), g, 1e-5, None);
            assert_close(&format!("{isa} rms norm"), &y, &want, |i| close(i, &want));
            assert_eq!(bits(&run(&x, Some(full.live()))), bits(&y));

            let masked = run(&with(f32::NAN), Some(live.live()));
            let want = reference::norm::rms_norm(&with(f32::NAN), (m, n), g, 1e-5, Some(live.live()));
            let zeroed = run(&with(0.0), None);
            for i in 0..m * n {
                if dead(i) {
                    assert_eq!(masked[i], CANARY);
                } else {
                    let y = f64::from(masked[i]);
                    assert!((y - want[i]).abs() <= close(i, &want), "{isa} masked rms norm");
                    // Zeros change only the order of the sum.
                    assert!((y - f64::from(zeroed[i])).abs() <= 2.0 * close(i, &want));
                }
            }
        }
    }

    #[test]
    fn scale_shift_obeys_the_laws(c in 1usize..9, p in 1usize..70, seed in 0u64..1 << 40, density in 0u32..9) {
        let x = data(seed, c * p);
        let (g, b) = (data(seed + 1, c), data(seed + 2, c));
        let live = Mask::new(seed + 3, c, density);
        let full = Mask::full(c);
        for isa in Isa::available() {
            let run = |x: &[f32], live| {
                guarded(c * p, |y| {
                    scale_shift(isa, Some(x), (c, p), &g, &b, live, y).expect("valid");
                })
            };
            let y = run(&x, None);
            let want = reference::norm::scale_shift(&x, (c, p), &g, &b);
            assert_close(&format!("{isa} scale shift"), &y, &want, |_| 2.5 * EPS);
            assert_eq!(bits(&run(&x, Some(full.live()))), bits(&y));
            let poisoned = live.kill(&x, f32::NAN);
            let masked = run(&poisoned, Some(live.live()));
            assert_eq!(bits(&masked), bits(&live.kill(&y, CANARY)));
            let mut z = x.clone();
            scale_shift(isa, None, (c, p), &g, &b, None, &mut z).expect("valid");
            assert_eq!(bits(&z), bits(&y));
        }
    }
}

#[test]
fn softmax_of_extremes() {
    for isa in Isa::available() {
        for inner in [1, 3] {
            let run = |x: f32| {
                let x = vec![x; 4 * inner];
                let mut y = vec![0.0; 4 * inner];
                softmax(isa, &x, [1, 4, inner], &mut y).expect("valid");
                y[0]
            };
            assert_eq!(run(1e38), 0.25);
            assert_eq!(run(-1e38), 0.25);
            assert!(run(f32::NAN).is_nan());
            assert!(run(f32::NEG_INFINITY).is_nan());
        }
    }
}

#[test]
fn bad_operands_are_refused() {
    let isa = Isa::best();
    let x = [1.0; 12];
    let mut y = [0.0; 12];
    let five = Mask::full(5);
    assert!(softmax(isa, &x, [2, 7, 1], &mut y).is_err());
    assert!(softmax(isa, &x, [2, 6, 1], &mut y[1..]).is_err());
    assert!(softmax(isa, &x, [usize::MAX, 6, 1], &mut y).is_err());
    assert!(softmax(isa, &x, [0, 6, 1], &mut y).is_ok());
    let short = Some(&x[..3]);
    assert!(layer_norm(isa, &x, (3, 4), short, None, 0.0, &mut y, None).is_err());
    assert!(layer_norm(isa, &x, (3, 4), None, short, 0.0, &mut y, None).is_err());
    let moments = Moments {
        mean: &mut [0.0; 2],
        inv_std: &mut [0.0; 3],
    };
    assert!(layer_norm(isa, &x, (3, 4), None, None, 0.0, &mut y, Some(moments)).is_err());
    assert!(rms_norm(isa, &x, (3, 4), short, 0.0, None, &mut y).is_err());
    assert!(rms_norm(isa, &x, (3, 4), None, 0.0, Some(five.live()), &mut y).is_err());
    assert!(rms_norm(isa, &x, (4, 4), None, 0.0, None, &mut y).is_err());
    assert!(scale_shift(isa, None, (3, 4), &x[..2], &x, None, &mut y).is_err());
    assert!(scale_shift(isa, Some(&x[1..]), (3, 4), &x, &x, None, &mut y).is_err());
    assert!(scale_shift(isa, None, (3, 4), &x, &x, Some(five.live()), &mut y).is_err());
}
