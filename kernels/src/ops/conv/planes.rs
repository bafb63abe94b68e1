//! Input planes as the convolution reads them.
//!
//! With a stride `s` the plane is split into its `s` x `s` phases, so that the inputs of neighbouring outputs are neighbours;
//! with a border or a window each phase is copied with zeros around it. Then output (oh, ow) reads, at tap (kh, kw),
//! `plane[oh · pitch + ow + offset(kh, kw)]`. Where the window is wider than one, each row of `pitch` columns ends in a few that
//! are no output (`pitch - ow`); a sieve drops them at the store.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use crate::Error;
use crate::isa::{F32s, Task};
use crate::ops::ConvShape;
use crate::ops::conv::tile_pixels;
use crate::pack::extent;
use crate::panel::lines;
use crate::tile::gemm::Sieved;

/// Output pixels of a strip: what one thread takes, and what stays in L2 while the depth blocks pass over it.
const STRIP: usize = 512;

/// Output rows of a strip of copies.
fn strip_rows((h, w): (usize, usize)) -> usize {
    STRIP.div_ceil(w).min(h)
}

/// Elements behind an unrolled row: the widest vector may be stored at its last element.
const SLACK: usize = 16;

/// Output channels from which on unrolling pays: it writes each input once a tap of a row.
const UNROLLED_ROWS: usize = 16;

/// Elements of unrolled rows at most: 2 MiB, so that they stay in L2 and L3.
const UNROLLED_LEN: usize = 512 * 1024;

/// Columns of a strip whose sieve is tabled, at most.
const SIEVED: usize = 1 << 26;

/// Sizes that follow from the shape and the input's extents.
#[derive(Debug)]
pub(super) struct Geometry {
    shape: ConvShape,
    input: (usize, usize),
    pub(super) output: (usize, usize),
    pub(super) lanes: usize,
    /// Columns from one output row to the next.
    pub(super) pitch: usize,
    /// Whether x itself is read.
    pub(super) in_place: bool,
    /// Whether the copies are unrolled.
    unrolled: bool,
    /// Rows of a phase plane of a strip, and the number of phases.
    rows: usize,
    phases: (usize, usize),
}

impl Geometry {
    pub(super) fn new(
        shape: &ConvShape,
        (h, w): (usize, usize),
        lanes: usize,
    ) -> Result<Self, Error> {
        let output = shape.output((h, w))?;
        extent(&[shape.c_in.max(1), h, w], "x")?;
        extent(&[shape.c_out.max(1), output.0, output.1], "y")?;
        let reach =
            |axis: usize| (shape.kernel[axis] - 1) * shape.dilation[axis] / shape.stride[axis];
        let phases = |axis: usize| match shape.kernel[axis] {
            1 => 1,
            _ => shape.stride[axis],
        };
        let phases = (phases(0), phases(1));
        let unit = shape.kernel == [1, 1] && shape.stride == [1, 1] && shape.pads == [0; 4];
        let (rows, pitch) = (strip_rows(output) + reach(0), output.1 + reach(1));
        let channels = shape.c_in.max(1);
        extent(&[channels, phases.0, phases.1, rows, pitch], "padded x")?;
        let unrolled = {
            let (ow, each_in, each_out) = (
                output.1,
                shape.c_in / shape.groups.max(1),
                shape.c_out / shape.groups.max(1),
            );
            let len = extent(
                &[each_in, phases.0, shape.kernel[1], rows, ow],
                "unrolled x",
            )?;
            let narrow = 8 * (pitch - ow) > ow && shape.stride[1] <= lanes;
            narrow && each_out >= UNROLLED_ROWS && len <= UNROLLED_LEN
        };
        let geometry = Self {
            shape: *shape,
            unrolled,
            input: (h, w),
            output,
            lanes,
            pitch,
            in_place: unit && (lanes..=4096).contains(&(h * w)),
            rows,
            phases,
        };
        let sieved = !geometry.is_flat() && geometry.columns(geometry.strip()) > SIEVED;
        if sieved {
            return Err(Error::TooLarge {
                operand: "padded x",
            });
        }
        Ok(geometry)
    }

    /// Elements of an input plane.
    pub(super) fn map(&self) -> usize {
        self.input.0 * self.input.1
    }

    /// Elements of an output plane.
    pub(super) fn pixels(&self) -> usize {
        self.output.0 * self.output.1
    }

    /// Whether every column is an output.
    pub(super) fn is_flat(&self) -> bool {
        self.unrolled || self.pitch == self.output.1
    }

    /// Elements of the inputs of a tap (0, kw) in one phase, when unrolled.
    fn unrolled_row(&self) -> usize {
        (self.rows * self.output.1 + SLACK).next_multiple_of(SLACK)
    }

    /// Elements of an unrolled plane.
    fn unrolled_len(&self) -> usize {
        self.phases.0 * self.shape.kernel[1] * self.unrolled_row()
    }

    /// Output pixels of a strip: whole tiles of x itself, whole rows of copies.
    pub(super) fn strip(&self) -> usize {
        if self.in_place {
            STRIP.next_multiple_of(tile_pixels(self.lanes))
        } else {
            self.output.1 * strip_rows(self.output)
        }
    }

    /// Columns of a strip of `pixels` output pixels, from its first to its last.
    pub(super) fn columns(&self, pixels: usize) -> usize {
        if self.is_flat() {
            pixels
        } else {
            pixels / self.output.1 * self.pitch - (self.pitch - self.output.1)
        }
    }

    /// For each vector of a strip, which lanes are outputs, and the first's number in the strip; empty when all are.
    pub(super) fn sieve(&self) -> Vec<Sieved> {
        if self.is_flat() {
            return Vec::new();
        }
        let (mut column, mut pixel) = (0, 0);
        let vectors = self.columns(self.strip()) / self.lanes + 3;
        let entry = |_| {
            let mut bits = 0u32;
            let first = pixel;
            let mut lane = 0;
            while lane < self.lanes {
                let run = if column < self.output.1 {
                    let run = (self.output.1 - column).min(self.lanes - lane);
                    bits |= (!0u32 >> (32 - run)) << lane;
                    pixel += run as u32;
                    run
                } else {
                    (self.pitch - column).min(self.lanes - lane)
                };
                lane += run;
                column = (column + run) % self.pitch;
            }
            [bits, first]
        };
        (0..vectors).map(entry).collect()
    }

    fn plane_len(&self) -> usize {
        self.phases.0 * self.phases.1 * self.rows * self.pitch
    }

    /// Elements that the copies of `channels` planes take.
    pub(super) fn planes_len(&self, channels: usize) -> usize {
        if self.in_place {
            return 0;
        }
        // The last tile reads up to a tile past the last pixel.
        let slack = tile_pixels(self.lanes) + self.lanes;
        if self.unrolled {
            return lines(channels * self.unrolled_len() + slack);
        }
        lines(channels * self.plane_len() + slack)
    }

    /// For each tap of each of `channels`, where the tap of the first output pixel is.
    pub(super) fn offsets(&self, channels: &[u32]) -> Vec<u32> {
        if self.in_place {
            let pixels = self.pixels() as u32;
            return channels.iter().map(|c| c * pixels).collect();
        }
        let [kernel_h, kernel_w] = self.shape.kernel;
        let ([sh, sw], [dh, dw]) = (self.shape.stride, self.shape.dilation);
        let mut offsets = Vec::with_capacity(channels.len() * kernel_h * kernel_w);
        for slot in 0..channels.len() {
            for kh in 0..kernel_h {
                for kw in 0..kernel_w {
                    let at = if self.unrolled {
                        let (phase, down) = (kh * dh % sh % self.phases.0, kh * dh / sh);
                        let row = phase * kernel_w + kw;
                        slot * self.unrolled_len()
                            + row * self.unrolled_row()
                            + down * self.output.1
                    } else {
                        let row = self.phase(kh * dh, kw * dw) * self.rows + kh * dh / sh;
                        slot * self.plane_len() + row * self.pitch + kw * dw / sw
                    };
                    offsets.push(at as u32);
                }
            }
        }
        offsets
    }

    /// The phase in which a row and a column of the window are.
    fn phase(&self, row: usize, column: usize) -> usize {
        let [sh, sw] = self.shape.stride;
        row % sh % self.phases.0 * self.phases.1 + column % sw % self.phases.1
    }

    /// What the strip from `pixel` on reads of the planes of `channels`: x, or, for this strip alone, copies in `room`.
    #[inline(always)]
    pub(super) fn data<'a, S: F32s>(
        &self,
        s: S,
        x: &'a [f32],
        pixel: usize,
        channels: &[u32],
        room: &'a mut [f32],
    ) -> &'a [f32] {
        if self.in_place {
            return x;
        }
        let row = pixel / self.output.1 * self.shape.stride[0];
        if self.unrolled {
            self.unroll(s, x, row, channels, room);
        } else {
            self.pad(s, x, row, channels, room);
        }
        room
    }

    /// Copies the planes of `channels`, from padded row `first` on, with their border.
    #[inline(always)]
    fn pad<S: F32s>(&self, s: S, x: &[f32], first: usize, channels: &[u32], room: &mut [f32]) {
        let len = self.plane_len();
        let (copies, slack) = room.split_at_mut(channels.len() * len);
        slack.fill(0.0);
        let map = self.map();
        for (&c, copy) in channels.iter().zip(copies.chunks_exact_mut(len.max(1))) {
            self.copy(s, &x[c as usize * map..][..map], first, copy);
        }
    }

    /// As [`Geometry::pad`], once a tap of a row, so that output pixels are side by side.
    #[inline(always)]
    fn unroll<S: F32s>(&self, s: S, x: &[f32], first: usize, channels: &[u32], room: &mut [f32]) {
        let ((h, w), ow) = (self.input, self.output.1);
        let ([sh, sw], [top, left, ..]) = (self.shape.stride, self.shape.pads);
        // Pixels of a vector, and their lanes.
        let each = S::LANES / sw;
        let keep = (0..each).fold(0, |bits, i| bits | 1 << (i * sw));
        let (planes, slack) = room.split_at_mut(channels.len() * self.unrolled_len());
        slack.fill(0.0);
        let mut lines = planes.chunks_exact_mut(self.unrolled_row());
        for &c in channels {
            let plane = &x[c as usize * h * w..][..h * w];
            for phase in 0..self.phases.0 {
                for kw in 0..self.shape.kernel[1] {
                    let line = lines.next().expect("a line for each phase and tap");
                    for at in (0..ow).step_by(each) {
                        let from = at * sw + kw * self.shape.dilation[1];
                        let window = s.window(from as isize - left as isize, w);
                        for r in 0..self.rows {
                            let y = (first + r * sh + phase).wrapping_sub(top);
                            let mut v = s.splat(0.0);
                            if y < h {
                                [v] = s.load_window(&plane[y * w..][..w], &window);
                            }
                            if sw > 1 {
                                v = s.compress(v, keep);
                            }
                            let to = &mut line[r * ow + at..];
                            if ow <= each {
                                // What is too much is overwritten by the next row.
                                s.store(v, to);
                            } else {
                                s.store_some(v, &mut to[..each.min(ow - at)]);
                            }
                        }
                    }
                    line[self.rows * ow..].fill(0.0);
                }
            }
        }
    }

    /// Copies one plane, from padded row `first` on, into its phases, with zeros outside of it.
    #[inline(always)]
    fn copy<S: F32s>(&self, s: S, x: &[f32], first: usize, out: &mut [f32]) {
        let (h, w) = self.input;
        let ([sh, sw], [top, left, ..]) = (self.shape.stride, self.shape.pads);
        let mut rows = out.chunks_exact_mut(self.pitch.max(1));
        for phase_h in 0..self.phases.0 {
            for phase_w in 0..self.phases.1 {
                // Columns c with 0 <= c * sw + phase_w - left < w.
                let from = left.saturating_sub(phase_w).div_ceil(sw).min(self.pitch);
                let to = (w + left)
                    .saturating_sub(phase_w)
                    .div_ceil(sw)
                    .clamp(from, self.pitch);
                for (r, row) in rows.by_ref().take(self.rows).enumerate() {
                    let y = (first + r * sh + phase_h).wrapping_sub(top);
                    if y >= h || from == to {
                        row.fill(0.0);
                        continue;
                    }
                    row[..from].fill(0.0);
                    row[to..].fill(0.0);
                    let row = &mut row[from..to];
                    let x = &x[y * w..][..w][from * sw + phase_w - left..];
                    match sw {
                        1 => row.copy_from_slice(&x[..row.len()]),
                        2 => every_other(s, x, row),
                        _ => {
                            for (to, &x) in row.iter_mut().zip(x.iter().step_by(sw)) {
                                *to = x;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `out[i] = x[2 i]`
#[inline(always)]
fn every_other<S: F32s>(s: S, x: &[f32], out: &mut [f32]) {
    for (i, out) in out.chunks_mut(S::LANES).enumerate() {
        let x = &x[2 * i * S::LANES..];
        let (near, far) = x.split_at(x.len().min(S::LANES));
        let (v, _) = s.deinterleave(s.load_some(near), s.load_some(far));
        s.store_some(v, out);
    }
}

/// What all pixels read, see [`Geometry::data`].
pub(super) struct Planes<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) x: &'a [f32],
    pub(super) channels: &'a [u32],
    pub(super) room: &'a mut [f32],
}

impl<'a> Task for Planes<'a> {
    type Output = &'a [f32];
    #[inline(always)]
    fn run<S: F32s>(self, s: S) -> &'a [f32] {
        self.geometry.data(s, self.x, 0, self.channels, self.room)
    }
}
