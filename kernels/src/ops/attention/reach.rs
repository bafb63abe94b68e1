//! Which keys a query sees, and what else happens to scores before they are weights.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::block::{Block, Lane};
use super::lanes::each_vector;
use super::{WIDE, pitch};
use crate::isa::{F32s, WIDEST};
use crate::ops::pointwise::tanh;
use crate::panel::{Below, Terms};

impl<'a> Block<'a, '_> {
    /// What queries are multiplied by: their scores are logarithms to the base of 2 unless a function comes in between.
    #[inline(always)]
    pub(super) fn scale(&self) -> f32 {
        let spec = &self.attention.spec;
        if spec.softcap == 0.0 {
            spec.scale * core::f32::consts::LOG2_E
        } else {
            spec.scale
        }
    }

    /// The head of K and V.
    #[inline(always)]
    pub(super) fn kv(&self) -> usize {
        let spec = &self.attention.spec;
        self.head / (spec.q_heads / spec.kv_heads)
    }

    /// The keys that some query of the block sees.
    #[inline(always)]
    pub(super) fn seen(&self, lanes: &[Lane]) -> Below<'a> {
        let keys = self.lists.keys;
        let tokens = || lanes.iter().map(|&(_, token)| token);
        let (first, last) = (tokens().min().unwrap_or(0), tokens().max().unwrap_or(0));
        let from = self.sees(first, keys.as_slice()).start;
        let to = self.sees(last, keys.as_slice()).end;
        keys.part(from..to.max(from))
    }

    /// Which of some keys a query sees.
    #[inline(always)]
    pub(super) fn sees(&self, token: usize, keys: &[u32]) -> Range<usize> {
        let spec = &self.attention.spec;
        let at = (token as isize).saturating_add(self.x.offset);
        let before = |bound: isize| keys.partition_point(|&j| (j as isize) < bound);
        let from = spec
            .before
            .map_or(0, |n| before(at.saturating_sub_unsigned(n)));
        let to = spec.after.map_or(keys.len(), |n| {
            before(at.saturating_add_unsigned(n).saturating_add(1))
        });
        from..to.max(from)
    }

    /// What is done to scores before the exponential; they are logarithms to the base of 2 behind it.
    #[inline(always)]
    pub(super) fn finish_scores<S: F32s, const N: usize>(
        &self,
        s: S,
        lanes: &[Lane],
        keys: &[u32],
        p: &mut [f32],
        rest: &mut [f32],
    ) {
        let spec = &self.attention.spec;
        if spec.softcap != 0.0 {
            each_vector::<S, N>(
                s,
                p,
                #[inline(always)]
                |_, v| bent(s, spec.softcap, v),
            );
        }
        if let Some(bias) = &self.x.bias {
            bias.add::<S, N>(s, lanes, keys, p, rest);
        }
        self.hide::<S, N>(s, lanes, keys, p);
    }

    /// Scores of keys that not every query sees become -inf where one does not.
    #[inline(always)]
    fn hide<S: F32s, const N: usize>(&self, s: S, lanes: &[Lane], keys: &[u32], p: &mut [f32]) {
        let spec = &self.attention.spec;
        if spec.before.is_none() && spec.after.is_none() {
            return;
        }
        let pitch = pitch::<S>();
        // Positions relative to the first key: exact floats, as far as a block and its queries reach.
        let base = keys[0] as isize;
        let mut bounds = [[0f32; WIDE * WIDEST]; 2];
        let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
        let [low, high] = &mut bounds;
        for (l, &(_, token)) in lanes.iter().enumerate() {
            let at = (token as isize)
                .saturating_add(self.x.offset)
                .saturating_sub(base);
            low[l] = spec
                .before
                .map_or(f32::NEG_INFINITY, |n| at.saturating_sub_unsigned(n) as f32);
            high[l] = spec
                .after
                .map_or(f32::INFINITY, |n| at.saturating_add_unsigned(n) as f32);
            (least, most) = (least.min(high[l]), most.max(low[l]));
        }
        let hidden = s.splat(f32::NEG_INFINITY);
        for (row, &key) in p.chunks_exact_mut(pitch).zip(keys) {
            let at = (key as isize - base) as f32;
            if at <= least && at >= most {
                continue;
            }
            for j in 0..N {
                let from = j * S::LANES;
                let mut v = s.load(&row[from..]);
                v = s.select(s.lt(s.load(&high[from..]), s.splat(at)), hidden, v);
                v = s.select(s.lt(s.splat(at), s.load(&low[from..])), hidden, v);
                s.store(v, &mut row[from..]);
            }
        }
    }
}

/// softcap tanh(score / softcap), to the base of 2.
#[inline(always)]
pub(super) fn bent<S: F32s>(s: S, softcap: f32, score: S::V) -> S::V {
    let less = s.splat(1.0 / softcap);
    let more = s.splat(softcap * core::f32::consts::LOG2_E);
    s.mul(tanh(s, s.mul(score, less)), more)
}
