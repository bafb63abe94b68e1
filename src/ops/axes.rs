//! Axes, sets of axes, broadcasting.

use crate::ops::fail;
use crate::ops::operands::Ints;
use crate::tensor::MAX_RANK;
use crate::{Result, Shape};

/// Steps in elements, one an axis; entries past the rank are 0.
pub(super) type Strides = [isize; MAX_RANK];

/// An axis counted from the front, of one that may be counted from the back.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(from_front) {
        Ok(found) if found < rank => Ok(found),
        _ => Err(fail(format!(
            "axis {axis} is not an axis of a tensor of rank {rank}"
        ))),
    }
}

/// Like [`axis`], and the place behind the last axis is one too.
pub(super) fn axis_or_end(at: i64, rank: usize) -> Result<usize> {
    if at == rank as i64 {
        Ok(rank)
    } else {
        axis(at, rank)
    }
}

/// A set of axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AxisSet(u16);

impl AxisSet {
    /// The first `rank` axes.
    pub(super) fn all(rank: usize) -> Self {
        Self((1 << rank) - 1)
    }

    /// The axes of a list, each at most once.
    pub(super) fn new(list: Ints<'_>, rank: usize) -> Result<Self> {
        list.iter().try_fold(Self(0), |set, at| {
            let found = axis(at, rank)?;
            if set.has(found) {
                return Err(fail(format!("axis {at} is named twice")));
            }
            Ok(Self(set.0 | 1 << found))
        })
    }

    pub(super) fn has(self, axis: usize) -> bool {
        self.0 >> axis & 1 == 1
    }
}

/// A shape made axis by axis.
#[derive(Clone, Copy, Default)]
pub(super) struct ShapeBuilder {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl ShapeBuilder {
    pub(super) fn push(&mut self, dim: usize) -> Result<()> {
        let slot = self
            .dims
            .get_mut(self.rank)
            .ok_or_else(|| fail("the result has more than 8 axes"))?;
        *slot = dim;
        self.rank += 1;
        Ok(())
    }

    pub(super) fn collect(dims: impl IntoIterator<Item = usize>) -> Result<Shape> {
        let mut builder = Self::default();
        dims.into_iter().try_for_each(|dim| builder.push(dim))?;
        builder.finish()
    }

    pub(super) fn finish(&self) -> Result<Shape> {
        Shape::new(&self.dims[..self.rank])
    }
}

/// `shape` with another extent along `axis`.
pub(super) fn with_extent(shape: Shape, axis: usize, extent: usize) -> Result<Shape> {
    ShapeBuilder::collect(
        shape
            .iter()
            .enumerate()
            .map(|(i, &d)| if i == axis { extent } else { d }),
    )
}

/// The shape that both operands are stretched to: aligned at the last axis, an extent of 1 matches any.
///
/// # Errors
/// [`crate::Error::Node`] without a label when the shapes do not fit.
pub fn broadcast(a: Shape, b: Shape) -> Result<Shape> {
    let rank = a.rank().max(b.rank());
    // Extents from the back; missing ones count as 1.
    let extent = |s: &Shape, axis: usize| match (axis + s.rank()).checked_sub(rank) {
        Some(i) => s[i],
        None => 1,
    };
    let mut builder = ShapeBuilder::default();
    for axis in 0..rank {
        builder.push(match (extent(&a, axis), extent(&b, axis)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return Err(fail(format!("shapes {a} and {b} do not broadcast"))),
        })?;
    }
    builder.finish()
}

/// `from` can be stretched to `to` as it is.
pub(super) fn stretches(from: Shape, to: Shape, name: &str) -> Result<()> {
    match broadcast(from, to) {
        Ok(shape) if shape == to => Ok(()),
        _ => Err(fail(format!(
            "operand `{name}` of shape {from} does not broadcast to {to}"
        ))),
    }
}

/// Row-major strides.
pub(super) fn strides(shape: Shape) -> Strides {
    shape.strides().map(|step| step as isize)
}

/// Strides of an operand of shape `from` that is walked over `to`, which it [stretches](stretches) to.
pub(super) fn stretched(from: Shape, to: Shape) -> Strides {
    let own = from.strides();
    let shift = to.rank() - from.rank();
    std::array::from_fn(|axis| match axis.checked_sub(shift) {
        Some(i) if i < from.rank() && from[i] != 1 => own[i] as isize,
        _ => 0,
    })
}
