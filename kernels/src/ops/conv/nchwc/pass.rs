//! A depth block of some panels: the tiles of all pixels of a strip.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::along::{Along, along};
use super::pixels::{Lanes, Pixels};
use super::source::Area;
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::panel::{
    Below, Beside, Even, Foreseen, GatheredRows, InFours, Lhs, Next, Runs, SpacedRows, Terms,
};
use crate::pool::Tile;
use crate::tile::gemm::{NV, Place, Start, for_height, tallest, tallest_gathered, tile};

/// Vectors of the widest panel.
pub(super) const WIDE: usize = 4;

/// Rows of the tallest tile of so many vectors: 6 x 4 need 10 loads for 24 FMAs, 7 x 3 need 10 for 21,
/// 12 x 2 need 14 (8 x 3 spill behind the last run of terms). Of one vector, sums of fewer than eight pixels wait for each other.
const fn tallest_of<S: F32s>(vectors: usize) -> usize {
    match vectors {
        WIDE => 6,
        3 => 7,
        1 if S::LANES > 4 => 12,
        _ => tallest::<S>(),
    }
}

/// The same where pixels may be anywhere: the address of each takes a general register.
pub(super) const fn tallest_anywhere<S: F32s>(vectors: usize) -> usize {
    match vectors {
        WIDE => 6,
        3 => 5,                                      // Six spill.
        1 if S::LANES > 4 && S::REGISTERS < 32 => 7, // Eight broadcasts at once spill.
        2 if S::LANES > 4 && S::REGISTERS < 32 => 6,
        _ => tallest_gathered::<S>(),
    }
}

/// Whether tiles of so many vectors along a row have loops for terms in runs.
pub(super) const fn in_runs<S: F32s>(vectors: usize) -> bool {
    S::REGISTERS >= 32 || S::LANES > 4 && vectors > 1
}

/// Where the terms of a pixel are, and, unless they are all, where the rows of each begin in a panel.
#[derive(Clone, Copy)]
pub(super) enum Walk<'a> {
    /// Of pixels that are side by side.
    Runs(Runs<'a>),
    Live(Below<'a>, Below<'a>),
    /// Of pixels anywhere.
    Places(Below<'a>),
    /// Of pixels along a row of a map in blocks, where tiles [have loops for it](in_runs).
    PlacesOfRuns(Runs<'a>),
    LivePlaces(Below<'a>, Below<'a>),
}

/// Depth block of some panels.
pub(super) struct Pass<'a, const NP: usize> {
    pub(super) area: Area<'a>,
    pub(super) walk: Walk<'a>,
    pub(super) panels: [&'a [f32]; NP],
    /// From one row of a panel to the next.
    pub(super) pitch: usize,
    /// What is used next.
    pub(super) next: Next<'a, NP>,
    /// Blocks of channels of the pixels of the next tile that are asked for.
    pub(super) fetch: usize,
    /// The first block.
    pub(super) block: usize,
    pub(super) lanes: Lanes,
    pub(super) start: Start<'a>,
    pub(super) activation: Activation,
}

impl<const NP: usize> Pass<'_, NP> {
    /// All pixels, row by row, in [tiles along them](Along).
    #[inline(always)]
    pub(super) fn rows<S: F32s, const EACH: usize, const N: usize>(
        &self,
        s: S,
        along: Along,
        out: &mut Tile<'_>,
    ) {
        let rows = self.area.pixels / self.area.width;
        let counts = [0, 1].map(|i| {
            let (height, columns) = &along[i];
            rows * columns.len().div_ceil(*height)
        });
        let mut before = 0;
        for ((height, columns), count) in along.into_iter().zip(counts) {
            if count == 0 {
                continue;
            }
            let tiles = Tiles {
                nth: (before, count, counts[0] + counts[1]),
                columns,
                ..self.of(self.area, 0)
            };
            before += count;
            self.along::<S, EACH, N>(s, height, tiles, out);
        }
    }

    #[inline(always)]
    fn along<S: F32s, const EACH: usize, const N: usize>(
        &self,
        s: S,
        height: usize,
        tiles: Tiles<'_, NP>,
        out: &mut Tile<'_>,
    ) {
        let (area, pitch) = (self.area, self.pitch);
        let mut out = out.sub(0..out.rows(), 0..out.cols());
        let (of_x, of_w) = match self.walk {
            Walk::Places(of_x) => (of_x, None),
            Walk::LivePlaces(of_x, of_w) => (of_x, Some(of_w)),
            Walk::PlacesOfRuns(of_x) => {
                for_height!(@ height, MR, if const { in_runs::<S>(N) && along::<S>(MR, N) } {
                    match area.stride {
                        1 => tiles.of_runs::<S, MR, EACH, N, 1>(s, of_x, pitch, &mut out),
                        _ => tiles.of_runs::<S, MR, EACH, N, 2>(s, of_x, pitch, &mut out),
                    }
                }, 4 5 6 8 12 14 16 20 24 26 28);
                return;
            }
            Walk::Runs(_) | Walk::Live(..) => unreachable!("pixels are listed"),
        };
        for_height!(@ height, MR, if const { along::<S>(MR, N) } {
            match (area.stride, area.of_blocks) {
                (1, true) => tiles.of_rows::<S, MR, EACH, N, 1, true>(s, of_x, (of_w, pitch), &mut out),
                (_, true) => tiles.of_rows::<S, MR, EACH, N, 2, true>(s, of_x, (of_w, pitch), &mut out),
                (1, false) => tiles.of_rows::<S, MR, EACH, N, 1, false>(s, of_x, (of_w, pitch), &mut out),
                (_, false) => tiles.of_rows::<S, MR, EACH, N, 2, false>(s, of_x, (of_w, pitch), &mut out),
            }
        }, 4 5 6 8 12 14 16 20 24 26 28);
    }

    /// Tiles of these pixels, the first of which has this number.
    #[inline(always)]
    fn of<'a>(&'a self, area: Area<'a>, first: usize) -> Tiles<'a, NP> {
        Tiles {
            area,
            first,
            panels: self.panels,
            next: self.next,
            fetch: self.fetch,
            nth: (0, 0, 0),
            columns: 0..area.width,
            block: self.block,
            lanes: self.lanes,
            start: self.start,
            activation: self.activation,
        }
    }

    /// All pixels, in tiles of two heights that differ by one.
    #[inline(always)]
    pub(super) fn tiles<S: F32s, const EACH: usize, const N: usize>(
        &self,
        s: S,
        out: &mut Tile<'_>,
    ) {
        let area = self.area;
        let pixels = area.pixels;
        let most = match self.walk {
            Walk::Runs(_) | Walk::Live(..) => tallest_of::<S>(N),
            _ => tallest_anywhere::<S>(N),
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
            let these = Area {
                from: area.from.get(range.clone()).unwrap_or(&[]),
                to: area.to.get(range.clone()).unwrap_or(&[]),
                ..area
            };
            let tiles = Tiles {
                nth: (nth, range.len() / height, tiles),
                ..self.of(these, range.start)
            };
            let pitch = self.pitch;
            for_height!(height, MR => {
                match self.walk {
                    Walk::Runs(of_x) => if const { MR <= tallest_of::<S>(N) } {
                        s.outline(
                            #[inline(always)]
                            move || {
                                let of_w = in_order::<S, N>(pitch, of_x.len());
                                tiles.side_by_side::<S, MR, EACH, N>(s, of_x, of_w, &mut out);
                            },
                        );
                    },
                    Walk::Live(of_x, of_w) => if const { MR <= tallest_of::<S>(N) } {
                        s.outline(
                            #[inline(always)]
                            move || tiles.side_by_side::<S, MR, EACH, N>(s, of_x, of_w, &mut out),
                        );
                    },
                    Walk::Places(of_x) => if const { MR <= tallest_anywhere::<S>(N) } {
                        s.outline(
                            #[inline(always)]
                            move || {
                                let of_w = in_order::<S, N>(pitch, of_x.len());
                                tiles.anywhere::<S, _, MR, EACH, N>(s, of_x, of_w, &mut out);
                            },
                        );
                    },
                    Walk::LivePlaces(of_x, of_w) => if const { MR <= tallest_anywhere::<S>(N) } {
                        s.outline(
                            #[inline(always)]
                            move || tiles.anywhere::<S, _, MR, EACH, N>(s, of_x, of_w, &mut out),
                        );
                    },
                    Walk::PlacesOfRuns(_) => unreachable!("pixels are along rows"),
                }
            });
        }
    }
}

/// So many rows of a panel, from the first on. To be called where they are used: the compiler knows how far apart those of whole panels are.
#[inline(always)]
fn in_order<S: F32s, const N: usize>(pitch: usize, depth: usize) -> Even {
    let pitch = if const { N > 1 } {
        const { NV * S::LANES }
    } else {
        pitch
    };
    Even::new(0, pitch, depth)
}

/// Tiles of one height.
struct Tiles<'a, const NP: usize> {
    /// The pixels that are theirs, if they are listed.
    area: Area<'a>,
    /// The first pixel of the area.
    first: usize,
    panels: [&'a [f32]; NP],
    next: Next<'a, NP>,
    fetch: usize,
    /// How many tiles that pass over the panels are before these, how many these are, and all.
    nth: (usize, usize, usize),
    /// Of tiles along rows: their columns.
    columns: Range<usize>,
    /// The first block of the output.
    block: usize,
    lanes: Lanes,
    start: Start<'a>,
    activation: Activation,
}

impl<const NP: usize> Tiles<'_, NP> {
    /// Pixels `T` pixels of a map in blocks apart.
    #[inline(always)]
    fn of_runs<S: F32s, const MR: usize, const EACH: usize, const N: usize, const T: usize>(
        self,
        s: S,
        of_x: Runs<'_>,
        pitch: usize,
        out: &mut Tile<'_>,
    ) {
        s.outline(
            #[inline(always)]
            move || {
                let of_w = in_order::<S, N>(pitch, of_x.len());
                let apart = const { T * S::LANES };
                if const { S::REGISTERS >= 32 } {
                    self.along::<S, MR, EACH, N>(s, apart, of_x, of_w, out);
                } else {
                    self.along::<S, MR, EACH, N>(s, apart, of_x.singly(), of_w, out);
                }
            },
        );
    }

    /// Pixels `T` pixels of a map in blocks (`B`) or of planes apart.
    #[inline(always)]
    fn of_rows<
        S: F32s,
        const MR: usize,
        const EACH: usize,
        const N: usize,
        const T: usize,
        const B: bool,
    >(
        self,
        s: S,
        of_x: Below<'_>,
        (of_w, pitch): (Option<Below<'_>>, usize),
        out: &mut Tile<'_>,
    ) {
        s.outline(
            #[inline(always)]
            move || {
                let apart = if B { T * S::LANES } else { T };
                match of_w {
                    None => {
                        let of_w = in_order::<S, N>(pitch, of_x.len());
                        self.along::<S, MR, EACH, N>(s, apart, of_x, of_w, out);
                    }
                    Some(of_w) => {
                        self.along::<S, MR, EACH, N>(s, apart, of_x, of_w, out);
                    }
                }
            },
        );
    }

    /// Pixels so many elements apart. To be called with a constant.
    #[inline(always)]
    fn along<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        apart: usize,
        of_x: impl Terms,
        of_w: impl Terms,
        out: &mut Tile<'_>,
    ) {
        let Area {
            data,
            from,
            first,
            to,
            width,
            ..
        } = self.area;
        let mut n = 0;
        for (from, to) in from.chunks_exact(width).zip(to.chunks_exact(width)) {
            let data = &data[(from[0] as usize).min(data.len())..];
            let rows = SpacedRows::new(data, apart, of_x, width);
            for pixel in self.columns.clone().step_by(MR) {
                let pixel = pixel.min(width - MR);
                let at = (first + to[0] as usize + pixel) * S::LANES;
                let lhs = Beside::from(rows.tile::<MR>(pixel));
                self.one::<S, MR, EACH, N>(s, lhs, of_w, n, (at, None), out);
                n += 1;
            }
        }
    }

    #[inline(always)]
    fn side_by_side<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        of_x: impl Terms,
        of_w: impl Terms,
        out: &mut Tile<'_>,
    ) {
        let Area {
            data, first, plane, ..
        } = self.area;
        let (begin, tiles) = (self.first, self.nth.1);
        let rows = SpacedRows::new(data, S::LANES, of_x, begin + tiles * MR);
        for n in 0..tiles {
            let pixel = begin + n * MR;
            for block in 0..self.fetch {
                for i in pixel + MR..pixel + 2 * MR {
                    s.prefetch_ahead(data, block * plane + i * S::LANES);
                }
            }
            let at = (first + pixel) * S::LANES;
            self.one::<S, MR, EACH, N>(s, rows.tile::<MR>(pixel), of_w, n, (at, None), out);
        }
    }

    #[inline(always)]
    fn anywhere<S: F32s, W: Terms, const MR: usize, const EACH: usize, const N: usize>(
        self,
        s: S,
        of_x: Below<'_>,
        of_w: W,
        out: &mut Tile<'_>,
    ) {
        let Area {
            data,
            from,
            first,
            to,
            ..
        } = self.area;
        let rows = GatheredRows::<MR>::new(data, from.as_chunks().0, of_x);
        let to = to.as_chunks::<MR>().0;
        for n in 0..self.nth.1 {
            let (at, apart) = match to.get(n) {
                None => (first + self.first + n * MR, None),
                Some(to) if (to[MR - 1] - to[0]) as usize == MR - 1 => {
                    (first + to[0] as usize, None)
                }
                Some(to) => (first, Some(to)),
            };
            let place = (at * S::LANES, apart);
            let lhs = rows.tile(n);
            if const { S::REGISTERS >= 32 && W::GROUP == Runs::LEN } {
                self.one::<S, MR, EACH, N>(s, InFours(lhs), of_w, n, place, out);
            } else {
                self.one::<S, MR, EACH, N>(s, lhs, of_w, n, place, out);
            }
        }
    }

    /// The `n`-th of them.
    #[inline(always)]
    fn one<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        &self,
        s: S,
        lhs: impl Lhs<MR>,
        of_w: impl Terms,
        n: usize,
        (at, apart): (usize, Option<&[u32; MR]>),
        out: &mut Tile<'_>,
    ) {
        let (depth, (before, _, tiles)) = (lhs.len(), self.nth);
        let nth = (before + n, tiles);
        let rhs = Foreseen::<S, _, NP, EACH, true>::new(self.panels, of_w, self.next, nth);
        let to = Pixels {
            blocks: out.in_order::<N>(self.block),
            at,
            apart,
            lanes: self.lanes,
        };
        let place = Place {
            to,
            start: self.start,
            activation: self.activation,
        };
        tile::<S, MR, N, _>(s, depth, lhs, rhs, place);
    }
}
