//! LayerNorm and RmsNorm from means, differences and roots.
//!
//! ```text
//! c = x - mean(x)     y = c / √(mean(c²) + ε) · scale + bias          r = x / √(mean(x²) + ε) · scale
//! ```

use super::{Found, Known, Operand};
use crate::graph::{Binary, Op, Reduction, Unary, ValueId};

pub(super) fn find(known: &Known<'_>, last: usize) -> Option<Found> {
    let item = &known.items[last];
    let y = item.output(0)?;
    unit(known, y)
        .or_else(|| with_scale(known, y))
        .or_else(|| with_bias(known, y))
}

/// c / √(mean(c²) + ε), with a scale of ones.
fn unit(known: &Known<'_>, y: ValueId) -> Option<Found> {
    let mut parts = Vec::new();
    let (c, epsilon, under) = quotient(known, y, &mut parts)?;
    if !known.is_float(c) || known.shape(c) != known.shape(y) {
        return None;
    }
    let (mean, axis) = mean(known, under)?;
    parts.push(mean);
    let (i, squared) = squared(known, known.items[mean].x())?;
    parts.push(i);
    let shape = known.shape(c);
    let centred = centred(known, c, axis);
    let (x, op) = match centred {
        Some((x, centre)) => {
            parts.extend(centre);
            let axis = axis as i64;
            (x, Op::LayerNorm { axis, epsilon })
        }
        None => (
            c,
            Op::RmsNorm {
                axis: axis as i64,
                epsilon,
            },
        ),
    };
    // Some exporters take the difference twice.
    if squared != c {
        let (again, twice) = centred.as_ref().and(self::centred(known, squared, axis))?;
        if again != x {
            return None;
        }
        parts.extend(twice);
        parts.sort_unstable();
        parts.dedup();
    }
    let dims = shape[axis..].to_vec();
    let ones = vec![1.0; dims.iter().product()];
    Some(Found {
        op,
        operands: vec![Some(Operand::Value(x)), Some(Operand::Row(dims, ones))],
        parts,
    })
}

/// c, ε and the mean of c / √(mean + ε), however the root and the quotient are written.
fn quotient(
    known: &Known<'_>,
    y: ValueId,
    parts: &mut Vec<usize>,
) -> Option<(ValueId, f32, ValueId)> {
    let (c, sum) = if let Some((_, c, root)) = known.binary(y, Binary::Div) {
        let (i, sum) = root_of(known, root, 0.5)?;
        parts.push(i);
        (c, sum)
    } else {
        known.either(y, Binary::Mul).find_map(|(_, c, inverse)| {
            if let Some((i, sum)) = root_of(known, inverse, -0.5) {
                parts.push(i);
                return Some((c, sum));
            }
            let (i, root) = known.unary(inverse, Unary::Reciprocal).or_else(|| {
                let (i, one, root) = known.binary(inverse, Binary::Div)?;
                (known.scalar(one)? == 1.0).then_some((i, root))
            })?;
            let (j, sum) = root_of(known, root, 0.5)?;
            parts.extend([i, j]);
            Some((c, sum))
        })?
    };
    let (i, mean, epsilon) = known
        .either(sum, Binary::Add)
        .find_map(|(i, mean, epsilon)| Some((i, mean, known.scalar(epsilon)?)))?;
    parts.push(i);
    Some((c, epsilon as f32, mean))
}

/// x of x to the given power, which may be written as a root.
fn root_of(known: &Known<'_>, id: ValueId, power: f64) -> Option<(usize, ValueId)> {
    let as_power = (known.binary(id, Binary::Pow))
        .filter(|&(_, _, p)| known.scalar(p) == Some(power))
        .map(|(i, x, _)| (i, x));
    as_power.or_else(|| known.unary(id, Unary::Sqrt).filter(|_| power == 0.5))
}

/// x of x²
fn squared(known: &Known<'_>, id: ValueId) -> Option<(usize, ValueId)> {
    let product = known.binary(id, Binary::Mul).filter(|(_, a, b)| a == b);
    let power = || {
        let (_, _, p) = known.binary(id, Binary::Pow)?;
        (known.scalar(p) == Some(2.0)).then(|| known.binary(id, Binary::Pow))?
    };
    product.or_else(power).map(|(i, x, _)| (i, x))
}

/// A mean over all axes from one on, which are kept: its item and that axis.
fn mean(known: &Known<'_>, id: ValueId) -> Option<(usize, usize)> {
    let (i, item, op) = known.maker(id)?;
    let Op::Reduce {
        kind: Reduction::Mean,
        keep_dims: true,
        ..
    } = op
    else {
        return None;
    };
    let rank = known.shape(item.x()).rank();
    let axes = known.net.value(item.input(1)?).constant.as_ref()?;
    let mut axes: Vec<i64> = (axes.as_slice::<i64>().ok()?.iter())
        .map(|&a| if a < 0 { a + rank as i64 } else { a })
        .collect();
    axes.sort_unstable();
    let first = rank.checked_sub(axes.len())?;
    let is_tail = !axes.is_empty() && axes.iter().copied().eq(first as i64..rank as i64);
    is_tail.then_some((i, first))
}

/// x of x - mean(x), and its items.
fn centred(known: &Known<'_>, id: ValueId, axis: usize) -> Option<(ValueId, [usize; 2])> {
    let (i, x, m) = known.binary(id, Binary::Sub)?;
    let (j, from) = mean(known, m)?;
    (known.items[j].x() == x && from == axis).then_some((x, [i, j]))
}

/// A normalisation times a row, where it had only ones.
fn with_scale(known: &Known<'_>, y: ValueId) -> Option<Found> {
    known.either(y, Binary::Mul).find_map(|(_, unit, scale)| {
        let (i, item, op) = known.maker(unit)?;
        let axis = match *op {
            Op::LayerNorm { axis, .. } if item.input(2).is_none() => axis,
            Op::RmsNorm { axis, .. } => axis,
            _ => return None,
        };
        let ones = known.net.value(item.input(1)?).floats()?;
        let row = row(known, scale, unit, axis)?;
        ones.iter().all(|&x| x == 1.0).then(|| Found {
            op: op.clone(),
            operands: vec![Some(Operand::Value(item.x())), Some(row)],
            parts: vec![i],
        })
    })
}

/// A LayerNorm plus a row, where it had none.
fn with_bias(known: &Known<'_>, y: ValueId) -> Option<Found> {
    known.either(y, Binary::Add).find_map(|(_, scaled, bias)| {
        let (i, item, op) = known.maker(scaled)?;
        let Op::LayerNorm { axis, .. } = *op else {
            return None;
        };
        let is_bare =
            item.input(2).is_none() && item.output(1).is_none() && item.output(2).is_none();
        let row = row(known, bias, scaled, axis)?;
        is_bare.then(|| Found {
            op: op.clone(),
            operands: vec![
                Some(Operand::Value(item.x())),
                item.input(1).map(Operand::Value),
                Some(row),
            ],
            parts: vec![i],
        })
    })
}

/// A constant that holds one number for each element that `x` is normalised over.
fn row(known: &Known<'_>, id: ValueId, x: ValueId, axis: i64) -> Option<Operand> {
    let (shape, x) = (known.shape(id), known.shape(x));
    let values = known.net.value(id).floats()?;
    let axis = if axis < 0 {
        axis + x.rank() as i64
    } else {
        axis
    };
    let dims = &x[usize::try_from(axis).ok()?..];
    let extra = shape.rank().checked_sub(dims.len())?;
    let fits = shape.rank() <= x.rank()
        && shape[..extra].iter().all(|&d| d == 1)
        && shape[extra..] == *dims;
    match extra {
        _ if !fits => None,
        0 => Some(Operand::Value(id)),
        _ => Some(Operand::Row(dims.to_vec(), values.to_vec())),
    }
}
