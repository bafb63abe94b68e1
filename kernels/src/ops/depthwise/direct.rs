//! K x K with stride 1, straight from the plane: no copy, no padding in memory.
//!
//! A pass computes R rows of one vector of columns. It walks the R + K - 1 rows of the map that these see, and each of the K vectors that it
//! loads from a row serves up to K rows of the output: (R + K - 1) K loads for R K² FMAs. The chains of an output stay in ascending
//! (k, l), since the rows of the map are walked in order.
//!
//! Padding: rows above and below the map are a row of zeros; columns beside it are the zero lanes of masked loads, which only the first
//! and last vectors of a row need.

use super::Plane;
use crate::isa::F32s;

/// The widest map: rows of padding are read from zeros of this length.
pub(super) const WIDEST: usize = 1024;

static ZEROS: [f32; WIDEST] = [0.0; WIDEST];

#[inline(always)]
pub(super) fn plane<S: F32s, const K: usize>(s: S, plane: Plane<'_>, y: &mut [f32]) {
    let mut weights = [[s.splat(0.0); K]; K];
    for (to, from) in weights.iter_mut().flatten().zip(plane.weights) {
        *to = s.splat(*from);
    }
    let mut row = 0;
    // 56, 28, 14 and 7 rows are multiples of seven. Weights and sums of seven rows of 3 x 3 fit 32 registers, four rows of 5 x 5
    // do; 16 registers hold four rows of 3 x 3.
    if S::REGISTERS >= 32 && K == 3 {
        while row + 7 <= plane.out.0 {
            rows::<S, K, 7>(s, plane, &weights, row, y);
            row += 7;
        }
    }
    while row + 4 <= plane.out.0 {
        rows::<S, K, 4>(s, plane, &weights, row, y);
        row += 4;
    }
    while row + 2 <= plane.out.0 {
        rows::<S, K, 2>(s, plane, &weights, row, y);
        row += 2;
    }
    if row < plane.out.0 {
        rows::<S, K, 1>(s, plane, &weights, row, y);
    }
}

/// Rows `row..row + R` of the output.
#[inline(always)]
fn rows<S: F32s, const K: usize, const R: usize>(
    s: S,
    plane: Plane<'_>,
    weights: &[[S::V; K]; K],
    row: usize,
    y: &mut [f32],
) {
    let (h, w) = plane.map;
    let ow = plane.out.1;
    let [top, left, ..] = plane.shape.pads;
    // R + K - 1 rows; const generics cannot say so, 11 is enough for all.
    const { assert!(R + K - 1 <= 11, "too many rows") };
    let mut map = [&ZEROS[..w]; 11];
    for i in 0..R + K - 1 {
        if let Some(from) = (row + i).checked_sub(top).filter(|&r| r < h) {
            map[i] = &plane.x[from * w..][..w];
        }
    }
    let y = &mut y[row * ow..][..R * ow];
    let lo = s.splat(plane.clamp.0);
    let hi = s.splat(plane.clamp.1);
    let bias = s.splat(plane.bias);
    let mut at = 0;
    while at < ow {
        let mut acc = [bias; R];
        if at >= left && at - left + S::LANES + K - 1 <= w {
            for i in 0..R + K - 1 {
                let x = &map[i][at - left..][..S::LANES + K - 1];
                for l in 0..K {
                    let x = s.load(&x[l..]);
                    for r in 0..R {
                        if i >= r && i - r < K {
                            acc[r] = s.mul_add(x, weights[i - r][l], acc[r]);
                        }
                    }
                }
            }
        } else {
            for i in 0..R + K - 1 {
                let x = &map[i][..w];
                for l in 0..K {
                    let from = (at + l).saturating_sub(left).min(w);
                    let x = s.load_at(&x[from..], left.saturating_sub(at + l));
                    for r in 0..R {
                        if i >= r && i - r < K {
                            acc[r] = s.mul_add(x, weights[i - r][l], acc[r]);
                        }
                    }
                }
            }
        }
        for r in 0..R {
            let v = s.min(hi, s.max(lo, acc[r]));
            let to = &mut y[r * ow..][..ow][at..];
            if at + S::LANES <= ow {
                s.store(v, to);
            } else {
                s.store_some(v, to);
            }
        }
        at += S::LANES;
    }
}
