//! Activations.

use crate::epilogue::Activation;

/// act(x)
pub fn activation(act: Activation, x: f64) -> f64 {
    match act {
        Activation::None => x,
        Activation::Relu => at_least(0.0, x),
        Activation::Clip { lo, hi } => at_most(f64::from(hi), at_least(f64::from(lo), x)),
        Activation::LeakyRelu(slope) => {
            if x < 0.0 {
                x * f64::from(slope)
            } else {
                x
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
        Activation::Tanh => libm::tanh(x),
        Activation::Erf => libm::erf(x),
        Activation::Gelu => x * libm::erfc(-x * core::f64::consts::FRAC_1_SQRT_2) / 2.0,
        Activation::GeluTanh => {
            let u = libm::sqrt(2.0 / core::f64::consts::PI) * (x + 0.044715 * x * x * x);
            x / (1.0 + libm::exp(-2.0 * u))
        }
        Activation::Silu => x / (1.0 + libm::exp(-x)),
        Activation::HardSigmoid { alpha, beta } => {
            at_most(1.0, at_least(0.0, f64::from(alpha) * x + f64::from(beta)))
        }
        Activation::HardSwish => x * at_most(1.0, at_least(0.0, x / 6.0 + 0.5)),
        Activation::Exp => libm::exp(x),
        Activation::Sqrt => libm::sqrt(x),
    }
}

/// The greater; NaN stays.
fn at_least(lo: f64, x: f64) -> f64 {
    if x < lo { lo } else { x }
}

/// The lesser; NaN stays.
fn at_most(hi: f64, x: f64) -> f64 {
    if x > hi { hi } else { x }
}
