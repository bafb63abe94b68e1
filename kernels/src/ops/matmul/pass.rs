//! The row tiles of one panel, or of a pair.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::block::{IN_ORDER, Product};
use super::panels::PAIR;
use super::spread::{Lanes, Target};
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::pack::even_height;
use crate::panel::{Below, Even, Foreseen, Packed, Spaced, Terms};
use crate::pool::{Listed, Tile};
use crate::tile::gemm::{NV, Place, Start, for_height, tallest, tile, without_lists};

/// What every tile of a depth block and its panels has in common.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) product: &'a Product<'a>,
    /// First live term, and how many.
    pub(super) terms: (usize, usize),
    pub(super) first_row: usize,
    /// Packed A in tiles, and their height. Without it A and C have no index.
    pub(super) packed: Option<(&'a [f32], usize)>,
    pub(super) start: Start<'a>,
    pub(super) width: usize,
    pub(super) target: Target<'a>,
    pub(super) activation: Activation,
    pub(super) panels: [&'a [f32]; PAIR],
    /// Those after them, if there are any.
    pub(super) next: [&'a [f32]; PAIR],
    /// Whether the panels were put together for this pass: their rows are the terms.
    pub(super) gathered: bool,
}

/// Rows of the tallest tile that passes over so many panels; packed A has tiles for two.
pub(super) const fn tallest_of<S: F32s>(panels: usize) -> usize {
    match panels {
        PAIR if S::REGISTERS >= 32 => 6,
        // Twelve rows where they lie would be loaded before their use, and spilled.
        _ if S::REGISTERS >= 32 => 8,
        _ => tallest::<S>(),
    }
}

/// Rows of a call, and where they are.
#[derive(Clone)]
struct Run<'i> {
    range: Range<usize>,
    /// The row of the block that is the first of the pass.
    r: usize,
    index: Option<&'i [u32]>,
    /// Rows of a tile, except for the last.
    height: usize,
}

impl Pass<'_> {
    /// All row tiles of one panel, or of two.
    #[inline(always)]
    pub(super) fn column<S: F32s>(
        &self,
        s: S,
        panels: usize,
        rows: usize,
        r: usize,
        index: Option<&[u32]>,
        out: &mut Tile<'_>,
    ) {
        let most = tallest_of::<S>(panels);
        let height = self
            .packed
            .map_or(even_height(rows, most), |(_, height)| height);
        let full = rows / height * height;
        for range in [0..full, full..rows] {
            if range.is_empty() {
                continue;
            }
            let mr = height.min(range.len());
            let run = Run {
                range,
                r,
                index,
                height,
            };
            if const { S::REGISTERS >= 32 } && panels == PAIR {
                for_height!(@ mr, MR, {
                    let cols = self.target.columns::<S, { PAIR * NV }>();
                    self.tiles::<S, MR, PAIR, NV, { PAIR * NV }>(s, self.panels, cols, run, out);
                }, 1 2 3 4 5 6);
            } else {
                let one = [self.panels[0]];
                for_height!(mr, MR => {
                    if const { MR <= tallest_of::<S>(1) } {
                        if self.width <= S::LANES {
                            let cols = self.target.columns::<S, 1>();
                            self.tiles::<S, MR, 1, 1, 1>(s, one, cols, run, out);
                        } else {
                            let cols = self.target.columns::<S, NV>();
                            self.tiles::<S, MR, 1, NV, NV>(s, one, cols, run, out);
                        }
                    }
                });
            }
        }
    }

    /// Tiles of `MR` rows each, `EACH` vectors of each of `NP` panels.
    #[inline(always)]
    fn tiles<S: F32s, const MR: usize, const NP: usize, const EACH: usize, const N: usize>(
        &self,
        s: S,
        panels: [&[f32]; NP],
        cols: Lanes<'_, N>,
        run: Run<'_>,
        out: &mut Tile<'_>,
    ) {
        let p = self.product;
        let (t, depth) = self.terms;
        let Run {
            range,
            r,
            index,
            height,
        } = run;
        let (start, activation) = (self.start, self.activation);
        // The next panels come while these are used: the hardware does not look beyond the end of a panel's block. Few tiles are
        // through before what they fetch has come, and asking for what is nowhere would be a walk through the page tables.
        let mut next = panels;
        for (next, &after) in next.iter_mut().zip(&self.next) {
            if range.end > N * height && !after.is_empty() {
                *next = after;
            }
        }
        let (count, first) = (range.len() / MR, range.start / height);
        let tiles = range.end / height;
        let offsets = if self.gathered {
            Below::new(&p.close[..depth], depth.saturating_sub(1) * p.nr + 1)
        } else {
            p.of_b.part(t..t + depth)
        };
        // A call for all tiles of a height, which owns what they share: behind a reference every store might change it.
        if const { MR <= tallest_of::<S>(PAIR) }
            && let Some((packed, _)) = self.packed
        {
            let packed = &packed[range.start * depth..];
            s.outline(
                #[inline(always)]
                move || {
                    for n in 0..count {
                        let lhs = packed[n * MR * depth..][..MR * depth].as_chunks::<MR>().0;
                        let rows = listed(out, index, self.first_row, r, range.start + n * MR);
                        let rhs = Foreseen::<S, _, NP, EACH>::new(
                            panels,
                            offsets,
                            next,
                            (first + n, tiles),
                        );
                        let place = Place {
                            to: (rows, cols),
                            start,
                            activation,
                        };
                        tile::<S, MR, N, _>(s, depth, Packed(lhs), rhs, place);
                    }
                },
            );
            return;
        }
        let a = &p.a[((self.first_row + range.start) * p.lda).min(p.a.len())..];
        let all = 0..out.cols();
        let rows = InPlace {
            a,
            lda: p.lda,
            panels,
            next,
            nth: (first, count, tiles),
            start,
            activation,
        };
        let mut out = out.sub(r + range.start..r + range.end, all);
        let side_by_side = p.in_order && (self.gathered || p.pitch == p.nr);
        if const { without_lists::<S>() } && side_by_side && p.nr == const { NV * S::LANES } {
            // Where the panels begin.
            let t_of_b = if self.gathered { 0 } else { t };
            s.outline(
                #[inline(always)]
                move || {
                    let nr = const { NV * S::LANES };
                    let of_b = Even::new(t_of_b * nr, nr, depth);
                    rows.run::<S, MR, EACH, N>(s, Even::new(t, 1, depth), of_b, cols, &mut out);
                },
            );
        } else {
            let of_a = p.of_a.part(t..t + depth);
            s.outline(
                #[inline(always)]
                move || rows.run::<S, MR, EACH, N>(s, of_a, offsets, cols, &mut out),
            );
        }
    }
}

/// Tiles whose rows of A are read where they lie.
struct InPlace<'a, const NP: usize> {
    a: &'a [f32],
    lda: usize,
    panels: [&'a [f32]; NP],
    next: [&'a [f32]; NP],
    /// The first tile of those that pass over the panels, how many these are, and all of them.
    nth: (usize, usize, usize),
    start: Start<'a>,
    activation: Activation,
}

impl<const NP: usize> InPlace<'_, NP> {
    #[inline(always)]
    fn run<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        of_a: impl Terms,
        of_b: impl Terms,
        cols: Lanes<'_, N>,
        out: &mut Tile<'_>,
    ) {
        let Self {
            a,
            lda,
            panels,
            next,
            nth: (first, count, tiles),
            start,
            activation,
        } = self;
        for n in 0..count {
            let behind = &a[(n * MR * lda).min(a.len())..];
            let lhs = Spaced::<_, MR>::new(behind, lda, of_a);
            let rhs = Foreseen::<S, _, NP, EACH>::new(panels, of_b, next, (first + n, tiles));
            let place = Place {
                to: (out.in_order::<MR>(n * MR), cols),
                start,
                activation,
            };
            tile::<S, MR, N, _>(s, of_a.len(), lhs, rhs, place);
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
