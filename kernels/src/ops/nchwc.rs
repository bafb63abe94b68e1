//! Maps in blocks of channels (NCHWc): `[⌈c / L⌉, h, w, L]`, L being the lanes of a vector.
//!
//! A vector is a pixel of L channels, whatever the width of the map, so that depthwise convolutions of small maps and of strides need no
//! transposition, and neighbours are a vector apart, whatever the number of channels. What the last block holds behind the last channel is
//! unspecified and never read. Layers hand such maps on: [`NchwcConv`](super::conv::NchwcConv),
//! [`NchwcDepthwise`](super::depthwise::NchwcDepthwise).
//!
//! A dead channel is a lane among live ones here, where a plane is a stretch that nobody touches. So maps with a mask are [`compact`]: they
//! hold their live channels alone, one behind the other, in as many blocks as those fill. Layers skip no lane then: they compute what a net of so
//! many channels would, after the weights of the live ones are put together. Where so few are dead that this would take longer than it saves
//! ([`is_compact`]), all channels are in their places, the dead ones zero, and layers compute them all.
#![forbid(unsafe_code)]

mod compact;
mod mean;
mod pool;

pub(super) use compact::{clear, dead, zeros};
pub use compact::{compact, expand, scale};
pub use mean::{mean, mean_max};
pub use pool::pool2d;

use super::{ConvSpec, check};
use crate::isa::{F32s, Task, WIDEST};
use crate::pack::gather;
use crate::pool::{NOWHERE, Pool, Tile};
use crate::transpose::{to_pixels, to_rows};
use crate::{Channels, Error, Isa};

/// The live channels of a map that is read, and where they lie.
#[derive(Debug, Clone, Copy)]
pub enum Live<'a> {
    /// Each in its own place. What the others hold is no part of anything.
    InPlace(Channels<'a>),
    /// As [the module](self) says: one behind the other, or all in their places, the dead ones zero.
    Compact(Channels<'a>),
}

impl<'a> Live<'a> {
    /// The mask.
    pub fn channels(self) -> Channels<'a> {
        match self {
            Self::InPlace(live) | Self::Compact(live) => live,
        }
    }
}

/// Elements of such a map.
///
/// # Errors
/// [`Error::TooLarge`] on overflow.
pub fn elements(isa: Isa, channels: usize, pixels: usize) -> Result<usize, Error> {
    channels
        .checked_next_multiple_of(isa.lanes())
        .and_then(|all| all.checked_mul(pixels))
        .filter(|&n| n <= isize::MAX as usize / 4)
        .ok_or(Error::TooLarge { operand: "map" })
}

/// No masks.
pub(super) fn refuse_masks(spec: &ConvSpec<'_>) -> Result<(), Error> {
    match spec.live_in.or(spec.live_out) {
        None => Ok(()),
        Some(_) => Err(Error::Invalid {
            what: "convolutions of maps in blocks take no masks",
        }),
    }
}

/// Whether a map with this mask holds live channels alone: when an eighth of them is dead, or more. To put weights together takes up to a
/// fifth of what a layer of 128 pixels does.
pub fn is_compact(live: Channels<'_>) -> bool {
    live.count() * 8 <= live.len() * 7
}

/// Channels that a map with this mask holds, of so many.
pub fn held(live: Option<Channels<'_>>, channels: usize) -> usize {
    compacted(live).map_or(channels, |live| live.count())
}

/// The mask, if maps with it are compact.
pub(super) fn compacted(live: Option<Channels<'_>>) -> Option<Channels<'_>> {
    live.filter(|&live| is_compact(live))
}

/// Blocks from planes: `y[c / L, p, c % L] = x[c, p]`
///
/// # Shapes    `x` `[channels, pixels]`; `y` [`elements`]
/// # Masks     with `live`, y is what [the module](self) says; where it is compact, dead planes are not read
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`]
/// # Panics    never
pub fn from_planes(
    isa: Isa,
    pool: &dyn Pool,
    x: &[f32],
    (channels, pixels): (usize, usize),
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    check::covers("planes", &[channels, pixels], x.len())?;
    check::mask("length of the mask of planes", live, channels)?;
    let (zeros, live) = (zeros(live), compacted(live));
    let held = held(live, channels);
    let len = check::covers("blocks", &[elements(isa, held, pixels)?], y.len())?;
    let lanes = isa.lanes();
    let width = pixels * lanes;
    let tile = Tile::new(&mut y[..len], held.div_ceil(lanes), width, width);
    tile.split(pool, (1, width), |block, _, mut tile| {
        let first = block * lanes;
        let mut from = [0; WIDEST];
        let count = WIDEST.min(held - first);
        gather::list(live, first, &mut from[..count]);
        // Lanes without a plane repeat the first.
        let nearest = from[0];
        from[count..].fill(nearest);
        let rows = from.map(|c| &x[c as usize * pixels..][..pixels]);
        isa.run(ToBlock {
            rows,
            zeros,
            number: block,
            block: tile.row(0),
        });
    });
    Ok(())
}

struct ToBlock<'a> {
    rows: [&'a [f32]; WIDEST],
    zeros: Option<Channels<'a>>,
    number: usize,
    block: &'a mut [f32],
}

impl Task for ToBlock<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        to_pixels::<S, 1>(s, &self.rows, self.block);
        if let Some(live) = self.zeros {
            clear(s, self.rows[0].len(), live, self.number, self.block);
        }
    }
}

/// Planes from blocks: `y[c, p] = x[c / L, p, c % L]`
///
/// # Shapes    `x` [`elements`]; `y` `[channels, pixels]`
/// # Masks     with `live`, x is what [the module](self) says; where it is compact, planes of dead channels are not written
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`]
/// # Panics    never
/// # Scratch   `pixels` elements a thread, contents ignored
pub fn to_planes(
    isa: Isa,
    pool: &dyn Pool,
    x: &[f32],
    (channels, pixels): (usize, usize),
    live: Option<Channels<'_>>,
    y: &mut [f32],
    scratch: &mut [f32],
) -> Result<(), Error> {
    check::mask("length of the mask of blocks", live, channels)?;
    let live = compacted(live);
    check::covers(
        "blocks",
        &[elements(isa, held(live, channels), pixels)?],
        x.len(),
    )?;
    let len = check::covers("planes", &[channels, pixels], y.len())?;
    check::covers("scratch of planes", &[pixels], scratch.len())?;
    let lanes = isa.lanes();
    let tile = Tile::new(&mut y[..len], channels, pixels, pixels);
    tile.split_with(
        pool,
        (lanes, pixels),
        scratch,
        pixels,
        |c, _, mut tile, spare| {
            let rows = tile.rows();
            let mut lists = [[NOWHERE; WIDEST]; 2];
            let first = match live {
                Some(live) => {
                    let first = live.count_before(c);
                    let here = live.live_from(c).take_while(|&at| at < c + rows);
                    for (i, at) in here.enumerate() {
                        let lane = first % lanes + i;
                        lists[lane / lanes][lane % lanes] = (at - c) as u32;
                    }
                    first
                }
                None => {
                    for (row, lane) in lists[0][..rows].iter_mut().enumerate() {
                        *lane = row as u32;
                    }
                    c
                }
            };
            for (i, rows) in lists.into_iter().enumerate() {
                if rows.iter().any(|&row| row != NOWHERE) {
                    let block = &x[(first / lanes + i) * lanes * pixels..][..lanes * pixels];
                    isa.run(ToPlanes {
                        block,
                        rows,
                        tile: &mut tile,
                        spare,
                    });
                }
            }
        },
    );
    Ok(())
}

/// A block to the rows of its lanes.
struct ToPlanes<'a, 't> {
    block: &'a [f32],
    rows: [u32; WIDEST],
    tile: &'a mut Tile<'t>,
    spare: &'a mut [f32],
}

impl Task for ToPlanes<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let pixels = self.tile.cols();
        to_rows::<S, 1>(
            s,
            self.block,
            pixels,
            self.tile.listed_or::<WIDEST>(&self.rows, 0, self.spare),
        );
    }
}
