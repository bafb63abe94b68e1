use core::ops::Range;

use crate::Error;

/// A borrowed set of channels: one bit a channel, 1 = live, channel `c` in bit `c % 64` of word `c / 64`.
///
/// The invariant, checked by [`Channels::new`]: exactly `len.div_ceil(64)` words, and no bit set at or above `len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels<'a> {
    words: &'a [u64],
    len: usize,
}

impl<'a> Channels<'a> {
    /// Views `words` as a set over channels `0..len`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the number of words is not `len.div_ceil(64)`; [`Error::Invalid`] when a bit past `len` is set.
    pub fn new(words: &'a [u64], len: usize) -> Result<Self, Error> {
        if words.len() != len.div_ceil(64) {
            return Err(Error::Mismatch {
                what: "number of mask words",
                expected: len.div_ceil(64),
                found: words.len(),
            });
        }
        let tail = len % 64;
        if tail != 0 && words[words.len() - 1] >> tail != 0 {
            return Err(Error::Invalid {
                what: "a mask bit past the last channel is set",
            });
        }
        Ok(Self { words, len })
    }

    /// Number of channels, dead ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no channel is live.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&w| w == 0)
    }

    /// Whether every channel is live.
    pub fn is_full(&self) -> bool {
        self.count() == self.len
    }

    /// Number of live channels.
    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether channel `c` is live; channels past the end are dead.
    pub fn contains(&self, c: usize) -> bool {
        self.words
            .get(c / 64)
            .is_some_and(|w| w >> (c % 64) & 1 == 1)
    }

    /// Whether some channel of `range` is live.
    pub fn any_in(&self, range: Range<usize>) -> bool {
        self.live_from(range.start)
            .next()
            .is_some_and(|c| c < range.end)
    }

    /// The `n` bits from channel `at` on, at most 32; zeros where there is no channel.
    pub(crate) fn bits(&self, at: usize, n: usize) -> u32 {
        let word = |i: usize| self.words.get(i).copied().unwrap_or(0);
        let low = word(at / 64) >> (at % 64);
        let high = (word(at / 64 + 1) << 1) << (63 - at % 64);
        ((low | high) & ((1 << n) - 1)) as u32
    }

    /// Number of live channels before `c`.
    pub(crate) fn count_before(&self, c: usize) -> usize {
        let (whole, part) = (c / 64, c % 64);
        let before = self.words.iter().take(whole).map(|w| w.count_ones());
        let beside = self.words.get(whole).map_or(0, |w| w & ((1 << part) - 1));
        (before.sum::<u32>() + beside.count_ones()) as usize
    }

    /// The live channels behind the first `n` of them, in ascending order.
    pub(crate) fn live_after(&self, mut n: usize) -> Live<'a> {
        let mut live = self.live();
        while let Some(&word) = self.words.get(live.index) {
            let count = word.count_ones() as usize;
            if n < count {
                break;
            }
            n -= count;
            live.index += 1;
            live.word = self.words.get(live.index).copied().unwrap_or(0);
        }
        for _ in 0..n {
            live.word &= live.word.wrapping_sub(1);
        }
        live
    }

    /// The bitmap itself.
    pub fn words(&self) -> &'a [u64] {
        self.words
    }

    /// The live channels in ascending order.
    pub fn live(&self) -> Live<'a> {
        self.live_from(0)
    }

    /// The live channels from `start` on, in ascending order.
    pub fn live_from(&self, start: usize) -> Live<'a> {
        let index = start / 64;
        let word = match self.words.get(index) {
            Some(w) => w & (!0 << (start % 64)),
            None => 0,
        };
        Live {
            words: self.words,
            index,
            word,
        }
    }

    /// The maximal runs of consecutive live channels, in ascending order.
    pub fn runs(&self) -> Runs<'a> {
        Runs {
            set: *self,
            next: 0,
        }
    }

    /// The first dead channel at or after `start`, or `len`.
    fn dead_from(&self, start: usize) -> usize {
        let mut c = start;
        while c < self.len {
            let ones = (self.words[c / 64] >> (c % 64)).trailing_ones() as usize;
            if ones < 64 - c % 64 {
                return (c + ones).min(self.len);
            }
            c += ones;
        }
        self.len
    }
}

/// Walk over the live channels of a [`Channels`].
#[derive(Debug, Clone)]
pub struct Live<'a> {
    words: &'a [u64],
    index: usize,
    word: u64,
}

impl Iterator for Live<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.word == 0 {
            self.index += 1;
            self.word = *self.words.get(self.index)?;
        }
        let bit = self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(self.index * 64 + bit)
    }
}

/// Walk over the runs of a [`Channels`].
#[derive(Debug, Clone)]
pub struct Runs<'a> {
    set: Channels<'a>,
    next: usize,
}

impl Iterator for Runs<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.set.live_from(self.next).next()?;
        self.next = self.set.dead_from(start);
        Some(start..self.next)
    }
}
