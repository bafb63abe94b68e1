//! Groups of one vector of outputs: windows are cut as a tile comes to the edges of the map, which is neither copied between zeros nor cut up into areas.
//!
//! ```text
//! for each tile of one row of pixels, or of some that are short
//!     for each row of taps that is on the map
//!         for each tap of it                    of pixels at an edge without the one that it is beyond the map for
//!             for each channel                  the micro-kernel
//! ```
//! Of a map of 7 x 7 an output takes 19 x 19 taps for every 21 x 21 with zeros.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::along::{OF_A_PAIR, best_of_two};
use super::pixels::{Lanes, Pixels};
use super::source::read;
use crate::epilogue::Activation;
use crate::isa::F32s;
use crate::ops::ConvShape;
use crate::ops::span::Span;
use crate::panel::{Beside, Bounded, Even, Foreseen, Next, Rhs, Runs, Terms};
use crate::pool::Tile;
use crate::tile::gemm::{Place, Start, add, for_height, in_parts};

/// What the windows of a convolution have in common.
#[derive(Debug)]
pub(super) struct Taps {
    /// Where the runs of the channels of a tap begin.
    runs: Bounded,
    /// Rows of outputs by which rows of taps are on the map.
    rows: Vec<Span>,
    /// Pixels of a row of a tile, and how many rows it has.
    tile: (usize, usize),
    /// Outputs of a row, and pixels and rows of the map from one to the next.
    outputs: usize,
    stride: [usize; 2],
    /// Taps of a row, and pixels and rows of the map from one to the next.
    across: usize,
    dilation: [usize; 2],
    /// Pixels of the padding in front of a row of the map, and of a row of the map.
    left: usize,
    width: usize,
}

impl Taps {
    /// Of groups of one vector of outputs, or which share one, that read a map of `h` x `w` in blocks as wide from the channel `first` of a block on, where at most
    /// one output at either end of a row is beyond the map for a tap, and with registers for long tiles.
    pub(super) fn new(
        shape: &ConvShape,
        (h, w): (usize, usize),
        output: (usize, usize),
        [lanes, of_y]: [usize; 2],
        (registers, first): (usize, usize),
    ) -> Option<Self> {
        let ([_, stride], [_, dilation]) = (shape.stride, shape.dilation);
        let ([_, across], [_, left, ..]) = (shape.kernel, shape.pads);
        let outputs = shape.c_out / shape.groups.max(1);
        let of_a_vector = shape.groups > 1 && of_y.is_multiple_of(outputs.max(1)) && lanes == of_y;
        if !of_a_vector || registers < 32 || stride > 2 || output.1 < *OF_A_PAIR.start() {
            return None;
        }
        // The second output's first tap is on the map, and the last but one's last; and no tap leaves out both ends.
        let reach = (across - 1).saturating_mul(dilation);
        let last_but_one = ((output.1 - 2) * stride).saturating_add(reach);
        if left > stride || last_but_one >= left + w || (output.1 - 1) * stride > w {
            return None;
        }
        let channels = (first..first + read(shape)).step_by(Runs::LEN);
        let run = |c: usize| (c / lanes * h * w * lanes + c % lanes) as u32;
        Some(Self {
            runs: Bounded::all_of(channels.map(run).collect()),
            rows: Span::all(shape, 0, h, output.0),
            tile: best_of_two(output.1)?,
            outputs: output.1,
            stride: shape.stride,
            across,
            dilation: shape.dilation,
            left,
            width: w,
        })
    }
}

/// A block of outputs.
pub(super) struct Cut<'a> {
    pub(super) taps: &'a Taps,
    /// What its group reads.
    pub(super) x: &'a [f32],
    pub(super) panel: &'a [f32],
    /// From one row of the panel to the next.
    pub(super) pitch: usize,
    /// The panel that is used next.
    pub(super) next: &'a [f32],
    pub(super) block: usize,
    pub(super) lanes: Lanes,
    pub(super) start: Start<'a>,
    pub(super) activation: Activation,
}

/// Rows of outputs with the same taps on the map.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// The map from the row on that the first output's first tap is in.
    x: &'a [f32],
    panel: &'a [f32],
    next: &'a [f32],
    /// Rows of taps.
    taps: usize,
    /// The first one's pixel in the tile.
    first: usize,
}

impl Cut<'_> {
    /// The outputs from this pixel on that the tile has room for.
    #[inline(always)]
    pub(super) fn run<S: F32s>(&self, s: S, pixel: usize, out: &mut Tile<'_>) {
        let taps = self.taps;
        let width = taps.outputs;
        let (begin, end) = (pixel / width, (pixel + out.cols() / S::LANES) / width);
        for span in &taps.rows {
            let outputs = span.outputs.start.max(begin)..span.outputs.end.min(end);
            if outputs.is_empty() {
                continue;
            }
            let row = span.at + (outputs.start - span.outputs.start) * taps.stride[0];
            let x = row * taps.width * S::LANES;
            let before = span.taps.start * taps.across * taps.runs.len() * Runs::LEN * self.pitch;
            let of = |panel| <[f32]>::get(panel, before..).unwrap_or(&[]);
            let rows = Rows {
                x: &self.x[x.min(self.x.len())..],
                panel: of(self.panel),
                next: of(self.next),
                taps: span.taps.len(),
                first: (outputs.start - begin) * width,
            };
            self.rows(s, rows, outputs.len(), out);
        }
    }

    #[inline(always)]
    fn rows<S: F32s>(&self, s: S, rows: Rows<'_>, count: usize, out: &mut Tile<'_>) {
        let (height, of_a_tile) = self.taps.tile;
        if of_a_tile == 1 {
            for_height!(@ height, MR, {
                if const { S::REGISTERS >= 32 } {
                    self.tiles::<S, 1, MR>(s, rows, (0, count), out);
                }
            }, 12 14 16 20 24 26 28);
            return;
        }
        let pairs = count / 2 * 2;
        for_height!(@ height, W, {
            if const { S::REGISTERS >= 32 } {
                self.tiles::<S, 2, { 2 * W }>(s, rows, (0, pairs), out);
                self.tiles::<S, 1, W>(s, rows, (pairs, count), out);
            }
        }, 6 7 8 9 10 11 12 13 14);
    }

    /// The rows `begin..end`, in tiles of `R` rows of `MR / R` pixels.
    #[inline(always)]
    fn tiles<S: F32s, const R: usize, const MR: usize>(
        &self,
        s: S,
        rows: Rows<'_>,
        (begin, end): (usize, usize),
        out: &mut Tile<'_>,
    ) {
        if begin == end {
            return;
        }
        let mut out = out.sub(0..out.rows(), 0..out.cols());
        match self.taps.stride[1] {
            1 => s.outline(
                #[inline(always)]
                || self.all::<S, R, MR, 1>(s, rows, (begin, end), &mut out),
            ),
            _ => s.outline(
                #[inline(always)]
                || self.all::<S, R, MR, 2>(s, rows, (begin, end), &mut out),
            ),
        }
    }

    /// As [`tiles`](Self::tiles), of outputs `T` pixels of the map apart.
    #[inline(always)]
    fn all<S: F32s, const R: usize, const MR: usize, const T: usize>(
        &self,
        s: S,
        rows: Rows<'_>,
        (begin, end): (usize, usize),
        out: &mut Tile<'_>,
    ) {
        let (width, each) = (self.taps.outputs, const { MR / R });
        let tiles = (end - begin) / R * width.div_ceil(each);
        // Of parts of two rows, where the second is.
        let mut apart = [0; MR];
        for (i, apart) in apart.iter_mut().enumerate() {
            *apart = (i % each + i / each * width) as u32;
        }
        let apart = (R > 1 && each < width).then_some(&apart);
        let mut nth = 0;
        for row in (begin..end).step_by(R) {
            for pixel in (0..width).step_by(each) {
                // The last one of a row begins where it ends with it, so some pixels are computed twice.
                let pixel = pixel.min(width - each);
                self.tile::<S, R, MR, T>(s, rows, (row, pixel, apart), (nth, tiles), out);
                nth += 1;
            }
        }
    }

    /// The tile that begins with this pixel of this row.
    #[inline(always)]
    fn tile<S: F32s, const R: usize, const MR: usize, const T: usize>(
        &self,
        s: S,
        rows: Rows<'_>,
        (row, pixel, apart): (usize, usize, Option<&[u32; MR]>),
        nth: (usize, usize),
        out: &mut Tile<'_>,
    ) {
        let taps = self.taps;
        let runs = Runs::new(taps.runs.all(), taps.runs.len() * Runs::LEN);
        let depth = runs.len();
        let terms = Even::new(0, self.pitch, rows.taps * taps.across * depth);
        let weights =
            Foreseen::<S, _, 1, 1, false>::new([rows.panel], terms, Next::panels([rows.next]), nth);
        let to = Pixels {
            blocks: out.in_order::<1>(self.block),
            at: (rows.first + row * taps.outputs + pixel) * S::LANES,
            apart,
            lanes: self.lanes,
        };
        let mut place = Place {
            to,
            start: self.start,
            activation: self.activation,
        };
        let (line, step) = (taps.width * S::LANES, const { T * S::LANES });
        let below = taps.stride[0].saturating_mul(line);
        in_parts::<S, MR, 1>(
            s,
            &mut place,
            #[inline(always)]
            |acc| {
                for down in 0..rows.taps {
                    for beside in 0..taps.across {
                        let tap = (down * taps.across + beside) * depth;
                        let w = Rhs::<S, 1>::part(weights, tap..tap + depth);
                        // Pixels of the padded row.
                        let first = pixel * T + beside * taps.dilation[1];
                        let last = first + const { (MR / R - 1) * T };
                        let from = row * below + down * taps.dilation[0] * line;
                        let x = |first: usize| {
                            let from = from + (first - taps.left) * S::LANES;
                            core::array::from_fn(|r| &rows.x[from + r * below..])
                        };
                        if first < taps.left {
                            let x = Beside::<_, MR, R, 1, 0>::new(x(first + T), step, runs);
                            add(s, depth, x, w, acc);
                        } else if last >= taps.left + taps.width {
                            let x = Beside::<_, MR, R, 0, 1>::new(x(first), step, runs);
                            add(s, depth, x, w, acc);
                        } else {
                            let x = Beside::<_, MR, R>::new(x(first), step, runs);
                            add(s, depth, x, w, acc);
                        }
                    }
                }
            },
        );
    }
}
