//! What is added to scores: numbers, or what a query may not see.
#![forbid(unsafe_code)]

use super::block::Lane;
use super::{extent, pitch};
use crate::Error;
use crate::isa::{F32s, WIDEST};
use core::f32::consts::LOG2_E;

/// `[q_heads, queries, keys]`, keys one behind the other; a distance of zero where heads or queries have the same.
#[derive(Debug, Clone, Copy)]
pub struct Bias<'a> {
    /// The elements.
    pub scores: Scores<'a>,
    /// Distance between heads.
    pub head: usize,
    /// Distance between queries.
    pub query: usize,
}

/// The elements of a [`Bias`].
#[derive(Debug, Clone, Copy)]
pub enum Scores<'a> {
    /// Added to scores.
    Add(&'a [f32]),
    /// Zero where a query may not see a key.
    Keep(&'a [u8]),
    /// Zero where a query may not see a key, in floats.
    Live(&'a [f32]),
}

impl Bias<'_> {
    pub(super) fn check(&self, [heads, queries, keys]: [usize; 3]) -> Result<(), Error> {
        let len = match self.scores {
            Scores::Add(x) | Scores::Live(x) => x.len(),
            Scores::Keep(x) => x.len(),
        };
        let extents = [(heads, self.head), (queries, self.query), (keys, 1)];
        extent("mask of scores", &extents, len)
    }

    /// The numbers for one query, at most a vector's.
    #[inline(always)]
    fn row(&self, (head, token): Lane, keys: &[u32], to: &mut [f32; WIDEST]) {
        let at = head * self.head + token * self.query;
        let first = at + keys[0] as usize;
        let together = keys[keys.len() - 1] as usize - keys[0] as usize == keys.len() - 1;
        let kept = |k: u8| if k == 0 { f32::NEG_INFINITY } else { 0.0 };
        match self.scores {
            Scores::Add(x) if together => {
                to[..keys.len()].copy_from_slice(&x[first..][..keys.len()]);
            }
            Scores::Keep(x) if together => {
                for (to, &k) in to.iter_mut().zip(&x[first..][..keys.len()]) {
                    *to = kept(k);
                }
            }
            Scores::Live(x) => {
                for (to, &j) in to.iter_mut().zip(keys) {
                    *to = kept(u8::from(x[at + j as usize] != 0.0));
                }
            }
            Scores::Add(x) => {
                for (to, &j) in to.iter_mut().zip(keys) {
                    *to = x[at + j as usize];
                }
            }
            Scores::Keep(x) => {
                for (to, &j) in to.iter_mut().zip(keys) {
                    *to = kept(x[at + j as usize]);
                }
            }
        }
    }

    /// Adds to the scores `p` of one query, as [`Bias::add`] does.
    #[inline(always)]
    pub(super) fn add_row<S: F32s>(&self, s: S, lane: Lane, keys: &[u32], p: &mut [f32]) {
        s.outline(
            #[inline(always)]
            || {
                let mut row = [0.0; WIDEST];
                for (keys, p) in keys.chunks(S::LANES).zip(p.chunks_mut(S::LANES)) {
                    self.row(lane, keys, &mut row);
                    let v = s.load_some(&row[..p.len()]);
                    s.store_some(added(s, v, s.load_some(p)), p);
                }
            },
        );
    }

    /// Adds to the scores `p` of some keys, which are logarithms to the base of 2.
    #[inline(always)]
    pub(super) fn add<S: F32s, const N: usize>(
        &self,
        s: S,
        lanes: &[Lane],
        keys: &[u32],
        p: &mut [f32],
        rest: &mut [f32],
    ) {
        let pitch = pitch::<S>();
        let same_head = self.head == 0 || lanes.iter().all(|&(head, _)| head == lanes[0].0);
        let (tiles, _) = rest.as_chunks_mut::<WIDEST>();
        for (keys, p) in keys.chunks(S::LANES).zip(p.chunks_mut(S::LANES * pitch)) {
            if self.query == 0 && same_head {
                self.row(lanes[0], keys, &mut tiles[0]);
                for (row, &bias) in p.chunks_exact_mut(pitch).zip(&tiles[0]) {
                    for j in 0..N {
                        let at = &mut row[j * S::LANES..];
                        s.store(added(s, s.splat(bias), s.load(at)), at);
                    }
                }
                continue;
            }
            for j in 0..N {
                let lanes = &lanes[lanes.len().min(j * S::LANES)..];
                for (to, &lane) in tiles.iter_mut().zip(lanes).take(S::LANES) {
                    self.row(lane, keys, to);
                }
                let mut v = [s.splat(0.0); WIDEST];
                for (v, from) in v.iter_mut().zip(&*tiles).take(S::LANES) {
                    *v = s.load(from);
                }
                s.transpose(&mut v);
                for (row, &bias) in p.chunks_exact_mut(pitch).zip(&v) {
                    let at = &mut row[j * S::LANES..];
                    s.store(added(s, bias, s.load(at)), at);
                }
            }
        }
    }
}

/// score + bias / ln 2. Files hide keys by the least float as well as by -inf: it stays finite, so that a row of nothing else is a mean.
#[inline(always)]
fn added<S: F32s>(s: S, bias: S::V, score: S::V) -> S::V {
    /// Its product with 1 / ln 2, and some score beside it, is a float.
    const LEAST: f32 = -2.3e38;
    let finite = s.max(s.splat(LEAST), bias);
    let bias = s.select(s.lt(bias, s.splat(f32::MIN)), bias, finite);
    s.mul_add(bias, s.splat(LOG2_E), score)
}
