//! Pooling against its reference, on every instruction set.

mod nn;

use nn::{CANARY, Mask, Threads, assert_close, bits, data, guarded};
use proptest::prelude::*;
use sluicegate_kernels::ops::pool::{PoolOp, PoolShape, global_max, global_mean, mean_max, pool2d};
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::{Isa, reference};

const OPS: [PoolOp; 3] = [
    PoolOp::Max,
    PoolOp::Mean { include_pad: false },
    PoolOp::Mean { include_pad: true },
];

fn check(shape: &PoolShape, extents: (usize, usize, usize), ceil: bool, seed: u64, density: u32) {
    let (c, h, w) = extents;
    let Ok(out) = shape.output((h, w), ceil) else {
        return;
    };
    let n = c * out.0 * out.1;
    let mut x = data(seed, c * h * w);
    if seed.is_multiple_of(3) {
        let i = seed as usize % x.len();
        x[i] = f32::NAN;
    }
    let live = Mask::new(seed + 1, c, density);
    let full = Mask::full(c);
    for isa in Isa::available() {
        for op in OPS {
            let name = format!("{isa} {op:?} {shape:?} {extents:?} {out:?}");
            let run = |x: &[f32], live, threads| {
                guarded(n, |y| {
                    let pool = Threads(threads);
                    pool2d(isa, &pool, op, shape, x, extents, live, out, y).expect("valid");
                })
            };
            let y = run(&x, None, 1);
            let want = reference::pool::pool2d(op, shape, &x, extents, out);
            let taps = (shape.kernel[0] * shape.kernel[1]) as f64;
            assert_close(&name, &y, &want, |_| taps * 1.2e-7);
            assert_eq!(bits(&run(&x, Some(full.live()), 1)), bits(&y), "{name}");
            assert_eq!(bits(&run(&x, None, 2)), bits(&y), "{name}");
            assert_eq!(bits(&run(&x, None, 4)), bits(&y), "{name}");
            let masked = run(&live.kill(&x, f32::NAN), Some(live.live()), 1);
            assert_eq!(bits(&masked), bits(&live.kill(&y, CANARY)), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn equals_reference(
        kernel in prop::array::uniform2(1usize..5),
        stride in prop::array::uniform2(1usize..4),
        dilation in prop::array::uniform2(1usize..3),
        pads in prop::array::uniform4(0usize..4),
        extents in (1usize..5, 1usize..12, 1usize..70),
        ceil: bool,
        seed in 0u64..1 << 40,
        density in 0u32..9,
    ) {
        let shape = PoolShape { kernel, stride, dilation, pads };
        check(&shape, extents, ceil, seed, density);
    }

    #[test]
    fn mean_max_is_both(c in 1usize..9, p in 1usize..300, nan: bool, seed in 0u64..1 << 40, density in 0u32..9) {
        let mut x = data(seed, c * p);
        if nan {
            x[seed as usize % (c * p)] = f32::NAN;
        }
        let live = Mask::new(seed + 1, c, density);
        let poisoned = live.kill(&x, f32::NAN);
        for isa in Isa::available() {
            let mean = guarded(c, |y| global_mean(isa, &x, c, p, None, y).expect("valid"));
            let max = guarded(c, |y| global_max(isa, &x, c, p, None, y).expect("valid"));
            let mut both_max = Vec::new();
            let both_mean = guarded(c, |mean| {
                both_max = guarded(c, |max| {
                    mean_max(isa, &poisoned, c, p, Some(live.live()), mean, max).expect("valid");
                });
            });
            let canary = |y: &[f32]| bits(&live.kill(y, CANARY));
            assert_eq!(bits(&both_mean), canary(&mean));
            assert_eq!(bits(&both_max), canary(&max));
        }
    }
}

#[test]
fn wide_rows_and_windows() {
    let with = |kernel, stride, dilation, pads, extents| {
        let shape = PoolShape {
            kernel,
            stride,
            dilation,
            pads,
        };
        check(&shape, extents, false, 4, 4);
    };
    with([3, 3], [2, 2], [1, 1], [1; 4], (2, 5, 2500));
    with([1, 600], [1, 7], [1, 1], [0, 300, 0, 0], (1, 2, 900));
    with([2, 3], [1, 2000], [1, 1], [1; 4], (1, 2, 5000));
    with([2, 2], [1, 1], [1, 1500], [0; 4], (1, 2, 1600));
    with([2, 2], [1, 1], [1, 1], [5, 1200, 5, 1200], (1, 2, 3));
}

#[test]
fn output_sizes_as_in_onnx() {
    let shape = |kernel, stride, pad| PoolShape {
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        pads: [pad; 4],
    };
    assert_eq!(shape(2, 2, 0).output((5, 6), false), Ok((2, 3)));
    assert_eq!(shape(2, 2, 0).output((5, 6), true), Ok((3, 3)));
    // The last window would begin in the trailing padding.
    assert_eq!(shape(1, 2, 1).output((2, 2), true), Ok((2, 2)));
    assert!(shape(9, 1, 0).output((5, 5), false).is_err());
    assert!(shape(0, 1, 0).output((5, 5), false).is_err());
    assert!(shape(2, 0, 0).output((5, 5), false).is_err());
    assert!(shape(2, 1, usize::MAX).output((5, 5), false).is_err());
}

#[test]
fn bad_operands_are_refused() {
    let isa = Isa::best();
    let good = PoolShape {
        kernel: [2; 2],
        stride: [2; 2],
        dilation: [1; 2],
        pads: [0; 4],
    };
    let x = [0.0; 32];
    let mut y = [0.0; 8];
    let five = Mask::full(5);
    let mut bad = |shape: PoolShape, extents, live, out| {
        pool2d(
            isa,
            &Serial,
            PoolOp::Max,
            &shape,
            &x,
            extents,
            live,
            out,
            &mut y,
        )
        .is_err()
    };
    assert!(!bad(good, (2, 4, 4), None, (2, 2)));
    assert!(bad(good, (3, 4, 4), None, (2, 2)));
    assert!(bad(good, (2, 4, 4), None, (2, 3)));
    assert!(bad(good, (2, 4, 4), Some(five.live()), (2, 2)));
    assert!(bad(
        PoolShape {
            stride: [0, 1],
            ..good
        },
        (2, 4, 4),
        None,
        (2, 2)
    ));
    assert!(bad(
        PoolShape {
            pads: [usize::MAX; 4],
            ..good
        },
        (2, 4, 4),
        None,
        (2, 2)
    ));
    assert!(mean_max(isa, &x, 8, 4, None, &mut [0.0; 8], &mut [0.0; 7]).is_err());
    assert!(mean_max(isa, &x, 9, 4, None, &mut [0.0; 9], &mut [0.0; 9]).is_err());
}
