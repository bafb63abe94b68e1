//! Instruction sets.
//!
//! [`Isa`] names one that this machine has; it cannot be made for one that it lacks, so holding an `Isa` is the proof
//! that its instructions may run. A [`Task`] is a kernel body, written once over the vocabulary [`F32s`]; [`Isa::run`] compiles
//! it for each instruction set and runs the one that the `Isa` names.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod cache;
mod portable;

use alloc::string::ToString;
use core::fmt;

use crate::Error;

pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use {avx2::Avx2, avx512::Avx512};

/// Elements up to the last lane that is set.
#[cfg(target_arch = "x86_64")]
fn reach(lanes: u32) -> usize {
    (u32::BITS - lanes.leading_zeros()) as usize
}

/// Lanes of the widest vector.
pub(crate) const WIDEST: usize = 16;

/// The vector vocabulary of the f32 kernels, implemented by a zero-sized token per instruction set.
///
/// A token exists only on a machine with its instruction set. Every method is `#[inline(always)]`: it becomes one or a few
/// instructions inside the function that [`Isa::run`] compiled for that set.
pub trait F32s: Copy + Send + Sync + 'static {
    /// A vector of [`F32s::LANES`] floats.
    type V: Copy + Send + Sync;
    /// One truth value a lane.
    type M: Copy;
    /// For each lane, an element of two vectors.
    type I: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Architectural vector registers; a tile that needs more does not build.
    const REGISTERS: usize;
    /// Whether an FMA reads a scalar from memory into all lanes: its own broadcast costs no instruction.
    const BROADCASTS: bool = false;
    /// Name as in the kernel names.
    const NAME: &'static str;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// The first `LANES` elements. Panics when there are fewer.
    fn load(self, from: &[f32]) -> Self::V;
    /// N vectors that begin `pitch` elements apart. Panics when the last one is not there.
    fn load_pitched<const N: usize>(self, from: &[f32], pitch: usize) -> [Self::V; N];
    /// The first `min(from.len(), LANES)` elements, the other lanes zero.
    fn load_some(self, from: &[f32]) -> Self::V;
    /// The elements `start + lane` of a row, in N vectors, zero where the window has none. Panics when the row is shorter than the window's.
    fn load_window<const N: usize>(self, row: &[f32], window: &Window<Self::M, N>) -> [Self::V; N];
    /// The vectors of a window in N rows that begin `pitch` elements apart. Panics when the last row is shorter than the window's.
    fn load_rows<const N: usize>(
        self,
        rows: &[f32],
        pitch: usize,
        window: &Window<Self::M>,
    ) -> [Self::V; N];
    /// Writes all lanes. Panics when there is no room.
    fn store(self, v: Self::V, to: &mut [f32]);
    /// Writes the first `min(to.len(), LANES)` lanes.
    fn store_some(self, v: Self::V, to: &mut [f32]);
    /// The elements whose bit is set, the other lanes zero. Panics when one of them is not there. What is masked off is not accessed, but where
    /// nothing is mapped that takes hundreds of cycles: an empty slice should be the end of a real one, here and in `load_some`.
    fn load_where(self, from: &[f32], lanes: u32) -> Self::V;
    /// Writes the lanes whose bit is set. Panics when one of them has no room.
    fn store_where(self, v: Self::V, lanes: u32, to: &mut [f32]);
    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// 1 / a within 2 ulp, of what is neither zero nor infinite nor subnormal, nor its inverse.
    #[inline(always)]
    fn recip(self, a: Self::V) -> Self::V {
        self.div(self.splat(1.0), a)
    }
    /// a * b + c; rounded once where the instruction set can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// As `mul_add` where the mask is set, else `c`, of which a zero may change its sign when `b` is finite.
    fn mul_add_where(self, m: Self::M, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; where a lane of either is NaN, the lane of `b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser; where a lane of either is NaN, the lane of `b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// |a|
    fn abs(self, a: Self::V) -> Self::V;
    /// |magnitude| with the sign bit of `sign`.
    fn copysign(self, magnitude: Self::V, sign: Self::V) -> Self::V;
    /// 2^n for integral n in -126..=127, by writing the exponent field.
    fn exp2i(self, n: Self::V) -> Self::V;
    /// The greatest integer that is not above `a`.
    #[inline(always)]
    fn floor(self, a: Self::V) -> Self::V {
        let n = self.round(a);
        self.select(self.lt(a, n), self.sub(n, self.splat(1.0)), n)
    }
    /// n and f of x = ⌊n⌋ + f, 0 <= f < 1 but for rounding, for x below 128, for [`F32s::scale2`]; where x is too small for 2^x, any that are small enough.
    #[inline(always)]
    fn split(self, x: Self::V) -> (Self::V, Self::V) {
        // NaN stays: the second operand.
        let x = self.max(self.splat(-151.0), x);
        let n = self.floor(x);
        (n, self.sub(x, n))
    }
    /// v * 2^n for integral n in -252..=254, or for the n of [`F32s::split`]; rounded once where that is a denormal number.
    #[inline(always)]
    fn scale2(self, v: Self::V, n: Self::V) -> Self::V {
        // In two factors, since 2^128 and 2^-150 are no floats.
        let half = self.round(self.mul(n, self.splat(0.5)));
        let v = self.mul(v, self.exp2i(half));
        self.mul(v, self.exp2i(self.sub(n, half)))
    }
    /// a < b, false where either is NaN.
    fn lt(self, a: Self::V, b: Self::V) -> Self::M;
    /// The even and the odd elements of `a` followed by `b`.
    fn deinterleave(self, a: Self::V, b: Self::V) -> (Self::V, Self::V);
    /// The inverse of [`F32s::deinterleave`]: the elements of `even` and `odd` in turn, in two vectors.
    fn interleave(self, even: Self::V, odd: Self::V) -> (Self::V, Self::V);
    /// Lane `i` of vector `j` becomes lane `j` of vector `i`, of the first `LANES` vectors; what the others become is unspecified.
    ///
    /// This one: each round halves the distance of what belongs together, as the perfect shuffles of an FFT do.
    #[inline(always)]
    fn transpose(self, v: &mut [Self::V; WIDEST]) {
        let half = Self::LANES / 2;
        let mut round = 1;
        while round < Self::LANES {
            let from = *v;
            for i in 0..half {
                (v[i], v[i + half]) = self.deinterleave(from[2 * i], from[2 * i + 1]);
            }
            round *= 2;
        }
    }
    /// Whether a lane is NaN.
    fn is_nan(self, a: Self::V) -> Self::M;
    /// Lanes `from..to`.
    fn lanes(self, from: usize, to: usize) -> Self::M;
    /// The lanes whose bit is set.
    fn these(self, lanes: u32) -> Self::M;
    /// Lanes that both have.
    fn both(self, a: Self::M, b: Self::M) -> Self::M;
    /// `yes` where the mask is set, else `no`.
    fn select(self, m: Self::M, yes: Self::V, no: Self::V) -> Self::V;

    /// The elements `by..by + LANES` of `a` followed by `b`, for a constant `by` of at most `LANES`.
    fn align(self, a: Self::V, b: Self::V, by: usize) -> Self::V;
    /// The elements `from(lane)` of two vectors that follow each other.
    fn indices(self, from: impl Fn(usize) -> usize) -> Self::I;
    /// The elements of `a` followed by `b` at the indices.
    fn pick(self, a: Self::V, b: Self::V, at: Self::I) -> Self::V;
    /// Lane `i` takes lane `i + by`, counted round the vector, for a constant `by`.
    #[inline(always)]
    fn rotate(self, v: Self::V, by: isize) -> Self::V {
        self.align(v, v, by as usize & (Self::LANES - 1))
    }

    /// Moves the lanes whose bit is set to the front, in order; what the lanes behind them hold is unspecified.
    fn compress(self, v: Self::V, keep: u32) -> Self::V;
    /// The inverse of [`F32s::compress`]: lanes from the front go to the lanes whose bit is set, in order; the others are unspecified.
    fn expand(self, v: Self::V, to: u32) -> Self::V;

    /// Asks for the cache line of the element `by` behind the first, which need not be there, to come to L1. A hint.
    #[inline(always)]
    fn prefetch_ahead(self, from: &[f32], by: usize) {
        let _ = (from, by);
    }

    /// Lane `i` takes lane `i + half`, for `i < half`, a power of two below `LANES`; what the lanes behind hold is unspecified.
    fn upper(self, v: Self::V, half: usize) -> Self::V;
    /// Lane 0.
    fn first(self, v: Self::V) -> f32;

    /// Runs `f` compiled for this instruction set.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;
    /// As [`F32s::vectorize`], and `f` stays a function of its own: registers are allocated for it alone.
    fn outline<R>(self, f: impl FnOnce() -> R) -> R;

    /// The N vectors of a row of `width` elements that begin at `start`, which may lie before or behind the row.
    #[inline(always)]
    fn window<const N: usize>(self, start: isize, width: usize) -> Window<Self::M, N> {
        let mut window = Window {
            lanes: [self.lanes(0, 0); N],
            start,
            width,
        };
        for (i, lanes) in window.lanes.iter_mut().enumerate() {
            let start = start.saturating_add((i * Self::LANES) as isize);
            let before = start.min(0).unsigned_abs().min(Self::LANES);
            let left = width.saturating_sub(start.max(0).unsigned_abs());
            let end = before.saturating_add(left).min(Self::LANES);
            *lanes = self.lanes(before, end.max(before));
        }
        window
    }

    /// Those lanes of a window that `lanes` has as well.
    #[inline(always)]
    fn narrow<const N: usize>(
        self,
        window: Window<Self::M, N>,
        lanes: &[Self::M; N],
    ) -> Window<Self::M, N> {
        let mut window = window;
        for (a, &b) in window.lanes.iter_mut().zip(lanes) {
            *a = self.both(*a, b);
        }
        window
    }

    /// The greater, or NaN where a lane of either is NaN.
    #[inline(always)]
    fn max_nan(self, a: Self::V, b: Self::V) -> Self::V {
        self.select(self.is_nan(a), a, self.max(a, b))
    }

    /// The lesser, or NaN where a lane of either is NaN.
    #[inline(always)]
    fn min_nan(self, a: Self::V, b: Self::V) -> Self::V {
        self.select(self.is_nan(a), a, self.min(a, b))
    }

    /// The sum of the lanes, pairwise: lane `i` and lane `i + LANES / 2`, then `i` and `i + LANES / 4`, and so on.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.fold_lanes(
            v,
            #[inline(always)]
            |a, b| self.add(a, b),
        )
    }

    /// The greatest lane; NaN when a lane is NaN.
    #[inline(always)]
    fn greatest(self, v: Self::V) -> f32 {
        self.fold_lanes(
            v,
            #[inline(always)]
            |a, b| self.max_nan(b, a),
        )
    }

    /// The lanes joined pairwise, the lower one on the left.
    #[inline(always)]
    fn fold_lanes(self, v: Self::V, join: impl Fn(Self::V, Self::V) -> Self::V) -> f32 {
        let mut v = v;
        for half in [8, 4, 2, 1] {
            if half < Self::LANES {
                v = join(v, self.upper(v, half));
            }
        }
        self.first(v)
    }
}

/// Where [`F32s::load_window`] reads N vectors, prepared once for many rows.
///
/// The invariant, by [`F32s::window`]: each lane `i` of vector `n` that is set has `0 <= start + n LANES + i < width`.
#[derive(Debug, Clone, Copy)]
pub struct Window<M, const N: usize = 1> {
    lanes: [M; N],
    start: isize,
    width: usize,
}

impl<M> Window<M> {
    /// Panics unless N rows that begin `pitch` elements apart all are as wide as the window's.
    #[inline(always)]
    fn assert_rows<const N: usize>(&self, rows: &[f32], pitch: usize) {
        let before = pitch.saturating_mul(N.saturating_sub(1));
        assert!(
            rows.len() >= before.saturating_add(self.width),
            "the rows of the window"
        );
    }
}

/// Panics unless there are N vectors of `lanes` elements that begin `pitch` elements apart.
#[inline(always)]
fn assert_pitched<const N: usize>(from: &[f32], pitch: usize, lanes: usize) {
    let before = pitch.saturating_mul(N.saturating_sub(1));
    assert!(
        from.len() >= before.saturating_add(lanes),
        "all vectors to load"
    );
}

/// A kernel body, generic over the instruction set. `run` must be `#[inline(always)]`, with all that it calls.
pub trait Task {
    /// What the body returns.
    type Output;
    /// The body.
    fn run<S: F32s>(self, s: S) -> Self::Output;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// An instruction set that this machine has. Ordered: a greater one is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

impl Isa {
    /// The portable rows: what the crate was compiled for, through `wide`.
    pub const PORTABLE: Isa = Isa(Level::Portable);

    /// All instruction sets of this machine, the preferred one last.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        [
            Some(Self::PORTABLE),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(|_| Isa(Level::Avx2)),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(|_| Isa(Level::Avx512)),
        ]
        .into_iter()
        .flatten()
    }

    /// The preferred instruction set of this machine.
    pub fn best() -> Isa {
        Self::available().next_back().unwrap_or(Self::PORTABLE)
    }

    /// The best instruction set that is not above the named one.
    ///
    /// # Errors
    /// [`Error::Isa`] when the name is unknown.
    pub fn best_up_to(name: &str) -> Result<Isa, Error> {
        let rank = |n: &str| NAMES.iter().position(|x| *x == n);
        let cap = rank(name).ok_or_else(|| unknown(name))?;
        Ok(Self::available()
            .rfind(|isa| rank(isa.name()).is_some_and(|r| r <= cap))
            .unwrap_or(Self::PORTABLE))
    }

    /// Exactly the named instruction set.
    ///
    /// # Errors
    /// [`Error::Isa`] when the name is unknown or this machine lacks the instruction set.
    pub fn named(name: &str) -> Result<Isa, Error> {
        if !NAMES.contains(&name) {
            return Err(unknown(name));
        }
        Self::available()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| Error::Isa {
                name: name.to_string(),
                why: "not on this machine",
            })
    }

    /// The name, as in the names of kernels: `portable`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => Portable::NAME,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::NAME,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::NAME,
        }
    }

    /// Floats in a vector.
    pub fn lanes(self) -> usize {
        match self.0 {
            Level::Portable => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::LANES,
        }
    }

    /// Architectural vector registers.
    pub(crate) fn registers(self) -> usize {
        match self.0 {
            Level::Portable => Portable::REGISTERS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::REGISTERS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::REGISTERS,
        }
    }

    /// Whether an FMA reads a scalar from memory into all lanes.
    pub(crate) fn broadcasts(self) -> bool {
        match self.0 {
            Level::Portable => Portable::BROADCASTS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::BROADCASTS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::BROADCASTS,
        }
    }

    /// Runs `task` compiled for this instruction set.
    #[inline]
    pub fn run<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            Level::Portable => portable::run(task),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::run(self, task),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::run(self, task),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every name, in rising order of preference, whatever this machine has.
const NAMES: [&str; 3] = ["portable", "avx2", "avx512"];

fn unknown(name: &str) -> Error {
    Error::Isa {
        name: name.to_string(),
        why: "unknown; the names are portable, avx2, avx512",
    }
}
