//! exp, tanh, erf and the activations of neural networks, a vector at a time.
#![forbid(unsafe_code)]

use crate::epilogue::Activation;
use crate::isa::{F32s, Task};
use crate::{Channels, Error, Isa};

/// exp(x), within 2 ulp (measured by `tests/pointwise.rs`); NaN stays, overflow is infinite, underflow
/// passes through the denormal numbers to zero.
///
/// exp(x) = 2^(n + f) with n = round(x / ln 2) and |f| <= 1 / 2; the polynomial of 2^f is minimax, its relative error 2.6e-9 by Remez' exchange. ln 2 is split as in Cephes `expf`: into a part of nine bits, whose product
/// with n is exact, and a rest.
#[inline(always)]
pub(crate) fn exp<S: F32s>(s: S, x: S::V) -> S::V {
    // The order of the operands keeps NaN: `max` and `min` return the second one.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(x, s.splat(core::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let f = s.mul(r, s.splat(core::f32::consts::LOG2_E));
    let of_2 = [
        1.559_479_9e-4,
        1.340_669e-3,
        9.617_693e-3,
        5.550_310_4e-2,
        2.402_265_2e-1,
        6.931_472_4e-1,
        1.0,
    ];
    s.scale2(horner(s, f, of_2), n)
}

/// 2^x for x <= 127, within 2 ulp; NaN stays, underflow passes through the denormal numbers to zero, which 2^-inf is.
///
/// With fractions from 0 to 1, which AVX-512 finds in one instruction; the polynomial is minimax there, its relative error 2e-9.
#[inline(always)]
#[allow(clippy::approx_constant)] // a coefficient is near ln 2
pub(crate) fn exp2<S: F32s>(s: S, x: S::V) -> S::V {
    let (n, f) = s.split(x);
    let of_2 = [
        2.170_225_5e-4,
        1.243_968_8e-3,
        9.678_841e-3,
        5.548_334e-2,
        2.402_298_4e-1,
        6.931_47e-1,
        1.0,
    ];
    s.scale2(horner(s, f, of_2), n)
}

/// The polynomial with these coefficients, those of the highest power first.
#[inline(always)]
fn horner<S: F32s, const K: usize>(s: S, x: S::V, coefficients: [f32; K]) -> S::V {
    let mut p = s.splat(coefficients[0]);
    for c in &coefficients[1..] {
        p = s.mul_add(p, x, s.splat(*c));
    }
    p
}

/// 1 / (1 + exp(-x)) from e = exp(-|x|), which cannot overflow: 1 / (1 + e) or e / (1 + e).
#[inline(always)]
pub(crate) fn sigmoid<S: F32s>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let one = s.splat(1.0);
    let e = exp(s, s.sub(zero, s.abs(x)));
    s.div(s.select(s.lt(x, zero), e, one), s.add(one, e))
}

/// tanh(x): an odd polynomial below 5/8 (Cephes `tanhf`), 1 - 2 / (exp(2 |x|) + 1) above.
#[inline(always)]
pub(crate) fn tanh<S: F32s>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let t = s.abs(x);
    let x2 = s.mul(x, x);
    let odd = [
        -5.704_988_7e-3,
        2.063_909e-2,
        -5.373_971_6e-2,
        1.333_144_2e-1,
        -3.333_328e-1,
    ];
    let p = horner(s, x2, odd);
    let small = s.mul_add(s.mul(p, x2), x, x);
    let e = exp(s, s.add(t, t));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.copysign(s.select(s.lt(t, s.splat(0.625)), small, large), x)
}

/// erf(x): an odd polynomial below 475/512, 1 - exp(polynomial) above. Both by N. Juffa, <https://stackoverflow.com/a/35148199>.
#[inline(always)]
pub(crate) fn erf<S: F32s>(s: S, x: S::V) -> S::V {
    // erf is 1 in f32 from 3.9 on, and beyond 4 the polynomial would overflow. NaN is kept, being the second operand.
    let t = s.min(s.splat(4.0), s.abs(x));
    let x2 = s.mul(t, t);
    let odd = [
        -5.967_617e-4,
        4.991_194_2e-3,
        -2.676_813_5e-2,
        1.128_199_25e-1,
        -3.761_253_4e-1,
        1.283_791_7e-1,
    ];
    let p = horner(s, x2, odd);
    let small = s.mul_add(p, x, x);
    let hi = s.mul_add(s.splat(-1.728_534_7e-5), t, s.splat(3.831_971_3e-4));
    let lo = s.mul_add(s.splat(-3.883_964_4e-3), t, s.splat(2.425_462_2e-2));
    let mut q = s.mul_add(hi, x2, lo);
    for c in [-1.067_778_8e-1, -6.348_467e-1, -1.287_175_1e-1] {
        q = s.mul_add(q, t, s.splat(c));
    }
    let q = s.sub(s.mul(q, t), t);
    let large = s.sub(s.splat(1.0), exp(s, q));
    s.select(s.lt(t, s.splat(0.927_734_4)), small, s.copysign(large, x))
}

/// x (1 + erf(x / sqrt 2)) / 2
///
/// erf(x / sqrt 2) is x P(x²) / Q(x²), minimax for |x| <= 5.6, its relative error 2.1e-8 (Lawson's iterations), and greater than 1 at 5.76: 22 instructions for 38
/// of [`erf`], which keeps its last bits near 1. Without FMAs the quotient is off by 4.2 units of |x| 2^-24, and not by less than 4.
#[inline(always)]
fn gelu<S: F32s>(s: S, x: S::V) -> S::V {
    let half = s.mul(x, s.splat(0.5));
    if const { S::LANES <= 4 } {
        let e = erf(s, s.mul(x, s.splat(core::f32::consts::FRAC_1_SQRT_2)));
        return s.mul_add(half, e, half);
    }
    let clip = |x, most: f32| s.min(s.splat(most), s.max(s.splat(-most), x));
    let near = clip(x, 5.76);
    let x2 = s.mul(near, near);
    let p = [
        4.476_66e-8,
        1.258_149_7e-5,
        3.365_952_3e-4,
        9.347_134e-3,
        6.772_312e-2,
        7.978_845e-1,
    ];
    let q = [
        1.182_241_2e-6,
        7.316_998_4e-5,
        1.881_880_9e-3,
        2.863_986e-2,
        2.515_446_8e-1,
        1.0,
    ];
    let (p, q) = (horner(s, x2, p), horner(s, x2, q));
    let e = clip(s.mul(s.mul(near, p), s.recip(q)), 1.0);
    s.mul_add(half, e, half)
}

/// x (1 + tanh(u)) / 2 = x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3)
#[inline(always)]
fn gelu_tanh<S: F32s>(s: S, x: S::V) -> S::V {
    const TWICE_SQRT_2_PI: f32 = 1.595_769;
    let x2 = s.mul(x, x);
    let cubic = s.mul_add(x2, s.splat(0.044_715), s.splat(1.0));
    let u = s.mul(s.mul(x, s.splat(TWICE_SQRT_2_PI)), cubic);
    s.mul(x, sigmoid(s, u))
}

/// Calls `f` on every vector of `y`, the last of which may be part of one.
#[inline(always)]
pub(crate) fn map<S: F32s>(s: S, y: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let mut chunks = y.chunks_exact_mut(S::LANES);
    for chunk in &mut chunks {
        s.store(f(s.load(chunk)), chunk);
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        s.store_some(f(s.load_some(rest)), rest);
    }
}

/// row = act(row)
#[inline(always)]
pub(crate) fn apply<S: F32s>(s: S, act: Activation, row: &mut [f32]) {
    s.outline(
        #[inline(always)]
        || apply_here(s, act, row),
    );
}

#[inline(always)]
fn apply_here<S: F32s>(s: S, act: Activation, row: &mut [f32]) {
    let zero = s.splat(0.0);
    let one = s.splat(1.0);
    match act {
        Activation::None => {}
        Activation::Relu => map(
            s,
            row,
            #[inline(always)]
            |x| s.max(zero, x),
        ),
        Activation::Clip { lo, hi } => {
            let (lo, hi) = (s.splat(lo), s.splat(hi));
            map(
                s,
                row,
                #[inline(always)]
                |x| s.min(hi, s.max(lo, x)),
            );
        }
        Activation::LeakyRelu(slope) => {
            let slope = s.splat(slope);
            map(
                s,
                row,
                #[inline(always)]
                |x| s.select(s.lt(x, zero), s.mul(x, slope), x),
            );
        }
        Activation::Sigmoid => map(
            s,
            row,
            #[inline(always)]
            |x| sigmoid(s, x),
        ),
        Activation::Tanh => map(
            s,
            row,
            #[inline(always)]
            |x| tanh(s, x),
        ),
        Activation::Erf => map(
            s,
            row,
            #[inline(always)]
            |x| erf(s, x),
        ),
        Activation::Gelu => map(
            s,
            row,
            #[inline(always)]
            |x| gelu(s, x),
        ),
        Activation::GeluTanh => map(
            s,
            row,
            #[inline(always)]
            |x| gelu_tanh(s, x),
        ),
        Activation::Silu => map(
            s,
            row,
            #[inline(always)]
            |x| s.mul(x, sigmoid(s, x)),
        ),
        Activation::HardSigmoid { alpha, beta } => {
            let (alpha, beta) = (s.splat(alpha), s.splat(beta));
            map(
                s,
                row,
                #[inline(always)]
                |x| s.min(one, s.max(zero, s.mul_add(alpha, x, beta))),
            );
        }
        Activation::HardSwish => {
            let (sixth, half) = (s.splat(1.0 / 6.0), s.splat(0.5));
            map(
                s,
                row,
                #[inline(always)]
                |x| s.mul(x, s.min(one, s.max(zero, s.mul_add(sixth, x, half)))),
            );
        }
        Activation::Exp => map(
            s,
            row,
            #[inline(always)]
            |x| exp(s, x),
        ),
        Activation::Sqrt => map(
            s,
            row,
            #[inline(always)]
            |x| s.sqrt(x),
        ),
    }
}

struct Apply<'a>(Activation, &'a mut [f32]);

impl Task for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        apply(s, self.0, self.1);
    }
}

struct CopyApply<'a>(Activation, &'a [f32], &'a mut [f32]);

impl Task for CopyApply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        // A piece stays in the first-level cache between the copy and the function.
        for (x, y) in self.1.chunks(1024).zip(self.2.chunks_mut(1024)) {
            y.copy_from_slice(x);
            apply(s, self.0, y);
        }
    }
}

/// `y[i] = act(x[i])`
///
/// # Shapes    `x` and `y` of one length
/// # Masks     none; call it for the runs of live planes
/// # Numerics  exp, tanh, erf within 2 ulp, sigmoid within 3; NaN stays NaN, infinities go to their limits.
///   Gelu, GeluTanh and Silu within 2 eps |x|, so their far negative tail is small, not exact, and at -inf NaN
/// # Errors    [`Error::Mismatch`] when the lengths differ
/// # Panics    never
/// # Scratch   none
/// # Source    Cephes (exp, tanh), N. Juffa (erf)
pub fn activate(isa: Isa, act: Activation, x: &[f32], y: &mut [f32]) -> Result<(), Error> {
    if x.len() != y.len() {
        return Err(Error::Mismatch {
            what: "length of the output of an activation",
            expected: x.len(),
            found: y.len(),
        });
    }
    isa.run(CopyApply(act, x, y));
    Ok(())
}

/// `y[i] = act(y[i])`
///
/// Shapes, masks and numerics as in [`activate`]; it has no errors, does not panic and needs no scratch.
pub fn activate_in_place(isa: Isa, act: Activation, y: &mut [f32]) {
    isa.run(Apply(act, y));
}

/// y[o, c, i] = 0 for every dead channel c: what is dead by meaning becomes dead in storage, for readers that know no masks.
///
/// # Shapes    y `[outer, channels, inner]`, contiguous; what is left of a last incomplete one is not touched
/// # Masks     `live` over channels
pub fn settle(isa: Isa, live: Channels<'_>, inner: usize, y: &mut [f32]) {
    struct Settle<'a>(Channels<'a>, &'a mut [f32]);
    impl Task for Settle<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: F32s>(self, s: S) {
            let Settle(live, y) = self;
            let zero = s.splat(0.0);
            for row in y.chunks_exact_mut(live.len()) {
                for (v, to) in row.chunks_mut(S::LANES).enumerate() {
                    let alive = live.bits(v * S::LANES, to.len());
                    s.store_where(zero, !alive & !(!0 << to.len()), to);
                }
            }
        }
    }
    let all = live.len() * inner;
    if all == 0 {
        return;
    }
    if inner == 1 {
        return isa.run(Settle(live, y));
    }
    for planes in y.chunks_exact_mut(all) {
        for (c, plane) in planes.chunks_exact_mut(inner).enumerate() {
            if !live.contains(c) {
                plane.fill(0.0);
            }
        }
    }
}
