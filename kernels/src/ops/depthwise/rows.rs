//! K x K over rows of vectors: stride 1, or stride 2 by the even and the odd columns; dilation D.
//!
//! The vectors of a row are loaded once, with zeros where the map ends, and a tap is those vectors moved by lanes, their neighbours
//! following. With stride 2 the even and the odd columns are taken apart first, and a tap is one of both, moved by half as much.
//! A block of columns that is a whole row has no neighbours to load.
//! Rows of a dilated kernel belong to as many maps as the dilation says, which are swept one after the other.

use super::sweep::Sums;
use super::{Job, Plane};
use crate::isa::{F32s, Window};
use crate::ops::conv_shape::ConvShape;

/// Elements of the map from a row to those that are fetched with it.
const AHEAD: usize = 1024;

/// Vectors of columns of the output, seen through N vectors of the map; W when the map has no others.
#[derive(Clone, Copy)]
struct Block<M, const N: usize, const W: bool> {
    here: Window<M, N>,
    before: Window<M>,
    behind: Window<M>,
}

/// A row of the map, all columns or the even and the odd ones: the vectors, and their neighbours on both sides.
#[derive(Clone, Copy)]
struct Row<T, const V: usize> {
    here: [[T; V]; 2],
    before: [T; 2],
    behind: [T; 2],
}

impl<M: Copy, const N: usize, const W: bool> Block<M, N, W> {
    /// The first `w` elements of `x`, for V vectors of every T-th column.
    #[inline(always)]
    fn load<S: F32s<M = M>, const T: usize, const V: usize>(
        &self,
        s: S,
        x: &[f32],
    ) -> Row<S::V, V> {
        let zero = s.splat(0.0);
        let all: [S::V; N] = s.load_window(x, &self.here);
        let (mut before, mut behind) = (zero, zero);
        if !W {
            [before] = s.load_window(x, &self.before);
            [behind] = s.load_window(x, &self.behind);
        }
        let mut row = Row {
            here: [[zero; V]; 2],
            before: [before; 2],
            behind: [behind; 2],
        };
        if T == 1 {
            row.here[0].copy_from_slice(&all[..V]);
            return row;
        }
        for v in 0..V {
            (row.here[0][v], row.here[1][v]) = s.deinterleave(all[2 * v], all[2 * v + 1]);
        }
        if !W {
            // Of the neighbours, the two last or first columns of each kind are enough.
            let (even, odd) = s.deinterleave(before, before);
            row.before = [even, odd];
            let (even, odd) = s.deinterleave(behind, behind);
            row.behind = [even, odd];
        }
        row
    }
}

/// What column `l` of the kernel takes from a row.
#[inline(always)]
fn tap<S: F32s, const K: usize, const T: usize, const D: usize, const V: usize>(
    s: S,
    row: &Row<S::V, V>,
    l: usize,
) -> [S::V; V] {
    let by = (l as isize - (K / 2) as isize) * D as isize;
    let (phase, by) = if T == 2 {
        (by.rem_euclid(2) as usize, by.div_euclid(2))
    } else {
        (0, by)
    };
    let here = row.here[phase];
    let mut x = here;
    for v in 0..V {
        if by < 0 {
            let before = if v == 0 {
                row.before[phase]
            } else {
                here[v - 1]
            };
            x[v] = s.align(before, here[v], (S::LANES as isize + by) as usize);
        } else if by > 0 {
            let behind = if v + 1 == V {
                row.behind[phase]
            } else {
                here[v + 1]
            };
            x[v] = s.align(here[v], behind, by as usize);
        }
    }
    x
}

/// Whether these kernels take the call.
pub(super) fn serves(shape: &ConvShape) -> bool {
    let [k, l] = shape.kernel;
    let known = matches!(
        (k, shape.stride, shape.dilation),
        (3 | 5 | 7, [1, 1] | [2, 2], [1, 1]) | (3 | 5, [1, 1], [_, 2])
    );
    k == l && known
}

/// Whether the vectors that a row of the output takes, see all of a row of the map without neighbours.
pub(super) fn is_whole(shape: &ConvShape, w: usize, vectors: usize, lanes: usize) -> bool {
    let (left, reach) = (shape.pads[1], shape.kernel[1] / 2 * shape.dilation[1]);
    left >= reach && w + left <= shape.stride[1] * vectors * lanes + reach
}

#[inline(always)]
pub(super) fn planes<S: F32s, const K: usize, const T: usize, const D: usize>(
    s: S,
    job: &mut Job<'_, '_>,
) {
    job.each_plane(
        #[inline(always)]
        |plane, y| {
            s.outline(
                #[inline(always)]
                || self::plane::<S, K, T, D>(s, plane, y),
            );
        },
    );
}

#[inline(always)]
fn plane<S: F32s, const K: usize, const T: usize, const D: usize>(
    s: S,
    plane: Plane<'_>,
    y: &mut [f32],
) {
    let (oh, ow) = plane.out;
    // ⌈K / T⌉ sums a vector, and what is loaded of a row, must be registers.
    let most = match (K, T, S::REGISTERS >= 32) {
        (3, 1, _) | (5, 1, true) => 4,
        (7, 1, false) => 1,
        _ => 2,
    };
    let vectors = ow.div_ceil(S::LANES);
    // All columns of the map in as many vectors as the output has.
    let whole = vectors <= most && is_whole(plane.shape, plane.map.1, vectors, S::LANES);
    let mut at = 0;
    while at < ow && oh > 0 {
        let left = (ow - at).div_ceil(S::LANES).min(most);
        macro_rules! block {
            ($v:literal, $twice:literal, $whole:literal) => {
                if T == 1 {
                    block::<S, K, T, D, $v, $v, $whole>(s, plane, at, y)
                } else {
                    block::<S, K, T, D, $v, $twice, $whole>(s, plane, at, y)
                }
            };
        }
        match left {
            1 if whole => block!(1, 2, true),
            2 if whole && most > 1 => block!(2, 4, true),
            3 if whole && most == 4 => block!(3, 6, true),
            4 if whole && most == 4 => block!(4, 8, true),
            3.. if most == 4 => block!(4, 8, false),
            _ if most == 1 => block!(1, 2, false),
            _ => block!(2, 4, false),
        }
        at += left * S::LANES;
    }
}

/// V vectors of columns from column `at` on.
#[inline(always)]
fn block<
    S: F32s,
    const K: usize,
    const T: usize,
    const D: usize,
    const V: usize,
    const N: usize,
    const W: bool,
>(
    s: S,
    plane: Plane<'_>,
    at: usize,
    y: &mut [f32],
) {
    let ((h, w), (oh, ow)) = (plane.map, plane.out);
    let [top, left, ..] = plane.shape.pads;
    let pitch = plane.shape.dilation[0];
    let start = (T * at + K / 2 * D) as isize - left as isize;
    let behind = start + (N * S::LANES) as isize;
    let block: Block<S::M, N, W> = Block {
        here: s.window(start, w),
        before: s.window(start - S::LANES as isize, w),
        behind: s.window(behind, w),
    };
    let oldest = Sums::<'_, S, K, T, V>::OLDEST;
    let n = (ow - at).min(V * S::LANES);
    for class in 0..pitch.min(oh) {
        let outputs = (oh - class).div_ceil(pitch);
        let steps = outputs + oldest;
        // Rows of this class: the first below the padding, and those that there are.
        let above = top.saturating_sub(class).div_ceil(pitch);
        let first = (class + above * pitch).saturating_sub(top);
        let rows = h.saturating_sub(first).div_ceil(pitch);
        // The steps whose rows are all in the map.
        let begin = above.div_ceil(T).min(steps);
        let end = ((above + rows) / T).clamp(begin, steps);
        let mut sums: Sums<'_, S, K, T, V> = Sums::new(s, plane);
        let mut y = y[class * ow + at..].chunks_mut(ow * pitch);
        macro_rules! absorb {
            ($j:literal, $x:expr) => {
                let row = block.load::<S, T, V>(s, $x);
                sums.absorb(
                    s,
                    $j,
                    #[inline(always)]
                    |l| tap::<S, K, T, D, V>(s, &row, l),
                    #[inline(always)]
                    |_, x, weight, sum| s.mul_add(x, weight, sum),
                );
            };
        }
        macro_rules! end_step {
            ($step:expr) => {
                let v = sums.step(s);
                if $step >= oldest
                    && let Some(y) = y.next()
                {
                    store::<S, V>(s, v, &mut y[..n]);
                }
            };
        }
        macro_rules! ahead {
            ($x:ident) => {
                if plane.large && at == 0 {
                    for i in 0..T * N {
                        s.prefetch_ahead($x, AHEAD + i * S::LANES);
                    }
                }
            };
        }
        let row_at = |t: usize| (first + t.saturating_sub(above) * pitch) * w;
        if T == 1 {
            // A step outside the map has no row.
            for step in 0..begin {
                end_step!(step);
            }
            if begin < end {
                let x = plane.x[row_at(begin)..].chunks(pitch * w);
                for (step, x) in (begin..end).zip(x) {
                    ahead!(x);
                    absorb!(0, x);
                    end_step!(step);
                }
            }
            for step in end..steps {
                end_step!(step);
            }
            continue;
        }
        let inside = plane.x.get(row_at(begin * T)..).unwrap_or(&[]);
        let mut inside = inside.chunks_exact(2 * w);
        for step in 0..steps {
            let seen = above..above + rows;
            let t = step * T;
            if (begin..end).contains(&step)
                && let Some(x) = inside.next()
            {
                ahead!(x);
                absorb!(0, x);
                absorb!(1, &x[w..]);
            } else if seen.contains(&t) {
                absorb!(0, &plane.x[row_at(t)..]);
            } else if seen.contains(&(t + 1)) {
                absorb!(1, &plane.x[row_at(t + 1)..]);
            }
            end_step!(step);
        }
    }
}

/// As many of the vectors as there is room for.
#[inline(always)]
fn store<S: F32s, const V: usize>(s: S, v: [S::V; V], y: &mut [f32]) {
    let before = (V - 1) * S::LANES;
    if y.len() >= before {
        let (whole, last) = y.split_at_mut(before);
        for i in 0..V - 1 {
            s.store(v[i], &mut whole[i * S::LANES..]);
        }
        s.store_some(v[V - 1], last);
    } else {
        for (v, y) in v.into_iter().zip(y.chunks_mut(S::LANES)) {
            s.store_some(v, y);
        }
    }
}
