//! Attention.

use crate::graph::{Attention, Reach, Scores};
use crate::ops::axes::{ShapeBuilder, Strides, stretched, stretches};
use crate::ops::fail;
use crate::ops::operands::{Fact, Operands};
use crate::{DType, Result, Shape, View, ViewMut};

/// Columns of V that are summed together, on the stack.
const CHUNK: usize = 64;

/// Tokens of several heads, and the steps between them in either layout.
#[derive(Clone, Copy)]
struct Heads {
    samples: usize,
    count: usize,
    tokens: usize,
    width: usize,
    /// Between samples, heads and tokens.
    steps: [usize; 3],
}

impl Heads {
    /// `count` says how many heads share the last axis.
    fn new(operand: Fact<'_>, name: &str, count: Option<usize>) -> Result<Self> {
        let shape = operand.shape;
        let steps = shape.strides();
        match (&*shape, count) {
            (&[samples, count, tokens, width], None) => Ok(Self {
                samples,
                count,
                tokens,
                width,
                steps: [steps[0], steps[1], steps[2]],
            }),
            (&[samples, tokens, all], Some(count)) if count > 0 && all % count == 0 => Ok(Self {
                samples,
                count,
                tokens,
                width: all / count,
                steps: [steps[0], all / count, steps[1]],
            }),
            (&[_, _, all], Some(count)) => Err(fail(format!(
                "the last axis of `{name}`, {all}, is not a multiple of {count} heads"
            ))),
            (_, None) => Err(fail(format!(
                "`{name}` of shape {shape} is not [N, heads, tokens, width]"
            ))),
            (_, Some(_)) => Err(fail(format!(
                "`{name}` of shape {shape} is not [N, tokens, heads · width]"
            ))),
        }
    }

    fn at(&self, sample: usize, head: usize, token: usize) -> usize {
        sample * self.steps[0] + head * self.steps[1] + token * self.steps[2]
    }
}

/// The operands that carry heads, and how they fit together.
struct Problem {
    q: Heads,
    k: Heads,
    v: Heads,
    /// Heads that share one of keys and values.
    group: usize,
}

impl Problem {
    fn new(x: Operands<'_, '_>, heads: Option<(usize, usize)>) -> Result<Self> {
        let operand = |i, name, count| Heads::new(x.typed(i, name, DType::F32)?, name, count);
        let (q_heads, kv_heads) = (heads.map(|h| h.0), heads.map(|h| h.1));
        let q = operand(0, "Q", q_heads)?;
        let (k, v) = (operand(1, "K", kv_heads)?, operand(2, "V", kv_heads)?);
        let agree = |what, names: [&str; 2], a: usize, b: usize| {
            if a == b {
                return Ok(());
            }
            let [first, second] = names;
            Err(fail(format!(
                "`{first}` and `{second}` do not agree: {what} {a} and {b}"
            )))
        };
        agree("samples", ["Q", "K"], q.samples, k.samples)?;
        agree("samples", ["Q", "V"], q.samples, v.samples)?;
        agree("heads", ["K", "V"], k.count, v.count)?;
        agree("tokens", ["K", "V"], k.tokens, v.tokens)?;
        agree("width", ["Q", "K"], q.width, k.width)?;
        let group = q.count.checked_div(k.count).unwrap_or(0);
        if group * k.count != q.count {
            return Err(fail(format!(
                "{} heads of queries cannot share {} of keys evenly",
                q.count, k.count
            )));
        }
        Ok(Self { q, k, v, group })
    }

    fn scores(&self) -> Result<Shape> {
        Shape::new(&[self.q.samples, self.q.count, self.q.tokens, self.k.tokens])
    }

    /// The shape of the mask as it is stretched: it has its own number of keys.
    fn mask(&self, mask: Shape) -> Result<Shape> {
        let keys = mask.last().copied().unwrap_or(usize::MAX);
        if keys > self.k.tokens {
            return Err(fail(format!(
                "operand `mask` of shape {mask} is not for {} keys",
                self.k.tokens
            )));
        }
        let to = Shape::new(&[self.q.samples, self.q.count, self.q.tokens, keys])?;
        stretches(mask, to, "mask")?;
        Ok(to)
    }
}

/// The type of an operand that says yes or no, or how much.
fn is_mask(operand: Fact<'_>, name: &str) -> Result<()> {
    match operand.dtype {
        DType::F32 | DType::Bool => Ok(()),
        other => Err(fail(format!(
            "operand `{name}` is {other}, not f32 or bool"
        ))),
    }
}

/// Result 0 is Y, result 1 the scores.
pub(super) fn result(x: Operands<'_, '_>, of: &Attention, k: usize) -> Result<(DType, Shape)> {
    let problem = Problem::new(x, of.heads)?;
    let Problem { q, k: keys, v, .. } = &problem;
    if let Some(mask) = x.optional(3) {
        is_mask(mask, "mask")?;
        problem.mask(mask.shape)?;
    }
    if x.optional(4).is_some() {
        let lengths = x.typed(4, "kv_lengths", DType::I64)?.shape;
        if *lengths != [q.samples] {
            return Err(fail(format!(
                "`kv_lengths` of shape {lengths} is not [{}]",
                q.samples
            )));
        }
    }
    if let Some(live) = x.optional(5) {
        is_mask(live, "live")?;
        if !matches!(*live.shape, [n, t] if t == keys.tokens && (n == 1 || n == q.samples)) {
            return Err(fail(format!(
                "`live` of shape {} is not [{} or 1, {}]",
                live.shape, q.samples, keys.tokens
            )));
        }
    }
    if x.optional(6).is_some() {
        let past = x.typed(6, "past", DType::I64)?.shape;
        if past.elements() != 1 {
            return Err(fail(format!("`past` of shape {past} is not one number")));
        }
    }
    let shape = match (k, of.heads) {
        (0, None) => Shape::new(&[q.samples, q.count, q.tokens, v.width])?,
        (0, Some(_)) => {
            let all = (q.count.checked_mul(v.width))
                .ok_or_else(|| fail("the result has too many elements"))?;
            ShapeBuilder::collect([q.samples, q.tokens, all])?
        }
        _ => problem.scores()?,
    };
    Ok((DType::F32, shape))
}

/// What keeps queries from keys, apart from the products.
struct Bias<'a> {
    mask: Option<(Truth<'a>, Strides, usize)>,
    lengths: Option<&'a [i64]>,
    live: Option<(Truth<'a>, usize)>,
    past: Option<i64>,
    reach: Reach,
    queries: usize,
}

/// A tensor of truth values, or of numbers.
#[derive(Clone, Copy)]
enum Truth<'a> {
    Floats(&'a [f32]),
    Bools(&'a [u8]),
}

impl<'a> Truth<'a> {
    fn new(view: View<'a>) -> Result<Self> {
        Ok(match view.dtype() {
            DType::Bool => Truth::Bools(view.bytes()),
            _ => Truth::Floats(view.as_slice()?),
        })
    }
}

impl<'a> Bias<'a> {
    fn new(x: Operands<'_, 'a>, problem: &Problem, reach: Reach) -> Result<Self> {
        let mask = match x.optional_view(3, "mask")? {
            Some(mask) => {
                let shape = mask.shape();
                let steps = stretched(shape, problem.mask(shape)?);
                Some((Truth::new(mask)?, steps, shape[shape.rank() - 1]))
            }
            None => None,
        };
        let live = match x.optional_view(5, "live")? {
            // One row serves all samples.
            Some(live) if live.shape()[0] == 1 => Some((Truth::new(live)?, 0)),
            Some(live) => Some((Truth::new(live)?, problem.k.tokens)),
            None => None,
        };
        let lengths = x.optional_view(4, "kv_lengths")?;
        let past = x.optional_view(6, "past")?;
        Ok(Self {
            mask,
            lengths: lengths.map(|l| l.as_slice()).transpose()?,
            live,
            past: past.map(|p| p.as_slice()).transpose()?.map(|p| p[0]),
            reach,
            queries: problem.q.tokens,
        })
    }

    /// What is added to the score of key j for query i; -∞ = it is not seen.
    fn at(&self, sample: usize, head: usize, i: usize, j: usize) -> f64 {
        let offset = match (self.past, self.lengths) {
            (Some(past), _) => past,
            (None, Some(lengths)) => lengths[sample].saturating_sub_unsigned(self.queries as u64),
            (None, None) => 0,
        };
        let (place, key) = (offset.saturating_add_unsigned(i as u64), j as i64);
        let Reach { before, after } = self.reach;
        let out_of_reach = before.is_some_and(|n| key < place.saturating_sub_unsigned(n as u64))
            || after.is_some_and(|n| key > place.saturating_add_unsigned(n as u64));
        let padding = self.lengths.is_some_and(|lengths| key >= lengths[sample]);
        let is_live = self.live.is_none_or(|(live, step)| match live {
            Truth::Floats(live) => live[sample * step + j] != 0.0,
            Truth::Bools(live) => live[sample * step + j] != 0,
        });
        if out_of_reach || padding || !is_live {
            return f64::NEG_INFINITY;
        }
        let Some((mask, steps, keys)) = self.mask else {
            return 0.0;
        };
        if j >= keys {
            return f64::NEG_INFINITY;
        }
        let at = [sample, head, i, j].into_iter().zip(steps);
        let at: usize = at.map(|(i, step)| i * step as usize).sum();
        match mask {
            Truth::Floats(mask) => mask[at].into(),
            Truth::Bools(mask) if mask[at] != 0 => 0.0,
            Truth::Bools(_) => f64::NEG_INFINITY,
        }
    }
}

/// One product of a query and a key on its way.
struct Score {
    product: f64,
    capped: f64,
    /// Of a key that is seen.
    biased: Option<f64>,
}

/// See [`Attention`].
pub(super) fn eval(
    x: Operands<'_, '_>,
    of: &Attention,
    outputs: &mut [Option<ViewMut<'_>>],
) -> Result<()> {
    let problem = Problem::new(x, of.heads)?;
    let Problem { q, k, v, group } = problem;
    let bias = Bias::new(x, &problem, of.reach)?;
    let operand = |i, name| x.view(i, name)?.as_slice::<f32>();
    let (queries, keys, values) = (operand(0, "Q")?, operand(1, "K")?, operand(2, "V")?);
    let mut outputs = outputs.iter_mut();
    let mut next = || {
        let output = outputs.next().and_then(Option::as_mut);
        output.map(ViewMut::as_slice::<f32>).transpose()
    };
    let (mut y, mut scores) = (next()?, next()?);
    let is_empty = |result: &Option<&mut [f32]>| result.as_ref().is_none_or(|r| r.is_empty());
    // Rows without elements may be very many.
    if is_empty(&y) && is_empty(&scores) {
        return Ok(());
    }
    let width = q.width.max(1) as f64;
    let scale = of.scale.map_or(1.0 / width.sqrt(), f64::from);
    let softcap = f64::from(of.softcap);
    let score = |n: usize, h: usize, i: usize, j: usize| {
        let query = &queries[q.at(n, h, i)..][..q.width];
        let key = &keys[k.at(n, h / group, j)..][..q.width];
        let terms = query.iter().zip(key);
        let product = scale
            * terms
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum::<f64>();
        let capped = if softcap > 0.0 {
            softcap * (product / softcap).tanh()
        } else {
            product
        };
        let bias = bias.at(n, h, i, j);
        Score {
            product,
            capped,
            biased: (bias != f64::NEG_INFINITY).then_some(capped + bias),
        }
    };
    let rows = (0..q.samples).flat_map(|n| (0..q.count).map(move |h| (n, h)));
    let rows = rows.flat_map(|(n, h)| (0..q.tokens).map(move |i| (n, h, i)));
    for (row, (n, h, i)) in rows.enumerate() {
        let seen = |j: usize| Some((j, score(n, h, i, j).biased?));
        let max = (0..k.tokens).filter_map(seen).map(|(_, s)| s);
        let max = max.fold(f64::NEG_INFINITY, |max, s| {
            if s > max || s.is_nan() { s } else { max }
        });
        // Without a key there is nothing to share.
        let weight = |s: f64| match max {
            f64::NEG_INFINITY => 0.0,
            _ => (s - max).exp(),
        };
        let sum: f64 = (0..k.tokens).filter_map(seen).map(|(_, s)| weight(s)).sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        if let Some(scores) = scores.as_mut() {
            let scores = &mut scores[row * k.tokens..][..k.tokens];
            for (j, to) in scores.iter_mut().enumerate() {
                let score = score(n, h, i, j);
                *to = match of.scores {
                    Scores::Products => score.product,
                    Scores::Capped => score.capped,
                    Scores::Biased => score.biased.unwrap_or(f64::NEG_INFINITY),
                    Scores::Probabilities => score.biased.map_or(0.0, weight) / sum,
                } as f32;
            }
        }
        let Some(y) = y.as_mut() else { continue };
        let to = match of.heads {
            None => row * v.width,
            Some(_) => ((n * q.tokens + i) * q.count + h) * v.width,
        };
        let row = y[to..][..v.width].chunks_mut(CHUNK);
        for (chunk, y) in row.enumerate() {
            let mut sums = [0.0; CHUNK];
            for (j, s) in (0..k.tokens).filter_map(seen) {
                let p = weight(s) / sum;
                let value = &values[v.at(n, h / group, j) + chunk * CHUNK..][..y.len()];
                for (sum, &value) in sums.iter_mut().zip(value) {
                    *sum += p * f64::from(value);
                }
            }
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = sum as f32;
            }
        }
    }
    Ok(())
}
