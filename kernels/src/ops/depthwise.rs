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

mod line;
mod rows;
mod stack;
mod strip;
mod sweep;

/// Floats of a level-two cache of 1 MiB. Below it, fetching ahead costs more than it brings (Zen 5: 8 % of 3 x 3; above it brings 15 to 20 %).
const LARGE: usize = 1 << 18;

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
    /// Whether it pays to fetch rows ahead.
    large: bool,
    map: (usize, usize),
    out: (usize, usize),
}

impl Plane<'_> {
    /// The weights of a K x K kernel, each in all lanes.
    #[inline(always)]
    fn weights<S: F32s, const K: usize>(self, s: S) -> [[S::V; K]; K] {
        let mut weights = [[s.splat(0.0); K]; K];
        let from = &self.weights[..K * K];
        // By index: filled by an iterator they would go through the stack.
        for k in 0..K {
            for l in 0..K {
                weights[k][l] = s.splat(from[k * K + l]);
            }
        }
        weights
    }
}

/// What a call computes with.
struct Call<'a> {
    packed: &'a Depthwise,
    /// The shape, map and output as the kernels see them: [`along_rows`].
    shape: ConvShape,
    map: (usize, usize),
    out: (usize, usize),
    clamp: (f32, f32),
    /// Whether input and output are more than a level-two cache holds.
    large: bool,
    x: &'a [f32],
    live_in: Option<Channels<'a>>,
    live_out: Option<Channels<'a>>,
}

/// The planes of a call that one job computes: those of `tile`, from output channel `from` on.
struct Job<'a, 't> {
    call: &'a Call<'a>,
    from: usize,
    tile: Tile<'t>,
}

impl Call<'_> {
    fn wanted(&self, o: usize) -> bool {
        known(&self.packed.live_out, o) && self.live_out.is_none_or(|live| live.contains(o))
    }

    fn given(&self, c: usize) -> bool {
        known(&self.packed.live_in, c) && self.live_in.is_none_or(|live| live.contains(c))
    }
}

fn known(words: &Option<Vec<u64>>, c: usize) -> bool {
    words
        .as_ref()
        .is_none_or(|words| words[c / 64] >> (c % 64) & 1 == 1)
}

impl Job<'_, '_> {
    /// Calls `f` for each wanted output channel with its input channel and plane of the output.
    #[inline(always)]
    fn each_wanted(&mut self, mut f: impl FnMut(&Call<'_>, usize, usize, &mut [f32])) {
        let call = self.call;
        let multiple = call.shape.c_out / call.shape.c_in;
        for i in 0..self.tile.rows() {
            let o = self.from + i;
            if call.wanted(o) {
                let c = if multiple == 1 { o } else { o / multiple };
                f(call, o, c, self.tile.row(i));
            }
        }
    }

    /// Calls `f` for each wanted plane whose input is live.
    #[inline(always)]
    fn each_plane(&mut self, mut f: impl FnMut(Plane<'_>, &mut [f32])) {
        let area = self.call.map.0 * self.call.map.1;
        let taps = self.call.shape.kernel[0] * self.call.shape.kernel[1];
        self.each_wanted(
            #[inline(always)]
            |call, o, c, y| {
                if call.given(c) {
                    let plane = Plane {
                        shape: &call.shape,
                        weights: &call.packed.weights[o * taps..][..taps],
                        bias: call.packed.bias[o],
                        clamp: call.clamp,
                        x: &call.x[c * area..][..area],
                        large: call.large,
                        map: call.map,
                        out: call.out,
                    };
                    f(plane, y);
                }
            },
        );
    }
}

/// Planes by the kernel for 1 x K.
struct Line<'j, 'a, 't>(&'j mut Job<'a, 't>);

impl Task for Line<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        line::planes(s, self.0);
    }
}

/// Planes by the kernel for K x K where a vector holds N rows of the map.
struct Same<'j, 'a, 't, const K: usize, const N: usize>(&'j mut Job<'a, 't>);

impl<const K: usize, const N: usize> Task for Same<'_, '_, '_, K, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        if S::LANES >= WIDE || K == 3 {
            stack::same::<S, K, N>(s, self.0);
        }
    }
}

/// The same for stride 2, M rows of the map in a vector and between.
struct Halved<'j, 'a, 't, const K: usize, const M: usize>(&'j mut Job<'a, 't>);

impl<const K: usize, const M: usize> Task for Halved<'_, '_, '_, K, M> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        if S::LANES >= 16 || K == 3 || (S::LANES >= WIDE && K == 5) {
            stack::halved::<S, K, M>(s, self.0);
        }
    }
}

/// Planes by the kernel for K x K over rows of vectors, stride T, dilation D.
struct OverRows<'j, 'a, 't, const K: usize, const T: usize, const D: usize>(&'j mut Job<'a, 't>);

impl<const K: usize, const T: usize, const D: usize> Task for OverRows<'_, '_, '_, K, T, D> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        if S::LANES >= WIDE || K == 3 {
            rows::planes::<S, K, T, D>(s, self.0);
        }
    }
}

/// Planes by the kernel for everything.
struct Strip<'j, 'a, 't>(&'j mut Job<'a, 't>);

impl Task for Strip<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        strip::planes(s, self.0);
    }
}

fn run_stacked(isa: Isa, n: usize, job: &mut Job<'_, '_>) {
    let shape = &job.call.shape;
    match (shape.kernel[0], shape.stride[0], n) {
        (3, 1, 1) => isa.run(Same::<3, 1>(job)),
        (3, 1, 2) => isa.run(Same::<3, 2>(job)),
        (3, 1, _) => isa.run(Same::<3, 3>(job)),
        (5, 1, 1) => isa.run(Same::<5, 1>(job)),
        (5, 1, 2) => isa.run(Same::<5, 2>(job)),
        (5, 1, _) => isa.run(Same::<5, 3>(job)),
        (_, 1, 1) => isa.run(Same::<7, 1>(job)),
        (_, 1, 2) => isa.run(Same::<7, 2>(job)),
        (_, 1, _) => isa.run(Same::<7, 3>(job)),
        (3, _, 1) => isa.run(Halved::<3, 2>(job)),
        (3, _, _) => isa.run(Halved::<3, 4>(job)),
        (5, _, 1) => isa.run(Halved::<5, 2>(job)),
        (5, _, _) => isa.run(Halved::<5, 4>(job)),
        (_, _, 1) => isa.run(Halved::<7, 2>(job)),
        (_, _, _) => isa.run(Halved::<7, 4>(job)),
    }
}

/// Lanes from which on kernels above 3 x 3 have loops of their own: a third of the code of this module, for sets of which none is the best of
/// its machine.
const WIDE: usize = 8;

/// Every kernel is a task of its own: together they would share one frame, with the strip on it.
fn run_job(isa: Isa, job: &mut Job<'_, '_>) {
    let call = job.call;
    if line::serves(isa, call) {
        return isa.run(Line(job));
    }
    let shape = &call.shape;
    // Small enough that no index overflows.
    let ((h, w), [top, left, ..], pitch) = (call.map, shape.pads, shape.dilation[0]);
    let small = [h, w, top, left, pitch].into_iter().all(|n| n < 1 << 20);
    if !small || w == 0 || (shape.kernel[0] > 3 && isa.lanes() < WIDE) {
        return isa.run(Strip(job));
    }
    match stack::rows(isa, call) {
        0 => {}
        n => return run_stacked(isa, n, job),
    }
    match (shape.kernel, shape.stride, shape.dilation) {
        ([3, 3], [1, 1], [1, 1]) => isa.run(OverRows::<3, 1, 1>(job)),
        ([3, 3], [1, 1], [_, 2]) => isa.run(OverRows::<3, 1, 2>(job)),
        ([3, 3], [2, 2], [1, 1]) => isa.run(OverRows::<3, 2, 1>(job)),
        ([5, 5], [1, 1], [1, 1]) => isa.run(OverRows::<5, 1, 1>(job)),
        ([5, 5], [1, 1], [_, 2]) => isa.run(OverRows::<5, 1, 2>(job)),
        ([5, 5], [2, 2], [1, 1]) => isa.run(OverRows::<5, 2, 1>(job)),
        ([7, 7], [1, 1], [1, 1]) => isa.run(OverRows::<7, 1, 1>(job)),
        ([7, 7], [2, 2], [1, 1]) => isa.run(OverRows::<7, 2, 1>(job)),
        _ => isa.run(Strip(job)),
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

    /// `y[o, i, j] = act(bias[o] + Σ_{k, l} w[o, k, l] · x[o / m, i s_h + k d_h - top, j s_w + l d_w - left])`
    ///
    /// # Shapes    `x` `[c_in, h, w]`; `y` `[c_out, oh, ow]` with (oh, ow) from [`Depthwise::output`]
    /// # Masks     dead input channels are never read: their outputs are act(bias); dead outputs are neither computed nor written
    /// # Numerics  one chain an output: bias, then the taps in ascending (k, l), one mul_add each, those in the padding left out
    ///   or zero; then the activation
    /// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`] for a mask, [`Error::Invalid`] when the kernel does not
    ///   fit the padded map
    /// # Panics    never
    /// # Scratch   none: 32 KiB of stack when the kernel is not 3x3, 5x5, 7x7 or 1xk with stride 1 or 2
    /// # Source    sums that stay in registers while the rows of the map pass: P. Zhang et al., High Performance Depthwise and Pointwise
    ///   Convolutions on Mobile Devices, AAAI 2020
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
        let size = out.0 * out.1;
        check::mask("channels of a depthwise's input mask", live_in, shape.c_in)?;
        check::mask(
            "channels of a depthwise's output mask",
            live_out,
            shape.c_out,
        )?;
        let (clamp, after) = match self.activation {
            Activation::None => ((f32::NEG_INFINITY, f32::INFINITY), None),
            Activation::Relu => ((0.0, f32::INFINITY), None),
            Activation::Clip { lo, hi } => ((lo, hi), None),
            act => ((f32::NEG_INFINITY, f32::INFINITY), Some(act)),
        };
        let (along, map, out) = along_rows(shape, map, out);
        let along = without_idle_steps(along, out);
        let call = Call {
            packed: self,
            shape: along,
            map,
            out,
            clamp,
            large: x.len().saturating_add(len) > LARGE,
            x,
            live_in,
            live_out,
        };
        // Twice as many blocks as threads, since a mask makes some blocks short; for one thread a block is all.
        let threads = pool.threads().max(1);
        let blocks = if threads == 1 { 1 } else { threads * 2 };
        let tile = Tile::new(&mut y[..len], shape.c_out, size, size);
        let block = (shape.c_out.div_ceil(blocks), size);
        tile.split(pool, block, |from, _, tile| {
            let call = &call;
            let mut job = Job { call, from, tile };
            run_job(self.isa, &mut job);
            if after.is_none() && self.live_in.is_none() && live_in.is_none() {
                return;
            }
            job.each_wanted(|call, o, c, y| {
                if !call.given(c) {
                    let mut value = [self.bias[o]];
                    pointwise::activate_in_place(self.isa, self.activation, &mut value);
                    y.fill(value[0]);
                } else if let Some(act) = after {
                    pointwise::activate_in_place(self.isa, act, y);
                }
            });
        });
        Ok(())
    }
}

/// A stride that no second output takes, and a dilation that no second tap takes, as 1: they may be as large as an address.
fn without_idle_steps(mut shape: ConvShape, out: (usize, usize)) -> ConvShape {
    for (axis, outputs) in [out.0, out.1].into_iter().enumerate() {
        if outputs <= 1 {
            shape.stride[axis] = 1;
        }
        if shape.kernel[axis] == 1 {
            shape.dilation[axis] = 1;
        }
    }
    shape
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
