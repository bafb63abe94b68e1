//! Maps in blocks as convolutions read them: as they are, or strips of them copied between zeros.
#![forbid(unsafe_code)]

use crate::ops::ConvShape;
use crate::panel::lines;

/// A map in blocks, as the terms see it.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Rows and columns, those of the border among them.
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Rows above and columns to the left of the map, if strips of it are copied between zeros; `rows` are those of a strip then.
    pub(super) border: Option<[usize; 2]>,
    /// Whether all pixels are one run.
    pub(super) flat: bool,
}

impl Blocks {
    /// As a strip of `strip` rows of the output reads it.
    pub(super) fn new(shape: &ConvShape, (h, w): (usize, usize), strip: usize) -> Self {
        let reach = |axis: usize, outputs: usize| {
            (outputs - 1) * shape.stride[axis] + (shape.kernel[axis] - 1) * shape.dilation[axis] + 1
        };
        let [top, left, bottom, right] = shape.pads;
        let border = shape.pads != [0; 4];
        Self {
            rows: if border {
                reach(0, strip).min(top + h + bottom)
            } else {
                h
            },
            columns: if border { left + w + right } else { w },
            border: border.then_some([top, left]),
            flat: shape.kernel == [1, 1] && shape.stride == [1, 1] && !border,
        }
    }

    /// Elements of the copies of `blocks` blocks.
    pub(super) fn copies_len(&self, blocks: usize, lanes: usize) -> usize {
        match self.border {
            Some(_) => lines((self.rows * self.columns).saturating_mul(blocks * lanes)),
            None => 0,
        }
    }

    /// Copies the rows from `first` on, counted from the border's first.
    pub(super) fn copy(
        &self,
        x: &[f32],
        (h, w): (usize, usize),
        first: usize,
        room: &mut [f32],
        lanes: usize,
    ) {
        let [top, left] = self.border.unwrap_or_default();
        let block = self.rows * self.columns * lanes;
        for (i, room) in room.chunks_exact_mut(block.max(1)).enumerate() {
            let x = &x[i * h * w * lanes..];
            for (r, row) in room.chunks_exact_mut(self.columns * lanes).enumerate() {
                let y = (first + r).wrapping_sub(top);
                if y >= h {
                    row.fill(0.0);
                    continue;
                }
                let (before, row) = row.split_at_mut(left * lanes);
                let (inside, behind) = row.split_at_mut(w * lanes);
                before.fill(0.0);
                inside.copy_from_slice(&x[y * w * lanes..][..w * lanes]);
                behind.fill(0.0);
            }
        }
    }
}
