//! Pooling.

use alloc::vec::Vec;

use crate::ops::pool::{PoolOp, PoolShape};

/// y[c, i, j] = max or mean over the window at (i, j)
pub fn pool2d(
    op: PoolOp,
    shape: &PoolShape,
    x: &[f32],
    (c, h, w): (usize, usize, usize),
    out: (usize, usize),
) -> Vec<f64> {
    let [top, left, bottom, right] = shape.pads.map(|p| p as isize);
    let (hi, wi) = (h as isize, w as isize);
    let mut y = Vec::with_capacity(c * out.0 * out.1);
    for n in 0..c * out.0 * out.1 {
        let (c, i, j) = (n / out.1 / out.0, n / out.1 % out.0, n % out.1);
        let (mut sum, mut best, mut inside, mut padded) = (0.0, f64::NEG_INFINITY, 0, 0);
        for k in 0..shape.kernel[0] {
            for l in 0..shape.kernel[1] {
                let r = (i * shape.stride[0] + k * shape.dilation[0]) as isize - top;
                let q = (j * shape.stride[1] + l * shape.dilation[1]) as isize - left;
                padded += usize::from(r < hi + bottom && q < wi + right);
                if r < 0 || q < 0 || r >= hi || q >= wi {
                    continue;
                }
                let x = f64::from(x[(c * h + r as usize) * w + q as usize]);
                inside += 1;
                sum += x;
                best = if best > x || best.is_nan() { best } else { x };
            }
        }
        y.push(match op {
            PoolOp::Max => best,
            PoolOp::Mean { include_pad: true } => sum / padded as f64,
            PoolOp::Mean { include_pad: false } => sum / f64::from(inside),
        });
    }
    y
}
