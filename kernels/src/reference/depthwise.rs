//! Depthwise convolution.

use alloc::vec::Vec;

use super::pointwise::activation;
use crate::Channels;
use crate::ops::ConvSpec;

/// A depthwise convolution of one map; dead input channels, static or dynamic, are taken as zero. Output masks are ignored.
pub fn depthwise(
    spec: &ConvSpec<'_>,
    x: &[f32],
    (h, w): (usize, usize),
    live_in: Option<Channels<'_>>,
    (oh, ow): (usize, usize),
) -> Vec<f64> {
    let shape = &spec.shape;
    let [kh, kw] = shape.kernel;
    let mut y = Vec::with_capacity(shape.c_out * oh * ow);
    for n in 0..shape.c_out * oh * ow {
        let (o, i, j) = (n / ow / oh, n / ow % oh, n % ow);
        let c = o / (shape.c_out / shape.c_in);
        let dead = |live: Option<Channels<'_>>| live.is_some_and(|live| !live.contains(c));
        let mut sum = spec.bias.map_or(0.0, |b| f64::from(b[o]));
        for t in 0..kh * kw {
            let r = i * shape.stride[0] + t / kw * shape.dilation[0];
            let q = j * shape.stride[1] + t % kw * shape.dilation[1];
            let r = r.checked_sub(shape.pads[0]).filter(|&r| r < h);
            let q = q.checked_sub(shape.pads[1]).filter(|&q| q < w);
            if let (Some(r), Some(q), false) = (r, q, dead(live_in) || dead(spec.live_in)) {
                sum += f64::from(x[(c * h + r) * w + q]) * f64::from(spec.weights[o * kh * kw + t]);
            }
        }
        y.push(activation(spec.activation, sum));
    }
    y
}
