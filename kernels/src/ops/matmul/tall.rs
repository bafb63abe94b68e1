//! A product of as many rows as a tile of one vector has: every vector of B is read once, or by two tiles of two vectors.
//!
//! ```text
//! for each depth block of live terms          partial sums stay in C between them
//!     pack A                                  [terms][rows], or twice [terms][rows / 2]
//!     for each vector of the panels           of B from L3
//!         for each live term                  the micro-kernel, all rows
//!             fetch the vector some terms ahead
//!             an FMA for each row, which broadcasts an element of A from memory
//!     for each panel                          of B from L2
//!         for each half of the rows           the micro-kernel, two vectors, while the next panel comes
//! ```
//! Lower and wider tiles read B once each: half of 1024 terms at random, from L3, keep 16 lines under way for longer than the FMAs of 16 rows take. Of B in
//! L2 the loads are what counts: 16 rows by one vector are 16 broadcasts, a vector, a prefetch and a term for 16 FMAs, half of them by two vectors nine fewer.
#![forbid(unsafe_code)]

use super::block::{KC, Product};
use super::panels::Panels;
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::pack::gather_rows;
use crate::panel::{Ahead, Even, Foreseen, Next, Packed, Side, Terms, take};
use crate::pool::Tile;
use crate::tile::gemm::{NV, Place, Start, TALL, for_height, tile};

/// Terms between a prefetch and the use of what it brings.
const AHEAD: usize = 16;

/// Rows from which on, and columns from which on, it is faster. Measured on a Xeon against tiles of 6 x 4 with 1024 x 1024 weights, half of the rows
/// live: 1.07 of the time with 12 rows, 0.88 with 16 and with 24; a quarter live, 16 rows: 0.74. With 28 rows 1.08, with 64 columns 1.14.
const ROWS: usize = 14;
const COLUMNS: usize = 128;

/// Live elements of B that L2 holds beside the rest, or so: 24 x 768 x 768 with a quarter live takes 0.92 of the time in halves, 16 x 1024 x 1024 with a tenth
/// 0.91, with 3 % 0.86, with a quarter 1.0, with half 1.07. Of B in long rows, more than one vector of a row is read at a time: 16 x 4096 x 1024 with a quarter 0.77.
const NEAR: usize = 200 * 1024;

/// Whether it serves: an FMA must broadcast, and the vectors of a panel must go to C as they are.
pub(super) fn serves<S: F32s>(p: &Product<'_>, rows: usize, panels: Panels<'_>) -> bool {
    let as_they_are = matches!(panels, Panels::From(_) | Panels::Picked { .. });
    S::BROADCASTS && (ROWS..=TALL).contains(&rows) && p.n >= COLUMNS && as_they_are
}

/// The rows from `first_row` on over `panels`, into the rows `to` of `out`, `width` columns of them.
#[inline(always)]
pub(super) fn tall<S: F32s>(
    s: S,
    p: &Product<'_>,
    first_row: usize,
    panels: Panels<'_>,
    width: usize,
    to: &[u32],
    out: &mut Tile<'_>,
    rest: &mut &mut [f32],
) {
    let (rows, depth) = (to.len(), p.of_b.len());
    let near = depth * p.n <= NEAR || p.pitch > p.nr;
    let halves = near && p.nr == const { NV * S::LANES };
    let most = if halves { KC / 2 } else { KC };
    let kc = depth.div_ceil(depth.div_ceil(most).max(1)).max(1);
    let packed = take(rest, rows * kc);
    let (high, low) = packed.split_at_mut(if halves {
        rows.div_ceil(2) * kc
    } else {
        rows * kc
    });
    let mut starts = [0; TALL];
    for (i, start) in starts[..rows].iter_mut().enumerate() {
        *start = p.a_start(first_row + i);
    }
    for t in (0..depth.max(1)).step_by(kc) {
        let terms = t..depth.min(t + kc);
        let (first, second) = starts[..rows].split_at(high.len() / kc);
        gather_rows(s, high, p.a, first, p.of_a.part(terms.clone()));
        if halves {
            gather_rows(s, low, p.a, second, p.of_a.part(terms.clone()));
        }
        let block = Block {
            p,
            packed: [&*high, &*low],
            terms: (terms.start, terms.len()),
            activation: match terms.end == depth {
                true => p.activation,
                false => Activation::None,
            },
        };
        if halves {
            block.halves(s, panels, width, to, out);
            continue;
        }
        for_height!(@ rows, MR, {
            if const { S::BROADCASTS } {
                s.outline(#[inline(always)] || block.run::<S, MR>(s, panels, width, to, out));
            }
        }, 14 15 16 17 18 19 20 21 22 23 24);
    }
    if !p.activation.in_registers() {
        for &row in to {
            panels.activate(s, p.activation, width, out.row(row as usize));
        }
    }
}

/// Packed A of a depth block, whole or in halves.
struct Block<'a> {
    p: &'a Product<'a>,
    packed: [&'a [f32]; 2],
    /// Its first live term, and how many.
    terms: (usize, usize),
    activation: Activation,
}

impl<'a> Block<'a> {
    /// Where the sums of the packed columns from this one on begin.
    #[inline(always)]
    fn start(&self, column: usize) -> Start<'a> {
        match self.p.bias {
            _ if self.terms.0 > 0 => Start::Partial,
            Some(bias) => Start::Cols(&bias[column..]),
            None => Start::Zero,
        }
    }

    #[inline(always)]
    fn run<S: F32s, const MR: usize>(
        &self,
        s: S,
        panels: Panels<'_>,
        width: usize,
        to: &[u32],
        out: &mut Tile<'_>,
    ) {
        let p = self.p;
        let (t, depth) = self.terms;
        let lhs = Packed(&self.packed[0].as_chunks::<MR>().0[..depth]);
        let to = to.first_chunk::<MR>().expect("a row each");
        for first in (0..width).step_by(S::LANES) {
            let (x, inside) = (first / p.nr, first % p.nr);
            let columns = S::LANES.min(width - first);
            let Some(target) = panels.vector::<S>(x, inside, columns, p.nr) else {
                continue;
            };
            let from = panels.nth(x);
            // Without terms there is none.
            let panel = p.panel(from, S::LANES).get(inside..).unwrap_or(&[]);
            let place = Place {
                to: (out.listed::<MR>(to, 0), target.columns::<S, 1>()),
                start: self.start(from * p.nr + inside),
                activation: self.activation,
            };
            if p.in_order {
                let terms = Even::new(t * p.pitch, p.pitch, depth);
                let rhs = Ahead::<S, _, 1, 1, AHEAD>(Side::new([panel], terms));
                tile::<S, MR, 1, _>(s, depth, lhs, rhs, place);
            } else {
                let terms = p.of_b.part(t..t + depth);
                let rhs = Ahead::<S, _, 1, 1, AHEAD>(Side::new([panel], terms));
                tile::<S, MR, 1, _>(s, depth, lhs, rhs, place);
            }
        }
    }

    /// Panel by panel, in tiles of half of the rows.
    #[inline(always)]
    fn halves<S: F32s>(
        &self,
        s: S,
        panels: Panels<'_>,
        width: usize,
        to: &[u32],
        out: &mut Tile<'_>,
    ) {
        let (high, low) = to.split_at(to.len().div_ceil(2));
        let count = width.div_ceil(self.p.nr);
        for x in 0..count {
            let next = if x + 1 < count { x + 1 } else { x };
            let at = ([x, next], self.p.nr.min(width - x * self.p.nr));
            for (nth, to) in [high, low].into_iter().enumerate() {
                for_height!(@ to.len(), MR, {
                    if const { S::BROADCASTS } {
                        s.outline(#[inline(always)] || self.half::<S, MR>(s, nth, panels, at, to, out));
                    }
                }, 7 8 9 10 11 12);
            }
        }
    }

    /// The `nth` half of the rows over a panel.
    #[inline(always)]
    fn half<S: F32s, const MR: usize>(
        &self,
        s: S,
        nth: usize,
        panels: Panels<'_>,
        ([x, next], columns): ([usize; 2], usize),
        to: &[u32],
        out: &mut Tile<'_>,
    ) {
        let p = self.p;
        let (t, depth) = self.terms;
        let lhs = Packed(&self.packed[nth].as_chunks::<MR>().0[..depth]);
        let to = to.first_chunk::<MR>().expect("a row each");
        let [panel, next] = [x, next].map(|x| p.panel(panels.nth(x), S::LANES));
        let target = panels.target((x, 1), p.nr, columns);
        let place = Place {
            to: (out.listed::<MR>(to, 0), target.columns::<S, NV>()),
            start: self.start(panels.nth(x) * p.nr),
            activation: self.activation,
        };
        if p.in_order {
            let terms = Even::new(t * p.pitch, p.pitch, depth);
            let rhs =
                Foreseen::<S, _, 1, NV, false>::new([panel], terms, Next::panels([next]), (nth, 2));
            tile::<S, MR, NV, _>(s, depth, lhs, rhs, place);
        } else {
            let terms = p.of_b.part(t..t + depth);
            let rhs =
                Foreseen::<S, _, 1, NV, false>::new([panel], terms, Next::panels([next]), (nth, 2));
            tile::<S, MR, NV, _>(s, depth, lhs, rhs, place);
        }
    }
}
