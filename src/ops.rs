//! What every operator means: the types and shapes of its results ([`infer`]) and the results themselves in plain loops
//! ([`eval`]). This is the oracle of the executor, its folder of constants, and its way for operators that have no kernel.
//!
//! One module a family. Each has functions `.._result`, which check the operands and give type and shape of a result, and functions
//! that compute. [`eval`] calls the first before the second, so what computes may rely on what was checked.

/// Expands to `$body` with `$T` as the storage type of the numbers of `$dtype`; truth values are an error.
macro_rules! numeric {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::I64 => {
                type $T = i64;
                $body
            }
            $crate::DType::I32 => {
                type $T = i32;
                $body
            }
            $crate::DType::U8 => {
                type $T = u8;
                $body
            }
            $crate::DType::I8 => {
                type $T = i8;
                $body
            }
            $crate::DType::Bool => return Err($crate::ops::undefined($crate::DType::Bool)),
        }
    };
}

/// Expands to `$body` with `$T` as a word of the size of the elements of `$dtype`, for operators that only move data.
macro_rules! words {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.size() {
            8 => {
                type $T = u64;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u8;
                $body
            }
        }
    };
}

// What the families share: operands, arithmetic, axes and broadcasting, walks over strided tensors, windows.
mod axes;
mod number;
mod operands;
mod walk;
mod window;
// The families.
mod attention;
mod binary;
mod cast;
mod conv;
mod index;
mod matmul;
mod movement;
mod norm;
mod pad;
mod pool;
mod range;
mod reduce;
mod reshape;
mod rotary;
mod select;
mod softmax;
mod unary;
// All nodes of a graph, one after the other.
mod interpret;

pub use axes::broadcast;
pub use interpret::interpret;
pub use operands::Fact;
pub use window::{ResolvedWindow, SPATIAL};

use operands::Operands;

use crate::graph::{Node, Op};
use crate::{DType, Error, Result, Shape, View, ViewMut};

/// Types and shapes of the first `outputs` results of an operation.
///
/// Operands that say what the shape is (the shape of `Reshape`, the starts of `Slice`, ...) must have a known value.
///
/// # Errors
/// [`Error::Node`] without a label, which is the caller's to fill in, when the operands do not fit.
pub fn infer(op: &Op, inputs: &[Option<Fact<'_>>], outputs: usize) -> Result<Vec<(DType, Shape)>> {
    (0..outputs)
        .map(|k| result(op, Operands::Facts(inputs), outputs, k))
        .collect()
}

/// Computes the results of an operation in plain loops; sums of floats are made in f64. `outputs` are of the inferred types and
/// shapes; `None` = not asked for. Nothing is allocated on the heap, but for the words of an error.
///
/// # Errors
/// [`Error::Node`] without a label, which is the caller's to fill in, when the operands do not fit.
pub fn eval(
    op: &Op,
    inputs: &[Option<View<'_>>],
    outputs: &mut [Option<ViewMut<'_>>],
) -> Result<()> {
    check(op, inputs, outputs)?;
    compute(op, Operands::Views(inputs), outputs)
}

/// For `map_err` on [`infer`] and [`eval`]: fills in the label of the node.
fn at(node: &Node) -> impl FnOnce(Error) -> Error {
    |error| match error {
        Error::Node { what, .. } => Error::Node {
            node: node.label(),
            what,
        },
        Error::Shape { .. } | Error::Type { .. } => Error::Node {
            node: node.label(),
            what: error.to_string(),
        },
        other => other,
    }
}

/// An error in words, without a label.
fn fail(what: impl Into<String>) -> Error {
    Error::Node {
        node: String::new(),
        what: what.into(),
    }
}

/// The operator has no meaning for this type.
fn undefined(dtype: DType) -> Error {
    fail(format!("is not defined for {dtype}"))
}

/// The operands fit the operator and the outputs are as inferred.
fn check(op: &Op, inputs: &[Option<View<'_>>], outputs: &[Option<ViewMut<'_>>]) -> Result<()> {
    for (k, output) in outputs.iter().enumerate() {
        let (dtype, shape) = result(op, Operands::Views(inputs), outputs.len(), k)?;
        if let Some(output) = output
            && (output.dtype() != dtype || output.shape() != shape)
        {
            return Err(fail(format!(
                "result {k} is {dtype} {shape}, but {} {} was planned",
                output.dtype(),
                output.shape()
            )));
        }
    }
    Ok(())
}

/// Results that an operator has at most.
fn results(op: &Op) -> usize {
    match op {
        Op::Gate { .. } => 0,
        Op::Attention(_) | Op::MaxPool { .. } => 2,
        Op::LayerNorm { .. } => 3,
        Op::Split { .. } => usize::MAX,
        _ => 1,
    }
}

/// Type and shape of result `k` of `outputs`.
fn result(op: &Op, x: Operands<'_, '_>, outputs: usize, k: usize) -> Result<(DType, Shape)> {
    if k >= results(op) {
        return Err(fail(format!("has no result {k}")));
    }
    match op {
        Op::Attention(of) => attention::result(x, of, k),
        Op::AveragePool { window, ceil, .. } => pool::average_result(x, window, *ceil),
        Op::BatchNorm { .. } => norm::batch_result(x),
        Op::Binary(op) => binary::result(*op, x),
        Op::Cast { to } => Ok((*to, x.get(0, "input")?.shape)),
        Op::CastLike => Ok((x.get(1, "like")?.dtype, x.get(0, "input")?.shape)),
        Op::Clip => select::clip_result(x),
        Op::Concat { axis } => movement::concat_result(x, *axis),
        Op::Conv { window, groups } => conv::result(x, window, *groups),
        Op::Expand => movement::expand_result(x),
        Op::Flatten { axis } => reshape::flatten_result(x, *axis),
        Op::Gather { axis } => index::gather_result(x, *axis),
        Op::Gate { .. } => Err(fail("has no results")),
        Op::Gemm {
            trans_a, trans_b, ..
        } => matmul::gemm_result(x, *trans_a, *trans_b),
        Op::GlobalAveragePool => pool::global_average_result(x),
        Op::GlobalMaxPool => pool::global_max_result(x),
        Op::Identity => x.get(0, "input").map(|x| (x.dtype, x.shape)),
        Op::LayerNorm { axis, .. } => norm::layer_result(x, *axis, k),
        Op::LogSoftmax { axis, flatten } | Op::Softmax { axis, flatten } => {
            softmax::result(x, *axis, *flatten)
        }
        Op::Mask { axis } => select::mask_result(x, *axis),
        Op::MatMul => matmul::result(x),
        Op::MaxPool { window, ceil, .. } => pool::max_result(x, window, *ceil, k),
        Op::Pad { .. } => pad::result(x),
        Op::Range => range::result(x),
        Op::Reduce {
            kind,
            keep_dims,
            noop_with_empty_axes,
        } => reduce::result(x, *kind, *keep_dims, *noop_with_empty_axes),
        Op::Reshape { allow_zero } => reshape::reshape_result(x, *allow_zero),
        Op::RmsNorm { axis, .. } => norm::rms_result(x, *axis),
        Op::RotaryEmbedding(of) => rotary::result(x, *of),
        Op::Shape { start, end } => reshape::shape_result(x, *start, *end),
        Op::Slice => index::slice_result(x),
        Op::Split { axis } => movement::split_result(x, *axis, outputs, k),
        Op::Squeeze => reshape::squeeze_result(x),
        Op::Transpose { perm } => movement::transpose_result(x, perm.as_deref()),
        Op::Unary(op) => unary::result(*op, x),
        Op::Unsqueeze => reshape::unsqueeze_result(x),
        Op::Where => select::where_result(x),
    }
}

/// The results, of operands that were checked by [`result`].
fn compute(op: &Op, x: Operands<'_, '_>, outputs: &mut [Option<ViewMut<'_>>]) -> Result<()> {
    match op {
        Op::Attention(of) => return attention::eval(x, of, outputs),
        Op::Split { axis } => return movement::split(x, *axis, outputs),
        Op::LayerNorm { axis, epsilon } => return norm::layer(x, *axis, *epsilon, outputs),
        Op::MaxPool {
            window,
            ceil,
            column_major_indices,
        } => return pool::max(x, window, *ceil, *column_major_indices, outputs),
        _ => {}
    }
    let [Some(y), ..] = outputs else {
        return Ok(());
    };
    match op {
        Op::AveragePool {
            window,
            ceil,
            count_include_pad,
        } => pool::average(x, window, *ceil, *count_include_pad, y),
        Op::BatchNorm { epsilon } => norm::batch(x, *epsilon, y),
        Op::Binary(op) => binary::eval(*op, x, y),
        Op::Cast { .. } | Op::CastLike => cast::eval(x, y),
        Op::Clip => select::clip(x, y),
        Op::Concat { axis } => movement::concat(x, *axis, y),
        Op::Conv { window, groups } => conv::eval(x, window, *groups, y),
        Op::Expand => movement::expand(x, y),
        Op::Gather { axis } => index::gather(x, *axis, y),
        Op::Gemm {
            alpha,
            beta,
            trans_a,
            trans_b,
        } => matmul::gemm(x, *alpha, *beta, *trans_a, *trans_b, y),
        Op::GlobalAveragePool => pool::global_average(x, y),
        Op::GlobalMaxPool => pool::global_max(x, y),
        Op::Flatten { .. } | Op::Identity | Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze => {
            y.bytes().copy_from_slice(x.view(0, "input")?.bytes());
            Ok(())
        }
        Op::LogSoftmax { axis, flatten } => softmax::eval(x, *axis, *flatten, true, y),
        Op::Mask { axis } => select::mask(x, *axis, y),
        Op::MatMul => matmul::eval(x, y),
        Op::Pad { mode } => pad::eval(x, *mode, y),
        Op::Range => range::eval(x, y),
        Op::Reduce {
            kind,
            noop_with_empty_axes,
            ..
        } => reduce::eval(x, *kind, *noop_with_empty_axes, y),
        Op::RmsNorm { axis, epsilon } => norm::rms(x, *axis, *epsilon, y),
        Op::RotaryEmbedding(of) => rotary::eval(x, *of, y),
        Op::Shape { start, end } => reshape::shape(x, *start, *end, y),
        Op::Slice => index::slice(x, y),
        Op::Softmax { axis, flatten } => softmax::eval(x, *axis, *flatten, false, y),
        Op::Transpose { perm } => movement::transpose(x, perm.as_deref(), y),
        Op::Unary(op) => unary::eval(*op, x, y),
        Op::Where => select::choose(x, y),
        Op::Attention(_)
        | Op::Gate { .. }
        | Op::LayerNorm { .. }
        | Op::MaxPool { .. }
        | Op::Split { .. } => Ok(()),
    }
}
