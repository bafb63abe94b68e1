//! The product of packed weights and planes, cut into strips of pixels (and blocks of channels) that threads take.
//!
//! ```text
//! for each strip of y (channels x pixels)               a job
//!     for each depth block of KC live taps              partial sums stay in y between them
//!         for each block of channels                    their weights stay in L2; the live rows are put together, where that pays
//!             for each tile of pixels                   KC x NR inputs, stays in L1
//!                 for each row tile                     the micro-kernel
//! ```
#![forbid(unsafe_code)]

use crate::Isa;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::ops::conv::lanes::{self, Lanes};
use crate::ops::conv::part::{Part, part, widest};
use crate::ops::conv::planes::Geometry;
use crate::ops::conv::{LiveTerms, Wanted};
use crate::ops::pointwise;
use crate::pack::even_height;
use crate::pack::gather::{self, saved};
use crate::panel::{
    Below, Foreseen, LINE, Lhs, Listed, Next, Packed, Terms, lines, take, take_indices,
};
use crate::pool::{NOWHERE, Pool, Rows, Tile, worth};
use crate::tile::gemm::{Place, Sieve, Sieved, Start, for_height, tile, without_lists};

/// Depth of a block. The taps of a window overlap in memory, so its inputs take less of L1 than KC x NR floats. Measured on Zen 5
/// with windows of 3 x 3 on 64 to 256 channels, against 576: 224 is 9 to 17 % slower, 384 is 2 to 6 %.
const KC: usize = 576;
/// Inputs of tiles of pixels that take turns with the rows of a tile: half of L1 (48 KiB), in elements.
const INPUTS: usize = 6 * 1024;
/// Tiles of pixels that take turns, at most.
const PARTS: usize = 8;
/// Weights of a block of channels: half of L2 (1 MiB), in elements.
const WEIGHTS: usize = 128 * 1024;
/// Rows of the tallest tile.
pub(super) const TALLEST: usize = 6;

/// One group of a convolution, ready to run.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    pub(super) panels: &'a [f32],
    pub(super) height: usize,
    /// Whether a panel can be the vectors of a tile.
    pub(super) lanes: bool,
    pub(super) packed_depth: usize,
    pub(super) packed_rows: usize,
    pub(super) terms: LiveTerms<'a>,
    pub(super) x: &'a [f32],
    pub(super) geometry: &'a Geometry,
    pub(super) sieve: &'a [Sieved],
    pub(super) wanted: Wanted<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Activation,
}

impl Strip<'_> {
    /// Computes the group into `out`, its channels x all pixels.
    pub(super) fn run(&self, isa: Isa, pool: &dyn Pool, out: Tile<'_>, scratch: &mut [f32]) {
        let pixels = self.geometry.pixels();
        let depth = self.terms.offsets.len();
        let pool = worth(pool, depth * self.wanted.from.len() * pixels);
        let threads = pool.threads().max(1);
        let strip = self.geometry.strip();
        let strips = pixels.div_ceil(strip);
        let rows = if strips >= threads {
            out.rows()
        } else {
            let each = out.rows().div_ceil(threads.div_ceil(strips));
            // Panels that are lanes can be shared.
            let part = if self.lanes {
                self.geometry.lanes
            } else {
                self.height
            };
            each.next_multiple_of(if each < self.height {
                part
            } else {
                self.height
            })
        };
        let lanes = self.lanes && lanes::stay(self.geometry, depth, self.wanted.from.len());
        let each = Self::room(
            self.geometry,
            (self.terms.channels.len(), depth),
            self.packed_rows,
            lanes.then_some(self.height),
        );
        out.split_with(pool, (rows, strip), scratch, each, |r, c, out, room| {
            let job = Job {
                strip: self,
                room,
                pixel: c,
                row: r,
                out,
            };
            if lanes {
                isa.run(Lanes(job));
            } else {
                isa.run(Block(job));
            }
        });
    }

    /// Elements that a job needs, with panels as wide as the lanes if channels are lanes.
    pub(super) fn room(
        geometry: &Geometry,
        (channels, depth): (usize, usize),
        rows: usize,
        panel: Option<usize>,
    ) -> usize {
        let weights = lines(gathered_len(depth, rows)) + lines(depth.clamp(1, KC));
        let pixels = geometry.strip().min(geometry.pixels());
        let block = lines(pixels) + lines(weights) + 2 * lines(rows);
        let lanes = panel.map_or(0, |width| lanes::room(geometry, (channels, depth), width));
        lines(geometry.planes_len(channels)).saturating_add(block.max(lanes))
    }
}

/// Elements of the gathered weights of a block of channels, with room for what the last vector writes too much.
fn gathered_len(depth: usize, rows: usize) -> usize {
    let deep = depth.clamp(1, KC);
    let most = (WEIGHTS + deep * TALLEST).min(deep * (rows + TALLEST));
    most + LINE
}

/// A part of the output: channels x pixels.
pub(super) struct Job<'a, 't> {
    pub(super) strip: &'a Strip<'a>,
    /// For the copies of planes, and the product where lanes are channels.
    pub(super) room: &'a mut [f32],
    /// Its first pixel and row of the output.
    pub(super) pixel: usize,
    pub(super) row: usize,
    pub(super) out: Tile<'t>,
}

impl Job<'_, '_> {
    /// Which of the strip's wanted channels are its own.
    pub(super) fn wanted(&self) -> (usize, usize) {
        let to = self.strip.wanted.to;
        let before = |row: usize| to.partition_point(|&c| (c as usize) < row);
        (before(self.row), before(self.row + self.out.rows()))
    }

    /// Applies an activation that tiles do not apply to the wanted channels `lo..hi`.
    #[inline(always)]
    pub(super) fn activate<S: F32s>(&mut self, s: S, (lo, hi): (usize, usize)) {
        let activation = self.strip.activation;
        if !activation.in_registers() {
            for &c in &self.strip.wanted.to[lo..hi] {
                pointwise::apply(s, activation, self.out.row(c as usize - self.row));
            }
        }
    }
}

/// A job whose lanes are pixels.
struct Block<'a, 't>(Job<'a, 't>);

/// What the tiles of a depth block and a block of channels have in common.
#[derive(Clone, Copy)]
struct Pass<'a> {
    /// What the lanes are loaded from, and where the terms are in it.
    data: &'a [f32],
    offsets: Below<'a>,
    in_place: bool,
    weights: Weights<'a>,
    /// Where the rows go, and the first row of the output.
    targets: &'a [u32],
    first_row: usize,
    /// Of the rows; nothing is added where partial sums are in the output.
    bias: Option<&'a [f32]>,
    partial: bool,
    activation: Activation,
}

/// Row panels of a block of channels.
#[derive(Clone, Copy)]
struct Weights<'a> {
    panels: &'a [f32],
    /// Rows and elements of each.
    height: usize,
    panel_len: usize,
    /// Where the terms are in one.
    starts: Below<'a>,
    /// The packed term that all of them follow, one after the other, if they do.
    in_order: Option<usize>,
}

impl Task for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let mut job = self.0;
        let strip = job.strip;
        let (geometry, terms, wanted) = (strip.geometry, strip.terms, strip.wanted);
        let (lo, hi) = job.wanted();
        if lo == hi {
            return;
        }
        let mut rest = core::mem::take(&mut job.room);
        let planes = take(&mut rest, geometry.planes_len(terms.channels.len()));
        let data = geometry.data(s, strip.x, job.pixel, terms.channels, planes);
        let origin = if geometry.in_place { job.pixel } else { 0 };
        let pixels = job.out.cols();
        let columns = geometry.columns(pixels);
        let depth = terms.offsets.len();
        let deep = KC.min(depth.max(1));
        // Whole panels, though some of their rows are dead, or live rows put together, in tiles as even as can be.
        let live = &wanted.from[lo..hi];
        let begin = live[0] as usize / strip.height * strip.height;
        let end = live[live.len() - 1] as usize + 1;
        let touched = panels_of(live, strip.height);
        let fmas = strip.height * columns.div_ceil(S::LANES);
        let gathers = strip.lanes
            || saved(
                fmas,
                (live.len(), touched),
                strip.height,
                strip.panels.len(),
            ) > 0;
        let (rows, height) = match gathers {
            true => (hi - lo, even_height(hi - lo, TALLEST)),
            false => (end - begin, strip.height),
        };
        let (targets, bias) = (take_indices(&mut rest, rows), take(&mut rest, rows));
        let bias = match strip.bias {
            Some(all) if gathers => {
                gather::pick(all, live.iter().map(|&c| c as usize), bias);
                Some(&*bias)
            }
            all => all.map(|all| &all[begin..]),
        };
        let spare = take(&mut rest, pixels);
        if gathers {
            targets.copy_from_slice(&wanted.to[lo..hi]);
        } else {
            targets.fill(NOWHERE);
            for (&from, &to) in live.iter().zip(&wanted.to[lo..hi]) {
                targets[from as usize - begin] = to;
            }
        }
        let close = take_indices(&mut rest, if gathers { deep } else { 0 });
        for (t, start) in close.iter_mut().enumerate() {
            *start = (t * height) as u32;
        }
        let channels = (WEIGHTS / deep).next_multiple_of(height);
        let together = (INPUTS / (deep * widest(S::REGISTERS) * S::LANES)).clamp(1, PARTS);
        let gathered = take(
            &mut rest,
            if gathers {
                gathered_len(depth, rows)
            } else {
                0
            },
        );
        let panel_len = strip.packed_depth * strip.height;
        for t in (0..depth.max(1)).step_by(KC) {
            let now = t..depth.min(t + KC);
            let offsets = Below::all(&terms.offsets[now.clone()]);
            let starts = Below::all(&terms.starts[now.clone()]);
            let last = t + KC >= depth;
            for block in (0..rows).step_by(channels) {
                let rows = block..rows.min(block + channels);
                let weights = if gathers {
                    let packed = gather::Panels {
                        of: |x| &strip.panels[x * panel_len..],
                        width: strip.height,
                        terms: starts,
                        len: strip.panels.len(),
                        columns: None,
                    };
                    for (i, from) in live[rows.clone()].chunks(height).enumerate() {
                        packed.gather(s, from, height, &mut gathered[i * height * now.len()..]);
                    }
                    Weights {
                        panels: gathered,
                        height,
                        panel_len: now.len() * height,
                        starts: Below::all(&close[..now.len()]),
                        in_order: Some(0),
                    }
                } else {
                    Weights {
                        panels: &strip.panels[(begin + block) / height * panel_len..],
                        height,
                        panel_len,
                        starts,
                        in_order: (depth == strip.packed_depth).then_some(t),
                    }
                };
                let pass = Pass {
                    data,
                    offsets,
                    in_place: geometry.in_place,
                    weights,
                    targets: &targets[rows.clone()],
                    first_row: job.row,
                    bias: bias.map(|bias| &bias[rows.clone()]),
                    partial: t > 0,
                    activation: if last {
                        strip.activation
                    } else {
                        Activation::None
                    },
                };
                let mut q = 0;
                while q < columns {
                    let mut parts = [Part::default(); PARTS];
                    let mut count = 0;
                    while q < columns && count < together {
                        let part =
                            part::<S>(geometry, strip.sieve, q, columns, origin, depth <= KC);
                        if count > 0 && part.vectors != parts[0].vectors {
                            break;
                        }
                        parts[count] = part;
                        count += 1;
                        q += part.vectors * S::LANES;
                    }
                    let (parts, out, spare) = (&parts[..count], &mut job.out, &mut *spare);
                    for_height!(@ parts[0].vectors, N, {
                        if const { N <= widest(S::REGISTERS) } {
                            pass.rows::<S, N>(s, parts, (out, spare));
                        }
                    }, 1 2 3 4);
                }
            }
        }
        job.activate(s, (lo, hi));
    }
}

/// How many panels of `height` the ascending `rows` are in, of which there is one.
pub(super) fn panels_of(rows: &[u32], height: usize) -> usize {
    let panel = |&row: &u32| row as usize / height;
    let pairs = rows.iter().zip(&rows[1..]);
    1 + pairs.filter(|(a, b)| panel(a) != panel(b)).count()
}

impl Pass<'_> {
    /// The tiles of `parts`, all of `NV` vectors, and all rows.
    #[inline(always)]
    fn rows<S: F32s, const NV: usize>(
        &self,
        s: S,
        parts: &[Part],
        (out, spare): (&mut Tile<'_>, &mut [f32]),
    ) {
        let (mut at, end) = (0, self.targets.len());
        while at < end {
            let mr = self.weights.height.min(end - at);
            let rows = at..end - (end - at) % mr;
            at = rows.end;
            for_height!(@ mr, MR, {
                // A call for all tiles of a height: what they share is loaded once.
                s.outline(#[inline(always)] || {
                    for i in rows.step_by(MR) {
                        self.panel::<S, MR, NV>(s, i, parts, (out, spare));
                    }
                });
            }, 1 2 3 4 5 6);
        }
    }

    /// The rows `i..i + MR`.
    #[inline(always)]
    fn panel<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        i: usize,
        parts: &[Part],
        (out, spare): (&mut Tile<'_>, &mut [f32]),
    ) {
        let to = self.targets[i..].first_chunk().expect("a row each");
        if to.iter().all(|&row| row == NOWHERE) {
            return;
        }
        let start = match self.bias {
            _ if self.partial => Start::Partial,
            None => Start::Zero,
            Some(all) => Start::Rows(&all[i..][..MR]),
        };
        let rows = out.listed_or::<MR>(to, -(self.first_row as isize), spare);
        let Weights {
            panels,
            height,
            panel_len,
            starts,
            in_order,
        } = self.weights;
        let panel = &panels[i / height * panel_len..][..panel_len];
        match in_order {
            Some(t) if const { without_lists::<S>() } && MR == height => {
                let lhs = Packed(&panel.as_chunks::<MR>().0[t..t + starts.len()]);
                self.tiles::<S, MR, NV>(s, i / MR, lhs, start, parts, rows);
            }
            _ => {
                let lhs = Listed::new(panel, 1, starts);
                self.tiles::<S, MR, NV>(s, i / MR, lhs, start, parts, rows);
            }
        }
    }

    #[inline(always)]
    fn tiles<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        nth: usize,
        lhs: impl Lhs<MR>,
        start: Start<'_>,
        parts: &[Part],
        mut rows: impl Rows<MR>,
    ) {
        let Self {
            data,
            offsets,
            activation,
            ..
        } = *self;
        for part in parts {
            let panel = &data[part.from.min(data.len())..];
            // Copies come from L2 as they are.
            let ahead = if self.in_place {
                parts.len() * NV * S::LANES
            } else {
                0
            };
            let next = &panel[ahead.min(panel.len())..];
            let tiles = (nth, self.targets.len() / MR);
            let rhs =
                Foreseen::<S, _, 1, NV, false>::new([panel], offsets, Next::panels([next]), tiles);
            let place = Place {
                to: (
                    &mut rows,
                    Sieve::new::<S>(*part.lanes.first_chunk().expect("as many vectors")),
                ),
                start,
                activation,
            };
            tile::<S, MR, NV, _>(s, offsets.len(), lhs, rhs, place);
        }
    }
}
