//! Scaled dot-product attention.

use alloc::vec::Vec;

use crate::ops::attention::{AttentionSpec, Bias, Heads, Live, Operands, Scores};

/// An element of a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Element {
    /// Σ p v
    pub value: f64,
    /// How far arithmetic in f32 may be from it.
    pub tolerance: f64,
}

/// `y[h, i, c]` in the order `[q_heads, queries, v_width]`; none where it is dead.
///
/// The tolerance: a score errs by an ulp of its products for each of them, and by a few of its own size for what is done to it behind;
/// an error of a score is a relative error of its weight, and of the sum of weights; both sums over keys err by an ulp for each key.
pub fn attention(spec: &AttentionSpec, x: &Operands<'_>, live: &Live<'_>) -> Vec<Option<Element>> {
    let eps = f64::from(f32::EPSILON);
    let group = spec.q_heads / spec.kv_heads;
    let mut y = Vec::with_capacity(spec.q_heads * spec.queries * spec.v_width);
    for h in 0..spec.q_heads {
        let kv = h / group;
        for i in 0..spec.queries {
            if live.queries.is_some_and(|live| !live.contains(i)) {
                y.extend((0..spec.v_width).map(|_| None));
                continue;
            }
            let keys = || (0..x.valid).filter(|&j| sees(spec, x, live, i, j));
            let mut error = 0f64;
            let mut scores = Vec::new();
            for j in keys() {
                let terms = (0..spec.width).map(|c| at(&x.q, h, i, c) * at(&x.k, kv, j, c));
                let scale = f64::from(spec.scale);
                let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), term| {
                    (sum + term, magnitude + term.abs())
                });
                let mut score = sum * scale;
                error = error.max((spec.width + 4) as f64 * magnitude * scale.abs());
                if spec.softcap != 0.0 {
                    let cap = f64::from(spec.softcap);
                    score = cap * libm::tanh(score / cap);
                    error += 4.0 * cap.abs();
                }
                let bias = x.bias.as_ref().map_or(0.0, |bias| added(bias, h, i, j));
                score += bias;
                if score.is_finite() {
                    error += 4.0 * score.abs() + 2.0 * bias.abs();
                }
                scores.push(score);
            }
            let max = scores
                .iter()
                .fold(f64::NEG_INFINITY, |m, &s| if s > m { s } else { m });
            let weight = |score: f64| {
                if max == f64::NEG_INFINITY {
                    0.0
                } else {
                    libm::exp(score - max)
                }
            };
            let sum: f64 = scores.iter().map(|&s| weight(s)).sum();
            for c in 0..spec.v_width {
                let output = h * spec.v_width + c;
                if live.outputs.is_some_and(|live| !live.contains(output)) {
                    y.push(None);
                    continue;
                }
                let (mut value, mut magnitude) = (0.0, 0.0);
                for (j, &score) in keys().zip(&scores) {
                    let p = if sum == 0.0 { 0.0 } else { weight(score) / sum };
                    if p > 0.0 {
                        let v = at(&x.v, kv, j, c);
                        value += p * v;
                        magnitude += p * v.abs();
                    }
                }
                let relative = eps * (2.0 * error + 2.0 * scores.len() as f64 + 16.0);
                let tolerance = relative * magnitude + f64::from(f32::MIN_POSITIVE);
                y.push(Some(Element { value, tolerance }));
            }
        }
    }
    y
}

fn at(x: &Heads<'_>, head: usize, token: usize, c: usize) -> f64 {
    f64::from(x.data[head * x.head + token * x.token + c])
}

fn sees(spec: &AttentionSpec, x: &Operands<'_>, live: &Live<'_>, i: usize, j: usize) -> bool {
    let (at, j_at) = (i as i128 + x.offset as i128, j as i128);
    live.keys.is_none_or(|live| live.contains(j))
        && spec.before.is_none_or(|n| j_at >= at - n as i128)
        && spec.after.is_none_or(|n| j_at <= at + n as i128)
}

fn added(bias: &Bias<'_>, h: usize, i: usize, j: usize) -> f64 {
    let at = h * bias.head + i * bias.query + j;
    match bias.scores {
        Scores::Add(x) => f64::from(x[at]),
        Scores::Keep(x) if x[at] == 0 => f64::NEG_INFINITY,
        Scores::Live(x) if x[at] == 0.0 => f64::NEG_INFINITY,
        Scores::Keep(_) | Scores::Live(_) => 0.0,
    }
}
