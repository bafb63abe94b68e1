//! A block computed in scratch, its columns spread over C.
#![forbid(unsafe_code)]

use super::block::{Block, NC_SCRATCH, Panels, compute, gathering_pays, scratch_rows};
use crate::isa::F32s;
use crate::panel::{LINE, take, take_indices};
use crate::pool::Tile;
use crate::tile::gemm::FEW_ROWS;

impl Block<'_, '_> {
    /// Computes the packed columns `from` in scratch, and spreads them over the columns `to` of C.
    #[inline(always)]
    pub(super) fn spread<S: F32s>(mut self, s: S, from: &[u32], to: &[u32]) {
        let p = self.product;
        let nr = p.nr;
        if from.is_empty() {
            return;
        }
        let mut rest = self.scratch;
        let used = take_indices(&mut rest, NC_SCRATCH / nr + 2);
        let mut count = 0;
        for &j in from {
            let panel = j / nr as u32;
            if count == 0 || used[count - 1] != panel {
                used[count] = panel;
                count += 1;
            }
        }
        let used = &used[..count];
        let whole = (from[0] as usize).is_multiple_of(nr)
            && (from[from.len() - 1] - from[0]) as usize == from.len() - 1;
        let few = self.rows.1 <= FEW_ROWS;
        let gather = !whole
            && !few
            && gathering_pays((self.rows.1, p.of_b.len()), p.n, from.len(), count, nr);
        let panels = if gather {
            Panels::Gather(from)
        } else {
            Panels::List(used)
        };
        let ld = if gather {
            from.len().next_multiple_of(nr)
        } else {
            count * nr
        };
        let room = 4 * (NC_SCRATCH / nr + 2);
        // Where the live columns are among those computed, if dead ones are between them, and where they belong.
        let computed = from.iter().scan(0, |rank, &j| {
            while used[*rank] != j / nr as u32 {
                *rank += 1;
            }
            Some(*rank * nr + j as usize % nr)
        });
        let squeezed = !gather && !whole;
        let squeezing = bits_of::<S>(take_indices(&mut rest, room), computed, squeezed);
        let columns = to.iter().map(|&j| j as usize - self.first_col);
        let spreading = bits_of::<S>(take_indices(&mut rest, room), columns, true);
        // Rows beyond what the scratch was made for come in turns.
        let most = scratch_rows(p.n);
        let result = take(&mut rest, most.min(p.m) * ld + LINE);
        for r in (0..self.rows.1).step_by(most) {
            let rows = most.min(self.rows.1 - r);
            let mut tile = Tile::new(result, rows, ld, ld);
            let first = self.rows.0 + r;
            let mut rest = &mut *rest;
            compute(s, p, (first, rows), panels, ld, None, &mut tile, &mut rest);
            for i in 0..rows {
                let row = tile.row(i);
                let c = match p.c_index {
                    Some(index) => index[first + i] as usize,
                    None => r + i,
                };
                let c = self.out.row(c);
                let mut at = 0;
                for &[block, lanes] in squeezing {
                    let from = block as usize * S::LANES;
                    let v = s.load_some(&row[from..ld.min(from + S::LANES)]);
                    let n = lanes.count_ones() as usize;
                    s.store_some(s.compress(v, lanes), &mut row[at..][..n]);
                    at += n;
                }
                let mut at = 0;
                for &[block, lanes] in spreading {
                    let n = lanes.count_ones() as usize;
                    let v = s.expand(s.load_some(&row[at..][..n]), lanes);
                    s.store_where(v, lanes, &mut c[block as usize * S::LANES..]);
                    at += n;
                }
            }
        }
    }
}

/// The blocks of `LANES` columns that ascending `columns` are in, and their lanes there; none unless `wanted`.
fn bits_of<S: F32s>(
    list: &mut [u32],
    columns: impl Iterator<Item = usize>,
    wanted: bool,
) -> &[[u32; 2]] {
    let (list, _) = list.as_chunks_mut::<2>();
    let mut count = 0;
    for j in columns.take(if wanted { usize::MAX } else { 0 }) {
        let block = (j / S::LANES) as u32;
        if count == 0 || list[count - 1][0] != block {
            list[count] = [block, 0];
            count += 1;
        }
        list[count - 1][1] |= 1 << (j % S::LANES);
    }
    &list[..count]
}
