//! A depth block of some panels: the tiles of all pixels of a strip.
#![forbid(unsafe_code)]

use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::panel::{Below, Even, Foreseen, Runs, Spaced, Terms};
use crate::pool::{Rows, Tile};
use crate::tile::gemm::{NV, Place, Start, Target, each_row, for_height, tallest, tile};

/// Vectors of the widest panel.
pub(super) const WIDE: usize = 4;

/// Rows of the tallest tile of so many vectors: 6 x 4 need 10 loads for 24 FMAs, 8 x 3 need 11, 12 x 2 need 14.
const fn tallest_of<S: F32s>(vectors: usize) -> usize {
    match vectors {
        WIDE => 6,
        3 => 8,
        _ => tallest::<S>(),
    }
}

/// Where the pixels of a strip are in what is read: runs of them.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) data: &'a [f32],
    /// Pixels of all runs, and of each.
    pub(super) pixels: usize,
    pub(super) run: usize,
    /// From one run to the next, and from one pixel to the next.
    pub(super) pitch: usize,
    pub(super) step: usize,
}

/// Where the terms of a pixel are.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Runs(Runs<'a>),
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
            run,
            pitch,
            step,
        } = self.input;
        let tiles = run.div_ceil(const { tallest_of::<S>(N) }).max(1);
        let (low, higher) = (run / tiles, run % tiles);
        let cut = higher * (low + 1);
        let runs = pixels / run.max(1);
        for (height, range, nth) in [(low + 1, 0..cut, 0), (low, cut..run, runs * higher)] {
            if range.is_empty() {
                continue;
            }
            let count = range.len() / height;
            for i in 0..runs {
                // Of its own: behind a reference every store might change it.
                let mut out = out.sub(0..out.rows(), 0..out.cols());
                let at = (i * pitch + range.start * step).min(data.len());
                let tiles = Tiles {
                    a: &data[at..],
                    lda: step,
                    panels: self.panels,
                    pitch: self.pitch,
                    next: self.next,
                    nth: (nth + i * count, count, runs * tiles),
                    to: (self.block, (i * run + range.start) * S::LANES),
                    start: self.start,
                    activation: self.activation,
                };
                for_height!(height, MR => {
                    if const { MR <= tallest_of::<S>(N) } {
                        match self.terms {
                            Of::Runs(terms) => s.outline(
                                #[inline(always)]
                                move || tiles.run::<S, MR, EACH, N>(s, terms, &mut out),
                            ),
                            Of::Any(terms) => s.outline(
                                #[inline(always)]
                                move || tiles.run::<S, MR, EACH, N>(s, terms, &mut out),
                            ),
                        }
                    }
                });
            }
        }
    }
}

/// Tiles of one height, side by side.
struct Tiles<'a, const NP: usize> {
    /// From the terms of the first pixel on, and from one pixel to the next.
    a: &'a [f32],
    lda: usize,
    panels: [&'a [f32]; NP],
    pitch: usize,
    next: [&'a [f32]; NP],
    /// How many tiles that pass over the panels are before these, how many these are, and all.
    nth: (usize, usize, usize),
    /// The first block and element of the output.
    to: (usize, usize),
    start: Start<'a>,
    activation: Activation,
}

impl<const NP: usize> Tiles<'_, NP> {
    #[inline(always)]
    fn run<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        of_a: impl Terms,
        out: &mut Tile<'_>,
    ) {
        let Self {
            a,
            lda,
            panels,
            pitch,
            next,
            nth: (first, count, tiles),
            to: (block, at),
            start,
            activation,
        } = self;
        // Of whole panels as they are the compiler knows it.
        let pitch = if const { N > 1 } {
            const { NV * S::LANES }
        } else {
            pitch
        };
        for n in 0..count {
            let behind = &a[(n * MR * lda).min(a.len())..];
            let lhs = Spaced::<_, MR>::new(behind, lda, of_a);
            let of_b = Even::new(0, pitch, of_a.len());
            let rhs = Foreseen::<S, _, NP, EACH>::new(panels, of_b, next, (first + n, tiles));
            let to = Pixels {
                blocks: out.in_order::<N>(block),
                at: at + n * MR * S::LANES,
            };
            let place = Place {
                to,
                start,
                activation,
            };
            tile::<S, MR, N, _>(s, of_a.len(), lhs, rhs, place);
        }
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
