//! A strip of pixels: all panels pass over it, with the areas of its windows.
#![forbid(unsafe_code)]

use super::super::taps;
use super::NchwcConv;
use super::along::tiles_along;
use super::cut::{Cut, Taps};
use super::lists::{Lists, LiveTerms};
use super::pass::{Pass, WIDE, Walk, in_runs};
use super::source::Source;
use super::weights::{Chosen, Weights};
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
    pub(super) source: &'a Source,
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
        if const { S::REGISTERS >= 32 }
            && let Some(taps) = self.source.cut()
        {
            return self.cut(s, taps);
        }
        let panels = core::mem::take(&mut self.room);
        let pitch = conv.matmul.pitch();
        // Vectors of a panel whose rows are one behind the other.
        let panel = match pitch == conv.matmul.panel_width() {
            true => (pitch / S::LANES).max(1),
            false => 1,
        };
        let (mut block, blocks) = (0, self.tile.rows());
        let group = conv.outputs_of_a_group();
        while block < blocks {
            let first = self.channel + block * S::LANES;
            let (vector, of_group) = (first / S::LANES, group.div_ceil(S::LANES));
            let left = (of_group - vector % of_group).min(blocks - block);
            let wide = const { S::REGISTERS >= 32 } && panel == NV;
            // Groups, and what threads share, may begin within a panel.
            let begins = vector.is_multiple_of(panel);
            let vectors = match left {
                WIDE.. if wide && begins => WIDE,
                3.. if wide => 3,
                NV.. if panel == NV && begins => NV,
                _ => 1,
            };
            let weights = match self.chosen {
                Some(chosen) => {
                    let count = vectors.div_ceil(panel);
                    let sources = chosen.sources(first + vectors * S::LANES, count);
                    (chosen.some(s, first, count, panels), Some(sources))
                }
                None => (self.weights, None),
            };
            match vectors {
                WIDE if const { S::REGISTERS >= 32 } => {
                    self.panel::<S, 2, 2, WIDE>(s, weights, block);
                }
                3 if const { S::REGISTERS >= 32 } => {
                    self.panel::<S, 3, 1, 3>(s, weights, block);
                }
                NV => self.panel::<S, 1, 2, 2>(s, weights, block),
                _ => self.panel::<S, 1, 1, 1>(s, weights, block),
            }
            block += vectors;
        }
    }
}

impl Strip<'_, '_> {
    /// All blocks, each of which is the outputs of a group.
    #[inline(always)]
    fn cut<S: F32s>(&mut self, s: S, taps: &Taps) {
        let conv = self.conv;
        let (blocks, first) = (self.tile.rows(), self.channel);
        let of = self.weights;
        let weights = |block: usize| of.vector(first + block * S::LANES);
        let mut of_next = weights(0);
        for block in 0..blocks {
            let (panel, bias) = of_next;
            of_next = weights((block + 1).min(blocks - 1));
            let group = first / S::LANES + block;
            let cut = Cut {
                taps,
                x: self.source.of_group(self.x, group),
                panel,
                pitch: conv.matmul.pitch(),
                next: of_next.0,
                block,
                dead: self.dead::<S>(block, 1),
                start: start(bias),
                activation: conv.matmul.activation(),
            };
            cut.run(s, self.pixel, &mut self.tile);
            self.activate(s, block, 1);
        }
    }

    /// The biases of so many blocks, where sums of other tiles begin with.
    #[inline(always)]
    fn begin<S: F32s>(&mut self, s: S, bias: Option<&[f32]>, block: usize, count: usize) {
        for i in 0..count {
            let bias = match bias {
                Some(bias) => s.load(&bias[i * S::LANES..]),
                None => s.splat(0.0),
            };
            for pixel in self.tile.row(block + i).chunks_exact_mut(S::LANES) {
                s.store(bias, pixel);
            }
        }
    }

    /// Lanes of so many blocks that become zeros.
    #[inline(always)]
    fn dead<S: F32s>(&self, block: usize, count: usize) -> [u32; WIDE] {
        let mut dead = [0; WIDE];
        if let Some(live) = self.zeros {
            for (i, dead) in dead[..count].iter_mut().enumerate() {
                *dead = nchwc::dead::<S>(live, self.channel / S::LANES + block + i);
            }
        }
        dead
    }

    /// Applies an activation that tiles do not apply to so many blocks.
    #[inline(always)]
    fn activate<S: F32s>(&mut self, s: S, block: usize, count: usize) {
        let activation = self.conv.matmul.activation();
        if activation.in_registers() && !self.source.by_taps {
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
    fn depth_block<S: F32s>(&self, stretch: usize) -> usize {
        let most = match self.source.is_far(self.x) {
            true => KC_FAR * S::LANES,
            false => KC,
        };
        let each = stretch.div_ceil(stretch.div_ceil(most).max(1));
        each.max(1).next_multiple_of(Runs::LEN)
    }

    /// The blocks that some panels are, from this one of the tile on; and what the next panels will be put together from, if they will be.
    #[inline(always)]
    fn panel<S: F32s, const NP: usize, const EACH: usize, const N: usize>(
        &mut self,
        s: S,
        (weights, sources): (Weights<'_>, Option<&[f32]>),
        block: usize,
    ) {
        let conv = self.conv;
        let activation = conv.matmul.activation();
        let first = self.channel + block * S::LANES;
        let pitch = conv.matmul.pitch();
        let each = self.source.terms_of_a_run();
        let dead = self.dead::<S>(block, N);
        let (_, bias) = weights.vector(first);
        let by_taps = self.source.by_taps;
        let of_a_window = taps(&conv.shape);
        let every = self.lists.channels * of_a_window;
        let tap = conv.depth / of_a_window * pitch;
        if by_taps {
            self.begin(s, bias, block, N);
        }
        let pixels = (self.pixel, self.tile.cols() / S::LANES);
        // Of several areas the first ones have read all depth blocks, unless L2 does not hold them beside those of the next panels.
        let in_order = self.source.is_one_area() || conv.depth * N * S::LANES > HELD;
        let group = first / conv.outputs_of_a_group();
        for area in self.source.areas(self.x, group, pixels) {
            let window = area.window;
            let LiveTerms {
                depth,
                of_x,
                of_w,
                rows,
            } = self.lists.of(window, each);
            let along = tiles_along::<S>(&area, N, !by_taps).filter(|_| rows.stretch == depth);
            let runs = match &along {
                Some(_) if const { in_runs::<S>(N) } && !self.lists.listed => {
                    self.source.runs_of(window)
                }
                _ => None,
            };
            let kc = match &along {
                Some(_) => depth,
                None => self.depth_block::<S>(rows.stretch),
            };
            for (terms, row) in rows.blocks(depth, kc) {
                let t = terms.start;
                let from = |block: usize, row: usize| {
                    let (panel, _) = weights.vector(self.channel + block * S::LANES);
                    let before = if of_w.is_some() { 0 } else { row * pitch };
                    panel.get(before..).unwrap_or(&[])
                };
                let (mut panels, mut next) = ([&[][..]; NP], [&[][..]; NP]);
                for p in 0..NP {
                    let (now, then) = (block + p * EACH, block + N + p * EACH);
                    let is_last = then >= self.tile.rows();
                    panels[p] = from(now, row);
                    next[p] = match window.is_whole {
                        true if in_order && terms.end < depth => from(now, terms.end),
                        true if in_order && !is_last => from(then, 0),
                        true if !is_last => from(then, row),
                        // The next tap's, whose live rows are listed in the same order.
                        false if by_taps && of_w.is_some() => {
                            from(now, 0).get(tap..).unwrap_or(&[])
                        }
                        false if by_taps => from(now, row + terms.len()),
                        _ => panels[p],
                    };
                }
                let next = match sources {
                    Some(all) => {
                        // A window may be beyond the map, and begin behind its last term.
                        let share = |row: usize| all.len() / every.max(1) * row.min(every);
                        let sources = &all[share(row)..share(row + terms.len())];
                        Next { panels, sources }
                    }
                    None => Next::panels(next),
                };
                let now = || terms.clone();
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
                    pitch,
                    next,
                    fetch: match (block, t) {
                        (0, 0) => self.fetch,
                        _ => 0,
                    },
                    block,
                    dead,
                    start: match t {
                        0 if !by_taps => start(bias),
                        _ => Start::Partial,
                    },
                    activation: match terms.end == depth {
                        true if !by_taps => activation,
                        _ => Activation::None,
                    },
                };
                match &along {
                    Some(along) => pass.rows::<S, EACH, N>(s, along.clone(), &mut self.tile),
                    None => pass.tiles::<S, EACH, N>(s, &mut self.tile),
                }
            }
        }
        self.activate(s, block, N);
    }
}

/// Where sums begin.
fn start(bias: Option<&[f32]>) -> Start<'_> {
    match bias {
        Some(bias) => Start::Cols(bias),
        None => Start::Zero,
    }
}
