//! Functions of one operand, in f64 and then rounded.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::graph::Unary;
use crate::ops::operands::Operands;
use crate::ops::undefined;
use crate::{DType, Result, Shape, View, ViewMut};

pub(super) fn result(op: Unary, x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.get(0, "X")?;
    let defined = match (op, input.dtype) {
        (Unary::Not, dtype) => dtype == DType::Bool,
        (_, DType::F32) => true,
        (Unary::Abs, dtype) => dtype != DType::Bool,
        (Unary::Neg | Unary::Relu, dtype) => {
            matches!(dtype, DType::I64 | DType::I32 | DType::I8)
        }
        _ => false,
    };
    if defined {
        Ok((input.dtype, input.shape))
    } else {
        Err(undefined(input.dtype))
    }
}

pub(super) fn eval(op: Unary, x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "X")?;
    match input.dtype() {
        DType::F32 => return floats(op, input, y),
        DType::I64 => {
            let f = integer(op, i64::wrapping_abs, i64::wrapping_neg, |x| x.max(0));
            map(input.as_slice()?, y.as_slice()?, f);
        }
        DType::I32 => {
            let f = integer(op, i32::wrapping_abs, i32::wrapping_neg, |x| x.max(0));
            map(input.as_slice()?, y.as_slice()?, f);
        }
        DType::I8 => {
            let f = integer(op, i8::wrapping_abs, i8::wrapping_neg, |x| x.max(0));
            map(input.as_slice()?, y.as_slice()?, f);
        }
        // Abs is all that is left for bytes.
        DType::U8 => y.bytes().copy_from_slice(input.bytes()),
        DType::Bool => map(input.bytes(), y.bytes(), |x: u8| (x == 0).into()),
    }
    Ok(())
}

/// The function of integers that `op` is; others were refused.
fn integer<T>(op: Unary, abs: fn(T) -> T, neg: fn(T) -> T, relu: fn(T) -> T) -> fn(T) -> T {
    match op {
        Unary::Abs => abs,
        Unary::Neg => neg,
        _ => relu,
    }
}

/// y[i] = f(x[i])
fn map<T: Copy>(x: &[T], y: &mut [T], f: impl Fn(T) -> T) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = f(x);
    }
}

fn floats(op: Unary, x: View<'_>, y: &mut ViewMut<'_>) -> Result<()> {
    let (x, y) = (x.as_slice::<f32>()?, y.as_slice::<f32>()?);
    // One loop a function, so that none decides anything for each element.
    macro_rules! each {
        ($f:expr) => {{
            let f: fn(f64) -> f64 = $f;
            map(x, y, |x| f(x.into()) as f32)
        }};
    }
    match op {
        Unary::Abs => map(x, y, f32::abs),
        Unary::Ceil => map(x, y, f32::ceil),
        Unary::Elu { alpha } => {
            let alpha = f64::from(alpha);
            let elu = |x: f64| if x < 0.0 { alpha * x.exp_m1() } else { x };
            map(x, y, |x| elu(x.into()) as f32);
        }
        Unary::Erf => each!(libm::erf),
        Unary::Exp => each!(f64::exp),
        Unary::Floor => map(x, y, f32::floor),
        Unary::Gelu { tanh: false } => {
            each!(|x| 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2)));
        }
        Unary::Gelu { tanh: true } => {
            each!(|x| 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()));
        }
        Unary::HardSigmoid { alpha, beta } => {
            let (alpha, beta) = (f64::from(alpha), f64::from(beta));
            map(x, y, |x| {
                (alpha * f64::from(x) + beta).clamp(0.0, 1.0) as f32
            });
        }
        Unary::HardSwish => each!(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        Unary::LeakyRelu { alpha } => map(x, y, |x| if x < 0.0 { alpha * x } else { x }),
        Unary::Log => each!(f64::ln),
        Unary::Neg => map(x, y, |x| -x),
        Unary::Not => return Err(undefined(DType::F32)),
        Unary::Reciprocal => map(x, y, |x| 1.0 / x),
        Unary::Relu => map(x, y, |x| if x < 0.0 { 0.0 } else { x }),
        Unary::Round => map(x, y, f32::round_ties_even),
        Unary::Sigmoid => each!(sigmoid),
        Unary::Silu { alpha } => {
            let alpha = f64::from(alpha);
            let silu = |x: f64| x * sigmoid(alpha * x);
            map(x, y, |x| silu(x.into()) as f32);
        }
        Unary::Softplus => each!(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        Unary::Sqrt => map(x, y, f32::sqrt),
        Unary::Tanh => each!(f64::tanh),
    }
    Ok(())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
