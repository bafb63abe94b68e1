//! Packed orders: how operands are laid out so that a micro-kernel walks them forward.
//!
//! ```text
//! column panels (rhs)   [n / NR][k][NR]      row panels (lhs)   [m / MR][k][MR]      the last panel padded with zeros
//! from memory           [n / 4 NR][k][4][NR]   for a single row [k][n]      by columns, which a mask picks [n][k]
//! ```
#![forbid(unsafe_code)]

pub(crate) mod gather;
pub(crate) mod rows;
pub(crate) mod transposed;
pub(crate) mod vectors;

use alloc::vec::Vec;

use crate::isa::{F32s, WIDEST};
use crate::panel::{Below, Gathered, LINE, Lhs, take_indices};
use crate::tile::gemm::{FEW_ROWS, NV, for_height, tallest};
use crate::{Channels, Error};

/// Columns of a panel for a vector of `lanes`.
pub(crate) const fn panel_width(lanes: usize) -> usize {
    NV * lanes
}

/// Columns of a panel when there are `n` in all. Those that fit one vector lie without padding: a head of one column reads `k`
/// floats and not `k` vectors. Its loads reach into the rows that follow, [`slack`] elements beyond the last.
pub(crate) const fn panel_width_for(n: usize, lanes: usize) -> usize {
    match n {
        0 => lanes,
        _ if n <= lanes => n,
        _ => panel_width(lanes),
    }
}

/// Floats of weights that L3 does not hold.
pub(crate) const FROM_MEMORY: usize = 1 << 22;

/// Floats of weights that L2 does not hold.
pub(crate) const FROM_L3: usize = 1 << 18;

/// Panels that share rows, of weights from memory.
pub(crate) const TOGETHER: usize = 4;

/// Elements from one row of a column panel to the next, in `k` x `n` weights for so many rows of A with a mask of k.
///
/// What comes from memory should be read in long stretches, and a mask leaves rows: half of them, picked at random, take as long as all with 128
/// bytes a row, and half as long with 512 (Zen 5: 15 and 30 GB/s, all of them 30). The sums of a single row are few enough for whole rows of B; that
/// these do not begin on the same sets of the caches is for the sake of more rows.
pub(crate) fn panel_pitch(masked_rows: Option<usize>, (k, n): (usize, usize), nr: usize) -> usize {
    match masked_rows {
        _ if k.saturating_mul(n) < FROM_MEMORY || n < TOGETHER * nr => nr,
        Some(1) => n.next_multiple_of(nr) + LINE,
        Some(m) if m > FEW_ROWS => TOGETHER * nr,
        _ => nr,
    }
}

/// Elements behind a panel of width `nr` that a load of a whole vector may reach.
pub(crate) const fn slack(nr: usize, lanes: usize) -> usize {
    lanes.saturating_sub(nr)
}

/// The height that cuts `rows` into as few tiles as possible, all nearly alike.
pub(crate) fn even_height(rows: usize, tallest: usize) -> usize {
    rows.div_ceil(rows.div_ceil(tallest).max(1)).max(1)
}

/// Lays `k` x `n` elements out as column panels of width `nr`; `at(k, n)` gives an element. `out` must be zeros.
pub(crate) fn column_panels(
    out: &mut [f32],
    nr: usize,
    (k, n): (usize, usize),
    at: impl Fn(usize, usize) -> f32,
) {
    for first in (0..n).step_by(nr) {
        let panel = &mut out[first * k..][..k * nr];
        let width = nr.min(n - first);
        for (t, row) in panel.chunks_exact_mut(nr).enumerate() {
            for (j, x) in row[..width].iter_mut().enumerate() {
                *x = at(t, first + j);
            }
        }
    }
}

/// Lays `m` x `k` elements out as row panels of height `mr`; `at(m, k)` gives an element. `out` must be zeros.
pub(crate) fn row_panels(
    out: &mut [f32],
    mr: usize,
    (m, k): (usize, usize),
    at: impl Fn(usize, usize) -> f32,
) {
    column_panels(out, mr, (k, m), |t, i| at(i, t));
}

/// Copies the listed elements of `starts.len()` rows into one row panel of that height: `[list][rows]`. May write anything behind the panel,
/// if `out` goes on there.
#[inline(always)]
pub(crate) fn gather_rows<S: F32s>(
    s: S,
    out: &mut [f32],
    data: &[f32],
    starts: &[usize],
    list: Below<'_>,
) {
    for_height!(@ starts.len(), MR, {
        if const { MR <= tallest::<S>() || S::BROADCASTS } {
            let starts: [usize; MR] = core::array::from_fn(|i| starts[i]);
            let rows = Gathered::new(data, starts, 1, list);
            s.outline(#[inline(always)] || {
                let list = list.as_slice();
                let side_by_side = MR <= S::LANES && ascends_by_one(list);
                let whole = if side_by_side { list.len() / S::LANES * S::LANES } else { 0 };
                for t in (0..whole).step_by(S::LANES) {
                    let first = list[t] as usize;
                    transpose_rows::<S, MR>(s, &mut out[t * MR..], data, starts, first);
                }
                for (t, to) in (whole..list.len()).zip(out[whole * MR..].chunks_exact_mut(MR)) {
                    rows.each::<1>(t, 0, #[inline(always)] |i, _, x| to[i] = x);
                }
            });
        }
    }, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
}

#[inline(always)]
fn ascends_by_one(list: &[u32]) -> bool {
    let first = list.first().copied().unwrap_or(0);
    let off = |(i, &x): (usize, &u32)| x.wrapping_sub(first) ^ i as u32;
    list.iter().enumerate().map(off).fold(0, |a, b| a | b) == 0
}

/// A vector of each row becomes as many rows of a row panel.
#[inline(always)]
fn transpose_rows<S: F32s, const MR: usize>(
    s: S,
    out: &mut [f32],
    data: &[f32],
    starts: [usize; MR],
    first: usize,
) {
    let mut v = [s.splat(0.0); WIDEST];
    for i in 0..MR {
        v[i] = s.load(&data[starts[i] + first..]);
    }
    s.transpose(&mut v);
    for (t, &v) in v[..S::LANES].iter().enumerate() {
        // What a whole vector writes too much, the next one writes again.
        let to = &mut out[t * MR..];
        let len = if t + 1 < S::LANES {
            to.len().min(S::LANES)
        } else {
            MR
        };
        s.store_some(v, &mut to[..len]);
    }
}

/// The indices of `0..len` that a static mask keeps.
pub(crate) fn kept(
    mask: Option<Channels<'_>>,
    len: usize,
    what: &'static str,
) -> Result<Vec<u32>, Error> {
    check_mask(mask, len, what)?;
    let index = |i: usize| i as u32;
    Ok(match mask {
        Some(mask) => mask.live().map(index).collect(),
        None => (0..len).map(index).collect(),
    })
}

/// The live ones of `kept`, which a mask knows by numbers that are greater by `first`: their places in `kept`, and what it holds there.
pub(crate) fn live_of<'a>(
    kept: &'a [u32],
    in_order: &'a [u32],
    first: usize,
    live: Option<Channels<'_>>,
    rest: &mut &'a mut [f32],
) -> (&'a [u32], &'a [u32]) {
    let Some(live) = live else {
        return (&in_order[..kept.len()], kept);
    };
    let places = take_indices(rest, kept.len());
    let channels = take_indices(rest, kept.len());
    let mut n = 0;
    // Written whether live or not: random masks would be mispredicted.
    for (i, &c) in kept.iter().enumerate() {
        (places[n], channels[n]) = (i as u32, c);
        n += usize::from(live.contains(first + c as usize));
    }
    (&places[..n], &channels[..n])
}

/// Refuses a mask over another number of channels.
pub(crate) fn check_mask(
    mask: Option<Channels<'_>>,
    len: usize,
    what: &'static str,
) -> Result<(), Error> {
    match mask {
        Some(mask) if mask.len() != len => Err(Error::Mismatch {
            what,
            expected: len,
            found: mask.len(),
        }),
        _ => Ok(()),
    }
}

/// The product of extents, refused when it does not fit the 32-bit offsets of the kernels.
pub(crate) fn extent(of: &[usize], operand: &'static str) -> Result<usize, Error> {
    of.iter()
        .try_fold(1usize, |n, &x| n.checked_mul(x))
        .filter(|&n| n <= (u32::MAX / 2) as usize)
        .ok_or(Error::TooLarge { operand })
}

/// Refuses a slice shorter than its shape says.
pub(crate) fn check_len(slice: usize, needed: usize, operand: &'static str) -> Result<(), Error> {
    if slice < needed {
        return Err(Error::TooShort {
            operand,
            needed,
            given: slice,
        });
    }
    Ok(())
}

/// Clears a mask that excludes nothing.
pub(crate) fn partial(mask: Option<Channels<'_>>) -> Option<Channels<'_>> {
    mask.filter(|m| !m.is_full())
}
