//! Attention from two products and what stands between them.
//!
//! ```text
//! Softmax(scale · Q Kᵀ + mask) V        scale · Q Kᵀ also as (a Q) (b K)ᵀ · c, or bent: c · tanh(Q Kᵀ · d)
//! ```
//! A mask may be added, or chosen by `Where`: that is the same as a mask of truth values, but that a row without a key is then zeros
//! instead of NaN.

use super::{Found, Known, Operand, Step};
use crate::graph::{Attention, Binary, Op, Reach, Scores, Unary, ValueId};
use crate::{DType, Shape};

/// Numbers at most this large never show in a softmax with any number that is not about as large.
const NEVER: f32 = -1e30;

pub(super) fn find(known: &Known<'_>, last: usize) -> Option<Found> {
    let item = &known.items[last];
    let (y, v) = (item.output(0)?, item.input(1)?);
    if !matches!(known.maker(y)?.2, Op::MatMul) {
        return None;
    }
    let mut guard = Vec::new();
    let p = guarded(known, item.x(), &mut guard).unwrap_or(item.x());
    let (softmax, item, Op::Softmax { axis, .. }) = known.maker(p)? else {
        return None;
    };
    let rank = known.shape(y).rank();
    if *axis != -1 && *axis != rank as i64 - 1 {
        return None;
    }
    let scores = masked(known, item.x())?;
    let Bent {
        q,
        k,
        scale,
        softcap,
        mut parts,
    } = scores.bent;
    parts.push(softmax);
    parts.extend(guard);
    let heads = match rank {
        4 => None,
        // One head with its axis left out.
        3 => Some((1, 1)),
        _ => return None,
    };
    let (q_shape, k_shape, v_shape) = (known.shape(q), k.shape, known.shape(v));
    let outer = rank - 2;
    let agree = q_shape[..outer] == k_shape[..outer] && q_shape[..outer] == v_shape[..outer];
    if !agree || !known.is_float(y) || v_shape.rank() != rank {
        return None;
    }
    let scores_shape = known.shape(item.x());
    if let Some((mask, _)) = &scores.mask
        && !mask_fits(known.shape(*mask), scores_shape)
    {
        return None;
    }
    let is_causal = scores.mask.is_some_and(|mask| is_triangle(known, mask));
    let mask = scores.mask.filter(|_| !is_causal);
    let mask = mask.map(|(id, is_dead)| match is_dead {
        true => Operand::Of(vec![Step::new(Op::Unary(Unary::Not))], id),
        false => Operand::Value(id),
    });
    let of = Attention {
        heads,
        reach: if is_causal {
            Reach::CAUSAL
        } else {
            Reach::default()
        },
        scale: Some(scale as f32),
        softcap: softcap as f32,
        scores: Scores::default(),
    };
    let mut operands = vec![
        Some(Operand::Value(q)),
        Some(k.operand),
        Some(Operand::Value(v)),
    ];
    operands.extend(mask.map(Some));
    Some(Found {
        op: Op::Attention(of),
        operands,
        parts,
    })
}

/// p of Where(p is NaN, 0, p): rows without a key are zeros, as they are in attention.
fn guarded(known: &Known<'_>, id: ValueId, parts: &mut Vec<usize>) -> Option<ValueId> {
    let (i, item, Op::Where) = known.maker(id)? else {
        return None;
    };
    let (zero, p) = (item.input(1)?, item.input(2)?);
    let (j, number) = known.unary(item.x(), Unary::Not)?;
    let (k, a, b) = known.binary(number, Binary::Equal)?;
    if known.scalar(zero) != Some(0.0) || a != p || b != p {
        return None;
    }
    parts.extend([i, j, k]);
    Some(p)
}

/// A mask of scores is one of attention: it has all keys, and no axis of its own means another one there.
fn mask_fits(mask: Shape, scores: Shape) -> bool {
    let keys = scores.last().copied();
    let is_outer = scores.rank() == 3 && mask.rank() == 3 && mask[0] != 1;
    mask.rank() <= scores.rank() && mask.last().copied() == keys && !is_outer
}

/// Whether a constant mask lets every query see the keys up to its own, and no other.
fn is_triangle(known: &Known<'_>, (mask, is_dead): (ValueId, bool)) -> bool {
    let value = known.net.value(mask);
    let Some(constant) = &value.constant else {
        return false;
    };
    let &[ref outer @ .., queries, keys] = &*value.shape else {
        return false;
    };
    if queries != keys || outer.iter().any(|&d| d != 1) {
        return false;
    }
    let place = |i: usize| (i / keys, i % keys);
    match value.floats() {
        Some(bias) => bias.iter().enumerate().all(|(at, &x)| {
            let (i, j) = place(at);
            if j <= i { x == 0.0 } else { x <= NEVER }
        }),
        None => constant.view().bytes().iter().enumerate().all(|(at, &b)| {
            let (i, j) = place(at);
            (j <= i) == ((b == 0) == is_dead)
        }),
    }
}

/// K as it stands behind a transposition of its last two axes.
struct Keys {
    operand: Operand,
    shape: Shape,
}

/// Products, scaled and bent.
struct Bent {
    q: ValueId,
    k: Keys,
    scale: f64,
    softcap: f64,
    parts: Vec<usize>,
}

/// What the softmax reads.
struct Masked {
    bent: Bent,
    /// The mask, and whether it is true where a key is not seen.
    mask: Option<(ValueId, bool)>,
}

fn masked(known: &Known<'_>, id: ValueId) -> Option<Masked> {
    if let Some(bent) = bent(known, id) {
        return Some(Masked { bent, mask: None });
    }
    let added = known.either(id, Binary::Add).find_map(|(i, scores, mask)| {
        let mut bent = bent(known, scores)?;
        bent.parts.push(i);
        let mask = Some(truth(known, mask).unwrap_or((mask, false)));
        (known.shape(scores) == known.shape(id)).then_some(Masked { bent, mask })
    });
    added.or_else(|| chosen(known, id))
}

/// The truth values of a mask Where(seen, 0, -∞), or the other way round.
fn truth(known: &Known<'_>, mask: ValueId) -> Option<(ValueId, bool)> {
    let (_, item, Op::Where) = known.maker(mask)? else {
        return None;
    };
    let (yes, no) = (known.scalar(item.input(1)?)?, known.scalar(item.input(2)?)?);
    let is_same = known.shape(item.x()) == known.shape(mask);
    match (yes, no) {
        (0.0, f64::NEG_INFINITY) if is_same => Some((item.x(), false)),
        (f64::NEG_INFINITY, 0.0) if is_same => Some((item.x(), true)),
        _ => None,
    }
}

/// Where(seen, scores, -∞), or the other way round.
fn chosen(known: &Known<'_>, id: ValueId) -> Option<Masked> {
    let (i, item, Op::Where) = known.maker(id)? else {
        return None;
    };
    let condition = item.x();
    let (yes, no) = (item.input(1)?, item.input(2)?);
    let never = |id: ValueId| {
        known
            .net
            .value(id)
            .floats()
            .filter(|v| v.len() == 1)
            .map(|v| v[0])
    };
    let (scores, fill, is_dead) = match (never(yes), never(no)) {
        (None, Some(fill)) => (yes, fill, false),
        (Some(fill), None) => (no, fill, true),
        _ => return None,
    };
    // A row without a key would share its weight between all keys, unless they are at -∞.
    let is_exact =
        fill == f32::NEG_INFINITY || (fill <= NEVER && every_row_sees(known, condition, is_dead));
    let mut bent = bent(known, scores)?;
    bent.parts.push(i);
    let mask = Some((condition, is_dead));
    (is_exact && known.shape(scores) == known.shape(id)).then_some(Masked { bent, mask })
}

/// Whether a constant condition leaves a key to every row.
fn every_row_sees(known: &Known<'_>, condition: ValueId, is_dead: bool) -> bool {
    let value = known.net.value(condition);
    let (Some(constant), Some(&keys)) = (&value.constant, value.shape.last()) else {
        return false;
    };
    let rows = constant.view();
    keys > 0
        && rows.dtype() == DType::Bool
        && (rows.bytes().chunks_exact(keys)).all(|row| row.iter().any(|&b| (b == 0) == is_dead))
}

fn bent(known: &Known<'_>, id: ValueId) -> Option<Bent> {
    let mut parts = Vec::new();
    let (outer, inside) = known.scaled(id, &mut parts);
    if let Some((i, x)) = known.unary(inside, Unary::Tanh) {
        parts.push(i);
        let (scale, product) = known.scaled(x, &mut parts);
        let (q, k, own) = product_of(known, product, &mut parts)?;
        // c · tanh(s / c)
        return (outer > 0.0).then_some(Bent {
            q,
            k,
            scale: scale * own * outer,
            softcap: outer,
            parts,
        });
    }
    let (q, k, own) = product_of(known, inside, &mut parts)?;
    Some(Bent {
        q,
        k,
        scale: outer * own,
        softcap: 0.0,
        parts,
    })
}

/// Q, K and the factor of a product of scaled Q and transposed, scaled K.
fn product_of(
    known: &Known<'_>,
    id: ValueId,
    parts: &mut Vec<usize>,
) -> Option<(ValueId, Keys, f64)> {
    let (i, item, Op::MatMul) = known.maker(id)? else {
        return None;
    };
    parts.push(i);
    // Scaled operands that others read as well are not computed less; but that does no harm.
    let mut others = Vec::new();
    let (a, q) = known.scaled(item.x(), &mut others);
    let (b, transposed) = known.scaled(item.input(1)?, &mut others);
    if let Some(keys) = through_rows(known, transposed) {
        return Some((q, keys, a * b));
    }
    let (_, item, Op::Transpose { perm }) = known.maker(transposed)? else {
        return None;
    };
    let rank = known.shape(transposed).rank();
    let mut perm = match perm {
        Some(perm) => perm.clone(),
        None => (0..rank).rev().collect(),
    };
    if perm.len() != rank || rank < 2 {
        return None;
    }
    perm.swap(rank - 1, rank - 2);
    let (c, x) = known.scaled(item.x(), &mut others);
    let from = known.shape(x);
    let dims: Vec<usize> = perm.iter().map(|&axis| from[axis]).collect();
    let is_identity = perm.iter().enumerate().all(|(i, &p)| i == p);
    let operand = match is_identity {
        true => Operand::Value(x),
        false => Operand::Of(vec![Step::new(Op::Transpose { perm: Some(perm) })], x),
    };
    let shape = Shape::new(&dims).ok()?;
    let keys = Keys { operand, shape };
    Some((q, keys, a * b * c))
}

/// K of a transposition of its last two axes while all others are one.
fn through_rows(known: &Known<'_>, id: ValueId) -> Option<Keys> {
    let (_, apart, Op::Reshape { .. }) = known.maker(id)? else {
        return None;
    };
    let (_, swap, Op::Transpose { perm: Some(perm) }) = known.maker(apart.x())? else {
        return None;
    };
    let (rows, to) = (known.shape(swap.x()), known.shape(id));
    let &[ref outer @ .., width, tokens] = &*to else {
        return None;
    };
    if perm[..] != [0, 2, 1] || rows[1..] != [tokens, width] {
        return None;
    }
    let dims = [outer, &[tokens, width]].concat();
    let shape = Shape::new(&dims).ok()?;
    // The rows may come from K as it is wanted.
    let before = match known.maker(swap.x()) {
        Some((_, joined, Op::Reshape { .. })) if known.shape(joined.x()) == shape => {
            Some(joined.x())
        }
        _ => None,
    };
    let operand = match before {
        Some(x) => Operand::Value(x),
        None => Operand::Of(vec![Step::reshape(&dims).ok()?], swap.x()),
    };
    Some(Keys { operand, shape })
}
