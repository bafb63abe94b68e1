//! The tiles of pixels of a strip.
#![forbid(unsafe_code)]

use crate::isa::F32s;
use crate::ops::conv::planes::Geometry;
use crate::pack::even_height;
use crate::tile::gemm::{NV, Sieve, Sieved};

/// Vectors of the widest tile of all.
pub(super) const WIDE: usize = 4;

/// Vectors of the widest tile: six rows of four need 10 loads for 24 FMAs, twelve of two 14.
pub(super) const fn widest(registers: usize) -> usize {
    if registers >= 32 { WIDE } else { NV }
}

/// A tile of pixels.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    /// The column of the planes that its first lane reads.
    pub(super) from: usize,
    pub(super) vectors: usize,
    /// Which lanes write where.
    pub(super) lanes: [Sieved; WIDE],
}

/// The tile of the columns from `q` on, one of as few as can be and all nearly alike. `once`: the sums are complete after one pass, so that columns may be computed twice.
#[inline(always)]
pub(super) fn part<S: F32s>(
    geometry: &Geometry,
    table: &[Sieved],
    q: usize,
    columns: usize,
    origin: usize,
    once: bool,
) -> Part {
    let mut sieve = [[0; 2]; WIDE];
    let left = columns - q;
    let mut vectors = even_height(left.div_ceil(S::LANES), widest(S::REGISTERS));
    if !geometry.is_flat() {
        for j in 0..vectors {
            let [bits, first] = table[q / S::LANES + j];
            let lanes = left.saturating_sub(j * S::LANES);
            let cut = if lanes < S::LANES {
                (1 << lanes) - 1
            } else {
                !0
            };
            sieve[j] = [bits & cut, first];
        }
        return Part {
            from: origin + q,
            vectors,
            lanes: sieve,
        };
    }
    if left < vectors * S::LANES && (geometry.in_place || once && columns >= vectors * S::LANES) {
        // The planes end here: read the last vectors of the plane, and keep of them what is new.
        let end = origin + columns;
        vectors = vectors.min(end / S::LANES).max(1);
        let lanes = vectors * S::LANES;
        let left = left.min(lanes);
        let old = (origin + q + lanes).saturating_sub(end);
        if once && old <= q {
            return Part {
                from: origin + q - old,
                vectors,
                lanes: Sieve::first::<S>(q - old, lanes),
            };
        }
        let mut first = q as u32;
        for j in 0..vectors {
            let skip = old.saturating_sub(j * S::LANES).min(S::LANES);
            sieve[j] = [(!0u32 << skip) & (!0 >> (32 - S::LANES)), first];
            first += (S::LANES - skip) as u32;
        }
        debug_assert!(left == lanes - old);
        return Part {
            from: origin + q - old,
            vectors,
            lanes: sieve,
        };
    }
    Part {
        from: origin + q,
        vectors,
        lanes: Sieve::first::<S>(q, left),
    }
}
