use core::arch::asm;
use core::arch::x86_64::*;

use super::{F32s, Isa, Task, WIDEST, Window, assert_pitched, reach};

/// AVX-512 F, BW, DQ and VL: sixteen floats a vector, thirty-two registers, one mask bit a lane.
///
/// Made only by `detect` and, inside functions compiled for these features, by `here`.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        #[cfg(feature = "std")]
        let has = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma");
        #[cfg(not(feature = "std"))]
        let has = cfg!(all(
            target_feature = "avx512f",
            target_feature = "avx512bw",
            target_feature = "avx512dq",
            target_feature = "avx512vl"
        ));
        has.then_some(Self(()))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn here() -> Self {
        Self(())
    }
}

#[inline]
pub(super) fn run<T: Task>(isa: Isa, task: T) -> T::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn featured<T: Task>(task: T) -> T::Output {
        task.run(Avx512::here())
    }
    debug_assert_eq!(isa.name(), Avx512::NAME);
    // SAFETY: an `Isa` of this level is made only from a token of `detect`, so the machine has these features.
    unsafe { featured(task) }
}

/// Lanes `0..n` set.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

/// [`F32s::align`] by a constant. The compiler would make a permutation by an index vector of it, which has half the throughput on Zen 5.
#[inline]
#[target_feature(enable = "avx512f")]
fn align<const BY: i32>(a: __m512, b: __m512) -> __m512 {
    let aligned;
    // SAFETY: one instruction of AVX-512 F, which the caller has; it writes a register and touches no memory.
    unsafe {
        asm!(
            "valignd {aligned}, {b}, {a}, {by}",
            aligned = lateout(zmm_reg) aligned,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            by = const BY,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    aligned
}

// SAFETY (every block below): `self` proves AVX-512 F, BW, DQ and VL; what a pointer needs is asserted in the same method.
impl F32s for Avx512 {
    type V = __m512;
    type M = __mmask16;
    type I = __m512i;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const BROADCASTS: bool = true;
    const NAME: &'static str = "avx512";

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        assert!(from.len() >= 16, "sixteen elements to load");
        // SAFETY: see above the impl; the length is asserted.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_pitched<const N: usize>(self, from: &[f32], pitch: usize) -> [__m512; N] {
        assert_pitched::<N>(from, pitch, Self::LANES);
        let mut v = [self.splat(0.0); N];
        for n in 0..N {
            // SAFETY: see above the impl; the length for the last vector is asserted.
            v[n] = unsafe { _mm512_loadu_ps(from.as_ptr().wrapping_add(n.wrapping_mul(pitch))) };
        }
        v
    }
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> __m512 {
        // SAFETY: see above the impl; lanes past `from.len()` are masked off and not accessed.
        unsafe { _mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn load_window<const N: usize>(
        self,
        row: &[f32],
        window: &Window<__mmask16, N>,
    ) -> [__m512; N] {
        assert!(row.len() >= window.width, "the row of the window");
        let from = row.as_ptr().wrapping_offset(window.start);
        let mut v = [self.splat(0.0); N];
        for n in 0..N {
            // SAFETY: see above the impl; by the window's invariant its lanes are elements of the row, the others are not accessed.
            v[n] = unsafe { _mm512_maskz_loadu_ps(window.lanes[n], from.wrapping_add(n * 16)) };
        }
        v
    }
    #[inline(always)]
    fn load_rows<const N: usize>(
        self,
        rows: &[f32],
        pitch: usize,
        window: &Window<__mmask16>,
    ) -> [__m512; N] {
        window.assert_rows::<N>(rows, pitch);
        let from = rows.as_ptr().wrapping_offset(window.start);
        let mut v = [self.splat(0.0); N];
        for n in 0..N {
            // SAFETY: see above the impl; by the window's invariant its lanes are elements of each row, the others are not accessed.
            v[n] = unsafe {
                _mm512_maskz_loadu_ps(window.lanes[0], from.wrapping_add(n.wrapping_mul(pitch)))
            };
        }
        v
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32]) {
        assert!(to.len() >= 16, "room for sixteen elements");
        // SAFETY: see above the impl; the length is asserted.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_some(self, v: __m512, to: &mut [f32]) {
        // SAFETY: see above the impl; lanes past `to.len()` are masked off and not accessed.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), v) }
    }
    #[inline(always)]
    fn load_where(self, from: &[f32], lanes: u32) -> __m512 {
        assert!(reach(lanes & 0xffff) <= from.len(), "lanes out of range");
        // SAFETY: see above the impl; lanes that are set are elements, the others are not accessed.
        unsafe { _mm512_maskz_loadu_ps(lanes as __mmask16, from.as_ptr()) }
    }
    #[inline(always)]
    fn store_where(self, v: __m512, lanes: u32, to: &mut [f32]) {
        assert!(reach(lanes & 0xffff) <= to.len(), "lanes out of range");
        // SAFETY: see above the impl; lanes that are set are elements, the others are not accessed.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), lanes as __mmask16, v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn recip(self, a: __m512) -> __m512 {
        // An estimate of 14 bits, and a step of Newton's: a division takes 16 cycles.
        // SAFETY: see above the impl.
        unsafe {
            let r = _mm512_rcp14_ps(a);
            let off = _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(r, off, r)
        }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn mul_add_where(self, m: __mmask16, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_mask3_fmadd_ps(a, b, c, m) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn copysign(self, magnitude: __m512, sign: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe {
            let bit = _mm512_and_ps(sign, _mm512_set1_ps(-0.0));
            _mm512_or_ps(_mm512_abs_ps(magnitude), bit)
        }
    }
    #[inline(always)]
    fn exp2i(self, n: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn split(self, x: __m512) -> (__m512, __m512) {
        // What scales rounds down as well, and an infinity has no fraction.
        // SAFETY: see above the impl.
        (x, unsafe {
            _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x)
        })
    }
    #[inline(always)]
    fn scale2(self, v: __m512, n: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_scalef_ps(v, n) }
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: see above the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn deinterleave(self, a: __m512, b: __m512) -> (__m512, __m512) {
        // SAFETY: see above the impl.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            (
                _mm512_permutex2var_ps(a, even, b),
                _mm512_permutex2var_ps(a, odd, b),
            )
        }
    }
    #[inline(always)]
    fn interleave(self, even: __m512, odd: __m512) -> (__m512, __m512) {
        // SAFETY: see above the impl.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            (
                _mm512_permutex2var_ps(even, low, odd),
                _mm512_permutex2var_ps(even, high, odd),
            )
        }
    }
    #[inline(always)]
    fn transpose(self, v: &mut [__m512; WIDEST]) {
        // SAFETY: see above the impl.
        unsafe {
            let pairs = |x| _mm512_castps_pd(x);
            let lanes = |x| _mm512_castpd_ps(x);
            // 4 x 4 in each quarter of four vectors; shuffles within quarters are the cheap ones.
            for q in [0, 4, 8, 12] {
                let (a, b) = (
                    _mm512_unpacklo_ps(v[q], v[q + 1]),
                    _mm512_unpackhi_ps(v[q], v[q + 1]),
                );
                let (c, d) = (
                    _mm512_unpacklo_ps(v[q + 2], v[q + 3]),
                    _mm512_unpackhi_ps(v[q + 2], v[q + 3]),
                );
                v[q] = lanes(_mm512_unpacklo_pd(pairs(a), pairs(c)));
                v[q + 1] = lanes(_mm512_unpackhi_pd(pairs(a), pairs(c)));
                v[q + 2] = lanes(_mm512_unpacklo_pd(pairs(b), pairs(d)));
                v[q + 3] = lanes(_mm512_unpackhi_pd(pairs(b), pairs(d)));
            }
            // 4 x 4 of quarters.
            for i in 0..4 {
                let (a, b, c, d) = (v[i], v[i + 4], v[i + 8], v[i + 12]);
                let (ab, cd) = (
                    _mm512_shuffle_f32x4::<0x88>(a, b),
                    _mm512_shuffle_f32x4::<0x88>(c, d),
                );
                v[i] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                v[i + 8] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
                let (ab, cd) = (
                    _mm512_shuffle_f32x4::<0xdd>(a, b),
                    _mm512_shuffle_f32x4::<0xdd>(c, d),
                );
                v[i + 4] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                v[i + 12] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
            }
        }
    }
    #[inline(always)]
    fn is_nan(self, a: __m512) -> __mmask16 {
        // SAFETY: see above the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) }
    }
    #[inline(always)]
    fn lanes(self, from: usize, to: usize) -> __mmask16 {
        first(to) & !first(from)
    }
    #[inline(always)]
    fn these(self, lanes: u32) -> __mmask16 {
        lanes as __mmask16
    }
    #[inline(always)]
    fn both(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn select(self, m: __mmask16, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_mask_blend_ps(m, no, yes) }
    }
    #[inline(always)]
    fn align(self, a: __m512, b: __m512, by: usize) -> __m512 {
        // SAFETY: see above the impl.
        unsafe {
            match by {
                0 => a,
                1 => align::<1>(a, b),
                2 => align::<2>(a, b),
                3 => align::<3>(a, b),
                4 => align::<4>(a, b),
                5 => align::<5>(a, b),
                6 => align::<6>(a, b),
                7 => align::<7>(a, b),
                8 => align::<8>(a, b),
                9 => align::<9>(a, b),
                10 => align::<10>(a, b),
                11 => align::<11>(a, b),
                12 => align::<12>(a, b),
                13 => align::<13>(a, b),
                14 => align::<14>(a, b),
                15 => align::<15>(a, b),
                _ => b,
            }
        }
    }
    #[inline(always)]
    fn indices(self, from: impl Fn(usize) -> usize) -> __m512i {
        let mut at = [0i32; 16];
        for (lane, at) in at.iter_mut().enumerate() {
            *at = from(lane) as i32;
        }
        // SAFETY: see above the impl; there are sixteen indices.
        unsafe { _mm512_loadu_si512(at.as_ptr().cast()) }
    }
    #[inline(always)]
    fn pick(self, a: __m512, b: __m512, at: __m512i) -> __m512 {
        // SAFETY: see above the impl; the permutation takes five bits of an index.
        unsafe { _mm512_permutex2var_ps(a, at, b) }
    }
    #[inline(always)]
    fn compress(self, v: __m512, keep: u32) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_maskz_compress_ps(keep as __mmask16, v) }
    }
    #[inline(always)]
    fn expand(self, v: __m512, to: u32) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_maskz_expand_ps(to as __mmask16, v) }
    }
    #[inline(always)]
    fn prefetch_ahead(self, from: &[f32], by: usize) {
        // SAFETY: see above the impl; a prefetch cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(by).cast()) }
    }
    #[inline(always)]
    fn upper(self, v: __m512, half: usize) -> __m512 {
        // SAFETY: see above the impl.
        unsafe {
            match half {
                8 => _mm512_shuffle_f32x4::<0b11_10_11_10>(v, v),
                4 => _mm512_shuffle_f32x4::<0b01_01_01_01>(v, v),
                2 => _mm512_permute_ps::<0b11_10_11_10>(v),
                _ => _mm512_permute_ps::<0b01_01_01_01>(v),
            }
        }
    }
    #[inline(always)]
    fn first(self, v: __m512) -> f32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_cvtss_f32(v) }
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn featured<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: see above the impl.
        unsafe { featured(f) }
    }
    #[inline(always)]
    fn outline<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        #[inline(never)]
        fn featured<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: see above the impl.
        unsafe { featured(f) }
    }
}
