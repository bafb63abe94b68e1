//! Softmax and LogSoftmax, along one axis or (`flatten`) over all axes from it on.

use crate::ops::axes::{axis as find_axis, axis_or_end};
use crate::ops::number::Number;
use crate::ops::operands::Operands;
use crate::{DType, Result, Shape, ViewMut};

pub(super) fn result(x: Operands<'_, '_>, axis: i64, flatten: bool) -> Result<(DType, Shape)> {
    let input = x.typed(0, "input", DType::F32)?;
    let rank = input.shape.rank();
    if flatten {
        axis_or_end(axis, rank)?;
    } else {
        find_axis(axis, rank)?;
    }
    Ok((DType::F32, input.shape))
}

/// Y = e^(X - max) / Σ e^(X - max), or its logarithm
pub(super) fn eval(
    x: Operands<'_, '_>,
    axis: i64,
    flatten: bool,
    log: bool,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let input = x.view(0, "input")?;
    let shape = input.shape();
    // A row has `extent` elements that are `step` apart.
    let (extent, step) = if flatten {
        let axis = axis_or_end(axis, shape.rank())?;
        (shape[axis..].iter().product(), 1)
    } else {
        let axis = find_axis(axis, shape.rank())?;
        (shape[axis], shape[axis + 1..].iter().product::<usize>())
    };
    if shape.elements() == 0 {
        return Ok(());
    }
    let (x, y) = (input.as_slice::<f32>()?, y.as_slice::<f32>()?);
    for row in 0..x.len() / extent {
        let start = row / step * extent * step + row % step;
        let places = (0..extent).map(|i| start + i * step);
        let max = places.clone().fold(f32::LOWEST, |max, i| max.larger(x[i]));
        let above = |i: usize| f64::from(x[i]) - f64::from(max);
        let sum: f64 = places.clone().map(|i| above(i).exp()).sum();
        for i in places {
            y[i] = if log {
                above(i) - sum.ln()
            } else {
                above(i).exp() / sum
            } as f32;
        }
    }
    Ok(())
}
