//! Arithmetic and comparisons of two operands, one of which may be broadcast.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::check;
use crate::isa::{F32s, Task};
use crate::{Channels, Error, Isa};

/// An operation on two floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOp {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a * b
    Mul,
    /// a / b
    Div,
    /// a to the power of b
    Pow,
    /// The lesser, NaN when one is NaN.
    Min,
    /// The greater, NaN when one is NaN.
    Max,
}

/// A comparison of two floats; every one but `Equal` of two NaN is false, and that one is too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// a == b
    Equal,
    /// a < b
    Less,
    /// a <= b
    LessOrEqual,
    /// a > b
    Greater,
    /// a >= b
    GreaterOrEqual,
}

/// An operand, seen as planes `[c, p]`.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a> {
    /// `[c, p]`
    Full(&'a [f32]),
    /// One number for all.
    Scalar(f32),
    /// `[c]`: one number a plane, as ONNX's `[C, 1, 1]`
    Planes(&'a [f32]),
    /// `[p]`: one row for all planes, as `[n]` against `[m, n]`
    Row(&'a [f32]),
}

impl<'a> Operand<'a> {
    fn check(&self, name: &'static str, (c, p): (usize, usize)) -> Result<(), Error> {
        match self {
            Operand::Full(x) => check::covers(name, &[c, p], x.len()),
            Operand::Scalar(_) => Ok(0),
            Operand::Planes(x) => check::covers(name, &[c], x.len()),
            Operand::Row(x) => check::covers(name, &[p], x.len()),
        }
        .map(|_| ())
    }

    /// Whether consecutive planes can be taken as one long plane.
    fn is_flat(&self) -> bool {
        matches!(self, Operand::Full(_) | Operand::Scalar(_))
    }

    /// What it gives to planes `run`; one plane unless the operand is flat.
    #[inline(always)]
    fn at(&self, run: Range<usize>, p: usize) -> Side<'a> {
        match *self {
            Operand::Full(x) => Side::Slice(&x[run.start * p..run.end * p]),
            Operand::Scalar(x) => Side::One(x),
            Operand::Planes(x) => Side::One(x[run.start]),
            Operand::Row(x) => Side::Slice(&x[..p]),
        }
    }
}

/// An operand in one plane.
#[derive(Clone, Copy)]
enum Side<'a> {
    Slice(&'a [f32]),
    One(f32),
}

/// An operation on vectors.
trait Lanes {
    fn lanes<S: F32s>(s: S, a: S::V, b: S::V) -> S::V;
}

macro_rules! lanes {
    ($($name:ident: $s:ident, $a:ident, $b:ident => $e:expr;)*) => {$(
        struct $name;
        impl Lanes for $name {
            #[inline(always)]
            fn lanes<S: F32s>($s: S, $a: S::V, $b: S::V) -> S::V {
                $e
            }
        }
    )*};
}

lanes! {
    Add: s, a, b => s.add(a, b);
    Sub: s, a, b => s.sub(a, b);
    Mul: s, a, b => s.mul(a, b);
    Div: s, a, b => s.div(a, b);
    Min: s, a, b => s.min_nan(a, b);
    Max: s, a, b => s.max_nan(a, b);
    Pow: s, a, b => pow(s, a, b);
}

/// Lane by lane: an exact power needs more digits than f32 has.
#[inline(always)]
fn pow<S: F32s>(s: S, a: S::V, b: S::V) -> S::V {
    let (mut x, mut y) = ([0.0; 16], [0.0; 16]);
    s.store_some(a, &mut x[..S::LANES]);
    s.store_some(b, &mut y[..S::LANES]);
    for (x, y) in x.iter_mut().zip(y).take(S::LANES) {
        *x = libm::powf(*x, y);
    }
    s.load(&x)
}

/// y[i] = f(i, y[i]) for vectors; the last one may be part of one.
#[inline(always)]
fn fill<S: F32s>(
    s: S,
    y: &mut [f32],
    full: impl Fn(usize, &[f32]) -> S::V,
    some: impl Fn(usize, &[f32]) -> S::V,
) {
    let n = y.len();
    let mut i = 0;
    while i + S::LANES <= n {
        let to = &mut y[i..i + S::LANES];
        s.store(full(i, to), to);
        i += S::LANES;
    }
    if i < n {
        let to = &mut y[i..];
        s.store_some(some(i, to), to);
    }
}

#[inline(always)]
fn plane<S: F32s, O: Lanes>(s: S, a: Option<Side<'_>>, b: Side<'_>, y: &mut [f32]) {
    let n = y.len();
    match (a, b) {
        (None, Side::Slice(b)) => {
            let b = &b[..n];
            fill(
                s,
                y,
                #[inline(always)]
                |i, y| O::lanes(s, s.load(y), s.load(&b[i..])),
                #[inline(always)]
                |i, y| O::lanes(s, s.load_some(y), s.load_some(&b[i..])),
            );
        }
        (None, Side::One(b)) => {
            let b = s.splat(b);
            fill(
                s,
                y,
                #[inline(always)]
                |_, y| O::lanes(s, s.load(y), b),
                #[inline(always)]
                |_, y| O::lanes(s, s.load_some(y), b),
            );
        }
        (Some(Side::Slice(a)), Side::Slice(b)) => {
            let (a, b) = (&a[..n], &b[..n]);
            fill(
                s,
                y,
                #[inline(always)]
                |i, _| O::lanes(s, s.load(&a[i..]), s.load(&b[i..])),
                #[inline(always)]
                |i, _| O::lanes(s, s.load_some(&a[i..]), s.load_some(&b[i..])),
            );
        }
        (Some(Side::Slice(a)), Side::One(b)) => {
            let (a, b) = (&a[..n], s.splat(b));
            fill(
                s,
                y,
                #[inline(always)]
                |i, _| O::lanes(s, s.load(&a[i..]), b),
                #[inline(always)]
                |i, _| O::lanes(s, s.load_some(&a[i..]), b),
            );
        }
        (Some(Side::One(a)), Side::Slice(b)) => {
            let (a, b) = (s.splat(a), &b[..n]);
            fill(
                s,
                y,
                #[inline(always)]
                |i, _| O::lanes(s, a, s.load(&b[i..])),
                #[inline(always)]
                |i, _| O::lanes(s, a, s.load_some(&b[i..])),
            );
        }
        (Some(Side::One(a)), Side::One(b)) => {
            let v = O::lanes(s, s.splat(a), s.splat(b));
            fill(
                s,
                y,
                #[inline(always)]
                |_, _| v,
                #[inline(always)]
                |_, _| v,
            );
        }
    }
}

struct Planes<'a> {
    op: BinaryOp,
    /// None: the output itself.
    a: Option<Operand<'a>>,
    b: Operand<'a>,
    extents: (usize, usize),
    live: Option<Channels<'a>>,
    y: &'a mut [f32],
}

impl Planes<'_> {
    #[inline(always)]
    fn with<S: F32s, O: Lanes>(self, s: S) {
        let (c, p) = self.extents;
        let flat = self.a.is_none_or(|a| a.is_flat()) && self.b.is_flat();
        check::each_run(
            self.live,
            c,
            #[inline(always)]
            |run| {
                let step = if flat { run.len().max(1) } else { 1 };
                for from in run.clone().step_by(step) {
                    let part = from..from + step;
                    let y = &mut self.y[part.start * p..part.end * p];
                    let a = self.a.map(
                        #[inline(always)]
                        |a| a.at(part.clone(), p),
                    );
                    plane::<S, O>(s, a, self.b.at(part, p), y);
                }
            },
        );
    }
}

impl Task for Planes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        match (self.op, self.b) {
            (BinaryOp::Add, _) => self.with::<S, Add>(s),
            (BinaryOp::Sub, _) => self.with::<S, Sub>(s),
            (BinaryOp::Mul, _) => self.with::<S, Mul>(s),
            (BinaryOp::Div, _) => self.with::<S, Div>(s),
            (BinaryOp::Min, _) => self.with::<S, Min>(s),
            (BinaryOp::Max, _) => self.with::<S, Max>(s),
            (BinaryOp::Pow, Operand::Scalar(2.0)) => self.with::<S, Square>(s),
            (BinaryOp::Pow, _) => self.with::<S, Pow>(s),
        }
    }
}

/// a * a: the power with exponent 2, correctly rounded.
struct Square;

impl Lanes for Square {
    #[inline(always)]
    fn lanes<S: F32s>(s: S, a: S::V, _: S::V) -> S::V {
        s.mul(a, a)
    }
}

fn check_all(
    a: Option<Operand<'_>>,
    b: Operand<'_>,
    extents: (usize, usize),
    live: Option<Channels<'_>>,
    y_len: usize,
) -> Result<(), Error> {
    if let Some(a) = a {
        a.check("left operand", extents)?;
    }
    b.check("right operand", extents)?;
    check::mask("planes of a binary operation's mask", live, extents.0)?;
    check::covers("output", &[extents.0, extents.1], y_len).map(|_| ())
}

/// y[c, p] = a op b, each operand full or broadcast
///
/// # Shapes    `extents` = (c, p); operands as [`Operand`] says; `y` `[c, p]`
/// # Masks     dead planes are neither read nor written
/// # Numerics  one rounding; Pow by `libm::powf`, with the exact square for the exponent 2
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`] for the mask
/// # Panics    never
/// # Scratch   none
/// # Source    none
pub fn binary(
    isa: Isa,
    op: BinaryOp,
    a: Operand<'_>,
    b: Operand<'_>,
    extents: (usize, usize),
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    check_all(Some(a), b, extents, live, y.len())?;
    isa.run(Planes {
        op,
        a: Some(a),
        b,
        extents,
        live,
        y,
    });
    Ok(())
}

/// y[c, p] = y op b. Everything else as in [`binary`].
///
/// # Errors
/// As [`binary`].
pub fn binary_in_place(
    isa: Isa,
    op: BinaryOp,
    y: &mut [f32],
    b: Operand<'_>,
    extents: (usize, usize),
    live: Option<Channels<'_>>,
) -> Result<(), Error> {
    check_all(None, b, extents, live, y.len())?;
    isa.run(Planes {
        op,
        a: None,
        b,
        extents,
        live,
        y,
    });
    Ok(())
}

struct Compare<'a> {
    op: CompareOp,
    a: Operand<'a>,
    b: Operand<'a>,
    extents: (usize, usize),
    live: Option<Channels<'a>>,
    y: &'a mut [u8],
}

impl Compare<'_> {
    /// Plain loops: the compiler makes vectors of them, bytes included, which the f32 vocabulary has no words for.
    #[inline(always)]
    fn with(self, f: impl Fn(f32, f32) -> bool) {
        let (c, p) = self.extents;
        check::each_run(
            self.live,
            c,
            #[inline(always)]
            |run| {
                for plane in run {
                    let y = &mut self.y[plane * p..][..p];
                    let one = plane..plane + 1;
                    match (self.a.at(one.clone(), p), self.b.at(one, p)) {
                        (Side::Slice(a), Side::Slice(b)) => {
                            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                                *y = u8::from(f(a, b));
                            }
                        }
                        (Side::Slice(a), Side::One(b)) => {
                            for (y, &a) in y.iter_mut().zip(a) {
                                *y = u8::from(f(a, b));
                            }
                        }
                        (Side::One(a), Side::Slice(b)) => {
                            for (y, &b) in y.iter_mut().zip(b) {
                                *y = u8::from(f(a, b));
                            }
                        }
                        (Side::One(a), Side::One(b)) => y.fill(u8::from(f(a, b))),
                    }
                }
            },
        );
    }
}

impl Task for Compare<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, _: S) {
        match self.op {
            CompareOp::Equal => self.with(
                #[inline(always)]
                |a, b| a == b,
            ),
            CompareOp::Less => self.with(
                #[inline(always)]
                |a, b| a < b,
            ),
            CompareOp::LessOrEqual => self.with(
                #[inline(always)]
                |a, b| a <= b,
            ),
            CompareOp::Greater => self.with(
                #[inline(always)]
                |a, b| a > b,
            ),
            CompareOp::GreaterOrEqual => self.with(
                #[inline(always)]
                |a, b| a >= b,
            ),
        }
    }
}

/// y[c, p] = 1 where a op b holds, else 0
///
/// # Shapes    as [`binary`]; `y` has one byte an element
/// # Masks     dead planes are neither read nor written
/// # Numerics  exact
/// # Errors    as [`binary`]
/// # Panics    never
/// # Scratch   none
/// # Source    none
pub fn compare(
    isa: Isa,
    op: CompareOp,
    a: Operand<'_>,
    b: Operand<'_>,
    extents: (usize, usize),
    live: Option<Channels<'_>>,
    y: &mut [u8],
) -> Result<(), Error> {
    check_all(Some(a), b, extents, live, y.len())?;
    let flat = live.is_none() && a.is_flat() && b.is_flat();
    let extents = if flat {
        (1, extents.0 * extents.1)
    } else {
        extents
    };
    isa.run(Compare {
        op,
        a,
        b,
        extents,
        live,
        y,
    });
    Ok(())
}
