//! 1 x K with stride 1, straight from the rows: K is any length, and no sum leaves its register.
//!
//! V vectors of outputs have a sum each. Of every LANES taps the vectors of the map and the one behind them are loaded once; the even taps are
//! those vectors moved by lanes, the odd ones are loaded where they begin, so that neither the shuffles nor the loads (two slots each
//! across cache lines) hold up the FMAs. Blocks at the ends of a row have masks, and take all taps by moving.

use super::{Job, Plane};
use crate::Isa;
use crate::isa::F32s;
use crate::ops::conv_shape::ConvShape;

/// Repeats the body for each tap of a vector.
macro_rules! each_lane {
    ($i:ident in $n:expr => $body:block) => {
        each_lane!(@ $i $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident $n:expr, $body:block, $($at:literal)*) => {
        $(if $at < $n {
            let $i: usize = $at;
            $body
        })*
    };
}

/// Whether this kernel takes the call.
pub(super) fn serves(isa: Isa, shape: &ConvShape, (_, w): (usize, usize), ow: usize) -> bool {
    // Small enough that no index overflows; long enough that rows fill vectors.
    let small = [w, shape.kernel[1], shape.pads[1], shape.pads[3]];
    (shape.kernel[0], shape.stride, shape.dilation) == (1, [1, 1], [1, 1])
        && (shape.pads[0], shape.pads[2]) == (0, 0)
        && small.into_iter().all(|n| n < 1 << 20)
        && w > 0
        && ow > isa.lanes()
}

#[inline(always)]
pub(super) fn planes<S: F32s>(s: S, job: &mut Job<'_, '_>) {
    let (w, ow) = (job.call.map.1, job.call.out.1);
    let taps = job.call.shape.kernel[1];
    let left = job.call.shape.pads[1];
    job.each_plane(
        #[inline(always)]
        |plane, y| {
            for (x, y) in plane.x.chunks_exact(w).zip(y.chunks_exact_mut(ow)) {
                let row = Row { plane, x, left };
                let mut at = 0;
                while at < ow {
                    // The loads of all taps, and of the vector behind the last.
                    let inside = at >= left && at - left + (9 * S::LANES + taps) < w;
                    let left = (ow - at).div_ceil(S::LANES);
                    at += match left {
                        8.. if S::REGISTERS >= 32 && inside => row.block::<S, 8, true>(s, at, y),
                        5.. if S::REGISTERS >= 32 => row.block::<S, 8, false>(s, at, y),
                        4.. if inside => row.block::<S, 4, true>(s, at, y),
                        _ => row.block::<S, 4, false>(s, at, y),
                    };
                }
            }
        },
    );
}

/// A row of the map, of which the first output sees what begins `left` before it.
#[derive(Clone, Copy)]
struct Row<'a> {
    plane: Plane<'a>,
    x: &'a [f32],
    left: usize,
}

impl Row<'_> {
    /// V vectors of outputs from output `at` on, I when what they see lies in the row. Returns how many outputs that were.
    #[inline(always)]
    fn block<S: F32s, const V: usize, const I: bool>(
        self,
        s: S,
        at: usize,
        y: &mut [f32],
    ) -> usize {
        let zero = s.splat(0.0);
        let mut sums = [s.splat(self.plane.bias); V];
        let mut first = at as isize - self.left as isize;
        for weights in self.plane.weights.chunks(S::LANES) {
            let inside = if I { &self.x[first as usize..] } else { &[] };
            let mut here = [zero; V];
            let behind;
            if I {
                here = s.load_pitched(inside, S::LANES);
                behind = s.load(&inside[V * S::LANES..]);
            } else {
                for v in 0..V {
                    let start = first + (v * S::LANES) as isize;
                    [here[v]] = s.load_window(self.x, &s.window(start, self.x.len()));
                }
                let start = first + (V * S::LANES) as isize;
                [behind] = s.load_window(self.x, &s.window(start, self.x.len()));
            }
            each_lane!(i in S::LANES => {
                let Some(&weight) = weights.get(i) else {
                    break;
                };
                let weight = s.splat(weight);
                let mut x = here;
                if I && i % 2 == 1 {
                    x = s.load_pitched(&inside[i..], S::LANES);
                } else if i > 0 {
                    for v in 0..V {
                        let next = if v + 1 < V { here[v + 1] } else { behind };
                        x[v] = s.align(here[v], next, i);
                    }
                }
                for v in 0..V {
                    sums[v] = s.mul_add(x[v], weight, sums[v]);
                }
            });
            first += S::LANES as isize;
        }
        let (lo, hi) = (s.splat(self.plane.clamp.0), s.splat(self.plane.clamp.1));
        for v in 0..V {
            sums[v] = s.min(hi, s.max(lo, sums[v]));
        }
        let y = &mut y[at..];
        if y.len() >= V * S::LANES {
            for v in 0..V {
                s.store(sums[v], &mut y[v * S::LANES..]);
            }
        } else {
            for (v, y) in sums.into_iter().zip(y.chunks_mut(S::LANES)) {
                s.store_some(v, y);
            }
        }
        V * S::LANES
    }
}
