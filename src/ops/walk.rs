//! Walks over one index space that several strided tensors share, row by row, without allocation.

use std::cmp::Reverse;

use crate::ops::axes::Strides;
use crate::tensor::MAX_RANK;

/// An index space and the strides of `K` tensors in it. Axes that all tensors step through evenly are merged, so a walk over
/// contiguous tensors is one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<const K: usize> {
    dims: [usize; MAX_RANK],
    strides: [Strides; K],
    rank: usize,
}

impl<const K: usize> Walk<K> {
    pub(super) fn new(shape: &[usize], strides: [Strides; K]) -> Self {
        let mut walk = Self {
            dims: [1; MAX_RANK],
            strides: [[0; MAX_RANK]; K],
            rank: 0,
        };
        for (axis, &dim) in shape.iter().enumerate() {
            if dim == 1 {
                continue;
            }
            let step = strides.map(|s| s[axis]);
            let even =
                |k: usize, last: usize| walk.strides[k][last] == step[k].wrapping_mul(dim as isize);
            let merged = match walk.rank.checked_sub(1) {
                Some(last) if dim != 0 && (0..K).all(|k| even(k, last)) => last,
                _ => {
                    walk.rank += 1;
                    walk.rank - 1
                }
            };
            walk.dims[merged] *= dim;
            for k in 0..K {
                walk.strides[k][merged] = step[k];
            }
        }
        walk.rank = walk.rank.max(1);
        walk
    }

    /// Elements of a row.
    pub(super) fn len(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Steps of the tensors along a row.
    pub(super) fn steps(&self) -> [isize; K] {
        self.strides.map(|s| s[self.rank - 1])
    }

    /// Where the rows begin, for tensors whose first elements are at `start`.
    pub(super) fn rows(&self, start: [isize; K]) -> Rows<K> {
        Rows {
            walk: *self,
            index: [0; MAX_RANK],
            offsets: start,
            left: if self.len() == 0 {
                0
            } else {
                self.dims[..self.rank - 1].iter().product()
            },
        }
    }
}

/// Iterator of [`Walk::rows`].
#[derive(Debug, Clone)]
pub(super) struct Rows<const K: usize> {
    walk: Walk<K>,
    index: [usize; MAX_RANK],
    offsets: [isize; K],
    left: usize,
}

impl<const K: usize> Iterator for Rows<K> {
    type Item = [isize; K];

    fn next(&mut self) -> Option<[isize; K]> {
        self.left = self.left.checked_sub(1)?;
        let row = self.offsets;
        for axis in (0..self.walk.rank - 1).rev() {
            self.index[axis] += 1;
            let wraps = self.index[axis] == self.walk.dims[axis];
            for k in 0..K {
                let step = self.walk.strides[k][axis];
                self.offsets[k] += step;
                if wraps {
                    self.offsets[k] -= step * self.walk.dims[axis] as isize;
                }
            }
            if !wraps {
                break;
            }
            self.index[axis] = 0;
        }
        Some(row)
    }
}

/// A strided tensor: its first element and its steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) start: isize,
    pub(super) strides: Strides,
}

/// Axes in the order in which `from` has them, but for the last: elements are read as they lie, since what is read may come from afar, and what
/// is written was used a moment ago. The image of a transformer of 12 blocks, made rows of patches, is read at 2 GB/s otherwise.
fn as_they_lie(shape: &[usize], [to, from]: [Strides; 2]) -> ([usize; MAX_RANK], [Strides; 2]) {
    let mut axes: [usize; MAX_RANK] = core::array::from_fn(|axis| axis);
    if let Some((_, outer)) = axes[..shape.len()].split_last_mut() {
        // An axis that is repeated (0) stays outside, or it would part what lies side by side.
        outer.sort_by_key(|&axis| Reverse(from[axis].unsigned_abs().wrapping_sub(1)));
    }
    let dims = axes.map(|axis| shape.get(axis).copied().unwrap_or(1));
    (
        dims,
        [to, from].map(|strides| axes.map(|axis| strides[axis])),
    )
}

/// to[i] = from[i] for all indices i below `shape`
pub(super) fn copy<T: Copy>(
    shape: &[usize],
    (to, to_layout): (&mut [T], Layout),
    (from, from_layout): (&[T], Layout),
) {
    let (dims, strides) = as_they_lie(shape, [to_layout.strides, from_layout.strides]);
    let walk = Walk::new(&dims[..shape.len()], strides);
    let (len, steps) = (walk.len(), walk.steps());
    for [t, f] in walk.rows([to_layout.start, from_layout.start]) {
        let (t, f) = (t as usize, f as usize);
        match steps {
            [1, 1] => to[t..t + len].copy_from_slice(&from[f..f + len]),
            [1, 0] => to[t..t + len].fill(from[f]),
            [1, step] => {
                for (j, to) in to[t..t + len].iter_mut().enumerate() {
                    *to = from[f.wrapping_add_signed(j as isize * step)];
                }
            }
            [to_step, step] => {
                for j in 0..len as isize {
                    to[t.wrapping_add_signed(j * to_step)] = from[f.wrapping_add_signed(j * step)];
                }
            }
        }
    }
}
