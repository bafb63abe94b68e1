//! Outputs with the same taps on the map, and the tiles that cover them.
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

use super::super::pixels::{WIDE, in_registers, most_sums};
use crate::Isa;
use crate::ops::conv_shape::ConvShape;
use crate::ops::span::{Span, pairs};
use crate::pack::even_height;
use crate::panel::Bounded;

/// Cycles of a tile beside its taps, of a tap beside its FMAs, of an FMA of a wide window and of another.
const TILE: f64 = 30.0;
const STEP: f64 = 1.0;
const FMA: [f64; 2] = [0.52, 0.9];

/// Outputs with the same taps on the map.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) rows: Span,
    pub(super) columns: Span,
    /// Whether zeros are before and behind the columns of the map, half a window of them.
    pub(super) sides: [bool; 2],
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
        (columns, sides): (&Span, [bool; 2]),
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
            sides,
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
        let (columns, sides) = match of_windows(shape, w, out.1, isa.registers()) {
            Some((all, sides)) => (vec![all], sides),
            None => (Span::all(shape, 1, w, out.1), [false; 2]),
        };
        let areas = pairs(&rows, &columns).map(|(r, c)| Self::new(shape, w, isa, r, (c, sides)));
        areas.collect()
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

/// All columns of the output, if tiles of whole windows serve them, and whether the first output's window begins, and the last one's ends, half a
/// window beside the map.
fn of_windows(
    shape: &ConvShape,
    w: usize,
    ow: usize,
    registers: usize,
) -> Option<(Span, [bool; 2])> {
    let (kernel, pad, stride) = (shape.kernel[1], shape.pads[1], shape.stride[1]);
    let r = even_height(ow, most_sums(registers));
    // All tiles but the last are of r columns.
    let last = ow.checked_sub(1)? % r + 1;
    let over = ((ow - 1) * stride + kernel).saturating_sub(pad + w);
    let is_side = |n: usize| n == 0 || n == kernel / 2;
    let fits = shape.dilation[1] == 1 && r >= WIDE && last >= WIDE;
    (in_registers(kernel, stride) && fits && is_side(pad) && is_side(over))
        .then(|| (Span::whole(kernel, ow), [pad > 0, over > 0]))
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
