//! Convolution of one sample.
#![forbid(unsafe_code)]

mod block;
mod lanes;
mod nchwc;
mod part;
mod planes;
mod winograd;

use alloc::vec::Vec;

use crate::buffer::Buffer;
use crate::epilogue::Activation;
use crate::isa::WIDEST;
use crate::ops::{ConvShape, ConvSpec};
use crate::pack::{self, check_len, check_mask, extent, partial};
use crate::panel::{from_line, lines, take_indices};
use crate::pool::{Pool, Tile};
use crate::tile::gemm;
use crate::tile::gemm::Sieved;
use crate::{Channels, Error, Isa};

pub use nchwc::NchwcConv;

use block::Strip;
use planes::Geometry;
use winograd::Winograd;

/// `y[co, oh, ow] = act(Σ_{ci ∈ live} Σ_{kh, kw} W[co, ci, kh, kw] · x[ci, oh·sh + kh·dh - top, ow·sw + kw·dw - left] + bias[co])`
///
/// # Shapes
/// x `[c_in, h, w]`, y `[c_out, oh, ow]`, contiguous planes of one sample; weights and map size fixed at [`Conv::pack`].
/// # Masks
/// Planes of dead inputs are never read. Planes of dead outputs are neither computed nor written; without a mask all are written,
/// except those that the static mask dropped. With a static mask the intersection counts.
/// # Numerics
/// One chain an element: from the bias (or 0) upwards in (kh, kw, ci), one `mul_add` a term of a live channel, taps on the padding
/// included; then the activation. The bits depend neither on threads nor on how a channel died.
///
/// By Winograd's filtering ([`Algorithm`](crate::ops::Algorithm)) the chains run over the points of a tile: transforms, one chain over
/// the live channels a point, transforms, and then the bias. The same holds of the bits, but they are others, and an infinity or NaN
/// reaches all outputs of its tile. With [`Adaptive`](crate::ops::Algorithm::Adaptive) the number of live inputs says which it is. The
/// error of an output is at most `g (c_in + 24) 2^-24 Σ_ci |w_ci|₁ max |x_ci|`, the greatest input of the tile
/// and its border, with g = 16 (tiles of 2 x 2) or 176 (4 x 4). Measured on random operands of 64 channels, relative to `Σ |w| |x|` of the
/// output itself, the worst is 1e-7 and 7e-7, against 2e-7 of the direct algorithm.
/// # Errors
/// [`Error::TooShort`], [`Error::Mismatch`], [`Error::Invalid`], [`Error::TooLarge`], each naming the operand.
/// # Panics
/// Never.
/// # Scratch
/// [`Conv::scratch_len`] elements, contents ignored.
/// # Source
/// The product without im2col is the shifted-plane form of Vasudevan, Anderson and Gregg (kn2row, 2017), with the sum over taps
/// inside the micro-kernel; strides by the polyphase split of signal processing. Winograd's filtering for convolutions: Lavin and Gray,
/// "Fast Algorithms for Convolutional Neural Networks", 2016.
///
/// ```text
/// packed weights: panels [c_out / MR][c_in · kh · kw][MR], so that a dead input channel is a contiguous stretch nobody touches; a tile
///                 is MR channels x NR pixels, or, where that wastes fewer lanes, MR pixels x NR channels with panels of NR
/// input planes:   as they are when the window is 1 x 1, else copied with their border, one plane a stride phase; an output pixel
///                 (oh, ow) is column oh · pitch + ow for every tap, so each tap is one offset and pixels are contiguous
/// ```
#[derive(Debug)]
pub struct Conv {
    isa: Isa,
    shape: ConvShape,
    geometry: Geometry,
    sieve: Vec<Sieved>,
    groups: Vec<Group>,
    panels: Buffer,
    /// In the place of groups and panels, or beside them, when it is computed so.
    winograd: Option<Winograd>,
    /// But not with so many live inputs, or less.
    few: usize,
    // Of the kept output channels, in order.
    bias: Option<Vec<f32>>,
    activation: Activation,
    /// 0, 1, 2 ...: the rows of a group without a mask.
    in_order: Vec<u32>,
}

/// The packed weights of one group.
#[derive(Debug)]
struct Group {
    /// Kept input channels, by their number in the whole convolution.
    channels: Vec<u32>,
    /// Where the inputs of each term are: of each tap of each channel in place, or of each tap of each copy.
    offsets: Vec<u32>,
    /// Kept output channels, by their number in the group.
    rows: Vec<u32>,
    /// Where its panels begin, and their height.
    panels: usize,
    height: usize,
    /// Where each term begins in a panel.
    starts: Vec<u32>,
    /// Where its bias begins.
    bias: usize,
    /// Whether its panels are as high as a tile of vectors is wide: output channels are the lanes.
    lanes: bool,
}

/// The terms of a group that are live in a call.
#[derive(Clone, Copy)]
struct LiveTerms<'a> {
    /// Where their inputs are.
    offsets: &'a [u32],
    /// Where they begin in a panel.
    starts: &'a [u32],
    /// The live input channels.
    channels: &'a [u32],
}

/// The output channels of a group that are live in a call.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// Their packed rows, ascending.
    from: &'a [u32],
    /// Their numbers in the group, ascending.
    to: &'a [u32],
}

impl Conv {
    /// Packs the weights for `isa` and maps of `hw`.
    ///
    /// # Errors
    /// When an operand does not fit the shape, or the kernel does not fit the map.
    pub fn pack(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        let shape = spec.shape;
        spec.check()?;
        let geometry = Geometry::new(&shape, hw, isa.lanes())?;
        let taps = taps(&shape);
        let (ci_each, co_each) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
        let c_in = pack::kept(spec.live_in, shape.c_in, "length of the input mask")?;
        let c_out = pack::kept(spec.live_out, shape.c_out, "length of the output mask")?;
        let (mut winograd, mut few) = (None, 0);
        if let Some(choice) = winograd::choose(isa, spec, hw)?
            && (choice.few == 0 || c_in.len() > choice.few)
        {
            let winograd::Choice { form, sizes, .. } = choice;
            few = choice.few;
            winograd = Some(Winograd::pack(
                isa,
                form,
                sizes,
                spec,
                (c_in.clone(), c_out.clone()),
            )?);
        }
        let direct = match winograd.is_none() || few > 0 {
            true => shape.groups,
            false => 0,
        };

        let part = |list: &[u32], g: usize, each: usize| -> Vec<u32> {
            let before = |c: usize| list.partition_point(|&x| (x as usize) < c);
            list[before(g * each)..before((g + 1) * each)].to_vec()
        };
        let (mut groups, mut len, mut bias) = (Vec::new(), 0, 0);
        for g in 0..direct {
            let channels = part(&c_in, g, ci_each);
            let mut rows = part(&c_out, g, co_each);
            rows.iter_mut().for_each(|c| *c -= (g * co_each) as u32);
            let depth = channels.len() * taps;
            let lanes = lanes::serves(&geometry, depth, rows.len());
            let height = if lanes {
                lanes::panel_width(rows.len(), isa.lanes(), isa.registers())
            } else {
                pack::even_height(rows.len(), block::TALLEST)
            };
            let packed = extent(&[rows.len().next_multiple_of(height), depth], "weights")?;
            groups.push(Group {
                offsets: geometry.offsets(&channels),
                channels,
                panels: len,
                height,
                starts: (0..depth).map(|t| (t * height) as u32).collect(),
                bias,
                lanes,
                rows,
            });
            bias += groups[g].rows.len();
            len += packed;
        }
        // Vectors of the last row may be loaded.
        let mut panels = Buffer::zeros(extent(&[len], "packed weights")? + WIDEST);
        for (g, group) in groups.iter().enumerate() {
            let extents = (group.rows.len(), group.channels.len() * taps);
            let out = &mut panels[group.panels..];
            let count = group.channels.len();
            pack::row_panels(out, group.height, extents, |i, t| {
                let ci = group.channels[t % count] as usize - g * ci_each;
                let row = (g * co_each + group.rows[i] as usize) * ci_each + ci;
                spec.weights[row * taps + t / count]
            });
        }
        let longest = groups.iter().map(|group| group.rows.len()).max();
        // Vectors of them may be loaded.
        let beyond = groups.iter().map(|group| group.height).max().unwrap_or(0);
        Ok(Self {
            isa,
            shape,
            sieve: match direct {
                0 => Vec::new(),
                _ => geometry.sieve(),
            },
            geometry,
            groups,
            panels,
            winograd,
            few,
            bias: spec.bias.map(|bias| {
                let kept = c_out.iter().map(|&c| bias[c as usize]);
                kept.chain(core::iter::repeat_n(0.0, beyond)).collect()
            }),
            activation: spec.activation,
            in_order: (0..longest.unwrap_or(0) as u32).collect(),
        })
    }

    /// What was packed.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Multiplications and additions of a run, taps on the padding included.
    pub fn macs(&self, live_in: usize, live_out: usize) -> u64 {
        let terms = (live_in as u64).saturating_mul(taps(&self.shape) as u64);
        [self.geometry.pixels(), live_out]
            .iter()
            .fold(terms / self.shape.groups as u64, |n, &x| {
                n.saturating_mul(x as u64)
            })
    }

    /// The kernel that serves it.
    pub fn row_name(&self) -> &'static str {
        match &self.winograd {
            Some(winograd) => winograd.row_name(),
            None => gemm::select_conv(self.isa).name,
        }
    }

    /// Elements of scratch that [`Conv::run`] needs.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let winograd = self.winograd.as_ref();
        let winograd = winograd.map_or(0, |winograd| winograd.scratch_len(threads));
        if self.groups.is_empty() {
            return winograd;
        }
        let most = |of: fn(&Group) -> usize| self.groups.iter().map(of).max().unwrap_or(0);
        let (terms, channels) = (most(|g| g.offsets.len()), most(|g| g.channels.len()));
        let rows = most(|g| g.rows.len());
        let lists = 2 * lines(terms) + 2 * lines(channels) + 2 * lines(rows);
        let lanes = self.groups.iter().filter(|g| g.lanes);
        let lanes = lanes.map(|g| g.height).max();
        let room = Strip::room(&self.geometry, (channels, terms), rows, lanes);
        lists
            .saturating_add(room.saturating_mul(threads.max(1)))
            .saturating_add(64)
            .max(winograd)
    }

    /// Whether a call with these live inputs is one for Winograd's filtering.
    fn filters(&self, live: Option<Channels<'_>>) -> Option<&Winograd> {
        let many = match (live, self.groups.first()) {
            (Some(live), Some(group)) => {
                let lives = |&&c: &&u32| live.contains(c as usize);
                group.channels.iter().filter(lives).count() > self.few
            }
            _ => true,
        };
        self.winograd.as_ref().filter(|_| many)
    }

    /// Computes y.
    ///
    /// # Errors
    /// When an operand does not fit; nothing is written then.
    pub fn run(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        live_in: Option<Channels<'_>>,
        live_out: Option<Channels<'_>>,
        y: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let pixels = self.geometry.pixels();
        check_len(x.len(), self.shape.c_in * self.geometry.map(), "x")?;
        check_len(y.len(), self.shape.c_out * pixels, "y")?;
        check_mask(live_in, self.shape.c_in, "length of the input mask")?;
        check_mask(live_out, self.shape.c_out, "length of the output mask")?;
        check_len(scratch.len(), self.scratch_len(1), "scratch")?;

        let (live_in, live_out) = (partial(live_in), partial(live_out));
        let scratch = from_line(scratch);
        if let Some(winograd) = self.filters(live_in) {
            let end = (self.bias.as_deref(), self.activation);
            winograd.run(pool, x, (live_in, live_out), end, y, scratch);
            return Ok(());
        }
        let each = self.shape.c_out / self.shape.groups;
        let mut y = Tile::new(y, self.shape.c_out, pixels, pixels);
        for (g, group) in self.groups.iter().enumerate() {
            let mut rest = &mut *scratch;
            let terms = self.terms(group, live_in, &mut rest);
            let (from, to) =
                pack::live_of(&group.rows, &self.in_order, g * each, live_out, &mut rest);
            let wanted = Wanted { from, to };
            if wanted.from.is_empty() {
                continue;
            }
            let strip = Strip {
                panels: &self.panels[group.panels..],
                height: group.height,
                lanes: group.lanes,
                packed_depth: group.offsets.len(),
                packed_rows: group.rows.len(),
                terms,
                x,
                geometry: &self.geometry,
                sieve: &self.sieve,
                wanted,
                bias: self.bias.as_ref().map(|bias| &bias[group.bias..]),
                activation: self.activation,
            };
            let out = y.sub(g * each..(g + 1) * each, 0..pixels);
            strip.run(self.isa, pool, out, rest);
        }
        Ok(())
    }

    fn terms<'a>(
        &'a self,
        group: &'a Group,
        live: Option<Channels<'_>>,
        rest: &mut &'a mut [f32],
    ) -> LiveTerms<'a> {
        let Some(live) = live else {
            return LiveTerms {
                starts: &group.starts,
                offsets: &group.offsets,
                channels: &group.channels,
            };
        };
        let all = group.channels.len();
        let [places, channels] = [(); 2].map(|()| take_indices(rest, all));
        let mut count = 0;
        // Written whether live or not: random masks would be mispredicted.
        for (i, &c) in group.channels.iter().enumerate() {
            (places[count], channels[count]) = (i as u32, c);
            count += usize::from(live.contains(c as usize));
        }
        let depth = count * taps(&self.shape);
        let [starts, offsets] = [(); 2].map(|()| take_indices(rest, depth));
        let mut t = 0;
        for tap in (0..group.offsets.len()).step_by(all.max(1)) {
            for (slot, &place) in places[..count].iter().enumerate() {
                starts[t] = group.starts[tap + place as usize];
                // Copies lie side by side, whichever channels they are of.
                let slot = if self.geometry.in_place {
                    place as usize
                } else {
                    slot
                };
                offsets[t] = group.offsets[tap + slot];
                t += 1;
            }
        }
        LiveTerms {
            starts,
            offsets,
            channels: &channels[..count],
        }
    }
}

/// Places of the window.
fn taps(shape: &ConvShape) -> usize {
    shape.kernel[0] * shape.kernel[1]
}
