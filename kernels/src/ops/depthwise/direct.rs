//! K x K with stride T (1 or 2), straight from the plane: no copy, no padding in memory.
//!
//! A pass computes R rows of one vector of columns. It walks the T (R - 1) + K rows of the map that these see, and each of the K vectors
//! that it takes from a row serves every row of the output that has a tap there: at stride 1, (R + K - 1) K loads for R K² FMAs.
//! The chain of an output stays in ascending (k, l), since the rows of the map are walked in order.
//!
//! Padding: rows above and below the map are skipped, one test a row; columns beside it are the zero lanes of masked loads, which only
//! the first and last vectors of a row need. Stride 2 takes the even and the odd columns of two vectors: taps l and l + 1.
//!
//! Columns are the outer loop: the masks of a vector of columns are made once, and since everything about rows changes from pass to
//! pass, the compiler has nothing to move out of the loop and onto the stack (on 512 planes of 14 x 14, Zen 5: the other order took 1.4 times as long with AVX-512, 1.5 with AVX2).

use super::Plane;
use crate::isa::F32s;

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

#[inline(always)]
pub(super) fn plane<S: F32s, const K: usize, const T: usize>(
    s: S,
    plane: Plane<'_>,
    y: &mut [f32],
) {
    let mut weights = [[s.splat(0.0); K]; K];
    let from = &plane.weights[..K * K];
    for k in 0..K {
        for l in 0..K {
            weights[k][l] = s.splat(from[k * K + l]);
        }
    }
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
                |row, l| {
                    let row = &row[first..][..T * S::LANES + K - 1];
                    if T == 1 {
                        return (s.load(&row[l..]), weights[0][0]);
                    }
                    s.deinterleave(s.load(&row[l..]), s.load(&row[l + S::LANES..]))
                },
            );
        } else {
            // The vectors that begin at tap l, and for stride 2 those that follow them.
            let first = from as isize - left as isize;
            let mut near = [s.window(first, w); K];
            let mut far = near;
            for l in 0..K {
                near[l] = s.window(first + l as isize, w);
                far[l] = s.window(first + (l + S::LANES) as isize, w);
            }
            columns::<S, K, T>(
                s,
                plane,
                &weights,
                at,
                y,
                #[inline(always)]
                |row, l| {
                    if T == 1 {
                        let [near] = s.load_window(row, &near[l]);
                        return (near, weights[0][0]);
                    }
                    let ([near], [far]) =
                        (s.load_window(row, &near[l]), s.load_window(row, &far[l]));
                    s.deinterleave(near, far)
                },
            );
        }
    }
}

/// All rows of the vector of columns at `at`. `load(row, l)` takes tap l from a row of the map, and for stride 2 tap l + 1 as well.
#[inline(always)]
fn columns<S: F32s, const K: usize, const T: usize>(
    s: S,
    plane: Plane<'_>,
    weights: &[[S::V; K]; K],
    at: usize,
    y: &mut [f32],
    load: impl Fn(&[f32], usize) -> (S::V, S::V) + Copy,
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
    while row + 4 <= oh {
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
    load: impl Fn(&[f32], usize) -> (S::V, S::V),
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
            let x = &x[..w];
            for l in (0..K).step_by(T) {
                let (tap, next) = load(x, l);
                step::<S, K, T, R>(s, i, l, tap, weights, &mut acc);
                if T == 2 && l + 1 < K {
                    step::<S, K, T, R>(s, i, l + 1, next, weights, &mut acc);
                }
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
