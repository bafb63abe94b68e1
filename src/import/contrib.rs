//! Operators of the domain `com.microsoft` that exporters write for transformers in f32, as nodes of the standard ones.
//!
//! ```text
//! SkipLayerNormalization(X, S, scale, B?, bias?) = LayerNorm(X + S + bias)      ..Simplified.. = RmsNorm
//! BiasGelu(X, bias) = Gelu(X + bias)      FastGelu(X, bias?) = tanh form      QuickGelu(X) = X · σ(alpha X)
//! FusedMatMul(A, B) = alpha · A B, either with its last two axes swapped
//! MultiHeadAttention, Attention = Attention of the standard, of projections [N, T, heads · width]
//! ```
//! Source: onnxruntime's `docs/ContribOperators.md`.

use super::builder::Builder;
use super::call::Call;
use super::lower::Results;
use super::lower::attention::{Operands, Places, additive, emit, heads, rotation};
use crate::graph::{Attention, Binary, Op, Reach, Rotary, Scores, Unary, ValueId};
use crate::{Result, Tensor};

/// The domain.
pub(super) const DOMAIN: &str = "com.microsoft";

/// Adds the nodes of an operator of the domain; `None` when it is not known.
pub(super) fn lower<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Option<Results>> {
    let add = Op::Binary(Binary::Add);
    let results = match call.op {
        "SkipLayerNormalization" => skip_norm(b, call, false)?,
        "SkipSimplifiedLayerNormalization" => skip_norm(b, call, true)?,
        "SimplifiedLayerNormalization" => simplified_norm(b, call)?,
        "Gelu" => {
            call.arity(1..=1, 1)?;
            b.emit(call, gelu(false), call.inputs.clone())?
        }
        "FastGelu" => {
            call.arity(1..=2, 1)?;
            let x = match call.input(1) {
                Some(bias) => b.part(call, "biased", add, &[call.operand(0)?, bias])?,
                None => call.operand(0)?,
            };
            b.emit(call, gelu(true), vec![Some(x)])?
        }
        "BiasGelu" => {
            call.arity(2..=2, 1)?;
            let x = b.part(call, "biased", add, &[call.operand(0)?, call.operand(1)?])?;
            b.emit(call, gelu(false), vec![Some(x)])?
        }
        "QuickGelu" => {
            call.arity(1..=1, 1)?;
            let alpha = call.float("alpha", 1.702)?;
            b.emit(call, Op::Unary(Unary::Silu { alpha }), call.inputs.clone())?
        }
        "MultiHeadAttention" => multi_head(b, call)?,
        "Attention" => packed(b, call)?,
        "RotaryEmbedding" => rotary(b, call)?,
        "FusedMatMul" => matmul(b, call)?,
        _ => return Ok(None),
    };
    Ok(Some(results))
}

fn gelu(tanh: bool) -> Op {
    Op::Unary(Unary::Gelu { tanh })
}

/// (X, scale) -> Y
pub(super) fn simplified_norm<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(2..=2, 2)?;
    if call.wants(1) {
        return Err(call.unsupported("the inverse deviation as a result, which is for training"));
    }
    if call.int("stash_type")?.is_some_and(|t| t != 1) {
        return Err(call.unsupported("attribute `stash_type` other than f32"));
    }
    let op = Op::RmsNorm {
        axis: call.int("axis")?.unwrap_or(-1),
        epsilon: call.float("epsilon", 1e-5)?,
    };
    let y = &call.results[..call.results.len().min(1)];
    b.node(call.name.clone(), op, call.inputs.clone(), y)
}

/// (X, S, scale, B?, bias?) -> (Y, mean, deviation, X + S + bias); B is missing in the simplified form
fn skip_norm<'m>(b: &mut Builder<'m>, call: &Call<'m>, simplified: bool) -> Result<Results> {
    let bias = if simplified { 3 } else { 4 };
    call.arity(3..=bias + 1, 4)?;
    if call.wants(1) || call.wants(2) {
        return Err(call.unsupported("mean and deviation as results, which are for training"));
    }
    let add = Op::Binary(Binary::Add);
    let operands = [call.operand(0)?, call.operand(1)?];
    let sum = match call.input(bias) {
        Some(bias) => {
            let sum = b.part(call, "skip", add.clone(), &operands)?;
            let name = b.result_name(call, 3, "sum");
            b.named_part(call, "sum", add, &[sum, bias], name)?
        }
        None => {
            let name = b.result_name(call, 3, "sum");
            b.named_part(call, "sum", add, &operands, name)?
        }
    };
    let (axis, epsilon) = (-1, call.float("epsilon", 1e-12)?);
    let mut inputs = vec![Some(sum), call.input(2)];
    let op = if simplified {
        Op::RmsNorm { axis, epsilon }
    } else {
        inputs.extend(call.input(3).map(Some));
        Op::LayerNorm { axis, epsilon }
    };
    let y = &call.results[..call.results.len().min(1)];
    let y = b.node(call.name.clone(), op, inputs, y)?;
    Ok(vec![y.first().copied().flatten(), None, None, Some(sum)])
}

/// The bias of a mask [N, keys] or [N, queries, keys] whose elements are 1 where a key is seen.
fn key_mask<'m>(b: &mut Builder<'m>, call: &Call<'m>, i: usize) -> Result<Option<ValueId>> {
    let Some(mask) = call.input(i) else {
        return Ok(None);
    };
    let masked = call.float("mask_filter_value", -10000.0)?;
    let axes: &[i64] = match b.rank(mask) {
        None | Some(2) => &[1, 2],
        Some(3) => &[1],
        Some(_) => {
            return Err(call.unsupported(
                "a mask of keys that is not [N, keys] or [N, queries, keys]; export it as one of these",
            ));
        }
    };
    additive(b, call, mask, masked, axes).map(Some)
}

/// alpha · A B, either of which may be transposed.
fn matmul<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(2..=2, 1)?;
    if call.flag("transBatchA", false)? || call.flag("transBatchB", false)? {
        return Err(call.unsupported("transposed batches; export MatMul and Transpose"));
    }
    let mut operands = [call.operand(0)?, call.operand(1)?];
    for (x, flag) in operands.iter_mut().zip(["transA", "transB"]) {
        if !call.flag(flag, false)? {
            continue;
        }
        let Some(rank) = b.rank(*x).filter(|&rank| rank >= 2) else {
            return Err(call.unsupported(format!(
                "attribute `{flag}` of an operand without a declared shape; export with shapes"
            )));
        };
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 1, rank - 2);
        let perm = Some(perm);
        *x = b.part(call, flag, Op::Transpose { perm }, &[*x])?;
    }
    let alpha = call.float("alpha", 1.0)?;
    if alpha == 1.0 {
        return b.emit(call, Op::MatMul, operands.map(Some).to_vec());
    }
    let product = b.part(call, "product", Op::MatMul, &operands)?;
    let alpha = b.operand(call, "alpha", Tensor::scalar(alpha));
    b.emit(
        call,
        Op::Binary(Binary::Mul),
        vec![Some(product), Some(alpha)],
    )
}

/// The sum of two biases, either of which may be missing.
fn both<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    first: Option<ValueId>,
    second: Option<ValueId>,
) -> Result<Option<ValueId>> {
    match (first, second) {
        (Some(first), Some(second)) => {
            let add = Op::Binary(Binary::Add);
            b.part(call, "mask", add, &[first, second]).map(Some)
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// The attributes that both attentions have.
fn attributes(call: &Call<'_>) -> Result<Attention> {
    let Some(count) = heads(call, "num_heads")? else {
        return Err(call.wrong("attribute `num_heads` is missing"));
    };
    let causal = call.flag("unidirectional", false)?;
    Ok(Attention {
        heads: Some((count, count)),
        reach: if causal {
            Reach::CAUSAL
        } else {
            Reach::default()
        },
        // 0 is the default here, and stands for 1 / √width.
        scale: call.optional_float("scale")?.filter(|&s| s != 0.0),
        softcap: 0.0,
        scores: Scores::default(),
    })
}

/// Refuses operands and results beyond those that are known.
fn only(call: &Call<'_>, inputs: usize, results: usize, what: &str) -> Result<()> {
    let more = (inputs..call.inputs.len()).any(|i| call.input(i).is_some())
        || (results..call.results.len()).any(|i| call.wants(i));
    if more {
        return Err(call.unsupported(what));
    }
    Ok(())
}

/// (query, key, value, bias?, key_padding_mask?, attention_bias?, past_key?, past_value?) -> (Y, present_key, present_value)
fn multi_head<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let of = attributes(call)?;
    let shared = "a cache of fixed length, or its scores; export it with past and present";
    only(call, 8, 3, shared)?;
    let mut projections = [call.operand(0)?; 3];
    for (i, name) in ["query", "key", "value"].into_iter().enumerate() {
        projections[i] = call.input(i).ok_or_else(|| {
            call.unsupported(format!(
                "packed projections (`{name}` is missing); export query, key and value apart"
            ))
        })?;
    }
    if let Some(bias) = call.input(3) {
        let axis = 0;
        let parts =
            ["query", "key", "value"].map(|role| b.unique(&call.name, &format!("{role}_bias")));
        let name = format!("{}/bias", call.name);
        let parts = b.node(name, Op::Split { axis }, vec![Some(bias)], &parts.map(Some))?;
        for (role, (x, bias)) in ["query", "key", "value"]
            .iter()
            .zip(projections.iter_mut().zip(parts))
        {
            if let Some(bias) = bias {
                let add = Op::Binary(Binary::Add);
                *x = b.part(call, &format!("{role}_biased"), add, &[*x, bias])?;
            }
        }
    }
    let keys = key_mask(b, call, 4)?;
    let mask = both(b, call, keys, call.input(5))?;
    call.ignore(&["mask_filter_value"]);
    let past = match (call.input(6), call.input(7)) {
        (Some(keys), Some(values)) => Some((keys, values)),
        (None, None) => None,
        _ => return Err(call.wrong("`past_key` and `past_value` must come together")),
    };
    let [q, k, v] = projections;
    let operands = Operands {
        q,
        k,
        v,
        mask,
        kv_lengths: None,
        live: None,
        past,
    };
    emit(b, call, of, operands, &PLACES)
}

/// Results of both attentions; neither gives its scores.
const PLACES: Places = Places {
    present: [1, 2],
    scores: usize::MAX,
};

/// (X, weights of all three projections, bias?, mask_index?, past?, attention_bias?) -> Y
fn packed<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let of = attributes(call)?;
    call.arity(2..=usize::MAX, usize::MAX)?;
    if call.input(4).is_some() || call.input(6).is_some() || call.wants(1) {
        let what = "a past in one tensor; export MultiHeadAttention, or the standard Attention";
        return Err(call.unsupported(what));
    }
    only(call, 6, 1, "operands or results that are not known")?;
    if call.flag("do_rotary", false)? {
        return Err(call.unsupported("attribute `do_rotary`; export RotaryEmbedding apart"));
    }
    call.ignore(&["past_present_share_buffer", "rotary_embedding_dim"]);
    let mut x = b.part(
        call,
        "projected",
        Op::MatMul,
        &[call.operand(0)?, call.operand(1)?],
    )?;
    if let Some(bias) = call.input(2) {
        x = b.part(call, "biased", Op::Binary(Binary::Add), &[x, bias])?;
    }
    let mut inputs = vec![Some(x)];
    if let Some(sizes) = call.ints("qkv_hidden_sizes")? {
        inputs.push(Some(b.list(call, "sizes", sizes)?));
    }
    let parts = ["query", "key", "value"].map(|role| Some(b.unique(&call.name, role)));
    let name = format!("{}/parts", call.name);
    let parts = b.node(name, Op::Split { axis: -1 }, inputs, &parts)?;
    let &[Some(q), Some(k), Some(v)] = &parts[..] else {
        return Err(call.wrong("there are no projections"));
    };
    let keys = key_mask(b, call, 3)?;
    let mask = both(b, call, keys, call.input(5))?;
    call.ignore(&["mask_filter_value"]);
    let operands = Operands {
        q,
        k,
        v,
        mask,
        kv_lengths: None,
        live: None,
        past: None,
    };
    emit(b, call, of, operands, &PLACES)
}

/// (X, places, cos, sin)
fn rotary<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(4..=4, 1)?;
    if call.flag("is_packed_batching", false)?
        || call.optional_float("scale")?.is_some_and(|s| s != 1.0)
    {
        return Err(call.unsupported("packed batches, or a scale; export the standard operator"));
    }
    let (x, places) = (call.operand(0)?, call.operand(1)?);
    let of = rotation(call)?;
    let is_joined = of.heads.is_some() && b.rank(x) != Some(4);
    if of.heads.is_none() && b.rank(x) != Some(4) {
        return Err(
            call.unsupported("attribute `num_heads` = 0 for three axes; export it with the number")
        );
    }
    if b.rank(places).is_some_and(|r| r != 2) {
        return Err(call.unsupported("places that are not [N, tokens]; export them as such"));
    }
    let of = Rotary {
        heads: of.heads.filter(|_| is_joined),
        ..of
    };
    let inputs = vec![Some(x), call.input(2), call.input(3), Some(places)];
    b.emit(call, Op::RotaryEmbedding(of), inputs)
}
