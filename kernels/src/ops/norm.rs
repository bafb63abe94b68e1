//! Softmax and the normalisations.
#![forbid(unsafe_code)]

use super::check;
use super::pointwise::{exp, map};
use super::reduce::{row_max, row_sum, row_sum_of};
use crate::isa::{F32s, Task};
use crate::{Channels, Error, Isa};

/// The row form, `inner == 1`. `log`: y = x - max - log Σ, else e^(x - max) / Σ.
#[inline(always)]
fn softmax_row<S: F32s>(s: S, log: bool, x: &[f32], y: &mut [f32]) {
    let max = row_max(s, x);
    let m = s.splat(max);
    if log {
        let sum = row_sum_of(
            s,
            x,
            #[inline(always)]
            |v| exp(s, s.sub(v, m)),
        );
        let less = s.splat(libm::logf(sum));
        y.copy_from_slice(x);
        map(
            s,
            y,
            #[inline(always)]
            |v| s.sub(s.sub(v, m), less),
        );
    } else {
        y.copy_from_slice(x);
        map(
            s,
            y,
            #[inline(always)]
            |v| exp(s, s.sub(v, m)),
        );
        let scale = s.splat(1.0 / row_sum(s, y));
        map(
            s,
            y,
            #[inline(always)]
            |v| s.mul(v, scale),
        );
    }
}

/// The strided form: a block of columns at a time, each lane a softmax of its own.
#[inline(always)]
fn softmax_columns<S: F32s>(s: S, log: bool, x: &[f32], inner: usize, y: &mut [f32]) {
    for at in (0..inner).step_by(S::LANES) {
        let to = inner.min(at + S::LANES);
        let mut max = s.splat(f32::NEG_INFINITY);
        for row in x.chunks_exact(inner) {
            max = s.max_nan(max, s.load_some(&row[at..to]));
        }
        let mut sum = s.splat(0.0);
        for (row, out) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
            let v = s.sub(s.load_some(&row[at..to]), max);
            let e = exp(s, v);
            sum = s.add(sum, e);
            s.store_some(if log { v } else { e }, &mut out[at..to]);
        }
        let mut lanes = [0.0; 16];
        s.store_some(sum, &mut lanes[..S::LANES]);
        for l in &mut lanes {
            *l = if log { libm::logf(*l) } else { 1.0 / *l };
        }
        let factor = s.load(&lanes);
        for out in y.chunks_exact_mut(inner) {
            let v = s.load_some(&out[at..to]);
            let v = if log {
                s.sub(v, factor)
            } else {
                s.mul(v, factor)
            };
            s.store_some(v, &mut out[at..to]);
        }
    }
}

struct Softmax<'a> {
    log: bool,
    x: &'a [f32],
    axis: usize,
    inner: usize,
    y: &'a mut [f32],
}

impl Task for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let len = self.axis * self.inner;
        for (x, y) in self.x.chunks_exact(len).zip(self.y.chunks_exact_mut(len)) {
            if self.inner == 1 {
                softmax_row(s, self.log, x, y);
            } else {
                softmax_columns(s, self.log, x, self.inner, y);
            }
        }
    }
}

fn any_softmax(
    isa: Isa,
    log: bool,
    x: &[f32],
    extents: [usize; 3],
    y: &mut [f32],
) -> Result<(), Error> {
    let n = check::covers("input of a softmax", &extents, x.len())?;
    check::covers("output of a softmax", &extents, y.len())?;
    if n > 0 {
        isa.run(Softmax {
            log,
            x: &x[..n],
            axis: extents[1],
            inner: extents[2],
            y: &mut y[..n],
        });
    }
    Ok(())
}

/// y[o, a, j] = exp(x[o, a, j] - max) / Σ_a exp(x[o, a, j] - max)
///
/// # Shapes    `extents` = [outer, axis, inner]; `x` and `y` of these extents; rows of n: `[m, n, 1]`
/// # Masks     none
/// # Numerics  exp within 2 ulp, the sum in the order of [`reduce`](super::reduce::reduce), one multiplication by its inverse. A row with
///   NaN, or of minus infinities only, is NaN
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
/// # Scratch   none
/// # Source    none
pub fn softmax(isa: Isa, x: &[f32], extents: [usize; 3], y: &mut [f32]) -> Result<(), Error> {
    any_softmax(isa, false, x, extents, y)
}

/// y[o, a, j] = x[o, a, j] - max - log Σ_a exp(x[o, a, j] - max)
///
/// # Shapes    as [`softmax`]
/// # Masks     none
/// # Numerics  as [`softmax`]; the logarithm by `libm::logf`
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
/// # Scratch   none
/// # Source    none
pub fn log_softmax(isa: Isa, x: &[f32], extents: [usize; 3], y: &mut [f32]) -> Result<(), Error> {
    any_softmax(isa, true, x, extents, y)
}

/// 1 / sqrt(x), both rounded. Not by a library: what it knows of x86 is the encoding of SSE, which behind vectors of AVX takes hundreds of cycles.
#[inline(always)]
fn inverse_root<S: F32s>(s: S, x: f32) -> f32 {
    1.0 / s.first(s.sqrt(s.splat(x)))
}

/// out[i] = f(x[i], scale[i], bias[i]) where each missing operand is its neutral element.
#[inline(always)]
fn scale_row<S: F32s>(
    s: S,
    x: &[f32],
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    f: impl Fn(S::V) -> S::V,
    y: &mut [f32],
) {
    let affine = |v: S::V, scale: Option<S::V>, bias: Option<S::V>| match (scale, bias) {
        (Some(g), Some(b)) => s.mul_add(v, g, b),
        (Some(g), None) => s.mul(v, g),
        (None, Some(b)) => s.add(v, b),
        (None, None) => v,
    };
    let whole = x.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let g = scale.map(
            #[inline(always)]
            |g| s.load(&g[at..]),
        );
        let b = bias.map(
            #[inline(always)]
            |b| s.load(&b[at..]),
        );
        s.store(affine(f(s.load(&x[at..])), g, b), &mut y[at..]);
    }
    if whole < x.len() {
        let (x, y) = (&x[whole..], &mut y[whole..]);
        let g = scale.map(
            #[inline(always)]
            |g| s.load_some(&g[whole..]),
        );
        let b = bias.map(
            #[inline(always)]
            |b| s.load_some(&b[whole..]),
        );
        s.store_some(affine(f(s.load_some(x)), g, b), y);
    }
}

/// Where [`layer_norm`] leaves the statistics of its rows.
#[derive(Debug)]
pub struct Moments<'a> {
    /// `[m]`: the means.
    pub mean: &'a mut [f32],
    /// `[m]`: one over the standard deviations.
    pub inv_std: &'a mut [f32],
}

struct LayerNorm<'a> {
    x: &'a [f32],
    n: usize,
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
    y: &'a mut [f32],
    moments: Option<Moments<'a>>,
}

impl Task for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let n = self.n;
        let mut moments = self.moments;
        let rows = self.x.chunks_exact(n).zip(self.y.chunks_exact_mut(n));
        for (i, (x, y)) in rows.enumerate() {
            let mean = row_sum(s, x) / n as f32;
            let m = s.splat(mean);
            let squares = row_sum_of(
                s,
                x,
                #[inline(always)]
                |v| {
                    let d = s.sub(v, m);
                    s.mul(d, d)
                },
            );
            let inv_std = inverse_root(s, squares / n as f32 + self.eps);
            let f = s.splat(inv_std);
            scale_row(
                s,
                x,
                self.scale,
                self.bias,
                #[inline(always)]
                |v| s.mul(s.sub(v, m), f),
                y,
            );
            if let Some(moments) = &mut moments {
                moments.mean[i] = mean;
                moments.inv_std[i] = inv_std;
            }
        }
    }
}

/// y[m, n] = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias, over each row
///
/// # Shapes    `(m, n)`; `x`, `y` `[m, n]`; `scale`, `bias` `[n]`; `moments` `[m]` each
/// # Masks     none
/// # Numerics  two passes: the mean, then the squares of the differences; sums in the order of [`reduce`](super::reduce::reduce)
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`]
/// # Panics    never
/// # Scratch   none
/// # Source    J. Ba, J. Kiros, G. Hinton, Layer Normalization, 2016
pub fn layer_norm(
    isa: Isa,
    x: &[f32],
    (m, n): (usize, usize),
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
    moments: Option<Moments<'_>>,
) -> Result<(), Error> {
    let len = check::covers("input of a layer norm", &[m, n], x.len())?;
    check::covers("output of a layer norm", &[m, n], y.len())?;
    if let Some(g) = scale {
        check::covers("scale of a layer norm", &[n], g.len())?;
    }
    if let Some(b) = bias {
        check::covers("bias of a layer norm", &[n], b.len())?;
    }
    if let Some(moments) = &moments {
        check::covers("means of a layer norm", &[m], moments.mean.len())?;
        check::covers("deviations of a layer norm", &[m], moments.inv_std.len())?;
    }
    if len > 0 {
        isa.run(LayerNorm {
            x: &x[..len],
            n,
            scale,
            bias,
            eps,
            y: &mut y[..len],
            moments,
        });
    }
    Ok(())
}

struct RmsNorm<'a> {
    x: &'a [f32],
    n: usize,
    scale: Option<&'a [f32]>,
    eps: f32,
    live: Option<Channels<'a>>,
    y: &'a mut [f32],
}

impl Task for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let n = self.n;
        // Dead columns are lanes that are not loaded: zeros, in the order of sums of a dense row. Those of the first vectors are looked up once
        // and not in every row: that takes as long as the norm.
        let look_up = |at: usize| {
            let width = S::LANES.min(n - at);
            match self.live {
                Some(live) => live.bits(at, width),
                None => ((1u64 << width) - 1) as u32,
            }
        };
        let mut known = [0; 64];
        for (v, at) in (0..n).step_by(S::LANES).enumerate().take(known.len()) {
            known[v] = look_up(at);
        }
        let lanes = |at: usize| match known.get(at / S::LANES) {
            Some(&lanes) => lanes,
            None => look_up(at),
        };
        for (x, y) in self.x.chunks_exact(n).zip(self.y.chunks_exact_mut(n)) {
            let squares = match self.live {
                None => row_sum_of(
                    s,
                    x,
                    #[inline(always)]
                    |v| s.mul(v, v),
                ),
                Some(_) => live_squares(s, x, lanes),
            };
            let f = s.splat(inverse_root(s, squares / n as f32 + self.eps));
            if self.live.is_none() {
                scale_row(
                    s,
                    x,
                    self.scale,
                    None,
                    #[inline(always)]
                    |v| s.mul(v, f),
                    y,
                );
                continue;
            }
            for at in (0..n).step_by(S::LANES) {
                let lanes = lanes(at);
                let mut v = s.mul(s.load_where(&x[at..], lanes), f);
                if let Some(g) = self.scale {
                    v = s.mul(v, s.load_where(&g[at..], lanes));
                }
                s.store_where(v, lanes, &mut y[at..]);
            }
        }
    }
}

/// Σ x² of the live elements, in the order of [`row_sum_of`] where dead ones are zeros.
#[inline(always)]
fn live_squares<S: F32s>(s: S, x: &[f32], lanes: impl Fn(usize) -> u32) -> f32 {
    let mut acc = [s.splat(0.0); 4];
    for (i, at) in (0..x.len()).step_by(S::LANES).enumerate() {
        let v = s.load_where(&x[at..], lanes(at));
        acc[i % 4] = s.add(acc[i % 4], s.mul(v, v));
    }
    let [a, b, c, d] = acc;
    s.sum(s.add(s.add(a, b), s.add(c, d)))
}

/// y[m, n] = x / sqrt(Σ_{j ∈ live} x[m, j]² / n + eps) * scale, over each row
///
/// # Shapes    `(m, n)`; `x`, `y` `[m, n]`; `scale` `[n]`
/// # Masks     `live` over n (channels last): dead columns are neither read nor written; the divisor is the full n, as if they were zero
/// # Numerics  sums in the order of [`reduce`](super::reduce::reduce), dead channels being zeros in it
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`] for the mask
/// # Panics    never
/// # Scratch   none
/// # Source    B. Zhang, R. Sennrich, Root Mean Square Layer Normalization, 2019
pub fn rms_norm(
    isa: Isa,
    x: &[f32],
    (m, n): (usize, usize),
    scale: Option<&[f32]>,
    eps: f32,
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    let len = check::covers("input of an RMS norm", &[m, n], x.len())?;
    check::covers("output of an RMS norm", &[m, n], y.len())?;
    if let Some(g) = scale {
        check::covers("scale of an RMS norm", &[n], g.len())?;
    }
    check::mask("channels of an RMS norm's mask", live, n)?;
    if len > 0 {
        isa.run(RmsNorm {
            x: &x[..len],
            n,
            scale,
            eps,
            live,
            y: &mut y[..len],
        });
    }
    Ok(())
}

struct ScaleShift<'a> {
    x: Option<&'a [f32]>,
    extents: (usize, usize),
    scale: &'a [f32],
    shift: &'a [f32],
    live: Option<Channels<'a>>,
    y: &'a mut [f32],
}

impl Task for ScaleShift<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let (c, p) = self.extents;
        check::each_run(
            self.live,
            c,
            #[inline(always)]
            |run| {
                for plane in run {
                    let y = &mut self.y[plane * p..][..p];
                    if let Some(x) = self.x {
                        y.copy_from_slice(&x[plane * p..][..p]);
                    }
                    let (g, b) = (s.splat(self.scale[plane]), s.splat(self.shift[plane]));
                    map(
                        s,
                        y,
                        #[inline(always)]
                        |v| s.mul_add(v, g, b),
                    );
                }
            },
        );
    }
}

/// `y[c, p] = x[c, p] * scale[c] + shift[c]`: a BatchNorm that could not be folded into its neighbour
///
/// # Shapes    `extents` = (c, p); `x`, `y` `[c, p]`, no `x` for in place; `scale`, `shift` `[c]`
/// # Masks     dead planes are neither read nor written: the caller knows that a dead plane would become the constant `shift[c]`
/// # Numerics  one mul_add
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`] for the mask
/// # Panics    never
/// # Scratch   none
/// # Source    none
pub fn scale_shift(
    isa: Isa,
    x: Option<&[f32]>,
    extents: (usize, usize),
    scale: &[f32],
    shift: &[f32],
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    let (c, p) = extents;
    if let Some(x) = x {
        check::covers("input of a scale and shift", &[c, p], x.len())?;
    }
    check::covers("output of a scale and shift", &[c, p], y.len())?;
    check::covers("scale", &[c], scale.len())?;
    check::covers("shift", &[c], shift.len())?;
    check::mask("planes of a scale and shift's mask", live, c)?;
    isa.run(ScaleShift {
        x,
        extents,
        scale,
        shift,
        live,
        y,
    });
    Ok(())
}
