//! The products of one point: weights are broadcast, vectors are tiles.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::height;
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::panel::{Below, Beside, Even, Gathered, Lhs, Rhs, Side, Spaced, Terms};
use crate::pool::Tile;
use crate::tile::gemm::{Place, Start, Whole, tile};

/// A panel from a row on; without steps it has none.
pub(super) fn from_row(panel: &[f32], row: usize) -> &[f32] {
    panel.get(row..).unwrap_or_default()
}

/// The weights of rows side by side in a panel.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) panel: &'a [f32],
    /// The panel behind, which is asked for meanwhile; as long.
    pub(super) next: &'a [f32],
    /// Where the steps are in both.
    pub(super) offsets: Below<'a>,
}

/// The inputs of a point, a row of tiles a step, while the panels of weights that are used next are asked for.
#[derive(Clone, Copy)]
struct Followed<'a, S, T, const NV: usize, const PANELS: usize> {
    of: Side<'a, S, Even, 1, NV>,
    next: [&'a [f32]; PANELS],
    /// Where the steps are in these.
    offsets: T,
}

impl<S: F32s, T: Terms, const NV: usize, const PANELS: usize> Rhs<S, NV>
    for Followed<'_, S, T, NV, PANELS>
{
    #[inline(always)]
    fn len(self) -> usize {
        Rhs::<S, NV>::len(self.of)
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let of = Rhs::<S, NV>::part(self.of, steps.clone());
        let offsets = self.offsets.part(steps);
        Self {
            of,
            offsets,
            ..self
        }
    }
    #[inline(always)]
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV] {
        let at = self.offsets.at::<U>(n, u);
        for panel in self.next {
            s.prefetch_ahead(panel, at);
        }
        self.of.at::<U>(s, n, u)
    }
}

/// The product of `MR` rows side by side in panels of `HIGH`; `all`: every step is live.
#[inline(always)]
pub(super) fn panel_product<S: F32s, const MR: usize, const NV: usize, const HIGH: usize>(
    s: S,
    all: bool,
    of: Weights<'_>,
    v: &[f32],
    m: &mut [f32],
    step: usize,
) {
    s.outline(
        #[inline(always)]
        || {
            if all {
                let terms = Even::new(0, HIGH, of.offsets.len());
                let rows = Beside::<_, MR>::new([of.panel], 1, terms);
                product::<S, _, _, MR, NV, 1>(s, rows, ([of.next], terms), v, m, step);
                return;
            }
            let next = ([of.next], of.offsets);
            let rows = Spaced::new(of.panel, 1, of.offsets);
            // Only FMAs that broadcast by themselves are worth it that the compiler knows less.
            if const { S::REGISTERS >= 32 } {
                product::<S, _, _, MR, NV, 1>(s, Beside::from(rows), next, v, m, step);
            } else {
                product::<S, _, _, MR, NV, 1>(s, rows, next, v, m, step);
            }
        },
    );
}

/// The product of rows that begin at `starts` in one panel or several.
#[inline(always)]
pub(super) fn gathered_product<S: F32s, const MR: usize, const NV: usize, const PANELS: usize>(
    s: S,
    (panels, starts): (&[f32], [usize; MR]),
    (next, offsets): ([&[f32]; PANELS], Below<'_>),
    v: &[f32],
    m: &mut [f32],
    step: usize,
) {
    let rows = Gathered::new(panels, starts, 1, offsets);
    s.outline(
        #[inline(always)]
        || product::<S, _, _, MR, NV, PANELS>(s, rows, (next, offsets), v, m, step),
    );
}

/// m[i][j] = Σ_t lhs[t][i] · v[t][j], in ascending order from zero; rows of m are `step` apart. What is next is where `offsets` say.
#[inline(always)]
fn product<S: F32s, L: Lhs<MR>, T: Terms, const MR: usize, const NV: usize, const PANELS: usize>(
    s: S,
    lhs: L,
    (next, offsets): ([&[f32]; PANELS], T),
    v: &[f32],
    m: &mut [f32],
    step: usize,
) {
    assert!(MR <= height(S::REGISTERS) / NV, "tile height");
    let (depth, row) = (lhs.len(), const { NV * S::LANES });
    let rhs = Followed {
        of: Side::<S, _, 1, NV>::new([v], Even::new(0, row, depth)),
        next,
        offsets,
    };
    let mut m = Tile::new(m, MR, row, step);
    let place = Place {
        to: (m.in_order::<MR>(0), Whole(0)),
        start: Start::Zero,
        activation: Activation::None,
    };
    tile::<S, MR, NV, _>(s, depth, lhs, rhs, place);
}
