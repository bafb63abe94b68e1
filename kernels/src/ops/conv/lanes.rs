//! The product with output channels as lanes: weights are the vectors, pixels are broadcast.
//!
//! ```text
//! for each strip of y (channels x pixels)               a job
//!     for each panel of NR channels                     of live ones only, put together, where that pays
//!         for each depth block of KC live taps          KC x NR weights, from L2; those of the next panel are prefetched
//!             for each tile of MR pixels                the micro-kernel, into [pixels][NR]
//!         transpose into y
//! ```
//! Pixels as lanes need no transposition, but waste what a row of the map, or the whole map, leaves of its last vector: 49 pixels fill
//! 4 vectors of 16 to 77 %. Where the depth is large the transposition costs less. The chain of an output is the same, so are its bits.
#![forbid(unsafe_code)]

use core::ops::Range;

use crate::epilogue::Activation;
use crate::isa::{F32s, Task, WIDEST, cache};
use crate::ops::conv::block::{Job, panels_of};
use crate::ops::conv::planes::Geometry;
use crate::pack::even_height;
use crate::pack::gather::{self, saved};
use crate::panel::{Below, Even, Foreseen, LINE, Lhs, Listed, Next, Packed, Terms, lines, take};
use crate::pool::{NOWHERE, Tile};
use crate::tile::gemm::{NV, Place, Start, Whole, for_height, tallest, tile};
use crate::transpose::to_rows;

/// Depth of a block, as that of products. Blocks whose weights L1 holds are no faster, on a Xeon neither.
const KC: usize = 1024;

/// Vectors of the widest panel.
const WIDE: usize = 4;

/// Cycles that transposing an output takes.
const TRANSPOSED: f64 = 0.25;

/// Time of pixels as lanes with weights that are packed for channels as lanes, and must be put together anew: 5 x 5 on 48 channels of 28 x 28, 43 of them
/// wanted.
const TURNED: f64 = 1.2;

/// Pixels of a strip at most.
const PIXELS: usize = 1024;

/// Time of an output of `depth` terms with pixels as lanes and with channels as lanes, of which `kept` are packed; in FMAs of a lane.
pub(super) fn costs(geometry: &Geometry, depth: usize, kept: usize) -> (f64, f64) {
    let (depth, lanes) = (depth as f64, geometry.lanes);
    let pixels = geometry.strip().min(geometry.pixels());
    let columns = geometry.columns(pixels).next_multiple_of(lanes);
    // What a tile reads of the planes is the same for one vector of channels and for two, and is what takes time.
    let channels = kept.next_multiple_of(lanes).max(NV * lanes);
    let transposed = TRANSPOSED * (2 * lanes) as f64;
    (
        depth * columns as f64 / pixels as f64,
        depth * channels as f64 / kept.max(1) as f64 + transposed,
    )
}

/// Whether channels are to be the lanes of a group of `depth` terms of which `kept` outputs are packed.
pub(super) fn serves(geometry: &Geometry, depth: usize, kept: usize) -> bool {
    let (pixels, channels) = costs(geometry, depth, kept);
    geometry.strip() <= PIXELS && channels < pixels
}

/// Whether channels stay the lanes of a group that is packed so, with so many live terms and wanted outputs.
pub(super) fn stay(geometry: &Geometry, depth: usize, wanted: usize) -> bool {
    let (pixels, channels) = costs(geometry, depth, wanted);
    channels < TURNED * pixels
}

/// Pixels of the tallest tile of so many vectors of channels: 6 x 4 and 8 x 3 need 10 and 11 loads for 24 FMAs, 12 x 2 needs 14.
const fn tallest_of<S: F32s>(vectors: usize) -> usize {
    match vectors {
        WIDE => 6,
        3 => 8,
        _ => tallest::<S>(),
    }
}

/// Channels of a panel when `kept` are packed: as wide as registers allow, unless narrower panels leave less for a last one.
pub(super) fn panel_width(kept: usize, lanes: usize, registers: usize) -> usize {
    if registers < 32 {
        return NV * lanes;
    }
    let vectors = kept.div_ceil(lanes);
    // Instructions for twelve FMAs, of tiles of so many vectors; and a vector of padding is worth one.
    let cost = |&width: &usize| {
        let of = |v: usize| [0, 25, 19, 18, 17][v] * v;
        vectors / width * of(width) + of(vectors % width) + vectors.next_multiple_of(width)
            - vectors
    };
    (NV..=WIDE).min_by_key(cost).unwrap_or(NV) * lanes
}

/// Elements that a job needs beside the planes, with panels of so many channels.
pub(super) fn room(geometry: &Geometry, (channels, depth): (usize, usize), panel: usize) -> usize {
    let pixels = geometry.strip().min(geometry.pixels());
    let packed = if geometry.in_place {
        packed_len(pixels, channels).min(most_packed())
    } else {
        0
    };
    let gathered = lines(gathered_len(depth, panel)) + lines(panel);
    lines(pixels * panel) + lines(pixels) + lines(packed) + gathered
}

/// Elements of a gathered panel, with room for what the last vector writes too much.
fn gathered_len(depth: usize, panel: usize) -> usize {
    depth.min(KC) * panel + LINE
}

/// Panels from which on pixels of planes that lie in place are packed for their tiles: a tile reads 24 bytes of a line of each plane, and panels that
/// pass by in between take the lines out of L1.
const PACK_PANELS: usize = 4;

/// Elements of packed pixels, with room for what the last vector writes too much.
fn packed_len(pixels: usize, depth: usize) -> usize {
    pixels.saturating_mul(depth).saturating_add(WIDEST)
}

/// More than half of L2 is not packed.
fn most_packed() -> usize {
    cache::l2() / (2 * size_of::<f32>())
}

/// A job whose lanes are channels.
pub(super) struct Lanes<'a, 't>(pub(super) Job<'a, 't>);

/// A panel and a depth block.
struct Pass<'a> {
    data: &'a [f32],
    /// Where the terms are in `data` and in `panel`.
    offsets: Below<'a>,
    starts: &'a [u32],
    /// The packed term that all of them follow, one after the other, if they do.
    in_order: Option<usize>,
    panel: &'a [f32],
    /// Elements from one row of it to the next.
    pitch: usize,
    /// Packed pixels in tiles of a height; the first term of the block, and terms of all.
    packed: Option<(&'a [f32], usize, usize, usize)>,
    start: Start<'a>,
    activation: Activation,
    /// The panel after it.
    next: &'a [f32],
}

impl Task for Lanes<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let mut job = self.0;
        let strip = job.strip;
        let (geometry, terms, wanted) = (strip.geometry, strip.terms, strip.wanted);
        let (first, hi) = job.wanted();
        if first == hi {
            return;
        }
        let mut lo = first;
        let pixels = job.out.cols();
        let nr = strip.height;
        let mut rest = core::mem::take(&mut job.room);
        let product = take(&mut rest, pixels * nr);
        let spare = take(&mut rest, pixels);
        let depth = terms.offsets.len();
        let live = &wanted.from[first..hi];
        // Panels are several vectors wide, and those of live channels as narrow as they can be.
        let vectors = live.chunk_by(|a, b| *a as usize / nr == *b as usize / nr);
        let vectors = vectors
            .map(|live| wanted_vectors::<S>(live, nr).len())
            .sum();
        let gathers = saved(pixels, (live.len(), vectors), S::LANES, strip.panels.len()) > 0;
        let panels = if gathers {
            live.len().div_ceil(nr)
        } else {
            panels_of(live, nr)
        };
        let gathered = take(&mut rest, if gathers { gathered_len(depth, nr) } else { 0 });
        let gathered_bias = take(&mut rest, if gathers { nr } else { 0 });
        let packs = geometry.in_place
            && nr > const { NV * S::LANES }
            && panels >= PACK_PANELS
            && packed_len(pixels, depth) <= most_packed();
        let packed = if packs { packed_len(pixels, depth) } else { 0 };
        let packed = take(&mut rest, packed);
        let data = geometry.data(s, strip.x, job.pixel, terms.channels, rest);
        let data = &data[if geometry.in_place { job.pixel } else { 0 }..];
        let height = even_height(pixels, tallest_of::<S>(nr / S::LANES));
        let packed = (!packed.is_empty()).then(|| {
            pack(s, data, terms.offsets, (pixels, height), packed);
            (&*packed, height)
        });
        let panel_len = strip.packed_depth * nr;
        let kc = depth.div_ceil(depth.div_ceil(KC).max(1)).max(1);
        while lo < hi {
            let at = wanted.from[lo] as usize / nr;
            let end = match gathers {
                true => hi.min(lo + nr),
                false => {
                    lo + wanted.from[lo..hi].partition_point(|&c| (c as usize) < (at + 1) * nr)
                }
            };
            let from = &wanted.from[lo..end];
            let vectors = match gathers {
                true => 0..from.len().div_ceil(S::LANES),
                false => wanted_vectors::<S>(from, nr),
            };
            let skip = vectors.start * S::LANES;
            // Rows of what is put together lie side by side, or they would be on few sets of L1.
            let pitch = if gathers {
                vectors.len() * S::LANES
            } else {
                nr
            };
            let bias = match strip.bias {
                Some(bias) if gathers => {
                    gather::pick(bias, from.iter().map(|&c| c as usize), gathered_bias);
                    Some(&*gathered_bias)
                }
                bias => bias.map(|bias| &bias[at * nr + skip..]),
            };
            let panel = &strip.panels[at * panel_len..][..panel_len];
            let next = wanted.from.get(end).filter(|_| end < hi && !gathers);
            let next = next.map(|&c| &strip.panels[c as usize / nr * panel_len..]);
            for t in (0..depth.max(1)).step_by(kc) {
                let now = t..depth.min(t + kc);
                let starts = &terms.starts[now.clone()];
                if gathers {
                    let packed = gather::Panels {
                        of: |x| &strip.panels[x * panel_len..],
                        width: nr,
                        terms: Below::all(starts),
                        len: strip.panels.len(),
                        columns: None,
                    };
                    packed.gather(s, from, pitch, gathered);
                }
                let (panel, in_order) = match gathers {
                    true => (&*gathered, Some(0)),
                    false => (panel, (depth == strip.packed_depth).then_some(t)),
                };
                let pass = Pass {
                    data,
                    offsets: Below::all(&terms.offsets[now]),
                    starts,
                    in_order,
                    panel: panel.get(skip..).unwrap_or(&[]),
                    pitch,
                    packed: packed.map(|(all, height)| (all, height, t, depth)),
                    start: match bias {
                        _ if t > 0 => Start::Partial,
                        Some(bias) => Start::Cols(bias),
                        None => Start::Zero,
                    },
                    activation: if t + kc >= depth {
                        strip.activation
                    } else {
                        Activation::None
                    },
                    next: next.unwrap_or(panel),
                };
                let mut tile = Tile::new(product, pixels, nr, nr);
                match vectors.len() {
                    1 => pass.tiles::<S, 1>(s, geometry, &mut tile),
                    2 => pass.tiles::<S, 2>(s, geometry, &mut tile),
                    3 if S::REGISTERS >= 32 => pass.tiles::<S, 3>(s, geometry, &mut tile),
                    4 if S::REGISTERS >= 32 => pass.tiles::<S, 4>(s, geometry, &mut tile),
                    _ => unreachable!("a panel of more vectors"),
                }
            }
            let mut targets = [NOWHERE; WIDE * WIDEST];
            for (i, (&from, &to)) in from.iter().zip(&wanted.to[lo..end]).enumerate() {
                targets[if gathers {
                    i
                } else {
                    from as usize % nr - skip
                }] = to;
            }
            transpose(
                s,
                (product, nr),
                &targets[..nr - skip],
                job.row,
                &mut job.out,
                spare,
            );
            lo = end;
        }
        job.activate(s, (first, hi));
    }
}

/// Vectors of a panel of `nr` channels, from the first to the last in which one of `live` is, of which there is one.
#[inline(always)]
fn wanted_vectors<S: F32s>(live: &[u32], nr: usize) -> Range<usize> {
    let vector = |c: u32| c as usize % nr / S::LANES;
    vector(live[0])..vector(live[live.len() - 1]) + 1
}

impl Pass<'_> {
    /// Adds the block to all pixels of the strip, `N` vectors of channels.
    #[inline(always)]
    fn tiles<S: F32s, const N: usize>(&self, s: S, geometry: &Geometry, product: &mut Tile<'_>) {
        let pixels = product.rows();
        // Pixels side by side: all of them, or those of a row of the map.
        let run = if geometry.is_flat() {
            pixels
        } else {
            geometry.output.1
        };
        let height = match self.packed {
            Some((_, height, ..)) if N > NV => height,
            _ => even_height(run, tallest_of::<S>(N)),
        };
        let mut nth = 0;
        for first in (0..pixels).step_by(run) {
            // Without terms there are no planes.
            let from = first / geometry.output.1 * geometry.pitch;
            let mut at = 0;
            while at < run {
                let mr = height.min(run - at);
                let end = run - (run - at) % mr;
                let range = at..end;
                for_height!(mr, MR => {
                    if const { MR <= tallest_of::<S>(N) } {
                        let where_to = (first, range, nth);
                        // A call for all tiles of a height: what they share is loaded once.
                        if self.in_order.is_some() {
                            s.outline(#[inline(always)] || {
                                let begin = self.in_order.unwrap_or(0) * self.pitch;
                                let starts = Even::new(begin, self.pitch, self.offsets.len());
                                self.run::<S, MR, N>(s, starts, from, where_to, product);
                            });
                        } else {
                            s.outline(#[inline(always)] || {
                                let starts = Below::all(self.starts);
                                self.run::<S, MR, N>(s, starts, from, where_to, product);
                            });
                        }
                        nth += (end - at) / MR;
                    }
                });
                at = end;
            }
        }
    }

    /// The tiles of `MR` pixels that `range` of the run is which begins with pixel `first`, and in the data at `from`; `nth` tiles were before them.
    #[inline(always)]
    fn run<S: F32s, const MR: usize, const N: usize>(
        &self,
        s: S,
        starts: impl Terms,
        from: usize,
        (first, range, nth): (usize, Range<usize>, usize),
        product: &mut Tile<'_>,
    ) {
        let len = self.offsets.len();
        if const { N > NV }
            && let Some((packed, _, t, depth)) = self.packed
        {
            for (n, i) in range.step_by(MR).enumerate() {
                let pixels = &packed[i * depth..][..MR * depth];
                let lhs = Packed(&pixels.as_chunks::<MR>().0[t..t + len]);
                self.one::<S, MR, N>(s, lhs, starts, (first + i, nth + n), product);
            }
            return;
        }
        for (n, i) in range.step_by(MR).enumerate() {
            let data = &self.data[(from + i).min(self.data.len())..];
            let lhs = Listed::new(data, 1, self.offsets);
            self.one::<S, MR, N>(s, lhs, starts, (first + i, nth + n), product);
        }
    }

    /// The `nth` tile, from this pixel on.
    #[inline(always)]
    fn one<S: F32s, const MR: usize, const N: usize>(
        &self,
        s: S,
        lhs: impl Lhs<MR>,
        starts: impl Terms,
        (pixel, nth): (usize, usize),
        product: &mut Tile<'_>,
    ) {
        let tiles = (nth, product.rows() / MR);
        let place = Place {
            to: (product.in_order::<MR>(pixel), Whole(0)),
            start: self.start,
            activation: self.activation,
        };
        let rhs = Foreseen::<S, _, 1, N, false>::new(
            [self.panel],
            starts,
            Next::panels([self.next]),
            tiles,
        );
        tile::<S, MR, N, _>(s, self.offsets.len(), lhs, rhs, place);
    }
}

/// Packs the pixels of planes that begin at `offsets` for tiles of `height`: `[tile][term][pixel]`.
#[inline(always)]
fn pack<S: F32s>(
    s: S,
    data: &[f32],
    offsets: &[u32],
    (pixels, height): (usize, usize),
    packed: &mut [f32],
) {
    s.outline(
        #[inline(always)]
        || {
            for i in (0..pixels).step_by(height) {
                let mr = height.min(pixels - i);
                let tile = &mut packed[i * offsets.len()..];
                for (t, &at) in offsets.iter().enumerate() {
                    let from = &data[at as usize + i..];
                    let v = match from.len() >= S::LANES {
                        true => s.load(from),
                        false => s.load_some(from),
                    };
                    // What a whole vector writes too much, the next one writes again.
                    s.store(v, &mut tile[t * mr..]);
                }
            }
        },
    );
}

/// Writes the columns of a product, rows `pitch` apart, as the rows `targets` of the output.
#[inline(always)]
fn transpose<S: F32s>(
    s: S,
    (product, pitch): (&[f32], usize),
    targets: &[u32],
    first_row: usize,
    out: &mut Tile<'_>,
    spare: &mut [f32],
) {
    let pixels = out.cols();
    for (vector, targets) in targets.chunks_exact(S::LANES).enumerate() {
        if targets.iter().all(|&row| row == NOWHERE) {
            continue;
        }
        let mut list = [NOWHERE; WIDEST];
        list[..S::LANES].copy_from_slice(targets);
        let rows = out.listed_or(&list, -(first_row as isize), spare);
        let product = &product[vector * S::LANES..];
        match pitch / S::LANES {
            1 => to_rows::<S, 1>(s, product, pixels, rows),
            2 => to_rows::<S, 2>(s, product, pixels, rows),
            3 => to_rows::<S, 3>(s, product, pixels, rows),
            4 => to_rows::<S, 4>(s, product, pixels, rows),
            _ => unreachable!("a panel of more vectors"),
        }
    }
}
