//! 3 x 3, stride 1, an output of the size of the map, over the plane as one flat row, as in `flat`; every element is loaded three times.
//!
//! The three taps of a row of the kernel are a vector and that vector moved by one lane to either side, which takes its neighbours in the
//! plane: the rows of the kernel slide over the plane, three vectors each. Where a column leaves the map the moved vectors are masked;
//! above and below the map the loads are. Both kinds of masks are made once for all planes.

use super::flat::{columns, inside};
use super::{Call, Job};
use crate::Isa;
use crate::isa::{F32s, Window};

/// Vectors of a plane that the masks are made for at a time.
const VECTORS: usize = 32;

/// Whether this kernel takes the call.
pub(super) fn serves(isa: Isa, call: &Call<'_>) -> bool {
    let shape = &call.shape;
    // Wider maps fill the vectors of the direct kernel. Zen 5, AVX-512: 64 planes of 20 x 20 take 6.3 us here and 8.8 there, 32 planes of
    // 28 x 28 take 6.3 and 5.2.
    let widest = if isa.lanes() >= 16 { 24 } else { 7 };
    // A row with its padding in one vector is for the direct kernel as well.
    let one = isa.lanes() / 2..isa.lanes();
    let small = call.map.0 < 1 << 20 && call.map.1 <= widest && !one.contains(&call.map.1);
    (shape.kernel, shape.stride, shape.dilation) == ([3, 3], [1, 1], [1, 1])
        && shape.pads == [1; 4]
        && small
}

/// U vectors at a time, each with its own chain.
#[inline(always)]
pub(super) fn planes<S: F32s, const U: usize>(s: S, job: &mut Job<'_, '_>) {
    let (h, w) = job.call.map;
    let size = h * w;
    for from in (0..size).step_by(VECTORS * S::LANES) {
        let n = (size - from).div_ceil(U * S::LANES).min(VECTORS / U);
        // Where the column on the left and on the right is one of the map.
        let mut sides = [[[s.lanes(0, 0); U]; 2]; VECTORS];
        for (i, sides) in sides[..n].iter_mut().enumerate() {
            let columns: [S::V; U] = columns(s, from + i * U * S::LANES, w);
            *sides = [inside(s, &columns, -1, w), inside(s, &columns, 1, w)];
        }
        // For each row of the kernel: the vector before the first and the first, then U at a time those that follow.
        let first = from as isize - w as isize;
        let at = |vector: usize, k: usize| first + (vector * S::LANES + k * w) as isize;
        let mut head: [Window<S::M, 2>; 3] = [s.window(0, 0); 3];
        for k in 0..3 {
            head[k] = s.window(at(0, k) - S::LANES as isize, size);
        }
        let mut rows: [[Window<S::M, U>; 3]; VECTORS] = [[s.window(0, 0); 3]; VECTORS];
        for (i, rows) in rows[..n].iter_mut().enumerate() {
            for k in 0..3 {
                rows[k] = s.window(at(i * U + 1, k), size);
            }
        }
        job.each_plane(
            #[inline(always)]
            |plane, y| {
                let x = plane.x;
                let mut weights = [s.splat(0.0); 9];
                for (to, from) in weights.iter_mut().zip(plane.weights) {
                    *to = s.splat(*from);
                }
                let (lo, hi) = (s.splat(plane.clamp.0), s.splat(plane.clamp.1));
                let bias = s.splat(plane.bias);
                let mut seen = [[bias; 2]; 3];
                for k in 0..3 {
                    seen[k] = s.load_window(x, &head[k]);
                }
                let y = y[from..].chunks_mut(U * S::LANES);
                for ((y, rows), [left, right]) in y.zip(&rows[..n]).zip(&sides) {
                    let mut acc = [bias; U];
                    for k in 0..3 {
                        for (i, next) in s.load_window(x, &rows[k]).into_iter().enumerate() {
                            let [before, here] = seen[k];
                            let taps = [
                                s.shift_in(left[i], before, here),
                                here,
                                s.shift_out(right[i], here, next),
                            ];
                            for l in 0..3 {
                                acc[i] = s.mul_add(taps[l], weights[3 * k + l], acc[i]);
                            }
                            seen[k] = [here, next];
                        }
                    }
                    for (v, y) in acc.into_iter().zip(y.chunks_mut(S::LANES)) {
                        let v = s.min(hi, s.max(lo, v));
                        if y.len() == S::LANES {
                            s.store(v, y);
                        } else {
                            s.store_some(v, y);
                        }
                    }
                }
            },
        );
    }
}
