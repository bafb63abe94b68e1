//! Operators that copy elements to other places: Transpose, Concat, Split, Expand.

use crate::ops::axes::{Strides, axis as find_axis, broadcast, stretched, strides, with_extent};
use crate::ops::fail;
use crate::ops::operands::Operands;
use crate::ops::walk::{Layout, copy};
use crate::tensor::MAX_RANK;
use crate::{DType, Result, Shape, ViewMut};

/// The permutation, by default that which reverses the axes.
fn permutation(perm: Option<&[usize]>, rank: usize) -> Result<[usize; MAX_RANK]> {
    let mut all: [usize; MAX_RANK] = std::array::from_fn(|i| rank.saturating_sub(i + 1));
    if let Some(perm) = perm {
        let named = |axis| perm.contains(&axis);
        if perm.len() != rank || !(0..rank).all(named) {
            return Err(fail(format!(
                "perm {perm:?} is not a permutation of {rank} axes"
            )));
        }
        all[..rank].copy_from_slice(perm);
    }
    Ok(all)
}

pub(super) fn transpose_result(
    x: Operands<'_, '_>,
    perm: Option<&[usize]>,
) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    let perm = permutation(perm, input.shape.rank())?;
    let dims = perm.map(|from| input.shape.get(from).copied().unwrap_or(1));
    Ok((input.dtype, Shape::new(&dims[..input.shape.rank()])?))
}

pub(super) fn transpose(
    x: Operands<'_, '_>,
    perm: Option<&[usize]>,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let input = x.view(0, "data")?;
    let rank = input.shape().rank();
    let own = strides(input.shape());
    let perm = permutation(perm, rank)?;
    let turned: Strides = std::array::from_fn(|i| if i < rank { own[perm[i]] } else { 0 });
    gather_into(y, input.bytes(), 0, turned);
    Ok(())
}

pub(super) fn expand_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.get(0, "input")?;
    let wanted = x.ints(1, "shape")?;
    if wanted.len() > MAX_RANK {
        return Err(fail("the result has more than 8 axes"));
    }
    let mut dims = [0; MAX_RANK];
    for (dim, want) in dims.iter_mut().zip(wanted.iter()) {
        *dim = usize::try_from(want)
            .map_err(|_| fail(format!("the shape has an extent of {want}")))?;
    }
    let shape = Shape::new(&dims[..wanted.len()])?;
    Ok((input.dtype, broadcast(input.shape, shape)?))
}

pub(super) fn expand(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "input")?;
    let steps = stretched(input.shape(), y.shape());
    gather_into(y, input.bytes(), 0, steps);
    Ok(())
}

/// y[i] = x[start + i · steps]
pub(super) fn gather_into(y: &mut ViewMut<'_>, x: &[u8], start: isize, steps: Strides) {
    let (dtype, shape) = (y.dtype(), y.shape());
    let to = Layout {
        start: 0,
        strides: strides(shape),
    };
    let from = Layout {
        start,
        strides: steps,
    };
    words!(dtype, T => copy::<T>(
        &shape,
        (bytemuck::cast_slice_mut(y.bytes()), to),
        (bytemuck::cast_slice(x), from),
    ));
}

pub(super) fn concat_result(x: Operands<'_, '_>, axis: i64) -> Result<(DType, Shape)> {
    let first = x.get(0, "inputs")?;
    let axis = find_axis(axis, first.shape.rank())?;
    let mut extent = 0usize;
    for i in 0..x.count() {
        let part = x.typed(i, "inputs", first.dtype)?;
        let fits = part.shape.rank() == first.shape.rank()
            && (0..first.shape.rank()).all(|a| a == axis || part.shape[a] == first.shape[a]);
        if !fits {
            return Err(fail(format!(
                "operands of shapes {} and {} cannot be joined along axis {axis}",
                first.shape, part.shape
            )));
        }
        extent = extent
            .checked_add(part.shape[axis])
            .ok_or_else(|| fail("the result has too many elements"))?;
    }
    Ok((first.dtype, with_extent(first.shape, axis, extent)?))
}

pub(super) fn concat(x: Operands<'_, '_>, axis: i64, y: &mut ViewMut<'_>) -> Result<()> {
    let shape = y.shape();
    let axis = find_axis(axis, shape.rank())?;
    let inner = shape[axis + 1..].iter().product::<usize>() * y.dtype().size();
    let row = shape[axis] * inner;
    let mut start = 0;
    for i in 0..x.count() {
        let part = x.view(i, "inputs")?;
        let len = part.shape()[axis] * inner;
        if len > 0 {
            let rows = y.bytes().chunks_exact_mut(row);
            for (to, from) in rows.zip(part.bytes().chunks_exact(len)) {
                to[start..start + len].copy_from_slice(from);
            }
        }
        start += len;
    }
    Ok(())
}

/// Extent of part `k` of `outputs`. The sum of the sizes is checked with part 0, which is always asked for first: many parts must not
/// take quadratic time.
fn part(x: Operands<'_, '_>, extent: usize, outputs: usize, k: usize) -> Result<usize> {
    let Some(sizes) = x.optional_ints(1, "split")? else {
        let equal = extent.div_ceil(outputs.max(1));
        return Ok(equal.min(extent.saturating_sub(equal.saturating_mul(k))));
    };
    if sizes.len() != outputs {
        return Err(fail(format!(
            "{} sizes are given for {outputs} results",
            sizes.len()
        )));
    }
    let sum = || {
        sizes.iter().try_fold(0usize, |sum, size| {
            sum.checked_add(usize::try_from(size).ok()?)
        })
    };
    if k == 0 && sum() != Some(extent) {
        return Err(fail(format!(
            "the sizes of the parts do not make up the extent of {extent}"
        )));
    }
    Ok(sizes.at(k) as usize)
}

pub(super) fn split_result(
    x: Operands<'_, '_>,
    axis: i64,
    outputs: usize,
    k: usize,
) -> Result<(DType, Shape)> {
    let input = x.get(0, "input")?;
    let axis = find_axis(axis, input.shape.rank())?;
    let extent = part(x, input.shape[axis], outputs, k)?;
    Ok((input.dtype, with_extent(input.shape, axis, extent)?))
}

pub(super) fn split(
    x: Operands<'_, '_>,
    axis: i64,
    outputs: &mut [Option<ViewMut<'_>>],
) -> Result<()> {
    let input = x.view(0, "input")?;
    let shape = input.shape();
    let axis = find_axis(axis, shape.rank())?;
    let inner = shape[axis + 1..].iter().product::<usize>() * input.dtype().size();
    let row = shape[axis] * inner;
    let count = outputs.len();
    let mut start = 0;
    for (k, y) in outputs.iter_mut().enumerate() {
        let len = part(x, shape[axis], count, k)? * inner;
        if let Some(y) = y
            && len > 0
        {
            let rows = input.bytes().chunks_exact(row);
            for (to, from) in y.bytes().chunks_exact_mut(len).zip(rows) {
                to.copy_from_slice(&from[start..start + len]);
            }
        }
        start += len;
    }
    Ok(())
}
