//! What one thread does: blocks of tiles, one after the other.
//!
//! ```text
//! for each block of NV vectors of tiles
//!     for each live input plane                         V = B' d B, vectorised over tiles
//!     for each block of live outputs
//!         for each of the N x N points                  V of the point stays in L1, its weights pass by
//!             M = U · V                                 the micro-kernel
//!         for each output                               y = A' M A + bias, activation
//! ```
//! Tiles are numbered along the rows of the map, and a vector may reach from one row of tiles into the next: no lane is
//! lost but at the end. The axes of a transform make that cheap. Along rows first: a row of inputs is split into its M phases, so that
//! lane `i` is tile `i`, and the results lie as `[point][phase of the row][row of tiles][tile]`. There the second
//! axis finds the rows of every tile as vectors of consecutive tiles, wherever the vector begins.
#![forbid(unsafe_code)]

use core::array::from_fn;

use super::maps::{Tiles, back, inputs, place};
use super::product::{Weights, from_row, gathered_product, panel_product};
use super::rows::{Order, gathered, order};
use super::{Form, Live, Packed, Sizes, height};
use crate::isa::{F32s, Task};
use crate::ops::pointwise;
use crate::panel::take;
use crate::pool::{NOWHERE, Tile};

/// Panels that are asked for at once, at most.
const PANELS: usize = 2;

/// A part of the output: rows of tiles x channels.
pub(super) struct Block<'a, 't> {
    pub(super) packed: Packed<'a>,
    pub(super) sizes: &'a Sizes,
    pub(super) live: Live<'a>,
    pub(super) x: &'a [f32],
    /// Its first channel, and its first row of tiles.
    pub(super) row: usize,
    pub(super) above: usize,
    pub(super) out: Tile<'t>,
    /// The transformed inputs, when they are there already; then the tiles are one block.
    pub(super) v: Option<&'a [f32]>,
    pub(super) room: &'a mut [f32],
}

impl Task for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        match self.packed.form {
            Form::F2 => self.all::<S, 2, 4, 3>(s),
            Form::F4 => self.all::<S, 4, 6, 5>(s),
        }
    }
}

/// The transformed inputs of some live channels, where the whole map is one block.
pub(super) struct Inputs<'a, 't> {
    pub(super) sizes: &'a Sizes,
    pub(super) form: Form,
    pub(super) x: &'a [f32],
    pub(super) channels: &'a [u32],
    /// A row a point.
    pub(super) v: Tile<'t>,
    pub(super) room: &'a mut [f32],
}

impl Task for Inputs<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        match self.form {
            Form::F2 => self.all::<S, 2, 4, 3>(s),
            Form::F4 => self.all::<S, 4, 6, 5>(s),
        }
    }
}

impl Inputs<'_, '_> {
    #[inline(always)]
    fn all<S: F32s, const M: usize, const N: usize, const K: usize>(mut self, s: S) {
        let (down, across) = self.sizes.tiles;
        let tiles = Tiles {
            count: down * across,
            row: 0,
            column: 0,
            rows: down,
        };
        let half = &mut self.room[..N * M * self.sizes.half_pitch];
        half.fill(0.0);
        let (sizes, x, v) = (self.sizes, self.x, &mut self.v);
        if tiles.count > S::LANES {
            inputs::<S, M, N, K, 2>(s, sizes, (x, self.channels), (0, tiles), half, v);
        } else {
            inputs::<S, M, N, K, 1>(s, sizes, (x, self.channels), (0, tiles), half, v);
        }
    }
}

/// The buffers of a block.
struct Room<'a> {
    /// `[point of the row][phase][row of tiles][tile]` of one plane.
    half: &'a mut [f32],
    /// `[point][plane][tile]`, points `apart` elements apart.
    v: &'a mut [f32],
    apart: usize,
    /// `[channel][point][tile]`
    m: &'a mut [f32],
    /// `[row of a tile][column]` of one channel.
    stage: &'a mut [f32],
}

impl Block<'_, '_> {
    #[inline(always)]
    fn all<S: F32s, const M: usize, const N: usize, const K: usize>(mut self, s: S) {
        let (sizes, live) = (self.sizes, self.live);
        let end = self.row + self.out.rows();
        let below = |end: usize| live.to.partition_point(|&c| (c as usize) < end);
        let (lo, hi) = (below(self.row), below(end));
        if lo == hi {
            return;
        }
        let mut rest = core::mem::take(&mut self.room);
        let apart = sizes.apart(live.channels.len(), S::LANES);
        let of_inputs = if self.v.is_some() { 0 } else { 1 };
        let mut room = Room {
            half: take(&mut rest, of_inputs * N * M * sizes.half_pitch),
            v: take(&mut rest, of_inputs * N * N * apart),
            apart,
            m: take(&mut rest, sizes.rows_of_m() * N * N * sizes.wide * S::LANES),
            stage: take(&mut rest, M * sizes.stage_pitch),
        };
        let (from, to) = (&live.from[lo..hi], &live.to[lo..hi]);
        let order = order::<S>(from, to, (sizes.wide, self.packed.depth), &mut rest);
        // Lanes behind the last tile are computed as well; what they hold should at least be numbers.
        room.half.fill(0.0);
        let across = sizes.tiles.1;
        let rows = self.out.cols().div_ceil(sizes.output.1 * M);
        let count = rows * across;
        for first in (0..count).step_by(sizes.wide * S::LANES) {
            let (row, column) = (first / across, first % across);
            let count = (count - first).min(sizes.wide * S::LANES);
            let tiles = Tiles {
                count,
                row,
                column,
                rows: (column + count).div_ceil(across),
            };
            if count > S::LANES {
                self.block::<S, M, N, K, 2>(s, tiles, order, &mut room);
            } else {
                self.block::<S, M, N, K, 1>(s, tiles, order, &mut room);
            }
        }
        if !live.activation.in_registers() {
            for &c in to {
                pointwise::apply(s, live.activation, self.out.row(c as usize - self.row));
            }
        }
    }

    #[inline(always)]
    fn block<S: F32s, const M: usize, const N: usize, const K: usize, const NV: usize>(
        &mut self,
        s: S,
        tiles: Tiles,
        order: Order<'_>,
        room: &mut Room<'_>,
    ) {
        let (sizes, live) = (self.sizes, self.live);
        let depth = live.channels.len();
        if self.v.is_none() {
            let mut v = Tile::new(room.v, N * N, depth * NV * S::LANES, room.apart);
            let above = self.above;
            let (of, half) = ((self.x, live.channels), &mut *room.half);
            inputs::<S, M, N, K, NV>(s, sizes, of, (above, tiles), half, &mut v);
        }
        for first in (0..order.rows.len()).step_by(sizes.together) {
            let range = (first, order.rows.len().min(first + sizes.together));
            let all = self.v.unwrap_or(room.v);
            for point in 0..N * N {
                let v = &all[point * room.apart..][..depth * NV * S::LANES];
                let m = &mut room.m[point * NV * S::LANES..];
                self.products::<S, NV>(s, point, N * N, (order, range), v, m);
            }
            let outputs = order.rows[range.0..range.1]
                .iter()
                .zip(&order.to[range.0..]);
            for (i, (&from, &c)) in outputs.enumerate() {
                if c == NOWHERE {
                    continue;
                }
                let m = &room.m[i * N * N * NV * S::LANES..][..N * N * NV * S::LANES];
                let bias = live.bias.map_or(0.0, |bias| bias[from as usize]);
                let row = self.out.row(c as usize - self.row);
                s.outline(
                    #[inline(always)]
                    || {
                        back::<S, M, N, NV>(s, m, bias, live.activation, room.stage, sizes);
                        place::<S, M>(s, sizes, tiles, room.stage, row);
                    },
                );
            }
        }
    }

    /// The products of one point: rows of M that are `points * NV` vectors apart.
    #[inline(always)]
    fn products<S: F32s, const NV: usize>(
        &self,
        s: S,
        point: usize,
        points: usize,
        (order, (lo, hi)): (Order<'_>, (usize, usize)),
        v: &[f32],
        m: &mut [f32],
    ) {
        let step = points * NV * S::LANES;
        let whole = order.whole.clamp(lo, hi);
        let picked = order.picked.clamp(lo, hi);
        let rows = order.rows;
        self.whole::<S, NV>(s, point, (rows, lo, whole), v, m, step);
        if whole < picked {
            let m = &mut m[(whole - lo) * step..];
            let rows = (&rows[whole..picked], rows[lo]);
            self.picked::<S, NV>(s, point, rows, v, m, step);
        }
        if picked < hi {
            let m = &mut m[(picked - lo) * step..];
            let rows = &rows[picked..hi];
            if const { S::REGISTERS >= 32 } {
                self.gathered::<S, 8, NV>(s, point, (rows, rows[0]), v, m, step);
            } else {
                self.gathered::<S, 4, NV>(s, point, (rows, rows[0]), v, m, step);
            }
        }
    }

    /// The rows of whole halves of panels, `rows[lo..whole]`.
    #[inline(always)]
    fn whole<S: F32s, const NV: usize>(
        &self,
        s: S,
        point: usize,
        (rows, lo, whole): (&[u32], usize, usize),
        v: &[f32],
        m: &mut [f32],
        step: usize,
    ) {
        let (packed, live) = (self.packed, self.live);
        let (high, plane) = (height(S::REGISTERS), packed.plane);
        let panel = packed.depth * high;
        let mut at = lo;
        while at < whole {
            let row = rows[at] as usize;
            let (index, inside) = (row / high, row % high);
            // With one vector of tiles a whole panel fits the registers, with two a half.
            let other = rows[..whole].get(at + high / 2);
            let tall = NV == 1 && inside == 0 && other == Some(&((row + high / 2) as u32));
            let count = if tall { high } else { high / 2 };
            // What comes behind the last row: the first of the next point.
            let this = point * plane + index * panel;
            let (point, next) = match rows.get(at + count) {
                Some(&next) => (point, next),
                None => (point + 1, rows[lo]),
            };
            let next = point * plane + next as usize / high * panel;
            let this = &packed.panels[this..][..panel];
            let lhs = Weights {
                panel: from_row(this, inside),
                next: from_row(
                    packed.panels.get(next..next + panel).unwrap_or(this),
                    inside,
                ),
                offsets: live.offsets,
            };
            let m = &mut m[(at - lo) * step..];
            let all = live.channels.len() == packed.depth;
            if const { S::REGISTERS >= 32 } {
                if NV == 1 && tall {
                    panel_product::<S, 16, 1, 16>(s, all, lhs, v, m, step);
                } else {
                    panel_product::<S, 8, NV, 16>(s, all, lhs, v, m, step);
                }
            } else if NV == 1 && tall {
                panel_product::<S, 12, 1, 12>(s, all, lhs, v, m, step);
            } else {
                panel_product::<S, 6, NV, 12>(s, all, lhs, v, m, step);
            }
            at += count;
        }
    }

    /// Rows of panels of 16, a tile for those of a panel; row `behind` is the first of the next point.
    #[inline(always)]
    fn picked<S: F32s, const NV: usize>(
        &self,
        s: S,
        point: usize,
        (rows, behind): (&[u32], u32),
        v: &[f32],
        m: &mut [f32],
        step: usize,
    ) {
        const HIGH: usize = 16;
        if S::REGISTERS < 32 || NV > 1 {
            unreachable!("rows are picked for one vector");
        }
        let plane = self.packed.plane;
        let len = self.packed.depth * HIGH;
        let all = self.packed.panels;
        let of = |row: u32| row as usize / HIGH;
        let mut done = 0;
        while done < rows.len() {
            let rest = &rows[done..];
            let count = rest.iter().position(|&row| of(row) != of(rest[0]));
            let count = count.unwrap_or(rest.len()).min(12);
            let panel = &all[point * plane + of(rest[0]) * len..][..len];
            let next = match rest.get(count) {
                Some(&row) => point * plane + of(row) * len,
                None => (point + 1) * plane + of(behind) * len,
            };
            let next = [all.get(next..next + len).unwrap_or(panel)];
            let next = (next, self.live.offsets);
            let m = &mut m[done * step..];
            let start = |i: usize| rest[i.min(count - 1)] as usize % HIGH;
            // What is missing in a tile is computed twice, and overwritten by the next one or behind the rows of M.
            match count {
                0..=8 => {
                    let rows = from_fn::<_, 8, _>(start);
                    gathered_product::<S, 8, 1, 1>(s, (panel, rows), next, v, m, step);
                }
                9..=10 => {
                    let rows = from_fn::<_, 10, _>(start);
                    gathered_product::<S, 10, 1, 1>(s, (panel, rows), next, v, m, step);
                }
                _ => {
                    let rows = from_fn::<_, 12, _>(start);
                    gathered_product::<S, 12, 1, 1>(s, (panel, rows), next, v, m, step);
                }
            }
            done += count;
        }
    }

    /// Rows anywhere in the panels; row `behind` is the first of the next point.
    #[inline(always)]
    fn gathered<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        point: usize,
        (rows, behind): (&[u32], u32),
        v: &[f32],
        m: &mut [f32],
        step: usize,
    ) {
        debug_assert!(MR == gathered(S::REGISTERS));
        let (high, plane) = (height(S::REGISTERS), self.packed.plane);
        let panel = self.packed.depth * high;
        let panels = &self.packed.panels[point * plane..][..plane];
        let start = |row: u32| row as usize / high * panel + row as usize % high;
        // Asked for in vain where there is nothing to come: nowhere would be a walk through the page tables.
        let later = |at: usize| self.packed.panels.get(at..).unwrap_or(panels);
        for (i, tile) in rows.chunks(MR).enumerate() {
            // What is missing in the last tile is computed twice; the room of M holds it.
            let starts: [usize; MR] = from_fn(|r| start(tile[r.min(tile.len() - 1)]));
            let behind = [behind];
            let (point, next) = match rows.get((i + 1) * MR..) {
                Some(next) if !next.is_empty() => (point, &next[..next.len().min(MR)]),
                _ => (point + 1, &behind[..]),
            };
            let mut panels_of = next.chunk_by(|a, b| *a as usize / high == *b as usize / high);
            let next = from_fn(|_| {
                let row = panels_of.next().map(|rows| rows[0] as usize / high);
                row.map_or(panels, |row| later(point * plane + row * panel))
            });
            let next = (next, self.live.offsets);
            let m = &mut m[i * MR * step..];
            gathered_product::<S, MR, NV, PANELS>(s, (panels, starts), next, v, m, step);
        }
    }
}
