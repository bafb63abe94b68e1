//! What the kernel targets share: choices out of bytes, operands, tolerances.
#![allow(dead_code, reason = "each target uses a part")]

#[path = "../../../tests/common/net.rs"]
mod net;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use sluicegate::ChannelMask;
use sluicegate::kernels::epilogue::Activation;
use sluicegate::kernels::pool::Pool;
use sluicegate::kernels::reference::matmul::Sum;

/// Out of a seed: bytes decide shapes, values need not be spelled out.
pub(crate) use net::floats;

/// Around every output, and in the outputs that a kernel must not write.
pub(crate) const CANARY: f32 = 12345.0;

/// Kernels cut their work for so many threads; here one thread does the jobs, in falling order.
pub(crate) struct Backwards(pub(crate) usize);

impl Pool for Backwards {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..jobs).rev().for_each(job);
    }
}

/// A mask over `len` channels: full, empty, or out of the bytes, repeated when they are few.
pub(crate) fn mask(u: &mut Unstructured<'_>, len: usize) -> Result<ChannelMask> {
    Ok(match u.int_in_range(0..=4)? {
        0 => ChannelMask::full(len),
        1 => ChannelMask::empty(len),
        _ => {
            let n = u.len().min(len.div_ceil(8)).min(12);
            let bytes = u.bytes(n)?;
            let bit = |c: usize| bytes[c / 8 % n] >> (c % 8) & 1 == 1;
            ChannelMask::from_fn(len, |c| n > 0 && bit(c))
        }
    })
}

pub(crate) fn maybe_mask(u: &mut Unstructured<'_>, len: usize) -> Result<Option<ChannelMask>> {
    Ok(if u.arbitrary()? {
        Some(mask(u, len)?)
    } else {
        None
    })
}

/// Whether channel `c` is live in both; a mask that is not there excludes nothing.
pub(crate) fn live(a: &Option<ChannelMask>, b: &Option<ChannelMask>, c: usize) -> bool {
    [a, b]
        .iter()
        .all(|m| m.as_ref().is_none_or(|m| m.contains(c)))
}

pub(crate) fn activation(u: &mut Unstructured<'_>) -> Result<Activation> {
    Ok(match u.int_in_range(0..=12)? {
        0 => Activation::None,
        1 => Activation::Relu,
        2 => Activation::Clip { lo: -0.5, hi: 0.75 },
        3 => Activation::LeakyRelu(0.1),
        4 => Activation::Sigmoid,
        5 => Activation::Tanh,
        6 => Activation::Erf,
        7 => Activation::Gelu,
        8 => Activation::GeluTanh,
        9 => Activation::Silu,
        10 => Activation::HardSigmoid {
            alpha: 0.2,
            beta: 0.5,
        },
        11 => Activation::HardSwish,
        _ => Activation::Exp,
    })
}

/// Whether `x` is what f32 arithmetic may make of `act(sum)`.
///
/// The sum errs by an ulp of its partial sums a term ([`Sum::admits`]); the function passes that on with at most its steepest slope
/// (below 1.6 for all but exp, whose slope is its value), and adds a few ulps of its own, relative to its own terms.
pub(crate) fn admits(x: f32, sum: &Sum, act: Activation) -> bool {
    let y = sum.activated(act).value;
    if matches!(
        act,
        Activation::None | Activation::Relu | Activation::Clip { .. } | Activation::LeakyRelu(_)
    ) {
        return sum.activated(act).admits(x);
    }
    let eps = f64::from(f32::EPSILON);
    let of_sum = (sum.terms + 2) as f64 * eps * sum.magnitude;
    let slope = if act == Activation::Exp {
        y * of_sum.exp()
    } else {
        1.6
    };
    let own = 8.0 * eps * (y.abs() + sum.value.abs().min(1.0));
    (f64::from(x) - y).abs() <= slope * of_sum + own + f64::from(f32::MIN_POSITIVE)
}

/// Bits, for comparisons that NaN takes part in.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
