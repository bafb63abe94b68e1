//! Softmax and normalisations.

use alloc::vec;
use alloc::vec::Vec;

use crate::Channels;

/// y = log softmax(x) along the middle extent.
pub fn log_softmax(x: &[f32], [outer, axis, inner]: [usize; 3]) -> Vec<f64> {
    let mut y = vec![0.0; outer * axis * inner];
    for o in 0..outer {
        for j in 0..inner {
            let at = |a: usize| (o * axis + a) * inner + j;
            let column = || (0..axis).map(|a| f64::from(x[at(a)]));
            let max = column().fold(f64::NEG_INFINITY, |m, x| if x < m { m } else { x });
            let sum: f64 = column().map(|x| libm::exp(x - max)).sum();
            for a in 0..axis {
                y[at(a)] = f64::from(x[at(a)]) - max - libm::log(sum);
            }
        }
    }
    y
}

/// y = softmax(x) along the middle extent.
pub fn softmax(x: &[f32], extents: [usize; 3]) -> Vec<f64> {
    log_softmax(x, extents).into_iter().map(libm::exp).collect()
}

/// y = (x - mean) / sqrt(var + eps) * scale + bias over each row; also means and inverse standard deviations.
pub fn layer_norm(
    x: &[f32],
    (m, n): (usize, usize),
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut y, mut means, mut inv_stds) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..m {
        let row = || x[i * n..][..n].iter().map(|&x| f64::from(x));
        let mean = row().sum::<f64>() / n as f64;
        let var = row().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
        let inv_std = 1.0 / libm::sqrt(var + f64::from(eps));
        for (j, x) in row().enumerate() {
            let g = scale.map_or(1.0, |g| f64::from(g[j]));
            let b = bias.map_or(0.0, |b| f64::from(b[j]));
            y.push((x - mean) * inv_std * g + b);
        }
        means.push(mean);
        inv_stds.push(inv_std);
    }
    (y, means, inv_stds)
}

/// y = x / sqrt(Σ x² / n + eps) * scale over each row, with dead columns taken as zero.
pub fn rms_norm(
    x: &[f32],
    (m, n): (usize, usize),
    scale: Option<&[f32]>,
    eps: f32,
    live: Option<Channels<'_>>,
) -> Vec<f64> {
    let mut y = Vec::with_capacity(m * n);
    for i in 0..m {
        let at = |j: usize| match live {
            Some(live) if !live.contains(j) => 0.0,
            _ => f64::from(x[i * n + j]),
        };
        let squares: f64 = (0..n).map(|j| at(j) * at(j)).sum();
        let f = 1.0 / libm::sqrt(squares / n as f64 + f64::from(eps));
        y.extend((0..n).map(|j| at(j) * f * scale.map_or(1.0, |g| f64::from(g[j]))));
    }
    y
}

/// `y[c, p] = x[c, p] * scale[c] + shift[c]`
pub fn scale_shift(x: &[f32], (c, p): (usize, usize), scale: &[f32], shift: &[f32]) -> Vec<f64> {
    let one = |i: usize| f64::from(x[i]) * f64::from(scale[i / p]) + f64::from(shift[i / p]);
    (0..c * p).map(one).collect()
}
