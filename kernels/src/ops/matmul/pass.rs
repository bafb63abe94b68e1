//! The row tiles of one panel.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::block::{IN_ORDER, Product};
use super::spread::{Lanes, Target};
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::panel::{Below, Foreseen, Packed, Spaced};
use crate::pool::{Listed, Tile};
use crate::tile::gemm::{NV, Place, Start, for_height, tallest, tile};

/// What every tile of a depth block and a panel has in common.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) product: &'a Product<'a>,
    /// First live term, and how many.
    pub(super) terms: (usize, usize),
    pub(super) first_row: usize,
    /// Packed A: tiles of `height` rows. Without it A and C have no index.
    pub(super) packed: Option<&'a [f32]>,
    pub(super) height: usize,
    pub(super) start: Start<'a>,
    pub(super) width: usize,
    pub(super) target: Target<'a>,
    pub(super) activation: Activation,
    /// The panel after this one, if there is one.
    pub(super) next: &'a [f32],
}

impl Pass<'_> {
    /// All row tiles of one panel.
    #[inline(always)]
    pub(super) fn column<S: F32s>(
        &self,
        s: S,
        rhs: (&[f32], Below<'_>),
        rows: usize,
        r: usize,
        index: Option<&[u32]>,
        out: &mut Tile<'_>,
    ) {
        let full = rows / self.height * self.height;
        for (from, to) in [(0, full), (full, rows)] {
            if from == to {
                continue;
            }
            for_height!(self.height.min(to - from), MR => {
                if MR <= tallest::<S>() {
                    if self.width <= S::LANES {
                        let cols = self.target.columns::<S, 1>();
                        self.tiles::<S, MR, 1>(s, rhs, cols, from..to, r, index, out);
                    } else {
                        let cols = self.target.columns::<S, NV>();
                        self.tiles::<S, MR, NV>(s, rhs, cols, from..to, r, index, out);
                    }
                }
            });
        }
    }

    /// The tiles of `MR` rows each that the rows `range` of the pass are.
    #[inline(always)]
    fn tiles<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        (data, offsets): (&[f32], Below<'_>),
        cols: Lanes<'_, NV>,
        range: Range<usize>,
        r: usize,
        index: Option<&[u32]>,
        out: &mut Tile<'_>,
    ) {
        let p = self.product;
        let (t, depth) = self.terms;
        let list = p.of_a.part(t..t + depth);
        let (ld, stride) = p.a_strides;
        let tiles = Tiles {
            count: range.len() / MR,
            cols,
            start: self.start,
            activation: self.activation,
        };
        // The next panel comes while this one is used: the hardware does not look beyond the end of a panel's block. Few tiles are
        // through before what they fetch has come.
        let next = if range.end > 2 * self.height && !self.next.is_empty() {
            self.next
        } else {
            data
        };
        let first = range.start / self.height;
        // A call for all tiles of a height, which owns what they share: behind a reference every store might change it.
        if let Some(packed) = self.packed {
            let packed = &packed[range.start * depth..];
            s.outline(
                #[inline(always)]
                move || {
                    for n in 0..tiles.count {
                        let lhs = packed[n * MR * depth..][..MR * depth].as_chunks::<MR>().0;
                        let rows = listed(out, index, self.first_row, r, range.start + n * MR);
                        let place = tiles.place(rows);
                        let rhs = Foreseen::<S, NV>::new(data, offsets, next, first + n);
                        tile::<S, MR, NV>(s, depth, Packed(lhs), rhs, place);
                    }
                },
            );
        } else {
            let a = &p.a[((self.first_row + range.start) * ld).min(p.a.len())..];
            let cols = 0..out.cols();
            let mut out = out.sub(r + range.start..r + range.end, cols);
            s.outline(
                #[inline(always)]
                move || {
                    for n in 0..tiles.count {
                        let i = n * MR;
                        let lhs = Spaced::<MR>::new(&a[(i * ld).min(a.len())..], ld, stride, list);
                        let place = tiles.place(out.in_order(i));
                        let rhs = Foreseen::<S, NV>::new(data, offsets, next, first + n);
                        tile::<S, MR, NV>(s, depth, lhs, rhs, place);
                    }
                },
            );
        }
    }
}

/// The rows of C of the tile from row `i` of the pass on: as an index says, or in order from row `r` on.
#[inline(always)]
fn listed<'t, const MR: usize>(
    out: &'t mut Tile<'_>,
    index: Option<&[u32]>,
    first_row: usize,
    r: usize,
    i: usize,
) -> Listed<'t, MR> {
    let (list, shift) = match index {
        Some(index) => (&index[first_row + i..], 0),
        None => (&IN_ORDER[..], r + i),
    };
    out.listed(list.first_chunk().expect("a row each"), shift as isize)
}

/// Row tiles of one height, and what they have in common.
struct Tiles<'a, C> {
    count: usize,
    cols: C,
    start: Start<'a>,
    activation: Activation,
}

impl<'a, C: Copy> Tiles<'a, C> {
    /// Where the tile of these rows goes.
    #[inline(always)]
    fn place<T>(&self, rows: T) -> Place<'a, T, C> {
        Place {
            rows,
            cols: self.cols,
            start: self.start,
            activation: self.activation,
        }
    }
}
