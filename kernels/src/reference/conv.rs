//! Convolutions.

use alloc::vec::Vec;

use super::matmul::Sum;
use crate::ops::ConvShape;
use crate::{Channels, Error};

/// `Σ_{ci ∈ live} Σ_{kh, kw} w[co, ci, kh, kw] · x[ci, oh·sh + kh·dh - top, ow·sw + kw·dw - left] + bias[co]`, `[co, oh, ow]`.
///
/// # Errors
/// Those of [`ConvShape::output`].
pub fn conv(
    shape: &ConvShape,
    (h, w): (usize, usize),
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    live_in: Option<Channels<'_>>,
) -> Result<Vec<Sum>, Error> {
    let (oh, ow) = shape.output((h, w))?;
    let (ci_each, co_each) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
    let [kernel_h, kernel_w] = shape.kernel;
    let inside = |o: usize, tap: usize, axis: usize, len: usize| {
        let at = o * shape.stride[axis] + tap * shape.dilation[axis];
        at.checked_sub(shape.pads[axis]).filter(|&at| at < len)
    };
    let mut y = Vec::with_capacity(shape.c_out * oh * ow);
    for co in 0..shape.c_out {
        for (r, c) in (0..oh).flat_map(|r| (0..ow).map(move |c| (r, c))) {
            let mut sum = Sum::from_bias(bias.map_or(0.0, |bias| bias[co]));
            for i in 0..ci_each {
                let ci = co / co_each * ci_each + i;
                if live_in.is_some_and(|live| !live.contains(ci)) {
                    continue;
                }
                for (kh, kw) in (0..kernel_h).flat_map(|a| (0..kernel_w).map(move |b| (a, b))) {
                    if let (Some(iy), Some(ix)) = (inside(r, kh, 0, h), inside(c, kw, 1, w)) {
                        let weight = weights[((co * ci_each + i) * kernel_h + kh) * kernel_w + kw];
                        sum.add(weight, x[(ci * h + iy) * w + ix]);
                    }
                }
            }
            y.push(sum);
        }
    }
    Ok(y)
}
