//! Which algorithm is fastest, by an estimate.
//!
//! The unit is the time of one FMA of a vector at the peak. The weights were fitted (non-negative least squares of relative errors) to 96
//! convolutions of 3 to 512 channels on maps of 4 x 4 to 56 x 56, each computed in all ways on one core of Zen 5 with AVX-512 and with
//! AVX2, and rounded to what fits both. On these shapes the choice is 0.5 % (AVX-512) and 3 % (AVX2) slower than the best one on average, at worst
//! 15 % and 40 %. The cost of a call was raised since, by maps of 7 x 7 to 28 x 28 with 8 and 16 channels, and what the direct algorithm takes in blocks was added:
//! maps of which a vector of tiles is mostly empty (7 x 3, 5 x 5) took 1.6 to 2.1 times as long by filtering.
#![forbid(unsafe_code)]

use super::{Form, Sizes, height};
use crate::Isa;
use crate::ops::ConvShape;
use crate::ops::span::Span;

/// How much faster Winograd's filtering must be estimated to be. Worth its rounding it were with 0.85, but on a Xeon, of whose L3 the weights of points take more,
/// what is estimated at 0.75 to 0.8 took 1.12 to 1.18 of the time of the direct algorithm in blocks (320 to 384 channels on 8 x 10, 384 on 9 x 9), and 0.63 0.87.
const GAIN: f64 = 0.75;

/// The tiles that are estimated to beat the direct algorithm, if any do.
pub(super) fn fastest(isa: Isa, shape: &ConvShape, hw: (usize, usize)) -> Option<(Form, Sizes)> {
    if !Form::serves(shape) {
        return None;
    }
    let without = direct(isa, shape, hw)?.min(in_blocks(isa, shape, hw)?);
    let (mut best, mut least) = (None, without * GAIN);
    for form in [Form::F2, Form::F4] {
        let Ok(sizes) = Sizes::new(isa, form, shape, hw) else {
            continue;
        };
        let time = winograd(isa, form, shape, &sizes);
        if time < least {
            (best, least) = (Some((form, sizes)), time);
        }
    }
    best
}

/// What the direct algorithm takes of its estimate where inputs are few: measured on a Xeon, whose tiles are six rows by four vectors. There the
/// choice is right within one input of 64 and of 128, and a third too low of 256 and of 512.
const OF_FEW: f64 = 0.7;

/// As many inputs as are estimated to be faster directly.
pub(super) fn few(
    isa: Isa,
    form: Form,
    shape: &ConvShape,
    hw: (usize, usize),
    sizes: &Sizes,
) -> usize {
    let pays = |c_in: usize| {
        let shape = ConvShape { c_in, ..*shape };
        let direct = direct(isa, &shape, hw);
        direct.is_some_and(|direct| direct * OF_FEW < winograd(isa, form, &shape, sizes))
    };
    (1..=shape.c_in).take_while(|&c_in| pays(c_in)).count()
}

fn direct(isa: Isa, shape: &ConvShape, hw: (usize, usize)) -> Option<f64> {
    let (oh, ow) = shape.output(hw).ok()?;
    let vectors = |n: usize| n.div_ceil(isa.lanes()) as f64;
    let (c_in, c_out) = (shape.c_in as f64, shape.c_out as f64);
    let products = c_in * 9.0 * c_out * vectors(oh * (ow + 2));
    // Starting and storing a vector; copying a row.
    Some(products + 16.0 * c_out * vectors(oh * ow) + 60.0 * c_in * hw.0 as f64 + 1500.0)
}

/// The direct algorithm on maps in blocks of channels, whose vectors are full however small a map is. What the window has above and below it is left out,
/// and not what it has beside it.
fn in_blocks(isa: Isa, shape: &ConvShape, hw: (usize, usize)) -> Option<f64> {
    const PRODUCT: f64 = 1.1;
    let (oh, ow) = shape.output(hw).ok()?;
    let rows: usize = Span::all(shape, 0, hw.0, oh)
        .iter()
        .map(|span| span.outputs.len() * span.taps.len())
        .sum();
    let vectors = shape.c_out.div_ceil(isa.lanes()) as f64;
    Some(PRODUCT * (rows * ow * 3 * shape.c_in) as f64 * vectors)
}

fn winograd(isa: Isa, form: Form, shape: &ConvShape, sizes: &Sizes) -> f64 {
    // Of a product, of a vector of transformed inputs and of outputs, and of a call.
    let (product, input, output, call) = match form {
        Form::F2 => (1.02, 6.5, 12.0, 2000.0),
        Form::F4 => (1.05, 6.0, 13.5, 8000.0),
    };
    let lanes = isa.lanes();
    let (m, points) = (form.m(), form.points() as f64);
    let rows = shape.c_out.next_multiple_of(height(isa.registers()) / 2) as f64;
    let (c_in, c_out) = (shape.c_in as f64, shape.c_out as f64);
    let (down, across) = sizes.tiles;
    let vectors = (down * across).div_ceil(lanes) as f64;
    let along = ((down * m + 2) * across.div_ceil(lanes) * (m + 2)) as f64;
    product * points * c_in * rows * vectors
        // Each weight comes from L2 or L3 at least once.
        + 0.5 * points * c_in * rows / 16.0
        + input * c_in * (along + points * vectors)
        + output * c_out * points * vectors
        + call
}
