//! A product of as many rows as a tile of one vector has: every vector of B is read once.
//!
//! ```text
//! for each depth block of KC live terms       partial sums stay in C between them
//!     pack A                                  [terms][rows]
//!     for each vector of the panels
//!         for each live term                  the micro-kernel, all rows
//!             fetch the vector some terms ahead
//!             an FMA for each row, which broadcasts an element of A from memory
//! ```
//! Lower and wider tiles read B once each: half of 1024 terms at random, from L3, keep 16 lines under way for longer than the FMAs of 16 rows take.
#![forbid(unsafe_code)]

use super::block::{KC, Product};
use super::panels::Panels;
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::pack::gather_rows;
use crate::panel::{Ahead, Even, Packed, Side, Terms, take};
use crate::pool::Tile;
use crate::tile::gemm::{Place, Start, TALL, for_height, tile};

/// Terms between a prefetch and the use of what it brings.
const AHEAD: usize = 16;

/// Rows from which on, and columns from which on, it is faster. Measured on a Xeon against tiles of 6 x 4 with 1024 x 1024 weights, half of the rows
/// live: 1.07 of the time with 12 rows, 0.88 with 16 and with 24; a quarter live, 16 rows: 0.74. With 28 rows 1.08, with 64 columns 1.14.
const ROWS: usize = 14;
const COLUMNS: usize = 128;

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
    let kc = depth.div_ceil(depth.div_ceil(KC).max(1)).max(1);
    let packed = take(rest, rows * kc);
    let mut starts = [0; TALL];
    for (i, start) in starts[..rows].iter_mut().enumerate() {
        *start = p.a_start(first_row + i);
    }
    for t in (0..depth.max(1)).step_by(kc) {
        let terms = t..depth.min(t + kc);
        gather_rows(s, packed, p.a, &starts[..rows], p.of_a.part(terms.clone()));
        let block = Block {
            p,
            packed,
            terms: (terms.start, terms.len()),
            activation: match terms.end == depth {
                true => p.activation,
                false => Activation::None,
            },
        };
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

/// Packed A of a depth block.
struct Block<'a> {
    p: &'a Product<'a>,
    packed: &'a [f32],
    /// Its first live term, and how many.
    terms: (usize, usize),
    activation: Activation,
}

impl Block<'_> {
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
        let lhs = Packed(&self.packed.as_chunks::<MR>().0[..depth]);
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
                start: match p.bias {
                    _ if t > 0 => Start::Partial,
                    Some(bias) => Start::Cols(&bias[from * p.nr + inside..]),
                    None => Start::Zero,
                },
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
}
