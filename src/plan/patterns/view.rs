//! Where the elements of a value stand in another one that they were only moved from.

use super::{Known, LONGEST};
use crate::graph::{Op, ValueId};

/// A value as a part of another: element `[i, j, ..]` is element `offset + i · stride + j · stride + ..` of `base`.
pub(super) struct View {
    pub(super) base: ValueId,
    pub(super) offset: usize,
    pub(super) axes: Vec<Axis>,
}

/// The extent and the stride of an axis.
pub(super) type Axis = (usize, usize);

impl View {
    /// A value as a part of what the moves before it began with.
    pub(super) fn of(known: &Known<'_>, id: ValueId) -> Self {
        Self::within(known, id, LONGEST)
    }

    fn within(known: &Known<'_>, id: ValueId, moves: usize) -> Self {
        let moved = moves.checked_sub(1);
        let moved = moved.and_then(|left| Self::moved(known, id, left));
        moved.unwrap_or_else(|| Self {
            base: id,
            offset: 0,
            axes: packed(&known.shape(id)),
        })
    }

    /// What the last move made, if no element had to be copied for it.
    fn moved(known: &Known<'_>, id: ValueId, left: usize) -> Option<Self> {
        let (_, item, op) = known.maker(id)?;
        let of_x = || Self::within(known, item.x(), left);
        match op {
            Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze | Op::Flatten { .. } => {
                let x = of_x();
                let axes = regrouped(&x.axes, &known.shape(id))?;
                Some(Self { axes, ..x })
            }
            Op::Transpose { perm } => {
                let x = of_x();
                let axes = match perm {
                    Some(perm) => perm.iter().map(|&p| x.axes[p]).collect(),
                    None => x.axes.iter().rev().copied().collect(),
                };
                Some(Self { axes, ..x })
            }
            Op::Gather { axis } => {
                let at = item.input(1).filter(|&at| known.shape(at).rank() == 0)?;
                let x = of_x();
                let axis = from_front(*axis, x.axes.len())?;
                let at = from_front(known.integer(at)?, x.axes[axis].0)?;
                let mut x = x.cut(axis, at, 1);
                x.axes.remove(axis);
                Some(x)
            }
            Op::Slice => {
                let x = of_x();
                let axis = match item.input(3) {
                    Some(axes) => from_front(known.integer(axes)?, x.axes.len())?,
                    None => 0,
                };
                let extent = x.axes[axis].0;
                let begin = known.integer(item.input(1)?)?;
                let begin = if begin == extent as i64 {
                    extent
                } else {
                    from_front(begin, extent)?
                };
                let forward = match item.input(4) {
                    Some(step) => known.integer(step)? == 1,
                    None => true,
                };
                let taken = known.shape(id)[axis];
                forward.then(|| x.cut(axis, begin, taken))
            }
            Op::Split { axis } => {
                let x = of_x();
                let axis = from_front(*axis, x.axes.len())?;
                let i = item.outputs.iter().position(|&y| y == Some(id))?;
                let taken = known.shape(id)[axis];
                // Parts of the same extent.
                let is_even = taken * item.outputs.len() == x.axes[axis].0;
                is_even.then(|| x.cut(axis, i * taken, taken))
            }
            _ => None,
        }
    }

    fn cut(mut self, axis: usize, begin: usize, taken: usize) -> Self {
        self.offset += begin * self.axes[axis].1;
        self.axes[axis].0 = taken;
        self
    }
}

fn from_front(at: i64, extent: usize) -> Option<usize> {
    let at = if at < 0 { at + extent as i64 } else { at };
    usize::try_from(at).ok().filter(|&at| at < extent)
}

/// The axes of a value that is stored as it is.
pub(super) fn packed(shape: &[usize]) -> Vec<Axis> {
    let mut step = 1;
    let mut axes: Vec<Axis> = (shape.iter().rev())
        .map(|&extent| {
            let axis = (extent, step);
            step *= extent;
            axis
        })
        .collect();
    axes.reverse();
    axes
}

/// The same walk in as few axes as it takes.
pub(super) fn merged(axes: &[Axis]) -> Vec<Axis> {
    let mut all: Vec<Axis> = Vec::new();
    for &(extent, stride) in axes.iter().filter(|axis| axis.0 != 1) {
        match all.last_mut() {
            Some(last) if last.1 == stride * extent => *last = (last.0 * extent, stride),
            _ => all.push((extent, stride)),
        }
    }
    all
}

/// The same walk in axes of these extents; `None` = it takes a copy.
fn regrouped(axes: &[Axis], shape: &[usize]) -> Option<Vec<Axis>> {
    let mut runs = merged(axes).into_iter().rev();
    let mut regrouped = vec![(1, 0); shape.len()];
    let (mut left, mut step) = (1, 0);
    for (axis, &extent) in shape.iter().enumerate().rev() {
        if extent == 1 {
            continue;
        }
        if left == 1 {
            (left, step) = runs.next()?;
        }
        if extent == 0 || left % extent != 0 {
            return None;
        }
        regrouped[axis] = (extent, step);
        left /= extent;
        step *= extent;
    }
    (left == 1 && runs.next().is_none()).then_some(regrouped)
}
