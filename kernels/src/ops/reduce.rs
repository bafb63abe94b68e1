//! Sums, means and extremes along one axis.
#![forbid(unsafe_code)]

use super::check;
use crate::isa::{F32s, Task};
use crate::{Channels, Error, Isa};

/// What a reduction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// The sum.
    Sum,
    /// The sum over the number of terms.
    Mean,
    /// The greatest, NaN when one is NaN.
    Max,
    /// The least, NaN when one is NaN.
    Min,
}

/// Folds `map` of the elements of `row` with `join`, in four accumulators that start as `neutral`:
/// element `i` goes to lane `i % LANES` of accumulator `i / LANES % 4`. They are joined pairwise.
#[inline(always)]
pub(crate) fn fold<S: F32s>(
    s: S,
    row: &[f32],
    neutral: f32,
    map: impl Fn(S::V) -> S::V,
    join: impl Fn(S::V, S::V) -> S::V,
) -> S::V {
    let mut acc = [s.splat(neutral); 4];
    let mut blocks = row.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (i, a) in acc.iter_mut().enumerate() {
            *a = join(*a, map(s.load(&block[i * S::LANES..][..S::LANES])));
        }
    }
    let rest = blocks.remainder();
    let mut at = 0;
    for a in &mut acc {
        if at >= rest.len() {
            break;
        }
        let x = &rest[at..];
        let x = map(s.load_some(x));
        *a = if rest.len() - at >= S::LANES {
            join(*a, x)
        } else {
            join(*a, first_lanes(s, rest.len() - at, x, neutral))
        };
        at += S::LANES;
    }
    let [a, b, c, d] = acc;
    join(join(a, b), join(c, d))
}

/// `x` in the first `n` lanes, `other` in the rest.
#[inline(always)]
pub(crate) fn first_lanes<S: F32s>(s: S, n: usize, x: S::V, other: f32) -> S::V {
    let ones = s.load_some(&[1.0; 16][..n.min(S::LANES)]);
    s.select(s.lt(s.splat(0.0), ones), x, s.splat(other))
}

/// Σ row
#[inline(always)]
pub(crate) fn row_sum<S: F32s>(s: S, row: &[f32]) -> f32 {
    row_sum_of(
        s,
        row,
        #[inline(always)]
        |x| x,
    )
}

/// Σ g(x) over the row.
#[inline(always)]
pub(crate) fn row_sum_of<S: F32s>(s: S, row: &[f32], g: impl Fn(S::V) -> S::V) -> f32 {
    s.sum(fold(
        s,
        row,
        0.0,
        g,
        #[inline(always)]
        |a, b| s.add(a, b),
    ))
}

/// The greatest element; NaN when one is NaN; minus infinity when there is none.
#[inline(always)]
pub(crate) fn row_max<S: F32s>(s: S, row: &[f32]) -> f32 {
    s.greatest(fold(
        s,
        row,
        f32::NEG_INFINITY,
        #[inline(always)]
        |x| x,
        #[inline(always)]
        |a, b| s.max_nan(a, b),
    ))
}

/// The least element; NaN when one is NaN; infinity when there is none.
#[inline(always)]
fn row_min<S: F32s>(s: S, row: &[f32]) -> f32 {
    let least = fold(
        s,
        row,
        f32::INFINITY,
        #[inline(always)]
        |x| x,
        #[inline(always)]
        |a, b| s.min_nan(a, b),
    );
    let mut lanes = [f32::INFINITY; 16];
    s.store_some(least, &mut lanes[..S::LANES]);
    let mut best = lanes[0];
    for &x in &lanes[1..] {
        best = if x < best || x.is_nan() { x } else { best };
    }
    best
}

/// y[j] = join over the rows of `x[.., inner]`, top to bottom, for each column.
#[inline(always)]
fn columns<S: F32s>(
    s: S,
    x: &[f32],
    inner: usize,
    neutral: f32,
    join: impl Fn(S::V, S::V) -> S::V,
    y: &mut [f32],
) {
    let mut at = 0;
    while at + 4 * S::LANES <= inner {
        let mut acc = [s.splat(neutral); 4];
        for row in x.chunks_exact(inner) {
            let row = &row[at..][..4 * S::LANES];
            for (i, a) in acc.iter_mut().enumerate() {
                *a = join(*a, s.load(&row[i * S::LANES..][..S::LANES]));
            }
        }
        for (i, a) in acc.into_iter().enumerate() {
            s.store(a, &mut y[at + i * S::LANES..]);
        }
        at += 4 * S::LANES;
    }
    while at < inner {
        let mut acc = s.splat(neutral);
        for row in x.chunks_exact(inner) {
            acc = join(acc, s.load_some(&row[at..]));
        }
        s.store_some(acc, &mut y[at..]);
        at += S::LANES;
    }
}

struct Reduce<'a> {
    op: ReduceOp,
    x: &'a [f32],
    extents: [usize; 3],
    live: Option<Channels<'a>>,
    y: &'a mut [f32],
}

impl Reduce<'_> {
    #[inline(always)]
    fn one<S: F32s>(s: S, op: ReduceOp, x: &[f32], inner: usize, y: &mut [f32]) {
        if inner == 1 {
            y[0] = match op {
                ReduceOp::Sum => row_sum(s, x),
                ReduceOp::Mean => row_sum(s, x) / x.len() as f32,
                ReduceOp::Max => row_max(s, x),
                ReduceOp::Min => row_min(s, x),
            };
            return;
        }
        match op {
            ReduceOp::Sum | ReduceOp::Mean => {
                columns(
                    s,
                    x,
                    inner,
                    0.0,
                    #[inline(always)]
                    |a, b| s.add(a, b),
                    y,
                );
            }
            ReduceOp::Max => columns(
                s,
                x,
                inner,
                f32::NEG_INFINITY,
                #[inline(always)]
                |a, b| s.max_nan(a, b),
                y,
            ),
            ReduceOp::Min => columns(
                s,
                x,
                inner,
                f32::INFINITY,
                #[inline(always)]
                |a, b| s.min_nan(a, b),
                y,
            ),
        }
        if op == ReduceOp::Mean {
            let len = (x.len() / inner) as f32;
            for y in y {
                *y /= len;
            }
        }
    }
}

impl Task for Reduce<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let Self {
            op,
            x,
            extents: [outer, axis, inner],
            live,
            y,
        } = self;
        check::each_run(
            live,
            outer,
            #[inline(always)]
            |run| {
                for o in run {
                    let x = &x[o * axis * inner..][..axis * inner];
                    Self::one(s, op, x, inner, &mut y[o * inner..][..inner]);
                }
            },
        );
    }
}

/// y[o, j] = op over a of x[o, a, j]
///
/// # Shapes    `extents` = [outer, axis, inner]; `x` [outer, axis, inner]; `y` [outer, inner]
/// # Masks     `live` over outer: dead planes are not read, their outputs not written
/// # Numerics  inner 1: four times as many chains as lanes, joined pairwise; else one chain a column, ascending. Sums of no term are 0, means
///   NaN, extremes infinite. The order depends on the instruction set, never on the mask
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`] for `x` or `y`; [`Error::Mismatch`] for the mask
/// # Panics    never
/// # Scratch   none
/// # Source    none
pub fn reduce(
    isa: Isa,
    op: ReduceOp,
    x: &[f32],
    extents: [usize; 3],
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    let [outer, _, inner] = extents;
    check::covers("input of a reduction", &extents, x.len())?;
    check::covers("output of a reduction", &[outer, inner], y.len())?;
    check::mask("planes of a reduction's mask", live, outer)?;
    if inner == 0 {
        return Ok(());
    }
    isa.run(Reduce {
        op,
        x,
        extents,
        live,
        y,
    });
    Ok(())
}
