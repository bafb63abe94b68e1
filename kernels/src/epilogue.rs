//! What a kernel does to a sum before it stores it.
#![forbid(unsafe_code)]

/// The function at the end of a kernel, fused into its store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// x
    None,
    /// max(x, 0)
    Relu,
    /// min(max(x, lo), hi)
    Clip {
        /// The least value.
        lo: f32,
        /// The greatest value.
        hi: f32,
    },
    /// x where x >= 0, else x times this slope
    LeakyRelu(f32),
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// tanh(x)
    Tanh,
    /// erf(x)
    Erf,
    /// x (1 + erf(x / sqrt 2)) / 2
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    GeluTanh,
    /// x / (1 + exp(-x))
    Silu,
    /// min(max(alpha x + beta, 0), 1)
    HardSigmoid {
        /// The slope.
        alpha: f32,
        /// The value at zero.
        beta: f32,
    },
    /// x min(max(x / 6 + 1/2, 0), 1)
    HardSwish,
    /// exp(x)
    Exp,
    /// The square root of x
    Sqrt,
}
