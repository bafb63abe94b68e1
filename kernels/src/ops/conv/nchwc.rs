//! Convolutions into maps in blocks of channels: products whose rows are pixels.
//!
//! From blocks, where an FMA broadcasts what it reads from memory: a tile is a vector of channels of up to 24 pixels, and so is what it writes.
//!
//! ```text
//! for each strip of pixels                              a job
//!     for each depth block of KC channels               partial sums stay in y between them
//!         for each block of channels of y               KC x LANES weights, in L1
//!             for each tile of pixels                   the micro-kernel
//! ```
//! Else:
//!
//! ```text
//! for each strip of pixels                              a job, or for each thread some of its channels
//!     [copies of planes]                                from planes: as the direct convolution reads them
//!     for each panel of channels                        or all at once
//!         pixels x channels = pixels x terms * terms x channels
//!         copy into blocks                              a vector of channels is a vector of a block
//! ```
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use super::planes::Geometry;
use super::taps;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::ops::matmul::{MatMul, MatMulSpec};
use crate::ops::{ConvShape, ConvSpec, nchwc, pointwise};
use crate::pack::{check_len, even_height};
use crate::panel::{
    Below, Bounded, Displaced, Even, Foreseen, LINE, Spaced, Terms, from_line, lines, take,
};
use crate::pool::{Pool, Tile, worth};
use crate::tile::gemm::{Place, Start, TALL, Whole, for_height, tile};
use crate::{Error, Isa};

/// Elements of the product of a strip, 192 KiB.
const PRODUCT: usize = 48 * 1024;
/// Terms up to which it is made panel by panel, so that it is copied from L1; with more of them the copy is little beside the product, and
/// the panels are better fetched one while another is used.
const SHALLOW: usize = 128;
/// Channels of a depth block from blocks: 24 KiB of weights.
const KC: usize = 384;
/// Pixels of a strip from blocks, at least: the weights pass through for each.
const LEAST: usize = 96;

/// The planes that a convolution reads.
#[derive(Debug)]
struct Planes {
    geometry: Geometry,
    /// 0, 1, 2 ...
    channels: Vec<u32>,
}

/// A convolution that writes a map in [blocks](crate::ops::nchwc), ready to run.
#[derive(Debug)]
pub struct NchwcConv {
    isa: Isa,
    shape: ConvShape,
    /// Without them it reads a map in blocks.
    planes: Option<Planes>,
    /// Pixels of the input and of the output.
    pixels: (usize, usize),
    /// Pixels of a strip.
    strip: usize,
    /// The weights as `[terms, c_out]`.
    matmul: MatMul,
    /// Where the terms of the first pixel are.
    terms: Bounded,
}

impl NchwcConv {
    /// Takes a convolution of planes, `[c_in, h, w]`, of one group.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when it has groups or masks, or does not fit the map.
    pub fn pack_planes(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        spec.check()?;
        let geometry = Geometry::new(&spec.shape, hw, isa.lanes())?;
        let channels: Vec<u32> = (0..spec.shape.c_in as u32).collect();
        let terms = geometry.offsets(&channels);
        let pixels = (geometry.map(), geometry.pixels());
        let strip = geometry.strip();
        let planes = Some(Planes { geometry, channels });
        Self::new(isa, spec, planes, (pixels, strip), terms)
    }

    /// Takes a convolution of a map in blocks: one group, a window of 1 x 1, steps of 1, no padding.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when it is another convolution, or has masks.
    pub fn pack_blocks(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        spec.check()?;
        let shape = &spec.shape;
        if shape.kernel != [1, 1] || shape.stride != [1, 1] || shape.pads != [0; 4] {
            return Err(Error::Invalid {
                what: "of a map in blocks, a convolution has a window of 1 x 1, steps of 1 and no padding",
            });
        }
        let large = Error::TooLarge { operand: "map" };
        let pixels = hw.0.checked_mul(hw.1).ok_or(large.clone())?;
        let all = nchwc::elements(isa, shape.c_in, pixels)?;
        if all > u32::MAX as usize {
            return Err(large);
        }
        let lanes = isa.lanes();
        let place = |c: usize| (c / lanes * pixels * lanes + c % lanes) as u32;
        let terms = (0..shape.c_in).map(place).collect();
        let width = shape.c_out.next_multiple_of(lanes);
        let strip = even_height(pixels, (PRODUCT / width).max(LEAST));
        Self::new(isa, spec, None, ((pixels, pixels), strip), terms)
    }

    fn new(
        isa: Isa,
        spec: &ConvSpec<'_>,
        planes: Option<Planes>,
        (pixels, strip): ((usize, usize), usize),
        terms: Vec<u32>,
    ) -> Result<Self, Error> {
        let shape = spec.shape;
        if shape.groups != 1 {
            return Err(Error::Invalid {
                what: "a convolution into blocks has one group",
            });
        }
        nchwc::refuse_masks(spec)?;
        nchwc::elements(isa, shape.c_out, pixels.1)?;
        let matmul = MatMul::pack(
            isa,
            &MatMulSpec {
                transposed: true,
                bias: spec.bias,
                activation: spec.activation,
                ..MatMulSpec::new(shape.c_in * taps(&shape), shape.c_out, spec.weights)
            },
        )?;
        Ok(Self {
            isa,
            shape,
            planes,
            pixels,
            strip: strip.max(1),
            matmul,
            terms: Bounded::all_of(terms),
        })
    }

    /// What was packed.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of scratch that [`NchwcConv::run`] needs.
    pub fn scratch_len(&self, threads: usize) -> usize {
        self.room()
            .saturating_mul(threads.max(1))
            .saturating_add(LINE)
    }

    /// Elements that a job needs.
    fn room(&self) -> usize {
        let copies = match &self.planes {
            Some(Planes { geometry, .. }) => geometry.planes_len(self.shape.c_in),
            None => 0,
        };
        let strip = self.strip.min(self.pixels.1);
        lines(copies)
            .saturating_add(lines(strip.saturating_mul(self.together())))
            .saturating_add(lines(self.matmul.product_len(strip)))
    }

    /// Channels of the output, whole blocks, whose product is made at once.
    fn together(&self) -> usize {
        let panel = self.matmul.panel_width();
        // The panel of a narrow product is less than a block.
        if self.terms.len() <= SHALLOW && (self.isa.lanes()..self.width()).contains(&panel) {
            panel
        } else {
            self.width()
        }
    }

    /// Output channels, those of the last block that are not there among them.
    fn width(&self) -> usize {
        self.shape.c_out.next_multiple_of(self.isa.lanes())
    }

    /// `y[co, oh, ow] = act(Σ_{ci} Σ_{kh, kw} W[co, ci, kh, kw] · x[ci, oh·sh + kh·dh - top, ow·sw + kw·dw - left] + bias[co])`
    ///
    /// # Shapes    `x` planes `[c_in, h, w]` or a map in blocks, as it was packed for; `y` a map `[c_out, oh, ow]` in blocks
    /// # Numerics  one chain an output, upwards from the bias in (ci, kh, kw), one mul_add a term, taps on the padding included; then the
    ///   activation
    /// # Errors    [`Error::TooShort`]; nothing is written then
    /// # Panics    never
    /// # Scratch   [`NchwcConv::scratch_len`] elements, contents ignored
    pub fn run(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let lanes = self.isa.lanes();
        let needed = match &self.planes {
            Some(_) => self.shape.c_in * self.pixels.0,
            None => self.shape.c_in.next_multiple_of(lanes) * self.pixels.0,
        };
        check_len(x.len(), needed, "x")?;
        let len = self.width() * self.pixels.1;
        check_len(y.len(), len, "y")?;
        check_len(scratch.len(), self.scratch_len(1), "scratch")?;
        let pool = worth(pool, self.pixels.1 * self.width() * self.terms.len());
        let row = self.pixels.1 * lanes;
        let tile = Tile::new(&mut y[..len], self.width() / lanes, row, row);
        // Few strips are shared by threads, some whole panels of channels each.
        let (threads, strips) = (pool.threads().max(1), self.pixels.1.div_ceil(self.strip));
        let panel = (self.matmul.panel_width() / lanes).max(1);
        let blocks = if strips < threads {
            let each = (self.width() / lanes).div_ceil(threads.div_ceil(strips.max(1)));
            each.next_multiple_of(panel)
        } else {
            self.width() / lanes
        };
        tile.split_with(
            pool,
            (blocks, self.strip * lanes),
            from_line(scratch),
            self.room(),
            |block, first, tile, scratch| {
                self.isa.run(Strip {
                    conv: self,
                    x,
                    channel: block * lanes,
                    pixel: first / lanes,
                    tile,
                    scratch,
                });
            },
        );
        Ok(())
    }
}

/// Pixels of some blocks.
struct Strip<'a, 't> {
    conv: &'a NchwcConv,
    x: &'a [f32],
    /// The tile's first ones.
    channel: usize,
    pixel: usize,
    tile: Tile<'t>,
    scratch: &'a mut [f32],
}

impl Task for Strip<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let conv = self.conv;
        if S::BROADCASTS && conv.planes.is_none() {
            return self.blocks(s);
        }
        let mut rest = self.scratch;
        let pixels = self.tile.cols() / S::LANES;
        let end = self.channel + self.tile.rows() * S::LANES;
        let together = conv.together().min(end - self.channel);
        let product = take(&mut rest, pixels * together);
        // Pixels side by side in what is read, and from one such run to the next.
        let (a, step, run, pitch) = match &conv.planes {
            None => (&self.x[self.pixel * S::LANES..], S::LANES, pixels, 0),
            Some(Planes { geometry, channels }) => {
                let copies = take(&mut rest, geometry.planes_len(conv.shape.c_in));
                let data = geometry.data(s, self.x, self.pixel, channels, copies);
                let data = &data[if geometry.in_place { self.pixel } else { 0 }..];
                match geometry.is_flat() {
                    true => (data, 1, pixels, 0),
                    false => (data, 1, geometry.output.1, geometry.pitch),
                }
            }
        };
        let each = together.div_ceil(conv.matmul.panel_width());
        for first in (self.channel..end).step_by(together) {
            let panels = first / conv.matmul.panel_width();
            let channels = together.min(conv.shape.c_out - first);
            for (i, rows) in product.chunks_mut(run * together).enumerate() {
                let out = Tile::new(rows, rows.len() / together, channels, together);
                let a = (&a[i * pitch..], step, conv.terms.all());
                conv.matmul.panels(panels..panels + each, a, out, rest);
            }
            s.vectorize(
                #[inline(always)]
                || {
                    for block in 0..channels.div_ceil(S::LANES) {
                        let to = self.tile.row((first - self.channel) / S::LANES + block);
                        let from = product[block * S::LANES..].chunks(together);
                        for (to, from) in to.chunks_exact_mut(S::LANES).zip(from) {
                            s.store(s.load(from), to);
                        }
                    }
                },
            );
        }
    }
}

impl Strip<'_, '_> {
    /// From blocks into blocks.
    #[inline(always)]
    fn blocks<S: F32s>(&mut self, s: S) {
        let conv = self.conv;
        let pixels = self.tile.cols() / S::LANES;
        let height = even_height(pixels, TALL);
        let x = &self.x[self.pixel * S::LANES..];
        let depth = conv.terms.len();
        let activation = conv.matmul.activation();
        for t in (0..depth.max(1)).step_by(KC) {
            let terms = t..depth.min(t + KC);
            let pass = Pass {
                x,
                terms: conv.terms.all().part(terms.clone()),
                partial: t > 0,
                activation: match terms.end == depth {
                    true => activation,
                    false => Activation::None,
                },
            };
            for block in 0..self.tile.rows() {
                let first = self.channel + block * S::LANES;
                let from_term = |first: usize| {
                    let (panel, pitch, bias) = conv.matmul.vector(first);
                    (panel.get(t * pitch..).unwrap_or(&[]), pitch, bias)
                };
                let weights = from_term(first);
                let next = match block + 1 < self.tile.rows() {
                    true => from_term(first + S::LANES).0,
                    false => weights.0,
                };
                let row = self.tile.row(block);
                let mut out = Tile::new(row, pixels, S::LANES, S::LANES);
                let full = pixels / height * height;
                for range in [0..full, full..pixels] {
                    if range.is_empty() {
                        continue;
                    }
                    for_height!(@ range.len().min(height), MR, {
                        if const { S::BROADCASTS } {
                            s.outline(
                                #[inline(always)]
                                || pass.run::<S, MR>(s, weights, next, (range, pixels / height), &mut out),
                            );
                        }
                    }, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
                }
                if terms.end == depth && !activation.in_registers() {
                    pointwise::apply(s, activation, row);
                }
            }
        }
    }
}

/// Depth block of a strip of blocks.
struct Pass<'a> {
    x: &'a [f32],
    terms: Below<'a>,
    partial: bool,
    activation: Activation,
}

impl Pass<'_> {
    /// The tiles of the pixels `range` of a block of channels, of `tiles` that pass over its weights.
    #[inline(always)]
    fn run<S: F32s, const MR: usize>(
        &self,
        s: S,
        (weights, pitch, bias): (&[f32], usize, Option<&[f32]>),
        next: &[f32],
        (range, tiles): (Range<usize>, usize),
        out: &mut Tile<'_>,
    ) {
        let depth = self.terms.len();
        for pixel in range.step_by(MR) {
            let x = &self.x[(pixel * S::LANES).min(self.x.len())..];
            let lhs = Displaced(Spaced::<_, MR>::new(x, S::LANES, self.terms));
            let of_b = Even::new(0, pitch, depth);
            let nth = (pixel / MR, tiles);
            let rhs = Foreseen::<S, _, 1, 1>::new([weights], of_b, [next], nth);
            let place = Place {
                rows: out.in_order::<MR>(pixel),
                cols: Whole(0),
                start: match bias {
                    _ if self.partial => Start::Partial,
                    Some(bias) => Start::Cols(bias),
                    None => Start::Zero,
                },
                activation: self.activation,
            };
            tile::<S, MR, 1>(s, depth, lhs, rhs, place);
        }
    }
}
