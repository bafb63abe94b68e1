//! What is done about windows that reach beyond the map: areas of outputs with the same taps on it, copies between zeros, or tap after tap, each for the outputs
//! that it is on the map for.
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

use super::super::taps;
use super::pass::WIDE;
use super::source::read;
use crate::Isa;
use crate::isa::WIDEST;
use crate::ops::ConvShape;
use crate::ops::span::{Border, Span, pairs};
use crate::tile::gemm::NV;

/// Terms of all windows that are listed, at most: 8 MiB.
pub(super) const LISTED: usize = 1 << 20;
/// Pixels that are listed for taps, at most: the columns of each have a list of their own, which a small file could make as long as a map is large.
const PIXELS: usize = 1 << 16;
/// Elements of the weights that a strip reads at once, above which L2 does not keep them.
const KEPT: usize = 128 * 1024;
/// Pixels of a tile by one to four vectors; by one or two with 16 registers.
const HIGH: [usize; WIDE] = [8, 8, 5, 6];
const HIGH_OF_16: [usize; NV] = [7, 6];
/// Pixels along a row that are one tile by one vector of outputs, at least: 9/16 of a cycle each. Of pixels anywhere eight take 5 cycles.
const ALONG: usize = 12;
/// Cycles of an area, or of a tap, and of a tile beside its terms; of a row and of a vector that are copied.
const OF_AREAS: [usize; 2] = [400, 60];
const OF_TAPS: [usize; 2] = [150, 40];
const COPY: [usize; 2] = [10, 6];
/// Cycles of a term of a tile, at least, and of each vector of weights that it loads, from L2 or from farther away.
const LEAST_OF_A_TERM: usize = 5;
const LOAD: [usize; 2] = [2, 3];

/// What is done.
pub(super) struct Edges {
    /// If the map is copied between zeros: what is round it there.
    pub(super) border: Option<Border>,
    /// Rows and columns of the output, by which of their taps are on the map.
    pub(super) rows: Vec<Span>,
    pub(super) columns: Vec<Span>,
    /// These are those that each tap is on the map for, and so in several spans.
    pub(super) by_taps: bool,
}

impl Edges {
    /// Where all windows are whole.
    pub(super) fn none(shape: &ConvShape, output: (usize, usize)) -> Self {
        let [down, across] = shape.kernel;
        Self {
            border: None,
            rows: vec![Span::whole(down, output.0)],
            columns: vec![Span::whole(across, output.1)],
            by_taps: false,
        }
    }

    /// What is estimated to take least: areas of outputs with the same taps, of which small ones have small tiles; the same of rows alone, with zeros beside each row
    /// of a copy; a copy with zeros all round, where all outputs are one area; or tap after tap, which multiplies no zeros and has large tiles, but reads and
    /// writes the sums for each (a sum of shifted 1x1 convolutions: A. Vasudevan et al., Parallel Multi Channel Convolution using General Matrix
    /// Multiplication, ASAP 2017). Estimated for so many live channels of a group.
    pub(super) fn new(
        shape: &ConvShape,
        (h, w): (usize, usize),
        output: (usize, usize),
        (lanes, isa): (usize, Isa),
        live: usize,
    ) -> Self {
        let axes = [(0, h, output.0), (1, w, output.1)];
        let areas = axes.map(|(axis, extent, outputs)| Span::all(shape, axis, extent, outputs));
        let taps = axes.map(|(axis, extent, outputs)| Span::of_taps(shape, axis, extent, outputs));
        let none = Self::none(shape, output);
        let border = Border::new(shape, (h, w), output);
        let beside = Border {
            top: 0,
            map: (h, border.map.1),
            ..border
        };
        let of = |border, [rows, columns]: [Vec<Span>; 2], by_taps| Self {
            border,
            rows,
            columns,
            by_taps,
        };
        let some_rows = [areas[0].clone(), none.columns.clone()];
        let forms = [
            of(None, areas, false),
            of(Some(beside), some_rows, false),
            Self {
                border: Some(border),
                ..none
            },
            of(None, taps, true),
        ];
        let cost = |form: &Self| {
            let copy = form.border.map_or(0, |border| {
                let row = COPY[0] + (border.map.1 * lanes).div_ceil(WIDEST) * COPY[1];
                (border.map.0 * row).saturating_mul((live * shape.groups).div_ceil(lanes))
            });
            let cycles = copy.saturating_add(cycles(shape, form, isa, live));
            (form.listed(shape) > LISTED, cycles)
        };
        let fits = |form: &Self| {
            let of_a_row: usize = form.columns.iter().map(|span| span.outputs.len()).sum();
            !form.by_taps || of_a_row.saturating_mul(output.0) <= PIXELS
        };
        let forms = forms.into_iter().filter(fits);
        forms.min_by_key(cost).expect("all but taps fit")
    }

    /// So many live channels, and less, would have another form: none, or half of all, a quarter and so on. A tap of few terms is not worth its sums.
    pub(super) fn few(
        &self,
        shape: &ConvShape,
        hw: (usize, usize),
        output: (usize, usize),
        of: (usize, Isa),
    ) -> usize {
        if !self.by_taps || shape.groups > 1 {
            return 0;
        }
        let mut live = shape.c_in / 2;
        while live > 0 && Self::new(shape, hw, output, of, live).by_taps {
            live /= 2;
        }
        live
    }

    /// Terms of all windows.
    fn listed(&self, shape: &ConvShape) -> usize {
        let taps = |spans: &[Span]| spans.iter().map(|span| span.taps.len()).sum();
        let all = [&self.rows, &self.columns].map(|spans| taps(spans));
        all.into_iter().fold(read(shape), usize::saturating_mul)
    }
}

/// What the areas of a map take with so many live channels of a group, estimated.
fn cycles(shape: &ConvShape, edges: &Edges, isa: Isa, live: usize) -> usize {
    let (rows, columns, lanes) = (&edges.rows, &edges.columns, isa.lanes());
    let high = match isa.registers() {
        32.. => &HIGH[..],
        _ => &HIGH_OF_16[..],
    };
    // Outputs of a group that are computed at once, and how often that happens.
    let outputs = shape.c_out / shape.groups.max(1);
    let vectors = outputs.div_ceil(lanes).clamp(1, high.len());
    let passes = outputs.div_ceil(vectors * lanes) * shape.groups;
    let weights = (vectors * lanes).saturating_mul(live * taps(shape));
    let (high, load) = (high[vectors - 1], LOAD[usize::from(weights > KEPT)]);
    let along = isa.registers() >= 32 && !edges.by_taps;
    let [each, tile] = if edges.by_taps { OF_TAPS } else { OF_AREAS };
    let area = |r: &Span, c: &Span| {
        let pixels = r.outputs.len() * c.outputs.len();
        let tiles = pixels.div_ceil(high);
        let of_a_term = match vectors {
            1 if along && c.outputs.len() >= ALONG => pixels - pixels * 7 / 16,
            _ => (pixels * vectors)
                .div_ceil(2)
                .max(tiles * LEAST_OF_A_TERM.max(load * vectors)),
        };
        let terms = (r.taps.len() * c.taps.len()).saturating_mul(live);
        // Rows of a panel that are not side by side are depth blocks.
        let blocks = if c.taps.len() == shape.kernel[1] {
            1
        } else {
            r.taps.len()
        };
        let beside = tiles.saturating_mul(blocks).saturating_mul(tile);
        terms
            .saturating_mul(of_a_term)
            .saturating_add(beside.saturating_add(each))
    };
    let areas = pairs(rows, columns).map(|(r, c)| area(r, c));
    areas.fold(0, usize::saturating_add).saturating_mul(passes)
}
