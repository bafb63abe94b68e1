//! The transforms of whole maps: planes into points, and points into outputs.
#![forbid(unsafe_code)]

use super::Sizes;
use super::transform;
use crate::epilogue::{self, Activation};
use crate::isa::F32s;
use crate::pool::{Rows, Tile};

/// The tiles of a block: `count`, in `rows` rows of tiles from `row` on; the first is number `column` of its row.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub(super) count: usize,
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) rows: usize,
}

/// Transforms the inputs of `channels` for the tiles below row `above` of tiles; a row of `v` is a point.
#[inline(always)]
pub(super) fn inputs<S: F32s, const M: usize, const N: usize, const K: usize, const NV: usize>(
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
pub(super) fn back<S: F32s, const M: usize, const N: usize, const NV: usize>(
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
pub(super) fn place<S: F32s, const M: usize>(
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
