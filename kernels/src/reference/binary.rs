//! Binary operations and comparisons.

use alloc::vec::Vec;

use crate::ops::binary::{BinaryOp, CompareOp, Operand};

/// The element of an operand that meets element (c, i) of the output.
fn at(x: Operand<'_>, c: usize, i: usize, p: usize) -> f32 {
    match x {
        Operand::Full(x) => x[c * p + i],
        Operand::Scalar(x) => x,
        Operand::Planes(x) => x[c],
        Operand::Row(x) => x[i],
    }
}

/// y[c, p] = a op b
pub fn binary(op: BinaryOp, a: Operand<'_>, b: Operand<'_>, (c, p): (usize, usize)) -> Vec<f64> {
    let one = |n: usize| {
        let a = f64::from(at(a, n / p, n % p, p));
        let b = f64::from(at(b, n / p, n % p, p));
        match op {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Pow => libm::pow(a, b),
            BinaryOp::Min if a < b || a.is_nan() => a,
            BinaryOp::Max if a > b || a.is_nan() => a,
            BinaryOp::Min | BinaryOp::Max => b,
        }
    };
    (0..c * p).map(one).collect()
}

/// y[c, p] = whether a op b holds
pub fn compare(op: CompareOp, a: Operand<'_>, b: Operand<'_>, (c, p): (usize, usize)) -> Vec<u8> {
    let one = |n: usize| {
        let (a, b) = (at(a, n / p, n % p, p), at(b, n / p, n % p, p));
        u8::from(match op {
            CompareOp::Equal => a == b,
            CompareOp::Less => a < b,
            CompareOp::LessOrEqual => a <= b,
            CompareOp::Greater => a > b,
            CompareOp::GreaterOrEqual => a >= b,
        })
    };
    (0..c * p).map(one).collect()
}
