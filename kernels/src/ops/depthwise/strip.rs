//! Any kernel, stride and dilation, over a strip: a padded copy of the part of the plane that a piece of the output sees.
//!
//! A row of the strip is cut into `stride` phases: phase f holds the columns f, f + stride, f + 2 stride ... one after the other, so that
//! every tap is a whole vector of consecutive elements whatever the stride, and the padding is zeros in the strip:
//! the inner loop has neither a branch nor a masked load.

use super::{Job, Plane};
use crate::isa::F32s;

/// Floats of a strip, on the stack.
const STRIP: usize = 8192;
/// The most taps of a kernel.
const TAPS: usize = 128;

/// Zeros on a cache line.
#[repr(align(64))]
struct Strip<const N: usize>([f32; N]);

/// How the planes of a call are cut into pieces.
#[derive(Clone, Copy)]
struct Cut {
    rows: usize,
    cols: usize,
    /// Floats of a strip that are used.
    need: usize,
}

#[inline(always)]
pub(super) fn planes<S: F32s>(s: S, job: &mut Job<'_, '_>) {
    let shape = &job.call.shape;
    let (oh, ow) = job.call.out;
    let [kh, kw] = shape.kernel;
    let [sh, sw] = shape.stride;
    let [dh, dw] = shape.dilation;
    // A phase holds the columns of the piece, the taps' reach and a vector of slack, in whole cache lines.
    let phase = |cols: usize| {
        cols.saturating_add((kw - 1).saturating_mul(dw) / sw + 1)
            .saturating_add(S::LANES + 15)
            & !15
    };
    let size = |rows: usize, cols: usize| {
        let rows = (rows - 1)
            .saturating_mul(sh)
            .saturating_add((kh - 1).saturating_mul(dh))
            .saturating_add(1);
        rows.saturating_mul(sw).saturating_mul(phase(cols))
    };
    let (mut rows, mut cols) = (oh, ow);
    while size(rows, cols) > STRIP {
        if rows > 8 || (rows > 1 && cols <= 4 * S::LANES) {
            rows = rows.div_ceil(2);
        } else if cols > 1 {
            cols = cols.div_ceil(2);
        } else {
            return job.each_plane(plain);
        }
    }
    if kh.saturating_mul(kw) > TAPS {
        return job.each_plane(plain);
    }
    let cut = Cut {
        rows,
        cols,
        need: size(rows, cols),
    };
    if cut.need <= STRIP / 8 {
        pieces::<S, { STRIP / 8 }>(s, job, cut, phase);
    } else {
        pieces::<S, STRIP>(s, job, cut, phase);
    }
}

/// The planes in pieces, each over a strip of N floats.
#[inline(always)]
fn pieces<S: F32s, const N: usize>(
    s: S,
    job: &mut Job<'_, '_>,
    cut: Cut,
    phase: impl Fn(usize) -> usize,
) {
    let (oh, ow) = job.call.out;
    let mut strip = Strip([0.0; N]);
    // The padding of a plane that is one piece is that of all planes.
    let alone = cut.rows == oh && cut.cols == ow;
    // Where the taps are, for pieces of the phase that was last seen.
    let (mut taps, mut known) = ([0; TAPS], 0);
    job.each_plane(
        #[inline(always)]
        |plane, y| {
            for row in (0..oh).step_by(cut.rows) {
                for col in (0..ow).step_by(cut.cols) {
                    let cols = cut.cols.min(ow - col);
                    let piece = Piece {
                        plane,
                        row,
                        col,
                        rows: cut.rows.min(oh - row),
                        cols,
                        phase: phase(cols),
                    };
                    // A piece at the end uses less; what it does not use may be filled all the same.
                    let strip = &mut strip.0[..cut.need];
                    if !alone {
                        strip.fill(0.0);
                    }
                    piece.fill(s, strip);
                    let taps = &mut taps[..plane.shape.kernel[0] * plane.shape.kernel[1]];
                    if known != piece.phase {
                        piece.taps(taps);
                        known = piece.phase;
                    }
                    piece.compute(s, strip, taps, y);
                }
            }
        },
    );
}

/// A piece of the output: `rows` x `cols` at (`row`, `col`).
#[derive(Clone, Copy)]
struct Piece<'a> {
    plane: Plane<'a>,
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
    phase: usize,
}

impl Piece<'_> {
    /// Copies what the piece sees into a strip of zeros.
    #[inline(always)]
    fn fill<S: F32s>(self, s: S, strip: &mut [f32]) {
        let shape = self.plane.shape;
        let (h, w) = self.plane.map;
        let [sh, sw] = shape.stride;
        let [top, left, ..] = shape.pads;
        for (i, rows) in strip.chunks_exact_mut(sw * self.phase).enumerate() {
            let Some(r) = (self.row * sh + i).checked_sub(top).filter(|&r| r < h) else {
                continue;
            };
            let row = &self.plane.x[r * w..][..w];
            for (f, to) in rows.chunks_exact_mut(self.phase).enumerate() {
                // Element t of this phase is column (col + t) stride + f - left of the map.
                let origin = self.col * sw + f;
                let skip = left.saturating_sub(origin).div_ceil(sw).min(to.len());
                let from = (origin + skip * sw).saturating_sub(left);
                if skip == to.len() || from >= w {
                    continue;
                }
                let (to, from) = (&mut to[skip..], &row[from..]);
                match sw {
                    1 => {
                        let n = to.len().min(from.len());
                        to[..n].copy_from_slice(&from[..n]);
                    }
                    2 => {
                        let (mut to, mut from) = (to, from);
                        while to.len() >= S::LANES && from.len() >= 2 * S::LANES {
                            let (even, _) = s.deinterleave(s.load(from), s.load(&from[S::LANES..]));
                            s.store(even, to);
                            to = &mut to[S::LANES..];
                            from = &from[2 * S::LANES..];
                        }
                        for (to, from) in to.iter_mut().zip(from.chunks(2)) {
                            *to = from[0];
                        }
                    }
                    _ => {
                        for (to, &x) in to.iter_mut().zip(from.iter().step_by(sw)) {
                            *to = x;
                        }
                    }
                }
            }
        }
    }

    /// Where in the strip tap (k, l) of output row `r` of the piece begins.
    #[inline(always)]
    fn tap(self, r: usize, k: usize, l: usize) -> usize {
        let [sh, sw] = self.plane.shape.stride;
        let [dh, dw] = self.plane.shape.dilation;
        ((r * sh + k * dh) * sw + l * dw % sw) * self.phase + l * dw / sw
    }

    #[inline(always)]
    fn store<S: F32s>(self, s: S, v: S::V, r: usize, at: usize, y: &mut [f32]) {
        let (lo, hi) = self.plane.clamp;
        let v = s.min(s.splat(hi), s.max(s.splat(lo), v));
        let to = &mut y[(self.row + r) * self.plane.out.1 + self.col..][..self.cols][at..];
        if to.len() >= S::LANES {
            s.store(v, to);
        } else {
            s.store_some(v, to);
        }
    }

    /// Where in the strip the taps of the first output begin.
    #[inline(always)]
    fn taps(self, taps: &mut [usize]) {
        let [_, kw] = self.plane.shape.kernel;
        for (i, tap) in taps.iter_mut().enumerate() {
            *tap = self.tap(0, i / kw, i % kw);
        }
    }

    #[inline(always)]
    fn compute<S: F32s>(self, s: S, strip: &[f32], taps: &[usize], y: &mut [f32]) {
        let vectors = self.cols.div_ceil(S::LANES);
        let mut v = 0;
        while v < vectors {
            let at = v * S::LANES;
            v += match vectors - v {
                4.. => self.columns::<S, 2, 4>(s, strip, taps, at, y),
                3 => self.columns::<S, 3, 3>(s, strip, taps, at, y),
                2 => self.columns::<S, 4, 2>(s, strip, taps, at, y),
                _ => self.columns::<S, 8, 1>(s, strip, taps, at, y),
            };
        }
    }

    /// V vectors of columns from column `at` on, R rows at a time. Returns V.
    #[inline(always)]
    fn columns<S: F32s, const R: usize, const V: usize>(
        self,
        s: S,
        strip: &[f32],
        taps: &[usize],
        at: usize,
        y: &mut [f32],
    ) -> usize {
        let mut r = 0;
        while r + R <= self.rows {
            self.tile::<S, R, V>(s, strip, taps, r, at, y);
            r += R;
        }
        while r < self.rows {
            self.tile::<S, 1, V>(s, strip, taps, r, at, y);
            r += 1;
        }
        V
    }

    /// bias + Σ taps, for R rows from row `r` on and V vectors of columns from column `at` on.
    #[inline(always)]
    fn tile<S: F32s, const R: usize, const V: usize>(
        self,
        s: S,
        strip: &[f32],
        taps: &[usize],
        r: usize,
        at: usize,
        y: &mut [f32],
    ) {
        let step = self.tap(1, 0, 0);
        let strip = &strip[r * step + at..];
        let reach = (R - 1) * step + V * S::LANES;
        let mut acc = [[s.splat(self.plane.bias); R]; V];
        for (&tap, &w) in taps.iter().zip(self.plane.weights) {
            let w = s.splat(w);
            let x = &strip[tap..][..reach];
            for v in 0..V {
                let x: [S::V; R] = s.load_pitched(&x[v * S::LANES..], step);
                for r in 0..R {
                    acc[v][r] = s.mul_add(x[r], w, acc[v][r]);
                }
            }
        }
        for v in 0..V {
            for i in 0..R {
                self.store(s, acc[v][i], r + i, at + v * S::LANES, y);
            }
        }
    }
}

/// One output at a time, for kernels that reach further than a strip is long.
#[inline(never)]
fn plain(plane: Plane<'_>, y: &mut [f32]) {
    let (h, w) = plane.map;
    let shape = plane.shape;
    let [kh, kw] = shape.kernel;
    for (i, y) in y.chunks_exact_mut(plane.out.1).enumerate() {
        for (j, y) in y.iter_mut().enumerate() {
            let mut acc = plane.bias;
            for k in 0..kh {
                let r = i * shape.stride[0] + k * shape.dilation[0];
                let Some(r) = r.checked_sub(shape.pads[0]).filter(|&r| r < h) else {
                    continue;
                };
                for l in 0..kw {
                    let c = j * shape.stride[1] + l * shape.dilation[1];
                    if let Some(c) = c.checked_sub(shape.pads[1]).filter(|&c| c < w) {
                        acc += plane.x[r * w + c] * plane.weights[k * kw + l];
                    }
                }
            }
            let (lo, hi) = plane.clamp;
            let acc = if lo > acc { lo } else { acc };
            *y = if hi < acc { hi } else { acc };
        }
    }
}
