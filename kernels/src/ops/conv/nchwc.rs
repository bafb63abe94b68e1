//! Convolutions into maps in blocks of channels: products whose rows are pixels, stored as they are computed.
//!
//! ```text
//! for each strip of pixels                              a job, or for each thread some of its channels
//!     [copies]                                          planes as the direct convolution reads them; blocks with zeros round them
//!     for each panel of N vectors of channels
//!         for each depth block of KC terms              partial sums stay in y between them
//!             for each run of pixels                    all of the strip, or those of a row
//!                 for each tile of MR of them           the micro-kernel: vector j of pixel i is a pixel of block j
//! ```
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use super::blocks::Blocks;
use super::planes::Geometry;
use super::taps;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::ops::matmul::{MatMul, MatMulSpec};
use crate::ops::{ConvShape, ConvSpec, nchwc, pointwise};
use crate::pack::{check_len, even_height, extent};
use crate::panel::{Below, Bounded, Even, Foreseen, LINE, Spaced, Terms, from_line};
use crate::pool::{Pool, Rows, Tile, worth};
use crate::tile::gemm::{Place, Start, Target, each_row, for_height, tallest, tile};
use crate::{Error, Isa};

/// Terms of a depth block, as that of products.
const KC: usize = 1024;
/// Elements of a strip of blocks, 512 KiB: the panels pass over them in L2.
const STRIP: usize = 128 * 1024;
/// Pixels of a strip of blocks, at least: all weights pass through for each.
const LEAST: usize = 96;
/// Vectors of the widest panel.
const WIDE: usize = 4;

/// Rows of the tallest tile of so many vectors: 6 x 4 need 10 loads for 24 FMAs, 12 x 2 need 14.
const fn tallest_of<S: F32s>(vectors: usize) -> usize {
    if vectors == WIDE { 6 } else { tallest::<S>() }
}

/// What a convolution reads.
#[derive(Debug)]
enum Source {
    /// Planes, and 0, 1, 2 ...
    Planes(Geometry, Vec<u32>),
    Blocks(Blocks),
}

/// A convolution that writes a map in [blocks](crate::ops::nchwc), ready to run.
#[derive(Debug)]
pub struct NchwcConv {
    isa: Isa,
    shape: ConvShape,
    source: Source,
    /// Extents of the input and of the output.
    map: (usize, usize),
    output: (usize, usize),
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
        let strip = geometry.strip();
        let source = Source::Planes(geometry, channels);
        Self::new(isa, spec, hw, (source, strip), terms)
    }

    /// Takes a convolution of a map in blocks, of one group.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when it has groups or masks, or does not fit the map.
    pub fn pack_blocks(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        spec.check()?;
        let (shape, lanes) = (&spec.shape, isa.lanes());
        let output = shape.output(hw)?;
        nchwc::elements(isa, shape.c_in, extent(&[hw.0, hw.1], "map")?)?;
        let whole = Blocks::new(shape, hw, output.0);
        let c_in = shape.c_in.next_multiple_of(lanes);
        extent(&[c_in, whole.rows, whole.columns], "map")?;
        let strip = if whole.flat {
            let most = (STRIP / c_in.max(1)).max(LEAST);
            even_height(output.0 * output.1, most)
        } else {
            let row = c_in * shape.stride[0] * whole.columns;
            let most = (STRIP / row.max(1)).max(LEAST.div_ceil(output.1));
            even_height(output.0, most) * output.1
        };
        let blocks = Blocks::new(shape, hw, strip.div_ceil(output.1));
        let [dh, dw] = shape.dilation;
        let mut terms = Vec::with_capacity(shape.c_in * taps(shape));
        for c in 0..shape.c_in {
            for kh in 0..shape.kernel[0] {
                for kw in 0..shape.kernel[1] {
                    let row = c / lanes * blocks.rows + kh * dh;
                    let pixel = row * blocks.columns + kw * dw;
                    terms.push((pixel * lanes + c % lanes) as u32);
                }
            }
        }
        Self::new(isa, spec, hw, (Source::Blocks(blocks), strip), terms)
    }

    fn new(
        isa: Isa,
        spec: &ConvSpec<'_>,
        map: (usize, usize),
        (source, strip): (Source, usize),
        terms: Vec<u32>,
    ) -> Result<Self, Error> {
        let shape = spec.shape;
        if shape.groups != 1 {
            return Err(Error::Invalid {
                what: "a convolution into blocks has one group",
            });
        }
        nchwc::refuse_masks(spec)?;
        let output = shape.output(map)?;
        nchwc::elements(isa, shape.c_out, extent(&[output.0, output.1], "y")?)?;
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
            source,
            map,
            output,
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
        self.copies_len()
            .saturating_mul(threads.max(1))
            .saturating_add(LINE)
    }

    /// Elements that a job needs.
    fn copies_len(&self) -> usize {
        let lanes = self.isa.lanes();
        match &self.source {
            Source::Planes(geometry, _) => geometry.planes_len(self.shape.c_in),
            Source::Blocks(blocks) => blocks.copies_len(self.shape.c_in.div_ceil(lanes), lanes),
        }
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
        let channels = match &self.source {
            Source::Planes(..) => self.shape.c_in,
            Source::Blocks(_) => self.shape.c_in.next_multiple_of(lanes),
        };
        check_len(x.len(), channels * self.map.0 * self.map.1, "x")?;
        let pixels = self.output.0 * self.output.1;
        let blocks = self.shape.c_out.div_ceil(lanes);
        let row = pixels * lanes;
        check_len(y.len(), blocks * row, "y")?;
        check_len(scratch.len(), self.scratch_len(1), "scratch")?;
        let pool = worth(pool, row * blocks * self.terms.len());
        let tile = Tile::new(&mut y[..blocks * row], blocks, row, row);
        // Few strips are shared by threads, some whole panels of channels each.
        let (threads, strips) = (pool.threads().max(1), pixels.div_ceil(self.strip));
        let panel = (self.matmul.panel_width() / lanes).max(1);
        let together = if strips < threads {
            let each = blocks.div_ceil(threads.div_ceil(strips.max(1)));
            each.next_multiple_of(panel)
        } else {
            blocks
        };
        tile.split_with(
            pool,
            (together, self.strip * lanes),
            from_line(scratch),
            self.copies_len(),
            |block, first, tile, copies| {
                self.isa.run(Strip {
                    conv: self,
                    x,
                    channel: block * lanes,
                    pixel: first / lanes,
                    tile,
                    copies,
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
    copies: &'a mut [f32],
}

/// Where the pixels of a strip are in what is read: runs of them.
#[derive(Clone, Copy)]
struct Runs<'a> {
    data: &'a [f32],
    /// Pixels of all runs, and of each.
    pixels: usize,
    run: usize,
    /// From one run to the next, and from one pixel to the next.
    pitch: usize,
    step: usize,
}

impl Task for Strip<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let runs = self.runs(s);
        let panel = self.conv.matmul.panel_width() / S::LANES;
        let (mut block, blocks) = (0, self.tile.rows());
        while block < blocks {
            let left = blocks - block;
            if const { S::REGISTERS >= 32 } && panel * 2 == WIDE && left >= WIDE {
                self.panel::<S, 2, 2, WIDE>(s, runs, block);
                block += WIDE;
            } else if panel == 2 && left >= 2 {
                self.panel::<S, 1, 2, 2>(s, runs, block);
                block += 2;
            } else {
                self.panel::<S, 1, 1, 1>(s, runs, block);
                block += 1;
            }
        }
    }
}

impl<'a> Strip<'a, '_> {
    /// What its pixels are read from: x, or copies.
    #[inline(always)]
    fn runs<S: F32s>(&mut self, s: S) -> Runs<'a> {
        let conv = self.conv;
        let pixels = self.tile.cols() / S::LANES;
        let row = conv.output.1;
        let [down, across] = conv.shape.stride;
        let behind = |data: &'a [f32], at: usize| &data[at.min(data.len())..];
        let copies = core::mem::take(&mut self.copies);
        let (data, flat, pitch, step) = match &conv.source {
            Source::Planes(geometry, channels) => {
                let data = geometry.data(s, self.x, self.pixel, channels, copies);
                let data = behind(data, if geometry.in_place { self.pixel } else { 0 });
                (data, geometry.is_flat(), geometry.pitch, 1)
            }
            Source::Blocks(blocks) => {
                let first = self.pixel / row * down;
                let data = match blocks.border {
                    Some(_) => {
                        blocks.copy(self.x, conv.map, first, copies, S::LANES);
                        copies
                    }
                    None if blocks.flat => behind(self.x, self.pixel * S::LANES),
                    None => behind(self.x, first * blocks.columns * S::LANES),
                };
                let pitch = down * blocks.columns * S::LANES;
                (data, blocks.flat, pitch, across * S::LANES)
            }
        };
        Runs {
            data,
            pixels,
            run: if flat { pixels } else { row },
            pitch,
            step,
        }
    }

    /// The blocks that some panels are, from this one of the tile on.
    #[inline(always)]
    fn panel<S: F32s, const NP: usize, const EACH: usize, const N: usize>(
        &mut self,
        s: S,
        runs: Runs<'_>,
        block: usize,
    ) {
        let conv = self.conv;
        let (depth, activation) = (conv.terms.len(), conv.matmul.activation());
        let first = self.channel + block * S::LANES;
        let (_, pitch, bias) = conv.matmul.vector(first);
        let follows = block + N < self.tile.rows();
        let kc = depth.div_ceil(depth.div_ceil(KC).max(1)).max(1);
        for t in (0..depth.max(1)).step_by(kc) {
            let terms = t..depth.min(t + kc);
            let from = |block: usize| {
                let (panel, ..) = conv.matmul.vector(self.channel + block * S::LANES);
                panel.get(t * pitch..).unwrap_or(&[])
            };
            let (mut panels, mut next) = ([&[][..]; NP], [&[][..]; NP]);
            for p in 0..NP {
                panels[p] = from(block + p * EACH);
                let then = block + N + p * EACH;
                next[p] = match follows && then < self.tile.rows() {
                    true => from(then),
                    false => panels[p],
                };
            }
            let pass = Pass {
                runs,
                terms: terms.clone(),
                conv,
                panels,
                pitch,
                next,
                block,
                start: match bias {
                    _ if t > 0 => Start::Partial,
                    Some(bias) => Start::Cols(bias),
                    None => Start::Zero,
                },
                activation: match terms.end == depth {
                    true => activation,
                    false => Activation::None,
                },
            };
            pass.tiles::<S, EACH, N>(s, &mut self.tile);
        }
        if !activation.in_registers() {
            for i in block..block + N {
                pointwise::apply(s, activation, self.tile.row(i));
            }
        }
    }
}

/// Depth block of some panels.
struct Pass<'a, const NP: usize> {
    runs: Runs<'a>,
    conv: &'a NchwcConv,
    terms: Range<usize>,
    panels: [&'a [f32]; NP],
    /// From one row of a panel to the next.
    pitch: usize,
    /// Panels that are used next.
    next: [&'a [f32]; NP],
    /// The first block.
    block: usize,
    start: Start<'a>,
    activation: Activation,
}

impl<const NP: usize> Pass<'_, NP> {
    /// All pixels, in tiles of two heights that differ by one.
    #[inline(always)]
    fn tiles<S: F32s, const EACH: usize, const N: usize>(&self, s: S, out: &mut Tile<'_>) {
        let Runs {
            data,
            pixels,
            run,
            pitch,
            step,
        } = self.runs;
        let tiles = run.div_ceil(const { tallest_of::<S>(N) }).max(1);
        let (low, higher) = (run / tiles, run % tiles);
        let cut = higher * (low + 1);
        let runs = pixels / run.max(1);
        for (height, range, nth) in [(low + 1, 0..cut, 0), (low, cut..run, runs * higher)] {
            if range.is_empty() {
                continue;
            }
            let count = range.len() / height;
            for i in 0..runs {
                let at = (i * pitch + range.start * step).min(data.len());
                let tiles = Tiles {
                    a: &data[at..],
                    lda: step,
                    panels: self.panels,
                    pitch: self.pitch,
                    next: self.next,
                    nth: (nth + i * count, count, runs * tiles),
                    to: (self.block, (i * run + range.start) * S::LANES),
                    start: self.start,
                    activation: self.activation,
                };
                let terms = self.conv.terms.all().part(self.terms.clone());
                for_height!(height, MR => {
                    if const { MR <= tallest_of::<S>(N) } {
                        s.outline(
                            #[inline(always)]
                            || tiles.run::<S, MR, EACH, N>(s, terms, out),
                        );
                    }
                });
            }
        }
    }
}

/// Tiles of one height, side by side.
struct Tiles<'a, const NP: usize> {
    /// From the terms of the first pixel on, and from one pixel to the next.
    a: &'a [f32],
    lda: usize,
    panels: [&'a [f32]; NP],
    pitch: usize,
    next: [&'a [f32]; NP],
    /// How many tiles that pass over the panels are before these, how many these are, and all.
    nth: (usize, usize, usize),
    /// The first block and element of the output.
    to: (usize, usize),
    start: Start<'a>,
    activation: Activation,
}

impl<const NP: usize> Tiles<'_, NP> {
    #[inline(always)]
    fn run<S: F32s, const MR: usize, const EACH: usize, const N: usize>(
        &self,
        s: S,
        of_a: Below<'_>,
        out: &mut Tile<'_>,
    ) {
        let &Self {
            a,
            lda,
            panels,
            pitch,
            next,
            nth: (first, count, tiles),
            to: (block, at),
            start,
            activation,
        } = self;
        for n in 0..count {
            let behind = &a[(n * MR * lda).min(a.len())..];
            let lhs = Spaced::<_, MR>::new(behind, lda, of_a);
            // Here: the compiler must see that there are as many of these.
            let of_b = Even::new(0, pitch, of_a.len());
            let rhs = Foreseen::<S, _, NP, EACH>::new(panels, of_b, next, (first + n, tiles));
            let to = Pixels {
                blocks: out.in_order::<N>(block),
                at: at + n * MR * S::LANES,
            };
            let place = Place {
                to,
                start,
                activation,
            };
            tile::<S, MR, N>(s, of_a.len(), lhs, rhs, place);
        }
    }
}

/// Pixels of neighbouring blocks, from the elements `at` on: vector `j` of row `i` of a tile is pixel `i` of block `j`.
struct Pixels<R> {
    blocks: R,
    at: usize,
}

impl<S: F32s, R: Rows<NV>, const MR: usize, const NV: usize> Target<S, MR, NV> for Pixels<R> {
    #[inline(always)]
    fn load(&mut self, s: S, i: usize) -> [S::V; NV] {
        let mut sums = [s.splat(0.0); NV];
        for j in 0..NV {
            let block = &self.blocks.row(j)[self.at..][..MR * S::LANES];
            sums[j] = s.load(&block[i * S::LANES..]);
        }
        sums
    }
    #[inline(always)]
    fn store(&mut self, s: S, sums: &[[S::V; NV]; MR]) {
        for j in 0..NV {
            let block = &mut self.blocks.row(j)[self.at..][..MR * S::LANES];
            each_row!(MR, i => s.store(sums[i][j], &mut block[i * S::LANES..]));
        }
    }
}
