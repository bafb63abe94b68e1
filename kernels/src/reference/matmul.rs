//! Matrix products.

use alloc::vec::Vec;

use crate::Channels;
use crate::epilogue::Activation;

/// An element of a result: the sum, and the sum of the magnitudes of its terms, to which rounding errors are proportional.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sum {
    /// Σ terms
    pub value: f64,
    /// Σ |terms|
    pub magnitude: f64,
    /// Number of terms, the bias among them.
    pub terms: usize,
}

impl Sum {
    /// The sum that starts from `bias`.
    pub fn from_bias(bias: f32) -> Self {
        Self {
            value: f64::from(bias),
            magnitude: f64::from(bias).abs(),
            terms: 1,
        }
    }

    /// Adds `a * b`.
    pub fn add(&mut self, a: f32, b: f32) {
        let term = f64::from(a) * f64::from(b);
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }

    /// What `activation` makes of it.
    pub fn activated(mut self, activation: Activation) -> Self {
        self.value = super::pointwise::activation(activation, self.value);
        self
    }

    /// Whether `x` is what f32 arithmetic may make of it: each term errs by an ulp of the partial sum at most.
    pub fn admits(&self, x: f32) -> bool {
        let tolerance = (self.terms + 2) as f64 * f64::from(f32::EPSILON) * self.magnitude;
        (f64::from(x) - self.value).abs() <= tolerance + f64::from(f32::MIN_POSITIVE)
    }
}

/// `Σ_{k ∈ live} a(m, k) · b(k, n) + bias[n]`, row-major.
pub fn matmul(
    (m, k, n): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    bias: Option<&[f32]>,
    live_in: Option<Channels<'_>>,
) -> Vec<Sum> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let mut sum = Sum::from_bias(bias.map_or(0.0, |bias| bias[j]));
            for t in 0..k {
                if live_in.is_none_or(|live| live.contains(t)) {
                    sum.add(a(i, t), b(t, j));
                }
            }
            c.push(sum);
        }
    }
    c
}
