//! Windows of maps in blocks.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::{elements, held};
use crate::isa::{F32s, Task};
use crate::ops::check;
use crate::ops::pool::{PoolOp, PoolShape};
use crate::pool::{Pool, Tile};
use crate::{Channels, Error, Isa};

/// `y[c / L, i, j, c % L]` = max or mean over the window of `x[c / L, i s_h + k d_h - top, j s_w + l d_w - left, c % L]`
///
/// # Shapes    `x` a map in blocks with `extents` = (c, h, w); `y` one of c channels of `out.0` x `out.1` pixels; `out` from [`PoolShape::output`] or larger:
///   windows outside the map see only padding
/// # Masks     with `live`, both are what [the module](super) says
/// # Numerics  as [`pool2d`](crate::ops::pool::pool2d)
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Invalid`], [`Error::Mismatch`] for the mask
/// # Panics    never
pub fn pool2d(
    isa: Isa,
    pool: &dyn Pool,
    op: PoolOp,
    shape: &PoolShape,
    x: &[f32],
    (c, h, w): (usize, usize, usize),
    live: Option<Channels<'_>>,
    out: (usize, usize),
    y: &mut [f32],
) -> Result<(), Error> {
    check::mask("channels of a pooling's mask", live, c)?;
    let of = |(h, w): (usize, usize)| -> Result<usize, Error> {
        let pixels = h.checked_mul(w);
        let pixels = pixels.ok_or(Error::TooLarge { operand: "map" })?;
        elements(isa, held(live, c), pixels)
    };
    check::covers("input of a pooling", &[of((h, w))?], x.len())?;
    let len = check::covers("output of a pooling", &[of(out)?], y.len())?;
    shape.reaches((h, w), out)?;
    if len == 0 {
        return Ok(());
    }
    let lanes = isa.lanes();
    let (from, to) = (h * w * lanes, out.0 * out.1 * lanes);
    let tile = Tile::new(&mut y[..len], len / to, to, to);
    tile.split(pool, (1, to), |block, _, mut tile| {
        isa.run(Block {
            op,
            shape,
            x: &x[block * from..][..from],
            map: (h, w),
            out,
            y: tile.row(0),
        });
    });
    Ok(())
}

struct Block<'a> {
    op: PoolOp,
    shape: &'a PoolShape,
    x: &'a [f32],
    map: (usize, usize),
    out: (usize, usize),
    y: &'a mut [f32],
}

impl Task for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let Self {
            op,
            shape,
            x,
            map: (h, w),
            out,
            y,
        } = self;
        let (count_h, count_w) = match op {
            PoolOp::Mean { include_pad: true } => (shape.padded(0, h), shape.padded(1, w)),
            _ => (0..h as isize, 0..w as isize),
        };
        let count = |axis: usize, o: usize, edges: &Range<isize>| {
            let (first, end) = shape.taps(axis, o, edges.start, edges.end);
            (end - first) as f32
        };
        for (i, line) in y.chunks_exact_mut(out.1 * S::LANES).enumerate() {
            let (top, bottom) = shape.taps(0, i, 0, h as isize);
            for (j, y) in line.chunks_exact_mut(S::LANES).enumerate() {
                let (left, right) = shape.taps(1, j, 0, w as isize);
                let place = |axis: usize, o: usize, tap: usize| {
                    o * shape.stride[axis] + tap * shape.dilation[axis] - shape.pads[axis]
                };
                // Windows in the padding have no place.
                let inside = top < bottom && left < right;
                let (rows, columns) = match inside {
                    true => (bottom - top, right - left),
                    false => (0, 0),
                };
                let first = match inside {
                    true => place(0, i, top) * w + place(1, j, left),
                    false => 0,
                };
                let window = Window {
                    x: &x[first * S::LANES..],
                    rows,
                    columns,
                    down: shape.dilation[0] * w * S::LANES,
                    across: shape.dilation[1] * S::LANES,
                };
                let v = match op {
                    PoolOp::Max => window.join(
                        s,
                        f32::NEG_INFINITY,
                        #[inline(always)]
                        |a, b| s.max_nan(a, b),
                    ),
                    PoolOp::Mean { .. } => {
                        let sum = window.join(
                            s,
                            0.0,
                            #[inline(always)]
                            |a, b| s.add(a, b),
                        );
                        let terms = count(0, i, &count_h) * count(1, j, &count_w);
                        s.div(sum, s.splat(terms))
                    }
                };
                s.store(v, y);
            }
        }
    }
}

/// Taps inside the map.
struct Window<'a> {
    x: &'a [f32],
    rows: usize,
    columns: usize,
    down: usize,
    across: usize,
}

impl Window<'_> {
    /// Each column, then the columns.
    #[inline(always)]
    fn join<S: F32s>(&self, s: S, neutral: f32, join: impl Fn(S::V, S::V) -> S::V) -> S::V {
        let mut all = s.splat(neutral);
        for k in 0..self.columns {
            let mut column = s.splat(neutral);
            for r in 0..self.rows {
                let at = r * self.down + k * self.across;
                column = join(column, s.load(&self.x[at..]));
            }
            all = join(all, column);
        }
        all
    }
}
