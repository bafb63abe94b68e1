//! K x K on maps so narrow that a vector holds a row of the output or several.
//!
//! Stride 1, an output as wide as the map: a vector holds N whole rows, and the taps of a row of the kernel are that vector rotated. What
//! comes from another row, or from the other end of the vector, is a column of padding, and the FMA's mask leaves it out. Stride 2: the even
//! and the odd columns of N rows, every second one, are picked into a vector each; the taps are rotations of these.
//!
//! Every vector of every plane has the same masks, so they stay in registers; above and below the map, loads are masked. Lanes behind
//! the last whole row are written as they are: the next vector writes them again.
//!
//! Zen 5, AVX-512, 64 maps of 25 x 5, 3 x 3: the lanes of one flat row (no lane idle, but other masks in every vector) took 2.4 times as long.

use core::ops::Range;

use super::sweep::{Sums, each};
use super::{Call, Job, Plane};
use crate::Isa;
use crate::isa::{F32s, Window};
use crate::ops::conv_shape::ConvShape;

/// The most rows of an output in a vector.
const ROWS: usize = 3;
/// Windows of the steps at the top and the bottom of a map; a vector reaches 16 rows behind it at most.
const EDGES: usize = 96;

/// Rows of the output in a vector; zero when this kernel does not take the call. Windows larger than 3 x 3 on narrower maps are for `lanes`.
pub(super) fn rows(isa: Isa, shape: &ConvShape, (_, w): (usize, usize), ow: usize) -> usize {
    let [k, l] = shape.kernel;
    let lanes = isa.lanes();
    if k != l || !matches!(k, 3 | 5 | 7) || shape.dilation != [1, 1] {
        return 0;
    }
    let most = if k == 3 { ROWS } else { 1 };
    match shape.stride {
        [1, 1] if ow == w && shape.pads[1] == k / 2 => (lanes / w).min(most),
        // A rotation leaves a row of the output only where the column is not one of the map.
        [2, 2] if k == 3 && w <= lanes && w <= 2 * ow && shape.pads[1] == 1 => (lanes / ow).min(2),
        _ => 0,
    }
}

/// For each column of the kernel, the lanes of N rows of `ow` outputs that see a column of a map of width `w` there.
#[inline(always)]
fn sides<S: F32s, const K: usize>(s: S, call: &Call<'_>, n: usize) -> [S::M; K] {
    let (w, ow) = (call.map.1, call.out.1);
    let (stride, left) = (call.shape.stride[1], call.shape.pads[1]);
    let mut sides = [s.lanes(0, 0); K];
    for l in 0..K {
        let (mut lanes, mut column) = ([1.0; 16], 0);
        for lane in &mut lanes[..n * ow] {
            if (left..left + w).contains(&(column * stride + l)) {
                *lane = -1.0;
            }
            column = if column + 1 == ow { 0 } else { column + 1 };
        }
        sides[l] = s.lt(s.load(&lanes), s.splat(0.0));
    }
    sides
}

/// How a vector of outputs sees the map, M rows a step.
trait Stacked<S: F32s, const M: usize>: Copy {
    /// What is loaded of a row.
    type Row: Copy;
    /// Windows of a step at the edge.
    const WINDOWS: usize;
    /// The rows of a step that begin with the first element of `x`.
    fn inside(&self, s: S, x: &[f32]) -> [Self::Row; M];
    /// The rows of a step that is at the edge of the map `x`, through its windows.
    fn edge(&self, s: S, x: &[f32], windows: &[Window<S::M>]) -> [Self::Row; M];
    /// What a vector takes from a row, `by` columns to the right of its own.
    fn tap(&self, s: S, row: &Self::Row, by: isize) -> S::V;
}

/// N rows as they follow each other.
#[derive(Clone, Copy)]
struct Same {
    w: usize,
}

impl<S: F32s, const M: usize> Stacked<S, M> for Same {
    type Row = S::V;
    const WINDOWS: usize = M;

    #[inline(always)]
    fn inside(&self, s: S, x: &[f32]) -> [S::V; M] {
        s.load_pitched(x, self.w)
    }

    #[inline(always)]
    fn edge(&self, s: S, x: &[f32], windows: &[Window<S::M>]) -> [S::V; M] {
        let mut rows = [s.splat(0.0); M];
        for j in 0..M {
            [rows[j]] = s.load_window(x, &windows[j]);
        }
        rows
    }

    #[inline(always)]
    fn tap(&self, s: S, row: &S::V, by: isize) -> S::V {
        s.rotate(*row, by)
    }
}

/// The even and the odd columns of N rows, every second one.
#[derive(Clone, Copy)]
struct Halved<M, I> {
    /// The even columns of two rows, and the odd ones.
    pick: [I; 2],
    row: Window<M>,
    w: usize,
}

impl<M, I: Copy> Halved<M, I> {
    #[inline(always)]
    fn pick<S: F32s<I = I>>(&self, s: S, a: S::V, b: S::V) -> [S::V; 2] {
        [s.pick(a, b, self.pick[0]), s.pick(a, b, self.pick[1])]
    }
}

impl<S: F32s, const M: usize> Stacked<S, M> for Halved<S::M, S::I> {
    type Row = [S::V; 2];
    const WINDOWS: usize = M + 2;

    #[inline(always)]
    fn inside(&self, s: S, x: &[f32]) -> [[S::V; 2]; M] {
        let near: [S::V; M] = s.load_rows(x, self.w, &self.row);
        let far: [S::V; 2] = s.load_rows(&x[M * self.w..], self.w, &self.row);
        let mut rows = [[near[0]; 2]; M];
        for j in 0..M {
            let b = if j + 2 < M {
                near[j + 2]
            } else {
                far[j + 2 - M]
            };
            rows[j] = self.pick(s, near[j], b);
        }
        rows
    }

    #[inline(always)]
    fn edge(&self, s: S, x: &[f32], windows: &[Window<S::M>]) -> [[S::V; 2]; M] {
        let mut rows = [[s.splat(0.0); 2]; M];
        for j in 0..M {
            let [a] = s.load_window(x, &windows[j]);
            let [b] = s.load_window(x, &windows[j + 2]);
            rows[j] = self.pick(s, a, b);
        }
        rows
    }

    #[inline(always)]
    fn tap(&self, s: S, row: &[S::V; 2], by: isize) -> S::V {
        s.rotate(row[by.rem_euclid(2) as usize], by.div_euclid(2))
    }
}

/// Stride 1, N rows in a vector.
#[inline(always)]
pub(super) fn same<S: F32s, const K: usize, const N: usize>(s: S, job: &mut Job<'_, '_>) {
    let (h, w) = job.call.map;
    let top = job.call.shape.pads[0];
    let see = See {
        sees: top.saturating_sub(N - 1)..top + h,
        inside: top..top + (h * w + w).saturating_sub(S::LANES) / w,
    };
    let lanes = s.lanes(0, S::LANES);
    planes::<S, _, K, N>(s, job, Same { w }, see, N, lanes);
}

/// Stride 2; M is twice the rows in a vector.
#[inline(always)]
pub(super) fn halved<S: F32s, const K: usize, const M: usize>(s: S, job: &mut Job<'_, '_>) {
    let ((h, w), ow) = (job.call.map, job.call.out.1);
    let top = job.call.shape.pads[0];
    let lane = |phase: usize| {
        move |lane: usize| lane / ow % 2 * S::LANES + (2 * (lane % ow) + phase) % S::LANES
    };
    let halved = Halved {
        pick: [s.indices(lane(0)), s.indices(lane(1))],
        row: s.window(0, w),
        w,
    };
    let see = See {
        sees: top.saturating_sub(M - 2)..top + h,
        inside: top..top + h.saturating_sub(2),
    };
    let lanes = s.lanes(0, w);
    planes::<S, _, K, M>(s, job, halved, see, M / 2, lanes);
}

/// Rows of the map, counted from the first of the padding.
struct See {
    /// Those with which a vector begins that sees the map at all.
    sees: Range<usize>,
    /// Those that may be loaded without a window.
    inside: Range<usize>,
}

#[inline(always)]
fn planes<S: F32s, C: Stacked<S, M>, const K: usize, const M: usize>(
    s: S,
    job: &mut Job<'_, '_>,
    columns: C,
    see: See,
    n: usize,
    lanes: S::M,
) {
    let (h, w) = job.call.map;
    let top = job.call.shape.pads[0];
    let size = n * job.call.out.1;
    let oldest = Sums::<'_, S, K, M, 1>::OLDEST;
    let outputs = job.call.out.0.div_ceil(n);
    let steps = outputs + oldest;
    // Steps before the first that sees the map, at its top, inside, at its bottom, behind.
    let first = (see.sees.start / M).min(steps);
    let last = see.sees.end.div_ceil(M).clamp(first, steps);
    let begin = see.inside.start.div_ceil(M).clamp(first, last);
    let end = (see.inside.end / M).clamp(begin, last);

    let mut edges = [s.window(0, 0); EDGES];
    let mut windows = edges.chunks_exact_mut(C::WINDOWS);
    for step in (first..begin).chain(end..last) {
        for (j, to) in windows.next().into_iter().flatten().enumerate() {
            let row = (step * M + j) as isize - top as isize;
            // Several rows of stride 1 are one window on the plane; of stride 2 each one has a window.
            let window = s.window(row * w as isize, h * w);
            *to = if C::WINDOWS == M || (0..h as isize).contains(&row) {
                s.narrow(window, &[lanes])
            } else {
                s.window(0, 0)
            };
        }
    }
    let sides = sides::<S, K>(s, job.call, n);
    job.each_plane(
        #[inline(always)]
        |plane: Plane<'_>, y| {
            let mut sums: Sums<'_, S, K, M, 1> = Sums::new(s, plane);
            let mut at = 0;
            macro_rules! end_step {
                ($step:expr) => {
                    let [v] = sums.step(s);
                    if $step >= oldest {
                        let y = &mut y[at..];
                        if y.len() >= S::LANES {
                            s.store(v, y);
                        } else {
                            s.store_some(v, y);
                        }
                        at += size;
                    }
                };
            }
            macro_rules! absorb {
                ($rows:expr) => {
                    let rows: [C::Row; M] = $rows;
                    each!(j in if M < K { M } else { K } => {
                        sums.absorb(
                            s,
                            j,
                            #[inline(always)]
                            |l| [columns.tap(s, &rows[j], l as isize - (K / 2) as isize)],
                            #[inline(always)]
                            |l, x, weight, sum| s.mul_add_where(sides[l], x, weight, sum),
                        );
                    });
                };
            }
            for step in 0..first {
                end_step!(step);
            }
            let mut windows = edges.chunks_exact(C::WINDOWS);
            for (step, windows) in (first..begin).zip(&mut windows) {
                absorb!(columns.edge(s, plane.x, windows));
                end_step!(step);
            }
            if begin < end {
                let mut x = &plane.x[(begin * M - top) * w..];
                for step in begin..end {
                    absorb!(columns.inside(s, x));
                    end_step!(step);
                    x = x.get(M * w..).unwrap_or(&[]);
                }
            }
            for (step, windows) in (end..last).zip(windows) {
                absorb!(columns.edge(s, plane.x, windows));
                end_step!(step);
            }
            for step in last..steps {
                end_step!(step);
            }
        },
    );
}
