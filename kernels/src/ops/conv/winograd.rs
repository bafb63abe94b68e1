//! Convolution with a window of 3 x 3 by Winograd's minimal filtering: a quarter (4 x 4 outputs a tile) or 4/9 (2 x 2) of the
//! multiplications.
//!
//! ```text
//! U = G w G'         once, when packed; N x N points a pair of channels, N = M + 2
//! V = B' d B         each tile of N x N inputs, the tiles M apart
//! Y = A' (Σ_ci U * V) A + bias
//! ```
//! so that N x N independent products `[c_out x c_in] · [c_in x tiles]` remain, one a point. A dead input channel is a plane
//! that is not transformed and a step that the products leave out; a dead output is a row that is neither multiplied nor transformed.
#![forbid(unsafe_code)]

mod block;
mod choice;
mod gather;
mod maps;
mod product;
mod rows;
mod transform;

use alloc::vec::Vec;

use crate::buffer::Buffer;
use crate::epilogue::Activation;
use crate::ops::{Algorithm, ConvShape, ConvSpec};
use crate::pack::{extent, live_of};
use crate::panel::{Below, LINE, lines, take, take_indices};
use crate::pool::{Pool, Tile, worth};
use crate::{Channels, Error, Isa};

use block::{Block, Inputs};

/// Outputs of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    F2,
    F4,
}

impl Form {
    /// Rows and columns of the outputs of a tile.
    pub(super) fn m(self) -> usize {
        match self {
            Form::F2 => 2,
            Form::F4 => 4,
        }
    }
    /// Points, of both axes.
    pub(super) fn points(self) -> usize {
        (self.m() + 2) * (self.m() + 2)
    }
    /// Whether it can serve a convolution.
    pub(super) fn serves(shape: &ConvShape) -> bool {
        shape.kernel == [3, 3]
            && shape.stride == [1, 1]
            && shape.dilation == [1, 1]
            && shape.groups == 1
    }
}

/// How a convolution is computed, where not directly.
pub(super) struct Choice {
    pub(super) form: Form,
    pub(super) sizes: Sizes,
    /// So many live inputs, and less, are computed directly after all.
    pub(super) few: usize,
}

/// How to compute a convolution, where not directly.
pub(super) fn choose(
    isa: Isa,
    spec: &ConvSpec<'_>,
    hw: (usize, usize),
) -> Result<Option<Choice>, Error> {
    let form = match spec.algorithm {
        Algorithm::Direct => return Ok(None),
        Algorithm::Winograd2 => Form::F2,
        Algorithm::Winograd4 => Form::F4,
        Algorithm::Fastest | Algorithm::Adaptive => {
            let fastest = choice::fastest(isa, &spec.shape, hw);
            return Ok(fastest.map(|(form, sizes)| Choice {
                few: match spec.algorithm {
                    Algorithm::Adaptive => choice::few(isa, form, &spec.shape, hw, &sizes),
                    _ => 0,
                },
                form,
                sizes,
            }));
        }
    };
    if !Form::serves(&spec.shape) {
        return Err(Error::Invalid {
            what: "Winograd's filtering needs a window of 3 x 3 with steps and dilations of 1, and no groups",
        });
    }
    let sizes = Sizes::new(isa, form, &spec.shape, hw)?;
    Ok(Some(Choice {
        form,
        sizes,
        few: 0,
    }))
}

/// Rows of a weights panel: what one vector of tiles leaves registers for. With two vectors half of them are multiplied at a time.
pub(super) const fn height(registers: usize) -> usize {
    if registers >= 32 { 16 } else { 12 }
}

/// Packed weights: `[point][kept outputs / height][kept inputs][height]`.
#[derive(Debug)]
pub(super) struct Winograd {
    isa: Isa,
    form: Form,
    sizes: Sizes,
    /// Kept channels.
    c_in: Vec<u32>,
    c_out: Vec<u32>,
    /// 0, 1, 2 ...: the steps and rows without a mask; and where the steps are in a panel.
    in_order: Vec<u32>,
    offsets: Vec<u32>,
    height: usize,
    panels: Buffer,
}

/// Weights as blocks read them: the panels, steps of each, and elements from one point to the next.
#[derive(Clone, Copy)]
struct Packed<'a> {
    panels: &'a [f32],
    depth: usize,
    plane: usize,
    form: Form,
}

/// The live channels of a run.
#[derive(Clone, Copy)]
struct Live<'a> {
    /// Their input planes, and where their steps are in a panel.
    channels: &'a [u32],
    offsets: Below<'a>,
    /// The live packed rows, and which channels of the output they are; both ascend.
    from: &'a [u32],
    to: &'a [u32],
    /// Of the packed rows.
    bias: Option<&'a [f32]>,
    activation: Activation,
}

/// Sizes that follow from the shape and the map.
#[derive(Debug)]
pub(super) struct Sizes {
    input: (usize, usize),
    output: (usize, usize),
    /// Output channels.
    channels: usize,
    /// Zeros above and to the left.
    pads: (usize, usize),
    /// Tiles of the map.
    tiles: (usize, usize),
    /// Vectors of tiles in a block.
    wide: usize,
    /// Outputs that are multiplied before they are transformed.
    together: usize,
    /// Elements of a phase of the half-transformed plane, and of a row of the stage.
    half_pitch: usize,
    stage_pitch: usize,
}

impl Sizes {
    fn new(isa: Isa, form: Form, shape: &ConvShape, hw: (usize, usize)) -> Result<Self, Error> {
        let output = shape.output(hw)?;
        let (m, points, lanes) = (form.m(), form.points(), isa.lanes());
        let tiles = (output.0.div_ceil(m), output.1.div_ceil(m));
        // Rows and columns of all tiles, the border included.
        extent(&[tiles.0 + 1, tiles.1 + 1, m * m], "padded x")?;
        extent(&[shape.c_in, points, 2 * lanes], "padded x")?;
        let deep = points * shape.c_in * 2 * lanes > INPUTS
            || isa.broadcasts() && shape.c_in >= BROADCAST_INPUTS;
        let wide = if tiles.0 * tiles.1 <= lanes || deep {
            1
        } else {
            2
        };
        let together = PRODUCTS / (points * wide * lanes);
        // Rows of tiles that the tiles of a block can touch.
        let rows = (wide * lanes).div_ceil(tiles.1) + 1;
        Ok(Sizes {
            input: hw,
            output,
            channels: shape.c_out,
            pads: (shape.pads[0], shape.pads[1]),
            tiles,
            wide,
            together: together.next_multiple_of(TILES),
            half_pitch: lines((rows.min(tiles.0) + 1) * tiles.1 + 2 * lanes),
            stage_pitch: lines((wide * m + 1) * lanes),
        })
    }

    /// Elements from a point of the transformed inputs of `channels` to the next.
    fn apart(&self, channels: usize, lanes: usize) -> usize {
        channels * self.wide * lanes + LINE
    }
    /// Outputs that a block of products has room for: a last tile may have more than there are.
    fn rows_of_m(&self) -> usize {
        self.together + height(usize::MAX)
    }
}

/// A multiple of every tile's height.
const TILES: usize = 48;
/// Elements of a block of products: a quarter of L2 (1 MiB).
const PRODUCTS: usize = 64 * 1024;
/// Elements of the transformed inputs of a block, above which blocks are one vector wide.
const INPUTS: usize = 320 * 1024;
/// Inputs from which on they are one vector wide, too, where an FMA broadcasts: 16 x 1 products take fewer instructions than 8 x 2, and read the
/// weights twice as often. Measured on a Xeon: 0.90 to 0.95 of the time with 128 inputs, 1.02 with 64, 1.08 with 32.
const BROADCAST_INPUTS: usize = 96;

impl Winograd {
    /// Packs the kept channels, inputs and outputs.
    pub(super) fn pack(
        isa: Isa,
        form: Form,
        sizes: Sizes,
        spec: &ConvSpec<'_>,
        (c_in, c_out): (Vec<u32>, Vec<u32>),
    ) -> Result<Self, Error> {
        let height = height(isa.registers());
        let (rows, depth) = (c_out.len(), c_in.len());
        let plane = extent(&[rows.next_multiple_of(height), depth], "weights")?;
        // Vectors of the last row may be loaded.
        let mut panels = Buffer::zeros(extent(&[plane, form.points()], "packed weights")? + LINE);
        let out = &mut panels[..];
        let mut put = |at: usize, u: &[f32]| {
            for (point, &u) in u.iter().enumerate() {
                out[point * plane + at] = u;
            }
        };
        for (i, &co) in c_out.iter().enumerate() {
            for (t, &ci) in c_in.iter().enumerate() {
                let first = (co as usize * spec.shape.c_in + ci as usize) * 9;
                let window = spec.weights[first..].first_chunk().expect("nine taps");
                let at = (i / height * depth + t) * height + i % height;
                match form {
                    Form::F2 => put(at, transform::weights::<4>(window).as_flattened()),
                    Form::F4 => put(at, transform::weights::<6>(window).as_flattened()),
                }
            }
        }
        Ok(Self {
            isa,
            form,
            sizes,
            in_order: (0..rows.max(depth) as u32).collect(),
            offsets: (0..depth as u32).map(|t| t * height as u32).collect(),
            c_in,
            c_out,
            height,
            panels,
        })
    }

    /// The kernel that serves it.
    pub(super) fn row_name(&self) -> &'static str {
        let op = match self.form {
            Form::F2 => "winograd_2x2",
            Form::F4 => "winograd_4x4",
        };
        crate::table::find(op, self.isa).name
    }

    fn packed(&self) -> Packed<'_> {
        Packed {
            panels: &self.panels,
            depth: self.c_in.len(),
            plane: self.plane(),
            form: self.form,
        }
    }

    /// Elements of a point.
    fn plane(&self) -> usize {
        self.c_out.len().next_multiple_of(self.height) * self.c_in.len()
    }

    /// Scratch for the transformed inputs of a block.
    fn inputs(&self) -> usize {
        let apart = self.sizes.apart(self.c_in.len(), self.isa.lanes());
        lines(self.form.points() * apart)
    }

    /// Scratch of a thread beside that.
    fn room(&self) -> usize {
        let (m, points) = (self.form.m(), self.form.points());
        let (sizes, vectors) = (&self.sizes, self.sizes.wide * self.isa.lanes());
        // Each term is limited by an extent that was checked, or by a constant.
        lines((m + 2) * m * sizes.half_pitch)
            + lines(sizes.rows_of_m() * points * vectors)
            + lines(m * sizes.stage_pitch)
            + rows::room(self.c_out.len(), self.height)
    }

    /// Elements of scratch that [`Winograd::run`] needs.
    pub(super) fn scratch_len(&self, threads: usize) -> usize {
        let lists = 3 * lines(self.c_in.len()) + 2 * lines(self.c_out.len()) + LINE;
        (self.room() + self.inputs())
            .saturating_mul(threads.max(1))
            .saturating_add(lists)
            .saturating_add(gather::scratch_len(self))
    }

    /// Computes y; operands and masks are checked, and `scratch` begins on a cache line.
    pub(super) fn run(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        (live_in, live_out): (Option<Channels<'_>>, Option<Channels<'_>>),
        (bias, activation): (Option<&[f32]>, Activation),
        y: &mut [f32],
        scratch: &mut [f32],
    ) {
        let sizes = &self.sizes;
        let mut rest = scratch;
        let (list, channels) = live_of(&self.c_in, &self.in_order, 0, live_in, &mut rest);
        let (from, to) = live_of(&self.c_out, &self.in_order, 0, live_out, &mut rest);
        let offsets = if live_in.is_none() {
            &self.offsets[..]
        } else {
            let offsets = take_indices(&mut rest, list.len());
            for (to, &step) in offsets.iter_mut().zip(list) {
                *to = self.offsets[step as usize];
            }
            offsets
        };
        let live = Live {
            channels,
            offsets: Below::all(offsets),
            from,
            to,
            bias,
            activation,
        };
        let pixels = sizes.output.0 * sizes.output.1;
        let lanes = sizes.tiles.0 * sizes.tiles.1;
        let macs = (from.len() * list.len()).saturating_mul(lanes * self.form.points());
        let pool = worth(pool, macs);
        let block = self.cut(pool.threads(), from.len() == self.c_out.len());
        let (room, inputs) = (self.room(), self.inputs());
        let vectors = lanes.div_ceil(self.isa.lanes());
        let (packed, live) = gather::live_only(self, live, vectors, pool, &mut rest)
            .unwrap_or((self.packed(), live));
        // Threads that share the only block share its inputs.
        let (v, each) = if block.0 < sizes.channels && vectors <= sizes.wide {
            let v = take(&mut rest, inputs);
            self.transform(pool, x, channels, v, rest);
            (Some(&*v), room)
        } else {
            (None, room + inputs)
        };
        let out = Tile::new(y, sizes.channels, pixels, pixels);
        let tile_row = self.form.m() * sizes.output.1;
        out.split_with(pool, block, rest, each, |row, column, out, room| {
            self.isa.run(Block {
                packed,
                sizes,
                live,
                x,
                row,
                above: column / tile_row,
                out,
                v,
                room,
            });
        });
    }

    /// Transforms the inputs of a map that is one block.
    fn transform(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        channels: &[u32],
        v: &mut [f32],
        rest: &mut [f32],
    ) {
        let (sizes, lanes) = (&self.sizes, self.isa.lanes());
        let tiles = sizes.tiles.0 * sizes.tiles.1;
        let vectors = tiles.div_ceil(lanes) * lanes;
        let apart = sizes.apart(channels.len(), lanes);
        let each = channels.len().div_ceil(JOBS * pool.threads()).max(1);
        let points = self.form.points();
        let v = Tile::new(v, points, channels.len() * vectors, apart);
        let block = (points, each * vectors);
        v.split_with(pool, block, rest, self.room(), |_, column, v, room| {
            let channels = &channels[column / vectors..][..v.cols() / vectors];
            self.isa.run(Inputs {
                sizes,
                form: self.form,
                x,
                channels,
                v,
                room,
            });
        });
    }

    /// Channels and pixels of a job; `all`: every output is live.
    fn cut(&self, threads: usize, all: bool) -> (usize, usize) {
        let (c_out, tiles) = (self.sizes.channels, self.sizes.tiles);
        let row = self.form.m() * self.sizes.output.1;
        let vectors = (tiles.0 * tiles.1).div_ceil(self.isa.lanes());
        if threads <= 1 || vectors >= 2 * threads {
            (c_out, tiles.0.div_ceil(threads.max(1)) * row)
        } else {
            // Several jobs a thread where they share their inputs, so that one that comes late has less to do. Otherwise every thread
            // transforms all inputs, which is less than the lanes that cut vectors would lose.
            let jobs = match (vectors <= self.sizes.wide, all) {
                (true, true) => JOBS * threads,
                (true, false) => 2 * threads,
                _ => threads,
            };
            let each = c_out.div_ceil(jobs).next_multiple_of(self.height);
            (each, tiles.0 * row)
        }
    }
}

/// Jobs a thread, of those that are cheap to cut.
const JOBS: usize = 4;
