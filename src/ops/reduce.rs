//! ReduceSum, ReduceMean, ReduceMax.

use crate::graph::Reduction;
use crate::ops::axes::{AxisSet, ShapeBuilder, strides};
use crate::ops::number::{Number, Wide};
use crate::ops::operands::Operands;
use crate::ops::walk::Walk;
use crate::ops::{fail, undefined};
use crate::tensor::MAX_RANK;
use crate::{DType, Result, Shape, View, ViewMut};

/// The axes that go: those named, or all, or (`noop`) none when none are named.
fn reduced(x: Operands<'_, '_>, noop: bool) -> Result<AxisSet> {
    let rank = x.get(0, "data")?.shape.rank();
    match x.optional_ints(1, "axes")? {
        Some(axes) if axes.len() > 0 => AxisSet::new(axes, rank),
        _ if noop => Ok(AxisSet::all(0)),
        _ => Ok(AxisSet::all(rank)),
    }
}

pub(super) fn result(
    x: Operands<'_, '_>,
    kind: Reduction,
    keep_dims: bool,
    noop: bool,
) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    if input.dtype == DType::Bool && kind != Reduction::Max {
        return Err(undefined(DType::Bool));
    }
    let reduced = reduced(x, noop)?;
    let mut builder = ShapeBuilder::default();
    for (axis, &dim) in input.shape.iter().enumerate() {
        if !reduced.has(axis) {
            builder.push(dim)?;
        } else if keep_dims {
            builder.push(1)?;
        }
    }
    Ok((input.dtype, builder.finish()?))
}

pub(super) fn eval(
    x: Operands<'_, '_>,
    kind: Reduction,
    noop: bool,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let input = x.view(0, "data")?;
    let space = Space::new(input.shape(), reduced(x, noop)?);
    if input.dtype() == DType::Bool {
        // Truth values are the bytes 0 and 1; the largest is whether any is true.
        space.fold(input.bytes(), y.bytes(), 0, u8::larger, |y| y);
        return Ok(());
    }
    numeric!(input.dtype(), T => numbers::<T>(kind, &space, input, y))
}

fn numbers<T: Number>(
    kind: Reduction,
    space: &Space,
    x: View<'_>,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let (x, y) = (x.as_slice::<T>()?, y.as_slice::<T>()?);
    let add = |sum: T::Wide, x: T| sum.plus(x.wide());
    match kind {
        Reduction::Max => space.fold(x, y, T::LOWEST, T::larger, |y| y),
        Reduction::Sum => space.fold(x, y, T::Wide::default(), add, T::narrow),
        Reduction::Mean => {
            let n = space.count();
            if n == 0 && T::DTYPE != DType::F32 && !y.is_empty() {
                return Err(fail("the mean of no integers"));
            }
            space.fold(x, y, T::Wide::default(), add, |sum| {
                T::narrow(sum.over(n as i64))
            });
        }
    }
    Ok(())
}

/// The axes of the input in two: those that stay and those that go, each with the extents of the others as 1.
struct Space {
    kept: Walk<1>,
    gone: Walk<1>,
    gone_dims: [usize; MAX_RANK],
}

impl Space {
    fn new(shape: Shape, reduced: AxisSet) -> Self {
        let dims = |gone: bool| -> [usize; MAX_RANK] {
            std::array::from_fn(|axis| match shape.get(axis) {
                Some(&dim) if reduced.has(axis) == gone => dim,
                _ => 1,
            })
        };
        let own = [strides(shape)];
        Self {
            kept: Walk::new(&dims(false), own),
            gone: Walk::new(&dims(true), own),
            gone_dims: dims(true),
        }
    }

    /// Elements that become one.
    fn count(&self) -> usize {
        self.gone_dims.iter().product()
    }

    /// y[kept] = finish(fold of x[kept, gone] over gone)
    fn fold<T: Copy, A: Copy>(
        &self,
        x: &[T],
        y: &mut [T],
        start: A,
        step: impl Fn(A, T) -> A,
        finish: impl Fn(A) -> T,
    ) {
        let mut y = y.iter_mut();
        let ([kept_step], [gone_step]) = (self.kept.steps(), self.gone.steps());
        for [row] in self.kept.rows([0]) {
            for i in 0..self.kept.len() as isize {
                let mut result = start;
                for [line] in self.gone.rows([row + i * kept_step]) {
                    for j in 0..self.gone.len() as isize {
                        result = step(result, x[(line + j * gone_step) as usize]);
                    }
                }
                if let Some(y) = y.next() {
                    *y = finish(result);
                }
            }
        }
    }
}
