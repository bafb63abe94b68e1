//! Queries as lanes, and lanes as rows of the result.
#![forbid(unsafe_code)]

use super::block::{Block, Lane};
use super::{WIDE, pitch};
use crate::isa::{F32s, WIDEST};
use crate::pool::{NOWHERE, Rows, Tile};
use crate::tile::gemm::NV;
use crate::transpose::{to_pixels, to_rows};

impl Block<'_, '_> {
    /// Queries as lanes, times the scale.
    #[inline(always)]
    pub(super) fn load_queries<S: F32s, const N: usize>(
        &self,
        s: S,
        lanes: &[Lane],
        q: &mut [f32],
        rest: &mut [f32],
    ) {
        let spec = &self.attention.spec;
        let from = &self.x.q;
        let zeros = &mut rest[..spec.width];
        zeros.fill(0.0);
        for j in 0..N {
            let mut rows = [&*zeros; WIDEST];
            let lanes = &lanes[lanes.len().min(j * S::LANES)..];
            for (row, &(head, token)) in rows.iter_mut().zip(lanes).take(S::LANES) {
                *row = &from.data[head * from.head + token * from.token..][..spec.width];
            }
            let q = &mut q[j * S::LANES..];
            if const { pitch::<S>() == WIDE * S::LANES } {
                to_pixels::<S, WIDE>(s, &rows, q);
            } else {
                to_pixels::<S, NV>(s, &rows, q);
            }
        }
        let scale = s.splat(self.scale());
        each_vector::<S, N>(
            s,
            q,
            #[inline(always)]
            |_, v| s.mul(v, scale),
        );
    }

    /// y = o / sum
    #[inline(always)]
    pub(super) fn store<S: F32s, const N: usize>(
        &mut self,
        s: S,
        lanes: &[Lane],
        sum: &[S::V; N],
        o: &mut [f32],
        rest: &mut [f32],
    ) {
        let width = self.attention.spec.v_width;
        let direct = self.attention.heads == 1 && self.live_in(self.head).is_none();
        let mut factor = *sum;
        for factor in &mut factor {
            // A query that saw no key has a sum of zero, and sums of zero.
            let one = s.splat(1.0);
            let none = s.lt(*factor, s.splat(f32::MIN_POSITIVE));
            *factor = s.div(one, s.select(none, one, *factor));
        }
        each_vector::<S, N>(
            s,
            o,
            #[inline(always)]
            |j, v| s.mul(v, factor[j]),
        );
        for j in 0..N {
            let from = &o[j * S::LANES..];
            let lanes = &lanes[lanes.len().min(j * S::LANES)..];
            let lanes = &lanes[..lanes.len().min(S::LANES)];
            if direct {
                let mut rows = [NOWHERE; WIDEST];
                for (row, &(_, token)) in rows.iter_mut().zip(lanes) {
                    *row = (token - self.tokens.start) as u32;
                }
                if self.by_token {
                    rows_of(s, from, width, self.out.listed_or(&rows, 0, rest));
                } else {
                    let all = self.out.row(0);
                    let mut out = Tile::new(all, self.tokens.len(), width, width);
                    rows_of(s, from, width, out.listed_or(&rows, 0, rest));
                }
                continue;
            }
            let mut rows = Tile::new(rest, WIDEST, width, width);
            rows_of(s, from, width, rows.in_order::<WIDEST>(0));
            for (i, &lane) in lanes.iter().enumerate() {
                self.write(lane, rows.row(i));
            }
        }
    }
}

/// Puts `f(j, v)` in the place of vector `j` of each row of lanes.
#[inline(always)]
pub(super) fn each_vector<S: F32s, const N: usize>(
    s: S,
    rows: &mut [f32],
    f: impl Fn(usize, S::V) -> S::V,
) {
    for row in rows.chunks_exact_mut(pitch::<S>()) {
        for j in 0..N {
            let at = &mut row[j * S::LANES..];
            s.store(f(j, s.load(at)), at);
        }
    }
}

/// Lanes to rows of elements.
#[inline(always)]
fn rows_of<S: F32s>(s: S, from: &[f32], width: usize, rows: impl Rows<WIDEST>) {
    if const { pitch::<S>() == WIDE * S::LANES } {
        to_rows::<S, WIDE>(s, from, width, rows);
    } else {
        to_rows::<S, NV>(s, from, width, rows);
    }
}
