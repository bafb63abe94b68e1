//! Reductions against their reference, on every instruction set.

mod nn;

use nn::{CANARY, Mask, assert_close, bits, data, guarded};
use proptest::prelude::*;
use sluicegate_kernels::ops::reduce::{ReduceOp, reduce};
use sluicegate_kernels::{Isa, reference};

const OPS: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min];

fn check(extents: [usize; 3], seed: u64, density: u32, nan: bool) {
    let [outer, axis, inner] = extents;
    let mut x = data(seed, outer * axis * inner);
    if nan && let Some(x) = x.last_mut() {
        *x = f32::NAN;
    }
    let live = Mask::new(seed + 1, outer, density);
    let full = Mask::full(outer);
    for isa in Isa::available() {
        for op in OPS {
            let name = format!("{isa} {op:?} {extents:?}");
            let run = |x: &[f32], live| {
                guarded(outer * inner, |y| {
                    reduce(isa, op, x, extents, live, y).expect("valid");
                })
            };
            let y = run(&x, None);
            let want = reference::reduce::reduce(op, &x, extents);
            assert_close(&name, &y, &want, |_| axis as f64 * 1.2e-7);
            assert_eq!(bits(&run(&x, Some(full.live()))), bits(&y), "{name}: full");
            let masked = run(&live.kill(&x, f32::NAN), Some(live.live()));
            let kept = live.kill(&y, CANARY);
            assert_eq!(bits(&masked), bits(&kept), "{name}: mask");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn rows(outer in 1usize..7, axis in 1usize..200, seed in 0u64..1 << 40, density in 0u32..9, nan: bool) {
        check([outer, axis, 1], seed, density, nan);
    }

    #[test]
    fn columns(extents in (1usize..5, 1usize..20, 1usize..140), seed in 0u64..1 << 40, density in 0u32..9, nan: bool) {
        check([extents.0, extents.1, extents.2], seed, density, nan);
    }
}

#[test]
fn nothing_to_reduce() {
    for inner in [1, 5] {
        let mut y = [1.0; 5];
        let y = &mut y[..inner];
        let isa = Isa::best();
        reduce(isa, ReduceOp::Sum, &[], [1, 0, inner], None, y).expect("valid");
        assert!(y.iter().all(|&y| y == 0.0));
        reduce(isa, ReduceOp::Mean, &[], [1, 0, inner], None, y).expect("valid");
        assert!(y.iter().all(|y| y.is_nan()));
        reduce(isa, ReduceOp::Max, &[], [1, 0, inner], None, y).expect("valid");
        assert!(y.iter().all(|&y| y == f32::NEG_INFINITY));
    }
    reduce(Isa::best(), ReduceOp::Max, &[], [3, 4, 0], None, &mut []).expect("valid");
}

#[test]
fn bad_operands_are_refused() {
    let five = Mask::full(5);
    let mut y = [0.0; 8];
    let mut bad = |extents, live| {
        reduce(
            Isa::best(),
            ReduceOp::Sum,
            &[0.0; 24],
            extents,
            live,
            &mut y,
        )
        .is_err()
    };
    assert!(bad([2, 13, 1], None));
    assert!(bad([9, 1, 1], None));
    assert!(bad([usize::MAX, 2, 1], None));
    assert!(bad([2, 12, 1], Some(five.live())));
    assert!(!bad([2, 12, 1], None));
}
