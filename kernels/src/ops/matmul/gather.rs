//! Column panels put together from live columns only.
#![forbid(unsafe_code)]

use super::block::Product;
use crate::isa::{F32s, WIDEST};
use crate::pack::FROM_MEMORY;
use crate::panel::{Ahead, Below, Rhs, Side, Terms};

/// Rows ahead of what is read that are asked for when the weights come from memory. Measured on Zen 5, 50 % of the columns live: 64 x 4096 x 4096
/// takes 0.80 of dense with 16 and 0.86 without; 49 x 512 x 512 0.37 with and 0.35 without.
const AHEAD: usize = 16;
/// Vectors that one pass over the terms takes from.
const SOURCES: usize = 4;

/// A vector of a packed panel, and which lane of (what is there, this vector) each lane of the new one takes.
#[derive(Clone, Copy)]
struct Source<'a> {
    from: &'a [f32],
    lanes: [usize; WIDEST],
}

/// Puts the listed terms of the packed columns `from` into a panel of their own, and their bias into another. Behind the last of them a row
/// holds zeros.
#[inline(always)]
pub(super) fn gather_columns<S: F32s>(
    s: S,
    p: &Product<'_>,
    terms: Below<'_>,
    from: &[u32],
    panel: &mut [f32],
    bias: &mut [f32],
) {
    if let Some(all) = p.bias {
        for (to, &column) in bias.iter_mut().zip(from) {
            *to = all[column as usize];
        }
    }
    for (j, from) in from.chunks(S::LANES).enumerate() {
        let to = &mut panel[j * S::LANES..];
        let nothing = Source {
            from: &[],
            lanes: core::array::from_fn(|lane| lane),
        };
        let mut sources = [nothing; WIDEST];
        let (mut count, mut last) = (0, usize::MAX);
        for (lane, &column) in from.iter().enumerate() {
            let vector = column as usize / S::LANES;
            if vector != last {
                last = vector;
                let within = vector * S::LANES % p.nr;
                sources[count].from = &p.panel(column as usize / p.nr, S::LANES)[within..];
                count += 1;
            }
            sources[count - 1].lanes[lane] = S::LANES + column as usize % S::LANES;
        }
        for (pass, sources) in sources[..count].chunks(SOURCES).enumerate() {
            let how = (pass > 0, p.panels.len() >= FROM_MEMORY);
            match sources {
                [a] => take(s, [a], terms, how, p.nr, to),
                [a, b] => take(s, [a, b], terms, how, p.nr, to),
                [a, b, c] => take(s, [a, b, c], terms, how, p.nr, to),
                [a, b, c, d, ..] => take(s, [a, b, c, d], terms, how, p.nr, to),
                [] => {}
            }
        }
    }
}

/// One vector of all rows, `nr` apart, from N sources; `again` when it was begun with others.
#[inline(always)]
fn take<S: F32s, const N: usize>(
    s: S,
    sources: [&Source<'_>; N],
    terms: Below<'_>,
    (again, ahead): (bool, bool),
    nr: usize,
    to: &mut [f32],
) {
    let panels = sources.map(|source| source.from);
    let lanes = sources.map(|source| source.lanes);
    if ahead {
        let from = Ahead::<S, N, 1, AHEAD>(Side::new(panels, terms));
        rows(s, from, lanes, (terms.len(), nr), again, to);
    } else {
        let from = Side::<S, _, N, 1>::new(panels, terms);
        rows(s, from, lanes, (terms.len(), nr), again, to);
    }
}

#[inline(always)]
fn rows<S: F32s, const N: usize>(
    s: S,
    from: impl Rhs<S, N>,
    lanes: [[usize; WIDEST]; N],
    (terms, nr): (usize, usize),
    again: bool,
    to: &mut [f32],
) {
    s.outline(
        #[inline(always)]
        || {
            let mut at = [s.indices(|lane| lane); N];
            for n in 0..N {
                at[n] = s.indices(|lane| lanes[n][lane]);
            }
            for (t, row) in to.chunks_mut(nr).take(terms).enumerate() {
                let mut v = if again { s.load(row) } else { s.splat(0.0) };
                let from = from.at::<1>(s, t, 0);
                for n in 0..N {
                    v = s.pick(v, from[n], at[n]);
                }
                s.store(v, row);
            }
        },
    );
}
