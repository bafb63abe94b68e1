//! One allocation for all results of a run.

use std::ops::Range;

use sluicegate_kernels::Buffer;

/// Results of one step at most.
pub(super) const RESULTS: usize = 3;

/// Bytes that start on a cache line.
pub(super) struct Arena {
    room: Buffer,
    len: usize,
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            room: Buffer::zeros(0),
            len: 0,
        }
    }
}

impl Arena {
    /// Makes room for `len` bytes. What was there before is lost.
    pub(super) fn resize(&mut self, len: usize) {
        if len > self.len {
            self.room = Buffer::zeros(len.div_ceil(size_of::<f32>()));
            self.len = len;
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.room)[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.room)[..self.len]
    }

    /// Borrows the ranges of a step's results for writing and the rest for reading.
    pub(super) fn open(&mut self, results: &[Option<Range<usize>>; RESULTS]) -> Opened<'_> {
        let start = |i: usize| results[i].as_ref().map_or(usize::MAX, |r| r.start);
        let mut order = [0, 1, 2];
        for (i, j) in [(0, 1), (1, 2), (0, 1)] {
            if start(order[j]) < start(order[i]) {
                order.swap(i, j);
            }
        }
        let mut opened = Opened::default();
        let mut rest: &mut [u8] = self.bytes_mut();
        let (mut at, mut gap) = (0, 0);
        for i in order {
            let Some(range) = &results[i] else { break };
            let (before, tail) = rest.split_at_mut(range.start - at);
            let (result, tail) = tail.split_at_mut(range.len());
            opened.gaps[gap] = (at, before);
            opened.results[i] = result;
            (at, rest) = (range.end, tail);
            gap += 1;
        }
        opened.gaps[gap] = (at, rest);
        opened
    }
}

/// An arena of which some ranges are being written.
#[derive(Default)]
pub(super) struct Opened<'a> {
    pub(super) results: [&'a mut [u8]; RESULTS],
    /// Where each piece between them starts.
    gaps: [(usize, &'a [u8]); RESULTS + 1],
}

impl<'a> Opened<'a> {
    /// A range that is not being written.
    pub(super) fn read(&self, range: Range<usize>) -> &'a [u8] {
        let holds =
            |(at, bytes): &&(usize, &'a [u8])| *at <= range.start && range.end <= at + bytes.len();
        let (at, bytes) = self
            .gaps
            .iter()
            .find(holds)
            .expect("the layout keeps operands apart from results");
        &bytes[range.start - at..range.end - at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_the_rest_are_apart() {
        let mut arena = Arena::default();
        arena.resize(300);
        arena
            .bytes_mut()
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| *b = i as u8);
        let opened = arena.open(&[Some(200..210), Some(64..70), None]);
        assert_eq!(opened.read(0..64)[63], 63);
        assert_eq!(opened.read(70..200).len(), 130);
        assert_eq!(opened.read(250..251), [250]);
        assert_eq!(opened.read(70..70), []);
        opened.results[0].fill(0);
        opened.results[1].fill(1);
        assert_eq!(
            (arena.bytes()[205], arena.bytes()[65], arena.bytes()[63]),
            (0, 1, 63)
        );
        assert_eq!(arena.bytes().as_ptr().align_offset(64), 0);
    }
}
