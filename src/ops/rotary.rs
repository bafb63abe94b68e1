//! RotaryEmbedding: pairs of elements rotated by angles that depend on the place of a token.

use crate::graph::Rotary;
use crate::ops::axes::stretches;
use crate::ops::fail;
use crate::ops::operands::{Ints, Operands};
use crate::{DType, Result, Shape, ViewMut};

/// Extents: X is [samples, heads, tokens, width], in either layout, and `pairs` of each head's are rotated.
struct Extents {
    samples: usize,
    heads: usize,
    tokens: usize,
    width: usize,
    pairs: usize,
}

impl Extents {
    fn new(of: Rotary, shape: Shape) -> Result<Self> {
        let (samples, heads, tokens, width) = match (&*shape, of.heads) {
            (&[n, heads, tokens, width], None) => (n, heads, tokens, width),
            (&[n, tokens, all], Some(heads)) if heads > 0 && all % heads == 0 => {
                (n, heads, tokens, all / heads)
            }
            (_, None) => {
                return Err(fail(format!(
                    "`X` of shape {shape} is not [N, heads, tokens, width]"
                )));
            }
            (_, Some(heads)) => {
                return Err(fail(format!(
                    "`X` of shape {shape} is not [N, tokens, width] with {heads} heads in its width"
                )));
            }
        };
        let dims = of.dims.unwrap_or(width);
        if dims > width || !dims.is_multiple_of(2) {
            return Err(fail(format!(
                "{dims} elements of a head of {width} cannot be rotated in pairs"
            )));
        }
        Ok(Self {
            samples,
            heads,
            tokens,
            width,
            pairs: dims / 2,
        })
    }
}

pub(super) fn result(x: Operands<'_, '_>, of: Rotary) -> Result<(DType, Shape)> {
    let input = x.typed(0, "X", DType::F32)?;
    let e = Extents::new(of, input.shape)?;
    let cos = x.typed(1, "cos", DType::F32)?.shape;
    let sin = x.typed(2, "sin", DType::F32)?.shape;
    if cos != sin {
        return Err(fail(format!(
            "`cos` of shape {cos} and `sin` of shape {sin} do not agree"
        )));
    }
    match x.optional(3) {
        Some(places) => {
            if !matches!(places.dtype, DType::I64 | DType::I32) {
                return Err(fail(format!(
                    "operand `places` is {}, not i64 or i32",
                    places.dtype
                )));
            }
            if *places.shape != [e.samples, e.tokens] {
                return Err(fail(format!(
                    "`places` of shape {} is not [{}, {}]",
                    places.shape, e.samples, e.tokens
                )));
            }
            if !matches!(*cos, [_, pairs] if pairs == e.pairs) {
                return Err(fail(format!(
                    "`cos` of shape {cos} is not a table of {} columns",
                    e.pairs
                )));
            }
        }
        None => {
            if cos.rank() != 3 {
                return Err(fail(format!(
                    "`cos` of shape {cos} needs places, or three axes"
                )));
            }
            if cos[1] != e.tokens || cos[2] != e.pairs {
                return Err(fail(format!(
                    "`cos` of shape {cos} is not [{}, {}, {}]",
                    e.samples, e.tokens, e.pairs
                )));
            }
            let all = Shape::new(&[e.samples, e.tokens, e.pairs])?;
            stretches(cos, all, "cos")?;
        }
    }
    Ok((DType::F32, input.shape))
}

/// (a, b) → (a · cos - b · sin, a · sin + b · cos)
pub(super) fn eval(x: Operands<'_, '_>, of: Rotary, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "X")?;
    let e = Extents::new(of, input.shape())?;
    let tables = x.view(1, "cos")?;
    let (cos, sin) = (
        tables.as_slice::<f32>()?,
        x.view(2, "sin")?.as_slice::<f32>()?,
    );
    let places: Option<Ints<'_>> = x.optional_ints(3, "places")?;
    let (x, y) = (input.as_slice::<f32>()?, y.as_slice::<f32>()?);
    if x.is_empty() {
        return Ok(());
    }
    y.copy_from_slice(x);
    let one_table = tables.shape()[0] == 1;
    for (i, y) in y.chunks_exact_mut(e.width).enumerate() {
        // Heads stand before tokens in four axes, behind them in three.
        let (sample, token) = match of.heads {
            None => (i / e.tokens / e.heads, i % e.tokens),
            Some(_) => (i / e.heads / e.tokens, i / e.heads % e.tokens),
        };
        let row = match places {
            Some(places) => row(places.at(sample * e.tokens + token), tables.shape()[0])?,
            None if one_table => token,
            None => sample * e.tokens + token,
        };
        for pair in 0..e.pairs {
            let (first, second) = if of.interleaved {
                (2 * pair, 2 * pair + 1)
            } else {
                (pair, pair + e.pairs)
            };
            let at = row * e.pairs + pair;
            let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
            let (a, b) = (f64::from(y[first]), f64::from(y[second]));
            y[first] = (a * cos - b * sin) as f32;
            y[second] = (a * sin + b * cos) as f32;
        }
    }
    Ok(())
}

/// The row of a table of `rows` for a place, counted from the end when it is negative.
fn row(place: i64, rows: usize) -> Result<usize> {
    let from_front = if place < 0 {
        place.saturating_add_unsigned(rows as u64)
    } else {
        place
    };
    match usize::try_from(from_front) {
        Ok(row) if row < rows => Ok(row),
        _ => Err(fail(format!("place {place} is not one of {rows}"))),
    }
}
