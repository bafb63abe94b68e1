//! Memory for what is read often.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// Zero-initialised floats that start on a cache line, and on a huge page when they fill one and the system grants it: what a mask picks
/// from a large matrix is on another page each, of which the first level of the TLB holds a few dozen.
#[derive(Debug)]
pub struct Buffer {
    room: Vec<f32>,
    start: usize,
    len: usize,
}

/// Bytes of a huge page of x86-64, and of AArch64 with pages of 4 KiB.
const HUGE: usize = 2 << 20;

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let align = if len >= HUGE / size_of::<f32>() {
            HUGE
        } else {
            64
        };
        let slack = align / size_of::<f32>();
        let room = vec![0.0; len + slack];
        let start = room.as_ptr().align_offset(align).min(slack);
        if align == HUGE {
            ask_for_huge_pages(&room[start..][..len]);
        }
        Self { room, start, len }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.room[self.start..][..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.start..][..self.len]
    }
}

/// Has the system back `data`, as yet untouched, by huge pages, if it does not refuse.
#[cfg(all(feature = "std", target_os = "linux", not(miri)))]
fn ask_for_huge_pages(data: &[f32]) {
    let at = data.as_ptr().cast_mut().cast();
    // SAFETY: the range is inside one allocation; this advice changes how memory is backed, never what it holds.
    unsafe { libc::madvise(at, size_of_val(data), libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(feature = "std", target_os = "linux", not(miri))))]
fn ask_for_huge_pages(_: &[f32]) {}
