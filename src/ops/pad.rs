//! Pad: elements around a tensor, or fewer of them.

use crate::graph::PadMode;
use crate::ops::axes::{AxisSet, axis as find_axis, strides};
use crate::ops::fail;
use crate::ops::operands::Operands;
use crate::ops::walk::{Layout, copy};
use crate::tensor::MAX_RANK;
use crate::{DType, Result, Shape, View, ViewMut};

/// One axis: `skip` elements of the input are cut off, `keep` stay, and stand behind `before` new ones.
#[derive(Clone, Copy)]
struct Border {
    before: usize,
    skip: usize,
    keep: usize,
    extent: usize,
}

impl Border {
    fn new(extent: usize, begin: i64, end: i64) -> Option<Self> {
        let cut = |pad: i64| pad.min(0).unsigned_abs() as usize;
        let new = |pad: i64| pad.max(0) as usize;
        let keep = extent.checked_sub(cut(begin).checked_add(cut(end))?)?;
        Some(Self {
            before: new(begin),
            skip: cut(begin),
            keep,
            extent: keep.checked_add(new(begin))?.checked_add(new(end))?,
        })
    }

    /// Where output `at` is read, relative to what is kept; `None` = nowhere.
    fn source(&self, at: usize, mode: PadMode) -> Option<usize> {
        let (at, n) = (at as isize - self.before as isize, self.keep as isize);
        let found = match mode {
            PadMode::Constant => at,
            PadMode::Edge => at.clamp(0, n - 1),
            PadMode::Wrap => at.rem_euclid(n),
            PadMode::Reflect if n == 1 => 0,
            PadMode::Reflect => {
                let at = at.rem_euclid(2 * (n - 1));
                at.min(2 * (n - 1) - at)
            }
        };
        (0..n).contains(&found).then_some(found as usize)
    }
}

fn borders(x: Operands<'_, '_>, shape: Shape) -> Result<[Border; MAX_RANK]> {
    let pads = x.ints(1, "pads")?;
    let axes = x.optional_ints(3, "axes")?;
    let n = match axes {
        Some(axes) => {
            AxisSet::new(axes, shape.rank())?;
            axes.len()
        }
        None => shape.rank(),
    };
    if pads.len() != 2 * n {
        return Err(fail(format!(
            "pads have {} entries, not two for each of {n} axes",
            pads.len()
        )));
    }
    let mut borders = std::array::from_fn(|axis| {
        let extent = shape.get(axis).copied().unwrap_or(1);
        Border {
            before: 0,
            skip: 0,
            keep: extent,
            extent,
        }
    });
    for i in 0..n {
        let axis = match axes {
            Some(axes) => find_axis(axes.at(i), shape.rank())?,
            None => i,
        };
        let (begin, end) = (pads.at(i), pads.at(n + i));
        borders[axis] = Border::new(shape[axis], begin, end).ok_or_else(|| {
            fail(format!(
                "pads of {begin} and {end} do not fit an extent of {}",
                shape[axis]
            ))
        })?;
    }
    Ok(borders)
}

pub(super) fn result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.get(0, "data")?;
    if let Some(value) = x.optional(2)
        && (value.dtype != input.dtype || value.shape.elements() != 1)
    {
        return Err(fail(format!(
            "the value is {} {}, not one {}",
            value.dtype, value.shape, input.dtype
        )));
    }
    let dims = borders(x, input.shape)?.map(|border| border.extent);
    Ok((input.dtype, Shape::new(&dims[..input.shape.rank()])?))
}

pub(super) fn eval(x: Operands<'_, '_>, mode: PadMode, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "data")?;
    let borders = borders(x, input.shape())?;
    let rank = input.shape().rank();
    let from = strides(input.shape());
    let start = (0..rank).map(|a| borders[a].skip as isize * from[a]).sum();
    let from = Layout {
        start,
        strides: from,
    };
    if mode == PadMode::Constant {
        let value = x.optional_view(2, "constant_value")?;
        words!(y.dtype(), T => constant::<T>(input, value, &borders[..rank], from, y));
        return Ok(());
    }
    if y.shape().elements() > 0 && borders[..rank].iter().any(|b| b.keep == 0) {
        return Err(fail(
            "there is nothing to repeat around an axis of extent 0",
        ));
    }
    words!(y.dtype(), T => repeated::<T>(input, mode, &borders[..rank], from, y));
    Ok(())
}

/// Fills with the value, then copies what is kept.
fn constant<T: bytemuck::Pod + Default>(
    x: View<'_>,
    value: Option<View<'_>>,
    borders: &[Border],
    from: Layout,
    y: &mut ViewMut<'_>,
) {
    let to = strides(y.shape());
    let start = borders
        .iter()
        .zip(to)
        .map(|(b, step)| b.before as isize * step)
        .sum();
    let keep: [usize; MAX_RANK] = std::array::from_fn(|a| borders.get(a).map_or(1, |b| b.keep));
    let value = value.and_then(|v| bytemuck::cast_slice(v.bytes()).first().copied());
    let y: &mut [T] = bytemuck::cast_slice_mut(y.bytes());
    y.fill(value.unwrap_or_default());
    let to = Layout { start, strides: to };
    copy(
        &keep[..borders.len()],
        (y, to),
        (bytemuck::cast_slice(x.bytes()), from),
    );
}

/// Y[i] = X[source(i)], axis by axis.
fn repeated<T: bytemuck::Pod>(
    x: View<'_>,
    mode: PadMode,
    borders: &[Border],
    from: Layout,
    y: &mut ViewMut<'_>,
) {
    let x: &[T] = bytemuck::cast_slice(x.bytes());
    let steps = strides(y.shape());
    let y: &mut [T] = bytemuck::cast_slice_mut(y.bytes());
    for (i, y) in y.iter_mut().enumerate() {
        let mut at = from.start;
        for (axis, border) in borders.iter().enumerate() {
            let place = i / steps[axis] as usize % border.extent;
            let source = border.source(place, mode).unwrap_or(0);
            at += source as isize * from.strides[axis];
        }
        *y = x[at as usize];
    }
}
