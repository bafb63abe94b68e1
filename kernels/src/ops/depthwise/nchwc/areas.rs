//! Outputs with the same taps on the map, and the tiles that cover them.
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::super::pixels::{WIDE, in_registers, most_sums};
use crate::Isa;
use crate::ops::conv_shape::ConvShape;
use crate::pack::even_height;
use crate::panel::Bounded;

/// Cycles of a tile beside its taps, of a tap beside its FMAs, of an FMA of a wide window and of another.
const TILE: f64 = 30.0;
const STEP: f64 = 1.0;
const FMA: [f64; 2] = [0.52, 0.9];

/// Zeros round a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Border {
    pub(super) top: usize,
    pub(super) left: usize,
    /// The extents with them.
    pub(super) map: (usize, usize),
}

impl Border {
    pub(super) fn new(shape: &ConvShape, (h, w): (usize, usize), out: (usize, usize)) -> Self {
        let [top, left, ..] = shape.pads;
        let reach = |axis: usize, outputs: usize| {
            (outputs - 1) * shape.stride[axis] + (shape.kernel[axis] - 1) * shape.dilation[axis] + 1
        };
        let map = (
            (top + h).max(reach(0, out.0)),
            (left + w).max(reach(1, out.1)),
        );
        Self { top, left, map }
    }

    /// Copies maps of `h` x `w` x `lanes` floats into rooms whose border is zero.
    pub(super) fn copy(self, x: &[f32], (h, w): (usize, usize), room: &mut [f32], lanes: usize) {
        if h * w == 0 {
            return;
        }
        let rooms = room.chunks_exact_mut(self.map.0 * self.map.1 * lanes);
        for (room, x) in rooms.zip(x.chunks_exact(h * w * lanes)) {
            let lines = room.chunks_exact_mut(self.map.1 * lanes).skip(self.top);
            for (to, from) in lines.zip(x.chunks_exact(w * lanes)) {
                to[self.left * lanes..][..w * lanes].copy_from_slice(from);
            }
        }
    }
}

/// Outputs with the same taps on the map.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) rows: Span,
    pub(super) columns: Span,
    /// Where the taps are, seen from the first one of the first output, and where their weights are.
    pub(super) taps: [Bounded; 2],
    /// Columns and rows of a tile.
    pub(super) tile: (usize, usize),
}

impl Area {
    pub(super) fn new(
        shape: &ConvShape,
        width: usize,
        isa: Isa,
        rows: &Span,
        columns: &Span,
    ) -> Self {
        let ([_, kw], [dh, dw], lanes) = (shape.kernel, shape.dilation, isa.lanes());
        let list = |place: &dyn Fn(usize, usize) -> usize| {
            let down = rows.taps.clone();
            let taps = down.flat_map(|k| columns.taps.clone().map(move |l| (k, l)));
            Bounded::all_of(taps.map(|(k, l)| (place(k, l) * lanes) as u32).collect())
        };
        let (k0, l0) = (rows.taps.start, columns.taps.start);
        Self {
            taps: [
                list(&|k, l| (k - k0) * dh * width + (l - l0) * dw),
                list(&|k, l| k * kw + l),
            ],
            tile: tile_of(isa.registers(), rows.outputs.len(), columns.outputs.len()),
            rows: rows.clone(),
            columns: columns.clone(),
        }
    }

    /// Those of a map.
    pub(super) fn all(
        shape: &ConvShape,
        (h, w): (usize, usize),
        out: (usize, usize),
        isa: Isa,
    ) -> Vec<Self> {
        let rows = Span::all(shape, 0, h, out.0);
        let columns = match Span::of_windows(shape, w, out.1, isa.registers()) {
            Some(all) => vec![all],
            None => Span::all(shape, 1, w, out.1),
        };
        let pairs = rows
            .iter()
            .flat_map(|r| columns.iter().map(move |c| (r, c)));
        pairs.map(|(r, c)| Self::new(shape, w, isa, r, c)).collect()
    }

    /// Cycles of a block, on Zen 5.
    pub(super) fn cycles(&self) -> f64 {
        let ((r, q), count) = (
            self.tile,
            [&self.columns, &self.rows].map(|span| span.outputs.len()),
        );
        let tiles = (count[0].div_ceil(r) * count[1].div_ceil(q)) as f64;
        let outputs = (count[0] * count[1]) as f64;
        let fma = FMA[usize::from(r < WIDE)];
        tiles * TILE + self.taps[0].len() as f64 * (tiles * STEP + outputs * fma)
    }
}

/// Outputs along an axis with the same taps on the map.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) outputs: Range<usize>,
    pub(super) taps: Range<usize>,
    /// Where the first output's first tap is on the map.
    pub(super) at: usize,
    /// Whether the first output's window begins, and the last one's ends, half a window beside the map.
    pub(super) sides: [bool; 2],
}

impl Span {
    /// All columns of the output, if tiles of whole windows serve them.
    pub(super) fn of_windows(
        shape: &ConvShape,
        w: usize,
        ow: usize,
        registers: usize,
    ) -> Option<Self> {
        let (kernel, pad, stride) = (shape.kernel[1], shape.pads[1], shape.stride[1]);
        let r = even_height(ow, most_sums(registers));
        // All tiles but the last are of r columns.
        let last = ow.checked_sub(1)? % r + 1;
        let over = ((ow - 1) * stride + kernel).saturating_sub(pad + w);
        let is_side = |n: usize| n == 0 || n == kernel / 2;
        let fits = shape.dilation[1] == 1 && r >= WIDE && last >= WIDE;
        (in_registers(kernel, stride) && fits && is_side(pad) && is_side(over)).then_some(Self {
            outputs: 0..ow,
            taps: 0..kernel,
            at: 0,
            sides: [pad > 0, over > 0],
        })
    }

    /// All outputs along an axis, span by span.
    pub(super) fn all(shape: &ConvShape, axis: usize, extent: usize, outputs: usize) -> Vec<Self> {
        let (kernel, pad) = (shape.kernel[axis], shape.pads[axis]);
        let (stride, dilation) = (shape.stride[axis], shape.dilation[axis]);
        let mut spans: Vec<Self> = Vec::new();
        for i in 0..outputs {
            let first = i * stride;
            let start = pad.saturating_sub(first).div_ceil(dilation).min(kernel);
            let end = (extent + pad).saturating_sub(first).div_ceil(dilation);
            let taps = start..end.clamp(start, kernel);
            match spans.last_mut() {
                Some(span) if span.taps == taps => span.outputs.end += 1,
                _ => spans.push(Self {
                    outputs: i..i + 1,
                    at: (first + start * dilation).saturating_sub(pad).min(extent),
                    taps,
                    sides: [false; 2],
                }),
            }
        }
        spans
    }
}

/// Columns and rows of the tiles of an area.
fn tile_of(registers: usize, rows: usize, columns: usize) -> (usize, usize) {
    let most = most_sums(registers);
    let r = even_height(columns, most);
    let q = match r {
        1 => most.min(8),
        2 => most.min(8) / 2,
        3..WIDE => (most / r).min(3),
        _ => 1,
    };
    (r, even_height(rows, q))
}
