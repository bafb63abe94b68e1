//! Binary operations and comparisons against their reference, on every instruction set.

mod nn;

use nn::{CANARY, Mask, assert_close, bits, data, guarded};
use proptest::prelude::*;
use sluicegate_kernels::ops::binary::{
    BinaryOp, CompareOp, Operand, binary, binary_in_place, compare,
};
use sluicegate_kernels::{Isa, reference};

const OPS: [BinaryOp; 7] = [
    BinaryOp::Add,
    BinaryOp::Sub,
    BinaryOp::Mul,
    BinaryOp::Div,
    BinaryOp::Pow,
    BinaryOp::Min,
    BinaryOp::Max,
];

/// The four forms of an operand over the same numbers.
fn operand(form: usize, x: &[f32], (c, p): (usize, usize)) -> Operand<'_> {
    match form {
        0 => Operand::Full(x),
        1 => Operand::Scalar(x[0]),
        2 => Operand::Planes(&x[..c]),
        _ => Operand::Row(&x[..p]),
    }
}

fn check(extents: (usize, usize), seed: u64, density: u32) {
    let (c, p) = extents;
    let n = c * p;
    let (mut a, mut b) = (data(seed, n), data(seed + 1, n));
    a[n / 2] = f32::NAN;
    b[n / 3] = f32::NAN;
    b[n - 1] = 2.0;
    let live = Mask::new(seed + 2, c, density);
    let full = Mask::full(c);
    for isa in Isa::available() {
        for op in OPS {
            for form in 0..16 {
                let name = format!("{isa} {op:?} {form} {extents:?}");
                let left = operand(form / 4, &a, extents);
                let right = operand(form % 4, &b, extents);
                let y = guarded(n, |y| {
                    binary(isa, op, left, right, extents, None, y).expect("valid");
                });
                let want = reference::binary::binary(op, left, right, extents);
                assert_close(&name, &y, &want, |i| {
                    f64::from(f32::EPSILON) * want[i].abs() + 1e-44
                });
                let same = guarded(n, |y| {
                    binary(isa, op, left, right, extents, Some(full.live()), y).expect("valid");
                });
                assert_eq!(bits(&same), bits(&y), "{name}: full mask");
                let some = guarded(n, |y| {
                    binary(isa, op, left, right, extents, Some(live.live()), y).expect("valid");
                });
                assert_eq!(bits(&some), bits(&live.kill(&y, CANARY)), "{name}: mask");
                if form / 4 == 0 {
                    let mut z = a.clone();
                    binary_in_place(isa, op, &mut z, right, extents, Some(live.live()))
                        .expect("valid");
                    for (i, z) in z.iter().enumerate() {
                        let want = if live.live().contains(i / p) {
                            y[i]
                        } else {
                            a[i]
                        };
                        let equal = z.to_bits() == want.to_bits() || z.is_nan() && want.is_nan();
                        assert!(equal, "{name}: in place");
                    }
                }
            }
        }
        for op in [
            CompareOp::Equal,
            CompareOp::Less,
            CompareOp::LessOrEqual,
            CompareOp::Greater,
            CompareOp::GreaterOrEqual,
        ] {
            for form in 0..16 {
                let left = operand(form / 4, &a, extents);
                let right = operand(form % 4, &a, extents);
                let mut y = vec![7; n + 1];
                compare(isa, op, left, right, extents, Some(live.live()), &mut y).expect("valid");
                let want = reference::binary::compare(op, left, right, extents);
                for i in 0..n {
                    let want = if live.live().contains(i / p) {
                        want[i]
                    } else {
                        7
                    };
                    assert_eq!(y[i], want, "{isa} {op:?} {form}");
                }
                assert_eq!(y[n], 7, "canary");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equals_reference(extents in (1usize..12, 1usize..70), seed in 0u64..1 << 40, density in 0u32..9) {
        check(extents, seed, density);
    }
}

#[test]
fn nan_in_dead_planes_is_not_read() {
    let (c, p) = (5, 9);
    let x = data(1, c * p);
    let live = Mask::new(3, c, 4);
    let poisoned = live.kill(&x, f32::NAN);
    for isa in Isa::available() {
        let y = guarded(c * p, |y| {
            let (a, b) = (Operand::Full(&poisoned), Operand::Scalar(1.0));
            binary(isa, BinaryOp::Add, a, b, (c, p), Some(live.live()), y).expect("valid");
        });
        assert!(y.iter().all(|y| !y.is_nan()));
    }
}

#[test]
fn bad_operands_are_refused() {
    let x = [1.0; 12];
    let isa = Isa::best();
    let one = Operand::Scalar(1.0);
    let mut y = [0.0; 12];
    let six = Mask::full(6);
    let mut bad =
        |a, b, extents, live| binary(isa, BinaryOp::Add, a, b, extents, live, &mut y).is_err();
    assert!(bad(Operand::Full(&x[1..]), one, (3, 4), None));
    assert!(bad(one, Operand::Full(&x[1..]), (3, 4), None));
    assert!(bad(Operand::Planes(&x[..2]), one, (3, 4), None));
    assert!(bad(Operand::Row(&x[..3]), one, (3, 4), None));
    assert!(bad(one, one, (4, 4), None));
    assert!(bad(one, one, (usize::MAX, 4), None));
    assert!(bad(one, one, (3, 4), Some(six.live())));
    assert!(!bad(one, one, (0, 4), None));
    assert!(!bad(one, one, (4, 0), None));
}
