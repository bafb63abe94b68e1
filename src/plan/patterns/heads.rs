//! Keys and values that were repeated for the heads that share them: attention reads them once.
//!
//! ```text
//! Reshape(Expand(Unsqueeze(k, 2), [N, kv, times, T, width]), [N, kv · times, T, width])
//! ```

use super::{Found, Known, LONGEST, Operand};
use crate::graph::{Attention, Op, ValueId};

pub(super) fn find(known: &Known<'_>, last: usize) -> Option<Found> {
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
