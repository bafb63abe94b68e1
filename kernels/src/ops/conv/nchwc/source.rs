//! Where the pixels and the terms of a convolution are in the map that it reads, as it lies. Planes are blocks of one channel.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::super::taps;
use super::cut::Taps;
use super::edges::{Edges, LISTED};
use super::window::Window;
use crate::ops::ConvShape;
use crate::ops::span::{Border, Span, pairs};
use crate::pack::{even_height, extent};
use crate::panel::{Bounded, Runs, lines, take};
use crate::pool::{Pool, Tile, worth};
use crate::{Channels, Error, Isa};

/// Elements of the strip of a map: 32 KiB, so that L1 holds it, or else 512 KiB, so that L2 does while the panels pass over it. Where windows go over
/// the map 128 KiB: with 32, edges are cut up, and weights that L1 does not hold pass through more often, which took 1.02 to 1.07 of the time.
const NEAR: usize = 8 * 1024;
const OF_WINDOWS: usize = 32 * 1024;
const FAR: usize = 128 * 1024;
/// Pixels of a strip, at least: all weights pass through for each.
const LEAST: usize = 96;
/// Rows and columns of a map that windows go over, at most.
const MOST: usize = 1 << 20;
/// Outputs that read a pixel often. Of 512 channels on 7 x 7, a quarter live, 2048 outputs take 0.90 of the time with the copy; with 1024 it costs what it
/// brings.
const OFTEN: usize = 2048;
/// Streams that hardware fetches ahead, and elements of a map that L2 holds: 2 MiB.
const STREAMS: usize = 32;
const CACHED: usize = 1 << 19;
/// Multiplications that a copied element costs.
const COPIED: usize = 4;
/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    shape: ConvShape,
    /// Channels that a window reads: those of a group, and the channel of a block that is the first of them.
    channels: usize,
    first: usize,
    /// If the map is copied between zeros, so that all windows are whole: what is round it there.
    border: Option<Border>,
    /// The extents of the map, and of what is read.
    inside: (usize, usize),
    map: (usize, usize),
    output: (usize, usize),
    /// Channels of a block.
    lanes: usize,
    /// From one row of a panel of weights to the next.
    pitch: usize,
    /// Whether the output has the pixels of x.
    pub(super) flat: bool,
    rows: Vec<Span>,
    columns: Vec<Columns>,
    /// Whether each tap is added to all outputs that it is on the map for before the next one is.
    pub(super) by_taps: bool,
    /// With so many live channels, and less, another source is faster.
    pub(super) few: usize,
    /// If windows are cut where they reach beyond the map: what they have in common.
    cut: Option<Taps>,
    /// Of all windows, one after the other: where their terms are, seen from the first one of a pixel.
    pub(super) terms: Vec<u32>,
    /// Where those of the window with all taps begin, or of any with one, that are side by side, if they come in whole runs.
    runs: Bounded,
    /// Terms of all windows.
    pub(super) depths: usize,
    /// Output pixels of a strip, at most.
    pub(super) strip: usize,
}

/// Columns of the output with the same taps on the map.
#[derive(Debug)]
struct Columns {
    span: Span,
    /// Where their pixels in the rows of a strip are, from the first one on, in x and in y. Of an output that has the pixels of x none are listed in y, and
    /// in x only those of planes.
    x: Vec<u32>,
    y: Vec<u32>,
}

/// Pixels of a strip whose windows have the same taps on the map.
#[derive(Clone, Copy)]
pub(super) struct Area<'a> {
    pub(super) window: Window,
    /// The map, from the first term of the first pixel on.
    pub(super) data: &'a [f32],
    pub(super) pixels: usize,
    /// Where each of them is in `data`, unless they are side by side.
    pub(super) from: &'a [u32],
    /// Which pixel of the strip the first one is, and each of them from there on, unless they are side by side.
    pub(super) first: usize,
    pub(super) to: &'a [u32],
    /// Listed pixels of a row, and how many from one to the next.
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) of_blocks: bool,
    /// Elements from one block of channels to the next.
    pub(super) plane: usize,
}

/// Where live channels are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Places {
    /// Where they are if all live.
    Kept,
    Beside,
}

impl Source {
    /// Whether a map is not too large for windows.
    pub(super) fn serves(shape: &ConvShape, (h, w): (usize, usize)) -> bool {
        let small = |(oh, ow)| [h, w, oh, ow].into_iter().all(|n| n <= MOST);
        is_flat(shape) || shape.output((h, w)).is_ok_and(small)
    }

    /// Terms that are listed, at most.
    pub(super) fn listed(shape: &ConvShape) -> usize {
        let of = |taps: fn(usize) -> usize| {
            let listed = |listed: usize, k| listed.saturating_mul(taps(k));
            shape.kernel.into_iter().fold(read(shape), listed)
        };
        of(Span::taps).min(LISTED).max(of(|k| k))
    }

    /// For `group`, and those that begin with the same channel of a block, of a map that it [serves](Self::serves), in blocks of `lanes` channels, of which so many of
    /// a group live, unless all do. `pitch`: from one row of a panel to the next.
    pub(super) fn new(
        shape: &ConvShape,
        inside: (usize, usize),
        (lanes, isa): (usize, Isa),
        pitch: usize,
        group: usize,
        live: Option<usize>,
    ) -> Result<Self, Error> {
        let output = shape.output(inside)?;
        let [top, left, bottom, right] = shape.pads;
        let (h, w) = (top + inside.0 + bottom, left + inside.1 + right);
        let all = extent(&[shape.c_in.div_ceil(lanes), lanes], "map")?;
        extent(&[all, h, w], "map")?;
        let channels = read(shape).next_multiple_of(lanes);
        let flat = is_flat(shape);
        let first = group * read(shape) % lanes;
        let each = [lanes, isa.lanes()];
        let cut = match flat {
            true => None,
            false => Taps::new(shape, inside, output, each, (isa.registers(), first)),
        };
        let of = (lanes, isa);
        let edges = match flat || cut.is_some() {
            true => Edges::none(shape, output),
            false => Edges::new(shape, inside, output, of, live.unwrap_or(read(shape))),
        };
        let few = edges.few(shape, inside, output, of);
        let Edges {
            border,
            rows,
            columns,
            by_taps,
        } = edges;
        let map = border.map_or(inside, |border| border.map);
        // Of a row of the output, or of one of its pixels.
        let (row, pixels, all) = match flat {
            true => (channels, 1, output.0 * output.1),
            false => (
                (channels * map.1).saturating_mul(shape.stride[0]),
                output.1,
                output.0,
            ),
        };
        let least = LEAST.div_ceil(pixels);
        let near = if flat { NEAR } else { OF_WINDOWS } / row.max(1);
        let most = if near >= least {
            near
        } else {
            (FAR / row.max(1)).max(least)
        };
        let each = even_height(all, most);
        let [down, across] = shape.stride;
        let columns = columns.into_iter().map(|span| {
            let wide = span.outputs.len();
            // A step may be as large as any number where there is one output.
            let list = |below: usize, beside: usize| {
                let pixel = |i: usize| i / wide * below + i % wide * beside;
                (0..each * wide).map(|i| pixel(i) as u32).collect()
            };
            let (x, y) = match (flat, lanes) {
                (true, 1) => ((0..each as u32).collect(), Vec::new()),
                (true, _) => (Vec::new(), Vec::new()),
                (false, _) => (
                    list(
                        (map.1 * lanes).saturating_mul(down),
                        lanes.saturating_mul(across),
                    ),
                    list(output.1, 1),
                ),
            };
            Columns { span, x, y }
        });
        let mut source = Self {
            shape: *shape,
            channels: read(shape),
            first,
            border,
            inside,
            map,
            output,
            lanes,
            pitch,
            flat,
            rows,
            columns: columns.collect(),
            by_taps,
            few,
            cut,
            terms: Vec::new(),
            runs: Bounded::all_of(Vec::new()),
            depths: 0,
            strip: each * pixels,
        };
        source.list();
        Ok(source)
    }

    /// Lists the terms of all windows.
    fn list(&mut self) {
        let ((h, w), lanes) = (self.map, self.lanes);
        let [dh, dw] = self.shape.dilation;
        let each = self.terms_of_a_run();
        let (mut terms, mut runs, mut depths) = (Vec::new(), Vec::new(), 0);
        for (window, rows, columns) in self.windows() {
            depths += window.taps * self.channels;
            let (down, across) = (rows.taps.len(), columns.span.taps.len());
            for (k, l) in (0..down).flat_map(|k| (0..across).map(move |l| (k, l))) {
                for c in (self.first..self.first + self.channels).step_by(each) {
                    let pixel = (c / lanes * h + k * dh) * w + l * dw;
                    terms.push((pixel * lanes + c % lanes) as u32);
                }
            }
            let in_runs = self.of_blocks() && self.channels.is_multiple_of(Runs::LEN);
            let is_common = window.is_whole || self.by_taps && runs.is_empty();
            if is_common && in_runs && !self.flat {
                runs = terms[window.start..]
                    .iter()
                    .step_by(Runs::LEN)
                    .copied()
                    .collect();
            }
        }
        self.depths = depths;
        (self.terms, self.runs) = (terms, Bounded::all_of(runs));
    }

    /// All windows, and the rows and columns of the output that have them.
    fn windows(&self) -> impl Iterator<Item = (Window, &Span, &Columns)> {
        let mut start = 0;
        pairs(&self.rows, &self.columns).map(move |(rows, columns)| {
            let taps_of = rows.taps.len() * columns.span.taps.len();
            let window = Window {
                start,
                taps: taps_of,
                is_whole: taps_of == taps(&self.shape),
                first: rows.taps.start * self.shape.kernel[1] + columns.span.taps.start,
                across: columns.span.taps.len(),
                of_a_row: self.shape.kernel[1],
            };
            start += taps_of * self.channels;
            (window, rows, columns)
        })
    }

    /// The terms of a window, if they come in whole runs and it has all taps, or each has one.
    pub(super) fn runs_of(&self, window: Window) -> Option<Runs<'_>> {
        let runs = self.runs.len();
        let is_common = window.is_whole || self.by_taps;
        (is_common && runs > 0).then(|| Runs::new(self.runs.all(), runs * Runs::LEN))
    }

    /// Whether there are more blocks in each pixel of a map than streams that hardware fetches ahead, and caches do not hold it.
    pub(super) fn is_far(&self, x: &[f32]) -> bool {
        self.flat && self.of_blocks() && self.channels > STREAMS * self.lanes && x.len() > CACHED
    }

    /// Of all windows, one after the other, where the terms of some channels are in x, and where their rows are in a panel: in the places of these channels,
    /// or beside each other.
    pub(super) fn live(
        &self,
        channels: &[u32],
        (x, w): (Places, Places),
        (of_x, of_w): (&mut [u32], &mut [u32]),
    ) {
        let each = self.terms_of_a_run();
        let runs = self.channels.div_ceil(each);
        for (window, ..) in self.windows() {
            let mut at = window.start;
            for tap in 0..window.taps {
                let terms = &self.terms[(window.start + tap * self.channels) / each..][..runs];
                let here = at..at + channels.len();
                at = here.end;
                let of_x = &mut of_x[here.clone()];
                match (x, each) {
                    // A division for each would show.
                    (Places::Kept, 1) => {
                        for (to, &c) in of_x.iter_mut().zip(channels) {
                            *to = terms[c as usize];
                        }
                    }
                    (Places::Beside, 1) => of_x.copy_from_slice(&terms[..channels.len()]),
                    _ => {
                        for ((n, &c), to) in channels.iter().enumerate().zip(of_x) {
                            let place = match x {
                                Places::Kept => c as usize,
                                Places::Beside => n,
                            };
                            *to = terms[place / Runs::LEN] + (place % Runs::LEN) as u32;
                        }
                    }
                }
                let number = window.tap(tap);
                for ((n, &c), to) in channels.iter().enumerate().zip(&mut of_w[here]) {
                    let row = match w {
                        Places::Kept => number * self.channels + c as usize,
                        Places::Beside => number * channels.len() + n,
                    };
                    *to = (row * self.pitch) as u32;
                }
            }
        }
    }

    /// Elements of a map of so many channels.
    pub(super) fn len(&self, channels: usize) -> usize {
        channels.next_multiple_of(self.lanes) * self.inside.0 * self.inside.1
    }

    /// Elements of the copy of a map.
    pub(super) fn copy_len(&self) -> usize {
        let channels = self.shape.c_in.next_multiple_of(self.lanes);
        match self.border.is_some() || self.is_read_often() {
            true => lines(channels * self.map.0 * self.map.1),
            false => 0,
        }
    }

    /// Whether so many outputs read each pixel that its live channels are better put side by side first.
    pub(super) fn is_read_often(&self) -> bool {
        self.flat && self.of_blocks() && self.shape.c_out >= OFTEN
    }

    /// What is read: x, or its blocks with a live channel between zeros.
    pub(super) fn between_zeros<'a>(
        &self,
        pool: &dyn Pool,
        x: &'a [f32],
        (live, channels): (Option<Channels<'_>>, usize),
        rest: &mut &'a mut [f32],
    ) -> &'a [f32] {
        let Some(border) = self.border else { return x };
        let lanes = self.lanes;
        let [plane, from] = [self.map, self.inside].map(|(h, w)| h * w * lanes);
        let blocks = channels.div_ceil(lanes);
        let copy = take(rest, blocks * plane);
        let pool = worth(pool, copy.len() * COPIED);
        Tile::new(copy, blocks, plane, plane).split(pool, (1, plane), |block, _, mut to| {
            if live.is_none_or(|live| live.bits(block * lanes, lanes) != 0) {
                to.row(0).fill(0.0);
                let x = &x[block * from..][..from];
                border.copy(x, self.inside, to.row(0), lanes);
            }
        });
        copy
    }

    /// Strips of the output, and the pixels that they are whole numbers of.
    pub(super) fn strips(&self) -> (usize, usize) {
        let ((h, w), each) = (self.output, self.strip.max(1));
        ((h * w).div_ceil(each), if self.flat { 1 } else { w })
    }

    /// The map that a group reads.
    pub(super) fn of_group<'a>(&self, x: &'a [f32], group: usize) -> &'a [f32] {
        let (h, w) = self.map;
        let block = group * self.channels / self.lanes;
        &x[(block * self.lanes * h * w).min(x.len())..]
    }

    /// What windows that are cut have in common, if they are.
    pub(super) fn cut(&self) -> Option<&Taps> {
        self.cut.as_ref()
    }

    /// Whether all windows have the same taps.
    pub(super) fn is_one_area(&self) -> bool {
        self.rows.len() * self.columns.len() <= 1
    }

    /// Whether maps are in blocks.
    pub(super) fn of_blocks(&self) -> bool {
        self.lanes > 1
    }

    /// How many of the terms of a pixel lie side by side, as pixels do then: channels of a block.
    pub(super) fn terms_of_a_run(&self) -> usize {
        match self.flat && self.lanes > 1 {
            true => Runs::LEN,
            false => 1,
        }
    }

    /// The areas of the strip of so many pixels that begins at `pixel`, as a group reads them.
    pub(super) fn areas<'a>(
        &'a self,
        x: &'a [f32],
        group: usize,
        (pixel, pixels): (usize, usize),
    ) -> impl Iterator<Item = Area<'a>> {
        let ((h, w), (_, width)) = (self.map, self.output);
        let x = self.of_group(x, group);
        let (begin, end) = (pixel / width, (pixel + pixels) / width);
        let behind = move |pixel: usize| &x[(pixel * self.lanes).min(x.len())..];
        self.windows().filter_map(move |(window, rows, columns)| {
            let all = Area {
                window,
                data: behind(pixel),
                pixels,
                from: columns.x.get(..pixels).unwrap_or(&[]),
                first: 0,
                to: &[],
                width: 0,
                stride: self.shape.stride[1],
                of_blocks: self.of_blocks(),
                plane: h * w * self.lanes,
            };
            if self.flat {
                return Some(all);
            }
            let Columns { span, x, y } = columns;
            let outputs = rows.outputs.start.max(begin)..rows.outputs.end.min(end);
            let above = outputs.start.saturating_sub(rows.outputs.start);
            let row = rows.at + above * self.shape.stride[0];
            let pixels = outputs.len() * span.outputs.len();
            (pixels > 0).then(|| Area {
                data: behind(row * w + span.at),
                pixels,
                from: &x[..pixels],
                first: (outputs.start - begin) * width + span.outputs.start,
                to: &y[..pixels],
                width: span.outputs.len(),
                ..all
            })
        })
    }
}

/// Channels of a group.
pub(super) fn read(shape: &ConvShape) -> usize {
    shape.c_in / shape.groups.max(1)
}

/// Whether the output has the pixels of the map.
fn is_flat(shape: &ConvShape) -> bool {
    (shape.kernel, shape.stride, shape.pads) == ([1, 1], [1, 1], [0; 4])
}
