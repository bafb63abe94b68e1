//! The row tiles of one panel, or of a pair.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::block::{IN_ORDER, Product};
use super::panels::PAIR;
use super::spread::{self, Lanes};
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::pack::even_height;
use crate::panel::{Apart, Below, Even, Foreseen, Lhs, Next, SpacedRows, Terms};
use crate::pool::Tile;
use crate::tile::gemm::{NV, Place, Start, Target, for_height, tallest, tile, without_lists};

/// What every tile of a depth block and its panels has in common.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) product: &'a Product<'a>,
    /// First live term, and how many.
    pub(super) terms: (usize, usize),
    pub(super) first_row: usize,
    /// The live elements of the rows of A side by side, and elements from row to row. Without it A and C have no index.
    pub(super) moved: Option<(&'a [f32], usize)>,
    pub(super) start: Start<'a>,
    pub(super) width: usize,
    pub(super) target: spread::Target<'a>,
    pub(super) activation: Activation,
    pub(super) panels: [&'a [f32]; PAIR],
    /// Those after them, if there are any, and what they will be put together from.
    pub(super) next: [&'a [f32]; PAIR],
    pub(super) sources: &'a [f32],
    /// Whether the panels were put together for this pass: their rows are the terms.
    pub(super) gathered: bool,
}

/// Rows of the tallest tile that passes over so many panels.
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
        let height = even_height(rows, most);
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
        let next = Next {
            panels: next,
            sources: self.sources,
        };
        let (a, lda) = match self.moved {
            Some((rows, ld)) => (&rows[range.start * ld..], ld),
            None => {
                let first = (self.first_row + range.start) * p.lda;
                (&p.a[first.min(p.a.len())..], p.lda)
            }
        };
        let rows = Rows {
            a,
            lda,
            panels,
            next,
            before: range.start / height,
            count: range.len() / MR,
            tiles: range.end / height,
            start,
            activation,
        };
        // Calls for all tiles of a height, which own what they share: behind a reference every store might change it.
        let all = 0..out.cols();
        let side_by_side = p.in_order && (self.gathered || p.pitch == p.nr);
        if const { without_lists::<S>() } && self.moved.is_none() && side_by_side {
            let mut out = out.sub(r + range.start..r + range.end, all);
            let (of_a, of_b) = (t, if self.gathered { 0 } else { t });
            s.outline(
                #[inline(always)]
                move || {
                    // Known when compiled: only a narrow panel, which is one vector, has another width.
                    let nr = match EACH {
                        1 => p.nr,
                        _ => const { NV * S::LANES },
                    };
                    let of_a = rows.apart::<MR>(Even::new(of_a, 1, depth));
                    let of_b = Even::new(of_b * nr, nr, depth);
                    rows.in_order::<S, _, MR, EACH, N>(s, of_a, of_b, cols, &mut out);
                },
            );
            return;
        }
        let of_b = match self.gathered {
            true => Below::new(&p.close[..depth], depth.saturating_sub(1) * p.nr + 1),
            false => p.of_b.part(t..t + depth),
        };
        if self.moved.is_some() {
            let index = index.map(|index| &index[self.first_row + range.start..]);
            let to = (index, r + range.start);
            s.outline(
                #[inline(always)]
                move || {
                    let of_a = rows.apart::<MR>(Even::new(0, 1, depth));
                    rows.listed::<S, MR, EACH, N>(s, of_a, of_b, cols, to, out);
                },
            );
            return;
        }
        let of_a = p.of_a.part(t..t + depth);
        let mut out = out.sub(r + range.start..r + range.end, all);
        s.outline(
            #[inline(always)]
            move || {
                let of_a = rows.of_a::<_, MR>(of_a);
                rows.in_order::<S, _, MR, EACH, N>(
                    s,
                    #[inline(always)]
                    move |n| of_a.tile::<MR>(n * MR),
                    of_b,
                    cols,
                    &mut out,
                );
            },
        );
    }
}

/// Rows of A where they lie, or where they were put together.
struct Rows<'a, const NP: usize> {
    a: &'a [f32],
    lda: usize,
    panels: [&'a [f32]; NP],
    next: Next<'a, NP>,
    /// How many tiles that pass over the panels are before these, how many these are, and all.
    before: usize,
    count: usize,
    tiles: usize,
    start: Start<'a>,
    activation: Activation,
}

impl<'a, const NP: usize> Rows<'a, NP> {
    /// What all tiles read.
    #[inline(always)]
    fn of_a<T: Terms, const MR: usize>(&self, terms: T) -> SpacedRows<'a, T> {
        SpacedRows::new(self.a, self.lda, terms, self.count * MR)
    }

    /// What the `n`-th tile reads.
    #[inline(always)]
    fn apart<const MR: usize>(
        &self,
        terms: Even,
    ) -> impl Fn(usize) -> Apart<'a, MR> + use<'a, MR, NP> {
        let rows = self.of_a::<_, MR>(terms);
        #[inline(always)]
        move |n| Apart::new(rows.tile(n * MR))
    }

    /// Into the rows of `out` in order.
    #[inline(always)]
    fn in_order<S: F32s, L: Lhs<MR>, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        of_a: impl Fn(usize) -> L,
        of_b: impl Terms,
        cols: Lanes<'_, N>,
        out: &mut Tile<'_>,
    ) {
        for n in 0..self.count {
            let to = out.in_order::<MR>(n * MR);
            self.one::<S, MR, EACH, N>(s, n, of_a(n), of_b, (to, cols));
        }
    }

    /// Into the rows of `out` of an index, or from row `first` on.
    #[inline(always)]
    fn listed<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        of_a: impl Fn(usize) -> Apart<'a, MR>,
        of_b: impl Terms,
        cols: Lanes<'_, N>,
        (index, first): (Option<&[u32]>, usize),
        out: &mut Tile<'_>,
    ) {
        for n in 0..self.count {
            let (list, shift) = match index {
                Some(index) => (&index[n * MR..], 0),
                None => (&IN_ORDER[..], first + n * MR),
            };
            let list = list.first_chunk().expect("a row each");
            let to = out.listed(list, shift as isize);
            self.one::<S, MR, EACH, N>(s, n, of_a(n), of_b, (to, cols));
        }
    }

    /// The `n`-th tile.
    #[inline(always)]
    fn one<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        &self,
        s: S,
        n: usize,
        lhs: impl Lhs<MR>,
        of_b: impl Terms,
        to: impl Target<S, MR, N>,
    ) {
        let nth = (self.before + n, self.tiles);
        let place = Place {
            to,
            start: self.start,
            activation: self.activation,
        };
        let rhs = Foreseen::<S, _, NP, EACH, true>::new(self.panels, of_b, self.next, nth);
        tile::<S, MR, N, _>(s, of_b.len(), lhs, rhs, place);
    }
}
