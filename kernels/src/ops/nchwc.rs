//! Maps in blocks of channels (NCHWc): `[⌈c / L⌉, h, w, L]`, L being the lanes of a vector.
//!
//! A vector is a pixel of L channels, whatever the width of the map, so that depthwise convolutions of small maps and of strides need no
//! transposition, and neighbours are a vector apart, whatever the number of channels. What the last block holds behind the last channel is
//! unspecified and never read. Layers hand such maps on: [`NchwcConv`](super::conv::NchwcConv),
//! [`NchwcDepthwise`](super::depthwise::NchwcDepthwise). They take no masks: a dead channel is a lane among live ones here, where a plane
//! is a stretch that nobody touches.
#![forbid(unsafe_code)]

use super::{ConvSpec, check};
use crate::isa::{F32s, Task, WIDEST};
use crate::pool::{NOWHERE, Pool, Tile};
use crate::transpose::{to_pixels, to_rows};
use crate::{Error, Isa};

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

/// Blocks from planes: `y[c / L, p, c % L] = x[c, p]`
///
/// # Shapes    `x` `[channels, pixels]`; `y` [`elements`]
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
pub fn from_planes(
    isa: Isa,
    pool: &dyn Pool,
    x: &[f32],
    (channels, pixels): (usize, usize),
    y: &mut [f32],
) -> Result<(), Error> {
    check::covers("planes", &[channels, pixels], x.len())?;
    let len = check::covers("blocks", &[elements(isa, channels, pixels)?], y.len())?;
    let lanes = isa.lanes();
    let width = pixels * lanes;
    let tile = Tile::new(&mut y[..len], channels.div_ceil(lanes), width, width);
    tile.split(pool, (1, width), |block, _, mut tile| {
        let first = block * lanes;
        let planes = &x[first * pixels..channels.min(first + lanes) * pixels];
        isa.run(ToBlock(planes, pixels, tile.row(0)));
    });
    Ok(())
}

struct ToBlock<'a>(&'a [f32], usize, &'a mut [f32]);

impl Task for ToBlock<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let Self(planes, pixels, block) = self;
        // Lanes without a plane repeat the first.
        let mut rows = [&planes[..pixels]; WIDEST];
        for (row, plane) in rows.iter_mut().zip(planes.chunks_exact(pixels)) {
            *row = plane;
        }
        to_pixels(s, &rows, None, block);
    }
}

/// Planes from blocks: `y[c, p] = x[c / L, p, c % L]`
///
/// # Shapes    `x` [`elements`]; `y` `[channels, pixels]`
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
/// # Scratch   `pixels` elements a thread, contents ignored
pub fn to_planes(
    isa: Isa,
    pool: &dyn Pool,
    x: &[f32],
    (channels, pixels): (usize, usize),
    y: &mut [f32],
    scratch: &mut [f32],
) -> Result<(), Error> {
    check::covers("blocks", &[elements(isa, channels, pixels)?], x.len())?;
    let len = check::covers("planes", &[channels, pixels], y.len())?;
    check::covers("scratch of planes", &[pixels], scratch.len())?;
    let lanes = isa.lanes();
    let tile = Tile::new(&mut y[..len], channels, pixels, pixels);
    tile.split_with(
        pool,
        (lanes, pixels),
        scratch,
        pixels,
        |c, _, tile, spare| {
            let block = &x[c * pixels..][..lanes * pixels];
            isa.run(ToPlanes(block, tile, spare));
        },
    );
    Ok(())
}

struct ToPlanes<'a, 't>(&'a [f32], Tile<'t>, &'a mut [f32]);

impl Task for ToPlanes<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let Self(block, mut tile, spare) = self;
        let (rows, pixels) = (tile.rows(), tile.cols());
        let list = core::array::from_fn(|lane| if lane < rows { lane as u32 } else { NOWHERE });
        to_rows(
            s,
            block,
            S::LANES,
            pixels,
            tile.listed_or::<WIDEST>(&list, 0, spare),
        );
    }
}

/// `y[c] = Σ_p x[c / L, p, c % L] / pixels`
///
/// # Shapes    `x` [`elements`]; `y` `[channels]`
/// # Numerics  pixel `p` goes to sum `p % 4`; the sums are joined pairwise
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
pub fn mean(
    isa: Isa,
    x: &[f32],
    (channels, pixels): (usize, usize),
    y: &mut [f32],
) -> Result<(), Error> {
    let len = check::covers("blocks", &[elements(isa, channels, pixels)?], x.len())?;
    check::covers("means", &[channels], y.len())?;
    isa.run(Mean(&x[..len], pixels, &mut y[..channels]));
    Ok(())
}

struct Mean<'a>(&'a [f32], usize, &'a mut [f32]);

impl Task for Mean<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let Self(x, pixels, y) = self;
        let count = s.splat(pixels as f32);
        for (block, y) in y.chunks_mut(S::LANES).enumerate() {
            let block = &x[block * pixels * S::LANES..][..pixels * S::LANES];
            let mut sums = [s.splat(0.0); 4];
            let mut fours = block.chunks_exact(4 * S::LANES);
            for four in &mut fours {
                for i in 0..4 {
                    sums[i] = s.add(sums[i], s.load(&four[i * S::LANES..]));
                }
            }
            for (sum, pixel) in sums
                .iter_mut()
                .zip(fours.remainder().chunks_exact(S::LANES))
            {
                *sum = s.add(*sum, s.load(pixel));
            }
            let [a, b, c, d] = sums;
            let sum = s.add(s.add(a, b), s.add(c, d));
            s.store_some(s.div(sum, count), y);
        }
    }
}
