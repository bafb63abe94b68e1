//! A few queries against all keys: elements are lanes where scores and values are summed, keys where softmax is.
//!
//! K and V pass once for up to [`ROWS`] queries. This is the kernel of decoding, and of the queries that would leave most lanes of a
//! [`Block`]'s last vector idle.
#![forbid(unsafe_code)]

use super::KC;
use super::block::{Block, Lane};
use super::reach::bent;
use crate::isa::{F32s, WIDEST};
use crate::ops::pointwise::{exp2, map};
use crate::ops::reduce::row_max;
use crate::pack::even_height;
use crate::panel::{LINE, take};
use crate::tile::gemm::for_height;

/// Queries at a time, at most.
const ROWS: usize = 6;

/// Queries at a time: the sums of each take four registers.
const fn at_once<S: F32s>() -> usize {
    if S::REGISTERS >= 32 { ROWS } else { 4 }
}

/// Vectors of the result that are summed at a time.
const ACROSS: usize = 4;

/// Keys whose scores are summed at a time.
const DOWN: usize = 4;

/// Vectors of a key that are multiplied without a check in between: with few queries to multiply them by, checks are most of the work.
const fn at_a_stretch(queries: usize) -> usize {
    if queries <= 2 { 4 } else { 1 }
}

/// Elements of scratch.
pub(super) fn scratch_len(width: usize, v_width: usize) -> usize {
    ROWS * (padded(width) + padded(v_width) + KC + LINE) + 4 * LINE
}

/// A row of whole vectors.
fn padded(width: usize) -> usize {
    width.next_multiple_of(WIDEST)
}

impl Block<'_, '_> {
    #[inline(always)]
    pub(super) fn few<S: F32s>(&mut self, s: S, lanes: &[Lane], scratch: &mut [f32]) {
        s.outline(
            #[inline(always)]
            || {
                for lanes in lanes.chunks(even_height(lanes.len(), at_once::<S>())) {
                    for_height!(@ lanes.len(), N, if N <= at_once::<S>() {
                        self.rows::<S, N>(s, lanes, scratch);
                    }, 1 2 3 4 5 6);
                }
            },
        );
    }

    #[inline(always)]
    fn rows<S: F32s, const N: usize>(&mut self, s: S, lanes: &[Lane], scratch: &mut [f32]) {
        let spec = self.attention.spec;
        let (pitch, y_pitch) = (padded(spec.width), padded(spec.v_width));
        let mut rest = scratch;
        let q = take(&mut rest, N * pitch);
        let p = take(&mut rest, N * KC);
        let o = take(&mut rest, N * y_pitch);
        o.fill(0.0);
        q.fill(0.0);
        let scale = self.scale();
        for (i, &(head, token)) in lanes.iter().enumerate() {
            let from = &self.x.q.data[head * self.x.q.head + token * self.x.q.token..];
            let vectors = q.chunks_exact_mut(N * S::LANES);
            for (to, from) in vectors.zip(from[..spec.width].chunks(S::LANES)) {
                for (to, &x) in to[i * S::LANES..].iter_mut().zip(from) {
                    *to = x * scale;
                }
            }
        }
        let kv = self.kv();
        let keys = self.seen(lanes);
        let (mut max, mut sum) = ([f32::MIN; N], [0f32; N]);
        for keys in keys.as_slice().chunks(KC) {
            self.few_scores::<S, N>(s, kv, keys, q, p);
            for (i, p) in p.chunks_exact_mut(KC).enumerate() {
                let p = &mut p[..keys.len()];
                self.finish_row(s, lanes[i], keys, p);
                let before = max[i];
                max[i] = row_max(s, p).max(before);
                let factor = s.first(exp2(s, s.splat(before - max[i])));
                sum[i] = sum[i] * factor + exponentials(s, p, max[i]);
                rescale(s, &mut o[i * y_pitch..][..y_pitch], factor);
            }
            self.few_values::<S, N>(s, kv, keys, p, o);
        }
        for ((&lane, o), sum) in lanes.iter().zip(o.chunks_exact_mut(y_pitch)).zip(sum) {
            // A query that saw no key has a sum of zero, and sums of zero.
            rescale(s, o, if sum == 0.0 { 1.0 } else { 1.0 / sum });
            self.write(lane, &o[..spec.v_width]);
        }
    }

    /// p[i, j] = q[i] · k[j]; a vector of each query is followed by that of the next.
    #[inline(always)]
    fn few_scores<S: F32s, const N: usize>(
        &self,
        s: S,
        kv: usize,
        keys: &[u32],
        q: &[f32],
        p: &mut [f32],
    ) {
        let width = self.attention.spec.width;
        let k = &self.x.k;
        let data = &k.data[kv * k.head..];
        let row = |j: u32| &data[j as usize * k.token..][..width];
        for (b, keys) in keys.chunks(S::LANES).enumerate() {
            let mut sums = [[s.splat(0.0); WIDEST]; N];
            for (d, some) in keys.chunks(DOWN).enumerate() {
                // Those behind the last key are summed for nothing.
                let mut rows = [row(some[0]); DOWN];
                for (row_of, &j) in rows.iter_mut().zip(some) {
                    *row_of = row(j);
                }
                let acc = few_products::<S, N>(s, q, rows);
                for i in 0..N {
                    for j in 0..DOWN {
                        sums[i][(d * DOWN + j) & (WIDEST - 1)] = acc[i][j];
                    }
                }
            }
            for i in 0..N {
                let to = &mut p[i * KC + b * S::LANES..][..keys.len()];
                s.store_some(lane_sums(s, &mut sums[i]), to);
            }
        }
    }

    /// Softcap, bias and what the query does not see.
    #[inline(always)]
    fn finish_row<S: F32s>(&self, s: S, lane: Lane, keys: &[u32], p: &mut [f32]) {
        let spec = &self.attention.spec;
        if spec.softcap != 0.0 {
            map(
                s,
                p,
                #[inline(always)]
                |v| bent(s, spec.softcap, v),
            );
        }
        if let Some(bias) = &self.x.bias {
            bias.add_row(s, lane, keys, p);
        }
        let seen = self.sees(lane.1, keys);
        p[..seen.start].fill(f32::NEG_INFINITY);
        p[seen.end..].fill(f32::NEG_INFINITY);
    }

    /// o[i] += Σ_j p[i, j] v[j]
    #[inline(always)]
    fn few_values<S: F32s, const N: usize>(
        &self,
        s: S,
        kv: usize,
        keys: &[u32],
        all: &[f32],
        o: &mut [f32],
    ) {
        let width = self.attention.spec.v_width;
        let pitch = padded(width);
        let v = &self.x.v;
        let data = &v.data[kv * v.head..];
        for c in (0..width).step_by(ACROSS * S::LANES) {
            let mut acc = [[s.splat(0.0); ACROSS]; N];
            for i in 0..N {
                for x in 0..ACROSS {
                    acc[i][x] = s.load_some(&o[(i * pitch + c + x * S::LANES).min(o.len())..]);
                }
            }
            let left = width - c;
            let mut p = [&all[..keys.len()]; N];
            for i in 0..N {
                p[i] = &all[i * KC..][..keys.len()];
            }
            if left >= ACROSS * S::LANES {
                for (j, &key) in keys.iter().enumerate() {
                    let row = &data[key as usize * v.token + c..][..ACROSS * S::LANES];
                    for x in 0..ACROSS {
                        let v = s.load(&row[x * S::LANES..]);
                        for i in 0..N {
                            acc[i][x] = s.mul_add(s.splat(p[i][j]), v, acc[i][x]);
                        }
                    }
                }
            } else {
                for (j, &key) in keys.iter().enumerate() {
                    let row = &data[key as usize * v.token + c..][..left];
                    for (x, row) in row.chunks(S::LANES).take(ACROSS).enumerate() {
                        let v = s.load_some(row);
                        for i in 0..N {
                            acc[i][x] = s.mul_add(s.splat(p[i][j]), v, acc[i][x]);
                        }
                    }
                }
            }
            for i in 0..N {
                for x in 0..ACROSS.min(left.div_ceil(S::LANES)) {
                    s.store(acc[i][x], &mut o[i * pitch + c + x * S::LANES..]);
                }
            }
        }
    }
}

/// The products of each query with each row, to be summed over lanes.
#[inline(always)]
fn few_products<S: F32s, const N: usize>(
    s: S,
    q: &[f32],
    rows: [&[f32]; DOWN],
) -> [[S::V; DOWN]; N] {
    let mut acc = [[s.splat(0.0); DOWN]; N];
    let width = rows[0].len();
    let mut from = 0;
    let long = const { at_a_stretch(N) };
    while from + long * S::LANES <= width {
        let mut parts = rows;
        for part in &mut parts {
            *part = &part[from..][..long * S::LANES];
        }
        let q = &q[from * N..][..long * N * S::LANES];
        for t in 0..long {
            for i in 0..N {
                let q = s.load(&q[(t * N + i) * S::LANES..]);
                for j in 0..DOWN {
                    acc[i][j] = s.mul_add(q, s.load(&parts[j][t * S::LANES..]), acc[i][j]);
                }
            }
        }
        from += long * S::LANES;
    }
    while from < width {
        let q = &q[from * N..][..N * S::LANES];
        let mut parts = [s.splat(0.0); DOWN];
        for j in 0..DOWN {
            parts[j] = s.load_some(&rows[j][from..]);
        }
        for i in 0..N {
            let q = s.load(&q[i * S::LANES..]);
            for j in 0..DOWN {
                acc[i][j] = s.mul_add(q, parts[j], acc[i][j]);
            }
        }
        from += S::LANES;
    }
    acc
}

/// The sum of the lanes of each vector, one a lane.
#[inline(always)]
fn lane_sums<S: F32s>(s: S, v: &mut [S::V; WIDEST]) -> S::V {
    let mut count = S::LANES;
    while count > 1 {
        count /= 2;
        for i in 0..count {
            let (even, odd) = s.deinterleave(v[2 * i], v[2 * i + 1]);
            v[i] = s.add(even, odd);
        }
    }
    v[0]
}

/// p = 2^(p - max); returns the sum.
#[inline(always)]
fn exponentials<S: F32s>(s: S, p: &mut [f32], max: f32) -> f32 {
    let max = s.splat(max);
    let mut sum = s.splat(0.0);
    let mut chunks = p.chunks_exact_mut(S::LANES);
    for at in &mut chunks {
        let e = exp2(s, s.sub(s.load(at), max));
        sum = s.add(sum, e);
        s.store(e, at);
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        s.store_some(exp2(s, s.sub(s.load_some(rest), max)), rest);
        sum = s.add(sum, s.load_some(rest));
    }
    s.sum(sum)
}

/// row = row * factor. A function of its own: the loops of products want all registers.
#[inline(always)]
fn rescale<S: F32s>(s: S, row: &mut [f32], factor: f32) {
    s.outline(
        #[inline(always)]
        || {
            let factor = s.splat(factor);
            map(
                s,
                row,
                #[inline(always)]
                |v| s.mul(v, factor),
            );
        },
    );
}
