//! The product of packed weights and planes, cut into strips of pixels (and blocks of channels) that threads take.
//!
//! ```text
//! for each strip of y (channels x pixels)               a job
//!     for each depth block of KC live taps              partial sums stay in y between them
//!         for each block of channels                    their weights stay in L2
//!             for each tile of pixels                   KC x NR inputs, stays in L1
//!                 for each row tile                     the micro-kernel
//! ```
#![forbid(unsafe_code)]

use crate::Isa;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::ops::conv::lanes::{self, Lanes};
use crate::ops::conv::planes::Geometry;
use crate::ops::conv::{LiveTerms, Wanted};
use crate::ops::pointwise;
use crate::pack::even_height;
use crate::panel::{
    Below, Foreseen, Gathered, Lhs, Listed, Packed, Terms, lines, take, take_indices,
};
use crate::pool::{NOWHERE, Pool, Rows, Tile, worth};
use crate::tile::gemm::{
    NV, Place, Sieve, Sieved, Start, for_height, tallest, tallest_gathered, tile, without_lists,
};

/// Depth of a block. The taps of a window overlap in memory, so its inputs take less of L1 than KC x NR floats. Measured on Zen 5
/// with windows of 3 x 3 on 64 to 256 channels, against 576: 224 is 9 to 17 % slower, 384 is 2 to 6 %.
const KC: usize = 576;
/// Time of a tile of gathered rows, which is lower, against that of a dense one.
const GATHERED: f64 = 1.1;
/// Inputs of tiles of pixels that take turns with the rows of a tile: half of L1 (48 KiB), in elements.
const INPUTS: usize = 6 * 1024;
/// Tiles of pixels that take turns, at most.
const PARTS: usize = 8;
/// Weights of a block of channels: half of L2 (1 MiB), in elements.
const WEIGHTS: usize = 128 * 1024;

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
        let pool = worth(
            pool,
            self.terms.list.len() * self.wanted.from.len() * pixels,
        );
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
        let lanes = self.lanes && self.lanes_pay();
        let each = Self::room(
            self.geometry,
            self.terms.channels.len(),
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
        channels: usize,
        rows: usize,
        panel: Option<usize>,
    ) -> usize {
        let product = match panel {
            Some(width) => lanes::product_len(geometry, channels, width),
            None => geometry.strip().min(geometry.pixels()),
        };
        lines(geometry.planes_len(channels))
            .saturating_add(lines(product))
            .saturating_add(lines(rows))
    }

    /// Whether so many of the packed rows are wanted, of so many live terms, that computing all of a panel takes no longer than gathering
    /// some.
    fn lanes_pay(&self) -> bool {
        let depth = self.terms.list.len();
        let (pixels, channels) = lanes::costs(self.geometry, depth, self.packed_rows);
        self.wanted.from.len() as f64 * pixels * GATHERED >= self.packed_rows as f64 * channels
    }
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

/// What the tiles of a depth block have in common.
#[derive(Clone, Copy)]
struct Pass<'a> {
    strip: &'a Strip<'a>,
    terms: Below<'a>,
    /// The packed term that all of them follow, one after the other, if they do.
    in_order: Option<usize>,
    /// What the lanes are loaded from, and where the terms are in it.
    data: &'a [f32],
    offsets: Below<'a>,
    /// The first row of the output.
    first_row: usize,
    /// Where the rows of packed panels go; without it rows are the live ones, gathered.
    targets: Option<&'a [u32]>,
    height: usize,
    first: bool,
    activation: Activation,
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
        let depth = terms.list.len();
        // Whole panels, though some of their rows are dead, or live rows gathered, in tiles as even as can be.
        let live = &wanted.from[lo..hi];
        let begin = live[0] as usize / strip.height * strip.height;
        let end = live[live.len() - 1] as usize + 1;
        let panels = panels_of(live, strip.height);
        let dense = !strip.lanes
            && (panels * strip.height).min(end - begin) as f64 <= live.len() as f64 * GATHERED;
        let targets = take_indices(&mut rest, if dense { end - begin } else { 0 });
        targets.fill(NOWHERE);
        let (all, height) = if dense {
            for (&from, &to) in live.iter().zip(&wanted.to[lo..hi]) {
                targets[from as usize - begin] = to;
            }
            (begin..end, strip.height)
        } else {
            (lo..hi, even_height(hi - lo, tallest_gathered::<S>()))
        };
        let spare = take(&mut rest, if dense { pixels } else { 0 });
        let deep = KC.min(depth.max(1));
        let channels = (WEIGHTS / deep).next_multiple_of(height);
        let together = (INPUTS / (deep * NV * S::LANES)).clamp(1, PARTS);
        for t in (0..depth.max(1)).step_by(KC) {
            let live = t..depth.min(t + KC);
            let offsets = Below::all(&terms.offsets[live.clone()]);
            let terms = Below::new(&terms.list[live], strip.packed_depth.max(1));
            let last = t + KC >= depth;
            for block in all.clone().step_by(channels) {
                let rows = (block, all.end.min(block + channels));
                let pass = Pass {
                    strip,
                    terms,
                    in_order: (depth == strip.packed_depth).then_some(t),
                    data,
                    offsets,
                    first_row: job.row,
                    targets: dense.then(|| &targets[block - begin..]),
                    height,
                    first: t == 0,
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
                    if parts[0].vectors == 1 {
                        pass.rows::<S, 1>(s, rows, parts, (out, spare));
                    } else {
                        pass.rows::<S, NV>(s, rows, parts, (out, spare));
                    }
                }
            }
        }
        job.activate(s, (lo, hi));
    }
}

/// How many panels of `height` the ascending `rows` are in.
fn panels_of(rows: &[u32], height: usize) -> usize {
    let panel = |&row: &u32| row as usize / height;
    let pairs = rows.iter().zip(&rows[1..]);
    1 + pairs.filter(|(a, b)| panel(a) != panel(b)).count()
}

/// A tile of pixels.
#[derive(Clone, Copy, Default)]
struct Part {
    /// The column of the planes that its first lane reads.
    from: usize,
    vectors: usize,
    /// Which lanes write where.
    lanes: [Sieved; NV],
}

/// The tile of the columns from `q` on. `once`: the sums are complete after one pass, so that columns may be computed twice.
#[inline(always)]
fn part<S: F32s>(
    geometry: &Geometry,
    table: &[Sieved],
    q: usize,
    columns: usize,
    origin: usize,
    once: bool,
) -> Part {
    let mut sieve = [[0; 2]; NV];
    let left = columns - q;
    let mut vectors = if left > S::LANES { NV } else { 1 };
    if !geometry.is_flat() {
        for j in 0..vectors {
            let [bits, first] = table[q / S::LANES + j];
            let lanes = left.saturating_sub(j * S::LANES);
            let cut = if lanes < S::LANES {
                (1 << lanes) - 1
            } else {
                !0
            };
            sieve[j] = [bits & cut, first];
        }
        return Part {
            from: origin + q,
            vectors,
            lanes: sieve,
        };
    }
    if left < vectors * S::LANES && (geometry.in_place || once && columns >= vectors * S::LANES) {
        // The planes end here: read the last vectors of the plane, and keep of them what is new.
        let end = origin + columns;
        if end < vectors * S::LANES {
            vectors = 1;
        }
        let lanes = vectors * S::LANES;
        let left = left.min(lanes);
        let old = (origin + q + lanes).saturating_sub(end);
        if once && old <= q {
            return Part {
                from: origin + q - old,
                vectors,
                lanes: Sieve::first::<S>(q - old, lanes),
            };
        }
        let mut first = q as u32;
        for j in 0..vectors {
            let skip = old.saturating_sub(j * S::LANES).min(S::LANES);
            sieve[j] = [(!0u32 << skip) & (!0 >> (32 - S::LANES)), first];
            first += (S::LANES - skip) as u32;
        }
        debug_assert!(left == lanes - old);
        return Part {
            from: origin + q - old,
            vectors,
            lanes: sieve,
        };
    }
    Part {
        from: origin + q,
        vectors,
        lanes: Sieve::first::<S>(q, left),
    }
}

impl Pass<'_> {
    /// The tiles of `parts`, all of `NV` vectors, and the rows `lo..hi`: of panels, or of the list of live ones.
    #[inline(always)]
    fn rows<S: F32s, const NV: usize>(
        &self,
        s: S,
        (lo, hi): (usize, usize),
        parts: &[Part],
        (out, spare): (&mut Tile<'_>, &mut [f32]),
    ) {
        let mut at = lo;
        while at < hi {
            let mr = self.height.min(hi - at);
            let rows = at..hi - (hi - at) % mr;
            at = rows.end;
            for_height!(mr, MR => {
                // A call for all tiles of a height: what they share is loaded once.
                if let Some(targets) = self.targets {
                    if MR <= tallest::<S>() {
                        s.outline(#[inline(always)] || {
                            for i in rows.step_by(MR) {
                                let to = &targets[i - lo..][..MR];
                                self.packed_rows::<S, MR, NV>(s, i, to, parts, (out, spare));
                            }
                        });
                    }
                } else if MR <= tallest_gathered::<S>() {
                    s.outline(#[inline(always)] || {
                        for i in rows.step_by(MR) {
                            self.gathered_rows::<S, MR, NV>(s, i, parts, out);
                        }
                    });
                }
            });
        }
    }

    /// The packed rows `i..i + MR`, which go to the rows `to`.
    #[inline(always)]
    fn packed_rows<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        i: usize,
        to: &[u32],
        parts: &[Part],
        (out, spare): (&mut Tile<'_>, &mut [f32]),
    ) {
        let to: &[u32; MR] = to.first_chunk().expect("a row each");
        if to.iter().all(|&row| row == NOWHERE) {
            return;
        }
        let strip = self.strip;
        let start = match strip.bias {
            _ if !self.first => Start::Partial,
            None => Start::Zero,
            Some(all) => Start::Rows(&all[i..][..MR]),
        };
        let rows = out.listed_or::<MR>(to, -(self.first_row as isize), spare);
        let panel_len = strip.packed_depth * strip.height;
        let panel = &strip.panels[i / strip.height * panel_len..][..panel_len];
        match self.in_order {
            Some(t) if const { without_lists::<S>() } && MR == strip.height => {
                let lhs = Packed(&panel.as_chunks::<MR>().0[t..t + self.terms.len()]);
                self.tiles::<S, MR, NV>(s, i / MR, lhs, start, parts, rows);
            }
            _ => {
                let lhs = Listed::new(panel, strip.height, self.terms);
                self.tiles::<S, MR, NV>(s, i / MR, lhs, start, parts, rows);
            }
        }
    }

    /// The live rows `i..i + MR`.
    #[inline(always)]
    fn gathered_rows<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        i: usize,
        parts: &[Part],
        out: &mut Tile<'_>,
    ) {
        let strip = self.strip;
        let from = &strip.wanted.from[i..][..MR];
        let to = strip.wanted.to[i..].first_chunk().expect("a row each");
        let mut bias = [0.0; MR];
        let start = match strip.bias {
            _ if !self.first => Start::Partial,
            None => Start::Zero,
            Some(all) => {
                for (bias, &row) in bias.iter_mut().zip(from) {
                    *bias = all[row as usize];
                }
                Start::Rows(&bias)
            }
        };
        let rows = out.listed::<MR>(to, -(self.first_row as isize));
        let panel_len = strip.packed_depth * strip.height;
        let starts: [usize; MR] = core::array::from_fn(|x| {
            let row = from[x] as usize;
            row / strip.height * panel_len + row % strip.height
        });
        let lhs = Gathered::new(strip.panels, starts, strip.height, self.terms);
        self.tiles::<S, MR, NV>(s, i / MR, lhs, start, parts, rows);
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
            let ahead = if self.strip.geometry.in_place {
                parts.len() * NV * S::LANES
            } else {
                0
            };
            let next = &panel[ahead.min(panel.len())..];
            let rhs = Foreseen::<S, _, 1, NV>::new([panel], offsets, [next], nth);
            let place = Place {
                rows: &mut rows,
                cols: Sieve::new::<S>(*part.lanes.first_chunk().expect("as many vectors")),
                start,
                activation,
            };
            tile::<S, MR, NV>(s, offsets.len(), lhs, rhs, place);
        }
    }
}
