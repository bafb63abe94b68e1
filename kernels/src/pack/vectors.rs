//! Wanted elements of a row, a vector at a time.
#![forbid(unsafe_code)]

use crate::panel::{Below, Terms};

/// Where vectors begin that cover the elements of a list, and which of their lanes are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Vectors<'a> {
    of: &'a [[u32; 2]],
    wanted: usize,
}

impl<'a> Vectors<'a> {
    /// Of `lanes` elements each, for an ascending list. There is room for two numbers an element.
    #[inline(always)]
    pub(crate) fn new(list: Below<'_>, lanes: usize, room: &'a mut [u32]) -> Self {
        let (vectors, _) = room.as_chunks_mut::<2>();
        let all = list.as_slice();
        // Rows hold as much as the list may ask for, not a vector behind the last.
        let last = list.bound().saturating_sub(lanes) as u32;
        let (mut count, mut i) = (0, 0);
        while let Some(&next) = all.get(i) {
            let first = next.min(last);
            let mut some = 0;
            while let Some(&x) = all.get(i)
                && ((x - first) as usize) < lanes
            {
                some |= 1 << (x - first);
                i += 1;
            }
            vectors[count] = [first, some];
            count += 1;
        }
        Self {
            of: &vectors[..count],
            wanted: all.len(),
        }
    }

    /// Whether each brings so many elements on average.
    #[inline(always)]
    pub(crate) fn bring(self, each: usize) -> bool {
        self.of.len() * each <= self.wanted
    }

    pub(crate) fn as_slice(self) -> &'a [[u32; 2]] {
        self.of
    }
}
