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

use super::product::{Weights, from_row, panel_product, product};
use super::transform;
use super::{Form, Live, Sizes, Winograd, gathered, height};
use crate::epilogue::{self, Activation};
use crate::isa::{F32s, Task};
use crate::ops::pointwise;
use crate::panel::{Gathered, LINE, take};
use crate::pool::Tile;

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
        let outputs = (below(self.row), below(end));
        if outputs.0 == outputs.1 {
            return;
        }
        let mut rest = core::mem::take(&mut self.room);
        let apart = live.channels.len() * sizes.wide * S::LANES + LINE;
        let mut room = Room {
            half: take(&mut rest, N * M * sizes.half_pitch),
            v: take(&mut rest, N * N * apart),
            apart,
            m: take(&mut rest, sizes.together * N * N * sizes.wide * S::LANES),
            stage: take(&mut rest, M * sizes.stage_pitch),
        };
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
                self.block::<S, M, N, K, 2>(s, tiles, outputs, &mut room);
            } else {
                self.block::<S, M, N, K, 1>(s, tiles, outputs, &mut room);
            }
        }
        if !live.activation.in_registers() {
            for &c in &live.to[outputs.0..outputs.1] {
                pointwise::apply(s, live.activation, self.out.row(c as usize - self.row));
            }
        }
    }

    #[inline(always)]
    fn block<S: F32s, const M: usize, const N: usize, const K: usize, const NV: usize>(
        &mut self,
        s: S,
        tiles: Tiles,
        outputs: (usize, usize),
        room: &mut Room<'_>,
    ) {
        let (sizes, live) = (self.sizes, self.live);
        let (h, w) = sizes.input;
        for (slot, &c) in live.channels.iter().enumerate() {
            let plane = &self.x[c as usize * h * w..][..h * w];
            s.outline(
                #[inline(always)]
                || {
                    along_rows::<S, M, N, K>(s, sizes, plane, self.above, tiles, room.half);
                    let (at, apart) = (slot * NV * S::LANES, room.apart);
                    down_columns::<S, M, N, NV>(
                        s,
                        sizes,
                        room.half,
                        tiles.column,
                        room.v,
                        (at, apart),
                    );
                },
            );
        }
        for first in (outputs.0..outputs.1).step_by(sizes.together) {
            let outputs = (first, outputs.1.min(first + sizes.together));
            for point in 0..N * N {
                let v = &room.v[point * room.apart..][..live.channels.len() * NV * S::LANES];
                let m = &mut room.m[point * NV * S::LANES..];
                self.products::<S, NV>(s, point, N * N, outputs, v, m);
            }
            for (i, &c) in live.to[outputs.0..outputs.1].iter().enumerate() {
                let m = &room.m[i * N * N * NV * S::LANES..][..N * N * NV * S::LANES];
                let bias = live
                    .bias
                    .map_or(0.0, |bias| bias[live.from[outputs.0 + i] as usize]);
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
        (lo, hi): (usize, usize),
        v: &[f32],
        m: &mut [f32],
    ) {
        let (packed, live) = (self.packed, self.live);
        let step = points * NV * S::LANES;
        let (high, plane) = (height(S::REGISTERS), packed.plane());
        let panel = packed.c_in.len() * high;
        let all = &packed.panels[..];
        let panels = &all[point * plane..][..plane];
        let from = &live.from[lo..hi];
        let (begin, end) = (from[0] as usize, from[from.len() - 1] as usize + 1);
        // Dense rows keep to the packed panels; listed ones are gathered.
        if end - begin != from.len() || !begin.is_multiple_of(high / 2) {
            if S::REGISTERS >= 32 {
                self.gathered::<S, 8, NV>(s, panels, from, v, m, step);
            } else {
                self.gathered::<S, 4, NV>(s, panels, from, v, m, step);
            }
            return;
        }
        let mut row = begin;
        while row < end {
            let (index, inside) = (row / high, row % high);
            // What comes behind the last panel: that of the next point.
            let next = if (index + 1) * high < end {
                point * plane + (index + 1) * panel
            } else {
                (point + 1) * plane + begin / high * panel
            };
            let lhs = Weights {
                panel: from_row(&panels[index * panel..][..panel], inside),
                next: from_row(
                    all.get(next..next + panel).unwrap_or(&panels[..panel]),
                    inside,
                ),
                offsets: live.offsets,
            };
            let m = &mut m[(row - begin) * step..];
            // With one vector of tiles a whole panel fits the registers, with two a half.
            let whole = NV == 1 && inside == 0 && row + high / 2 < end;
            let all = live.channels.len() == packed.c_in.len();
            if S::REGISTERS >= 32 {
                if NV == 1 && whole {
                    panel_product::<S, 16, 1, 16>(s, all, lhs, v, m, step);
                } else {
                    panel_product::<S, 8, NV, 16>(s, all, lhs, v, m, step);
                }
            } else if NV == 1 && whole {
                panel_product::<S, 12, 1, 12>(s, all, lhs, v, m, step);
            } else {
                panel_product::<S, 6, NV, 12>(s, all, lhs, v, m, step);
            }
            row += if whole { high } else { high / 2 };
        }
    }

    /// The products of rows anywhere in the panels.
    #[inline(always)]
    fn gathered<S: F32s, const MR: usize, const NV: usize>(
        &self,
        s: S,
        panels: &[f32],
        from: &[u32],
        v: &[f32],
        m: &mut [f32],
        step: usize,
    ) {
        debug_assert!(MR == gathered(S::REGISTERS));
        let high = height(S::REGISTERS);
        let panel = self.packed.c_in.len() * high;
        for (i, rows) in from.chunks(MR).enumerate() {
            // What is missing in the last tile is computed twice; the room of M is a whole number of tiles.
            let starts: [usize; MR] = core::array::from_fn(|r| {
                let row = rows[r.min(rows.len() - 1)] as usize;
                row / high * panel + row % high
            });
            let lhs = Gathered::new(panels, starts, high, self.live.list);
            let m = &mut m[i * MR * step..];
            s.outline(
                #[inline(always)]
                || product::<S, MR, NV>(s, lhs, v, m, step),
            );
        }
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
    v: &mut [f32],
    (at, apart): (usize, usize),
) {
    let pitch = sizes.half_pitch;
    let rows: [&mut [f32]; N] = slices_mut(v, N * apart);
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
            let to = j * apart + at + vector * S::LANES;
            for i in 0..N {
                s.store(d[i], &mut rows[i][to..]);
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
