//! Tiles of pixels along the rows of an area.
#![forbid(unsafe_code)]

use core::ops::{Range, RangeInclusive};

use super::pass::tallest_anywhere;
use super::source::Area;
use crate::isa::F32s;

/// Pixels of the longest tile along a row: with one vector of channels it leaves four registers of 32.
const LONGEST: usize = 28;
/// Of the shortest with 32 registers.
const ALONG: usize = 12;
/// Pixels of a row of a tile that has two: the sums of few pixels wait for each other, and what a tile begins and ends with is shared as well.
pub(super) const OF_A_PAIR: RangeInclusive<usize> = 6..=14;
/// Pixels of a tile of one vector.
const HEIGHTS: [usize; 8] = [8, 12, 14, 16, 20, 24, 26, LONGEST];

/// Whether so many pixels along a row, by so many vectors, are a tile of their own: they need one address, so there are registers for more than of pixels
/// anywhere, and an FMA broadcasts what only it reads. With 32 registers only for one vector: 12 x 2 took 1.0 to 1.04 of 8 x 2 anywhere.
pub(super) const fn along<S: F32s>(pixels: usize, vectors: usize) -> bool {
    match (S::REGISTERS >= 32, vectors) {
        (true, 1) => pixels >= ALONG && pixels <= LONGEST,
        (false, 1) => pixels == 8 || pixels == 12,
        (false, 2) => pixels >= 4 && pixels <= 6,
        _ => false,
    }
}

/// The height of such a tile that costs a row of `width` pixels least, if one is that short, and what it costs.
fn best_height<S: F32s>(width: usize, vectors: usize) -> Option<(usize, usize)> {
    let mut best = None;
    for height in HEIGHTS {
        let cost = cost(width, height, vectors);
        let is_better = best.is_none_or(|(_, least)| cost < least);
        if along::<S>(height, vectors) && height <= width && is_better {
            best = Some((height, cost));
        }
    }
    best
}

/// Pixels of a row of tiles of one vector with 32 registers, along a row of `width` pixels or along two, and how many rows: what costs least.
pub(super) fn best_of_two(width: usize) -> Option<(usize, usize)> {
    let single = HEIGHTS.into_iter().filter(|&height| height >= ALONG);
    let single = single.map(|height| (2 * cost(width, height, 1), 1, height));
    // What is stored row by row takes longer: 12 of 34 pixels took 1.07 of the time of one row's.
    let pair = OF_A_PAIR.map(|height| match (cost(width, height, 2), height == width) {
        (cost, true) => (cost, 2, height),
        (cost, false) => (cost + cost / 10, 2, height),
    });
    let fits = |&(_, _, height): &(usize, usize, usize)| height <= width;
    let best = single.chain(pair).filter(fits).min();
    best.map(|(_, rows, height)| (height, rows))
}

/// What tiles of a height cost a row of `width` pixels: steps of FMAs and what else a step takes.
fn cost(width: usize, height: usize, vectors: usize) -> usize {
    width.div_ceil(height) * (height * vectors + 2)
}

/// Pixels of such tiles, and the columns of an area that have them.
pub(super) type Along = [(usize, Range<usize>); 2];

/// Such tiles, where they are worth it for the rows of an area: of two heights that differ by one, or of one, the last of a row beginning where it ends with it, so
/// some pixels are computed twice, from the first term on, if they may be.
pub(super) fn tiles_along<S: F32s>(
    area: &Area<'_>,
    vectors: usize,
    may_be_twice: bool,
) -> Option<Along> {
    let width = area.width;
    // Pixels that are not listed have no rows.
    if area.stride > 2 || width == 0 {
        return None;
    }
    if const { along::<S>(5, 2) } && vectors == 2 {
        let tiles = width.div_ceil(6);
        let (low, higher) = (width / tiles, width % tiles);
        let cut = higher * (low + 1);
        let tiles = [(low + 1, 0..cut), (low, cut..width)];
        let are_there = |(height, columns): &(usize, Range<usize>)| {
            columns.is_empty() || along::<S>(*height, vectors)
        };
        return tiles.iter().all(are_there).then_some(tiles);
    }
    let (height, cost) = best_height::<S>(width, vectors)?;
    let others = tallest_anywhere::<S>(vectors);
    let pays = cost * others <= width * (others * vectors + 4);
    let are_there = may_be_twice || width.is_multiple_of(height);
    (pays && are_there).then_some([(height, 0..width), (height, width..width)])
}
