//! Convolution of one sample.
#![forbid(unsafe_code)]

mod block;
mod planes;

use alloc::vec::Vec;

use crate::epilogue::Activation;
use crate::ops::{ConvShape, ConvSpec};
use crate::pack::{self, check_len, check_mask, extent};
use crate::panel::{Aligned, from_line, lines, take, take_indices};
use crate::pool::{Pool, Tile};
use crate::tile::gemm;
use crate::tile::gemm::NV;
use crate::{Channels, Error, Isa};

use block::Strip;
use planes::Geometry;

/// `y[co, oh, ow] = act(Σ_{ci ∈ live} Σ_{kh, kw} W[co, ci, kh, kw] · x[ci, oh·sh + kh·dh - top, ow·sw + kw·dw - left] + bias[co])`
///
/// # Shapes
/// x `[c_in, h, w]`, y `[c_out, oh, ow]`, contiguous planes of one sample; weights fixed at [`Conv::pack`].
/// # Masks
/// Planes of dead inputs are never read. Planes of dead outputs are neither computed nor written; without a mask all are written,
/// except those that the static mask dropped. With a static mask the intersection counts.
/// # Numerics
/// One chain an element: from the bias (or 0) upwards in (ci, kh, kw), one `mul_add` a term of a live channel, taps on the padding
/// included; then the activation. The bits depend neither on threads nor on how a channel died.
/// # Errors
/// [`Error::TooShort`], [`Error::Mismatch`], [`Error::Invalid`], [`Error::TooLarge`], each naming the operand.
/// # Panics
/// Never.
/// # Scratch
/// [`Conv::scratch_len`] elements, contents ignored.
/// # Source
/// The product without im2col is the shifted-plane form of Vasudevan, Anderson and Gregg (kn2row, 2017), with the sum over taps
/// inside the micro-kernel; strides by the polyphase split of signal processing.
///
/// ```text
/// packed weights: row panels [c_out / MR][c_in · kh · kw][MR], so that a dead input channel is a contiguous stretch nobody touches
/// input planes:   as they are when the window is 1 x 1, else copied with their border, one plane a stride phase; an output pixel
///                 (oh, ow) is column oh · pitch + ow for every tap, so each tap is one offset and pixels are contiguous
/// ```
#[derive(Debug)]
pub struct Conv {
    isa: Isa,
    shape: ConvShape,
    groups: Vec<Group>,
    panels: Aligned,
    // Of the kept output channels, in order.
    bias: Option<Vec<f32>>,
    activation: Activation,
}

/// The packed weights of one group.
#[derive(Debug)]
struct Group {
    /// Kept channels, by their number in the whole convolution.
    c_in: Vec<u32>,
    c_out: Vec<u32>,
    /// Where its panels begin, and their height.
    panels: usize,
    height: usize,
    /// Where its bias begins.
    bias: usize,
}

impl Conv {
    /// Packs the weights for `isa`.
    ///
    /// # Errors
    /// When an operand does not fit the shape.
    pub fn pack(isa: Isa, spec: &ConvSpec<'_>) -> Result<Self, Error> {
        let shape = spec.shape;
        spec.check()?;
        let taps = taps(&shape);
        let (ci_each, co_each) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
        let c_in = pack::kept(spec.live_in, shape.c_in, "length of the input mask")?;
        let c_out = pack::kept(spec.live_out, shape.c_out, "length of the output mask")?;

        let tallest = gemm::select_conv(isa).mr;
        let part = |list: &[u32], g: usize, each: usize| -> Vec<u32> {
            let inside = |&&c: &&u32| c as usize / each == g;
            list.iter().filter(inside).copied().collect()
        };
        let (mut groups, mut len, mut rows) = (Vec::new(), 0, 0);
        for g in 0..shape.groups {
            let (c_in, c_out) = (part(&c_in, g, ci_each), part(&c_out, g, co_each));
            let height = pack::even_height(c_out.len(), tallest);
            let depth = c_in.len() * taps;
            let group = Group {
                panels: len,
                height,
                bias: rows,
                c_in,
                c_out,
            };
            rows += group.c_out.len();
            len += extent(
                &[group.c_out.len().next_multiple_of(height), depth],
                "weights",
            )?;
            groups.push(group);
        }
        let mut panels = Aligned::zeros(extent(&[len], "packed weights")?);
        for (g, group) in groups.iter().enumerate() {
            let (rows, depth) = (group.c_out.len(), group.c_in.len() * taps);
            let out = &mut panels.as_mut_slice()[group.panels..];
            pack::row_panels(out, group.height, (rows, depth), |i, t| {
                let ci = group.c_in[t / taps] as usize - g * ci_each;
                let row = group.c_out[i] as usize * ci_each + ci;
                spec.weights[row * taps + t % taps]
            });
        }
        let bias = spec
            .bias
            .map(|bias| c_out.iter().map(|&c| bias[c as usize]).collect());
        Ok(Self {
            isa,
            shape,
            groups,
            panels,
            bias,
            activation: spec.activation,
        })
    }

    /// What was packed.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Multiplications and additions of a run, taps on the padding included.
    pub fn macs(&self, h: usize, w: usize, live_in: usize, live_out: usize) -> u64 {
        let (oh, ow) = self.shape.output((h, w)).unwrap_or((0, 0));
        let terms = (live_in as u64).saturating_mul(taps(&self.shape) as u64);
        [oh, ow, live_out]
            .iter()
            .fold(terms / self.shape.groups as u64, |n, &x| {
                n.saturating_mul(x as u64)
            })
    }

    /// The kernel that serves it.
    pub fn row_name(&self) -> &'static str {
        gemm::select_conv(self.isa).name
    }

    /// Elements of scratch that [`Conv::run`] needs.
    pub fn scratch_len(&self, h: usize, w: usize, threads: usize) -> usize {
        let Ok(geometry) = Geometry::new(&self.shape, h, w, self.isa.lanes()) else {
            return 0;
        };
        let most = |of: fn(&Group) -> usize| self.groups.iter().map(of).max().unwrap_or(0);
        let (c_in, c_out) = (most(|g| g.c_in.len()), most(|g| g.c_out.len()));
        let lists = 2 * lines(c_in * taps(&self.shape)) + lines(c_in) + 2 * lines(c_out);
        let planes = geometry.planes_len(c_in).saturating_mul(threads.max(1));
        lists
            .saturating_add(lines(geometry.table_len()))
            .saturating_add(planes)
            .saturating_add(64)
    }

    /// Computes y.
    ///
    /// # Errors
    /// When an operand does not fit; nothing is written then.
    pub fn run(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        (h, w): (usize, usize),
        live_in: Option<Channels<'_>>,
        live_out: Option<Channels<'_>>,
        y: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let geometry = Geometry::new(&self.shape, h, w, self.isa.lanes())?;
        let pixels = geometry.pixels();
        check_len(x.len(), extent(&[self.shape.c_in, h, w], "x")?, "x")?;
        check_len(y.len(), extent(&[self.shape.c_out, pixels], "y")?, "y")?;
        check_mask(live_in, self.shape.c_in, "length of the input mask")?;
        check_mask(live_out, self.shape.c_out, "length of the output mask")?;
        check_len(scratch.len(), self.scratch_len(h, w, 1), "scratch")?;
        if pixels == 0 {
            return Ok(());
        }

        let mut rest = from_line(scratch);
        let sieve = geometry.table(take(&mut rest, geometry.table_len()));
        let taps = taps(&self.shape);
        let co_each = self.shape.c_out / self.shape.groups;
        let mut y = Tile::new(y, self.shape.c_out, pixels, pixels);
        for (g, group) in self.groups.iter().enumerate() {
            let mut rest = &mut *rest;
            let live = |mask: Option<Channels<'_>>, c: u32| {
                mask.is_none_or(|mask| mask.contains(c as usize))
            };
            let list = take_indices(&mut rest, group.c_in.len() * taps);
            let offsets = take_indices(&mut rest, group.c_in.len() * taps);
            let channels = take_indices(&mut rest, group.c_in.len());
            let (mut depth, mut slots) = (0, 0);
            for (i, &c) in group.c_in.iter().enumerate() {
                if live(live_in, c) {
                    channels[slots] = c;
                    for tap in 0..taps {
                        list[depth] = (i * taps + tap) as u32;
                        depth += 1;
                    }
                    slots += 1;
                }
            }
            let (list, channels) = (&list[..depth], &channels[..slots]);
            geometry.offsets(channels, &mut offsets[..depth]);
            let from = take_indices(&mut rest, group.c_out.len());
            let to = take_indices(&mut rest, group.c_out.len());
            let mut rows = 0;
            for (i, &c) in group.c_out.iter().enumerate() {
                if live(live_out, c) {
                    (from[rows], to[rows]) = (i as u32, c - (g * co_each) as u32);
                    rows += 1;
                }
            }
            if rows == 0 {
                continue;
            }
            let packed_depth = group.c_in.len() * taps;
            let strip = Strip {
                panels: &self.panels.as_slice()[group.panels..],
                height: group.height,
                packed_depth,
                list,
                offsets: &offsets[..depth],
                x,
                channels,
                geometry: &geometry,
                sieve,
                from: &from[..rows],
                to: &to[..rows],
                bias: self.bias.as_ref().map(|bias| &bias[group.bias..]),
                activation: self.activation,
            };
            let out = y.sub(g * co_each..(g + 1) * co_each, 0..pixels);
            strip.run(self.isa, pool, out, rest);
        }
        Ok(())
    }
}

/// Places of the window.
fn taps(shape: &ConvShape) -> usize {
    shape.kernel[0] * shape.kernel[1]
}

/// Output pixels of the ordinary tile.
const fn tile_pixels(lanes: usize) -> usize {
    NV * lanes
}
