//! The windows of a convolution, by which of their taps are on the map.
#![forbid(unsafe_code)]

use super::lists::InOrder;

/// The taps of a window that are on the map.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// Where its terms begin among those of all windows.
    pub(super) start: usize,
    pub(super) taps: usize,
    /// All taps.
    pub(super) is_whole: bool,
    /// Which tap of the kernel the first one is, how many of a row of the kernel there are, and how many a row has.
    pub(super) first: usize,
    pub(super) across: usize,
    pub(super) of_a_row: usize,
}

impl Window {
    /// Which tap of the kernel that is.
    pub(super) fn tap(&self, tap: usize) -> usize {
        self.first + tap / self.across * self.of_a_row + tap % self.across
    }

    /// The rows of its terms in panels of so many channels.
    #[inline(always)]
    pub(super) fn rows(&self, channels: usize) -> InOrder {
        let taps = if self.across == self.of_a_row {
            self.taps
        } else {
            self.across
        };
        InOrder {
            first: self.first * channels,
            stretch: taps * channels,
            apart: self.of_a_row * channels,
        }
    }
}
