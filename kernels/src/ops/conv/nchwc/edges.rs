//! What is done about windows that reach beyond the map: areas of outputs with the same taps on it, or copies between zeros.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::super::taps;
use super::pass::WIDE;
use super::source::{read, whole};
use crate::isa::WIDEST;
use crate::ops::ConvShape;
use crate::ops::span::{Border, Span, pairs};

/// Terms of all windows that are listed, at most: 8 MiB.
pub(super) const LISTED: usize = 1 << 20;
/// Elements of the weights that a strip reads at once, above which L2 does not keep them.
const KEPT: usize = 128 * 1024;
/// Pixels of a tile by one to four vectors.
const HIGH: [usize; WIDE] = [8, 8, 5, 6];
/// Pixels along a row that are one tile by one vector of outputs, at least: 9/16 of a cycle each. Of pixels anywhere eight take 5 cycles.
const ALONG: usize = 12;
/// Cycles of an area and of a tile beside its terms; of a row and of a vector that are copied.
const AREA: usize = 400;
const TILE: usize = 60;
const COPY: [usize; 2] = [10, 6];
/// Cycles of a term of a tile, at least, and of each vector of weights that it loads, from L2 or from farther away.
const LEAST_OF_A_TERM: usize = 5;
const LOAD: [usize; 2] = [2, 3];

/// The outputs of a map, row by row and column by column, by which of their taps are on it. Where tiles of small areas would take longer than a copy
/// with zeros beside each row, or with zeros all round, the border of that, and all columns, or all, as one.
pub(super) fn spans(
    shape: &ConvShape,
    (h, w): (usize, usize),
    output: (usize, usize),
    [lanes, of_y]: [usize; 2],
) -> (Option<Border>, [Vec<Span>; 2]) {
    let areas = [(0, h, output.0), (1, w, output.1)]
        .map(|(axis, extent, outputs)| Span::all(shape, axis, extent, outputs));
    let all = Border::new(shape, (h, w), output);
    let beside = Border {
        top: 0,
        map: (h, all.map.1),
        ..all
    };
    let [rows, columns] = whole(shape, output);
    let some_rows = areas[0].clone();
    let forms = [
        (None, areas),
        (Some(beside), [some_rows, columns.clone()]),
        (Some(all), [rows, columns]),
    ];
    let listed = |[rows, columns]: &[Vec<Span>; 2]| {
        let taps = |spans: &[Span]| spans.iter().map(|span| span.taps.len()).sum();
        let all = [rows, columns].map(|spans| taps(spans));
        all.into_iter().fold(read(shape), usize::saturating_mul)
    };
    let best = forms.into_iter().min_by_key(|(border, spans)| {
        let copy = border.map_or(0, |border| {
            let row = COPY[0] + (border.map.1 * lanes).div_ceil(WIDEST) * COPY[1];
            (border.map.0 * row).saturating_mul(shape.c_in.div_ceil(lanes))
        });
        let cycles = copy.saturating_add(cycles(shape, spans, of_y));
        (listed(spans) > LISTED, cycles)
    });
    best.expect("there are three")
}

/// What the areas of a map take, estimated.
fn cycles(shape: &ConvShape, [rows, columns]: &[Vec<Span>; 2], lanes: usize) -> usize {
    // Outputs of a group that are computed at once, and how often that happens.
    let outputs = shape.c_out / shape.groups.max(1);
    let vectors = outputs.div_ceil(lanes).clamp(1, WIDE);
    let passes = outputs.div_ceil(vectors * lanes) * shape.groups;
    let weights = (vectors * lanes).saturating_mul(read(shape) * taps(shape));
    let (high, load) = (HIGH[vectors - 1], LOAD[usize::from(weights > KEPT)]);
    let area = |r: &Span, c: &Span| {
        let pixels = r.outputs.len() * c.outputs.len();
        let tiles = pixels.div_ceil(high);
        let of_a_term = match vectors {
            1 if c.outputs.len() >= ALONG => pixels - pixels * 7 / 16,
            _ => (pixels * vectors)
                .div_ceil(2)
                .max(tiles * LEAST_OF_A_TERM.max(load * vectors)),
        };
        let terms = (r.taps.len() * c.taps.len()).saturating_mul(read(shape));
        // Rows of a panel that are not side by side are depth blocks.
        let blocks = if c.taps.len() == shape.kernel[1] {
            1
        } else {
            r.taps.len()
        };
        let beside = tiles.saturating_mul(blocks).saturating_mul(TILE);
        terms
            .saturating_mul(of_a_term)
            .saturating_add(beside.saturating_add(AREA))
    };
    let areas = pairs(rows, columns).map(|(r, c)| area(r, c));
    areas.fold(0, usize::saturating_add).saturating_mul(passes)
}
