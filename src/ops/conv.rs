//! Conv: 1 to 3 spatial axes, groups, dilations.

use crate::graph::Window;
use crate::ops::axes::ShapeBuilder;
use crate::ops::fail;
use crate::ops::operands::Operands;
use crate::ops::window::{ResolvedWindow, spatial};
use crate::{DType, Result, Shape, ViewMut};

/// Outputs of a row that are summed together, on the stack.
const CHUNK: usize = 64;

/// The window over X, of the extents of the weights.
fn resolve(window: &Window, x: Shape, w: Shape) -> Result<ResolvedWindow> {
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(fail(format!(
            "X of shape {x} and W of shape {w} do not have the same three or more axes"
        )));
    }
    if !window.kernel.is_empty() && window.kernel[..] != w[2..] {
        return Err(fail(format!(
            "the kernel {:?} is not that of W of shape {w}",
            window.kernel
        )));
    }
    window.resolve(&w[2..], &x[2..], false)
}

pub(super) fn result(
    x: Operands<'_, '_>,
    window: &Window,
    groups: usize,
) -> Result<(DType, Shape)> {
    let input = x.typed(0, "X", DType::F32)?.shape;
    let w = x.typed(1, "W", DType::F32)?.shape;
    let resolved = resolve(window, input, w)?;
    let (c_in, c_out) = (input[1], w[0]);
    if groups == 0 || c_out % groups != 0 || Some(c_in) != w[1].checked_mul(groups) {
        return Err(fail(format!(
            "{groups} groups do not divide {c_in} channels of X among W of shape {w}"
        )));
    }
    if x.optional(2).is_some() {
        let bias = x.typed(2, "B", DType::F32)?.shape;
        if *bias != [c_out] {
            return Err(fail(format!("a bias of shape {bias} is not [{c_out}]")));
        }
    }
    let dims = [input[0], c_out];
    let shape = ShapeBuilder::collect(
        dims.into_iter()
            .chain(resolved.output[..resolved.rank].iter().copied()),
    )?;
    Ok((DType::F32, shape))
}

/// Y[n, m, o] = B[m] + Σ_{c, t} W[m, c, t] · X[n, c, o · stride + t · dilation - begin]
pub(super) fn eval(
    x: Operands<'_, '_>,
    window: &Window,
    groups: usize,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let (input, weights) = (x.view(0, "X")?, x.view(1, "W")?);
    let (x_shape, w_shape) = (input.shape(), weights.shape());
    let bias = x
        .optional_view(2, "B")?
        .map(|b| b.as_slice::<f32>())
        .transpose()?;
    let win = resolve(window, x_shape, w_shape)?.right_aligned();
    let [depth, height, width] = spatial(&x_shape[2..]);
    let [_, out_height, out_width] = win.output;
    let [_, taps_h, taps_w] = win.kernel;
    let (c_in, c_out, c_group) = (x_shape[1], w_shape[0], w_shape[1]);
    let per_kernel: usize = win.kernel.iter().product();
    let per_map = depth * height * width;
    let (input, weights) = (input.as_slice::<f32>()?, weights.as_slice::<f32>()?);
    let y = y.as_slice::<f32>()?;
    if y.is_empty() {
        return Ok(());
    }
    for (row, y) in y.chunks_exact_mut(out_width).enumerate() {
        // The row is [n, m, d, h].
        let (row, h) = (row / out_height, row % out_height);
        let (row, d) = (row / win.output[0], row % win.output[0]);
        let (n, m) = (row / c_out, row % c_out);
        let first = n * c_in + m / (c_out / groups) * c_group;
        let start = bias.map_or(0.0, |bias| bias[m].into());
        for (chunk, y) in y.chunks_mut(CHUNK).enumerate() {
            let begin = chunk * CHUNK;
            let mut sums = [start; CHUNK];
            for c in 0..c_group {
                let w = &weights[(m * c_group + c) * per_kernel..][..per_kernel];
                let map = &input[(first + c) * per_map..][..per_map];
                for td in win.taps(0, d, depth) {
                    let z = win.position(0, d, td);
                    for th in win.taps(1, h, height) {
                        let line = z * height + win.position(1, h, th);
                        let line = &map[line * width..][..width];
                        let w = &w[(td * taps_h + th) * taps_w..][..taps_w];
                        for (t, &w) in w.iter().enumerate() {
                            add(&mut sums[..y.len()], begin, &win, t, w.into(), line);
                        }
                    }
                }
            }
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = sum as f32;
            }
        }
    }
    Ok(())
}

/// Adds one tap of the innermost axis to the outputs from `begin` on.
fn add(sums: &mut [f64], begin: usize, win: &ResolvedWindow, tap: usize, w: f64, line: &[f32]) {
    let (stride, pad) = (win.strides[2], win.begins[2]);
    let shift = tap * win.dilations[2];
    let low = pad.saturating_sub(shift).div_ceil(stride).max(begin);
    let high = (line.len() + pad).saturating_sub(shift).div_ceil(stride);
    let high = high.min(begin + sums.len());
    if low >= high {
        return;
    }
    let line = &line[low * stride + shift - pad..];
    let sums = &mut sums[low - begin..high - begin];
    let add = |(sum, &x): (&mut f64, &f32)| *sum += w * f64::from(x);
    if stride == 1 {
        sums.iter_mut().zip(line).for_each(add);
    } else {
        sums.iter_mut()
            .zip(line.iter().step_by(stride))
            .for_each(add);
    }
}
