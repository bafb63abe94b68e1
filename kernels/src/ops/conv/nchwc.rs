//! Convolutions into maps in blocks of channels: products whose rows are pixels, stored as they are computed.
//!
//! ```text
//! for each strip of pixels                              a job, or for each thread some of its channels
//!     [copies]                                          of its part of the map, with zeros round it
//!     for each panel of N vectors of channels
//!         for each depth block of KC terms              partial sums stay in y between them
//!             for each tile of MR pixels                the micro-kernel: vector j of pixel i is a pixel of block j
//! ```
#![forbid(unsafe_code)]

mod pass;
mod source;

use super::taps;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::ops::matmul::{MatMul, MatMulSpec};
use crate::ops::{ConvShape, ConvSpec, nchwc, pointwise};
use crate::pack::{check_len, extent};
use crate::panel::{Bounded, LINE, Runs, Terms, from_line};
use crate::pool::{Pool, Tile, worth};
use crate::tile::gemm::{NV, Start};
use crate::{Error, Isa};

use pass::{Input, Of, Pass, WIDE};
use source::Source;

/// Terms of a depth block, as that of products.
const KC: usize = 1024;

/// A convolution that writes a map in [blocks](crate::ops::nchwc), ready to run.
#[derive(Debug)]
pub struct NchwcConv {
    isa: Isa,
    shape: ConvShape,
    source: Source,
    /// Pixels of the output.
    pixels: usize,
    /// The weights as `[terms, c_out]`.
    matmul: MatMul,
    /// Number of terms.
    depth: usize,
    /// Where those of the first pixel are; of runs of them, if they are in runs, the first of each.
    terms: Bounded,
}

impl NchwcConv {
    /// Takes a convolution of planes, `[c_in, h, w]`, of one group.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when it has groups or masks, or does not fit the map.
    pub fn pack_planes(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        Self::new(isa, spec, hw, 1)
    }

    /// Takes a convolution of a map in blocks, of one group.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when it has groups or masks, or does not fit the map.
    pub fn pack_blocks(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        Self::new(isa, spec, hw, isa.lanes())
    }

    /// Takes a convolution of a map in blocks of so many channels.
    fn new(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize), lanes: usize) -> Result<Self, Error> {
        spec.check()?;
        let shape = spec.shape;
        if shape.groups != 1 {
            return Err(Error::Invalid {
                what: "a convolution into blocks has one group",
            });
        }
        nchwc::refuse_masks(spec)?;
        let output = shape.output(hw)?;
        let pixels = extent(&[output.0, output.1], "y")?;
        nchwc::elements(isa, shape.c_out, pixels)?;
        let source = Source::new(&shape, hw, lanes)?;
        let depth = shape.c_in * taps(&shape);
        let matmul = MatMul::pack(
            isa,
            &MatMulSpec {
                transposed: true,
                bias: spec.bias,
                activation: spec.activation,
                ..MatMulSpec::new(depth, shape.c_out, spec.weights)
            },
        )?;
        let each = if source.in_runs() { Runs::LEN } else { 1 };
        let terms = source.terms().into_iter().step_by(each).collect();
        Ok(Self {
            isa,
            shape,
            pixels,
            matmul,
            source,
            depth,
            terms: Bounded::all_of(terms),
        })
    }

    /// What was packed.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of scratch that [`NchwcConv::run`] needs.
    pub fn scratch_len(&self, threads: usize) -> usize {
        self.source
            .copies_len()
            .saturating_mul(threads.max(1))
            .saturating_add(LINE)
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
        check_len(x.len(), self.source.len(), "x")?;
        let (pixels, strip) = (self.pixels, self.source.strip);
        let blocks = self.shape.c_out.div_ceil(lanes);
        let row = pixels * lanes;
        check_len(y.len(), blocks * row, "y")?;
        check_len(scratch.len(), self.scratch_len(1), "scratch")?;
        let pool = worth(pool, row * blocks * self.depth);
        let tile = Tile::new(&mut y[..blocks * row], blocks, row, row);
        // Few strips are shared by threads, some whole panels of channels each.
        let (threads, strips) = (pool.threads().max(1), pixels.div_ceil(strip));
        let panel = (self.matmul.panel_width() / lanes).max(1);
        let together = if strips < threads {
            let each = blocks.div_ceil(threads.div_ceil(strips.max(1)));
            each.next_multiple_of(panel)
        } else {
            blocks
        };
        tile.split_with(
            pool,
            (together, strip * lanes),
            from_line(scratch),
            self.source.copies_len(),
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

impl Task for Strip<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let conv = self.conv;
        let pixels = (self.pixel, self.tile.cols() / S::LANES);
        let input = conv
            .source
            .input(self.x, pixels, core::mem::take(&mut self.copies));
        let (_, pitch, _) = conv.matmul.vector(self.channel);
        // Vectors of a panel whose rows are one behind the other.
        let panel = match pitch == conv.matmul.panel_width() {
            true => pitch / S::LANES,
            false => 1,
        };
        let (mut block, blocks) = (0, self.tile.rows());
        while block < blocks {
            let left = blocks - block;
            if const { S::REGISTERS >= 32 } && panel == NV && left >= WIDE {
                self.panel::<S, 2, 2, WIDE>(s, input, block);
                block += WIDE;
            } else if const { S::REGISTERS >= 32 } && panel == NV && left > NV {
                self.panel::<S, 3, 1, 3>(s, input, block);
                block += 3;
            } else if panel == NV && left >= NV {
                self.panel::<S, 1, 2, 2>(s, input, block);
                block += 2;
            } else {
                self.panel::<S, 1, 1, 1>(s, input, block);
                block += 1;
            }
        }
    }
}

impl Strip<'_, '_> {
    /// The blocks that some panels are, from this one of the tile on.
    #[inline(always)]
    fn panel<S: F32s, const NP: usize, const EACH: usize, const N: usize>(
        &mut self,
        s: S,
        input: Input<'_>,
        block: usize,
    ) {
        let conv = self.conv;
        let (depth, activation) = (conv.depth, conv.matmul.activation());
        let first = self.channel + block * S::LANES;
        let (_, pitch, bias) = conv.matmul.vector(first);
        let kc = depth
            .div_ceil(depth.div_ceil(KC).max(1))
            .max(1)
            .next_multiple_of(Runs::LEN);
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
                next[p] = match then < self.tile.rows() {
                    true => from(then),
                    false => panels[p],
                };
            }
            let pass = Pass {
                input,
                terms: match conv.source.in_runs() {
                    true => Of::Runs(Runs::new(conv.terms.all(), depth).part(terms.clone())),
                    false => Of::Any(conv.terms.all().part(terms.clone())),
                },
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
