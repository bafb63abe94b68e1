//! What the suites share: a pool, masks, random operands.
#![allow(dead_code, unreachable_pub, unused_imports)] // each suite uses a part

pub mod conv;
mod pool;

use proptest::prelude::*;
use sluicegate_kernels::Channels;
use sluicegate_kernels::epilogue::Activation;

pub(crate) use pool::Threads;

/// A mask that owns its words.
#[derive(Debug, Clone)]
pub struct Mask {
    words: Vec<u64>,
    len: usize,
}

impl Mask {
    pub fn new(live: &[bool]) -> Self {
        let mut words = vec![0u64; live.len().div_ceil(64)];
        for (c, _) in live.iter().enumerate().filter(|&(_, &live)| live) {
            words[c / 64] |= 1 << (c % 64);
        }
        let len = live.len();
        Self { words, len }
    }
    pub fn view(&self) -> Channels<'_> {
        Channels::new(&self.words, self.len).unwrap()
    }
    pub fn live(&self, c: usize) -> bool {
        self.view().contains(c)
    }
}

/// Floats of a fixed pseudo-random sequence, in -1..1.
pub fn floats(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A mask over `len` channels: all, none, or random.
pub fn mask(len: usize) -> impl Strategy<Value = Mask> {
    let random = prop::collection::vec(any::<bool>(), len);
    let sparse = prop::collection::vec(prop::bool::weighted(0.1), len);
    prop_oneof![
        1 => Just(vec![true; len]),
        1 => Just(vec![false; len]),
        4 => random,
        2 => sparse,
    ]
    .prop_map(|live| Mask::new(&live))
}

/// The activations that tiles apply.
pub fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::None),
        Just(Activation::Relu),
        Just(Activation::Clip { lo: -0.5, hi: 0.75 }),
        Just(Activation::LeakyRelu(0.1)),
    ]
}
