//! What the tests of this family share: data, masks, pools, canaries.
#![allow(dead_code, unused_imports)] // each test file uses a part

#[path = "../common/pool.rs"]
mod pool;

use sluicegate_kernels::Channels;

pub(crate) use pool::Threads;

/// What an untouched element of an output holds.
pub(crate) const CANARY: f32 = -1.5e37;

/// Reproducible floats in -1..1.
pub(crate) fn data(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 40
    };
    (0..n)
        .map(|_| next() as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// A bitmap over `n` channels, about `density` eighths of them live.
#[derive(Debug, Clone)]
pub(crate) struct Mask {
    words: Vec<u64>,
    n: usize,
}

impl Mask {
    pub(crate) fn new(seed: u64, n: usize, density: u32) -> Self {
        let level = density as f32 / 4.0 - 1.0;
        let mut words = vec![0; n.div_ceil(64)];
        for (c, x) in data(seed ^ 0xA5A5, n).into_iter().enumerate() {
            if x < level {
                words[c / 64] |= 1 << (c % 64);
            }
        }
        Self { words, n }
    }

    pub(crate) fn full(n: usize) -> Self {
        Self::new(0, n, 9)
    }

    pub(crate) fn live(&self) -> Channels<'_> {
        Channels::new(&self.words, self.n).expect("a mask of the right length")
    }

    /// `x` with `value` in the dead ones of its `n` planes.
    pub(crate) fn kill(&self, x: &[f32], value: f32) -> Vec<f32> {
        let plane = (x.len() / self.n.max(1)).max(1);
        let one = |(i, &x): (usize, &f32)| {
            if self.live().contains(i / plane) {
                x
            } else {
                value
            }
        };
        x.iter().enumerate().map(one).collect()
    }
}

/// Runs `f` on an output of `n` canaries with more of them on either side, which must survive.
pub(crate) fn guarded(n: usize, f: impl FnOnce(&mut [f32])) -> Vec<f32> {
    const GUARD: usize = 19;
    let mut y = vec![CANARY; n + 2 * GUARD];
    f(&mut y[GUARD..GUARD + n]);
    let touched = |y: &[f32]| y.iter().any(|&y| y != CANARY);
    assert!(!touched(&y[..GUARD]), "written before the output");
    assert!(!touched(&y[GUARD + n..]), "written behind the output");
    y[GUARD..GUARD + n].to_vec()
}

pub(crate) fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|y| y.to_bits()).collect()
}

/// Every element within its tolerance of the reference; NaN meets NaN, and infinities their like.
pub(crate) fn assert_close(name: &str, y: &[f32], want: &[f64], tolerance: impl Fn(usize) -> f64) {
    assert_eq!(y.len(), want.len(), "{name}: lengths");
    for (i, (&y, &want)) in y.iter().zip(want).enumerate() {
        let y = f64::from(y);
        let same = y == want || y.is_nan() && want.is_nan();
        assert!(
            same || (y - want).abs() <= tolerance(i),
            "{name}: element {i} is {y}, expected {want} within {}",
            tolerance(i)
        );
    }
}

/// The distance in units of the last place of `want` rounded to f32; 0 where both are NaN.
pub(crate) fn ulps(y: f32, want: f64) -> f64 {
    if y.is_nan() && want.is_nan() || f64::from(y) == want || y == want as f32 {
        return 0.0;
    }
    let exponent = want.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(y) - want).abs() / (exponent - 23.0).exp2()
}
