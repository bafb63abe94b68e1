//! The transforms of F(M x M, 3 x 3), one axis at a time, `N = M + 2`.
//!
//! ```text
//! y = A' [ (G w) * (B' d) ]          w: 3 taps, d: N inputs, y: M outputs, *: N products, element by element
//! ```
//! By Cook and Toom: the polynomials d and w are multiplied through their values at N - 1 points and at infinity. With `W(x)` the
//! product of all `x - p`, row p of B' holds the coefficients of `W(x) / (x - p)`, row infinity those of W; row p of G is
//! `[1, p, p^2] / W'(p)`; column p of A' is `[1, p, p^2, ..]`.
//!
//! Points: 0, ±1 for M = 2. For M = 4 they are 0, ±5/8, ±3/2 as in oneDNN, and not the usual 0, ±1, ±2: their powers are floats too
//! and lie nearer to 1, and the error is a half to a third.
#![forbid(unsafe_code)]

use crate::isa::F32s;

/// The points of M = 4, beside 0 and infinity: ±P and ±Q.
const P: f32 = 0.625;
const Q: f32 = 1.5;

/// B' d
#[inline(always)]
pub(super) fn input<S: F32s, const N: usize>(s: S, d: [S::V; N]) -> [S::V; N] {
    let mut v = d;
    if N == 4 {
        v[0] = s.sub(d[2], d[0]);
        v[1] = s.add(d[2], d[1]);
        v[2] = s.sub(d[2], d[1]);
        v[3] = s.sub(d[3], d[1]);
        return v;
    }
    let (pp, qq) = (P * P, Q * Q);
    v[0] = outer(s, d[0], d[2], d[4]);
    v[5] = outer(s, d[1], d[3], d[5]);
    (v[1], v[2]) = pair(s, P, qq, [d[1], d[2], d[3], d[4]]);
    (v[3], v[4]) = pair(s, Q, pp, [d[1], d[2], d[3], d[4]]);
    v
}

/// (x^2 - P^2)(x^2 - Q^2)
#[inline(always)]
fn outer<S: F32s>(s: S, a: S::V, b: S::V, c: S::V) -> S::V {
    let (pp, qq) = (P * P, Q * Q);
    let inner = s.mul_add(s.splat(-(pp + qq)), b, c);
    s.mul_add(s.splat(pp * qq), a, inner)
}

/// x (x + p)(x^2 - other) for p and -p.
#[inline(always)]
fn pair<S: F32s>(s: S, p: f32, other: f32, [a, b, c, d]: [S::V; 4]) -> (S::V, S::V) {
    let even = s.mul_add(s.splat(-other), b, d);
    let odd = s.mul_add(s.splat(-other), a, c);
    (
        s.mul_add(s.splat(p), odd, even),
        s.mul_add(s.splat(-p), odd, even),
    )
}

/// A' m
#[inline(always)]
pub(super) fn output<S: F32s, const M: usize, const N: usize>(s: S, m: [S::V; N]) -> [S::V; M] {
    let mut y = [s.splat(0.0); M];
    let (sum, difference) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    if N == 4 {
        y[0] = s.add(m[0], sum);
        y[1] = s.add(m[3], difference);
        return y;
    }
    let (sum_q, difference_q) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    y[0] = s.add(m[0], s.add(sum, sum_q));
    y[1] = two(s, (P, difference), (Q, difference_q));
    y[2] = two(s, (P * P, sum), (Q * Q, sum_q));
    let last = s.mul_add(s.splat(P * P * P), difference, m[5]);
    y[3] = s.mul_add(s.splat(Q * Q * Q), difference_q, last);
    y
}

#[inline(always)]
fn two<S: F32s>(s: S, a: (f32, S::V), b: (f32, S::V)) -> S::V {
    s.mul_add(s.splat(b.0), b.1, s.mul(s.splat(a.0), a.1))
}

/// G w G' of one window `w`, row-major; rounded once.
pub(super) fn weights<const N: usize>(w: &[f32; 9]) -> [[f32; N]; N] {
    let g = taps::<N>();
    let w = w.map(f64::from);
    let mut u = [[0.0; N]; N];
    for i in 0..N {
        for j in 0..N {
            let mut sum = 0.0;
            for (a, row) in w.chunks_exact(3).enumerate() {
                let across = g[j][0] * row[0] + g[j][1] * row[1] + g[j][2] * row[2];
                sum += g[i][a] * across;
            }
            u[i][j] = sum as f32;
        }
    }
    u
}

/// G
fn taps<const N: usize>() -> [[f64; 3]; N] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let points: &[f64] = if N == 4 {
        &[0.0, 1.0, -1.0]
    } else {
        &[0.0, p, -p, q, -q]
    };
    let mut g = [[0.0, 0.0, 1.0]; N];
    for (i, (&x, row)) in points.iter().zip(&mut g).enumerate() {
        let others = points.iter().enumerate().filter(|&(j, _)| j != i);
        let scale: f64 = others.map(|(_, &y)| x - y).product();
        *row = [1.0 / scale, x / scale, x * x / scale];
    }
    g
}
