//! Weights by columns, which a mask of outputs picks from.
//!
//! ```text
//! [n][pitch]       pitch: k, zeros up to an odd number of cache lines, so that columns do not begin on the same sets of the caches
//! ```
//! Of packed panels half of the columns at random are lanes of every cache line, and a vector of live ones takes from three; by columns, live ones are
//! whole lines, and as many columns as a vector has lanes are transposed in registers.
#![forbid(unsafe_code)]

use super::FROM_L3;
use super::vectors::Vectors;
use crate::buffer::Buffer;
use crate::isa::{F32s, WIDEST};
use crate::panel::LINE;
use crate::tile::gemm::FEW_ROWS;
use crate::transpose::each_lane;

/// Terms that a vector of a column must bring on average: transposing costs the same however many of them live. Measured on a Xeon with half of both live:
/// from L2 49 x 512 x 512 takes 0.47 of dense, by panels 0.37; from L3 16 x 1024 x 1024 0.57 and 0.70.
const WORTH_NEAR: usize = 15;
const WORTH_FAR: usize = 4;
/// FMAs that it takes to put a vector of columns together, and those that wait for a vector from L3. A few rows use a panel so little that what it takes to
/// begin with it counts: measured on a Xeon, 1 x 1024 x 1024 with half of the columns live takes 1.2 to 1.5 of dense if it is put together, with a quarter
/// 0.7, with a tenth 0.37.
const TRANSPOSING: usize = 12;
const TRANSPOSING_FOR_FEW: usize = 64;
const FAR: usize = 32;
/// Elements of a column that are asked for ahead of what is read, if they come from L3.
const AHEAD: usize = 3 * LINE;

/// Terms from which on columns are kept: those of fewer would be half zeros.
const TERMS: usize = 4 * LINE;

/// See the module.
#[derive(Debug)]
pub(crate) struct Transposed {
    data: Buffer,
    k: usize,
    pitch: usize,
}

/// Some terms of its columns.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    of: &'a Transposed,
    terms: Vectors<'a>,
}

impl Transposed {
    /// Whether `k` x `n` weights are worth keeping by columns.
    pub(crate) fn serves((k, n): (usize, usize)) -> bool {
        k >= TERMS && n > LINE
    }

    /// Takes `k` x `n` elements; `at(k, n)` gives one.
    pub(crate) fn new((k, n): (usize, usize), at: impl Fn(usize, usize) -> f32) -> Self {
        let pitch = (k.div_ceil(LINE) | 1) * LINE;
        let mut data = Buffer::zeros(n * pitch);
        for (j, column) in data.chunks_exact_mut(pitch).enumerate() {
            for (t, x) in column[..k].iter_mut().enumerate() {
                *x = at(t, j);
            }
        }
        Self { data, k, pitch }
    }

    /// These terms of all columns, unless they are so far between that packed panels are better.
    #[inline(always)]
    pub(crate) fn some<'a>(&'a self, terms: Vectors<'a>) -> Option<Columns<'a>> {
        let worth = terms.bring(self.worth());
        worth.then_some(Columns { of: self, terms })
    }

    fn worth(&self) -> usize {
        match self.is_far() {
            true => WORTH_FAR,
            false => WORTH_NEAR,
        }
    }

    fn is_far(&self) -> bool {
        self.data.len() >= FROM_L3
    }

    /// What is saved when `depth` of the terms of `live` columns are put together, not computed in place with the dead ones of `touched` panels: FMAs, if
    /// there are so many for each vector. None where columns are not taken.
    pub(crate) fn saved(
        &self,
        (fmas, depth): (usize, usize),
        (live, touched): (usize, usize),
        width: usize,
    ) -> Option<usize> {
        if depth * LINE < self.k * self.worth() {
            return None;
        }
        let dense = live.div_ceil(width);
        let (in_place, each) = match self.is_far() {
            true => (depth * fmas.max(FAR), (depth * fmas).max(self.k * FAR)),
            false => (depth * fmas, depth * fmas),
        };
        let transposing = match fmas <= FEW_ROWS {
            true => TRANSPOSING_FOR_FEW,
            false => TRANSPOSING,
        };
        Some((in_place * touched).saturating_sub((each + self.k * transposing) * dense))
    }

    /// All columns.
    pub(crate) fn all(&self) -> &[f32] {
        &self.data
    }
}

impl<'a> Columns<'a> {
    /// Columns from one to another, as they lie.
    pub(crate) fn between(self, first: u32, last: u32) -> &'a [f32] {
        let Transposed { data, pitch, .. } = self.of;
        &data[first as usize * pitch..(last as usize + 1) * pitch]
    }

    /// Puts the terms of the columns `from` into a panel that is `width` wide, which goes on for a row. Behind the last of them a row holds anything.
    #[inline(always)]
    pub(crate) fn gather<S: F32s>(self, s: S, from: &[u32], width: usize, panel: &mut [f32]) {
        // The last first: what it writes into the row behind is overwritten by the others.
        for (j, from) in from.chunks(S::LANES).enumerate().rev() {
            let mut columns = [&[][..]; WIDEST];
            each_lane!(S, lane => {
                // Lanes of no column are as the last one: what is computed of them is no subnormal number.
                let column = from[lane.min(from.len() - 1)] as usize;
                columns[lane] = &self.of.data[column * self.of.pitch..][..self.of.pitch];
            });
            let to = &mut panel[j * S::LANES..];
            match self.of.is_far() {
                true => self.terms.transpose::<S, AHEAD>(s, columns, width, to),
                false => self.terms.transpose::<S, 0>(s, columns, width, to),
            }
        }
    }
}

impl Vectors<'_> {
    /// Lane `i` of row `t`, `width` elements from row to row, is the `t`-th element of column `i` that is wanted. Writes into the row behind the last, too.
    #[inline(always)]
    fn transpose<S: F32s, const AHEAD: usize>(
        self,
        s: S,
        columns: [&[f32]; WIDEST],
        width: usize,
        to: &mut [f32],
    ) {
        s.outline(
            #[inline(always)]
            move || {
                let mut at = 0;
                for &[first, lanes] in self.as_slice() {
                    if AHEAD > 0 {
                        each_lane!(S, i => s.prefetch_ahead(columns[i], first as usize + AHEAD));
                    }
                    let mut v = [s.splat(0.0); WIDEST];
                    each_lane!(S, i => v[i] = s.load(&columns[i][first as usize..]));
                    s.transpose(&mut v);
                    if lanes == const { (1u64 << S::LANES) as u32 - 1 } {
                        let rows = &mut to[at..][..(S::LANES - 1) * width + S::LANES];
                        each_lane!(S, i => s.store(v[i], &mut rows[i * width..]));
                        at += S::LANES * width;
                    } else {
                        // Dead ones are written as well, and overwritten: branches at random would be mispredicted.
                        each_lane!(S, i => {
                            s.store(v[i], &mut to[at..]);
                            at += width * (lanes >> i & 1) as usize;
                        });
                    }
                }
            },
        );
    }
}
