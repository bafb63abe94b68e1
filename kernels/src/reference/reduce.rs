//! Reductions.

use alloc::vec::Vec;

use crate::ops::reduce::ReduceOp;

/// y[o, j] = op over a of x[o, a, j]
pub fn reduce(op: ReduceOp, x: &[f32], [outer, axis, inner]: [usize; 3]) -> Vec<f64> {
    let mut y = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for j in 0..inner {
            let column = (0..axis).map(|a| f64::from(x[(o * axis + a) * inner + j]));
            y.push(match op {
                ReduceOp::Sum => column.sum(),
                ReduceOp::Mean => column.sum::<f64>() / axis as f64,
                ReduceOp::Max => column.fold(f64::NEG_INFINITY, |best, x| {
                    if best > x || best.is_nan() { best } else { x }
                }),
                ReduceOp::Min => column.fold(f64::INFINITY, |best, x| {
                    if best < x || best.is_nan() { best } else { x }
                }),
            });
        }
    }
    y
}
