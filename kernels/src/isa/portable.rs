use wide::f32x4;

use super::{F32s, Task, Window, assert_pitched};

/// What the crate was compiled for: SSE2, NEON, simd128 or plain loops, chosen by `wide` at compile time.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

/// A function of its own, with a frame of its own.
#[inline(never)]
pub(super) fn run<T: Task>(task: T) -> T::Output {
    task.run(Portable)
}

/// Four elements of which some are not in the row; those are zero.
#[cold]
#[inline(never)]
fn around(row: &[f32], start: isize) -> f32x4 {
    let mut lanes = [0.0; 4];
    for (to, i) in lanes.iter_mut().zip(0isize..) {
        let at = start.saturating_add(i);
        *to = row.get(at as usize).copied().unwrap_or(0.0);
    }
    f32x4::new(lanes)
}

/// The elements whose bit is set, the other lanes zero. Not inlined: a micro-kernel would hold dozens of it.
#[inline(never)]
fn load_lanes(from: &[f32], lanes: u32) -> f32x4 {
    f32x4::new(core::array::from_fn(|i| {
        if lanes >> i & 1 == 1 { from[i] } else { 0.0 }
    }))
}

/// Writes the lanes whose bit is set.
#[inline(never)]
fn store_lanes(v: f32x4, lanes: u32, to: &mut [f32]) {
    for (i, x) in v.to_array().into_iter().enumerate() {
        if lanes >> i & 1 == 1 {
            to[i] = x;
        }
    }
}

impl F32s for Portable {
    type V = f32x4;
    type M = f32x4;
    type I = [usize; 4];
    const LANES: usize = 4;
    const REGISTERS: usize = if cfg!(target_arch = "aarch64") {
        32
    } else {
        16
    };
    const NAME: &'static str = "portable";

    #[inline(always)]
    fn splat(self, x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> f32x4 {
        let from = from.first_chunk::<4>().expect("four elements to load");
        f32x4::new(*from)
    }
    #[inline(always)]
    fn load_pitched<const N: usize>(self, from: &[f32], pitch: usize) -> [f32x4; N] {
        assert_pitched::<N>(from, pitch, Self::LANES);
        let mut v = [f32x4::ZERO; N];
        for n in 0..N {
            v[n] = self.load(&from[n * pitch..]);
        }
        v
    }
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> f32x4 {
        if let Some(all) = from.first_chunk::<4>() {
            return f32x4::new(*all);
        }
        load_lanes(from, !(!0 << from.len()))
    }
    #[inline(always)]
    fn load_window<const N: usize>(self, row: &[f32], window: &Window<f32x4, N>) -> [f32x4; N] {
        let row = &row[..window.width];
        let mut v = [f32x4::ZERO; N];
        for n in 0..N {
            let start = window.start.saturating_add(n as isize * 4);
            let all = row.get(start as usize..);
            let x = match all.and_then(|x| x.first_chunk::<4>()) {
                Some(x) => f32x4::new(*x),
                None => around(row, start),
            };
            v[n] = x & window.lanes[n];
        }
        v
    }
    #[inline(always)]
    fn load_rows<const N: usize>(
        self,
        rows: &[f32],
        pitch: usize,
        window: &Window<f32x4>,
    ) -> [f32x4; N] {
        window.assert_rows::<N>(rows, pitch);
        let mut v = [f32x4::ZERO; N];
        for n in 0..N {
            [v[n]] = self.load_window(&rows[n * pitch..], window);
        }
        v
    }
    #[inline(always)]
    fn store(self, v: f32x4, to: &mut [f32]) {
        *to.first_chunk_mut::<4>().expect("room for four elements") = v.to_array();
    }
    #[inline(always)]
    fn store_some(self, v: f32x4, to: &mut [f32]) {
        if let Some(all) = to.first_chunk_mut::<4>() {
            *all = v.to_array();
            return;
        }
        store_lanes(v, !(!0 << to.len()), to);
    }
    #[inline(always)]
    fn load_where(self, from: &[f32], lanes: u32) -> f32x4 {
        load_lanes(from, lanes)
    }
    #[inline(always)]
    fn store_where(self, v: f32x4, lanes: u32, to: &mut [f32]) {
        store_lanes(v, lanes, to);
    }
    #[inline(always)]
    fn add(self, a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x4, b: f32x4) -> f32x4 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x4, b: f32x4) -> f32x4 {
        a / b
    }
    #[inline(always)]
    fn mul_add(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn mul_add_where(self, m: f32x4, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        (m & a).mul_add(b, c)
    }
    #[inline(always)]
    fn max(self, a: f32x4, b: f32x4) -> f32x4 {
        b.simd_lt(a).select(a, b)
    }
    #[inline(always)]
    fn min(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_lt(b).select(a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: f32x4) -> f32x4 {
        a.sqrt()
    }
    #[inline(always)]
    fn round(self, a: f32x4) -> f32x4 {
        // `wide` rounds ties away from zero without SSE4.1. Adding 2^23 leaves no bits for a fraction.
        let big = f32x4::splat(8_388_608.0);
        let rounded = self.copysign((a.abs() + big) - big, a);
        a.abs().simd_lt(big).select(rounded, a)
    }
    #[inline(always)]
    fn abs(self, a: f32x4) -> f32x4 {
        a.abs()
    }
    #[inline(always)]
    fn copysign(self, magnitude: f32x4, sign: f32x4) -> f32x4 {
        let bit = f32x4::splat(-0.0);
        magnitude.abs() | (sign & bit)
    }
    #[inline(always)]
    fn exp2i(self, n: f32x4) -> f32x4 {
        // Adding 1.5 * 2^23 leaves n in the low mantissa bits; the shift moves n + 127 into the exponent field.
        let bits = (n + f32x4::splat(12_582_912.0 + 127.0)).to_bits() << 23;
        f32x4::from_bits(bits)
    }
    #[inline(always)]
    fn lt(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_lt(b)
    }
    #[inline(always)]
    fn deinterleave(self, a: f32x4, b: f32x4) -> (f32x4, f32x4) {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_array(), b.to_array());
        (f32x4::new([a0, a2, b0, b2]), f32x4::new([a1, a3, b1, b3]))
    }
    #[inline(always)]
    fn interleave(self, even: f32x4, odd: f32x4) -> (f32x4, f32x4) {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (even.to_array(), odd.to_array());
        (f32x4::new([a0, b0, a1, b1]), f32x4::new([a2, b2, a3, b3]))
    }
    #[inline(always)]
    fn is_nan(self, a: f32x4) -> f32x4 {
        a.is_nan()
    }
    #[inline(always)]
    fn lanes(self, from: usize, to: usize) -> f32x4 {
        let lane = |i: usize| f32::from_bits(if from <= i && i < to { !0 } else { 0 });
        f32x4::new([lane(0), lane(1), lane(2), lane(3)])
    }
    #[inline(always)]
    fn these(self, lanes: u32) -> f32x4 {
        let lane = |i: usize| f32::from_bits(if lanes >> i & 1 == 1 { !0 } else { 0 });
        f32x4::new([lane(0), lane(1), lane(2), lane(3)])
    }
    #[inline(always)]
    fn both(self, a: f32x4, b: f32x4) -> f32x4 {
        a & b
    }
    #[inline(always)]
    fn select(self, m: f32x4, yes: f32x4, no: f32x4) -> f32x4 {
        m.select(yes, no)
    }
    #[inline(always)]
    fn align(self, a: f32x4, b: f32x4, by: usize) -> f32x4 {
        let ([_, a1, a2, a3], [b0, b1, b2, _]) = (a.to_array(), b.to_array());
        match by {
            0 => a,
            1 => f32x4::new([a1, a2, a3, b0]),
            2 => f32x4::new([a2, a3, b0, b1]),
            3 => f32x4::new([a3, b0, b1, b2]),
            _ => b,
        }
    }
    #[inline(always)]
    fn indices(self, from: impl Fn(usize) -> usize) -> [usize; 4] {
        core::array::from_fn(from)
    }
    #[inline(always)]
    fn pick(self, a: f32x4, b: f32x4, at: [usize; 4]) -> f32x4 {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_array(), b.to_array());
        let both = [a0, a1, a2, a3, b0, b1, b2, b3];
        f32x4::new(at.map(|i| both[i & 7]))
    }
    #[inline(always)]
    fn compress(self, v: f32x4, keep: u32) -> f32x4 {
        let (from, mut to, mut front) = (v.to_array(), [0.0; 4], 0);
        for lane in 0..4 {
            to[front] = from[lane];
            front += (keep >> lane & 1) as usize;
        }
        f32x4::new(to)
    }
    #[inline(always)]
    fn expand(self, v: f32x4, to: u32) -> f32x4 {
        let (from, mut front) = (v.to_array(), 0);
        let lanes = core::array::from_fn(|lane| {
            let x = from[front];
            front = (front + (to >> lane & 1) as usize).min(3);
            x
        });
        f32x4::new(lanes)
    }
    #[inline(always)]
    fn upper(self, v: f32x4, half: usize) -> f32x4 {
        let [_, b, c, d] = v.to_array();
        match half {
            2 => f32x4::new([c, d, c, d]),
            _ => f32x4::new([b, b, d, d]),
        }
    }
    #[inline(always)]
    fn first(self, v: f32x4) -> f32 {
        v.to_array()[0]
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }
    #[inline(never)]
    fn outline<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }
}
