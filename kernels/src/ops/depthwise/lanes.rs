//! Channels as lanes: a pixel of LANES maps is a vector, however narrow the maps are.
//!
//! ```text
//! for each group of LANES live planes
//!     transpose their weights and maps              [taps][LANES]; [h][pitch][LANES], zeros beside the rows
//!     for each row of the output, for each tile of R columns
//!         for each row of the kernel that is in the map, for each tap in it
//!             R FMAs: the weights in a register, the pixels from L1
//!     transpose the outputs
//! ```
//! Planes as they lie need no transposition, but leave idle what a row of the map does not fill of a vector, and need code for every window.
//! On Zen 5 it takes 45 to 60 cycles to transpose 16 pixels of 16 maps.

use super::pixels::{Tile, most_sums};
use super::{Job, Planar};
use crate::Isa;
use crate::isa::{F32s, WIDEST};
use crate::ops::conv_shape::ConvShape;
use crate::pack::even_height;
use crate::panel::{Below, LINE, Terms, lines, take, take_indices};
use crate::pool::NOWHERE;
use crate::transpose::{to_pixels, to_places, to_rows};

/// Cycles of a group beside its parts, of a vector of those that are transposed (near, and where L1 does not hold the group), of a tile beside
/// its taps, of a tap beside its FMAs, of an FMA.
const GROUP: f64 = 250.0;
const SQUARE: f64 = 3.75;
const FAR: f64 = 5.5;
const TILE: f64 = 45.0;
const STEP: f64 = 1.5;
const FMA: f64 = 0.62;

/// Rows of a tile, at most, where a row of the output has few columns: eight chains keep two FMA units of four cycles busy, and as many again
/// what runs over from one tile to the next.
const TOGETHER: usize = 3;

/// Where pixels lie when channels are lanes.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    map: (usize, usize),
    out: (usize, usize),
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    top: usize,
    left: usize,
    /// Pixels from row to row, those of the padding among them.
    pitch: usize,
}

impl Layout {
    /// That of a call, if planes as they lie, by the kernel that takes them, would take longer.
    pub(super) fn of(
        isa: Isa,
        shape: &ConvShape,
        map: (usize, usize),
        out: (usize, usize),
        planar: Planar,
    ) -> Option<Self> {
        let ((h, w), (oh, ow)) = (map, out);
        let [top, left, ..] = shape.pads;
        let ([kh, kw], [sh, sw], [dh, dw]) = (shape.kernel, shape.stride, shape.dilation);
        let sizes = [h, w, oh, ow, top, left, kh, kw, sh, sw, dh, dw];
        // Small enough that no index overflows and that L2 holds it.
        if sizes.into_iter().any(|n| n > 1 << 10) || oh * ow == 0 || sw > 2 {
            return None;
        }
        let pitch = (left + w).max((ow - 1) * sw + (kw - 1) * dw + 1);
        let layout = Self {
            map,
            out,
            kernel: shape.kernel,
            stride: shape.stride,
            dilation: shape.dilation,
            top,
            left,
            pitch,
        };
        let planar = planar.cycles(isa, shape, map, out);
        let pays = planar.is_none_or(|planar| layout.cycles(isa) < planar);
        (pays && layout.room(isa) <= PIXELS * isa.lanes()).then_some(layout)
    }

    /// Cycles of a plane, as one of a full group. Measured on Zen 5 from 7 x 7 to 56 x 56, 3 x 3 to 7 x 7: within a tenth.
    fn cycles(&self, isa: Isa) -> f64 {
        let lanes = isa.lanes();
        let ((h, w), (oh, ow)) = (self.map, self.out);
        let blocks = (h * w).div_ceil(lanes) + (oh * ow).div_ceil(lanes);
        let square = if self.room(isa) > NEAR { FAR } else { SQUARE };
        let transposed = (blocks + self.taps().div_ceil(lanes)) as f64 * square * lanes as f64;
        let (columns, together) = tile_of(isa.registers(), ow);
        let tiles = (oh.div_ceil(together) * ow.div_ceil(columns)) as f64;
        // Rows of the kernel that are in the map, for all rows of the output: one less for each step that the padding is deeper.
        let [sh, dh] = [self.stride[0], self.dilation[0]];
        let outside = |depth: usize| depth * (depth + sh) / (2 * sh * dh);
        let below = self.height() - (self.top + h);
        let rows = (oh * self.kernel[0]).saturating_sub(outside(self.top) + outside(below));
        let taps = (rows * self.kernel[1]) as f64;
        let sums = tiles * TILE + taps * (STEP * tiles / oh as f64 + FMA * ow as f64);
        (GROUP + transposed + sums) / lanes as f64
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Elements that a group needs.
    pub(super) fn room(&self, isa: Isa) -> usize {
        let (pixels, out) = (self.map.0 * self.map.1, self.out.0 * self.out.1);
        let vectors = self.height().saturating_mul(self.pitch);
        let vectors = vectors.saturating_add(out + self.taps());
        let lists = pixels + 2 * self.taps() + out + 8 * LINE;
        lines(vectors.saturating_mul(isa.lanes()).saturating_add(lists))
    }

    /// Rows of a map and its padding, as far as the kernel reaches.
    fn height(&self) -> usize {
        let reach = (self.out.0 - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0];
        (self.top + self.map.0).max(reach + 1)
    }

    /// The rows of the kernel that are in the map for one of `count` rows of the output from row `i` on.
    fn rows(&self, i: usize, count: usize) -> core::ops::Range<usize> {
        let before = |i: usize, row: usize| {
            let first = i * self.stride[0];
            row.saturating_sub(first).div_ceil(self.dilation[0])
        };
        let end = before(i, self.top + self.map.0).min(self.kernel[0]);
        before(i + count - 1, self.top).min(end)..end
    }
}

/// Columns and rows of a tile, of outputs with `ow` columns.
fn tile_of(registers: usize, ow: usize) -> (usize, usize) {
    let columns = even_height(ow, most_sums(registers));
    (columns, (most_sums(registers) / columns).min(TOGETHER))
}

/// Floats of L1, 48 KiB.
const NEAR: usize = 12 * 1024;
/// Vectors of the largest group that is transposed: half of L2.
const PIXELS: usize = 8192;

/// Computes the planes of `job` in groups, and returns how many of its channels are done: the rest are too few.
#[inline(always)]
pub(super) fn planes<S: F32s>(
    s: S,
    job: &mut Job<'_, '_>,
    layout: &Layout,
    scratch: &mut [f32],
) -> usize {
    let call = job.call;
    let (h, w) = layout.map;
    if job.tile.rows() * 2 < S::LANES {
        return 0;
    }
    let mut rest = scratch;
    // Where the pixels of a map go, and the pixels that the taps see from where the kernel begins.
    let places = take_indices(&mut rest, h * w);
    let mut left = layout.top * layout.pitch + layout.left;
    for row in places.chunks_exact_mut(w.max(1)) {
        for (place, at) in row.iter_mut().zip(left..) {
            *place = (at * S::LANES) as u32;
        }
        left += layout.pitch;
    }
    let taps = take_indices(&mut rest, layout.taps());
    let weights = take_indices(&mut rest, layout.taps());
    let [kw, dh, dw] = [layout.kernel[1], layout.dilation[0], layout.dilation[1]];
    for (t, (tap, weight)) in taps.iter_mut().zip(&mut *weights).enumerate() {
        *tap = ((t / kw * dh * layout.pitch + t % kw * dw) * S::LANES) as u32;
        *weight = (t * S::LANES) as u32;
    }
    let mut room = Room {
        places,
        taps: [Below::all(taps), Below::all(weights)],
        weights: take(&mut rest, layout.taps() * S::LANES),
        map: take(&mut rest, layout.height() * layout.pitch * S::LANES),
        sums: take(&mut rest, layout.out.0 * layout.out.1 * S::LANES),
        spare: take(&mut rest, layout.out.0 * layout.out.1),
    };
    room.map.fill(0.0);
    let (mut group, mut count) = ([NOWHERE; WIDEST], 0);
    let rows = job.tile.rows();
    for i in 0..rows {
        let o = job.from + i;
        if call.wanted(o) && call.given(call.input_of(o)) {
            group[count] = i as u32;
            count += 1;
        }
        let last = i + 1 == rows;
        if last && 0 < count && count * 2 < S::LANES {
            return group[0] as usize;
        }
        if count == S::LANES || last && count > 0 {
            compute(s, job, layout, group, &mut room);
            (group, count) = ([NOWHERE; WIDEST], 0);
        }
    }
    rows
}

/// What a group is transposed into.
struct Room<'a> {
    places: &'a [u32],
    taps: [Below<'a>; 2],
    weights: &'a mut [f32],
    map: &'a mut [f32],
    sums: &'a mut [f32],
    /// What lanes without a plane are written to.
    spare: &'a mut [f32],
}

/// Computes the planes that are the rows `group` of the job's tile.
#[inline(always)]
fn compute<S: F32s>(
    s: S,
    job: &mut Job<'_, '_>,
    layout: &Layout,
    group: [u32; WIDEST],
    room: &mut Room<'_>,
) {
    let call = job.call;
    let (taps, (h, w)) = (layout.taps(), layout.map);
    let mut weights = [&[][..]; WIDEST];
    let mut maps = [&[][..]; WIDEST];
    let mut bias = [0.0; WIDEST];
    for lane in 0..S::LANES {
        // Lanes without a plane repeat the first.
        let row = if group[lane] == NOWHERE { 0 } else { lane };
        let o = job.from + group[row] as usize;
        let c = call.input_of(o);
        weights[lane] = &call.packed.weights[o * taps..][..taps];
        maps[lane] = &call.x[c * h * w..][..h * w];
        bias[lane] = call.packed.bias[o];
    }
    to_pixels::<S, 1>(s, &weights, room.weights);
    to_places(s, &maps, room.places, room.map);
    let sums = Sums {
        layout,
        taps: room.taps,
        weights: room.weights,
        map: room.map,
        bias: &bias,
        clamp: (s.splat(call.clamp.0), s.splat(call.clamp.1)),
    };
    s.outline(
        #[inline(always)]
        || match layout.stride[1] {
            1 => sums.all::<S, 1>(s, room.sums),
            _ => sums.all::<S, 2>(s, room.sums),
        },
    );
    let pixels = job.tile.cols();
    let rows = job.tile.listed_or(&group, 0, room.spare);
    to_rows::<S, 1>(s, room.sums, pixels, rows);
}

/// A transposed group.
#[derive(Clone, Copy)]
struct Sums<'a, V> {
    layout: &'a Layout,
    taps: [Below<'a>; 2],
    weights: &'a [f32],
    map: &'a [f32],
    bias: &'a [f32],
    clamp: (V, V),
}

impl<V: Copy> Sums<'_, V> {
    /// All outputs, with stride T along a row.
    #[inline(always)]
    fn all<S: F32s<V = V>, const T: usize>(self, s: S, out: &mut [f32]) {
        let layout = self.layout;
        let (oh, ow) = layout.out;
        let below = layout.stride[0] * layout.pitch * S::LANES;
        let (columns, together) = tile_of(S::REGISTERS, ow);
        let mut i = 0;
        while i < oh {
            let q = together.min(oh - i);
            let rows = layout.rows(i, q);
            let kw = layout.kernel[1];
            let taps = rows.start * kw..rows.end * kw;
            let down = layout.dilation[0] * layout.pitch * S::LANES;
            let tile = Tile {
                taps: self.taps.map(|list| list.part(taps.clone())),
                rows: q,
                sides: [false; 2],
                window: (layout.dilation[1] == 1).then_some((kw, down)),
                weights: self.weights,
                map: &self.map[i * below..],
                out: &mut out[i * ow * S::LANES..],
                below: [below, ow * S::LANES],
                blocks: 1,
                apart: [0; 2],
                bias: self.bias,
                clamp: self.clamp,
            };
            tile.columns::<S, T>(s, q, ow, columns);
            i += q;
        }
    }
}
