//! Which rows of the products are computed, and in which order.
//!
//! A tile of a panel, or of half of one, reads its weights in one piece; rows from anywhere pay for each. So a panel of which nearly all rows
//! are live is computed whole and its dead rows are dropped, and only the live rows of the others are gathered. A row comes out the same in
//! either way.
#![forbid(unsafe_code)]

use super::height;
use crate::isa::F32s;
use crate::panel::{lines, take_indices};
use crate::pool::NOWHERE;

/// Rows to compute: whole halves of panels first, then single ones.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    /// Packed rows.
    pub(super) rows: &'a [u32],
    /// Their output channels, or [`NOWHERE`].
    pub(super) to: &'a [u32],
    /// How many of them are in whole halves.
    pub(super) whole: usize,
    /// Where those end that are taken panel by panel. The others are gathered from any panels.
    pub(super) picked: usize,
}

/// Rows of a tile that gathers them: each needs a general register.
pub(super) const fn gathered(registers: usize) -> usize {
    if registers >= 32 { 8 } else { 4 }
}

/// Steps of panels up to which several panels side by side fit L1.
const DEEP: usize = 384;

/// Live rows of a panel from which on they have a tile of their own.
const PICKED: usize = 5;

/// Elements of the lists of an order.
pub(super) fn room(packed: usize, height: usize) -> usize {
    2 * lines(packed.next_multiple_of(height))
}

/// The order of the live rows `from`, which ascend, and their channels, for blocks of `wide` vectors and panels of `depth` steps.
#[inline(always)]
pub(super) fn order<'a, S: F32s>(
    from: &'a [u32],
    to: &'a [u32],
    (wide, depth): (usize, usize),
    rest: &mut &'a mut [f32],
) -> Order<'a> {
    let half = height(S::REGISTERS) / 2;
    let Some((&first, &last)) = from.first().zip(from.last()) else {
        return Order {
            rows: from,
            to,
            whole: 0,
            picked: 0,
        };
    };
    let (begin, end) = (first as usize, last as usize + 1);
    if end - begin == from.len() && begin.is_multiple_of(half) {
        return Order {
            rows: from,
            to,
            whole: from.len(),
            picked: from.len(),
        };
    }
    // With one vector a tile is a whole panel.
    let tall = S::REGISTERS >= 32 && wide == 1;
    let by_panels = tall && depth > DEEP;
    let unit = if tall { 2 * half } else { half };
    // What a single row costs, in eighths of a row of a whole tile: few rows and one vector do not keep the units busy, and lines of many
    // steps that several tiles read do not stay in L1.
    let cost = match (S::REGISTERS >= 32, wide) {
        _ if depth > DEEP && !by_panels => 22,
        (_, 2) => 10,
        // Whole tiles of 16 x 1 broadcast from memory, those of rows from anywhere do not: 256 channels, half of them live, took 1.14 of the time of all.
        _ if S::BROADCASTS => 19,
        (true, _) => 12,
        (false, _) => 16,
    };
    let enough = |live: usize| cost * live > 8 * unit;
    let picked = |live: usize| by_panels && live >= PICKED;
    let units = || from.chunk_by(|a, b| *a as usize / unit == *b as usize / unit);
    let (mut parts, mut single, mut some) = (0, 0, 0);
    for live in units().filter(|live| !enough(live.len())) {
        (parts, single) = (parts + 1, single + live.len());
        some += if picked(live.len()) { live.len() } else { 0 };
    }
    let tile = gathered(S::REGISTERS);
    let all = !by_panels && 8 * unit * parts <= cost * single.next_multiple_of(tile);
    let is_whole = |live: &[u32]| all || enough(live.len());

    let whole: usize = units().filter(|live| is_whole(live)).count() * unit;
    let len = whole + if all { 0 } else { single };
    let (rows, channels) = (take_indices(rest, len), take_indices(rest, len));
    channels[..whole].fill(NOWHERE);
    let (mut next, mut next_picked, mut next_single, mut taken) = (0, whole, whole + some, 0);
    for live in units() {
        let to = &to[taken..][..live.len()];
        taken += live.len();
        if is_whole(live) {
            let first = live[0] as usize / unit * unit;
            for i in 0..unit {
                rows[next + i] = (first + i) as u32;
            }
            for (&row, &c) in live.iter().zip(to) {
                channels[next + row as usize - first] = c;
            }
            next += unit;
        } else {
            let next = if picked(live.len()) {
                &mut next_picked
            } else {
                &mut next_single
            };
            rows[*next..][..live.len()].copy_from_slice(live);
            channels[*next..][..live.len()].copy_from_slice(to);
            *next += live.len();
        }
    }
    Order {
        rows,
        to: channels,
        whole,
        picked: whole + some,
    }
}
