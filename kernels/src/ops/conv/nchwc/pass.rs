//! A depth block of some panels: the tiles of all pixels of a strip.
#![forbid(unsafe_code)]

use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::panel::{Below, Even, Foreseen, Gathered, Lhs, Runs, Spaced};
use crate::pool::{Rows, Tile};
use crate::tile::gemm::{
    NV, Place, Start, Target, each_row, for_height, tallest, tallest_gathered, tile,
};

/// Vectors of the widest panel.
pub(super) const WIDE: usize = 4;

/// Rows of the tallest tile of so many vectors: 6 x 4 need 10 loads for 24 FMAs, 7 x 3 need 10 for 21,
/// 12 x 2 need 14 (8 x 3 spill behind the last run of terms).
const fn tallest_of<S: F32s>(vectors: usize) -> usize {
    match vectors {
        WIDE => 6,
        3 => 7,
        _ => tallest::<S>(),
    }
}

/// The same where pixels may be anywhere: the address of each takes a general register.
const fn tallest_anywhere<S: F32s>(vectors: usize) -> usize {
    match vectors {
        WIDE => 6,
        3 => 5, // Six spill.
        _ => tallest_gathered::<S>(),
    }
}

/// What the pixels of a strip are read from.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) data: &'a [f32],
    pub(super) pixels: usize,
    /// Where each of them is, unless they are side by side.
    pub(super) places: &'a [u32],
}

/// Where the terms of a pixel are.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// Of pixels that are side by side.
    Runs(Runs<'a>),
    /// Of pixels anywhere.
    Any(Below<'a>),
}

/// Depth block of some panels.
pub(super) struct Pass<'a, const NP: usize> {
    pub(super) input: Input<'a>,
    pub(super) terms: Of<'a>,
    pub(super) panels: [&'a [f32]; NP],
    /// From one row of a panel to the next.
    pub(super) pitch: usize,
    /// Panels that are used next.
    pub(super) next: [&'a [f32]; NP],
    /// The first block.
    pub(super) block: usize,
    pub(super) start: Start<'a>,
    pub(super) activation: Activation,
}

impl<const NP: usize> Pass<'_, NP> {
    /// All pixels, in tiles of two heights that differ by one.
    #[inline(always)]
    pub(super) fn tiles<S: F32s, const EACH: usize, const N: usize>(
        &self,
        s: S,
        out: &mut Tile<'_>,
    ) {
        let Input {
            data,
            pixels,
            places,
        } = self.input;
        let most = match self.terms {
            Of::Runs(_) => tallest_of::<S>(N),
            Of::Any(_) => tallest_anywhere::<S>(N),
        };
        let tiles = pixels.div_ceil(most).max(1);
        let (low, higher) = (pixels / tiles, pixels % tiles);
        let cut = higher * (low + 1);
        for (height, range, nth) in [(low + 1, 0..cut, 0), (low, cut..pixels, higher)] {
            if range.is_empty() {
                continue;
            }
            // Of its own: behind a reference every store might change it.
            let mut out = out.sub(0..out.rows(), 0..out.cols());
            let tiles = Tiles {
                data,
                places: places.get(range.clone()).unwrap_or(&[]),
                first: range.start,
                panels: self.panels,
                pitch: self.pitch,
                next: self.next,
                nth: (nth, range.len() / height, tiles),
                block: self.block,
                start: self.start,
                activation: self.activation,
            };
            for_height!(height, MR => {
                if const { MR <= tallest_of::<S>(N) } {
                    match self.terms {
                        Of::Runs(terms) => s.outline(
                            #[inline(always)]
                            move || tiles.side_by_side::<S, MR, EACH, N>(s, terms, &mut out),
                        ),
                        Of::Any(terms) => if const { MR <= tallest_anywhere::<S>(N) } {
                            s.outline(
                                #[inline(always)]
                                move || tiles.anywhere::<S, MR, EACH, N>(s, terms, &mut out),
                            );
                        },
                    }
                }
            });
        }
    }
}

/// Tiles of one height.
struct Tiles<'a, const NP: usize> {
    data: &'a [f32],
    places: &'a [u32],
    /// The first pixel.
    first: usize,
    panels: [&'a [f32]; NP],
    pitch: usize,
    next: [&'a [f32]; NP],
    /// How many tiles that pass over the panels are before these, how many these are, and all.
    nth: (usize, usize, usize),
    /// The first block of the output.
    block: usize,
    start: Start<'a>,
    activation: Activation,
}

impl<const NP: usize> Tiles<'_, NP> {
    #[inline(always)]
    fn side_by_side<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        terms: Runs<'_>,
        out: &mut Tile<'_>,
    ) {
        for n in 0..self.nth.1 {
            let at = (self.first + n * MR) * S::LANES;
            let pixels = &self.data[at.min(self.data.len())..];
            let lhs = Spaced::<_, MR>::new(pixels, S::LANES, terms);
            self.one::<S, MR, EACH, N>(s, lhs, n, out);
        }
    }

    #[inline(always)]
    fn anywhere<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        terms: Below<'_>,
        out: &mut Tile<'_>,
    ) {
        let places = self.places.as_chunks::<MR>().0;
        for n in 0..self.nth.1 {
            let lhs = Gathered::new(self.data, places[n].map(|at| at as usize), 1, terms);
            self.one::<S, MR, EACH, N>(s, lhs, n, out);
        }
    }

    /// The `n`-th of them.
    #[inline(always)]
    fn one<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        &self,
        s: S,
        lhs: impl Lhs<MR>,
        n: usize,
        out: &mut Tile<'_>,
    ) {
        // Of whole panels as they are the compiler knows it.
        let pitch = if const { N > 1 } {
            const { NV * S::LANES }
        } else {
            self.pitch
        };
        let (depth, (before, _, tiles)) = (lhs.len(), self.nth);
        let of_b = Even::new(0, pitch, depth);
        let nth = (before + n, tiles);
        let rhs = Foreseen::<S, _, NP, EACH>::new(self.panels, of_b, self.next, nth);
        let to = Pixels {
            blocks: out.in_order::<N>(self.block),
            at: (self.first + n * MR) * S::LANES,
        };
        let place = Place {
            to,
            start: self.start,
            activation: self.activation,
        };
        tile::<S, MR, N, _>(s, depth, lhs, rhs, place);
    }
}

/// Pixels of neighbouring blocks, from the elements `at` on: vector `j` of row `i` of a tile is pixel `i` of block `j`.
struct Pixels<R> {
    blocks: R,
    at: usize,
}

impl<S: F32s, R: Rows<NV>, const MR: usize, const NV: usize> Target<S, MR, NV> for Pixels<R> {
    #[inline(always)]
    fn load(&mut self, s: S, i: usize) -> [S::V; NV] {
        let mut sums = [s.splat(0.0); NV];
        for j in 0..NV {
            let block = &self.blocks.row(j)[self.at..][..MR * S::LANES];
            sums[j] = s.load(&block[i * S::LANES..]);
        }
        sums
    }
    #[inline(always)]
    fn store(&mut self, s: S, sums: &[[S::V; NV]; MR]) {
        for j in 0..NV {
            let block = &mut self.blocks.row(j)[self.at..][..MR * S::LANES];
            each_row!(MR, i => s.store(sums[i][j], &mut block[i * S::LANES..]));
        }
    }
}
