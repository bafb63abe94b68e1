//! Column panels put together from live columns only.
#![forbid(unsafe_code)]

use super::block::Product;
use crate::isa::F32s;

/// The most columns of a panel.
const WIDEST: usize = 32;

/// Rows ahead of what is read that are asked for: panels of large weights come from memory.
const AHEAD: usize = 16;

/// A vector of a packed panel, and where its live lanes go in a row of the new one.
#[derive(Clone, Copy, Default)]
struct Piece {
    /// Where the vector begins, beside the offset of the term.
    from: usize,
    lanes: u32,
    to: usize,
}

/// Puts the live terms of the packed columns `from` into a panel of their own, and their bias into another. Behind the last of them a row holds
/// anything.
#[inline(always)]
pub(super) fn gather_columns<S: F32s>(
    s: S,
    p: &Product<'_>,
    (t, terms): (usize, usize),
    from: &[u32],
    panel: &mut [f32],
    bias: &mut [f32],
) {
    let mut pieces = [Piece::default(); WIDEST];
    let mut count = 0;
    for (j, &column) in from.iter().enumerate() {
        let column = column as usize;
        let within = column % p.nr;
        let first = column / p.nr * p.panel_len + within / S::LANES * S::LANES;
        if count == 0 || pieces[count - 1].from != first {
            pieces[count] = Piece {
                from: first,
                lanes: 0,
                to: j,
            };
            count += 1;
        }
        pieces[count - 1].lanes |= 1 << (within % S::LANES);
        if let Some(all) = p.bias {
            bias[j] = all[column];
        }
    }
    let pieces = &pieces[..count];
    s.outline(
        #[inline(always)]
        || {
            for (i, &at) in p.of_b.as_slice()[t..t + terms].iter().enumerate() {
                for piece in pieces {
                    // What a whole vector writes too much, the piece after it writes again, or the next row.
                    let from = &p.panels[piece.from + at as usize..];
                    s.prefetch_ahead(from, AHEAD * p.nr);
                    let v = s.load(from);
                    let to = &mut panel[i * p.nr + piece.to..];
                    s.store(s.compress(v, piece.lanes), to);
                }
            }
        },
    );
}
