//! Input planes as the convolution reads them.
//!
//! A plane is copied as lines: with a stride `s` a line for each of the `s` x `s` phases of rows and columns, so that the inputs of
//! neighbouring outputs are neighbours, with zeros for the border. Then output (oh, ow) reads, at tap (kh, kw),
//! `plane[oh · pitch + ow + offset(kh, kw)]`. Where the window is wider than one, each row of `pitch` columns ends in a few that
//! are no output; a sieve drops them at the store. On narrow maps that would waste too much: there a plane has a line for each tap of
//! a row, and its pixels are side by side.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use crate::Error;
use crate::isa::F32s;
use crate::ops::ConvShape;
use crate::ops::conv::part::WIDE;
use crate::pack::extent;
use crate::panel::{LINE, lines};
use crate::tile::gemm::Sieved;

/// Output pixels of a strip: what one thread takes, and what stays in L2 while the depth blocks pass over it.
const STRIP: usize = 512;

/// Output rows of a strip of copies; strips are as even as can be.
fn strip_rows((h, w): (usize, usize)) -> usize {
    h.div_ceil(h.div_ceil(STRIP.div_ceil(w)))
}

/// Output channels from which on a line a tap pays: each input is written once a tap of a row.
const UNROLLED_ROWS: usize = 16;

/// Elements of such lines at most: 2 MiB, so that they stay in L2 and L3.
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
    /// Whether there is a line for each tap of a row.
    unrolled: bool,
    /// Rows of a line of a strip.
    rows: usize,
    /// Phases of rows, and lines of each: phases of columns, or taps of a row.
    phases: usize,
    across: usize,
    /// Input columns from the first of a line to that of the next.
    step: usize,
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
        let (rows, pitch) = (strip_rows(output) + reach(0), output.1 + reach(1));
        let (groups, taps) = (shape.groups.max(1), shape.kernel[1]);
        let (c_in, c_out) = (shape.c_in.max(1), shape.c_out / groups);
        extent(&[c_in, phases(0), phases(1), rows, pitch], "padded x")?;
        let unrolled = extent(
            &[c_in / groups, phases(0), taps, rows, output.1],
            "unrolled x",
        )?;
        let narrow = 8 * (pitch - output.1) > output.1;
        let unrolled = narrow && c_out >= UNROLLED_ROWS && unrolled <= UNROLLED_LEN;
        let unit = shape.kernel == [1, 1] && shape.stride == [1, 1] && shape.pads == [0; 4];
        let geometry = Self {
            shape: *shape,
            input: (h, w),
            output,
            lanes,
            pitch: if unrolled { output.1 } else { pitch },
            in_place: unit && h * w >= lanes,
            unrolled,
            rows,
            phases: phases(0),
            across: if unrolled { taps } else { phases(1) },
            step: if unrolled { shape.dilation[1] } else { 1 },
        };
        if !geometry.is_flat() && geometry.columns(geometry.strip()) > SIEVED {
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
        self.pitch == self.output.1
    }

    /// Elements of a line.
    fn line(&self) -> usize {
        (self.rows * self.pitch).next_multiple_of(LINE)
    }

    /// Elements of the copy of a plane.
    fn plane(&self) -> usize {
        self.phases * self.across * self.line()
    }

    /// Elements that the copies of `channels` planes take.
    pub(super) fn planes_len(&self, channels: usize) -> usize {
        if self.in_place {
            return 0;
        }
        // The last tile reads up to a tile past the last pixel.
        let slack = (WIDE + 1) * self.lanes;
        lines(channels * self.plane() + slack)
    }

    /// Output pixels of a strip: whole tiles of x itself, whole rows of copies.
    pub(super) fn strip(&self) -> usize {
        if self.in_place {
            STRIP.next_multiple_of(WIDE * self.lanes)
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
        let vectors = self.columns(self.strip()) / self.lanes + WIDE + 1;
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

    /// For each tap, where it is for the first output pixel in each of `channels`.
    pub(super) fn offsets(&self, channels: &[u32]) -> Vec<u32> {
        if self.in_place {
            let pixels = self.pixels() as u32;
            return channels.iter().map(|c| c * pixels).collect();
        }
        let [kernel_h, kernel_w] = self.shape.kernel;
        let ([sh, sw], [dh, dw]) = (self.shape.stride, self.shape.dilation);
        let mut offsets = Vec::with_capacity(channels.len() * kernel_h * kernel_w);
        for kh in 0..kernel_h {
            for kw in 0..kernel_w {
                let (line, right) = if self.unrolled {
                    (kw, 0)
                } else {
                    (kw * dw % sw % self.across, kw * dw / sw)
                };
                let line = kh * dh % sh % self.phases * self.across + line;
                let first = line * self.line() + kh * dh / sh * self.pitch + right;
                offsets
                    .extend((0..channels.len()).map(|slot| (slot * self.plane() + first) as u32));
            }
        }
        offsets
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
        let first = pixel / self.output.1 * self.shape.stride[0];
        let map = self.map();
        let mut at = 0;
        for (i, &c) in channels.iter().enumerate() {
            let next = channels
                .get(i + 1)
                .map_or(map * c as usize, |&c| map * c as usize);
            let planes = [&x[c as usize * map..][..map], &x[next..][..map]];
            for phase in 0..self.phases {
                let row = first + phase;
                if (self.across, self.step, self.shape.stride[1]) == (2, 1, 2) {
                    self.copy::<S, 2>(s, planes, row, 0, &mut room[at..]);
                    at += 2 * self.line();
                    continue;
                }
                for i in 0..self.across {
                    self.copy::<S, 1>(s, planes, row, i * self.step, &mut room[at..]);
                    at += self.line();
                }
            }
        }
        room[at..].fill(0.0);
        room
    }

    /// Copies `N` neighbouring lines of a plane: `out[i · line + r · pitch + j] = x[first + r · stride, from + i + j · stride]`, rows and
    /// columns counted from the border's first, and fetches as much of the plane that is copied next.
    #[inline(always)]
    fn copy<S: F32s, const N: usize>(
        &self,
        s: S,
        [x, next]: [&[f32]; 2],
        first: usize,
        from: usize,
        out: &mut [f32],
    ) {
        let ((h, w), pitch) = (self.input, self.pitch);
        let ([sh, sw], [top, left, ..]) = (self.shape.stride, self.shape.pads);
        // Columns that a vector of outputs has, and, from stride 3 on, the lanes of the inputs that they are.
        let each = if sw <= 2 {
            S::LANES
        } else {
            (S::LANES / sw).max(1)
        };
        let keep = (0..each).fold(0u32, |bits, i| bits | 1u32 << (i * sw));
        for at in (0..pitch).step_by(each) {
            let start = (from + at * sw) as isize - left as isize;
            let near = s.window(start, w);
            let far = s.window(start + S::LANES as isize, w);
            for r in 0..self.rows {
                let y = (first + r * sh).wrapping_sub(top);
                let mut lines = [s.splat(0.0); 2];
                if y < h {
                    let row = &x[y * w..][..w];
                    s.prefetch_ahead(&next[y * w..][..w], start.max(0) as usize);
                    [lines[0]] = s.load_window(row, &near);
                    if sw == 2 {
                        let [odd] = s.load_window(row, &far);
                        lines = s.deinterleave(lines[0], odd).into();
                    } else if sw > 2 {
                        lines[0] = s.compress(lines[0], keep);
                    }
                }
                // What is too much is overwritten by the next row.
                let room = r * pitch + S::LANES <= self.line();
                let whole = pitch <= each && room || each == S::LANES && at + each <= pitch;
                for (i, &v) in lines[..N].iter().enumerate() {
                    let to = &mut out[i * self.line() + r * pitch + at..];
                    if whole {
                        s.store(v, to);
                    } else {
                        s.store_some(v, &mut to[..each.min(pitch - at)]);
                    }
                }
            }
        }
        // Lanes that are no output read what is behind a line. Lists that were there once would be subnormal numbers, which take a hundred times as long.
        for line in out.chunks_mut(self.line()).take(N) {
            line[self.rows * pitch..].fill(0.0);
        }
    }
}
