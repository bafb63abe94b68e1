//! K x K with stride 1 and an output of the size of the map, where several rows of the map fit into one vector.
//!
//! A vector holds N whole rows. The taps of row k of the kernel are the vector of rows that begins k - K / 2 rows further down, rotated
//! by l - K / 2 lanes: what comes from another row or from the other end of the vector is a column of padding, and the FMA's mask
//! leaves it out. So every vector of every plane has the same masks, and they stay in registers.
//!
//! ```text
//! for each plane, for each N rows:
//!     acc = bias; for k, l ascending: acc += weights[k][l] * rotate(rows moved by k - K / 2, l - K / 2)
//! ```
//! The vectors at the top and at the bottom have windows of their own, without the rows above and below the map. The last one ends with
//! the plane: it computes rows again that the one before has computed, with the same chains.
//!
//! Zen 5, AVX-512, 64 maps of 25 x 5, 3 x 3: the lanes of one flat row (no lane idle, but other masks in every vector) took 2.4 times as long.

use super::flat::{columns, inside};
use super::{Call, Job, Plane};
use crate::Isa;
use crate::isa::F32s;

/// Whether this kernel takes the call, for K x K.
pub(super) fn serves<const K: usize>(isa: Isa, call: &Call<'_>) -> bool {
    let shape = &call.shape;
    let (h, w) = call.map;
    let rows = isa.lanes() / w.max(1);
    (shape.kernel, shape.stride, shape.dilation) == ([K, K], [1, 1], [1, 1])
        && call.out == call.map
        && shape.pads == [K / 2; 4]
        && rows >= 2
        // The rows of padding that a vector sees are those of the first or the last.
        && rows >= K / 2
        && (rows + 1..1 << 20).contains(&h)
}

#[inline(always)]
pub(super) fn planes<S: F32s, const K: usize>(s: S, job: &mut Job<'_, '_>) {
    let (h, w) = job.call.map;
    let rows = S::LANES / w;
    let (reach, last) = (K / 2, h - rows);
    let [column] = columns(s, 0, w);
    let mut sides = [s.lanes(0, 0); K];
    for l in 0..K {
        let [lanes] = inside(s, &[column], l as isize - reach as isize, w);
        sides[l] = s.both(lanes, s.lanes(0, rows * w));
    }
    let (step, whole) = (rows * w, s.window(0, rows * w));
    // For each row of the kernel, what the vector at `row` takes from the map.
    let windows = |row: usize| {
        let mut windows = [whole; K];
        for k in 0..K {
            let end = (row + k + rows).saturating_sub(reach).min(h);
            let start = (row + k) as isize - reach as isize;
            windows[k] = s.window(start * w as isize, end * w);
        }
        windows
    };
    // The vectors behind the first that see no padding. Then comes the last one, and for more than 3 x 3 one before it perhaps.
    let inner = (h - rows).saturating_sub(reach) / rows;
    let near = ((1 + inner) * rows).min(last);
    let (top, above_bottom, bottom) = (windows(0), windows(near), windows(last));
    job.each_plane(
        #[inline(always)]
        |plane, y| {
            let x = plane.x;
            let chain = Chain::<S, K>::new(s, plane, sides);
            let mut taps = [chain.bias; K];
            for k in 0..K {
                [taps[k]] = if k < reach || reach > 1 {
                    s.load_window(x, &top[k])
                } else {
                    s.load_window(&x[(k - reach) * w..], &whole)
                };
            }
            // The lanes behind the last whole row are written again by the next vector.
            s.store(chain.sum(s, taps), y);
            for i in 1..=inner {
                let x = &x[i * step - reach * w..][..step + (K - 1) * w];
                let v = chain.sum(s, s.load_rows(x, w, &whole));
                s.store(v, &mut y[i * step..]);
            }
            if reach > 1 && near < last {
                for k in 0..K {
                    [taps[k]] = s.load_window(x, &above_bottom[k]);
                }
                s.store(chain.sum(s, taps), &mut y[near * w..]);
            }
            for k in 0..K {
                [taps[k]] = if k > reach || reach > 1 {
                    s.load_window(x, &bottom[k])
                } else {
                    s.load_window(&x[(last + k - reach) * w..], &whole)
                };
            }
            s.store_some(chain.sum(s, taps), &mut y[last * w..]);
        },
    );
}

/// What the sums of a plane are made of.
#[derive(Clone, Copy)]
struct Chain<S: F32s, const K: usize> {
    bias: S::V,
    weights: [[S::V; K]; K],
    /// For each column of the kernel, where the map has the column that it takes.
    sides: [S::M; K],
    clamp: (S::V, S::V),
}

impl<S: F32s, const K: usize> Chain<S, K> {
    #[inline(always)]
    fn new(s: S, plane: Plane<'_>, sides: [S::M; K]) -> Self {
        Self {
            bias: s.splat(plane.bias),
            weights: plane.weights(s),
            sides,
            clamp: (s.splat(plane.clamp.0), s.splat(plane.clamp.1)),
        }
    }

    /// bias + Σ weights · taps, in bounds, from the rows that each row of the kernel sees.
    #[inline(always)]
    fn sum(&self, s: S, rows: [S::V; K]) -> S::V {
        let mut acc = self.bias;
        for k in 0..K {
            let x = rows[k];
            for l in 0..K {
                let by = l as isize - (K / 2) as isize;
                acc = if by == 0 {
                    s.mul_add(x, self.weights[k][l], acc)
                } else {
                    s.mul_add_where(self.sides[l], s.rotate(x, by), self.weights[k][l], acc)
                };
            }
        }
        let (lo, hi) = self.clamp;
        s.min(hi, s.max(lo, acc))
    }
}
