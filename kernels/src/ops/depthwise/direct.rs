//! K x K with stride T (1 or 2), straight from the plane: no copy, no padding in memory.
//!
//! A pass computes R rows of one vector of columns. It walks the T (R - 1) + K rows of the map that these see, and each of the K vectors
//! that it takes from a row serves every row of the output that has a tap there: at stride 1, (R + K - 1) K loads for R K² FMAs.
//! The chain of an output stays in ascending (k, l), since the rows of the map are walked in order.
//!
//! Padding: rows above and below the map are skipped, one test a row; columns beside it are the zero lanes of masked loads, which only
//! the first and last vectors of a row need. Stride 2 takes the even and the odd columns of two vectors: taps l and l + 1.
//! A map of few columns has a row in one vector with lanes to spare: its other taps are rotations.
//!
//! Columns are the outer loop: the masks of a vector of columns are made once, and since everything about rows changes from pass to
//! pass, the compiler has nothing to move out of the loop and onto the stack (on 512 planes of 14 x 14, Zen 5: the other order took 1.4 times as long with AVX-512, 1.5 with AVX2).

use super::{Job, Plane};
use crate::isa::{F32s, Window};

/// The most rows of the map that a pass may see: what `each_row` unrolls.
const ROWS: usize = 11;

/// Repeats the body for each `i` in `0..n`, `n <= ROWS` constant. Left to a loop, the compiler keeps the sums in memory.
macro_rules! each_row {
    ($i:ident in 0..$n:expr => $body:block) => {
        each_row!(@ $i $n, $body, 0 1 2 3 4 5 6 7 8 9 10)
    };
    (@ $i:ident $n:expr, $body:block, $($at:literal)*) => {
        $(if $at < $n {
            let $i: usize = $at;
            $body
        })*
    };
}

/// Where the vectors of taps begin that a vector of columns sees, and for stride 2 those that follow them.
#[derive(Clone, Copy)]
struct Windows<M, const K: usize> {
    near: [Window<M>; K],
    far: [Window<M>; K],
}

impl<M: Copy, const K: usize> Windows<M, K> {
    /// Those whose tap 0 begins at column `first` of a map of width `w`.
    #[inline(always)]
    fn new<S: F32s<M = M>>(s: S, first: isize, w: usize) -> Self {
        let mut near = [s.window(first, w); K];
        let mut far = near;
        for l in 0..K {
            near[l] = s.window(first + l as isize, w);
            far[l] = s.window(first + (l + S::LANES) as isize, w);
        }
        Self { near, far }
    }
}

#[inline(always)]
pub(super) fn planes<S: F32s, const K: usize, const T: usize>(s: S, job: &mut Job<'_, '_>) {
    let (w, ow) = (job.call.map.1, job.call.out.1);
    let left = job.call.shape.pads[1];
    // A vector holds a row, and zeros behind it for the padding: the taps are rotations of it.
    let whole = s.window(0, w);
    if T == 1 && left == K / 2 && ow == w && w + K / 2 <= S::LANES {
        return row_in_a_vector::<S, K, T>(
            s,
            job,
            #[inline(always)]
            |row: &[f32]| {
                let [x] = s.load_window(row, &whole);
                let mut taps = [x; K];
                for l in 0..K {
                    if l != K / 2 {
                        taps[l] = s.rotate(x, l as isize - (K / 2) as isize);
                    }
                }
                taps
            },
        );
    }
    // The even and the odd columns of one pair of vectors hold all taps, when they are longer than the row.
    if T == 2 && ow + K / 2 <= S::LANES {
        let first: Windows<S::M, K> = Windows::new(s, -(left as isize), w);
        return row_in_a_vector::<S, K, T>(
            s,
            job,
            #[inline(always)]
            |row: &[f32]| {
                let [near] = s.load_window(row, &first.near[0]);
                let [far] = s.load_window(row, &first.far[0]);
                let (even, odd) = s.deinterleave(near, far);
                let mut taps = [even; K];
                for l in 1..K {
                    let x = if l % 2 == 0 { even } else { odd };
                    taps[l] = if l < 2 {
                        x
                    } else {
                        s.rotate(x, (l / 2) as isize)
                    };
                }
                taps
            },
        );
    }
    job.each_plane(
        #[inline(always)]
        |plane, y| {
            s.outline(
                #[inline(always)]
                || self::plane::<S, K, T>(s, plane, y),
            );
        },
    );
}

/// Planes whose output rows are a vector each at most; `load` takes the taps from a row of the map.
#[inline(always)]
fn row_in_a_vector<S: F32s, const K: usize, const T: usize>(
    s: S,
    job: &mut Job<'_, '_>,
    load: impl Fn(&[f32]) -> [S::V; K] + Copy,
) {
    job.each_plane(
        #[inline(always)]
        |plane, y| {
            s.outline(
                #[inline(always)]
                || columns::<S, K, T>(s, plane, &plane.weights(s), 0, y, load),
            );
        },
    );
}

#[inline(always)]
fn plane<S: F32s, const K: usize, const T: usize>(s: S, plane: Plane<'_>, y: &mut [f32]) {
    let weights = plane.weights(s);
    let w = plane.map.1;
    let left = plane.shape.pads[1];
    for at in (0..plane.out.1).step_by(S::LANES) {
        let from = T * at;
        if from >= left && from + T * S::LANES + K - 1 <= w + left {
            let first = from - left;
            columns::<S, K, T>(
                s,
                plane,
                &weights,
                at,
                y,
                #[inline(always)]
                |row: &[f32]| {
                    let row = &row[first..][..T * S::LANES + K - 1];
                    pairs::<S, K, T>(
                        s,
                        #[inline(always)]
                        |l| s.load(&row[l..]),
                        #[inline(always)]
                        |l| s.load(&row[l + S::LANES..]),
                    )
                },
            );
        } else {
            // Here and not once for all planes: masks that come from memory are loaded again in every row.
            let windows: Windows<S::M, K> = Windows::new(s, from as isize - left as isize, w);
            columns::<S, K, T>(
                s,
                plane,
                &weights,
                at,
                y,
                #[inline(always)]
                |row: &[f32]| {
                    pairs::<S, K, T>(
                        s,
                        #[inline(always)]
                        |l| s.load_window(row, &windows.near[l])[0],
                        #[inline(always)]
                        |l| s.load_window(row, &windows.far[l])[0],
                    )
                },
            );
        }
    }
}

/// The taps from the vectors that begin at tap l, and for stride 2 from those that follow them as well.
#[inline(always)]
fn pairs<S: F32s, const K: usize, const T: usize>(
    s: S,
    near: impl Fn(usize) -> S::V,
    far: impl Fn(usize) -> S::V,
) -> [S::V; K] {
    let mut taps = [s.splat(0.0); K];
    for l in (0..K).step_by(T) {
        if T == 1 {
            taps[l] = near(l);
        } else {
            let (even, odd) = s.deinterleave(near(l), far(l));
            taps[l] = even;
            if l + 1 < K {
                taps[l + 1] = odd;
            }
        }
    }
    taps
}

/// All rows of the vector of columns at `at`; `load` takes the taps from a row of the map.
#[inline(always)]
fn columns<S: F32s, const K: usize, const T: usize>(
    s: S,
    plane: Plane<'_>,
    weights: &[[S::V; K]; K],
    at: usize,
    y: &mut [f32],
    load: impl Fn(&[f32]) -> [S::V; K] + Copy,
) {
    let oh = plane.out.0;
    let mut row = 0;
    // 56, 28, 14 and 7 rows are multiples of seven. 32 registers hold the weights and sums of seven rows of 3 x 3 or of four rows
    // of 5 x 5; 16 registers those of four rows of 3 x 3.
    if S::REGISTERS >= 32 && K == 3 && T == 1 {
        while row + 7 <= oh {
            rows::<S, K, T, 7>(s, plane, weights, row, at, y, load);
            row += 7;
        }
    }
    while row + 4 <= oh && T * 3 + K <= ROWS {
        rows::<S, K, T, 4>(s, plane, weights, row, at, y, load);
        row += 4;
    }
    while row + 2 <= oh {
        rows::<S, K, T, 2>(s, plane, weights, row, at, y, load);
        row += 2;
    }
    if row < oh {
        rows::<S, K, T, 1>(s, plane, weights, row, at, y, load);
    }
}

/// Rows `row..row + R` of the output at the vector of columns at `at`.
#[inline(always)]
fn rows<S: F32s, const K: usize, const T: usize, const R: usize>(
    s: S,
    plane: Plane<'_>,
    weights: &[[S::V; K]; K],
    row: usize,
    at: usize,
    y: &mut [f32],
    load: impl Fn(&[f32]) -> [S::V; K],
) {
    // Known at compile time; not a `const` assertion, since branches that are never taken are instantiated too.
    assert!(T * (R - 1) + K <= ROWS, "too many rows");
    let (h, w) = plane.map;
    let top = plane.shape.pads[0];
    // Rows of padding before the first row of the map, and the rest of the map from there.
    let above = top.saturating_sub(T * row);
    let begin = (T * row).saturating_sub(top).min(h);
    let mut map = plane.x[begin * w..].chunks(w.max(1));
    let mut acc = [s.splat(plane.bias); R];
    each_row!(i in 0..T * (R - 1) + K => {
        if i >= above && let Some(x) = map.next() {
            let taps = load(&x[..w]);
            for l in 0..K {
                step::<S, K, T, R>(s, i, l, taps[l], weights, &mut acc);
            }
        }
    });
    let ow = plane.out.1;
    let (lo, hi) = (s.splat(plane.clamp.0), s.splat(plane.clamp.1));
    let n = S::LANES.min(ow - at);
    let y = &mut y[row * ow + at..][..(R - 1) * ow + n];
    if n == S::LANES {
        for r in 0..R {
            s.store(s.min(hi, s.max(lo, acc[r])), &mut y[r * ow..]);
        }
    } else {
        for r in 0..R {
            s.store_some(s.min(hi, s.max(lo, acc[r])), &mut y[r * ow..][..n]);
        }
    }
}

/// acc[r] += weights[i - T r][l] · x for the rows of the output that see row i of the map.
#[inline(always)]
fn step<S: F32s, const K: usize, const T: usize, const R: usize>(
    s: S,
    i: usize,
    l: usize,
    x: S::V,
    weights: &[[S::V; K]; K],
    acc: &mut [S::V; R],
) {
    for r in 0..R {
        if i >= T * r && i - T * r < K {
            acc[r] = s.mul_add(x, weights[i - T * r][l], acc[r]);
        }
    }
}
