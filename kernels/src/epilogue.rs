//! What a kernel does to a sum before it stores it.
#![forbid(unsafe_code)]

use crate::isa::F32s;

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

impl Activation {
    /// What it keeps a sum between, if that is all it does.
    pub(crate) fn bounds(self) -> Option<(f32, f32)> {
        match self {
            Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Activation::Relu => Some((0.0, f32::INFINITY)),
            Activation::Clip { lo, hi } => Some((lo, hi)),
            _ => None,
        }
    }

    /// Whether it is cheap enough to apply while the tile is still in registers.
    pub(crate) fn in_registers(self) -> bool {
        use Activation::*;
        matches!(self, None | Relu | Clip { .. } | LeakyRelu(_))
    }
}

/// Applies `act` to a tile of vectors, when it is one of those that [`Activation::in_registers`] names. NaN stays.
#[inline(always)]
pub(crate) fn finish<S: F32s, const MR: usize, const NV: usize>(
    s: S,
    act: Activation,
    acc: &mut [[S::V; NV]; MR],
) {
    match act {
        Activation::Relu => {
            let zero = s.splat(0.0);
            for_each(
                acc,
                #[inline(always)]
                |x| s.max(zero, x),
            );
        }
        Activation::Clip { lo, hi } => {
            let (lo, hi) = (s.splat(lo), s.splat(hi));
            for_each(
                acc,
                #[inline(always)]
                |x| s.min(hi, s.max(lo, x)),
            );
        }
        Activation::LeakyRelu(slope) => {
            let (zero, slope) = (s.splat(0.0), s.splat(slope));
            for_each(
                acc,
                #[inline(always)]
                |x| s.select(s.lt(x, zero), s.mul(slope, x), x),
            );
        }
        _ => {}
    }
}

#[inline(always)]
fn for_each<V: Copy, const MR: usize, const NV: usize>(
    acc: &mut [[V; NV]; MR],
    f: impl Fn(V) -> V,
) {
    for row in acc {
        for x in row {
            *x = f(*x);
        }
    }
}
