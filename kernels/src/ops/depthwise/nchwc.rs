//! Maps in blocks of channels: the tiles of [`pixels`](super::pixels), on maps as they lie.
//!
//! ```text
//! for each block of channels                            a job has some
//!     for each area of outputs with the same taps on the map
//!         for each tile of Q rows of R columns of it
//!             R Q FMAs a tap: the weights in a register, the pixels from memory
//! ```
//! Padding beside the rows of a window that is held in registers is read from zeros, and no area of its own. Where a window reaches over much of
//! the map, each output would be an area: there maps are copied between zeros, and all outputs are one.
#![forbid(unsafe_code)]

mod areas;

use alloc::vec::Vec;

use super::pixels;
use super::{SLOWER, seen};
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::ops::conv_shape::{ConvShape, ConvSpec};
use crate::ops::nchwc::{self, held};
use crate::ops::span::{Border, Span};
use crate::ops::{check, pointwise};
use crate::pack::partial;
use crate::panel::{LINE, from_line, lines, take};
use crate::pool::{Pool, Serial, Tile, worth};
use crate::{Buffer, Channels, Error, Isa};

use areas::Area;

/// Elements of L1 (48 KiB) for the maps of blocks that are computed together: what a tile takes at its beginning is shared.
const NEAR: usize = 10 * 1024;
/// Cycles of a pixel that is copied near and far.
const COPY: [f64; 2] = [4.0, 6.0];
/// Rows and columns, at most.
const MOST: usize = 1 << 16;
/// Places that are listed, at most.
const TAPS: usize = 1 << 17;

/// A depthwise convolution of a map in [blocks](crate::ops::nchwc), ready to run.
#[derive(Debug)]
pub struct NchwcDepthwise {
    isa: Isa,
    shape: ConvShape,
    map: (usize, usize),
    out: (usize, usize),
    areas: Vec<Area>,
    /// If tiles read copies of maps, what is round them there.
    border: Option<Border>,
    /// `[⌈c / L⌉, kh, kw, L]`
    weights: Buffer,
    /// `[⌈c / L⌉, L]`
    bias: Buffer,
    activation: Activation,
}

impl NchwcDepthwise {
    /// Whether it computes a convolution of maps of `hw`: as many groups as inputs and as outputs, steps of 1 or 2 along rows, extents
    /// and windows that are not huge.
    pub fn serves(shape: &ConvShape, hw: (usize, usize)) -> bool {
        let Ok(out) = shape.output(hw) else {
            return false;
        };
        let depthwise = shape.groups == shape.c_in && shape.c_out == shape.c_in;
        let small = [hw.0, hw.1, out.0, out.1].into_iter().all(|n| n <= MOST);
        depthwise && shape.stride[1] <= 2 && small && Self::listed(shape) <= TAPS
    }

    /// Places that are listed for a window, at most: of the taps of all areas of outputs with the same taps on the map, twice.
    pub fn listed(shape: &ConvShape) -> usize {
        let [down, across] = shape.kernel.map(Span::taps);
        down.saturating_mul(across).saturating_mul(2)
    }

    /// Takes a convolution that it [serves](Self::serves), and maps of `hw`.
    ///
    /// # Errors
    /// As [`ConvSpec::check`] and [`ConvShape::output`]; [`Error::Invalid`] when it is another convolution, or has masks;
    /// [`Error::TooLarge`].
    pub fn pack(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        spec.check()?;
        let shape = &spec.shape;
        let out = shape.output(hw)?;
        if !Self::serves(shape, hw) {
            return Err(Error::Invalid {
                what: "in blocks, a depthwise convolution has one output a channel, steps of 1 or 2 along rows, and a small window",
            });
        }
        nchwc::refuse_masks(spec)?;
        let [from, to] = [hw, out].map(|(h, w)| h.saturating_mul(w));
        nchwc::elements(isa, shape.c_in, from.max(to))?;
        // Places are 32 bits wide.
        if from > u32::MAX as usize / isa.lanes() {
            return Err(Error::TooLarge { operand: "map" });
        }
        let (seen, hw, out) = seen(shape, hw, out);
        let [kh, kw] = seen.kernel;
        let mut areas = Area::all(&seen, hw, out, isa);
        let cycles = |areas: &[Area]| areas.iter().map(Area::cycles).sum::<f64>();
        let mut border = None;
        if areas.len() > 1 {
            let bordered = Border::new(&seen, hw, out);
            let room = bordered
                .map
                .0
                .saturating_mul(bordered.map.1)
                .saturating_mul(isa.lanes());
            let far = usize::from(room > NEAR);
            let inside = ConvShape {
                pads: [0; 4],
                ..seen
            };
            if room <= 8 * NEAR {
                let one = Area::all(&inside, bordered.map, out, isa);
                if cycles(&one) + from as f64 * COPY[far] < cycles(&areas) {
                    (areas, border) = (one, Some(bordered));
                }
            }
        }
        let lanes = isa.lanes();
        let mut weights = Buffer::zeros(nchwc::elements(isa, shape.c_in, kh * kw)?);
        for (c, plane) in spec.weights.chunks_exact(kh * kw).enumerate() {
            for (tap, &weight) in plane.iter().enumerate() {
                weights[(c / lanes * kh * kw + tap) * lanes + c % lanes] = weight;
            }
        }
        let mut bias = Buffer::zeros(nchwc::elements(isa, shape.c_in, 1)?);
        if let Some(all) = spec.bias {
            bias[..all.len()].copy_from_slice(all);
        }
        Ok(Self {
            isa,
            shape: seen,
            map: hw,
            out,
            areas,
            border,
            weights,
            bias,
            activation: spec.activation,
        })
    }

    /// Elements of scratch that [`NchwcDepthwise::run`] needs; `masked` for calls with a mask, too.
    pub fn scratch_len(&self, threads: usize, masked: bool) -> usize {
        let weights = if masked { self.gathered_len() } else { 0 };
        self.room() * threads.max(1) + weights + LINE
    }

    /// Elements of the weights and the bias of live channels.
    fn gathered_len(&self) -> usize {
        lines(self.weights.len()) + lines(self.bias.len())
    }

    fn taps(&self) -> usize {
        self.shape.kernel[0] * self.shape.kernel[1]
    }

    /// Elements that a job needs.
    fn room(&self) -> usize {
        match self.border {
            Some(border) => lines(self.together() * border.map.0 * border.map.1 * self.isa.lanes()),
            None => 0,
        }
    }

    /// Blocks that are computed together.
    fn together(&self) -> usize {
        let map = self.border.map_or(self.map, |border| border.map);
        let each = (map.0 * map.1 + self.out.0 * self.out.1) * self.isa.lanes();
        (NEAR / each).clamp(1, self.shape.c_in.div_ceil(self.isa.lanes()))
    }

    /// `y[c, i, j] = act(bias[c] + Σ_{k, l} w[c, k, l] · x[c, i s_h + k d_h - top, j s_w + l d_w - left])`
    ///
    /// # Shapes    `x` a map `[c, h, w]` and `y` a map `[c, oh, ow]` in blocks
    /// # Masks     with `live`, both are what [`nchwc`] says
    /// # Numerics  one chain an output: bias, then the taps in ascending (k, l), one mul_add each, those in the padding left
    ///   out or zero; then the activation
    /// # Errors    [`Error::TooShort`], [`Error::Mismatch`]; nothing is written then
    /// # Panics    never
    /// # Scratch   [`NchwcDepthwise::scratch_len`] elements, contents ignored
    /// # Source    the layout of oneDNN's depthwise kernels
    pub fn run(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        live: Option<Channels<'_>>,
        y: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let isa = self.isa;
        check::mask("length of the mask of a depthwise", live, self.shape.c_in)?;
        let channels = held(live, self.shape.c_in);
        let of = |(h, w): (usize, usize)| nchwc::elements(isa, channels, h * w);
        check::covers("input of a depthwise", &[of(self.map)?], x.len())?;
        let len = check::covers("output of a depthwise", &[of(self.out)?], y.len())?;
        let needed = self.scratch_len(1, live.is_some());
        check::covers("scratch of a depthwise", &[needed], scratch.len())?;
        let pool = worth(pool, len.saturating_mul(self.taps()).saturating_mul(SLOWER));
        let width = self.out.0 * self.out.1 * isa.lanes();
        let blocks = channels.div_ceil(isa.lanes());
        // No thread waits long for the last blocks.
        let threads = pool.threads().max(1);
        let each = blocks.div_ceil(if threads == 1 { 1 } else { threads * 2 });
        let mut rest = from_line(scratch);
        let weights = match partial(live) {
            Some(live) => self.gather(live, &mut rest)?,
            None => Weights {
                taps: &self.weights,
                bias: &self.bias,
            },
        };
        // Dead channels in their places are zeros, as their weights are, and so is what becomes of them, mostly.
        let bounds = self.activation.bounds();
        let stay = bounds.is_some_and(|(lo, hi)| lo <= 0.0 && hi >= 0.0);
        let zeros = nchwc::zeros(live).filter(|_| !stay);
        let tile = Tile::new(&mut y[..len], 1, len, len);
        tile.split_with(
            pool,
            (1, each * width),
            rest,
            self.room(),
            |_, first, mut tile, room| {
                isa.run(Blocks {
                    packed: self,
                    weights,
                    zeros,
                    x,
                    first: first / width,
                    out: tile.row(0),
                    room,
                });
            },
        );
        Ok(())
    }

    /// Those of the live channels: they lie as maps with this mask do, with a pixel a tap.
    fn gather<'a>(
        &self,
        live: Channels<'_>,
        rest: &mut &'a mut [f32],
    ) -> Result<Weights<'a>, Error> {
        let taps = take(rest, self.weights.len());
        let bias = take(rest, self.bias.len());
        nchwc::compact(self.isa, &Serial, &self.weights, self.taps(), live, taps)?;
        nchwc::compact(self.isa, &Serial, &self.bias, 1, live, bias)?;
        Ok(Weights { taps, bias })
    }
}

/// Of some channels: `[⌈c / L⌉, kh, kw, L]` and `[⌈c / L⌉, L]`.
#[derive(Clone, Copy)]
struct Weights<'a> {
    taps: &'a [f32],
    bias: &'a [f32],
}

/// Blocks of channels.
struct Blocks<'a> {
    packed: &'a NchwcDepthwise,
    weights: Weights<'a>,
    /// Channels that are not among these are zeros.
    zeros: Option<Channels<'a>>,
    x: &'a [f32],
    /// The first one.
    first: usize,
    out: &'a mut [f32],
    room: &'a mut [f32],
}

impl Task for Blocks<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let packed = self.packed;
        let [from, to] = [packed.map, packed.out].map(|(h, w)| h * w * S::LANES);
        self.room.fill(0.0);
        let mut x = &self.x[self.first * from..];
        let mut block = self.first;
        for out in self.out.chunks_mut(packed.together() * to) {
            let (mine, rest) = x.split_at(out.len() / to * from);
            let map = match packed.border {
                Some(border) => {
                    border.copy(mine, packed.map, self.room, S::LANES);
                    &*self.room
                }
                None => mine,
            };
            match packed.shape.stride[1] {
                1 => packed.blocks::<S, 1>(s, self.weights, map, block, out),
                _ => packed.blocks::<S, 2>(s, self.weights, map, block, out),
            }
            if packed.activation.bounds().is_none() {
                pointwise::apply(s, packed.activation, out);
            }
            if let Some(live) = self.zeros {
                nchwc::clear(s, to / S::LANES, live, block, out);
            }
            block += out.len() / to;
            x = rest;
        }
    }
}

impl NchwcDepthwise {
    /// The window of a span of columns, if all of its taps are on the map, side by side: its columns, and from row to row of it. One of a
    /// single row may be several rows as well, one behind the other.
    fn window(&self, columns: &Span, line: usize) -> Option<(usize, usize)> {
        let ([kh, kw], [dh, dw]) = (self.shape.kernel, self.shape.dilation);
        let part = [7, 5, 3].into_iter().find(|part| kw.is_multiple_of(*part));
        match part {
            _ if columns.taps.len() < kw || dw != 1 => None,
            Some(part) if kh == 1 => Some((part, part * self.isa.lanes())),
            _ => Some((kw, dh * line)),
        }
    }

    /// Blocks from `first` on, with stride T along a row.
    #[inline(always)]
    fn blocks<S: F32s, const T: usize>(
        &self,
        s: S,
        weights: Weights<'_>,
        x: &[f32],
        first: usize,
        out: &mut [f32],
    ) {
        let (h, w) = self.border.map_or(self.map, |border| border.map);
        let (ow, [stride, _]) = (self.out.1, self.shape.stride);
        let apart = [h * w, self.out.0 * ow].map(|pixels| pixels * S::LANES);
        let count = out.len() / apart[1];
        let each = self.taps() * S::LANES;
        let bounds = self.activation.bounds();
        let (lo, hi) = bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        for area in &self.areas {
            let (rows, columns, (r, q)) = (&area.rows, &area.columns, area.tile);
            let at = (rows.at * w + columns.at) * S::LANES;
            let first_out = (rows.outputs.start * ow + columns.outputs.start) * S::LANES;
            let tile = pixels::Tile {
                taps: [area.taps[0].all(), area.taps[1].all()],
                window: self.window(columns, w * S::LANES),
                rows: rows.outputs.len(),
                sides: area.sides,
                weights: &weights.taps[first * each..][..count * each],
                bias: &weights.bias[first * S::LANES..],
                map: &x[at.min(x.len())..],
                out: &mut out[first_out..],
                below: [stride * w * S::LANES, ow * S::LANES],
                blocks: count,
                apart,
                clamp: (s.splat(lo), s.splat(hi)),
            };
            tile.columns::<S, T>(s, q, columns.outputs.len(), r);
        }
    }
}
