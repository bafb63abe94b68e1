//! Operators that only change the shape: Reshape, Flatten, Squeeze, Unsqueeze; and Shape, which tells it.

use std::ops::Range;

use crate::ops::axes::{AxisSet, ShapeBuilder, axis_or_end};
use crate::ops::fail;
use crate::ops::operands::Operands;
use crate::tensor::MAX_RANK;
use crate::{DType, Result, Shape, ViewMut};

/// An extent of 0 copies that of the input, unless zeros are allowed; -1 stands for what is left.
pub(super) fn reshape_result(x: Operands<'_, '_>, allow_zero: bool) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    let wanted = x.ints(1, "shape")?;
    if wanted.len() > MAX_RANK {
        return Err(fail("the result has more than 8 axes"));
    }
    let mut dims = [0; MAX_RANK];
    let mut open = None;
    // Extents that are copied are left out of what -1 is computed from: a batch of zero samples must not hide it.
    let mut copied = [false; MAX_RANK];
    let mut known = 1usize;
    for (i, want) in wanted.iter().enumerate() {
        match want {
            -1 if open.is_some() => return Err(fail("the shape has more than one -1")),
            -1 => open = Some(i),
            0 if !allow_zero => {
                let Some(&dim) = input.shape.get(i) else {
                    return Err(fail(format!(
                        "the shape copies axis {i} of an input of shape {}",
                        input.shape
                    )));
                };
                dims[i] = dim;
                copied[i] = true;
            }
            _ => {
                dims[i] = usize::try_from(want)
                    .map_err(|_| fail(format!("the shape has an extent of {want}")))?;
                known = known
                    .checked_mul(dims[i])
                    .ok_or_else(|| fail("the shape has too many elements"))?;
            }
        }
    }
    if let Some(open) = open {
        let left: usize = input
            .shape
            .iter()
            .zip(copied)
            .filter(|&(_, copied)| !copied)
            .map(|(&dim, _)| dim)
            .product();
        dims[open] = left
            .checked_div(known)
            .ok_or_else(|| fail("the extent of -1 cannot be told beside an extent of 0"))?;
    }
    let shape = Shape::new(&dims[..wanted.len()])?;
    if shape.elements() != input.shape.elements() {
        return Err(fail(format!(
            "the elements of {} do not fill {shape}",
            input.shape
        )));
    }
    Ok((input.dtype, shape))
}

pub(super) fn flatten_result(x: Operands<'_, '_>, axis: i64) -> Result<(DType, Shape)> {
    let input = x.get(0, "input")?;
    let at = axis_or_end(axis, input.shape.rank())?;
    let (outer, inner) = input.shape.split_at(at);
    let shape = Shape::new(&[outer.iter().product(), inner.iter().product()])?;
    Ok((input.dtype, shape))
}

pub(super) fn squeeze_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    let axes = x
        .optional_ints(1, "axes")?
        .map(|axes| AxisSet::new(axes, input.shape.rank()))
        .transpose()?;
    let mut builder = ShapeBuilder::default();
    for (i, &dim) in input.shape.iter().enumerate() {
        match axes {
            Some(axes) if !axes.has(i) => builder.push(dim)?,
            Some(_) if dim != 1 => {
                return Err(fail(format!("axis {i} of {} is not 1", input.shape)));
            }
            None if dim != 1 => builder.push(dim)?,
            _ => {}
        }
    }
    Ok((input.dtype, builder.finish()?))
}

pub(super) fn unsqueeze_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    let list = x.ints(1, "axes")?;
    let rank = input.shape.rank() + list.len();
    if rank > MAX_RANK {
        return Err(fail("the result has more than 8 axes"));
    }
    let axes = AxisSet::new(list, rank)?;
    let mut dims = input.shape.iter();
    let shape = ShapeBuilder::collect((0..rank).map(|i| {
        if axes.has(i) {
            1
        } else {
            dims.next().copied().unwrap_or(1)
        }
    }))?;
    Ok((input.dtype, shape))
}

/// The axes that Shape tells, clamped to those that there are.
fn told(rank: usize, start: i64, end: Option<i64>) -> Range<usize> {
    let clamp = |at: i64| {
        let from_front = if at < 0 {
            at.saturating_add(rank as i64)
        } else {
            at
        };
        from_front.clamp(0, rank as i64) as usize
    };
    let start = clamp(start);
    start..end.map_or(rank, clamp).max(start)
}

pub(super) fn shape_result(
    x: Operands<'_, '_>,
    start: i64,
    end: Option<i64>,
) -> Result<(DType, Shape)> {
    let rank = x.get(0, "data")?.shape.rank();
    Ok((DType::I64, Shape::new(&[told(rank, start, end).len()])?))
}

pub(super) fn shape(
    x: Operands<'_, '_>,
    start: i64,
    end: Option<i64>,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let shape = x.get(0, "data")?.shape;
    let dims = &shape[told(shape.rank(), start, end)];
    for (y, &dim) in y.as_slice::<i64>()?.iter_mut().zip(dims) {
        *y = dim as i64;
    }
    Ok(())
}
