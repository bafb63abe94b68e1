//! The functions of gated compression, matched by (domain, name); their bodies in the file are for other runtimes and are not read.
//!
//! ```text
//! avg   = ReduceMean(X, axes)     max = ReduceMax(X, axes)
//! score = Sigmoid(Gemm(Concat(avg, max), gate_w, gate_b))         stop = Less(score, threshold)
//! own   = mask_in   or   Cast(Greater(Gemm(Relu(Gemm(avg, h1_w, h1_b)), h2_w, h2_b), 0))
//! mask  = own   or   Mul(own, prev)                               Y = Mul(X, Unsqueeze(mask, axes))
//!
//! GcAttention: attended = Attention(q, k, v, live: token_mask)    [N, T, heads · width]
//!              rows     = Mul(attended, Unsqueeze(token_mask, 2))                          a mask on axis 1
//!              y        = Join(Mul(Split(rows), Unsqueeze(head_mask, [1, 3])))             a mask on axis 2 of [N, T, heads, width]
//! ```
//! A function with a gate adds an [`Op::Gate`] on the score. The last product becomes an [`Op::Mask`] in [`super::masks`], where the
//! mask is proven to be one.

use super::builder::Builder;
use super::call::Call;
use super::lower::{self, Results};
use crate::graph::{Attention, Binary, Dim, Op, Reach, Reduction, Unary, ValueId};
use crate::{DType, Result, Tensor};

/// A function of the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// (X, gate_w, gate_b, heads of the mask, prev?) -> (Y, score, stop, mask)
    Layer { dynamic: bool, chained: bool },
    /// (X, gate_w, gate_b) -> (score, stop)
    Gate,
    /// (X, h1_w, h1_b, h2_w, h2_b) -> mask
    Mask,
    /// (X, mask, W, B?) -> Y
    Conv { bias: bool },
    /// (A, mask, B) -> Y
    MatMul,
    /// (q, k, v, head_mask?, token_mask?) -> y
    Attention,
}

/// The function of this name, if it is one of ours.
pub(super) fn function(domain: &str, name: &str) -> Option<Function> {
    let layer = |dynamic, chained| Function::Layer { dynamic, chained };
    Some(match (domain, name) {
        ("ai.sluicegate", "GcStatic") | ("gc", "GatedCompressionStatic") => layer(false, false),
        ("ai.sluicegate", "GcStaticChained") | ("gc", "GatedCompressionStaticChained") => {
            layer(false, true)
        }
        ("ai.sluicegate", "GcDynamic") | ("gc", "GatedCompressionDynamic") => layer(true, false),
        ("ai.sluicegate", "GcDynamicChained") | ("gc", "GatedCompressionDynamicChained") => {
            layer(true, true)
        }
        ("ai.sluicegate", "GcGate") => Function::Gate,
        ("ai.sluicegate", "GcMask") => Function::Mask,
        ("ai.sluicegate", "GcConv") => Function::Conv { bias: true },
        ("ai.sluicegate", "GcConvNoBias") => Function::Conv { bias: false },
        ("ai.sluicegate", "GcMatMul") => Function::MatMul,
        ("ai.sluicegate", "GcAttention") => Function::Attention,
        _ => return None,
    })
}

/// Adds the nodes of a function.
pub(super) fn lower<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    function: Function,
) -> Result<Results> {
    if call.version > 1 {
        return Err(call.unsupported(format!(
            "version {} of its domain (this reader knows 1)",
            call.version
        )));
    }
    let results = match function {
        Function::Layer { dynamic, chained } => layer(b, call, dynamic, chained)?,
        Function::Gate => {
            call.arity(3..=3, 2)?;
            let pooled = Pooled::new(b, call)?;
            let (score, stop) = gate(b, call, &pooled, 0)?;
            vec![Some(score), stop]
        }
        Function::Mask => {
            call.arity(5..=5, 1)?;
            let pooled = Pooled::new(b, call)?;
            let name = b.result_name(call, 0, "mask");
            vec![Some(computed_mask(b, call, &pooled, 1, name)?)]
        }
        Function::Conv { bias } => {
            let operands = if bias { 4 } else { 3 };
            call.arity(operands..=operands, 1)?;
            let op = lower::conv(b, call, call.operand(2)?)?;
            let x = masked(b, call, call.operand(0)?, call.operand(1)?, &[2, 3], None)?;
            b.emit(call, op, vec![Some(x), call.input(2), call.input(3)])?
        }
        Function::MatMul => {
            call.arity(3..=3, 1)?;
            let a = masked(b, call, call.operand(0)?, call.operand(1)?, &[1], None)?;
            b.emit(call, Op::MatMul, vec![Some(a), call.input(2)])?
        }
        Function::Attention => vec![Some(attention(b, call)?)],
    };
    call.all_attributes_read()?;
    Ok(results)
}

/// A whole layer in one node.
fn layer<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    dynamic: bool,
    chained: bool,
) -> Result<Results> {
    let heads = if dynamic { 4 } else { 1 };
    let operands = 3 + heads + usize::from(chained);
    call.arity(operands..=operands, 4)?;
    let pooled = Pooled::new(b, call)?;
    let (score, stop) = gate(b, call, &pooled, 1)?;

    let role = if chained { "own" } else { "mask" };
    let name = |b: &mut Builder<'m>| match chained {
        false => b.result_name(call, 3, "mask"),
        true => b.unique(&call.name, "own"),
    };
    let own = if dynamic {
        let name = name(b);
        computed_mask(b, call, &pooled, 3, name)?
    } else if chained || !call.wants(3) {
        call.operand(3)?
    } else {
        let name = name(b);
        b.named_part(call, role, Op::Identity, &[call.operand(3)?], name)?
    };
    let mask = if chained {
        let name = b.result_name(call, 3, "mask");
        let prev = call.operand(operands - 1)?;
        b.named_part(call, "mask", Op::Binary(Binary::Mul), &[own, prev], name)?
    } else {
        own
    };
    let y = call.results.first().cloned().flatten();
    let y = masked(b, call, pooled.x, mask, &pooled.axes, y)?;
    Ok(vec![Some(y), Some(score), stop, Some(mask)])
}

/// What gate and mask head are computed from.
struct Pooled {
    x: ValueId,
    /// The pooled axes: all but the batch and the channels, ascending.
    axes: Vec<i64>,
    average: ValueId,
}

impl Pooled {
    fn new<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Self> {
        let x = call.operand(0)?;
        let Some(axes) = call.ints("axes")? else {
            return Err(call.wrong("attribute `axes` is missing"));
        };
        // The heads are matrices, so two axes are left: the batch, which is axis 0, and the channels.
        let rank = axes.len() as i64 + 2;
        let mut all: Vec<i64> = axes
            .iter()
            .map(|&a| if a < 0 { a.saturating_add(rank) } else { a })
            .collect();
        all.sort_unstable();
        if all.is_empty()
            || all.iter().any(|&a| a < 1 || a >= rank)
            || all.windows(2).any(|w| w[0] == w[1])
        {
            return Err(call.wrong(format!(
                "attribute `axes` = {axes:?} must name all axes but 0 and that of the channels"
            )));
        }
        expect_rank(b, x, all.len() + 2);
        let average = pool(b, call, x, Reduction::Mean, &all)?;
        Ok(Self {
            x,
            axes: all,
            average,
        })
    }
}

/// Notes the rank that a function takes for granted, where the file does not declare one.
fn expect_rank(b: &mut Builder<'_>, x: ValueId, rank: usize) {
    let dims = &mut b.graph.values[x.index()].dims;
    if dims.is_none() {
        *dims = Some(vec![Dim::Unknown; rank]);
    }
}

/// A reduction over the pooled axes; gate and mask of one tensor share it.
fn pool<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    x: ValueId,
    kind: Reduction,
    axes: &[i64],
) -> Result<ValueId> {
    let (role, op) = match kind {
        Reduction::Max => ("max", kind),
        _ => ("avg", kind),
    };
    let key = (role, x, None, axes.to_vec());
    if let Some(&known) = b.memo.get(&key) {
        return Ok(known);
    }
    let list = b.list(call, "axes", axes)?;
    let op = Op::Reduce {
        kind: op,
        keep_dims: false,
        noop_with_empty_axes: false,
    };
    let made = b.part(call, role, op, &[x, list])?;
    b.memo.insert(key, made);
    Ok(made)
}

fn gemm<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    role: &str,
    x: ValueId,
    weights: usize,
) -> Result<ValueId> {
    let op = Op::Gemm {
        alpha: 1.0,
        beta: 1.0,
        trans_a: false,
        trans_b: false,
    };
    let operands = [x, call.operand(weights)?, call.operand(weights + 1)?];
    b.part(call, role, op, &operands)
}

/// Score, stop and the gate itself; `first` is the number of the result `score`, `stop` comes behind it.
fn gate<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    pooled: &Pooled,
    first: usize,
) -> Result<(ValueId, Option<ValueId>)> {
    let threshold = call.float("threshold", 0.5)?;
    let max = pool(b, call, pooled.x, Reduction::Max, &pooled.axes)?;
    let both = b.part(
        call,
        "pooled",
        Op::Concat { axis: 1 },
        &[pooled.average, max],
    )?;
    let logit = gemm(b, call, "gate_logit", both, 1)?;
    let name = b.result_name(call, first, "score");
    let score = b.named_part(call, "score", Op::Unary(Unary::Sigmoid), &[logit], name)?;
    let mut stop = None;
    if call.wants(first + 1) {
        let theta = b.operand(call, "threshold", Tensor::scalar(threshold));
        let name = b.result_name(call, first + 1, "stop");
        let less = Op::Binary(Binary::Less);
        let id = b.named_part(call, "stop", less, &[score, theta], name)?;
        b.stops.insert(id);
        stop = Some(id);
    }
    let index = b.next_gate();
    let gate = Op::Gate { threshold, index };
    b.node(format!("{}/gate", call.name), gate, vec![Some(score)], &[])?;
    Ok((score, stop))
}

/// A mask from the average and two dense layers, whose operands begin at `heads`.
fn computed_mask<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    pooled: &Pooled,
    heads: usize,
    name: String,
) -> Result<ValueId> {
    let hidden = gemm(b, call, "hidden", pooled.average, heads)?;
    let hidden = b.part(call, "hidden_relu", Op::Unary(Unary::Relu), &[hidden])?;
    let logit = gemm(b, call, "mask_logit", hidden, heads + 2)?;
    let zero = b.operand(call, "zero", Tensor::scalar(0f32));
    let keep = b.part(call, "keep", Op::Binary(Binary::Greater), &[logit, zero])?;
    let cast = Op::Cast { to: DType::F32 };
    b.named_part(call, "mask", cast, &[keep], name)
}

/// Attention of live heads among live tokens. What reads the result of the attention are its masks and nothing else, the tokens' own first:
///
/// - rows of k and v at dead tokens are not read: the token mask is operand 5 of the attention;
/// - rows of q at dead tokens are not needed: the result is masked along axis 1 by that same value;
/// - dead heads need not be computed: what comes next is a `Reshape` to [N, T, heads, width], a mask along axis 2, and a `Reshape` back.
///
/// A mask that is left out, or a constant of ones, is no node at all.
fn attention<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<ValueId> {
    call.arity(3..=5, 1)?;
    let count = |name: &str| -> Result<usize> {
        let heads = lower::attention::heads(call, name)?;
        heads.ok_or_else(|| call.wrong(format!("attribute `{name}` is missing")))
    };
    let heads = (count("heads")?, count("kv_heads")?);
    let of = Attention {
        heads: Some(heads),
        reach: match call.flag("causal", false)? {
            true => Reach::CAUSAL,
            false => Reach::default(),
        },
        scale: call.optional_float("scale")?,
        ..Attention::default()
    };
    let [head_mask, token_mask] = [3, 4].map(|i| {
        let is_open = |t: &Tensor| {
            t.as_slice::<f32>()
                .is_ok_and(|m| m.iter().all(|&x| x == 1.0))
        };
        let mask = call.input(i);
        mask.filter(|&mask| !b.constant(mask).is_some_and(|t| is_open(t)))
    });
    let wish = call.results.first().cloned().flatten();
    let name = |b: &mut Builder<'m>, role: &str, is_last: bool| match (&wish, is_last) {
        (Some(wish), true) => wish.clone(),
        _ => b.unique(&call.name, role),
    };
    let mut inputs = (0..3)
        .map(|i| call.operand(i).map(Some))
        .collect::<Result<Vec<_>>>()?;
    if token_mask.is_some() {
        inputs.extend([None, None, token_mask]);
    }
    for id in inputs[..3].iter().flatten() {
        expect_rank(b, *id, 3);
    }
    let is_last = head_mask.is_none() && token_mask.is_none();
    let attended = name(b, "attended", is_last);
    let role = format!("{}/attended", call.name);
    let made = b.node(role, Op::Attention(of), inputs, &[Some(attended)])?;
    let mut y = made[0].expect("the result was asked for");
    if let Some(mask) = token_mask {
        let rows = name(b, "rows", head_mask.is_none());
        y = masked(b, call, y, mask, &[2], Some(rows))?;
    }
    if let Some(mask) = head_mask {
        let reshape = Op::Reshape { allow_zero: false };
        let apart = b.list(call, "apart", &[0, 0, heads.0 as i64, -1])?;
        let split = b.part(call, "split", reshape.clone(), &[y, apart])?;
        let live = b.unique(&call.name, "live_heads");
        let live = masked(b, call, split, mask, &[1, 3], Some(live))?;
        let joined = b.list(call, "joined", &[0, 0, -1])?;
        let last = name(b, "join", true);
        y = b.named_part(call, "join", reshape, &[live, joined], last)?;
    }
    Ok(y)
}

/// X times the mask, which is spread over the given axes. Consumers of the same masked tensor share it.
fn masked<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    x: ValueId,
    mask: ValueId,
    axes: &[i64],
    name: Option<String>,
) -> Result<ValueId> {
    let key = ("masked", x, Some(mask), axes.to_vec());
    if name.is_none()
        && let Some(&known) = b.memo.get(&key)
    {
        return Ok(known);
    }
    expect_rank(b, x, axes.len() + 2);
    expect_rank(b, mask, 2);
    let list = b.list(call, "spread_axes", axes)?;
    let spread = b.part(call, "mask_spread", Op::Unsqueeze, &[mask, list])?;
    let name = match name {
        Some(name) => name,
        None => b.unique(&call.name, "masked"),
    };
    let y = b.named_part(call, "masked", Op::Binary(Binary::Mul), &[x, spread], name)?;
    b.memo.insert(key, y);
    Ok(y)
}
