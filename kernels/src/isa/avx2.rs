use core::arch::x86_64::*;

use super::{F32s, Isa, Task, WIDEST, Window, assert_pitched, reach};

/// AVX2 with FMA: eight floats a vector, sixteen registers.
///
/// Made only by `detect` and, inside functions compiled for AVX2 and FMA, by `here`.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        #[cfg(feature = "std")]
        let has = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        #[cfg(not(feature = "std"))]
        let has = cfg!(all(target_feature = "avx2", target_feature = "fma"));
        has.then_some(Self(()))
    }

    #[target_feature(enable = "avx2,fma")]
    fn here() -> Self {
        Self(())
    }
}

#[inline]
pub(super) fn run<T: Task>(isa: Isa, task: T) -> T::Output {
    #[target_feature(enable = "avx2,fma")]
    fn featured<T: Task>(task: T) -> T::Output {
        task.run(Avx2::here())
    }
    debug_assert_eq!(isa.name(), Avx2::NAME);
    // SAFETY: an `Isa` of this level is made only from a token of `detect`, so the machine has AVX2 and FMA.
    unsafe { featured(task) }
}

/// Lanes `0..n` set, for the masked loads and stores.
#[inline(always)]
fn first(n: usize) -> __m256i {
    static ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let from = &ONES_THEN_ZEROS[8 - n.min(8)..][..8];
    // SAFETY: `from` has eight elements; called only from methods of the token.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// The lanes whose bit is set, for the masked loads and stores.
#[inline(always)]
fn spread(lanes: u32) -> __m256i {
    // SAFETY: called only from methods of the token.
    unsafe {
        let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let lanes = _mm256_and_si256(_mm256_set1_epi32(lanes as i32), each);
        _mm256_cmpeq_epi32(lanes, each)
    }
}

/// For each set of lanes, where `compress` takes each lane of its result from.
static COMPRESS: [[u32; 8]; 256] = permutations(true);
/// For each set of lanes, where `expand` takes each lane of its result from.
static EXPAND: [[u32; 8]; 256] = permutations(false);

const fn permutations(compress: bool) -> [[u32; 8]; 256] {
    let mut table = [[0; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut front) = (0, 0);
        while lane < 8 {
            if set >> lane & 1 == 1 {
                if compress {
                    table[set][front] = lane as u32;
                } else {
                    table[set][lane] = front as u32;
                }
                front += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    table
}

// SAFETY (every block below): `self` proves AVX2 and FMA; what a pointer needs is asserted in the same method.
impl F32s for Avx2 {
    type V = __m256;
    type M = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const NAME: &'static str = "avx2";

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        assert!(from.len() >= 8, "eight elements to load");
        // SAFETY: see above the impl; the length is asserted.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_pitched<const N: usize>(self, from: &[f32], pitch: usize) -> [__m256; N] {
        assert_pitched::<N>(from, pitch, Self::LANES);
        let mut v = [self.splat(0.0); N];
        for n in 0..N {
            // SAFETY: see above the impl; the length for the last vector is asserted.
            v[n] = unsafe { _mm256_loadu_ps(from.as_ptr().wrapping_add(n.wrapping_mul(pitch))) };
        }
        v
    }
    #[inline(always)]
    fn load_some(self, from: &[f32]) -> __m256 {
        // SAFETY: see above the impl; lanes past `from.len()` are masked off and not accessed.
        unsafe { _mm256_maskload_ps(from.as_ptr(), first(from.len())) }
    }
    #[inline(always)]
    fn load_window<const N: usize>(self, row: &[f32], window: &Window<__m256, N>) -> [__m256; N] {
        assert!(row.len() >= window.width, "the row of the window");
        let from = row.as_ptr().wrapping_offset(window.start);
        let mut v = [self.splat(0.0); N];
        for n in 0..N {
            // SAFETY: see above the impl; by the window's invariant its lanes are elements of the row, the others are not accessed.
            v[n] = unsafe {
                let lanes = _mm256_castps_si256(window.lanes[n]);
                _mm256_maskload_ps(from.wrapping_add(n * 8), lanes)
            };
        }
        v
    }
    #[inline(always)]
    fn load_rows<const N: usize>(
        self,
        rows: &[f32],
        pitch: usize,
        window: &Window<__m256>,
    ) -> [__m256; N] {
        window.assert_rows::<N>(rows, pitch);
        let from = rows.as_ptr().wrapping_offset(window.start);
        let mut v = [self.splat(0.0); N];
        for n in 0..N {
            // SAFETY: see above the impl; by the window's invariant its lanes are elements of each row, the others are not accessed.
            v[n] = unsafe {
                let lanes = _mm256_castps_si256(window.lanes[0]);
                _mm256_maskload_ps(from.wrapping_add(n.wrapping_mul(pitch)), lanes)
            };
        }
        v
    }
    #[inline(always)]
    fn store(self, v: __m256, to: &mut [f32]) {
        assert!(to.len() >= 8, "room for eight elements");
        // SAFETY: see above the impl; the length is asserted.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_some(self, v: __m256, to: &mut [f32]) {
        // SAFETY: see above the impl; lanes past `to.len()` are masked off and not accessed.
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), first(to.len()), v) }
    }
    #[inline(always)]
    fn load_where(self, from: &[f32], lanes: u32) -> __m256 {
        assert!(reach(lanes & 0xff) <= from.len(), "lanes out of range");
        // SAFETY: see above the impl; lanes that are set are elements, the others are not accessed.
        unsafe { _mm256_maskload_ps(from.as_ptr(), spread(lanes)) }
    }
    #[inline(always)]
    fn store_where(self, v: __m256, lanes: u32, to: &mut [f32]) {
        assert!(reach(lanes & 0xff) <= to.len(), "lanes out of range");
        // SAFETY: see above the impl; lanes that are set are elements, the others are not accessed.
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), spread(lanes), v) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn mul_add_where(self, m: __m256, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_fmadd_ps(_mm256_and_ps(m, a), b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn floor(self, a: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_floor_ps(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn copysign(self, magnitude: __m256, sign: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe {
            let bit = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign))
        }
    }
    #[inline(always)]
    fn exp2i(self, n: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn deinterleave(self, a: __m256, b: __m256) -> (__m256, __m256) {
        // SAFETY: see above the impl. The shuffles leave pairs from `a` and `b` in turn, the permutation sorts them.
        unsafe {
            let sorted = |v| {
                let pairs = _mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(v));
                _mm256_castpd_ps(pairs)
            };
            (
                sorted(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)),
                sorted(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)),
            )
        }
    }
    #[inline(always)]
    fn interleave(self, even: __m256, odd: __m256) -> (__m256, __m256) {
        // SAFETY: see above the impl. Unpacking interleaves each half by itself.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd));
            (
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            )
        }
    }
    #[inline(always)]
    fn transpose(self, v: &mut [__m256; WIDEST]) {
        // SAFETY: see above the impl.
        unsafe {
            let pairs = |x| _mm256_castps_pd(x);
            let lanes = |x| _mm256_castpd_ps(x);
            // 4 x 4 in each half of four vectors.
            for q in [0, 4] {
                let (a, b) = (
                    _mm256_unpacklo_ps(v[q], v[q + 1]),
                    _mm256_unpackhi_ps(v[q], v[q + 1]),
                );
                let (c, d) = (
                    _mm256_unpacklo_ps(v[q + 2], v[q + 3]),
                    _mm256_unpackhi_ps(v[q + 2], v[q + 3]),
                );
                v[q] = lanes(_mm256_unpacklo_pd(pairs(a), pairs(c)));
                v[q + 1] = lanes(_mm256_unpackhi_pd(pairs(a), pairs(c)));
                v[q + 2] = lanes(_mm256_unpacklo_pd(pairs(b), pairs(d)));
                v[q + 3] = lanes(_mm256_unpackhi_pd(pairs(b), pairs(d)));
            }
            for i in 0..4 {
                let (a, b) = (v[i], v[i + 4]);
                v[i] = _mm256_permute2f128_ps::<0x20>(a, b);
                v[i + 4] = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
    }
    #[inline(always)]
    fn is_nan(self, a: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a) }
    }
    #[inline(always)]
    fn lanes(self, from: usize, to: usize) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_castsi256_ps(_mm256_andnot_si256(first(from), first(to))) }
    }
    #[inline(always)]
    fn these(self, lanes: u32) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_castsi256_ps(spread(lanes)) }
    }
    #[inline(always)]
    fn both(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    fn select(self, m: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_blendv_ps(no, yes, m) }
    }
    #[inline(always)]
    fn align(self, a: __m256, b: __m256, by: usize) -> __m256 {
        // SAFETY: see above the impl. An alignment by bytes takes each half by itself: what follows is the middle of both.
        unsafe {
            let (si, ps) = (|v| _mm256_castps_si256(v), |v| _mm256_castsi256_ps(v));
            let middle = _mm256_permute2f128_ps::<0x21>(a, b);
            match by {
                0 => a,
                1 => ps(_mm256_alignr_epi8::<4>(si(middle), si(a))),
                2 => ps(_mm256_alignr_epi8::<8>(si(middle), si(a))),
                3 => ps(_mm256_alignr_epi8::<12>(si(middle), si(a))),
                4 => middle,
                5 => ps(_mm256_alignr_epi8::<4>(si(b), si(middle))),
                6 => ps(_mm256_alignr_epi8::<8>(si(b), si(middle))),
                7 => ps(_mm256_alignr_epi8::<12>(si(b), si(middle))),
                _ => b,
            }
        }
    }
    #[inline(always)]
    fn indices(self, from: impl Fn(usize) -> usize) -> __m256i {
        let mut at = [0i32; 8];
        for (lane, at) in at.iter_mut().enumerate() {
            *at = from(lane) as i32;
        }
        // SAFETY: see above the impl; there are eight indices.
        unsafe { _mm256_loadu_si256(at.as_ptr().cast()) }
    }
    #[inline(always)]
    fn pick(self, a: __m256, b: __m256, at: __m256i) -> __m256 {
        // SAFETY: see above the impl. A permutation takes three bits of an index; the fourth, as the sign, says which of the two.
        unsafe {
            let second = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(at));
            let (a, b) = (
                _mm256_permutevar8x32_ps(a, at),
                _mm256_permutevar8x32_ps(b, at),
            );
            _mm256_blendv_ps(a, b, second)
        }
    }
    #[inline(always)]
    fn compress(self, v: __m256, keep: u32) -> __m256 {
        let lanes = &COMPRESS[keep as usize & 255];
        // SAFETY: see above the impl; `lanes` has eight elements.
        unsafe { _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(lanes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn expand(self, v: __m256, to: u32) -> __m256 {
        let lanes = &EXPAND[to as usize & 255];
        // SAFETY: see above the impl; `lanes` has eight elements.
        unsafe { _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(lanes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn prefetch_ahead(self, from: &[f32], by: usize) {
        // SAFETY: see above the impl; a prefetch cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(by).cast()) }
    }
    #[inline(always)]
    fn upper(self, v: __m256, half: usize) -> __m256 {
        // SAFETY: see above the impl.
        unsafe {
            match half {
                4 => _mm256_permute2f128_ps::<0x11>(v, v),
                2 => _mm256_permute_ps::<0b11_10_11_10>(v),
                _ => _mm256_permute_ps::<0b01_01_01_01>(v),
            }
        }
    }
    #[inline(always)]
    fn first(self, v: __m256) -> f32 {
        // SAFETY: see above the impl.
        unsafe { _mm256_cvtss_f32(v) }
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma")]
        fn featured<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: see above the impl.
        unsafe { featured(f) }
    }
    #[inline(always)]
    fn outline<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        fn featured<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: see above the impl.
        unsafe { featured(f) }
    }
}
