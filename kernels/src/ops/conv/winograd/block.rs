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

use super::product::{Weights, from_row, panel_product, picked_product, product};
use super::rows::{DROPPED, Order, gathered, order};
use super::transform;
use super::{Form, Live, Sizes, Winograd, height};
use crate::epilogue::{self, Activation};
use crate::isa::{F32s, Task};
use crate::ops::pointwise;
use crate::panel::{Gathered, take};
use crate::pool::{Rows, Tile};

/// A part of the output: rows of tiles x channels.
pub(super) struct Block<'a, 't> {
    pub(super) packed: &'a Winograd,
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

/// The tiles of a block: `count`, in `rows` rows of tiles from `row` on; the first is number `column` of its row.
#[derive(Clone, Copy)]
struct Tiles {
    count: usize,
    row: usize,
    column: usize,
    rows: usize,
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
        let order = order::<S>(from, to, (sizes.wide, self.packed.c_in.len()), &mut rest);
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
                if c == DROPPED {
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
            if S::REGISTERS >= 32 {
                self.gathered::<S, 8, NV>(s, point, rows, v, m, step);
            } else {
                self.gathered::<S, 4, NV>(s, point, rows, v, m, step);
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
        let (high, plane) = (height(S::REGISTERS), packed.plane());
        let panel = packed.c_in.len() * high;
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
                offsets: live.offsets.as_slice(),
            };
            let m = &mut m[(at - lo) * step..];
            let all = live.channels.len() == packed.c_in.len();
            if S::REGISTERS >= 32 {
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
        let plane = self.packed.plane();
        let len = self.packed.c_in.len() * HIGH;
        let all = &self.packed.panels[..];
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
            let of = Weights {
                panel,
                next: all.get(next..next + len).unwrap_or(panel),
                offsets: self.live.offsets.as_slice(),
            };
            let m = &mut m[done * step..];
            let place = |i: usize| rest[i.min(count - 1)] as usize;
            // What is missing in a tile is computed twice, and overwritten by the next one or behind the rows of M.
            match count {
                0..=8 => picked_product::<S, 8, HIGH>(s, of, place, v, m, step),
                9..=10 => picked_product::<S, 10, HIGH>(s, of, place, v, m, step),
                _ => picked_product::<S, 12, HIGH>(s, of, place, v, m, step),
            }
            done += count;
        }
    }

    /// Rows anywhere in the panels.
    #[inline(always)]
    fn gathered<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        point: usize,
        rows: &[u32],
        v: &[f32],
        m: &mut [f32],
        step: usize,
    ) {
        debug_assert!(MR == gathered(S::REGISTERS));
        let (high, plane) = (height(S::REGISTERS), self.packed.plane());
        let panel = self.packed.c_in.len() * high;
        let panels = &self.packed.panels[point * plane..][..plane];
        for (i, rows) in rows.chunks(MR).enumerate() {
            // What is missing in the last tile is computed twice; the room of M holds it.
            let starts: [usize; MR] = core::array::from_fn(|r| {
                let row = rows[r.min(rows.len() - 1)] as usize;
                row / high * panel + row % high
            });
            let lhs = Gathered::new(panels, starts, 1, self.live.offsets);
            let m = &mut m[i * MR * step..];
            s.outline(
                #[inline(always)]
                || product::<S, MR, NV>(s, lhs, v, m, step),
            );
        }
    }
}

/// Transforms the inputs of `channels` for the tiles below row `above` of tiles; a row of `v` is a point.
#[inline(always)]
fn inputs<S: F32s, const M: usize, const N: usize, const K: usize, const NV: usize>(
    s: S,
    sizes: &Sizes,
    (x, channels): (&[f32], &[u32]),
    (above, tiles): (usize, Tiles),
    half: &mut [f32],
    v: &mut Tile<'_>,
) {
    let (h, w) = sizes.input;
    for (slot, &c) in channels.iter().enumerate() {
        let plane = &x[c as usize * h * w..][..h * w];
        s.outline(
            #[inline(always)]
            || {
                along_rows::<S, M, N, K>(s, sizes, plane, above, tiles, half);
                let at = slot * NV * S::LANES;
                down_columns::<S, M, N, NV>(s, sizes, half, tiles.column, v, at);
            },
        );
    }
}

/// The first N parts of `len` elements. That their lengths are one and the same number saves the checks of all but the first.
#[inline(always)]
fn slices<const N: usize>(of: &[f32], len: usize) -> [&[f32]; N] {
    let mut rest = of;
    let mut parts = [of; N];
    for part in &mut parts {
        (*part, rest) = rest.split_at(len);
    }
    parts
}

/// As [`slices`].
#[inline(always)]
fn slices_mut<const N: usize>(of: &mut [f32], len: usize) -> [&mut [f32]; N] {
    let mut rest = of;
    core::array::from_fn(|_| {
        let (part, behind) = core::mem::take(&mut rest).split_at_mut(len);
        rest = behind;
        part
    })
}

/// The first axis: the rows of the plane that the tiles read.
#[inline(always)]
fn along_rows<S: F32s, const M: usize, const N: usize, const K: usize>(
    s: S,
    sizes: &Sizes,
    plane: &[f32],
    above: usize,
    tiles: Tiles,
    half: &mut [f32],
) {
    let (h, w) = sizes.input;
    let across = sizes.tiles.1;
    let pitch = sizes.half_pitch;
    let first = (above + tiles.row) * M;
    let points: [&mut [f32]; N] = slices_mut(half, M * pitch);
    // What a row writes behind its end is overwritten by the next row, and by chunks further left.
    for chunk in (0..across.div_ceil(S::LANES)).rev() {
        let at = chunk * S::LANES;
        let start = (at * M) as isize - sizes.pads.1 as isize;
        let window = s.window::<K>(start, w);
        for row in 0..=tiles.rows {
            for phase in 0..if row < tiles.rows { M } else { N - M } {
                let y = (first + row * M + phase).wrapping_sub(sizes.pads.0);
                let to = phase * pitch + row * across + at;
                if y >= h {
                    for j in 0..N {
                        s.store(s.splat(0.0), &mut points[j][to..]);
                    }
                    continue;
                }
                let x = s.load_window(&plane[y * w..][..w], &window);
                let mut d = [x[0]; N];
                let (even, odd) = s.deinterleave(x[0], x[1]);
                if M == 2 {
                    (d[0], d[1]) = (even, odd);
                } else {
                    let (more_even, more_odd) = s.deinterleave(x[2], x[3]);
                    (d[0], d[2]) = s.deinterleave(even, more_even);
                    (d[1], d[3]) = s.deinterleave(odd, more_odd);
                }
                // The tile's last two inputs are the next tile's first two.
                let next = x[K - 1];
                d[M] = s.align(d[0], next, 1);
                d[M + 1] = s.align(d[1], s.align(next, next, 1), 1);
                let d = transform::input(s, d);
                for j in 0..N {
                    s.store(d[j], &mut points[j][to..]);
                }
            }
        }
    }
}

/// The second axis, from tile `column` of the first row of tiles on.
#[inline(always)]
fn down_columns<S: F32s, const M: usize, const N: usize, const NV: usize>(
    s: S,
    sizes: &Sizes,
    half: &[f32],
    column: usize,
    v: &mut Tile<'_>,
    at: usize,
) {
    let pitch = sizes.half_pitch;
    for vector in 0..NV {
        for j in 0..N {
            let phases: [&[f32]; M] = slices(&half[j * M * pitch..], pitch);
            let from = column + vector * S::LANES;
            let mut d = [s.splat(0.0); N];
            for i in 0..M {
                d[i] = s.load(&phases[i][from..]);
            }
            for i in M..N {
                d[i] = s.load(&phases[i - M][from + sizes.tiles.1..]);
            }
            let d = transform::input(s, d);
            let mut points = [j as u32; N];
            for i in 0..N {
                points[i] += (i * N) as u32;
            }
            let mut rows = v.listed(&points, 0);
            for i in 0..N {
                s.store(d[i], &mut rows.row(i)[at + vector * S::LANES..]);
            }
        }
    }
}

/// Both axes of the output of one channel, into the stage.
#[inline(always)]
fn back<S: F32s, const M: usize, const N: usize, const NV: usize>(
    s: S,
    m: &[f32],
    bias: f32,
    activation: Activation,
    stage: &mut [f32],
    sizes: &Sizes,
) {
    let bias = s.splat(bias);
    let m = &m[..N * N * NV * S::LANES];
    let rows: [&mut [f32]; M] = slices_mut(stage, sizes.stage_pitch);
    for vector in 0..NV {
        let mut columns = [[s.splat(0.0); M]; N];
        for j in 0..N {
            let mut d = [s.splat(0.0); N];
            for i in 0..N {
                d[i] = s.load(&m[((i * N + j) * NV + vector) * S::LANES..]);
            }
            columns[j] = transform::output(s, d);
        }
        for r in 0..M {
            let mut d = [s.splat(0.0); N];
            for j in 0..N {
                d[j] = columns[j][r];
            }
            let mut y: [[S::V; M]; 1] = [transform::output(s, d)];
            for c in 0..M {
                y[0][c] = s.add(y[0][c], bias);
            }
            epilogue::finish(s, activation, &mut y);
            let y = y[0];
            let to = &mut rows[r][vector * M * S::LANES..][..M * S::LANES];
            let mut sorted = y;
            if M == 2 {
                (sorted[0], sorted[1]) = s.interleave(y[0], y[1]);
            } else {
                let (even, more_even) = s.interleave(y[0], y[2]);
                let (odd, more_odd) = s.interleave(y[1], y[3]);
                (sorted[0], sorted[1]) = s.interleave(even, odd);
                (sorted[2], sorted[3]) = s.interleave(more_even, more_odd);
            }
            for c in 0..M {
                s.store(sorted[c], &mut to[c * S::LANES..]);
            }
        }
    }
}

/// From the stage to the plane.
#[inline(always)]
fn place<S: F32s, const M: usize>(
    s: S,
    sizes: &Sizes,
    tiles: Tiles,
    stage: &[f32],
    plane: &mut [f32],
) {
    let (across, width) = (sizes.tiles.1, sizes.output.1);
    let (mut row, mut column, mut done) = (tiles.row, tiles.column, 0);
    while done < tiles.count {
        let count = (across - column).min(tiles.count - done);
        let (from, to) = (column * M, ((column + count) * M).min(width));
        for r in 0..M {
            let at = (row * M + r) * width;
            let Some(to) = plane.get_mut(at + from..at + to) else {
                break;
            };
            let stage = &stage[r * sizes.stage_pitch + done * M..];
            let vectors = to.len().div_ceil(S::LANES);
            for i in 0..vectors {
                let to = &mut to[i * S::LANES..];
                s.store_some(s.load(&stage[i * S::LANES..]), to);
            }
        }
        done += count;
        (row, column) = (row + 1, 0);
    }
}
