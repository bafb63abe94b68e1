//! What becomes of the padding: outputs by which taps of their windows are on the map, or zeros round a copy of it.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use super::ConvShape;

/// Outputs with the same taps on the map.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    pub(crate) outputs: Range<usize>,
    pub(crate) taps: Range<usize>,
    /// Where the first output's first tap is on the map.
    pub(crate) at: usize,
}

impl Span {
    /// Taps of all spans of a window of `kernel` along an axis, at most: one ends where the window's first or last tap leaves the map.
    pub(crate) fn taps(kernel: usize) -> usize {
        kernel.saturating_mul(kernel.saturating_mul(2).saturating_add(1))
    }

    /// So many outputs, whose windows of `kernel` taps are whole.
    pub(crate) fn whole(kernel: usize, outputs: usize) -> Self {
        Self {
            outputs: 0..outputs,
            taps: 0..kernel,
            at: 0,
        }
    }

    /// For each tap along an axis the outputs that it is on the map for, if it is for any.
    pub(crate) fn of_taps(
        shape: &ConvShape,
        axis: usize,
        extent: usize,
        outputs: usize,
    ) -> Vec<Self> {
        let (pad, stride) = (shape.pads[axis], shape.stride[axis]);
        let of = |tap: usize| {
            let reach = tap * shape.dilation[axis];
            let start = pad.saturating_sub(reach).div_ceil(stride);
            let end = (extent + pad).saturating_sub(reach).div_ceil(stride);
            let end = end.min(outputs);
            (start < end).then(|| Self {
                outputs: start..end,
                taps: tap..tap + 1,
                at: start * stride + reach - pad,
            })
        };
        (0..shape.kernel[axis]).filter_map(of).collect()
    }

    /// All outputs along an axis, span by span.
    pub(crate) fn all(shape: &ConvShape, axis: usize, extent: usize, outputs: usize) -> Vec<Self> {
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
                }),
            }
        }
        spans
    }
}

/// Each row with each column.
pub(crate) fn pairs<'a, R, C>(
    rows: &'a [R],
    columns: &'a [C],
) -> impl Iterator<Item = (&'a R, &'a C)> {
    let with = move |row| columns.iter().map(move |column| (row, column));
    rows.iter().flat_map(with)
}

/// Zeros round a map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Border {
    pub(crate) top: usize,
    pub(crate) left: usize,
    /// The extents with them.
    pub(crate) map: (usize, usize),
}

impl Border {
    pub(crate) fn new(shape: &ConvShape, (h, w): (usize, usize), out: (usize, usize)) -> Self {
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
    pub(crate) fn copy(self, x: &[f32], (h, w): (usize, usize), room: &mut [f32], lanes: usize) {
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
