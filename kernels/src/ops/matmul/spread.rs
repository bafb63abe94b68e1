//! Where the columns of panels are in C.
#![forbid(unsafe_code)]

use crate::epilogue::Activation;
use crate::isa::{F32s, WIDEST};
use crate::ops::pointwise;
use crate::panel::{lines, take_indices};
use crate::pool::Rows;
use crate::tile::gemm::{self, NV, Picked, each_row};

/// The columns of C that some panels are.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// This column and those after it, so many.
    Beside(usize, usize),
    /// In place, too, but only these lanes of each vector.
    Picked(usize, &'a [u32]),
    Spread(Spread<'a>),
}

impl<'a> Target<'a> {
    /// The same for the `N` vectors of a tile.
    #[inline(always)]
    pub(super) fn columns<S: F32s, const N: usize>(&self) -> Lanes<'_, N> {
        match self {
            &Target::Beside(at, width) => Lanes::Picked(Picked::first::<S>(at, width)),
            &Target::Picked(at, lanes) => {
                let lanes = lanes.first_chunk().expect("lanes of each vector");
                Lanes::Picked(Picked::new::<S>(at, *lanes))
            }
            Target::Spread(spread) => Lanes::Spread(spread),
        }
    }
}

/// Panels whose columns are apart in C, in pieces: what one vector of C takes from one panel.
#[derive(Clone, Copy)]
pub(super) struct Spread<'a> {
    /// The first piece of each panel, and the end of the last.
    starts: &'a [u32],
    /// Which vector of C, and the lanes of it.
    pieces: &'a [[u32; 2]],
    /// For each piece which lane of the panel each of its lanes takes; then for the vectors of the panel which lane of (itself, the vector of C)
    /// each lane is.
    lanes: &'a [u32],
}

impl<'a> Spread<'a> {
    /// Elements that [`Spread::new`] takes.
    pub(super) fn scratch_len((panels, n): (usize, usize), lanes: usize) -> usize {
        let most = Self::most((panels, n), lanes);
        lines(panels + 1) + lines(2 * most) + lines(most * (1 + NV) * lanes)
    }

    /// Both the panels and the vectors of C ascend, so a piece begins with the next of either.
    fn most((panels, n): (usize, usize), lanes: usize) -> usize {
        panels + n.div_ceil(lanes)
    }

    /// `columns` by panel, lane of the panel and column of C, of which there are `n`. All ascend, and each of the panels has one.
    #[inline(always)]
    pub(super) fn new<S: F32s>(
        (panels, n): (usize, usize),
        columns: impl Iterator<Item = (usize, usize, usize)>,
        rest: &mut &'a mut [f32],
    ) -> Self {
        let most = Self::most((panels, n), S::LANES);
        let starts = take_indices(rest, panels + 1);
        let (pieces, _) = take_indices(rest, 2 * most).as_chunks_mut::<2>();
        let lanes = take_indices(rest, most * (1 + NV) * S::LANES);
        let (mut count, mut last) = (0, None);
        for (panel, lane, column) in columns {
            let (vector, at) = (column / S::LANES, column % S::LANES);
            if last != Some((panel, vector)) {
                if last.is_none_or(|(before, _)| before != panel) {
                    starts[panel] = count as u32;
                }
                last = Some((panel, vector));
                pieces[count] = [vector as u32, 0];
                for (i, x) in lanes[Self::lists::<S>(count)].iter_mut().enumerate() {
                    *x = (i % S::LANES) as u32;
                }
                count += 1;
            }
            pieces[count - 1][1] |= 1 << at;
            let (take, back) = lanes[Self::lists::<S>(count - 1)].split_at_mut(S::LANES);
            take[at] = lane as u32;
            back[lane] = (S::LANES + at) as u32;
        }
        starts[panels] = count as u32;
        Self {
            starts,
            pieces: &pieces[..count],
            lanes,
        }
    }

    /// Where the lists of piece `i` are.
    fn lists<S: F32s>(i: usize) -> core::ops::Range<usize> {
        let len = (1 + NV) * S::LANES;
        i * len..(i + 1) * len
    }

    /// `count` panels from `first` on.
    pub(super) fn part(self, first: usize, count: usize) -> Self {
        let starts = &self.starts[first..=first + count];
        Self { starts, ..self }
    }

    /// Applies a function to all of its columns in a row of C.
    #[inline(always)]
    pub(super) fn activate<S: F32s>(self, s: S, activation: Activation, row: &mut [f32]) {
        const AT_ONCE: usize = 16;
        let mut together = [0.0; AT_ONCE * WIDEST];
        for pieces in self.pieces.chunks(AT_ONCE) {
            let together = &mut together[..pieces.len() * S::LANES];
            for (to, &[vector, lanes]) in together.chunks_exact_mut(S::LANES).zip(pieces) {
                let from = &row[vector as usize * S::LANES..];
                s.store(s.load_where(from, lanes), to);
            }
            pointwise::apply(s, activation, together);
            for (from, &[vector, lanes]) in together.chunks_exact(S::LANES).zip(pieces) {
                let to = &mut row[vector as usize * S::LANES..];
                s.store_where(s.load(from), lanes, to);
            }
        }
    }
}

/// The columns that the lanes of a tile are.
#[derive(Clone, Copy)]
pub(super) enum Lanes<'a, const N: usize> {
    Picked(Picked<N>),
    Spread(&'a Spread<'a>),
}

impl<S: F32s, const N: usize> gemm::Columns<S, N> for Lanes<'_, N> {
    #[inline(always)]
    fn load(self, s: S, row: &[f32]) -> [S::V; N] {
        let spread = match self {
            Lanes::Picked(picked) => return picked.load(s, row),
            Lanes::Spread(spread) => spread,
        };
        let mut sums = [s.splat(0.0); N];
        each_row!(N.div_ceil(NV), panel => {
            for piece in spread.starts[panel]..spread.starts[panel + 1] {
                let [vector, lanes] = spread.pieces[piece as usize];
                let v = s.load_where(&row[vector as usize * S::LANES..], lanes);
                let back = &spread.lanes[Spread::lists::<S>(piece as usize)][S::LANES..];
                for j in 0..NV.min(N) {
                    let at = s.indices(|lane| back[j * S::LANES + lane] as usize);
                    sums[panel * NV + j] = s.pick(sums[panel * NV + j], v, at);
                }
            }
        });
        sums
    }
    #[inline(always)]
    fn store<const MR: usize>(self, s: S, sums: &[[S::V; N]; MR], rows: &mut impl Rows<MR>) {
        let spread = match self {
            Lanes::Picked(picked) => return picked.store(s, sums, rows),
            Lanes::Spread(spread) => spread,
        };
        each_row!(N.div_ceil(NV), panel => {
            for piece in spread.starts[panel]..spread.starts[panel + 1] {
                let [vector, lanes] = spread.pieces[piece as usize];
                let take = &spread.lanes[Spread::lists::<S>(piece as usize)][..S::LANES];
                let at = s.indices(|lane| take[lane] as usize);
                let (first, last) = (panel * NV, panel * NV + NV.min(N) - 1);
                each_row!(MR, i => {
                    let to = &mut rows.row(i)[vector as usize * S::LANES..];
                    s.store_where(s.pick(sums[i][first], sums[i][last], at), lanes, to);
                });
            }
        });
    }
}
