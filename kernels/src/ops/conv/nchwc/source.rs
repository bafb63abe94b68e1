//! The map that a convolution reads, as it is, or strips of it copied between zeros. Planes are blocks of one channel.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::super::taps;
use super::pass::Input;
use crate::Error;
use crate::ops::ConvShape;
use crate::ops::nchwc::Live;
use crate::pack::{even_height, extent};
use crate::panel::lines;

/// Elements of the strip of a map, 32 KiB, so that L1 holds it; or else 512 KiB, so that L2 does while the panels pass over it.
const NEAR: usize = 8 * 1024;
const FAR: usize = 128 * 1024;
/// Pixels of a strip, at least: all weights pass through for each.
const LEAST: usize = 96;

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    shape: ConvShape,
    map: (usize, usize),
    output: (usize, usize),
    /// Channels of a block.
    lanes: usize,
    blocks: usize,
    /// Rows and columns of a block as the terms see it, those of the border among them.
    rows: usize,
    columns: usize,
    /// Whether strips are copied.
    bordered: bool,
    /// Whether pixels are side by side, as in x.
    flat: bool,
    /// Where the pixels of a strip are, unless vectors of them are side by side.
    places: Vec<u32>,
    /// Output pixels of a strip.
    pub(super) strip: usize,
}

impl Source {
    pub(super) fn new(
        shape: &ConvShape,
        (h, w): (usize, usize),
        lanes: usize,
    ) -> Result<Self, Error> {
        let output = shape.output((h, w))?;
        let (bordered, unit) = (shape.pads != [0; 4], shape.kernel == [1, 1]);
        let [top, left, bottom, right] = shape.pads;
        let (height, columns) = (top + h + bottom, left + w + right);
        let blocks = shape.c_in.div_ceil(lanes);
        let channels = extent(&[blocks, lanes], "map")?;
        extent(&[channels, height, columns], "map")?;
        extent(&[channels, h, w], "map")?;

        let flat = unit && shape.stride == [1, 1] && !bordered;
        let down = shape.stride[0];
        // Of a row of the output, or of one of its pixels.
        let (row, pixels, all) = match flat {
            true => (channels, 1, output.0 * output.1),
            false => (
                (channels * columns).saturating_mul(down),
                output.1,
                output.0,
            ),
        };
        let least = LEAST.div_ceil(pixels);
        let near = NEAR / row.max(1);
        let most = if near >= least {
            near
        } else {
            (FAR / row.max(1)).max(least)
        };
        let each = even_height(all, most);
        let reach = (each - 1) * down + (shape.kernel[0] - 1) * shape.dilation[0] + 1;
        // A step may be as large as any number where there is one output.
        let [down, across] = [
            (columns * lanes).saturating_mul(down),
            lanes.saturating_mul(shape.stride[1]),
        ];
        let strip = each * pixels;
        let place = |i: usize| match flat {
            true => (i * lanes) as u32,
            false => (i / output.1 * down + i % output.1 * across) as u32,
        };
        let in_runs = lanes > 1 && flat;
        Ok(Self {
            places: (0..if in_runs { 0 } else { strip }).map(place).collect(),
            shape: *shape,
            map: (h, w),
            output,
            lanes,
            blocks,
            rows: if bordered { reach.min(height) } else { h },
            columns,
            bordered,
            flat,
            strip,
        })
    }

    /// Elements of a map of so many channels.
    pub(super) fn len(&self, channels: usize) -> usize {
        channels.next_multiple_of(self.lanes) * self.map.0 * self.map.1
    }

    /// Whether maps are in blocks.
    pub(super) fn of_blocks(&self) -> bool {
        self.lanes > 1
    }

    /// Where the terms of the first pixel are.
    pub(super) fn terms(&self) -> Vec<u32> {
        let ConvShape {
            kernel, dilation, ..
        } = self.shape;
        let mut terms = Vec::with_capacity(self.shape.c_in * taps(&self.shape));
        for c in 0..self.shape.c_in {
            for kh in 0..kernel[0] {
                for kw in 0..kernel[1] {
                    let row = c / self.lanes * self.rows + kh * dilation[0];
                    let pixel = row * self.columns + kw * dilation[1];
                    terms.push((pixel * self.lanes + c % self.lanes) as u32);
                }
            }
        }
        terms
    }

    /// Whether pixels are side by side, and so are terms: the channels of a block.
    pub(super) fn in_runs(&self) -> bool {
        self.places.is_empty()
    }

    /// Elements of the copies of a strip.
    pub(super) fn copies_len(&self) -> usize {
        match self.bordered {
            true => lines(self.blocks * self.lanes * self.rows * self.columns),
            false => 0,
        }
    }

    /// What so many pixels from `pixel` on are read from, which begins a strip: x, or copies of blocks with a live channel.
    pub(super) fn input<'a>(
        &'a self,
        x: &'a [f32],
        live: Option<Live<'_>>,
        (pixel, pixels): (usize, usize),
        copies: &'a mut [f32],
    ) -> Input<'a> {
        let first = pixel / self.output.1 * self.shape.stride[0];
        let behind = |data: &'a [f32], at: usize| &data[at.min(data.len())..];
        let data = if self.bordered {
            self.copy(x, live, first, copies);
            copies
        } else if self.flat {
            behind(x, pixel * self.lanes)
        } else {
            behind(x, first * self.columns * self.lanes)
        };
        Input {
            data,
            pixels,
            places: &self.places,
            plane: self.map.0 * self.map.1 * self.lanes,
        }
    }

    /// Copies the rows from `first` on, counted from the border's first.
    fn copy(&self, x: &[f32], live: Option<Live<'_>>, first: usize, room: &mut [f32]) {
        let ((h, w), lanes) = (self.map, self.lanes);
        let [top, left, ..] = self.shape.pads;
        let block = self.rows * self.columns * lanes;
        let rooms = room.chunks_exact_mut(block.max(1)).take(self.blocks);
        for (i, room) in rooms.enumerate() {
            let is_dead = match live {
                None => false,
                Some(Live::InPlace(live)) => live.bits(i * lanes, lanes) == 0,
                Some(Live::Compact(live)) => live.count() <= i * lanes,
            };
            if is_dead {
                continue;
            }
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
