//! Stride 1 with an output of the size of the map, over the plane as one flat row: what a map of few columns needs.
//!
//! Output p reads element p + d of the plane for tap (k, l), d = (k d_h - top) w + l d_w - left, unless column and tap leave the map.
//! Which lanes do is the same for every plane: the windows of G vectors are made once, then G vectors of every plane are computed.
//!
//! ```text
//! for each group of G vectors of the plane:
//!     windows[t] = the group moved by d(t), without the lanes whose column leaves the map
//!     for each plane:
//!         acc[g] = bias; for t ascending: acc[g] += weights[t] * load(windows[t])[g]
//! ```

use super::{Call, Job};
use crate::Isa;
use crate::isa::{F32s, Window};

/// The most taps of a kernel.
const TAPS: usize = 25;

/// Whether this kernel takes the call.
pub(super) fn serves(isa: Isa, call: &Call<'_>) -> bool {
    let shape = &call.shape;
    let ([kh, kw], (h, w)) = (shape.kernel, call.map);
    // Small enough that no index overflows and a float holds a column.
    let small = |n: usize| n < 1 << 20;
    let reach = |i: usize| (shape.kernel[i] - 1).saturating_mul(shape.dilation[i]);
    if shape.stride != [1, 1]
        || call.out != call.map
        || kh.saturating_mul(kw) > TAPS
        || ![h, w, reach(0), reach(1)].into_iter().all(small)
    {
        return false;
    }
    // A direct kernel is better where its vectors are filled, or a row and its padding fit into one.
    let direct = kh == kw && matches!(kh, 3 | 5 | 7) && shape.dilation == [1, 1];
    !direct || (3 * w <= isa.lanes())
}

#[inline(always)]
pub(super) fn planes<S: F32s>(s: S, job: &mut Job<'_, '_>) {
    let size = job.call.map.0 * job.call.map.1;
    let mut at = 0;
    while at < size {
        let vectors = (size - at).div_ceil(S::LANES);
        at += match vectors {
            8.. if S::REGISTERS >= 32 => group::<S, 8>(s, job, at),
            4.. => group::<S, 4>(s, job, at),
            2.. => group::<S, 2>(s, job, at),
            _ => group::<S, 1>(s, job, at),
        };
    }
}

/// G vectors of every plane from element `at` on. Returns how many elements that were.
#[inline(always)]
fn group<S: F32s, const G: usize>(s: S, job: &mut Job<'_, '_>, at: usize) -> usize {
    let shape = &job.call.shape;
    let (h, w) = job.call.map;
    let size = h * w;
    // The last group of a plane that has one ends where the plane ends.
    let from = at.min(size.saturating_sub(G * S::LANES));
    let [kh, kw] = shape.kernel;
    let columns: [S::V; G] = columns(s, from, w);
    let mut windows: [Window<S::M, G>; TAPS] = [s.window(0, 0); TAPS];
    for l in 0..kw {
        let right = (l * shape.dilation[1]) as isize - shape.pads[1] as isize;
        let inside = inside(s, &columns, right, w);
        for k in 0..kh {
            let down = (k * shape.dilation[0]) as isize - shape.pads[0] as isize;
            let start = from as isize + down * w as isize + right;
            windows[k * kw + l] = s.narrow(s.window(start, size), &inside);
        }
    }
    let windows = &windows[..kh * kw];
    job.each_plane(
        #[inline(always)]
        |plane, y| {
            let mut acc = [s.splat(plane.bias); G];
            for (window, &weight) in windows.iter().zip(plane.weights) {
                let weight = s.splat(weight);
                let x = s.load_window(plane.x, window);
                for g in 0..G {
                    acc[g] = s.mul_add(x[g], weight, acc[g]);
                }
            }
            let (lo, hi) = (s.splat(plane.clamp.0), s.splat(plane.clamp.1));
            let y = &mut y[from..];
            for g in 0..G {
                let v = s.min(hi, s.max(lo, acc[g]));
                if g + 1 < G || y.len() >= G * S::LANES {
                    s.store(v, &mut y[g * S::LANES..]);
                } else {
                    s.store_some(v, &mut y[g * S::LANES..]);
                }
            }
        },
    );
    G * S::LANES
}

/// The columns of the N vectors of elements that begin at element `from` of a map of width `w`.
#[inline(always)]
pub(super) fn columns<S: F32s, const N: usize>(s: S, from: usize, w: usize) -> [S::V; N] {
    let mut column = from % w;
    let mut v = [s.splat(0.0); N];
    for v in &mut v {
        let mut lanes = [0.0; 16];
        for lane in &mut lanes[..S::LANES] {
            *lane = column as f32;
            column = if column + 1 == w { 0 } else { column + 1 };
        }
        *v = s.load(&lanes);
    }
    v
}

/// Where 0 <= column + right < w.
#[inline(always)]
pub(super) fn inside<S: F32s, const N: usize>(
    s: S,
    columns: &[S::V; N],
    right: isize,
    w: usize,
) -> [S::M; N] {
    // Doubled and centred, so that one comparison does for both ends.
    let shift = s.splat((2 * right - (w as isize - 1)) as f32);
    let w = s.splat(w as f32);
    let mut inside = [s.lanes(0, 0); N];
    for n in 0..N {
        inside[n] = s.lt(s.abs(s.add(s.add(columns[n], columns[n]), shift)), w);
    }
    inside
}
