//! Heads that were taken apart and put together again by moving elements: attention reads and writes them where they are.
//!
//! ```text
//! queries, keys, values   Transpose(Reshape(x, [N, T, heads, width]), [0, 2, 1, 3])             = x, [N, T, heads · width]
//! of one product          part(Transpose(Reshape(x, [N, T, 3, heads, width]), [2, 0, 3, 1, 4])) = a slice of x, likewise
//! the result              Reshape(Transpose(y, [0, 2, 1, 3]), [N, T, heads · width])            = y
//! repeated heads          Reshape(Expand(Unsqueeze(k)))                                         = k, shared by several heads
//! ```
//! and whatever other moves come to the same.

use super::view::{View, merged};
use super::{Found, Known, LONGEST, Operand, Step, list};
use crate::graph::{Attention, Op, ValueId};

pub(super) fn find(known: &Known<'_>, last: usize) -> Option<Found> {
    let y = known.items[last].output(0)?;
    match known.maker(y)?.2 {
        Op::Reshape { .. } => joined(known, last),
        Op::Attention(_) => shared(known, last),
        _ => None,
    }
}

/// The result of attention with its heads side by side, where all of its operands can be read so.
fn joined(known: &Known<'_>, last: usize) -> Option<Found> {
    // What is reshaped need not be a view of a view: its elements only have to come in the right order.
    let view = View::of(known, known.items[last].x());
    let (_, item, Op::Attention(of)) = known.maker(view.base)? else {
        return None;
    };
    if of.heads.is_some() || item.output(1).is_some() {
        return None;
    }
    let &[n, count, tokens, width] = &*known.shape(view.base) else {
        return None;
    };
    let by_tokens = [
        (n, count * tokens * width),
        (tokens, width),
        (count, tokens * width),
        (width, 1),
    ];
    if merged(&view.axes) != merged(&by_tokens) {
        return None;
    }
    let kv_count = *known.shape(item.input(1)?).get(1)?;
    let mut operands = Vec::with_capacity(item.inputs.len());
    for (i, &input) in item.inputs.iter().enumerate() {
        operands.push(match input {
            Some(id) if i < 3 => Some(side_by_side(known, id)?),
            other => other.map(Operand::Value),
        });
    }
    Some(Found {
        op: Op::Attention(Attention {
            heads: Some((count, kv_count)),
            ..*of
        }),
        operands,
        parts: between(known, last, view.base)?,
        shape: Some([n, tokens, count * width].to_vec()),
    })
}

/// The items from the last one, left out, to the one that makes a value.
fn between(known: &Known<'_>, last: usize, base: ValueId) -> Option<Vec<usize>> {
    let mut parts = Vec::new();
    let mut id = known.items[last].x();
    while id != base {
        let (i, item, _) = known.maker(id)?;
        parts.push(i);
        id = item.x();
    }
    parts.push(known.maker(base)?.0);
    Some(parts)
}

/// Heads as they stood before they were taken apart: [N, T, heads · width], a part of a wider row at most.
fn side_by_side(known: &Known<'_>, id: ValueId) -> Option<Operand> {
    let View { base, offset, axes } = View::of(known, id);
    let &[
        (n, sample),
        (heads, head),
        (tokens, token),
        (width, element),
    ] = &axes[..]
    else {
        return None;
    };
    let all = known.shape(base).elements();
    let row = match (tokens, n) {
        (0, _) | (_, 0) => return None,
        (1, 1) => all,
        (1, _) => sample,
        _ => token,
    };
    let joined = heads * width;
    let fits = (width == 1 || element == 1)
        && (heads == 1 || head == width)
        && (n == 1 || sample == tokens * row)
        && all == n * tokens * row
        && offset + joined <= row;
    if !fits {
        return None;
    }
    let mut steps = Vec::new();
    if *known.shape(base) != [n, tokens, row] {
        steps.push(Step::reshape(&[n, tokens, row]).ok()?);
    }
    if joined != row {
        let cut = [offset, offset + joined, 2].map(|n| list(&[n]));
        steps.push(Step {
            op: Op::Slice,
            more: cut.into_iter().collect::<crate::Result<_>>().ok()?,
        });
    }
    Some(match steps.is_empty() {
        true => Operand::Value(base),
        false => Operand::Of(steps, base),
    })
}

/// Attention of keys and values that were repeated for the heads that share them.
fn shared(known: &Known<'_>, last: usize) -> Option<Found> {
    let item = &known.items[last];
    let (_, _, Op::Attention(of @ Attention { heads: None, .. })) = known.maker(item.output(0)?)?
    else {
        return None;
    };
    let k = unrepeated(known, item.input(1)?)?;
    let v = unrepeated(known, item.input(2)?)?;
    if known.shape(k)[1] != known.shape(v)[1] {
        return None;
    }
    let operands = item.inputs.iter().map(|id| id.map(Operand::Value));
    let mut operands: Vec<_> = operands.collect();
    operands[1] = Some(Operand::Value(k));
    operands[2] = Some(Operand::Value(v));
    Some(Found {
        operands,
        ..Found::new(Op::Attention(*of))
    })
}

/// [N, kv, T, width] of its repetition [N, kv · times, T, width].
fn unrepeated(known: &Known<'_>, id: ValueId) -> Option<ValueId> {
    let &[n, heads, tokens, width] = &*known.shape(id) else {
        return None;
    };
    // Whatever the shapes in between, elements stay in their order.
    let mut wide = id;
    for _ in 0..LONGEST {
        let Some((_, item, Op::Reshape { .. } | Op::Unsqueeze)) = known.maker(wide) else {
            break;
        };
        wide = item.x();
    }
    let (_, expand, Op::Expand) = known.maker(wide)? else {
        return None;
    };
    let &[_, kv, times, _, _] = &*known.shape(wide) else {
        return None;
    };
    let repeats = *known.shape(wide) == [n, kv, times, tokens, width]
        && *known.shape(expand.x()) == [n, kv, 1, tokens, width]
        && kv * times == heads;
    if !repeats || times < 2 {
        return None;
    }
    let mut before = expand.x();
    for _ in 0..LONGEST {
        if *known.shape(before) == [n, kv, tokens, width] {
            return Some(before);
        }
        match known.maker(before)? {
            (_, item, Op::Reshape { .. } | Op::Unsqueeze) => before = item.x(),
            _ => return None,
        }
    }
    None
}
