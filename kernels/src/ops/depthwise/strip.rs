//! Any kernel, stride and dilation, over a strip: a padded copy of the part of the plane that a piece of the output sees.
//!
//! A row of the strip is cut into `stride` phases: phase f holds the columns f, f + stride, f + 2 stride ... one after the other, so that
//! every tap is a whole vector of consecutive elements whatever the stride, and the padding is zeros in the strip:
//! the inner loop has neither a branch nor a masked load.

use super::Plane;
use crate::isa::F32s;

/// Floats of a strip, on the stack.
const STRIP: usize = 8192;

/// Columns of the output that one pass keeps in registers.
const VECTORS: usize = 4;

#[inline(always)]
pub(super) fn plane<S: F32s>(s: S, plane: Plane<'_>, y: &mut [f32]) {
    let shape = plane.shape;
    let (oh, ow) = plane.out;
    let [kh, kw] = shape.kernel;
    let [sh, sw] = shape.stride;
    let [dh, dw] = shape.dilation;
    // A phase holds the columns of the piece, the taps' reach and a vector of slack.
    let phase = |cols: usize| {
        cols.saturating_add((kw - 1).saturating_mul(dw) / sw + 1)
            .saturating_add(S::LANES)
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
        if rows > 8 || (rows > 1 && cols <= VECTORS * S::LANES) {
            rows = rows.div_ceil(2);
        } else if cols > 1 {
            cols = cols.div_ceil(2);
        } else {
            return plain(plane, y);
        }
    }
    let need = size(rows, cols);
    if need <= STRIP / 8 {
        pieces::<S, { STRIP / 8 }>(s, plane, (rows, cols), need, phase, y);
    } else {
        pieces::<S, STRIP>(s, plane, (rows, cols), need, phase, y);
    }
}

/// The output in pieces of `rows` x `cols`, each over a strip of N floats, of which `need` are used.
#[inline(always)]
fn pieces<S: F32s, const N: usize>(
    s: S,
    plane: Plane<'_>,
    (rows, cols): (usize, usize),
    need: usize,
    phase: impl Fn(usize) -> usize,
    y: &mut [f32],
) {
    let (oh, ow) = plane.out;
    let mut strip = [0.0; N];
    let mut row = 0;
    while row < oh {
        let rows = rows.min(oh - row);
        let mut col = 0;
        while col < ow {
            let cols = cols.min(ow - col);
            let piece = Piece {
                plane,
                row,
                col,
                rows,
                cols,
                phase: phase(cols),
            };
            // A piece at the end uses less; what it does not use may be filled all the same.
            if (row, col) != (0, 0) {
                strip[..need].fill(0.0);
            }
            piece.fill(&mut strip[..need]);
            match plane.shape.kernel {
                [3, 3] => piece.compute_square::<S, 3>(s, &strip, y),
                [5, 5] => piece.compute_square::<S, 5>(s, &strip, y),
                _ => piece.compute(s, &strip, y),
            }
            col += cols;
        }
        row += rows;
    }
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
    fn fill(self, strip: &mut [f32]) {
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

    /// acc[v] = bias + Σ taps, for one row and `VECTORS` vectors of columns at a time.
    #[inline(always)]
    fn compute<S: F32s>(self, s: S, strip: &[f32], y: &mut [f32]) {
        let [kh, kw] = self.plane.shape.kernel;
        for r in 0..self.rows {
            let mut at = 0;
            while at + VECTORS * S::LANES <= self.cols {
                let mut acc = [s.splat(self.plane.bias); VECTORS];
                for k in 0..kh {
                    for l in 0..kw {
                        let w = s.splat(self.plane.weights[k * kw + l]);
                        let x = &strip[self.tap(r, k, l) + at..][..VECTORS * S::LANES];
                        for (v, acc) in acc.iter_mut().enumerate() {
                            *acc = s.mul_add(s.load(&x[v * S::LANES..][..S::LANES]), w, *acc);
                        }
                    }
                }
                for (v, acc) in acc.into_iter().enumerate() {
                    self.store(s, acc, r, at + v * S::LANES, y);
                }
                at += VECTORS * S::LANES;
            }
            while at < self.cols {
                let mut acc = s.splat(self.plane.bias);
                for k in 0..kh {
                    for l in 0..kw {
                        let w = s.splat(self.plane.weights[k * kw + l]);
                        acc = s.mul_add(s.load(&strip[self.tap(r, k, l) + at..]), w, acc);
                    }
                }
                self.store(s, acc, r, at, y);
                at += S::LANES;
            }
        }
    }

    /// The same for K x K, weights in registers.
    #[inline(always)]
    fn compute_square<S: F32s, const K: usize>(self, s: S, strip: &[f32], y: &mut [f32]) {
        let mut weights = [[s.splat(0.0); K]; K];
        for (to, from) in weights.iter_mut().flatten().zip(self.plane.weights) {
            *to = s.splat(*from);
        }
        let mut taps = [[0; K]; K];
        for k in 0..K {
            for l in 0..K {
                taps[k][l] = self.tap(0, k, l);
            }
        }
        let bias = s.splat(self.plane.bias);
        let step = self.tap(1, 0, 0);
        for r in 0..self.rows {
            let strip = &strip[r * step..];
            for at in (0..self.cols).step_by(S::LANES) {
                let mut acc = bias;
                for k in 0..K {
                    for l in 0..K {
                        acc = s.mul_add(s.load(&strip[taps[k][l] + at..]), weights[k][l], acc);
                    }
                }
                self.store(s, acc, r, at, y);
            }
        }
    }
}

/// One output at a time, for kernels that reach further than a strip is long.
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
