//! Normalisations: BatchNormalization, LayerNormalization, RMSNormalization.

use crate::ops::axes::{ShapeBuilder, axis as find_axis, stretched, stretches, strides};
use crate::ops::fail;
use crate::ops::operands::Operands;
use crate::ops::walk::Walk;
use crate::tensor::MAX_RANK;
use crate::{DType, Result, Shape, View, ViewMut};

pub(super) fn batch_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.typed(0, "X", DType::F32)?;
    // A tensor of one axis is a batch of samples of one channel.
    let channels = match input.shape.rank() {
        0 => return Err(fail("X has no axis of samples")),
        1 => 1,
        _ => input.shape[1],
    };
    for (i, name) in [(1, "scale"), (2, "B"), (3, "mean"), (4, "var")] {
        let shape = x.typed(i, name, DType::F32)?.shape;
        if *shape != [channels] {
            return Err(fail(format!(
                "`{name}` of shape {shape} is not [{channels}]"
            )));
        }
    }
    Ok((DType::F32, input.shape))
}

/// Y[n, c, ..] = (X[n, c, ..] - mean[c]) / √(var[c] + ε) · scale[c] + B[c]
pub(super) fn batch(x: Operands<'_, '_>, epsilon: f32, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "X")?;
    let shape = input.shape();
    let channels = shape.get(1).copied().unwrap_or(1);
    let inner: usize = shape.iter().skip(2).product();
    let per_channel = |i, name| x.view(i, name)?.as_slice::<f32>();
    let (scale, bias) = (per_channel(1, "scale")?, per_channel(2, "B")?);
    let (mean, variance) = (per_channel(3, "mean")?, per_channel(4, "var")?);
    if shape.elements() == 0 {
        return Ok(());
    }
    let planes = input.as_slice::<f32>()?.chunks_exact(inner);
    for (i, (y, x)) in y
        .as_slice::<f32>()?
        .chunks_exact_mut(inner)
        .zip(planes)
        .enumerate()
    {
        let c = i % channels;
        let factor = f64::from(scale[c]) / (f64::from(variance[c]) + f64::from(epsilon)).sqrt();
        for (y, &x) in y.iter_mut().zip(x) {
            *y = ((f64::from(x) - f64::from(mean[c])) * factor + f64::from(bias[c])) as f32;
        }
    }
    Ok(())
}

/// Result 0 is Y; 1 and 2 are mean and inverse standard deviation, with extents of 1 from `axis` on.
pub(super) fn layer_result(x: Operands<'_, '_>, axis: i64, k: usize) -> Result<(DType, Shape)> {
    let (dtype, shape) = rms_result(x, axis)?;
    if x.optional(2).is_some() {
        stretches(x.typed(2, "B", DType::F32)?.shape, shape, "B")?;
    }
    if k == 0 {
        return Ok((dtype, shape));
    }
    let axis = find_axis(axis, shape.rank())?;
    let dims = shape.iter().enumerate();
    let dims = dims.map(|(i, &d)| if i < axis { d } else { 1 });
    Ok((dtype, ShapeBuilder::collect(dims)?))
}

pub(super) fn rms_result(x: Operands<'_, '_>, axis: i64) -> Result<(DType, Shape)> {
    let input = x.typed(0, "X", DType::F32)?;
    find_axis(axis, input.shape.rank())?;
    stretches(x.typed(1, "scale", DType::F32)?.shape, input.shape, "scale")?;
    Ok((DType::F32, input.shape))
}

/// Y = (X - mean) / √(variance + ε) · scale + B, mean and variance over the axes from `axis` on
pub(super) fn layer(
    x: Operands<'_, '_>,
    axis: i64,
    epsilon: f32,
    outputs: &mut [Option<ViewMut<'_>>],
) -> Result<()> {
    let rows = Rows::new(x, axis)?;
    let mut outputs = outputs.iter_mut();
    let mut next = || outputs.next().and_then(Option::as_mut);
    let (mut y, mut means, mut deviations) = (next(), next(), next());
    let bias = x.optional_view(2, "B")?;
    // Rows without elements still have a mean, NaN, but there may be very many of them when it is not asked for.
    let count = match (&means, &deviations) {
        (None, None) if rows.inner == 0 => 0,
        _ => rows.count,
    };
    for i in 0..count {
        let x = rows.row(i);
        let n = rows.inner as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let square = |&x: &f32| (f64::from(x) - mean).powi(2);
        let variance = x.iter().map(square).sum::<f64>() / n;
        let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
        if let Some(y) = &mut y {
            normalised(i, x, mean, factor, y)?;
        }
        if let Some(means) = &mut means {
            means.as_slice::<f32>()?[i] = mean as f32;
        }
        if let Some(deviations) = &mut deviations {
            deviations.as_slice::<f32>()?[i] = factor as f32;
        }
    }
    match y {
        Some(y) => affine(rows.scale, bias, y),
        None => Ok(()),
    }
}

/// Y = X / √(mean of X² + ε) · scale, the mean over the axes from `axis` on
pub(super) fn rms(x: Operands<'_, '_>, axis: i64, epsilon: f32, y: &mut ViewMut<'_>) -> Result<()> {
    let rows = Rows::new(x, axis)?;
    let count = if rows.inner == 0 { 0 } else { rows.count };
    for i in 0..count {
        let x = rows.row(i);
        let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        let mean = squares / rows.inner as f64;
        normalised(i, x, 0.0, 1.0 / (mean + f64::from(epsilon)).sqrt(), y)?;
    }
    affine(rows.scale, None, y)
}

/// What is normalised together: `count` rows of `inner` elements.
struct Rows<'a> {
    x: &'a [f32],
    count: usize,
    inner: usize,
    scale: View<'a>,
}

impl<'a> Rows<'a> {
    fn new(x: Operands<'_, 'a>, axis: i64) -> Result<Self> {
        let input = x.view(0, "X")?;
        let axis = find_axis(axis, input.shape().rank())?;
        let shape = input.shape();
        let (outer, inner) = shape.split_at(axis);
        Ok(Self {
            x: input.as_slice()?,
            count: outer.iter().product(),
            inner: inner.iter().product(),
            scale: x.view(1, "scale")?,
        })
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.x[i * self.inner..][..self.inner]
    }
}

/// Row `i` of y = (x - mean) · factor
fn normalised(i: usize, x: &[f32], mean: f64, factor: f64, y: &mut ViewMut<'_>) -> Result<()> {
    let row = &mut y.as_slice::<f32>()?[i * x.len()..][..x.len()];
    for (y, &x) in row.iter_mut().zip(x) {
        *y = ((f64::from(x) - mean) * factor) as f32;
    }
    Ok(())
}

/// y = y · scale + bias, both stretched
fn affine(scale: View<'_>, bias: Option<View<'_>>, y: &mut ViewMut<'_>) -> Result<()> {
    let shape = y.shape();
    let bias_steps = bias.map_or([0; MAX_RANK], |b| stretched(b.shape(), shape));
    let scale_steps = stretched(scale.shape(), shape);
    let walk = Walk::new(&shape, [strides(shape), scale_steps, bias_steps]);
    let steps = walk.steps();
    let scale = scale.as_slice::<f32>()?;
    let bias = bias.map_or(Ok(&[0.0][..]), |b| b.as_slice::<f32>())?;
    let y = y.as_slice::<f32>()?;
    for row in walk.rows([0; 3]) {
        for j in 0..walk.len() as isize {
            let at = |k: usize| (row[k] + j * steps[k]) as usize;
            let (scale, bias) = (f64::from(scale[at(1)]), f64::from(bias[at(2)]));
            let y = &mut y[at(0)];
            *y = (f64::from(*y) * scale + bias) as f32;
        }
    }
    Ok(())
}
