//! Where the terms of a call are.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::source::Source;
use super::window::Window;
use crate::panel::Below;

/// Where the terms of a call are, of all windows.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    /// In x, of all terms or, where channels lie side by side and no dead ones are among them, of the first of each run.
    pub(super) of_x: &'a [u32],
    /// Their rows in a panel, unless they are those of the first channels, tap by tap.
    pub(super) of_w: Option<&'a [u32]>,
    /// Live channels.
    pub(super) channels: usize,
    /// These are lists of the call.
    pub(super) listed: bool,
}

impl<'a> Lists<'a> {
    /// These, or all terms of a source where none are listed.
    #[inline(always)]
    pub(super) fn or_all_of(self, source: &'a Source) -> Self {
        match self.listed {
            true => self,
            false => Self {
                of_x: &source.terms,
                ..self
            },
        }
    }

    /// Those of a window, in runs of so many.
    #[inline(always)]
    pub(super) fn of(&self, window: Window, each: usize) -> LiveTerms<'a> {
        let depth = self.channels * window.taps;
        let starts = if self.listed {
            depth
        } else {
            depth.div_ceil(each)
        };
        let rows = |of_w: &'a [u32]| Below::all(&of_w[window.start..][..depth]);
        LiveTerms {
            depth,
            of_x: Below::all(&self.of_x[window.start..][..starts]),
            of_w: self.of_w.map(rows),
            rows: match self.of_w {
                Some(_) => InOrder::listed(depth),
                None => window.rows(self.channels),
            },
        }
    }
}

/// The terms of a window in a call.
pub(super) struct LiveTerms<'a> {
    pub(super) depth: usize,
    /// Where those of the first pixel are; where their runs begin, if there are runs and all are live.
    pub(super) of_x: Below<'a>,
    /// Where their rows begin in a panel, if they are listed.
    pub(super) of_w: Option<Below<'a>>,
    /// Else which rows they are.
    pub(super) rows: InOrder,
}

/// Rows of a panel in stretches, in which one follows the other: all rows of a window with all its taps; of others some, or some for each of their rows.
#[derive(Clone, Copy)]
pub(super) struct InOrder {
    /// The first one.
    pub(super) first: usize,
    /// How many are in a stretch, and rows from the first of a stretch to that of the next.
    pub(super) stretch: usize,
    pub(super) apart: usize,
}

impl InOrder {
    /// Lists are counted from the panel's first row.
    fn listed(depth: usize) -> Self {
        Self {
            first: 0,
            stretch: depth,
            apart: 0,
        }
    }

    /// Depth blocks of `depth` terms, of at most `kc`, each with its first row. One if there are no terms.
    #[inline(always)]
    pub(super) fn blocks(
        self,
        depth: usize,
        kc: usize,
    ) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (stretch, kc) = (self.stretch.max(1), kc.max(1));
        let stretches = (0..depth.max(1)).step_by(stretch).enumerate();
        stretches.flat_map(move |(n, from)| {
            let to = (from + stretch).min(depth);
            let row = self.first + n * self.apart;
            (from..to.max(from + 1))
                .step_by(kc)
                .map(move |t| (t..to.min(t + kc), row + (t - from)))
        })
    }
}
