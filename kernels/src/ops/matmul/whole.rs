//! A product of one row, with weights from memory whose rows lie whole.
//!
//! ```text
//! for each block of columns              its sums stay in L1
//!     sums = bias
//!     for each R live terms              R rows of B at once: streams that the hardware foresees
//!         for each panel of columns
//!             sums += x_t B[t] for the R terms, in order
//!     C = act(sums)                      what is applied in registers
//! ```
//! In panels a live row is 128 bytes, and what a mask leaves of them cannot be foreseen. Measured on Zen 5, 1 x 4096 x 4096 with half of the rows
//! live: 0.6 to 0.7 ms, in panels 1.1 (all of them: 1.4 and 1.3).
#![forbid(unsafe_code)]

use super::block::Product;
use super::panels::Panels;
use crate::epilogue;
use crate::isa::F32s;
use crate::panel::{Below, Rhs, Side, Terms, lines, take, take_indices};
use crate::pool::Tile;
use crate::tile::gemm::{Columns, NV};

/// Sums of a block, 16 KiB.
const SUMS: usize = 4096;

/// Elements of scratch, with vectors of `lanes`.
pub(super) fn scratch_len(lanes: usize) -> usize {
    SUMS + lines(SUMS / (NV * lanes))
}

/// Row `row` over `panels`, into row `to` of `out`, `width` columns of it.
#[inline(always)]
pub(super) fn whole<S: F32s>(
    s: S,
    p: &Product<'_>,
    row: usize,
    panels: Panels<'_>,
    width: usize,
    to: u32,
    out: &mut Tile<'_>,
    rest: &mut &mut [f32],
) {
    let (nr, depth) = (p.nr, p.of_b.len());
    let count = width.div_ceil(nr);
    let all = take(rest, SUMS);
    let starts = take_indices(rest, SUMS / nr);
    for (x, at) in starts.iter_mut().enumerate() {
        *at = (x * nr) as u32;
    }
    let row = &p.a[p.a_start(row)..];
    let mut x = 0;
    while x < count {
        // Neighbours, as many as there is room for.
        let first = panels.nth(x);
        let mut end = x + 1;
        while end < count && end - x < starts.len() && panels.nth(end) == first + end - x {
            end += 1;
        }
        let len = (end - x) * nr;
        let sums = &mut all[..len];
        match p.bias {
            Some(bias) => sums.copy_from_slice(&bias[first * nr..][..len]),
            None => sums.fill(0.0),
        }
        let each = Below::new(&starts[..end - x], len - nr + 1);
        const R: usize = 8;
        let whole = depth / R * R;
        for t in (0..whole).step_by(R) {
            add::<S, R, { R * NV }>(s, p, row, t, (first, each), sums);
        }
        for t in whole..depth {
            add::<S, 1, NV>(s, p, row, t, (first, each), sums);
        }
        for (y, sums) in (x..end).zip(sums.chunks_exact(nr)) {
            let mut acc = [[s.splat(0.0); NV]];
            for v in 0..NV {
                acc[0][v] = s.load(&sums[v * S::LANES..]);
            }
            epilogue::finish(s, p.activation, &mut acc);
            let target = panels.target((y, 1), nr, nr.min(width - y * nr));
            let columns = target.columns::<S, NV>();
            columns.store(s, &acc, &mut out.listed(&[to], 0));
        }
        x = end;
    }
}

/// Adds the `R` terms from `t` on to the sums of the columns from panel `first` on, `each` panel of them, `B` vectors at a time.
#[inline(always)]
fn add<S: F32s, const R: usize, const B: usize>(
    s: S,
    p: &Product<'_>,
    row: &[f32],
    t: usize,
    (first, each): (usize, Below<'_>),
    sums: &mut [f32],
) {
    let panel = p.panel(first, S::LANES);
    let (of_a, of_b) = (p.of_a.as_slice(), p.of_b.as_slice());
    let mut rows: [&[f32]; R] = [&[]; R];
    let mut scalars = [0.0; R];
    for r in 0..R {
        rows[r] = &panel[of_b[t + r] as usize..][..sums.len()];
        scalars[r] = row[of_a[t + r] as usize];
    }
    let rows = Side::<S, _, R, NV>::new(rows, each);
    s.outline(
        #[inline(always)]
        move || {
            let mut a = [s.splat(0.0); R];
            for r in 0..R {
                a[r] = s.splat(scalars[r]);
            }
            for (x, sums) in sums.chunks_exact_mut(NV * S::LANES).enumerate() {
                let b: [S::V; B] = rows.at::<1>(s, x, 0);
                let mut acc = [s.splat(0.0); NV];
                for v in 0..NV {
                    acc[v] = s.load(&sums[v * S::LANES..]);
                }
                // Row by row: lines of a stream in another order than they lie cost a tenth.
                for r in 0..R {
                    for v in 0..NV {
                        acc[v] = s.mul_add(a[r], b[r * NV + v], acc[v]);
                    }
                }
                for v in 0..NV {
                    s.store(acc[v], &mut sums[v * S::LANES..]);
                }
            }
        },
    );
}
