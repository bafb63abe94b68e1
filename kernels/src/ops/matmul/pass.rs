//! The row tiles of one panel.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::block::{IN_ORDER, Product};
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::panel::{Below, Gathered, Lhs, Packed, Rhs, Side, Spaced};
use crate::pool::Tile;
use crate::tile::gemm::{
    Cols, NV, Next, Place, Start, for_height, tallest, tallest_gathered, tile,
};

/// What every tile of a depth block and a panel has in common.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) product: &'a Product<'a>,
    /// First live term, and how many.
    pub(super) terms: (usize, usize),
    pub(super) first_row: usize,
    /// Packed A: tiles of `height` rows.
    pub(super) packed: Option<&'a [f32]>,
    pub(super) height: usize,
    pub(super) start: Start<'a>,
    pub(super) at: usize,
    pub(super) width: usize,
    pub(super) activation: Activation,
    /// What the panel after this one holds of the depth block.
    pub(super) next: Next<'a>,
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
        // The next panel comes to L2 while this one is used: the hardware does not look beyond the end of a panel's block. Few
        // tiles are through before what they fetch has come.
        let next = if rows > 2 * self.height {
            self.next
        } else {
            Next::NOTHING
        };
        let each = next.len().div_ceil(rows.div_ceil(self.height));
        for (from, to) in [(0, full), (full, rows)] {
            if from == to {
                continue;
            }
            for_height!(self.height.min(to - from), MR => {
                if MR <= tallest::<S>() {
                    if self.width <= S::LANES {
                        self.tiles::<S, MR, 1>(s, rhs, (next, each), from..to, r, index, out);
                    } else {
                        self.tiles::<S, MR, NV>(s, rhs, (next, each), from..to, r, index, out);
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
        next: (Next<'_>, usize),
        range: Range<usize>,
        r: usize,
        index: Option<&[u32]>,
        out: &mut Tile<'_>,
    ) {
        let p = self.product;
        let (t, depth) = self.terms;
        let list = p.of_a.part(t..t + depth);
        let (ld, stride) = p.a_strides;
        let rhs = Side::<S, 1, NV>::new([data], offsets);
        // A call for all tiles of a height: what they share is loaded once.
        if let Some(packed) = self.packed {
            s.outline(
                #[inline(always)]
                || {
                    for i in range.step_by(MR) {
                        let lhs = Packed(packed[i * depth..][..MR * depth].as_chunks::<MR>().0);
                        self.tile::<S, MR, NV>(s, lhs, rhs, next, i, r, index, out);
                    }
                },
            );
        } else if p.a_index.is_none() {
            s.outline(
                #[inline(always)]
                || {
                    for i in range.step_by(MR) {
                        let data = &p.a[p.a_start(self.first_row + i).min(p.a.len())..];
                        let lhs = Spaced::<MR>::new(data, ld, stride, list);
                        self.tile::<S, MR, NV>(s, lhs, rhs, next, i, r, index, out);
                    }
                },
            );
        } else if MR <= tallest_gathered::<S>() {
            s.outline(
                #[inline(always)]
                || {
                    for i in range.step_by(MR) {
                        let mut starts = [0; MR];
                        for (x, start) in starts.iter_mut().enumerate() {
                            *start = p.a_start(self.first_row + i + x);
                        }
                        let lhs = Gathered::new(p.a, starts, stride, list);
                        self.tile::<S, MR, NV>(s, lhs, rhs, next, i, r, index, out);
                    }
                },
            );
        }
    }

    /// The tile from row `i` of the pass on, which fetches its `each` units of `next`.
    #[inline(always)]
    fn tile<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        lhs: impl Lhs<MR>,
        rhs: impl Rhs<S, NV>,
        (next, each): (Next<'_>, usize),
        i: usize,
        r: usize,
        index: Option<&[u32]>,
        out: &mut Tile<'_>,
    ) {
        let (first, rows) = match index {
            Some(index) => (0, &index[self.first_row + i..][..MR]),
            None => (r + i, &IN_ORDER[..MR]),
        };
        let (all, cols) = (out.rows(), out.cols());
        let mut out = out.sub(first..all, 0..cols);
        let place = Place {
            rows,
            cols: Cols::Run {
                at: self.at,
                width: self.width,
            },
            start: self.start,
            activation: self.activation,
            next: next.part(i / self.height * each, each),
        };
        tile::<S, MR, NV, true>(s, self.terms.1, lhs, rhs, place, &mut out);
    }
}
