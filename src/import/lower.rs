//! The standard operators, from version 7 on, as operations of the graph.
//!
//! An attribute that is an operand at the latest version becomes a constant operand. What an attribute says is checked where it can be
//! checked without shapes.

pub(super) mod attention;
mod data;
mod pointwise;
mod shape;
mod window;

use super::builder::Builder;
use super::call::Call;
use super::contrib;
use crate::graph::{Op, Reduction, ValueId};
use crate::{Result, Tensor};

pub(super) use window::conv;

/// The values of a node's results.
pub(super) type Results = Vec<Option<ValueId>>;

/// Operators that have meant the same since version 1.
pub(super) const SINCE_VERSION_1: [&str; 8] = [
    "Conv",
    "Gather",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "Not",
    "Shape",
    "Transpose",
];

/// Adds the node of a standard operator.
pub(super) fn lower<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    if let Some(op) = pointwise::unary(call)? {
        call.arity(1..=1, 1)?;
        return b.emit(call, Op::Unary(op), call.inputs.clone());
    }
    if let Some(op) = pointwise::binary(call) {
        call.arity(2..=2, 1)?;
        return b.emit(call, Op::Binary(op), call.inputs.clone());
    }
    match call.op {
        "Min" | "Max" | "Sum" | "Mean" => pointwise::chain(b, call),
        "Cast" => pointwise::cast(b, call),
        "CastLike" => pointwise::cast_like(b, call),
        "Clip" => pointwise::clip(b, call),
        "Dropout" => pointwise::dropout(b, call),
        "Identity" => plain(b, call, 1, Op::Identity),
        "IsNaN" => pointwise::is_nan(b, call),
        "Mod" => pointwise::modulo(b, call),
        "Where" => plain(b, call, 3, Op::Where),

        "AveragePool" | "MaxPool" => window::pool(b, call),
        "Conv" => {
            call.arity(2..=3, 1)?;
            let op = conv(b, call, call.operand(1)?)?;
            b.emit(call, op, call.inputs.clone())
        }
        "GlobalAveragePool" => plain(b, call, 1, Op::GlobalAveragePool),
        "GlobalMaxPool" => plain(b, call, 1, Op::GlobalMaxPool),

        "Attention" => attention::attention(b, call),
        "BatchNormalization" => batch_norm(b, call),
        "Gemm" => gemm(b, call),
        "LayerNormalization" | "RMSNormalization" => norm(b, call),
        "LogSoftmax" | "Softmax" => softmax(b, call),
        "MatMul" => plain(b, call, 2, Op::MatMul),
        "ReduceMax" => reduce(b, call, Reduction::Max, 18),
        "ReduceMean" => reduce(b, call, Reduction::Mean, 18),
        "ReduceSum" => reduce(b, call, Reduction::Sum, 13),
        "RotaryEmbedding" => attention::rotary(b, call),
        // Written by onnxruntime's optimizer, in the standard domain.
        "SimplifiedLayerNormalization" => contrib::simplified_norm(b, call),

        "Concat" => shape::concat(b, call),
        "Expand" => plain(b, call, 2, Op::Expand),
        "Flatten" => shape::flatten(b, call),
        "Gather" => shape::gather(b, call),
        "Pad" => shape::pad(b, call),
        "Range" => plain(b, call, 3, Op::Range),
        "Reshape" => shape::reshape(b, call),
        "Shape" => shape::shape(b, call),
        "Size" => shape::size(b, call),
        "Slice" => shape::slice(b, call),
        "Split" => shape::split(b, call),
        "Squeeze" | "Unsqueeze" => shape::squeeze(b, call),
        "Transpose" => shape::transpose(b, call),
        "Trilu" => shape::triangle(b, call),

        "Constant" => data::constant(b, call),
        "ConstantOfShape" => data::constant_of_shape(b, call),
        op => Err(call.unsupported(format!("the operator `{op}`"))),
    }
}

/// An operator without attributes, all operands required, one result.
fn plain<'m>(b: &mut Builder<'m>, call: &Call<'m>, operands: usize, op: Op) -> Result<Results> {
    call.arity(operands..=operands, 1)?;
    b.emit(call, op, call.inputs.clone())
}

fn batch_norm<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(5..=5, 5)?;
    if call.flag("training_mode", false)? || (1..5).any(|i| call.wants(i)) {
        return Err(call.unsupported("training"));
    }
    if !call.flag("spatial", true)? {
        return Err(call.unsupported("attribute `spatial` = 0"));
    }
    call.ignore(&["momentum"]);
    let epsilon = call.float("epsilon", 1e-5)?;
    let y = &call.results[..call.results.len().min(1)];
    b.node(
        call.name.clone(),
        Op::BatchNorm { epsilon },
        call.inputs.clone(),
        y,
    )
}

fn gemm<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(2..=3, 1)?;
    let op = Op::Gemm {
        alpha: call.float("alpha", 1.0)?,
        beta: call.float("beta", 1.0)?,
        trans_a: call.flag("transA", false)?,
        trans_b: call.flag("transB", false)?,
    };
    b.emit(call, op, call.inputs.clone())
}

fn norm<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    // 1 is f32.
    if call.int("stash_type")?.is_some_and(|t| t != 1) {
        return Err(call.unsupported("attribute `stash_type` other than f32"));
    }
    let axis = call.int("axis")?.unwrap_or(-1);
    let epsilon = call.float("epsilon", 1e-5)?;
    let op = if call.op == "RMSNormalization" {
        call.arity(2..=2, 1)?;
        Op::RmsNorm { axis, epsilon }
    } else {
        call.arity(2..=3, 3)?;
        Op::LayerNorm { axis, epsilon }
    };
    b.emit(call, op, call.inputs.clone())
}

fn softmax<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    let flatten = call.version < 13;
    let axis = call.int("axis")?.unwrap_or(if flatten { 1 } else { -1 });
    let op = if call.op == "Softmax" {
        Op::Softmax { axis, flatten }
    } else {
        Op::LogSoftmax { axis, flatten }
    };
    b.emit(call, op, call.inputs.clone())
}

/// A reduction whose axes are an operand from version `operand_since` on.
fn reduce<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    kind: Reduction,
    operand_since: i64,
) -> Result<Results> {
    let mut inputs = call.inputs.clone();
    let mut noop_with_empty_axes = false;
    if call.version >= operand_since {
        call.arity(1..=2, 1)?;
        noop_with_empty_axes = call.flag("noop_with_empty_axes", false)?;
    } else {
        call.arity(1..=1, 1)?;
        if let Some(axes) = call.ints("axes")?.filter(|a| !a.is_empty()) {
            inputs.push(Some(b.list(call, "axes", axes)?));
        }
    }
    let op = Op::Reduce {
        kind,
        keep_dims: call.flag("keepdims", true)?,
        noop_with_empty_axes,
    };
    b.emit(call, op, inputs)
}

/// Makes sure that an operand, if it is there, is a constant whose one element is false.
fn must_be_false(b: &Builder<'_>, call: &Call<'_>, i: usize) -> Result<bool> {
    let Some(id) = call.input(i) else {
        return Ok(true);
    };
    let zero = |t: &Tensor| t.view().bytes().iter().all(|&b| b == 0);
    Ok(b.constant(id).is_some_and(|t| zero(t)))
}
