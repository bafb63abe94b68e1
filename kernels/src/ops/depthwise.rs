//! Depthwise convolution: every output channel reads one input channel.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::check;
use super::conv_shape::{ConvShape, ConvSpec};
use super::pointwise;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::pool::{Pool, Tile};
use crate::{Channels, Error, Isa};

mod direct;
mod strip;

/// A depthwise convolution, ready to run: weights, bias, activation and the masks that were known at load.
#[derive(Debug, Clone)]
pub struct Depthwise {
    isa: Isa,
    shape: ConvShape,
    /// `[c_out, kh, kw]`
    weights: Vec<f32>,
    /// `[c_out]`
    bias: Vec<f32>,
    activation: Activation,
    live_in: Option<Vec<u64>>,
    live_out: Option<Vec<u64>>,
}

/// One plane to another.
#[derive(Clone, Copy)]
struct Plane<'a> {
    shape: &'a ConvShape,
    weights: &'a [f32],
    bias: f32,
    /// The bounds of the sums: those of ReLU and Clip, or infinite.
    clamp: (f32, f32),
    x: &'a [f32],
    map: (usize, usize),
    out: (usize, usize),
}

/// A plane by the direct kernel for K x K, stride T.
struct Direct<'a, const K: usize, const T: usize>(Plane<'a>, &'a mut [f32]);

impl<const K: usize, const T: usize> Task for Direct<'_, K, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        direct::plane::<S, K, T>(s, self.0, self.1);
    }
}

/// A plane by the kernel for everything.
struct Strip<'a>(Plane<'a>, &'a mut [f32]);

impl Task for Strip<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        strip::plane(s, self.0, self.1);
    }
}

/// Every kernel is a task of its own: together they would share one frame, with the strip on it.
fn run_plane(isa: Isa, plane: Plane<'_>, y: &mut [f32]) {
    let shape = plane.shape;
    match (shape.kernel, shape.stride, shape.dilation) {
        ([3, 3], [1, 1], [1, 1]) => isa.run(Direct::<3, 1>(plane, y)),
        ([3, 3], [2, 2], [1, 1]) => isa.run(Direct::<3, 2>(plane, y)),
        ([5, 5], [1, 1], [1, 1]) => isa.run(Direct::<5, 1>(plane, y)),
        ([5, 5], [2, 2], [1, 1]) => isa.run(Direct::<5, 2>(plane, y)),
        _ => isa.run(Strip(plane, y)),
    }
}

impl Depthwise {
    /// Takes a convolution with `groups == c_in`; the outputs of channel `c` are `c * m .. (c + 1) * m`, `m = c_out / c_in`.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when the convolution is not depthwise.
    pub fn pack(isa: Isa, spec: &ConvSpec<'_>) -> Result<Self, Error> {
        spec.check()?;
        let shape = spec.shape;
        if shape.groups != shape.c_in {
            return Err(Error::Invalid {
                what: "a depthwise convolution has as many groups as input channels",
            });
        }
        let owned = |live: Option<Channels<'_>>| live.map(|live| live.words().to_vec());
        Ok(Self {
            isa,
            shape,
            weights: spec.weights.to_vec(),
            bias: spec
                .bias
                .map_or_else(|| alloc::vec![0.0; shape.c_out], <[f32]>::to_vec),
            activation: spec.activation,
            live_in: owned(spec.live_in),
            live_out: owned(spec.live_out),
        })
    }

    /// The shape that was packed.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Height and width of the output for a map of `h` x `w`.
    ///
    /// # Errors
    /// As [`ConvShape::output`].
    pub fn output(&self, map: (usize, usize)) -> Result<(usize, usize), Error> {
        self.shape.output(map)
    }

    /// y[o, i, j] = act(bias[o] + Σ_{k, l} w[o, k, l] · x[o / m, i s_h + k d_h - top, j s_w + l d_w - left])
    ///
    /// # Shapes    `x` `[c_in, h, w]`; `y` `[c_out, oh, ow]` with (oh, ow) from [`Depthwise::output`]
    /// # Masks     dead input channels are never read: their outputs are act(bias); dead outputs are neither computed nor written
    /// # Numerics  one chain an output: bias, then the taps in ascending (k, l), one mul_add each, padding included; then the activation
    /// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`] for a mask, [`Error::Invalid`] when the kernel does not
    ///   fit the padded map
    /// # Panics    never
    /// # Scratch   none: 32 KiB of stack when the kernel is not 3x3 or 5x5 with stride 1 or 2
    /// # Source    the register tile over rows: P. Zhang et al., High Performance Depthwise and Pointwise Convolutions on Mobile Devices, AAAI 2020
    pub fn run(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        map: (usize, usize),
        live_in: Option<Channels<'_>>,
        live_out: Option<Channels<'_>>,
        y: &mut [f32],
    ) -> Result<(), Error> {
        let shape = &self.shape;
        let out = self.output(map)?;
        check::covers("input of a depthwise", &[shape.c_in, map.0, map.1], x.len())?;
        let len = check::covers(
            "output of a depthwise",
            &[shape.c_out, out.0, out.1],
            y.len(),
        )?;
        let (area, size) = (map.0 * map.1, out.0 * out.1);
        check::mask("channels of a depthwise's input mask", live_in, shape.c_in)?;
        check::mask(
            "channels of a depthwise's output mask",
            live_out,
            shape.c_out,
        )?;
        let known = |words: &Option<Vec<u64>>, c: usize| {
            words
                .as_ref()
                .is_none_or(|words| words[c / 64] >> (c % 64) & 1 == 1)
        };
        let (shape, map, out) = &along_rows(shape, map, out);
        let taps = shape.kernel[0] * shape.kernel[1];
        let (clamp, after) = match self.activation {
            Activation::None => ((f32::NEG_INFINITY, f32::INFINITY), None),
            Activation::Relu => ((0.0, f32::INFINITY), None),
            Activation::Clip { lo, hi } => ((lo, hi), None),
            act => ((f32::NEG_INFINITY, f32::INFINITY), Some(act)),
        };
        // Twice as many blocks as threads, since a mask makes some blocks short.
        let block = shape.c_out.div_ceil(pool.threads().max(1) * 2);
        let tile = Tile::new(&mut y[..len], shape.c_out, size, size);
        tile.split(pool, (block, size), |from, _, mut tile| {
            for i in 0..tile.rows() {
                let o = from + i;
                if !known(&self.live_out, o) || live_out.is_some_and(|live| !live.contains(o)) {
                    continue;
                }
                let c = o / (shape.c_out / shape.c_in);
                let y = tile.row(i);
                if known(&self.live_in, c) && live_in.is_none_or(|live| live.contains(c)) {
                    let plane = Plane {
                        shape,
                        weights: &self.weights[o * taps..][..taps],
                        bias: self.bias[o],
                        clamp,
                        x: &x[c * area..][..area],
                        map: *map,
                        out: *out,
                    };
                    run_plane(self.isa, plane, y);
                    if let Some(act) = after {
                        pointwise::activate_in_place(self.isa, act, y);
                    }
                } else {
                    let mut value = [self.bias[o]];
                    pointwise::activate_in_place(self.isa, self.activation, &mut value);
                    y.fill(value[0]);
                }
            }
        });
        Ok(())
    }
}

/// A map of one column, convolved along the column only, is one row: vectors run along rows.
fn along_rows(
    shape: &ConvShape,
    map: (usize, usize),
    out: (usize, usize),
) -> (ConvShape, (usize, usize), (usize, usize)) {
    let [top, left, bottom, right] = shape.pads;
    if (map.1, out.1, shape.kernel[1], left) != (1, 1, 1, 0) {
        return (*shape, map, out);
    }
    let flip = |[a, b]: [usize; 2]| [b, a];
    let shape = ConvShape {
        kernel: flip(shape.kernel),
        stride: flip(shape.stride),
        dilation: flip(shape.dilation),
        pads: [left, top, right, bottom],
        ..*shape
    };
    (shape, (map.1, map.0), (out.1, out.0))
}
