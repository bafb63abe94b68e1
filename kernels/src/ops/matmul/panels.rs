//! The panels of a block of C, and what one pass over its rows takes of them.
#![forbid(unsafe_code)]

use super::spread::{Spread, Target};
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::ops::pointwise;
use crate::tile::gemm::NV;

/// The panels of a block.
#[derive(Clone, Copy)]
pub(super) enum Panels<'a> {
    /// From this one on.
    From(usize),
    /// Those of a list, in place: only some lanes of each, and column j is column `j - first` of the block.
    Picked {
        list: &'a [u32],
        lanes: &'a [[u32; NV]],
        first: usize,
    },
    /// Those of a list, whose columns are not side by side.
    Spread { list: &'a [u32], to: Spread<'a> },
    /// Panels of these packed columns alone.
    Gather { from: &'a [u32], to: Spread<'a> },
}

/// Some columns of one panel or of two.
pub(super) struct Taken {
    /// Panels.
    pub(super) count: usize,
    /// The first vector.
    pub(super) vector: usize,
    pub(super) columns: usize,
}

/// Panels whose columns are the vectors of one tile, where there are registers for them: 6 x 4 vectors need 10 loads for 24 FMAs, 12 x 2 need 14 and
/// twice as many addresses. Measured on a Xeon whose sibling thread is busy, 192 x 384 x 256: 1.12 of the speed.
pub(super) const PAIR: usize = 2;

impl<'a> Panels<'a> {
    /// Which of the packed panels panel `x` is.
    #[inline(always)]
    pub(super) fn nth(self, x: usize) -> usize {
        match self {
            Panels::From(first) => first + x,
            Panels::Picked { list, .. } | Panels::Spread { list, .. } => list[x] as usize,
            Panels::Gather { .. } => 0,
        }
    }

    /// What one pass over the rows takes from the `x`-th panel on; all have `width` columns.
    #[inline(always)]
    pub(super) fn next_to<S: F32s>(self, x: usize, width: usize, nr: usize) -> Taken {
        if let Panels::Picked { lanes, .. } = self
            && let Some(idle) = lanes[x].iter().position(|&lanes| lanes == 0)
        {
            // A vector without a wanted column is left out.
            return Taken {
                count: 1,
                vector: 1 - idle,
                columns: S::LANES,
            };
        }
        let left = width - x * nr;
        // Of an odd number the first is alone: nothing is computed while what it is put together from comes.
        let alone = matches!(self, Panels::Gather { .. })
            && x == 0
            && (S::LANES + 1..=nr).contains(&(left % (PAIR * nr)));
        // The last vector of a pair should not be idle.
        let pair = S::REGISTERS >= 32
            && nr == const { NV * S::LANES }
            && left > const { (2 * NV - 1) * S::LANES };
        let neighbours = || match self {
            Panels::Gather { .. } => true,
            Panels::Picked { lanes, .. } if lanes[x + 1].contains(&0) => false,
            _ => self.nth(x + 1) == self.nth(x) + 1,
        };
        let count = match pair && !alone && neighbours() {
            true => PAIR,
            false => 1,
        };
        Taken {
            count,
            vector: 0,
            columns: left.min(count * nr),
        }
    }

    /// Where `count` panels from the `x`-th on go, `width` columns of `nr` a panel.
    #[inline(always)]
    pub(super) fn target(self, (x, count): (usize, usize), nr: usize, width: usize) -> Target<'a> {
        match self {
            Panels::From(_) => Target::Beside(x * nr, width),
            Panels::Picked { list, lanes, first } => {
                let lanes = lanes[x..x + count].as_flattened();
                Target::Picked(list[x] as usize * nr - first, lanes)
            }
            Panels::Spread { to, .. } | Panels::Gather { to, .. } => {
                Target::Spread(to.part(x, count))
            }
        }
    }

    /// Where one vector of panel `x` goes, from its column `inside` on, `columns` of it; none are wanted otherwise.
    #[inline(always)]
    pub(super) fn vector<S: F32s>(
        self,
        x: usize,
        inside: usize,
        columns: usize,
        nr: usize,
    ) -> Option<Target<'a>> {
        match self.target((x, 1), nr, columns) {
            Target::Beside(at, width) => Some(Target::Beside(at + inside, width)),
            Target::Picked(at, lanes) => {
                let lanes = &lanes[inside / S::LANES..];
                (lanes[0] != 0).then_some(Target::Picked(at + inside, lanes))
            }
            Target::Spread(_) => unreachable!("columns that are spread go by panels"),
        }
    }

    /// Applies what cannot be applied in registers to the columns of a row of C that they are.
    #[inline(always)]
    pub(super) fn activate<S: F32s>(self, s: S, act: Activation, width: usize, row: &mut [f32]) {
        match self {
            Panels::From(_) => pointwise::apply(s, act, &mut row[..width]),
            Panels::Picked { .. } => {
                unreachable!("lanes are picked for what is applied in registers")
            }
            Panels::Spread { to, .. } | Panels::Gather { to, .. } => to.activate(s, act, row),
        }
    }
}
