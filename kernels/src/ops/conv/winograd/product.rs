//! The products of one point: weights are broadcast, vectors are tiles.
#![forbid(unsafe_code)]

use super::height;
use crate::isa::F32s;
use crate::panel::{Gathered, Lhs, in_one_register};
use crate::tile::gemm::each_row;

/// A panel from a row on; without steps it has none.
pub(super) fn from_row(panel: &[f32], row: usize) -> &[f32] {
    panel.get(row..).unwrap_or_default()
}

/// The weights of rows side by side.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) panel: &'a [f32],
    /// The panel behind, which is asked for meanwhile; as long.
    pub(super) next: &'a [f32],
    /// Where the steps are in both.
    pub(super) offsets: &'a [u32],
}

/// As [`Weights`] when every step is live. Looking offsets up takes a third longer when each weight is used once.
#[derive(Clone, Copy)]
struct All<'a, const HIGH: usize>(Weights<'a>);

/// What is broadcast, by step.
pub(super) trait Steps<const MR: usize>: Copy {
    /// Where step `t` is. Asked for a step ahead: loads that wait for it would hold up those behind them.
    fn place(self, t: usize) -> usize;
    /// The values there.
    fn at(self, place: usize) -> [f32; MR];
    /// Asks for what will be read soon.
    fn prefetch<S: F32s>(self, s: S, place: usize);
}

impl<const MR: usize> Steps<MR> for Weights<'_> {
    #[inline(always)]
    fn place(self, t: usize) -> usize {
        self.offsets.get(t).map_or(0, |&at| at as usize)
    }
    #[inline(always)]
    fn at(self, place: usize) -> [f32; MR] {
        let row = self.panel[place..].first_chunk().expect("a panel row");
        *in_one_register(row)
    }
    #[inline(always)]
    fn prefetch<S: F32s>(self, s: S, place: usize) {
        s.prefetch_near(&self.next[place..]);
    }
}

impl<const MR: usize, const HIGH: usize> Steps<MR> for All<'_, HIGH> {
    #[inline(always)]
    fn place(self, t: usize) -> usize {
        t * HIGH
    }
    #[inline(always)]
    fn at(self, place: usize) -> [f32; MR] {
        let row = self.0.panel[place..].first_chunk();
        *in_one_register(row.expect("a panel row"))
    }
    #[inline(always)]
    fn prefetch<S: F32s>(self, s: S, place: usize) {
        s.prefetch_near(&self.0.next[place..]);
    }
}

/// The product of a panel of `HIGH` rows, or of half of it; `all`: every step is live.
#[inline(always)]
pub(super) fn panel_product<S: F32s, const MR: usize, const NV: usize, const HIGH: usize>(
    s: S,
    all: bool,
    lhs: Weights<'_>,
    v: &[f32],
    m: &mut [f32],
    step: usize,
) {
    s.outline(
        #[inline(always)]
        || {
            if all {
                product::<S, MR, NV>(s, All::<HIGH>(lhs), v, m, step);
            } else {
                product::<S, MR, NV>(s, lhs, v, m, step);
            }
        },
    );
}

/// The product of the rows `place(i)` of a panel.
#[inline(always)]
pub(super) fn picked_product<S: F32s, const MR: usize, const HIGH: usize>(
    s: S,
    of: Weights<'_>,
    place: impl Fn(usize) -> usize,
    v: &[f32],
    m: &mut [f32],
    step: usize,
) {
    let mut rows = [0; MR];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = place(i);
    }
    let lhs = Picked::<MR, HIGH> { of, rows };
    s.outline(
        #[inline(always)]
        || product::<S, MR, 1>(s, lhs, v, m, step),
    );
}

/// m[i][j] = Σ_t lhs[t][i] · v[t][j], in ascending order from zero; rows of m are `step` apart.
#[inline(always)]
pub(super) fn product<S: F32s, const MR: usize, const NV: usize>(
    s: S,
    lhs: impl Steps<MR>,
    v: &[f32],
    m: &mut [f32],
    step: usize,
) {
    const {
        let most = height(S::REGISTERS) / NV;
        assert!(MR > most || MR * NV + NV < S::REGISTERS, "tile spills");
    }
    assert!(MR <= height(S::REGISTERS) / NV, "tile height");
    let mut acc = [[s.splat(0.0); NV]; MR];
    let mut place = lhs.place(0);
    for (t, v) in v.chunks_exact(NV * S::LANES).enumerate() {
        let mut b = [s.splat(0.0); NV];
        for j in 0..NV {
            b[j] = s.load(&v[j * S::LANES..]);
        }
        // First: a branch between the loads of a row and their use would keep them from folding into the multiplications.
        let behind = lhs.place(t + 1);
        lhs.prefetch(s, place);
        let a = lhs.at(place);
        for i in 0..MR {
            let ai = s.splat(a[i]);
            for j in 0..NV {
                acc[i][j] = s.mul_add(ai, b[j], acc[i][j]);
            }
        }
        place = behind;
    }
    each_row!(MR, i => {
        let row = &mut m[i * step..][..NV * S::LANES];
        for j in 0..NV {
            s.store(acc[i][j], &mut row[j * S::LANES..]);
        }
    });
}

/// The weights of some rows of a panel of `HIGH` rows, a power of two.
#[derive(Clone, Copy)]
pub(super) struct Picked<'a, const MR: usize, const HIGH: usize> {
    pub(super) of: Weights<'a>,
    pub(super) rows: [usize; MR],
}

impl<const MR: usize, const HIGH: usize> Steps<MR> for Picked<'_, MR, HIGH> {
    #[inline(always)]
    fn place(self, t: usize) -> usize {
        self.of.offsets.get(t).map_or(0, |&at| at as usize)
    }
    #[inline(always)]
    fn at(self, place: usize) -> [f32; MR] {
        const { assert!(HIGH.is_power_of_two()) };
        let line: &[f32; HIGH] = self.of.panel[place..].first_chunk().expect("a panel row");
        let mut row = [0.0; MR];
        for i in 0..MR {
            row[i] = line[self.rows[i] % HIGH];
        }
        row
    }
    #[inline(always)]
    fn prefetch<S: F32s>(self, s: S, place: usize) {
        s.prefetch_near(&self.of.next[place..]);
    }
}

/// Panels that are asked for at once, at most.
pub(super) const PANELS: usize = 2;

/// The weights of rows anywhere in the panels.
#[derive(Clone, Copy)]
pub(super) struct Anywhere<'a, const MR: usize> {
    pub(super) rows: Gathered<'a, MR>,
    /// The panels of the rows that come next: they are asked for meanwhile.
    pub(super) next: [&'a [f32]; PANELS],
    /// Where the steps are in these.
    pub(super) offsets: &'a [u32],
}

impl<const MR: usize> Steps<MR> for Anywhere<'_, MR> {
    #[inline(always)]
    fn place(self, t: usize) -> usize {
        t
    }
    #[inline(always)]
    fn at(self, place: usize) -> [f32; MR] {
        let mut row = [0.0; MR];
        self.rows.each::<1>(
            place,
            0,
            #[inline(always)]
            |i, _, x| row[i] = x,
        );
        row
    }
    #[inline(always)]
    fn prefetch<S: F32s>(self, s: S, place: usize) {
        let at = self.offsets[place] as usize;
        for row in self.next {
            s.prefetch_ahead(row, at);
        }
    }
}
