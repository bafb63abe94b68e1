//! From planes to blocks and back, with masks and without, and what becomes of maps in blocks.

use super::nn::{Threads, bits, data, guarded};
use super::{Case, channels_of, in_blocks, in_planes, kept, square};
use proptest::prelude::*;
use sluicegate_kernels::ops::nchwc;
use sluicegate_kernels::ops::pool::{PoolOp, PoolShape, global_mean, pool2d};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::{Channels, Isa};

#[test]
fn planes_and_back() {
    for isa in Isa::available() {
        for (channels, pixels) in [(1, 1), (3, 5), (16, 49), (17, 3), (40, 65), (33, 128)] {
            for live in [None, Some(8), Some(7), Some(5), Some(1), Some(0)] {
                to_blocks_and_back(isa, (channels, pixels), live);
            }
        }
    }
}

fn to_blocks_and_back(isa: Isa, (channels, pixels): (usize, usize), live: Option<u64>) {
    let case = Case {
        live: [live, None],
        ..Case::new(square(channels, 1, 1), (1, pixels), channels as u64)
    };
    let words = case.mask(0);
    let live = channels_of(words.as_deref(), channels);
    let held = nchwc::held(live, channels);
    let compact = live.is_some_and(nchwc::is_compact);
    let x = data(channels as u64, channels * pixels);
    let few = kept(&x, channels, live);
    let len = nchwc::elements(isa, held, pixels).expect("small");
    let poisoned = in_blocks(isa, &few, held);
    for pool in [&Serial as &dyn Pool, &Threads(2)] {
        let blocks = guarded(len, |y| {
            nchwc::from_planes(isa, pool, &x, (channels, pixels), live, y).expect("fits");
        });
        assert_eq!(in_planes(isa, &blocks, (held, pixels)), few, "{isa}");
        let mut spare = vec![f32::NAN; pixels * pool.threads()];
        let back = guarded(channels * pixels, |y| {
            y.fill(7.0);
            nchwc::to_planes(
                isa,
                pool,
                &poisoned,
                (channels, pixels),
                live,
                y,
                &mut spare,
            )
            .expect("fits");
        });
        let dead = |c: usize| live.is_some_and(|live| !live.contains(c));
        for (c, (back, x)) in back.chunks(pixels).zip(x.chunks(pixels)).enumerate() {
            match dead(c) {
                true if !compact => assert!(back.iter().all(|&y| y == 0.0), "{isa}: dead {c}"),
                true => assert!(back.iter().all(|&y| y == 7.0), "{isa}: dead {c} is written"),
                false => assert_eq!(bits(back), bits(x), "{isa}: {channels} x {pixels}"),
            }
        }
        let Some(live) = live else { continue };
        let compact = guarded(len, |y| {
            let all = in_blocks(isa, &x, channels);
            nchwc::compact(isa, pool, &all, pixels, live, y).expect("fits");
        });
        assert_eq!(in_planes(isa, &compact, (held, pixels)), few, "{isa}");
        let all = nchwc::elements(isa, channels, pixels).expect("small");
        let expanded = guarded(all, |y| {
            y[..len].copy_from_slice(&poisoned);
            y[len..].fill(f32::NAN);
            nchwc::expand(isa, pixels, live, y).expect("fits");
        });
        let mut zeroed = x.clone();
        for c in (0..channels).filter(|&c| dead(c)) {
            zeroed[c * pixels..][..pixels].fill(0.0);
        }
        let expanded = in_planes(isa, &expanded, (channels, pixels));
        assert_eq!(
            bits(&expanded),
            bits(&zeroed),
            "{isa}: {channels} x {pixels}"
        );
    }
    let scaled = guarded(
        nchwc::elements(isa, channels, pixels).expect("small"),
        |y| {
            let (all, by) = (in_blocks(isa, &x, channels), data(5, channels));
            nchwc::scale(isa, &all, (channels, pixels), &by, y).expect("fits");
        },
    );
    for (c, y) in in_planes(isa, &scaled, (channels, pixels))
        .chunks(pixels)
        .enumerate()
    {
        let by = data(5, channels)[c];
        let expected: Vec<f32> = x[c * pixels..][..pixels].iter().map(|x| x * by).collect();
        assert_eq!(bits(y), bits(&expected), "{isa}: {channels} x {pixels}");
    }
    heads(isa, &x, (channels, pixels), live);
}

/// Means, and means and maxima, of a map with NaN in a channel.
fn heads(isa: Isa, x: &[f32], (channels, pixels): (usize, usize), live: Option<Channels<'_>>) {
    let mut x = x.to_vec();
    x[channels * pixels / 2] = f32::NAN;
    let map = in_blocks(isa, &kept(&x, channels, live), nchwc::held(live, channels));
    let extents = (channels, pixels);
    let means = guarded(channels, |y| {
        y.fill(7.0);
        nchwc::mean(isa, &map, extents, live, y).expect("fits");
    });
    let mut again = Vec::new();
    let maxima = guarded(channels, |max| {
        max.fill(7.0);
        again = guarded(channels, |mean| {
            mean.fill(7.0);
            nchwc::mean_max(isa, &map, extents, live, mean, max).expect("fits");
        });
    });
    assert_eq!(bits(&means), bits(&again), "{isa}: {channels} x {pixels}");
    for (c, plane) in x.chunks(pixels).enumerate() {
        let (mean, max) = (means[c], maxima[c]);
        if let Some(live) = live.filter(|live| !live.contains(c)) {
            let of_zeros = if nchwc::is_compact(live) { 7.0 } else { 0.0 };
            assert_eq!(
                (mean, max),
                (of_zeros, of_zeros),
                "{isa}: dead {c} is written"
            );
        } else if plane.iter().any(|x| x.is_nan()) {
            assert!(mean.is_nan() && max.is_nan(), "{isa}: {mean} {max}");
        } else {
            let of = |f: fn(f32) -> f64| plane.iter().map(|&x| f(x)).sum::<f64>() / pixels as f64;
            let bound = (pixels + 2) as f64 * f64::from(f32::EPSILON) * of(|x| f64::from(x.abs()));
            let error = (f64::from(mean) - of(f64::from)).abs();
            assert!(error <= bound, "{isa}: mean {c}");
            let mut same = [0.0];
            global_mean(isa, plane, 1, pixels, None, &mut same).expect("fits");
            assert_eq!(mean.to_bits(), same[0].to_bits(), "{isa}: mean {c}");
            let greatest = plane.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            assert_eq!(max, greatest, "{isa}: maximum {c}");
        }
    }
}

fn pools(shape: PoolShape, map: (usize, usize, usize), ceil: bool, live: Option<u64>, seed: u64) {
    let (channels, h, w) = map;
    let Ok(out) = shape.output((h, w), ceil) else {
        return;
    };
    let case = Case {
        live: [live, None],
        ..Case::new(square(channels, 1, 1), (h, w), seed)
    };
    let words = case.mask(0);
    let live = channels_of(words.as_deref(), channels);
    let mut x = data(seed, channels * h * w);
    if seed.is_multiple_of(3) {
        let i = seed as usize % x.len();
        x[i] = f32::NAN;
    }
    let held = nchwc::held(live, channels);
    let pixels = out.0 * out.1;
    for isa in Isa::available() {
        let blocks = in_blocks(isa, &kept(&x, channels, live), held);
        let len = nchwc::elements(isa, held, pixels).expect("small");
        for op in [
            PoolOp::Max,
            PoolOp::Mean { include_pad: false },
            PoolOp::Mean { include_pad: true },
        ] {
            let planes = guarded(channels * pixels, |y| {
                pool2d(isa, &Serial, op, &shape, &x, map, None, out, y).expect("valid");
            });
            for pool in [&Serial as &dyn Pool, &Threads(2)] {
                let y = guarded(len, |y| {
                    nchwc::pool2d(isa, pool, op, &shape, &blocks, map, live, out, y)
                        .expect("valid");
                });
                let y = in_planes(isa, &y, (held, pixels));
                let expected = match live {
                    Some(live) if !nchwc::is_compact(live) => {
                        let zeros = kept(&x, channels, Some(live));
                        guarded(channels * pixels, |y| {
                            pool2d(isa, &Serial, op, &shape, &zeros, map, None, out, y)
                                .expect("valid");
                        })
                    }
                    _ => kept(&planes, channels, live),
                };
                let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
                assert!(
                    y.iter().zip(&expected).all(same),
                    "{isa} {op:?} {shape:?} {map:?}: {y:?}, expected {expected:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pools_equal_planes(
        kernel in prop::array::uniform2(1usize..5),
        stride in prop::array::uniform2(1usize..4),
        dilation in prop::array::uniform2(1usize..3),
        pads in prop::array::uniform4(0usize..4),
        map in (1usize..40, 1usize..12, 1usize..20),
        (ceil, live) in (any::<bool>(), prop::option::of(0u64..9)),
        seed in 0u64..1 << 40,
    ) {
        let shape = PoolShape { kernel, stride, dilation, pads };
        pools(shape, map, ceil, live, seed);
    }
}
