//! Attention and rotary embeddings. Concatenation with the past, and heads that stand in other places than the operation expects, become
//! nodes of their own.

use super::Results;
use crate::graph::{Attention, Op, Reach, Rotary, Scores, ValueId};
use crate::import::builder::Builder;
use crate::import::call::Call;
use crate::{Result, Tensor};

/// The operands of an attention, however a file gives them.
pub(in crate::import) struct Operands {
    pub(in crate::import) q: ValueId,
    pub(in crate::import) k: ValueId,
    pub(in crate::import) v: ValueId,
    pub(in crate::import) mask: Option<ValueId>,
    pub(in crate::import) kv_lengths: Option<ValueId>,
    pub(in crate::import) live: Option<ValueId>,
    /// Keys and values of the past, with heads on axis 1.
    pub(in crate::import) past: Option<(ValueId, ValueId)>,
}

/// The numbers of the results that may be asked for: Y is 0.
pub(in crate::import) struct Places {
    pub(in crate::import) present: [usize; 2],
    pub(in crate::import) scores: usize,
}

/// Adds an attention and what stands around it.
pub(in crate::import) fn emit<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    mut of: Attention,
    mut x: Operands,
    places: &Places,
) -> Result<Results> {
    let mut results = vec![None; call.results.len().max(1)];
    let wants_present = places.present.map(|i| call.wants(i));
    let heads = of.heads;
    let mut past = None;
    if let Some((keys, values)) = x.past {
        for (role, of, operand, joined) in [
            ("present_key", keys, &mut x.k, places.present[0]),
            ("present_value", values, &mut x.v, places.present[1]),
        ] {
            if let Some((_, count)) = heads {
                *operand = apart(b, call, role, *operand, count, None)?;
            }
            let name = b.result_name(call, joined, role);
            let concat = Op::Concat { axis: 2 };
            *operand = b.named_part(call, role, concat, &[of, *operand], name)?;
            if let Some(slot) = results.get_mut(joined) {
                *slot = Some(*operand);
            }
        }
        if let Some((count, _)) = heads {
            x.q = apart(b, call, "query", x.q, count, None)?;
        }
        of.heads = None;
        if of.reach != Reach::default() {
            let op = Op::Shape {
                start: 2,
                end: Some(3),
            };
            past = Some(b.part(call, "past", op, &[keys])?);
        }
    } else {
        for (i, role, operand) in [(0, "present_key", x.k), (1, "present_value", x.v)] {
            if wants_present[i] {
                let place = places.present[i];
                let name = b.result_name(call, place, role);
                results[place] = Some(match heads {
                    Some((_, count)) => apart(b, call, role, operand, count, Some(name))?,
                    None => b.named_part(call, role, Op::Identity, &[operand], name)?,
                });
            }
        }
    }
    let mut inputs = vec![
        Some(x.q),
        Some(x.k),
        Some(x.v),
        x.mask,
        x.kv_lengths,
        x.live,
        past,
    ];
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    // Heads that were moved apart for the past come together again.
    let is_joined = heads.is_some() && of.heads.is_none();
    let y = match is_joined {
        true => Some(b.unique(&call.name, "heads")),
        false => call.results.first().cloned().flatten(),
    };
    let mut asked = vec![y];
    if call.wants(places.scores) {
        asked.push(call.results[places.scores].clone());
    }
    let made = b.node(call.name.clone(), Op::Attention(of), inputs, &asked)?;
    results[0] = made[0];
    if let Some(scores) = made.get(1) {
        results[places.scores] = *scores;
    }
    if let (true, Some(y)) = (is_joined, made[0]) {
        let perm = Some(vec![0, 2, 1, 3]);
        let y = b.part(call, "tokens", Op::Transpose { perm }, &[y])?;
        let list = b.list(call, "joined", &[0, 0, -1])?;
        let name = b.result_name(call, 0, "output");
        let reshape = Op::Reshape { allow_zero: false };
        results[0] = Some(b.named_part(call, "join", reshape, &[y, list], name)?);
    }
    Ok(results)
}

/// [N, T, heads · width] as [N, heads, T, width].
fn apart<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    role: &str,
    x: ValueId,
    heads: usize,
    name: Option<String>,
) -> Result<ValueId> {
    let list = b.list(call, &format!("{role}_heads"), &[0, 0, heads as i64, -1])?;
    let reshape = Op::Reshape { allow_zero: false };
    let split = b.part(call, &format!("{role}_split"), reshape, &[x, list])?;
    let role = format!("{role}_apart");
    let name = match name {
        Some(name) => name,
        None => b.unique(&call.name, &role),
    };
    let perm = Some(vec![0, 2, 1, 3]);
    b.named_part(call, &role, Op::Transpose { perm }, &[split], name)
}

/// A positive number of heads.
pub(in crate::import) fn heads(call: &Call<'_>, name: &str) -> Result<Option<usize>> {
    let Some(said) = call.int(name)? else {
        return Ok(None);
    };
    let heads = usize::try_from(said).ok();
    match heads.filter(|&n| n >= 1 && i32::try_from(n).is_ok()) {
        Some(heads) => Ok(Some(heads)),
        None => Err(call.wrong(format!("attribute `{name}` is {said}"))),
    }
}

/// One side of a window: -1 = no end.
fn side(call: &Call<'_>, name: &str) -> Result<Option<usize>> {
    match call.int(name)?.unwrap_or(-1) {
        -1 => Ok(None),
        n => usize::try_from(n)
            .map(Some)
            .map_err(|_| call.wrong(format!("attribute `{name}` is {n}"))),
    }
}

/// The attention of the standard.
pub(super) fn attention<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    if call.version < 23 {
        return Err(call.unsupported(format!(
            "the operator at operator-set version {}; it begins with 23",
            call.version
        )));
    }
    call.arity(3..=if call.version >= 24 { 7 } else { 6 }, 4)?;
    let counts = (heads(call, "q_num_heads")?, heads(call, "kv_num_heads")?);
    let heads = match counts {
        (Some(q), Some(kv)) => Some((q, kv)),
        (None, None) => None,
        _ => {
            let both = "attributes `q_num_heads` and `kv_num_heads` must come together";
            return Err(call.wrong(both));
        }
    };
    let mut reach = if call.version >= 25 {
        Reach {
            before: side(call, "left_window_size")?,
            after: side(call, "right_window_size")?,
        }
    } else {
        Reach::default()
    };
    if call.flag("is_causal", false)? {
        reach.after = Some(0);
    }
    // A float type. Operands are f32, and so is the softmax, with sums that lose no more than any order of f32 does.
    if !matches!(
        call.int("softmax_precision")?,
        None | Some(1 | 10 | 11 | 16)
    ) {
        return Err(call.wrong("attribute `softmax_precision` is not a type of floats"));
    }
    let of = Attention {
        heads,
        reach,
        scale: call.optional_float("scale")?,
        softcap: call.float("softcap", 0.0)?,
        scores: match call.int("qk_matmul_output_mode")?.unwrap_or(0) {
            0 => Scores::Products,
            1 => Scores::Capped,
            2 => Scores::Biased,
            3 => Scores::Probabilities,
            other => {
                let what = format!("attribute `qk_matmul_output_mode` is {other}");
                return Err(call.wrong(what));
            }
        },
    };
    let past = match (call.input(4), call.input(5)) {
        (Some(keys), Some(values)) => Some((keys, values)),
        (None, None) => None,
        _ => return Err(call.wrong("`past_key` and `past_value` must come together")),
    };
    if past.is_some() && call.input(6).is_some() {
        return Err(call.wrong("`past_key` and `nonpad_kv_seqlen` exclude each other"));
    }
    let operands = Operands {
        q: call.operand(0)?,
        k: call.operand(1)?,
        v: call.operand(2)?,
        mask: call.input(3),
        kv_lengths: call.input(6),
        live: None,
        past,
    };
    let places = Places {
        present: [1, 2],
        scores: 3,
    };
    emit(b, call, of, operands, &places)
}

/// (X, cos, sin, places?)
pub(super) fn rotary<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    if call.version < 23 {
        return Err(call.unsupported(format!(
            "the operator at operator-set version {}; it begins with 23",
            call.version
        )));
    }
    call.arity(3..=4, 1)?;
    b.emit(
        call,
        Op::RotaryEmbedding(rotation(call)?),
        call.inputs.clone(),
    )
}

/// The attributes of a rotation; 0 heads and 0 elements stand for what the shape says.
pub(in crate::import) fn rotation(call: &Call<'_>) -> Result<Rotary> {
    let extent = |name: &str| -> Result<Option<usize>> {
        let said = call.int(name)?.unwrap_or(0);
        let extent = usize::try_from(said).ok();
        let extent = extent.filter(|&n| i32::try_from(n).is_ok());
        let extent = extent.ok_or_else(|| call.wrong(format!("attribute `{name}` is {said}")))?;
        Ok(Some(extent).filter(|&n| n > 0))
    };
    Ok(Rotary {
        heads: extent("num_heads")?,
        dims: extent("rotary_embedding_dim")?,
        interleaved: call.flag("interleaved", false)?,
    })
}

/// A mask of numbers from one that is not 0 where a key is seen: `masked` elsewhere, spread over the given axes.
pub(in crate::import) fn additive<'m>(
    b: &mut Builder<'m>,
    call: &Call<'m>,
    seen: ValueId,
    masked: f32,
    axes: &[i64],
) -> Result<ValueId> {
    let to = crate::DType::Bool;
    let seen = b.part(call, "seen", Op::Cast { to }, &[seen])?;
    let list = b.list(call, "seen_axes", axes)?;
    let seen = b.part(call, "seen_spread", Op::Unsqueeze, &[seen, list])?;
    let yes = b.operand(call, "seen_bias", Tensor::scalar(0f32));
    let no = b.operand(call, "masked_bias", Tensor::scalar(masked));
    b.part(call, "bias", Op::Where, &[seen, yes, no])
}
