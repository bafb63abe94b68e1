//! A strip of pixels: all panels pass over it, with the areas of its windows.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::super::taps;
use super::NchwcConv;
use super::along::tiles_along;
use super::cut::{Cut, Taps};
use super::lists::{Lists, LiveTerms};
use super::pass::{Pass, WIDE, Walk, in_runs};
use super::pixels::Lanes;
use super::source::Source;
use super::weights::{Chosen, Weights};
use super::window::Window;
use crate::Channels;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::ops::{nchwc, pointwise};
use crate::panel::{Next, Runs, Terms};
use crate::pool::Tile;
use crate::tile::gemm::{NV, Start};

/// Terms of a depth block, as that of products.
const KC: usize = 1024;
/// Blocks of channels of a depth block where maps of many come from memory: as many streams as hardware fetches ahead. 1x1 of 1024 to 16 on 80 x 81 takes 0.58
/// of the time, and 0.35 beside others; of 768 to 32 on 56 x 56 0.94.
const KC_FAR: usize = 16;
/// Elements of some panels above which L2 does not hold those of the next ones besides: 1 MiB.
const HELD: usize = 1 << 18;

/// Pixels of some blocks.
pub(super) struct Strip<'a, 't> {
    pub(super) conv: &'a NchwcConv,
    /// In turns, for one group each.
    pub(super) sources: &'a [Source],
    pub(super) x: &'a [f32],
    pub(super) lists: Lists<'a>,
    pub(super) weights: Weights<'a>,
    /// What each strip puts together for itself.
    pub(super) chosen: Option<Chosen<'a>>,
    /// Outputs that are not among these are zeros.
    pub(super) zeros: Option<Channels<'a>>,
    /// Blocks of x that are asked for before they are read.
    pub(super) fetch: usize,
    /// The tile's first ones.
    pub(super) channel: usize,
    pub(super) pixel: usize,
    pub(super) tile: Tile<'t>,
    pub(super) room: &'a mut [f32],
}

impl Task for Strip<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let conv = self.conv;
        let begin = self.channel / S::LANES;
        let blocks = self.tile.rows();
        let room = core::mem::take(&mut self.room);
        // Vectors of a panel whose rows are one behind the other.
        let panel = match conv.matmul.pitch() == conv.matmul.panel_width() {
            true => (conv.matmul.pitch() / S::LANES).max(1),
            false => 1,
        };
        let wide = const { S::REGISTERS >= 32 } && panel == NV;
        for (group, vectors) in conv.groups.of(begin..begin + blocks) {
            if const { S::REGISTERS >= 32 }
                && let Some(taps) = self.source(group).cut()
            {
                self.cut(s, taps, (group, vectors.start - begin));
                continue;
            }
            let mut at = vectors.start;
            while at < vectors.end {
                // Groups, and what threads share, may begin within a panel.
                let begins = at.is_multiple_of(panel);
                let count = match vectors.end - at {
                    WIDE.. if wide && begins => WIDE,
                    3.. if wide => 3,
                    NV.. if panel == NV && begins => NV,
                    _ => 1,
                };
                let first = at * S::LANES;
                let weights = match self.chosen {
                    Some(chosen) => {
                        let panels = count.div_ceil(panel);
                        let sources = chosen.sources(first + count * S::LANES, panels);
                        (chosen.some(s, first, panels, room), Some(sources))
                    }
                    None => (self.weights, None),
                };
                let block = (group, at - begin);
                match count {
                    WIDE if const { S::REGISTERS >= 32 } => {
                        self.panel::<S, 2, 2, WIDE>(s, weights, block);
                    }
                    3 if const { S::REGISTERS >= 32 } => {
                        self.panel::<S, 3, 1, 3>(s, weights, block);
                    }
                    NV => self.panel::<S, 1, 2, 2>(s, weights, block),
                    _ => self.panel::<S, 1, 1, 1>(s, weights, block),
                }
                at += count;
            }
        }
        if !conv.groups.are_blocks() {
            self.activate(s, 0, blocks);
        }
    }
}

/// A depth block of an area.
struct Turn {
    window: Window,
    /// Which terms of the window's, of which there are so many.
    terms: Range<usize>,
    depth: usize,
    /// The first one's row in a panel, unless rows are listed.
    row: Option<usize>,
}

impl<'a> Strip<'a, '_> {
    /// What a group reads.
    #[inline(always)]
    fn source(&self, group: usize) -> &'a Source {
        &self.sources[group % self.sources.len()]
    }

    /// The outputs of a group that is one block, or a part of one.
    #[inline(always)]
    fn cut<S: F32s>(&mut self, s: S, taps: &Taps, (group, block): (usize, usize)) {
        let conv = self.conv;
        let last = self.tile.rows() - 1;
        let weights = |block: usize| self.weights.vector(self.channel + block * S::LANES);
        let (panel, bias) = weights(block);
        let cut = Cut {
            taps,
            x: self.source(group).of_group(self.x, group),
            panel,
            pitch: conv.matmul.pitch(),
            next: weights((block + 1).min(last)).0,
            block,
            lanes: self.lanes::<S>((group, block), 1),
            start: start(bias),
            activation: conv.matmul.activation(),
        };
        cut.run(s, self.pixel, &mut self.tile);
        if conv.groups.are_blocks() {
            self.activate(s, block, 1);
        }
    }

    /// The biases of so many blocks, where sums of other tiles begin with: those of all groups, before the first of them.
    #[inline(always)]
    fn begin<S: F32s>(
        &mut self,
        s: S,
        bias: Option<&[f32]>,
        (group, block): (usize, usize),
        count: usize,
    ) {
        for i in 0..count {
            let vector = self.channel / S::LANES + block + i;
            if !self.conv.groups.is_first(group, vector) {
                continue;
            }
            let bias = match bias {
                Some(bias) => s.load(&bias[i * S::LANES..]),
                None => s.splat(0.0),
            };
            for pixel in self.tile.row(block + i).chunks_exact_mut(S::LANES) {
                s.store(bias, pixel);
            }
        }
    }

    /// What a group does not store of so many blocks.
    #[inline(always)]
    fn lanes<S: F32s>(&self, (group, block): (usize, usize), count: usize) -> Lanes {
        let mut lanes = Lanes::ALL;
        for i in 0..count {
            let vector = self.channel / S::LANES + block + i;
            if let Some(live) = self.zeros {
                lanes.dead[i] = nchwc::dead::<S>(live, vector);
            }
            lanes.others[i] = self.conv.groups.others(group, vector);
        }
        lanes
    }

    /// Applies an activation that tiles do not apply to so many blocks.
    #[inline(always)]
    fn activate<S: F32s>(&mut self, s: S, block: usize, count: usize) {
        let activation = self.conv.matmul.activation();
        if activation.in_registers() && !self.sources[0].by_taps {
            return;
        }
        for i in block..block + count {
            let row = self.tile.row(i);
            pointwise::apply(s, activation, row);
            if let Some(live) = self.zeros {
                let pixels = row.len() / S::LANES;
                nchwc::clear(s, pixels, live, self.channel / S::LANES + i, row);
            }
        }
    }

    /// Terms of a depth block of such a stretch.
    #[inline(always)]
    fn depth_block<S: F32s>(&self, stretch: usize, is_far: bool) -> usize {
        let most = if is_far { KC_FAR * S::LANES } else { KC };
        let each = stretch.div_ceil(stretch.div_ceil(most).max(1));
        each.max(1).next_multiple_of(Runs::LEN)
    }

    /// The blocks that some panels are, by a group, from this one of the tile on; and what the next panels will be put together from, if they will be.
    #[inline(always)]
    fn panel<S: F32s, const NP: usize, const EACH: usize, const N: usize>(
        &mut self,
        s: S,
        (weights, sources): (Weights<'_>, Option<&[f32]>),
        (group, block): (usize, usize),
    ) {
        let conv = self.conv;
        let source = self.source(group);
        let lists = self.lists.or_all_of(source);
        let each = source.terms_of_a_run();
        let lanes = self.lanes::<S>((group, block), N);
        let (_, bias) = weights.vector(self.channel + block * S::LANES);
        let by_taps = source.by_taps;
        if by_taps {
            self.begin(s, bias, (group, block), N);
        }
        let pixels = (self.pixel, self.tile.cols() / S::LANES);
        for area in source.areas(self.x, group, pixels) {
            let window = area.window;
            let LiveTerms {
                depth,
                of_x,
                of_w,
                rows,
            } = lists.of(window, each);
            let along = tiles_along::<S>(&area, N, !by_taps).filter(|_| rows.stretch == depth);
            let runs = match &along {
                Some(_) if const { in_runs::<S>(N) } && !lists.listed => source.runs_of(window),
                _ => None,
            };
            let kc = match &along {
                Some(_) => depth,
                None => self.depth_block::<S>(rows.stretch, source.is_far(self.x)),
            };
            for (terms, row) in rows.blocks(depth, kc) {
                let turn = Turn {
                    window,
                    terms: terms.clone(),
                    depth,
                    row: of_w.is_none().then_some(row),
                };
                let (panels, next) = self.panels::<S, NP, EACH, N>(weights, block, source, &turn);
                let next = match sources {
                    Some(all) => {
                        // A window may be beyond the map, and begin behind its last term.
                        let every = lists.channels * taps(&conv.shape);
                        let share = |row: usize| all.len() / every.max(1) * row.min(every);
                        let sources = &all[share(row)..share(row + terms.len())];
                        Next { panels, sources }
                    }
                    None => Next::panels(next),
                };
                let now = || terms.clone();
                let is_first = terms.start == 0;
                let pass = Pass {
                    area,
                    walk: match (each > 1, of_w) {
                        (true, None) => Walk::Runs(Runs::new(of_x, depth).part(now())),
                        (true, Some(of_w)) => Walk::Live(of_x.part(now()), of_w.part(now())),
                        (false, None) => match runs {
                            Some(runs) => Walk::PlacesOfRuns(runs.part(now())),
                            _ => Walk::Places(of_x.part(now())),
                        },
                        (false, Some(of_w)) => Walk::LivePlaces(of_x.part(now()), of_w.part(now())),
                    },
                    panels,
                    pitch: conv.matmul.pitch(),
                    next,
                    fetch: if is_first && block == 0 {
                        self.fetch
                    } else {
                        0
                    },
                    block,
                    lanes,
                    start: match is_first {
                        true if !by_taps => start(bias),
                        _ => Start::Partial,
                    },
                    activation: match terms.end == depth {
                        true if !by_taps => conv.matmul.activation(),
                        _ => Activation::None,
                    },
                };
                match &along {
                    Some(along) => pass.rows::<S, EACH, N>(s, along.clone(), &mut self.tile),
                    None => pass.tiles::<S, EACH, N>(s, &mut self.tile),
                }
            }
        }
        if conv.groups.are_blocks() {
            self.activate(s, block, N);
        }
    }

    /// The panels from `block` on, from the first row of a turn on, and those that are read next.
    #[inline(always)]
    fn panels<'w, S: F32s, const NP: usize, const EACH: usize, const N: usize>(
        &self,
        weights: Weights<'w>,
        block: usize,
        source: &Source,
        turn: &Turn,
    ) -> ([&'w [f32]; NP], [&'w [f32]; NP]) {
        let conv = self.conv;
        let pitch = conv.matmul.pitch();
        let Turn {
            window,
            ref terms,
            depth,
            row,
        } = *turn;
        let (is_listed, first) = (row.is_none(), row.unwrap_or(0));
        // Of several areas the first ones have read all depth blocks, unless L2 does not hold them beside those of the next panels.
        let in_order = source.is_one_area() || conv.depth * N * S::LANES > HELD;
        let behind = |block: usize, rows: usize| {
            let (panel, _) = weights.vector(self.channel + block * S::LANES);
            panel.get(rows * pitch..).unwrap_or(&[])
        };
        // Lists count from the first row.
        let from = |block: usize, row: usize| behind(block, if is_listed { 0 } else { row });
        let (mut panels, mut next) = ([&[][..]; NP], [&[][..]; NP]);
        for p in 0..NP {
            let (now, then) = (block + p * EACH, block + N + p * EACH);
            let is_last = then >= self.tile.rows();
            panels[p] = from(now, first);
            next[p] = match (window.is_whole, source.by_taps) {
                (true, _) if in_order && terms.end < depth => from(now, terms.end),
                (true, _) if in_order && !is_last => from(then, 0),
                (true, _) if !is_last => from(then, first),
                // The next tap's, whose live rows are listed in the same order.
                (false, true) => {
                    let of_a_tap = conv.depth / taps(&conv.shape);
                    behind(now, row.map_or(of_a_tap, |row| row + terms.len()))
                }
                _ => panels[p],
            };
        }
        (panels, next)
    }
}

/// Where sums begin.
fn start(bias: Option<&[f32]>) -> Start<'_> {
    match bias {
        Some(bias) => Start::Cols(bias),
        None => Start::Zero,
    }
}
