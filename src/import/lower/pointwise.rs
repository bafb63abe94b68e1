//! Operators that work element by element.

use super::Results;
use crate::graph::{Binary, Op, Unary};
use crate::import::builder::Builder;
use crate::import::call::Call;
use crate::import::constants::{dtype, type_name};
use crate::{Result, Tensor};

/// A function of one operand, if the operator is one.
pub(super) fn unary(call: &Call<'_>) -> Result<Option<Unary>> {
    Ok(Some(match call.op {
        "Abs" => Unary::Abs,
        "Ceil" => Unary::Ceil,
        "Elu" => Unary::Elu {
            alpha: call.float("alpha", 1.0)?,
        },
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Floor" => Unary::Floor,
        "Gelu" => Unary::Gelu {
            tanh: match call.text("approximate", "none")? {
                "none" => false,
                "tanh" => true,
                other => {
                    return Err(call.unsupported(format!("attribute `approximate` = `{other}`")));
                }
            },
        },
        "HardSigmoid" => Unary::HardSigmoid {
            alpha: call.float("alpha", 0.2)?,
            beta: call.float("beta", 0.5)?,
        },
        "HardSwish" => Unary::HardSwish,
        "LeakyRelu" => Unary::LeakyRelu {
            alpha: call.float("alpha", 0.01)?,
        },
        "Log" => Unary::Log,
        "Neg" => Unary::Neg,
        "Not" => Unary::Not,
        "Reciprocal" => Unary::Reciprocal,
        "Relu" => Unary::Relu,
        "Round" => Unary::Round,
        "Sigmoid" => Unary::Sigmoid,
        "Softplus" => Unary::Softplus,
        "Sqrt" => Unary::Sqrt,
        "Swish" => Unary::Silu {
            alpha: call.float("alpha", 1.0)?,
        },
        "Tanh" => Unary::Tanh,
        _ => return Ok(None),
    }))
}

/// A function of two operands, if the operator is one.
pub(super) fn binary(call: &Call<'_>) -> Option<Binary> {
    Some(match call.op {
        "Add" => Binary::Add,
        "And" => Binary::And,
        "Div" => Binary::Div,
        "Equal" => Binary::Equal,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "Mul" => Binary::Mul,
        "Or" => Binary::Or,
        "Pow" => Binary::Pow,
        "Sub" => Binary::Sub,
        _ => return None,
    })
}

/// Min, Max, Sum and Mean of any number of operands: one binary operation after the other.
pub(super) fn chain<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let op = match call.op {
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        _ => Binary::Add,
    };
    let n = call.inputs.len();
    call.arity(n.max(1)..=usize::MAX, 1)?;
    let is_mean = call.op == "Mean" && n > 1;
    let mut so_far = call.operand(0)?;
    if n == 1 {
        return b.emit(call, Op::Identity, call.inputs.clone());
    }
    for i in 1..n {
        let next = call.operand(i)?;
        if i + 1 == n && !is_mean {
            return b.emit(call, Op::Binary(op), vec![Some(so_far), Some(next)]);
        }
        so_far = b.part(call, &format!("{i}"), Op::Binary(op), &[so_far, next])?;
    }
    let count = b.operand(call, "count", Tensor::scalar(n as f32));
    b.emit(
        call,
        Op::Binary(Binary::Div),
        vec![Some(so_far), Some(count)],
    )
}

pub(super) fn cast<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    // They say how 8-bit floats are made.
    call.ignore(&["saturate", "round_mode"]);
    let to = call.required_int("to")?;
    let Some(dtype) = dtype(to) else {
        return Err(call.unsupported(format!("a cast to {}", type_name(to))));
    };
    b.emit(call, Op::Cast { to: dtype }, call.inputs.clone())
}

/// (X, like) -> X in the type of `like`
pub(super) fn cast_like<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(2..=2, 1)?;
    call.ignore(&["saturate", "round_mode"]);
    b.emit(call, Op::CastLike, call.inputs.clone())
}

/// Nothing else differs from itself.
pub(super) fn is_nan<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    let x = call.operand(0)?;
    let number = b.part(call, "number", Op::Binary(Binary::Equal), &[x, x])?;
    b.emit(call, Op::Unary(Unary::Not), vec![Some(number)])
}

/// ((a rem b) + b) rem b with a rem b = a - b · (a / b) of integers, whose division truncates: the remainder has the sign of b.
pub(super) fn modulo<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(2..=2, 1)?;
    if call.flag("fmod", false)? {
        return Err(call.unsupported("attribute `fmod` = 1; compute a - b * Floor(a / b) instead"));
    }
    let (x, by) = (call.operand(0)?, call.operand(1)?);
    let multiple = |b: &mut Builder<'m>, x| -> Result<_> {
        let quotient = b.part(call, "quotient", Op::Binary(Binary::Div), &[x, by])?;
        b.part(call, "multiple", Op::Binary(Binary::Mul), &[quotient, by])
    };
    let whole = multiple(b, x)?;
    let rest = b.part(call, "rest", Op::Binary(Binary::Sub), &[x, whole])?;
    let above = b.part(call, "above", Op::Binary(Binary::Add), &[rest, by])?;
    let whole = multiple(b, above)?;
    b.emit(
        call,
        Op::Binary(Binary::Sub),
        vec![Some(above), Some(whole)],
    )
}

pub(super) fn clip<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let mut inputs = call.inputs.clone();
    if call.version >= 11 {
        call.arity(1..=3, 1)?;
    } else {
        call.arity(1..=1, 1)?;
        for bound in ["min", "max"] {
            let bound = (call.optional_float(bound)?)
                .map(|value| b.operand(call, bound, Tensor::scalar(value)));
            inputs.push(bound);
        }
    }
    b.emit(call, Op::Clip, inputs)
}

/// At inference nothing is dropped: the result is the operand, and the mask is all true (ones, before version 10).
pub(super) fn dropout<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=3, 2)?;
    call.ignore(&["ratio", "seed"]);
    if !super::must_be_false(b, call, 2)? {
        return Err(call.unsupported("training"));
    }
    let x = call.operand(0)?;
    let y = &call.results[..call.results.len().min(1)];
    let mut results = b.node(call.name.clone(), Op::Identity, vec![Some(x)], y)?;
    if let Some(Some(mask)) = call.results.get(1) {
        let one = if call.version < 10 {
            Tensor::scalar(1f32)
        } else {
            Tensor::from_bools(&[], &[true])?
        };
        let one = b.operand(call, "kept", one);
        let shape = Op::Shape {
            start: 0,
            end: None,
        };
        let shape = b.part(call, "shape", shape, &[x])?;
        let mask = b.named_part(call, "mask", Op::Expand, &[one, shape], mask.clone())?;
        results.push(Some(mask));
    }
    Ok(results)
}
