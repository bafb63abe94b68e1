//! Windows of a plane.
#![forbid(unsafe_code)]

use super::{PoolOp, PoolShape};
use crate::isa::{F32s, Task};

/// Floats of a row of windows that are joined over the rows of the map before they are joined along the row; on the stack.
const STRIP: usize = 1024;

#[derive(Clone, Copy)]
pub(super) struct Plane<'a> {
    pub(super) op: PoolOp,
    pub(super) shape: &'a PoolShape,
    pub(super) x: &'a [f32],
    pub(super) map: (usize, usize),
    pub(super) out: (usize, usize),
}

impl Plane<'_> {
    #[inline(always)]
    fn join<S: F32s>(s: S, max: bool, a: S::V, b: S::V) -> S::V {
        if max { s.max_nan(a, b) } else { s.add(a, b) }
    }

    /// to[i] = join of x[r * pitch + i] over `rows` rows. The joined are in registers: a load waits long for a masked store before it.
    #[inline(always)]
    fn join_rows<S: F32s>(
        s: S,
        max: bool,
        neutral: f32,
        (x, pitch, rows): (&[f32], usize, usize),
        to: &mut [f32],
    ) {
        for (i, to) in to.chunks_mut(S::LANES).enumerate() {
            let mut v = s.splat(neutral);
            for r in 0..rows {
                let x = &x[r * pitch + i * S::LANES..];
                let x = if to.len() == S::LANES {
                    s.load(x)
                } else {
                    s.load_some(&x[..to.len()])
                };
                v = Self::join(s, max, v, x);
            }
            if to.len() == S::LANES {
                s.store(v, to);
            } else {
                s.store_some(v, to);
            }
        }
    }

    /// to[i] = join of x[i * step + k * dilation] over `taps` taps k
    #[inline(always)]
    fn join_taps<S: F32s>(
        s: S,
        max: bool,
        neutral: f32,
        (x, step, taps, dilation): (&[f32], usize, usize, usize),
        to: &mut [f32],
    ) {
        if step > 2 {
            to.fill(neutral);
            for k in 0..taps {
                Self::join_scalar(max, x[k * dilation..].iter().step_by(step), to);
            }
            return;
        }
        for (i, to) in to.chunks_mut(S::LANES).enumerate() {
            let mut v = s.splat(neutral);
            for k in 0..taps {
                let x = &x[k * dilation + i * S::LANES * step..];
                let mut tap = s.load_some(x);
                if step == 2 {
                    let behind = &x[S::LANES.min(x.len())..];
                    (tap, _) = s.deinterleave(tap, s.load_some(behind));
                }
                v = Self::join(s, max, v, tap);
            }
            s.store_some(v, to);
        }
    }

    #[inline(always)]
    fn join_scalar<'x>(max: bool, x: impl Iterator<Item = &'x f32>, to: &mut [f32]) {
        if max {
            for (to, &x) in to.iter_mut().zip(x) {
                *to = if *to > x || to.is_nan() { *to } else { x };
            }
        } else {
            for (to, &x) in to.iter_mut().zip(x) {
                *to += x;
            }
        }
    }

    /// All output rows, in pieces whose windows fit a strip. For some rows at a time, the rows of the map are joined into the strip, whole
    /// vectors at a time, then the taps along each row, which the strip has neutral padding for. Row by row, the taps would wait for stores
    /// that they overlap: half of the time.
    #[inline(always)]
    fn rows<S: F32s>(self, s: S, strip: &mut [f32; STRIP], y: &mut [f32]) {
        let ([_, kw], sw, dw) = (
            self.shape.kernel,
            self.shape.stride[1],
            self.shape.dilation[1],
        );
        let max = self.op == PoolOp::Max;
        let neutral = if max { f32::NEG_INFINITY } else { 0.0 };
        let ow = self.out.1;
        let reach = (kw - 1) * dw + 1;
        let piece = ((STRIP - reach) / sw + 1).min(ow);
        let width = (piece - 1) * sw + reach;
        let together = STRIP / width;
        for (batch, y) in y.chunks_mut(ow * together).enumerate() {
            for column in (0..ow).step_by(piece) {
                let columns = piece.min(ow - column);
                let len = (columns - 1) * sw + reach;
                let rows = y.chunks(ow).zip(strip.chunks_exact_mut(width));
                for (i, (_, strip)) in rows.enumerate() {
                    let o = batch * together + i;
                    self.above(s, (o, column * sw), neutral, &mut strip[..len]);
                }
                for (y, strip) in y.chunks_mut(ow).zip(strip.chunks_exact(width)) {
                    let (to, taps) = (&mut y[column..][..columns], (&strip[..len], sw, kw, dw));
                    Self::join_taps(s, max, neutral, taps, to);
                }
            }
        }
    }

    /// Joins the rows of the map that the windows of row `o` see; column `from` of the padded map is the first of the strip.
    #[inline(always)]
    fn above<S: F32s>(self, s: S, (o, from): (usize, usize), neutral: f32, strip: &mut [f32]) {
        let (sh, dh) = (self.shape.stride[0], self.shape.dilation[0]);
        let (h, w) = self.map;
        let (top, left) = (self.shape.pads[0], self.shape.pads[1]);
        let (first, end) = self.shape.taps(0, o, 0, h as isize);
        let skip = left.saturating_sub(from).min(strip.len());
        let inside = (from + skip).saturating_sub(left).min(w);
        let inside = inside..w.min(inside + strip.len() - skip);
        let (before, rest) = strip.split_at_mut(skip);
        let (seen, behind) = rest.split_at_mut(inside.len());
        before.fill(neutral);
        behind.fill(neutral);
        let rows = match end - first {
            0 => &[][..],
            _ => &self.x[(o * sh + first * dh - top) * w + inside.start..],
        };
        let max = self.op == PoolOp::Max;
        Self::join_rows(s, max, neutral, (rows, dh * w, end - first), seen);
    }

    /// Sums of row `o` to means.
    fn divide(self, include_pad: bool, o: usize, y: &mut [f32]) {
        let (h, w) = self.map;
        let edges = |i: usize, n: usize| match include_pad {
            true => self.shape.padded(i, n),
            false => 0..n as isize,
        };
        let count = |i, o, n| {
            let edges = edges(i, n);
            let (first, end) = self.shape.taps(i, o, edges.start, edges.end);
            end - first
        };
        let rows = count(0, o, h);
        for (c, y) in y.iter_mut().enumerate() {
            // Huge borders count too: the product may be no integer of ours.
            *y /= rows as f32 * count(1, c, w) as f32;
        }
    }

    /// A row, of sums as yet for means, of windows wider than a strip.
    fn row_plain(self, o: usize, y: &mut [f32]) {
        let (h, w) = self.map;
        let (first, end) = self.shape.taps(0, o, 0, h as isize);
        let [dh, dw] = self.shape.dilation;
        for (c, y) in y.iter_mut().enumerate() {
            let (left, right) = self.shape.taps(1, c, 0, w as isize);
            *y = if self.op == PoolOp::Max {
                f32::NEG_INFINITY
            } else {
                0.0
            };
            for k in left..right {
                for r in first..end {
                    let i = o * self.shape.stride[0] + r * dh - self.shape.pads[0];
                    let j = c * self.shape.stride[1] + k * dw - self.shape.pads[1];
                    let x = self.x[i * w + j];
                    *y = match self.op {
                        PoolOp::Max if *y > x || y.is_nan() => *y,
                        PoolOp::Max => x,
                        PoolOp::Mean { .. } => *y + x,
                    };
                }
            }
        }
    }
}

impl Task for (Plane<'_>, &mut [f32]) {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let (plane, y) = self;
        let [kw, dw] = [plane.shape.kernel[1], plane.shape.dilation[1]];
        let fits = (kw - 1) * dw < STRIP / 2 && plane.shape.stride[1] <= STRIP;
        let ow = plane.out.1;
        if fits {
            plane.rows(s, &mut [0.0; STRIP], y);
        } else {
            for (o, y) in y.chunks_exact_mut(ow).enumerate() {
                plane.row_plain(o, y);
            }
        }
        if let PoolOp::Mean { include_pad } = plane.op {
            for (o, y) in y.chunks_exact_mut(ow).enumerate() {
                plane.divide(include_pad, o, y);
            }
        }
    }
}
