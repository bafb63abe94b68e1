//! Depthwise convolution: every output channel reads one input channel.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::check;
use super::conv_shape::{ConvShape, ConvSpec};
use super::pointwise;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::pack::partial;
use crate::panel::{LINE, from_line};
use crate::pool::{Pool, Tile, worth};
use crate::{Channels, Error, Isa};

mod lanes;
mod line;
mod nchwc;
mod pixels;
mod planar;
mod rows;
mod stack;
mod strip;
mod sweep;

use lanes::Layout;
pub use nchwc::NchwcDepthwise;
use planar::Planar;

/// Floats of a level-two cache of 1 MiB. Below it, fetching ahead costs more than it brings (Zen 5: 8 % of 3 x 3; above it brings 15 to 20 %).
const LARGE: usize = 1 << 18;

/// Time of a multiplication against one of a product.
const SLOWER: usize = 4;

/// A depthwise convolution, ready to run: weights, bias, activation and the masks that were known at load.
#[derive(Debug, Clone)]
pub struct Depthwise {
    isa: Isa,
    shape: ConvShape,
    /// `[c_out, kh, kw]`
    weights: Vec<f32>,
    /// `[c_out]`
    bias: Vec<f32>,
    /// `[c_out]`: the activation of the bias, what a dead input leaves.
    idle: Vec<f32>,
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
    /// The shape, map and output as the kernels see them: [`seen`].
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

    /// The input channel of an output channel.
    fn input_of(&self, o: usize) -> usize {
        let shape = &self.shape;
        // A division for each plane would show.
        if shape.c_out == shape.c_in {
            o
        } else {
            o / (shape.c_out / shape.c_in)
        }
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
        for i in 0..self.tile.rows() {
            let o = self.from + i;
            if call.wanted(o) {
                f(call, o, call.input_of(o), self.tile.row(i));
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

/// What is left to do when the sums are complete: the planes of dead inputs, and an activation that has no bounds.
struct Rest<'j, 'a, 't>(&'j mut Job<'a, 't>, Option<Activation>);

impl Task for Rest<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let Rest(job, after) = self;
        job.each_wanted(
            #[inline(always)]
            |call, o, c, y| {
                if !call.given(c) {
                    y.fill(call.packed.idle[o]);
                } else if let Some(act) = after {
                    pointwise::apply(s, act, y);
                }
            },
        );
    }
}

/// Planes in groups; returns how many channels are done.
struct Groups<'j, 'a, 't>(&'j mut Job<'a, 't>, &'j Layout, &'j mut [f32]);

impl Task for Groups<'_, '_, '_> {
    type Output = usize;
    #[inline(always)]
    fn run<S: F32s>(self, s: S) -> usize {
        lanes::planes(s, self.0, self.1, self.2)
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
        let bias = spec
            .bias
            .map_or_else(|| alloc::vec![0.0; shape.c_out], <[f32]>::to_vec);
        let mut idle = bias.clone();
        pointwise::activate_in_place(isa, spec.activation, &mut idle);
        Ok(Self {
            isa,
            shape,
            weights: spec.weights.to_vec(),
            bias,
            idle,
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

    /// Elements of scratch that [`Depthwise::run`] needs for a map of `h` x `w`.
    pub fn scratch_len(&self, map: (usize, usize), threads: usize) -> usize {
        let Ok(out) = self.output(map) else {
            return 0;
        };
        let (shape, map, out) = seen(&self.shape, map, out);
        let planar = Planar::of(self.isa, &shape, map, out);
        match Layout::of(self.isa, &shape, map, out, planar) {
            Some(layout) => room(layout, self.isa, threads),
            None => 0,
        }
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
    /// # Scratch   [`Depthwise::scratch_len`] elements, contents ignored; 32 KiB of stack when the kernel is not 3x3, 5x5, 7x7 or 1xk with
    ///   stride 1 or 2
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
        scratch: &mut [f32],
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
        let bounds = self.activation.bounds();
        let after = bounds.is_none().then_some(self.activation);
        let clamp = bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (along, map, out) = seen(shape, map, out);
        let call = Call {
            packed: self,
            shape: along,
            map,
            out,
            clamp,
            large: x.len().saturating_add(len) > LARGE,
            x,
            live_in: partial(live_in),
            live_out: partial(live_out),
        };
        let planar = Planar::of(self.isa, &call.shape, map, out);
        let layout = Layout::of(self.isa, &call.shape, map, out, planar);
        let each = layout.map_or(0, |layout| layout.room(self.isa));
        let least = layout.map_or(0, |layout| room(layout, self.isa, 1));
        check::covers("scratch of a depthwise", &[least], scratch.len())?;
        let taps = shape.kernel[0] * shape.kernel[1];
        let pool = worth(pool, len.saturating_mul(taps).saturating_mul(SLOWER));
        // Twice as many blocks as threads, since a mask makes some blocks short; for one thread a block is all.
        let threads = pool.threads().max(1);
        let blocks = if threads == 1 { 1 } else { threads * 2 };
        let group = layout.map_or(1, |_| self.isa.lanes());
        let rows = shape.c_out.div_ceil(blocks).next_multiple_of(group);
        let tile = Tile::new(&mut y[..len], shape.c_out, size, size);
        let scratch = from_line(scratch);
        tile.split_with(
            pool,
            (rows, size),
            scratch,
            each,
            |from, _, tile, scratch| {
                let call = &call;
                let mut job = Job { call, from, tile };
                let done =
                    layout.map_or(0, |layout| self.isa.run(Groups(&mut job, &layout, scratch)));
                let rows = job.tile.rows();
                if done < rows {
                    planar.run(
                        self.isa,
                        &mut Job {
                            call,
                            from: from + done,
                            tile: job.tile.sub(done..rows, 0..size),
                        },
                    );
                }
                if after.is_some() || self.live_in.is_some() || call.live_in.is_some() {
                    self.isa.run(Rest(&mut job, after));
                }
            },
        );
        Ok(())
    }
}

/// Elements of scratch for groups on `threads`.
fn room(layout: Layout, isa: Isa, threads: usize) -> usize {
    layout.room(isa) * threads.max(1) + LINE
}

/// A shape, map and output as the kernels see them.
fn seen(
    shape: &ConvShape,
    map: (usize, usize),
    out: (usize, usize),
) -> (ConvShape, (usize, usize), (usize, usize)) {
    let (along, map, out) = along_rows(shape, map, out);
    (without_idle_steps(along, out), map, out)
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
