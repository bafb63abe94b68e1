//! Operators that pick elements by position: Slice, Gather.

use crate::ops::axes::{AxisSet, ShapeBuilder, Strides, axis as find_axis, strides};
use crate::ops::fail;
use crate::ops::movement::gather_into;
use crate::ops::operands::{Ints, Operands};
use crate::tensor::MAX_RANK;
use crate::{DType, Result, Shape, ViewMut};

/// The part of one axis that a slice takes.
#[derive(Clone, Copy)]
struct Cut {
    start: isize,
    step: isize,
    extent: usize,
}

impl Cut {
    fn new(extent: usize, start: i64, end: i64, step: i64) -> Self {
        let n = extent as i64;
        let from_front = |at: i64| if at < 0 { at + n } else { at };
        // The places from which the walk starts, and where it ends, at most: behind the last, before the first.
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let start = from_front(start).clamp(low, high);
        let end = from_front(end).clamp(low, high);
        let room = if step > 0 { end - start } else { start - end };
        let taken = match u64::try_from(room) {
            Ok(room) => room.div_ceil(step.unsigned_abs()) as usize,
            Err(_) => 0,
        };
        match taken {
            // No step is taken, and it may be too large to multiply with.
            0 => Self {
                start: 0,
                step: 0,
                extent: 0,
            },
            1 => Self {
                start: start as isize,
                step: 0,
                extent: 1,
            },
            _ => Self {
                start: start as isize,
                step: step as isize,
                extent: taken,
            },
        }
    }
}

/// The cuts of all axes.
fn cuts(x: Operands<'_, '_>, shape: Shape) -> Result<[Cut; MAX_RANK]> {
    let starts = x.ints(1, "starts")?;
    let ends = x.ints(2, "ends")?;
    let axes = x.optional_ints(3, "axes")?;
    let steps = x.optional_ints(4, "steps")?;
    let n = starts.len();
    let agrees = |list: Option<Ints<'_>>| list.is_none_or(|list| list.len() == n);
    if n != ends.len() || !agrees(axes) || !agrees(steps) || n > shape.rank() {
        return Err(fail(format!(
            "starts, ends, axes and steps do not agree on a slice of {shape}"
        )));
    }
    if let Some(axes) = axes {
        AxisSet::new(axes, shape.rank())?;
    }
    let mut cuts = std::array::from_fn(|axis| Cut {
        start: 0,
        step: 1,
        extent: shape.get(axis).copied().unwrap_or(1),
    });
    for i in 0..n {
        let axis = match axes {
            Some(axes) => find_axis(axes.at(i), shape.rank())?,
            None => i,
        };
        let step = steps.map_or(1, |steps| steps.at(i));
        if step == 0 {
            return Err(fail("a step is 0"));
        }
        cuts[axis] = Cut::new(shape[axis], starts.at(i), ends.at(i), step);
    }
    Ok(cuts)
}

pub(super) fn slice_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    let dims = cuts(x, input.shape)?.map(|cut| cut.extent);
    Ok((input.dtype, Shape::new(&dims[..input.shape.rank()])?))
}

pub(super) fn slice(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "data")?;
    let cuts = cuts(x, input.shape())?;
    let own = strides(input.shape());
    let steps: Strides = std::array::from_fn(|axis| own[axis] * cuts[axis].step);
    let start = own
        .iter()
        .zip(&cuts)
        .map(|(&own, cut)| own * cut.start)
        .sum();
    gather_into(y, input.bytes(), start, steps);
    Ok(())
}

pub(super) fn gather_result(x: Operands<'_, '_>, axis: i64) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    let indices = x.get(1, "indices")?;
    if !matches!(indices.dtype, DType::I64 | DType::I32) {
        return Err(fail(format!(
            "indices are {}, not i64 or i32",
            indices.dtype
        )));
    }
    let axis = find_axis(axis, input.shape.rank())?;
    let (outer, inner) = (&input.shape[..axis], &input.shape[axis + 1..]);
    let dims = outer.iter().chain(indices.shape.iter()).chain(inner);
    Ok((input.dtype, ShapeBuilder::collect(dims.copied())?))
}

/// Y[.., i.., ..] = X[.., indices[i..], ..]
pub(super) fn gather(x: Operands<'_, '_>, axis: i64, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "data")?;
    let indices = x.ints(1, "indices")?;
    let shape = input.shape();
    let axis = find_axis(axis, shape.rank())?;
    let extent = shape[axis];
    let inner = shape[axis + 1..].iter().product::<usize>() * input.dtype().size();
    for at in indices.iter() {
        find(at, extent)?;
    }
    if inner == 0 || extent == 0 || indices.len() == 0 {
        return Ok(());
    }
    let outer = input.bytes().chunks_exact(extent * inner);
    for (to, from) in y.bytes().chunks_exact_mut(indices.len() * inner).zip(outer) {
        for (to, at) in to.chunks_exact_mut(inner).zip(indices.iter()) {
            let at = find(at, extent)? * inner;
            to.copy_from_slice(&from[at..at + inner]);
        }
    }
    Ok(())
}

/// An index counted from the front.
fn find(index: i64, extent: usize) -> Result<usize> {
    let from_front = if index < 0 {
        index + extent as i64
    } else {
        index
    };
    match usize::try_from(from_front) {
        Ok(found) if found < extent => Ok(found),
        _ => Err(fail(format!(
            "index {index} is out of range for an axis of {extent}"
        ))),
    }
}
