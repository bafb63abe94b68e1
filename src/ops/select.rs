//! Operators that keep or replace elements: Where, Clip, Mask.

use crate::ops::axes::{broadcast, stretched, strides};
use crate::ops::number::Number;
use crate::ops::operands::Operands;
use crate::ops::walk::Walk;
use crate::ops::{fail, undefined};
use crate::{DType, Result, Shape, View, ViewMut};

pub(super) fn where_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let condition = x.typed(0, "condition", DType::Bool)?;
    let yes = x.get(1, "X")?;
    let no = x.typed(2, "Y", yes.dtype)?;
    let shape = broadcast(broadcast(condition.shape, yes.shape)?, no.shape)?;
    Ok((yes.dtype, shape))
}

/// Y = condition ? X : Y
pub(super) fn choose(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let (condition, yes, no) = (x.view(0, "condition")?, x.view(1, "X")?, x.view(2, "Y")?);
    let shape = y.shape();
    let operand = |v: View<'_>| stretched(v.shape(), shape);
    let walk = Walk::new(
        &shape,
        [
            strides(shape),
            operand(condition),
            operand(yes),
            operand(no),
        ],
    );
    let steps = walk.steps();
    words!(y.dtype(), T => {
        let y: &mut [T] = bytemuck::cast_slice_mut(y.bytes());
        let (yes, no): (&[T], &[T]) =
            (bytemuck::cast_slice(yes.bytes()), bytemuck::cast_slice(no.bytes()));
        for row in walk.rows([0; 4]) {
            for j in 0..walk.len() as isize {
                let at = |k: usize| (row[k] + j * steps[k]) as usize;
                y[at(0)] = if condition.bytes()[at(1)] != 0 { yes[at(2)] } else { no[at(3)] };
            }
        }
    });
    Ok(())
}

pub(super) fn clip_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.get(0, "input")?;
    if input.dtype == DType::Bool {
        return Err(undefined(DType::Bool));
    }
    for (i, name) in [(1, "min"), (2, "max")] {
        if x.optional(i).is_some() {
            let bound = x.typed(i, name, input.dtype)?;
            if bound.shape.elements() != 1 {
                return Err(fail(format!(
                    "`{name}` of shape {} is not one number",
                    bound.shape
                )));
            }
        }
    }
    Ok((input.dtype, input.shape))
}

/// Y = min(max(X, low), high)
pub(super) fn clip(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let (low, high) = (x.optional_view(1, "min")?, x.optional_view(2, "max")?);
    numeric!(y.dtype(), T => {
        let bound = |v: Option<View<'_>>| -> Result<Option<T>> {
            Ok(v.map(|v| v.as_slice::<T>()).transpose()?.and_then(|v| v.first().copied()))
        };
        let (low, high) = (bound(low)?, bound(high)?);
        let x = x.view(0, "input")?.as_slice::<T>()?;
        for (y, &x) in y.as_slice::<T>()?.iter_mut().zip(x) {
            let x = low.map_or(x, |low| x.larger(low));
            *y = high.map_or(x, |high| x.smaller(high));
        }
    });
    Ok(())
}

pub(super) fn mask_result(x: Operands<'_, '_>, axis: usize) -> Result<(DType, Shape)> {
    let input = x.get(0, "X")?;
    let mask = x.get(1, "mask")?;
    if input.dtype == DType::Bool {
        return Err(undefined(DType::Bool));
    }
    if mask.dtype != DType::Bool && mask.dtype != input.dtype {
        return Err(fail(format!(
            "the mask is {}, not bool or {}",
            mask.dtype, input.dtype
        )));
    }
    let channels = input.shape.get(axis).copied();
    let samples = if axis == 0 {
        1
    } else {
        input.shape.first().copied().unwrap_or(1)
    };
    match (&*mask.shape, channels) {
        (&[n, c], Some(channels)) if c == channels && (n == 1 || n == samples) => {
            Ok((input.dtype, input.shape))
        }
        _ => Err(fail(format!(
            "a mask of shape {} does not fit axis {axis} of {}",
            mask.shape, input.shape
        ))),
    }
}

/// Y[n, c, ..] = mask[n, c] = 0 ? 0 : X[n, c, ..] · mask[n, c]
pub(super) fn mask(x: Operands<'_, '_>, axis: usize, y: &mut ViewMut<'_>) -> Result<()> {
    let (input, mask) = (x.view(0, "X")?, x.view(1, "mask")?);
    let shape = input.shape();
    let channels = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    // Channels of one sample stand `between` times in a row: X is [samples, between, channels, inner].
    let between: usize = if axis == 0 {
        1
    } else {
        shape[1..axis].iter().product()
    };
    let per_sample = mask.shape()[0] > 1;
    if shape.elements() == 0 {
        return Ok(());
    }
    numeric!(y.dtype(), T => {
        let x = input.as_slice::<T>()?;
        let factors = if mask.dtype() == DType::Bool { None } else { Some(mask.as_slice::<T>()?) };
        let planes = y.as_slice::<T>()?.chunks_exact_mut(inner).zip(x.chunks_exact(inner));
        for (i, (y, x)) in planes.enumerate() {
            let sample = if per_sample { i / channels / between } else { 0 };
            let at = sample * channels + i % channels;
            let factor = match factors {
                Some(factors) => factors[at],
                None => T::from(mask.bytes()[at] != 0),
            };
            if factor == T::default() {
                y.fill(T::default());
            } else {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x.times(factor);
                }
            }
        }
    });
    Ok(())
}
