//! The core of K x K: V vectors of outputs that are swept from the top of a map to its bottom.
//!
//! A step of the sweep reads M rows of the map and completes one row of the output, M being the rows of the map between two of these
//! (the stride, or more where a vector holds several rows). Every row is loaded once: it serves all sums that have a tap in it, those of the
//! next ⌈K / M⌉ outputs, which grow old together.
//!
//! ```text
//! for each step: for j in 0..M:
//!     row = M step + j; for l ascending: for age in 0..⌈K / M⌉: sums[age] += weights[j + M age][l] * tap(row, l)
//!     the oldest sum is complete; every other one ages by a step; the youngest starts at the bias
//! ```
//! The chain of an output is in ascending (k, l), since the rows of the map are walked in order; rows outside the map are left out.
//!
//! What the loops around this must save is loads: two a cycle (Zen 5), of which a vector across cache lines takes both, and a scalar that the
//! compiler keeps on the stack takes one as well.

use core::hint::black_box;

use super::Plane;
use crate::isa::F32s;

/// Repeats the body for each `i` in `0..n`, `n <= 7` constant. Left to a loop, the compiler keeps the sums in memory and jumps by table.
macro_rules! each {
    ($i:ident in $n:expr => $body:block) => {
        each!(@ $i $n, $body, 0 1 2 3 4 5 6)
    };
    (@ $i:ident $n:expr, $body:block, $($at:literal)*) => {
        $(if const { $at < $n } {
            let $i: usize = $at;
            $body
        })*
    };
}
pub(super) use each;

/// The sums of a sweep.
pub(super) struct Sums<'a, S: F32s, const K: usize, const M: usize, const V: usize> {
    sums: [[S::V; V]; K],
    weights: &'a [f32],
    /// The weights in all lanes, where there are registers for them.
    kept: [[S::V; K]; K],
    bias: S::V,
    clamp: (S::V, S::V),
}

impl<'a, S: F32s, const K: usize, const M: usize, const V: usize> Sums<'a, S, K, M, V> {
    /// Steps from the first row of an output to its last.
    pub(super) const OLDEST: usize = K.div_ceil(M) - 1;
    /// Broadcasts are part of an FMA with AVX-512 only, and for one vector alone they are not hoisted.
    const KEEPS: bool = V > 1 || K < 7 || S::REGISTERS < 32;

    #[inline(always)]
    pub(super) fn new(s: S, plane: Plane<'a>) -> Self {
        let bias = s.splat(plane.bias);
        Self {
            sums: [[bias; V]; K],
            weights: plane.weights,
            kept: if Self::KEEPS {
                plane.weights(s)
            } else {
                [[bias; K]; K]
            },
            bias,
            clamp: (s.splat(plane.clamp.0), s.splat(plane.clamp.1)),
        }
    }

    /// Adds row `j` of a step. `tap` gives what column `l` of the kernel takes from it, `add` is sum + x · weight for that column.
    #[inline(always)]
    pub(super) fn absorb(
        &mut self,
        s: S,
        j: usize,
        tap: impl Fn(usize) -> [S::V; V],
        add: impl Fn(usize, S::V, S::V, S::V) -> S::V,
    ) {
        let weights = self.weights();
        each!(l in K => {
            let x = tap(l);
            each!(age in Self::OLDEST + 1 => {
                if j + M * age < K {
                    let weight = if Self::KEEPS {
                        self.kept[j + M * age][l]
                    } else {
                        s.splat(weights[(j + M * age) * K + l])
                    };
                    for v in 0..V {
                        self.sums[age][v] = add(l, x[v], weight, self.sums[age][v]);
                    }
                }
            });
        });
    }

    /// The weights, of which the compiler must not know that they were read before: it would take those that it cannot keep from the stack, and
    /// have put them there for every plane.
    #[inline(always)]
    fn weights(&self) -> &'a [f32] {
        if Self::KEEPS {
            return &[];
        }
        &black_box(self.weights)[..K * K]
    }

    /// Ends a step. Returns the oldest sums, in bounds.
    #[inline(always)]
    pub(super) fn step(&mut self, s: S) -> [S::V; V] {
        let mut out = self.sums[Self::OLDEST];
        let (lo, hi) = self.clamp;
        for v in 0..V {
            out[v] = s.min(hi, s.max(lo, out[v]));
        }
        for age in (0..Self::OLDEST).rev() {
            self.sums[age + 1] = self.sums[age];
        }
        self.sums[0] = [self.bias; V];
        out
    }
}
