//! Where the terms of a call are.
#![forbid(unsafe_code)]

use super::source::Window;
use crate::panel::Below;

/// Where the terms of a call are, of all windows.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    /// In x, of all terms or, without dead ones among them, of the first of each run; and their rows in a panel.
    pub(super) of_x: &'a [u32],
    pub(super) of_w: &'a [u32],
    /// Live channels.
    pub(super) channels: usize,
    /// Dead ones are among them, or of x only so many channels are there: nothing is where it is if all live.
    pub(super) listed: bool,
}

impl<'a> Lists<'a> {
    /// Those of a window, in runs of so many.
    #[inline(always)]
    pub(super) fn of(&self, window: Window, each: usize) -> LiveTerms<'a> {
        let depth = self.channels * window.taps;
        let starts = if self.listed {
            depth
        } else {
            depth.div_ceil(each)
        };
        let rows = || Below::all(&self.of_w[window.start..][..depth]);
        LiveTerms {
            depth,
            of_x: Below::all(&self.of_x[window.start..][..starts]),
            of_w: (self.listed || !window.is_whole).then(rows),
        }
    }
}

/// The terms of a window in a call.
pub(super) struct LiveTerms<'a> {
    pub(super) depth: usize,
    /// Where those of the first pixel are; where their runs begin, if there are runs and all are live.
    pub(super) of_x: Below<'a>,
    /// Where their rows begin in a panel, unless they are all rows.
    pub(super) of_w: Option<Below<'a>>,
}
