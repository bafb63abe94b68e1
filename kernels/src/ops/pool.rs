//! Pooling: the greatest or the mean of windows, of planes, or both at once.
#![forbid(unsafe_code)]

use super::check;
use super::conv_shape::ConvShape;
use super::pointwise::map;
use super::reduce::{ReduceOp, reduce, row_max};
use crate::isa::{F32s, Task};
use crate::pool::{Pool, Tile};
use crate::{Channels, Error, Isa};

mod plane;

use plane::Plane;

/// The window of a 2-D pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolShape {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Steps of the window over the map.
    pub stride: [usize; 2],
    /// Distances between the taps.
    pub dilation: [usize; 2],
    /// Padding around the map: top, left, bottom, right. It never wins a maximum.
    pub pads: [usize; 4],
}

impl PoolShape {
    /// Height and width of the output for a map of `h` x `w`. `ceil`: the last window may hang over the padded map, but must start inside
    /// the map or its leading padding.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an extent of zero or a window larger than the padded map; [`Error::TooLarge`] on overflow.
    pub fn output(&self, map: (usize, usize), ceil: bool) -> Result<(usize, usize), Error> {
        let shape = ConvShape {
            c_in: 1,
            c_out: 1,
            groups: 1,
            kernel: self.kernel,
            stride: self.stride,
            dilation: self.dilation,
            pads: self.pads,
        };
        shape.check()?;
        let (oh, ow) = shape.output(map)?;
        let up = |i: usize, n: usize, o: usize| {
            let (padded, step) = (n + self.pads[i] + self.pads[i + 2], self.stride[i]);
            let reach = (self.kernel[i] - 1) * self.dilation[i] + 1;
            let more = ceil && !(padded - reach).is_multiple_of(step);
            o + usize::from(more && o.saturating_mul(step) < n + self.pads[i])
        };
        Ok((up(0, map.0, oh), up(1, map.1, ow)))
    }

    /// Refuses windows that reach beyond what can be counted, of a map and an output.
    pub(super) fn reaches(&self, (h, w): (usize, usize), out: (usize, usize)) -> Result<(), Error> {
        for (i, n) in [(0, h), (1, w)] {
            let o = [out.0, out.1][i];
            if [self.kernel[i], self.stride[i], self.dilation[i]].contains(&0) {
                return Err(Error::Invalid {
                    what: "kernel, stride and dilation of a pooling must be at least 1",
                });
            }
            let reach = o
                .checked_mul(self.stride[i])
                .and_then(|a| a.checked_add(self.kernel[i].checked_mul(self.dilation[i])?))
                .and_then(|a| a.checked_add(n)?.checked_add(self.pads[i]))
                .and_then(|a| a.checked_add(self.pads[i + 2]));
            if reach.is_none_or(|a| a > isize::MAX as usize / 4) {
                return Err(Error::TooLarge {
                    operand: "pooling window",
                });
            }
        }
        Ok(())
    }

    /// The map with its padding along an axis.
    pub(super) fn padded(&self, i: usize, n: usize) -> core::ops::Range<isize> {
        -(self.pads[i] as isize)..(n + self.pads[i + 2]) as isize
    }

    /// The taps of window `o` along axis `i` that lie inside `from..to` of the map.
    pub(super) fn taps(&self, i: usize, o: usize, from: isize, to: isize) -> (usize, usize) {
        let (start, step) = (
            (o * self.stride[i]) as isize - self.pads[i] as isize,
            self.dilation[i] as isize,
        );
        let upto = |edge: isize| (edge - start).max(0) as usize;
        let first = upto(from).div_ceil(step as usize).min(self.kernel[i]);
        let end = upto(to).div_ceil(step as usize).min(self.kernel[i]);
        (first, end.max(first))
    }
}

/// Which windows are pooled to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolOp {
    /// The greatest; NaN when one is NaN; minus infinity where a window sees only padding.
    Max,
    /// The mean over the taps inside the map, or inside the padded map.
    Mean {
        /// Whether padding counts.
        include_pad: bool,
    },
}

/// y[c, i, j] = max or mean over the window of x[c, i s_h + k d_h - top, j s_w + l d_w - left]
///
/// # Shapes    `x` `[c, h, w]` with `extents` = (c, h, w); `y` `[c, out.0, out.1]`; `out` from [`PoolShape::output`] or larger: windows
///   outside the map see only padding
/// # Masks     dead planes are neither read nor written
/// # Numerics  the mean sums each column of the window, then the columns, then divides; a window without a counted tap gives NaN
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Invalid`], [`Error::Mismatch`] for the mask
/// # Panics    never
/// # Scratch   none: 4 KiB of stack
/// # Source    none
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
    check::covers("input of a pooling", &[c, h, w], x.len())?;
    let len = check::covers("output of a pooling", &[c, out.0, out.1], y.len())?;
    check::mask("planes of a pooling's mask", live, c)?;
    shape.reaches((h, w), out)?;
    if len == 0 {
        return Ok(());
    }
    let (plane, area) = (out.0 * out.1, h * w);
    let block = c.div_ceil(pool.threads() * 2);
    Tile::new(&mut y[..len], c, plane, plane).split(pool, (block, plane), |from, _, mut tile| {
        for i in 0..tile.rows() {
            let c = from + i;
            if live.is_none_or(|live| live.contains(c)) {
                let plane = Plane {
                    op,
                    shape,
                    x: &x[c * area..][..area],
                    map: (h, w),
                    out,
                };
                isa.run((plane, tile.row(i)));
            }
        }
    });
    Ok(())
}

/// `y[c]` = mean over p of `x[c, p]`
///
/// Shapes, masks, numerics and errors as [`reduce`] over `[c, p, 1]`.
///
/// # Errors
/// As [`reduce`].
pub fn global_mean(
    isa: Isa,
    x: &[f32],
    c: usize,
    p: usize,
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    reduce(isa, ReduceOp::Mean, x, [c, p, 1], live, y)
}

/// `y[c]` = max over p of `x[c, p]`
///
/// Shapes, masks, numerics and errors as [`reduce`] over `[c, p, 1]`.
///
/// # Errors
/// As [`reduce`].
pub fn global_max(
    isa: Isa,
    x: &[f32],
    c: usize,
    p: usize,
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    reduce(isa, ReduceOp::Max, x, [c, p, 1], live, y)
}

struct MeanMax<'a> {
    x: &'a [f32],
    extents: (usize, usize),
    live: Option<Channels<'a>>,
    mean: &'a mut [f32],
    max: &'a mut [f32],
}

impl MeanMax<'_> {
    /// Sum and greatest of a row, in the order of `reduce`. The greatest ignores NaN: the sum tells that there was one.
    #[inline(always)]
    fn row<S: F32s>(s: S, row: &[f32]) -> (f32, f32) {
        let mut sum = [s.splat(0.0); 4];
        let mut max = [s.splat(f32::NEG_INFINITY); 4];
        let mut blocks = row.chunks_exact(4 * S::LANES);
        for block in &mut blocks {
            for i in 0..4 {
                let x = s.load(&block[i * S::LANES..][..S::LANES]);
                sum[i] = s.add(sum[i], x);
                max[i] = s.max(x, max[i]);
            }
        }
        let rest = blocks.remainder();
        for i in 0..4 {
            let at = i * S::LANES;
            if at >= rest.len() {
                break;
            }
            let x = s.load_some(&rest[at..]);
            sum[i] = s.add(sum[i], x);
            let inside = s.lanes(0, (rest.len() - at).min(S::LANES));
            max[i] = s.select(inside, s.max(x, max[i]), max[i]);
        }
        let total = s.add(s.add(sum[0], sum[1]), s.add(sum[2], sum[3]));
        let best = s.max(s.max(max[0], max[1]), s.max(max[2], max[3]));
        // No lane of `best` is NaN.
        let best = s.fold_lanes(
            best,
            #[inline(always)]
            |a, b| s.max(b, a),
        );
        (s.sum(total), best)
    }
}

impl Task for MeanMax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let (c, p) = self.extents;
        check::each_run(
            self.live,
            c,
            #[inline(always)]
            |run| {
                let (mean, max) = (&mut self.mean[run.clone()], &mut self.max[run.clone()]);
                for ((c, mean), max) in run.zip(mean.iter_mut()).zip(max) {
                    let row = &self.x[c * p..][..p];
                    (*mean, *max) = Self::row(s, row);
                    if mean.is_nan() {
                        *max = row_max(s, row);
                    }
                }
                let terms = s.splat(p as f32);
                map(
                    s,
                    mean,
                    #[inline(always)]
                    |sum| s.div(sum, terms),
                );
            },
        );
    }
}

/// `mean[c]` = mean over p of `x[c, p]` and `max[c]` = max over p of `x[c, p]`, in one pass: the head of a gate
///
/// # Shapes    `x` `[c, p]`; `mean`, `max` `[c]`
/// # Masks     dead planes are not read, their means and maxima not written
/// # Numerics  what [`global_mean`] and [`global_max`] give, but for the sign of a greatest zero
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`] for the mask
/// # Panics    never
/// # Scratch   none
/// # Source    X. Li et al., arXiv 2303.08970, section 3
pub fn mean_max(
    isa: Isa,
    x: &[f32],
    c: usize,
    p: usize,
    live: Option<Channels<'_>>,
    mean: &mut [f32],
    max: &mut [f32],
) -> Result<(), Error> {
    check::covers("input of a mean and max", &[c, p], x.len())?;
    check::covers("means", &[c], mean.len())?;
    check::covers("maxima", &[c], max.len())?;
    check::mask("planes of a mean and max's mask", live, c)?;
    isa.run(MeanMax {
        x,
        extents: (c, p),
        live,
        mean,
        max,
    });
    Ok(())
}
