//! To the form of maps with a mask, and back.
#![forbid(unsafe_code)]

use super::{elements, held, is_compact};
use crate::isa::{F32s, Task, WIDEST};
use crate::ops::check;
use crate::pack::gather::{self, Panels};
use crate::panel::Even;
use crate::pool::{Pool, Tile};
use crate::{Channels, Error, Isa};

/// The live channels of a map, one behind the other: `y[i / L, p, i % L] = x[c / L, p, c % L]`, c being the `i`-th live channel; or where a mask
/// does not make maps compact, zeros in the place of the others.
///
/// # Shapes    `x` [`elements`] of `live.len()` channels of so many pixels; `y` those of [`held`] ones
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
pub fn compact(
    isa: Isa,
    pool: &dyn Pool,
    x: &[f32],
    pixels: usize,
    live: Channels<'_>,
    y: &mut [f32],
) -> Result<(), Error> {
    let (lanes, held) = (isa.lanes(), held(Some(live), live.len()));
    check::covers("blocks", &[elements(isa, live.len(), pixels)?], x.len())?;
    let len = check::covers("compact map", &[elements(isa, held, pixels)?], y.len())?;
    if !is_compact(live) {
        y[..len].copy_from_slice(&x[..len]);
        if let Some(live) = zeros(Some(live)) {
            isa.run(Clear {
                pixels,
                live,
                blocks: &mut y[..len],
            });
        }
        return Ok(());
    }
    let width = pixels * lanes;
    let tile = Tile::new(&mut y[..len], held.div_ceil(lanes), width, width);
    tile.split(pool, (1, width), |block, _, mut tile| {
        let mut from = [0; WIDEST];
        let count = lanes.min(held - block * lanes);
        gather::list(Some(live), block * lanes, &mut from[..count]);
        isa.run(Compact {
            x,
            pixels,
            from: &from[..count],
            to: tile.row(0),
        });
    });
    Ok(())
}

struct Compact<'a> {
    x: &'a [f32],
    pixels: usize,
    from: &'a [u32],
    to: &'a mut [f32],
}

impl Task for Compact<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let width = self.pixels * S::LANES;
        let blocks = Panels {
            of: |block| &self.x[block * width..][..width],
            width: S::LANES,
            terms: Even::new(0, S::LANES, self.pixels),
            len: width,
            columns: None,
        };
        blocks.gather(s, self.from, S::LANES, self.to);
    }
}

/// The channels that are zeros in a map with this mask: the dead ones, if it is not compact.
pub(in crate::ops) fn zeros(live: Option<Channels<'_>>) -> Option<Channels<'_>> {
    live.filter(|&live| !is_compact(live) && !live.is_full())
}

/// The lanes of a block that are dead channels.
#[inline(always)]
pub(in crate::ops) fn dead<S: F32s>(live: Channels<'_>, block: usize) -> u32 {
    let all = ((1u64 << S::LANES) - 1) as u32;
    !live.bits(block * S::LANES, S::LANES) & all
}

/// Zeros in the dead channels of some blocks, from one on.
#[inline(always)]
pub(in crate::ops) fn clear<S: F32s>(
    s: S,
    pixels: usize,
    live: Channels<'_>,
    first: usize,
    blocks: &mut [f32],
) {
    let width = pixels * S::LANES;
    if width == 0 {
        return;
    }
    for (i, block) in blocks.chunks_exact_mut(width).enumerate() {
        let dead = dead::<S>(live, first + i);
        if dead != 0 {
            for pixel in block.chunks_exact_mut(S::LANES) {
                s.store_where(s.splat(0.0), dead, pixel);
            }
        }
    }
}

struct Clear<'a> {
    pixels: usize,
    live: Channels<'a>,
    blocks: &'a mut [f32],
}

impl Task for Clear<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        clear(s, self.pixels, self.live, 0, self.blocks);
    }
}

/// All channels of a map with a mask, each in its own place, the dead ones zero. In place.
///
/// # Shapes    `map` [`elements`] of `live.len()` channels of so many pixels, before and after
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
pub fn expand(isa: Isa, pixels: usize, live: Channels<'_>, map: &mut [f32]) -> Result<(), Error> {
    let len = check::covers("blocks", &[elements(isa, live.len(), pixels)?], map.len())?;
    if is_compact(live) {
        isa.run(Expand {
            pixels,
            live,
            map: &mut map[..len],
        });
    }
    Ok(())
}

struct Expand<'a> {
    pixels: usize,
    live: Channels<'a>,
    map: &'a mut [f32],
}

impl Task for Expand<'_> {
    type Output = ();
    /// The last block first: none is made of a later one.
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let width = self.pixels * S::LANES;
        let zero = s.splat(0.0);
        for block in (0..self.live.len().div_ceil(S::LANES)).rev() {
            let (first, to) = (block * S::LANES, block * width);
            let bits = self.live.bits(first, S::LANES);
            if bits == 0 {
                self.map[to..][..width].fill(0.0);
                continue;
            }
            let before = self.live.count_before(first);
            let lane = before % S::LANES;
            let from = before / S::LANES * width;
            let over = lane + bits.count_ones() as usize > S::LANES;
            let next = if over { from + width } else { from };
            let rank = |i: usize| lane + (bits & ((1 << i) - 1)).count_ones() as usize;
            let places = s.indices(rank);
            let alive = s.indices(|i| i + if bits >> i & 1 == 1 { S::LANES } else { 0 });
            for p in (0..width).step_by(S::LANES) {
                let (a, b) = (s.load(&self.map[from + p..]), s.load(&self.map[next + p..]));
                let v = s.pick(zero, s.pick(a, b, places), alive);
                s.store(v, &mut self.map[to + p..]);
            }
        }
    }
}

/// `y[c / L, p, c % L] = x[c / L, p, c % L] · by[c]`
///
/// # Shapes    `x` and `y` [`elements`] of so many channels and pixels; `by` `[channels]`
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
pub fn scale(
    isa: Isa,
    x: &[f32],
    (channels, pixels): (usize, usize),
    by: &[f32],
    y: &mut [f32],
) -> Result<(), Error> {
    let len = elements(isa, channels, pixels)?;
    check::covers("blocks", &[len], x.len())?;
    check::covers("factors", &[channels], by.len())?;
    check::covers("scaled map", &[len], y.len())?;
    isa.run(Scale {
        x: &x[..len],
        width: pixels * isa.lanes(),
        by: &by[..channels],
        y: &mut y[..len],
    });
    Ok(())
}

struct Scale<'a> {
    x: &'a [f32],
    width: usize,
    by: &'a [f32],
    y: &'a mut [f32],
}

impl Task for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        if self.width == 0 {
            return;
        }
        let blocks = self.x.chunks_exact(self.width);
        let factors = self.by.chunks(S::LANES);
        for ((x, by), y) in blocks.zip(factors).zip(self.y.chunks_exact_mut(self.width)) {
            let by = s.load_some(by);
            let pixels = x.chunks_exact(S::LANES);
            for (x, y) in pixels.zip(y.chunks_exact_mut(S::LANES)) {
                s.store(s.mul(s.load(x), by), y);
            }
        }
    }
}
