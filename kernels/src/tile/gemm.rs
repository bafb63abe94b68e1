//! The micro-kernel of matmul and convolution.
//!
//! ```text
//! acc[i][j] = start[i][j]                      bias, zero, or the partial sum of the previous depth block
//! for t in 0..depth                            live terms only, in ascending order
//!     acc[i][j] = fma(lhs[t][i], rhs[t][j], acc[i][j])
//! out[rows[i]][cols[j]] = activation(acc[i][j])
//! ```
//! Why this tile: an FMA takes 4 cycles and two start in each, so 8 accumulators keep the units busy; 12 x 2 vectors (of 32
//! registers) or 6 x 2 (of 16) reuse each load most often. Row counts below the maximum are instantiated one by one, so that
//! 64 rows are 11 + 11 + 11 + 11 + 10 + 10 and none of them padding.
#![forbid(unsafe_code)]

use crate::Isa;
use crate::epilogue::{self, Activation};
use crate::isa::F32s;
use crate::panel::{Lhs, Rhs};
use crate::pool::Tile;
use crate::table::Row;

/// Where the sums begin.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// A value for each row of the tile.
    Rows(&'a [f32]),
    /// A value for each column of the tile, as many as the tile has lanes.
    Cols(&'a [f32]),
    /// What the output holds.
    Partial,
}

/// Which output columns the lanes of a tile are.
#[derive(Clone, Copy)]
pub(crate) enum Cols<'a> {
    /// The first lanes are `width` columns from `at` on; the other lanes are dropped.
    Run { at: usize, width: usize },
    /// Vector `j` is described by entry `j`.
    Sieve { at: usize, vectors: &'a [[u32; 2]] },
}

/// The lanes of one vector that are kept (bits), and the column of the first, from where on they go side by side.
pub(crate) type Sieved = [u32; 2];

/// One tile's place in the output, and what becomes of it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// An output row for each row of the tile.
    pub(crate) rows: &'a [u32],
    pub(crate) cols: Cols<'a>,
    pub(crate) start: Start<'a>,
    /// Applied when it can be in registers, see [`Activation::in_registers`].
    pub(crate) activation: Activation,
}

/// Rows of the tallest tile.
pub(crate) const fn tallest<S: F32s>() -> usize {
    if S::REGISTERS >= 32 { 12 } else { 6 }
}

/// Vectors in a row of the ordinary tile.
pub(crate) const NV: usize = 2;

/// See the module.
#[inline(always)]
pub(crate) fn tile<S: F32s, const MR: usize, const NV: usize>(
    s: S,
    depth: usize,
    lhs: impl Lhs<MR>,
    rhs: impl Rhs<S, NV>,
    place: Place<'_>,
    out: &mut Tile<'_>,
) {
    const {
        let smaller = if MR < NV { MR } else { NV };
        assert!(
            MR > tallest::<S>() || MR * NV + smaller < S::REGISTERS,
            "tile spills"
        );
    }
    assert!(
        MR <= tallest::<S>() && place.rows.len() == MR,
        "tile height"
    );
    let mut acc = start::<S, MR, NV>(s, place, out);
    for t in 0..depth {
        let (a, b) = (lhs.at(t), rhs.at(s, t));
        for i in 0..MR {
            let ai = s.splat(a[i]);
            for j in 0..NV {
                acc[i][j] = s.mul_add(ai, b[j], acc[i][j]);
            }
        }
    }
    epilogue::finish(s, place.activation, &mut acc);
    store(s, acc, place, out);
}

#[inline(always)]
fn start<S: F32s, const MR: usize, const NV: usize>(
    s: S,
    place: Place<'_>,
    out: &mut Tile<'_>,
) -> [[S::V; NV]; MR] {
    let mut acc = [[s.splat(0.0); NV]; MR];
    match place.start {
        Start::Zero => {}
        Start::Rows(bias) => {
            let bias = &bias[..MR];
            for i in 0..MR {
                acc[i] = [s.splat(bias[i]); NV];
            }
        }
        Start::Cols(bias) => {
            let bias = &bias[..NV * S::LANES];
            let row = core::array::from_fn(
                #[inline(always)]
                |j| s.load(&bias[j * S::LANES..]),
            );
            acc = [row; MR];
        }
        Start::Partial => match place.cols {
            Cols::Run { at, width } => {
                for i in 0..MR {
                    let row = &out.row(place.rows[i] as usize)[at..][..width];
                    for j in 0..NV {
                        acc[i][j] = s.load_some(row.get(j * S::LANES..).unwrap_or(&[]));
                    }
                }
            }
            Cols::Sieve { at, vectors } => {
                let vectors = &vectors[..NV];
                for i in 0..MR {
                    let row = &out.row(place.rows[i] as usize)[at..];
                    for j in 0..NV {
                        let [bits, first] = vectors[j];
                        let kept = &row[first as usize..][..bits.count_ones() as usize];
                        acc[i][j] = s.expand(s.load_some(kept), bits);
                    }
                }
            }
        },
    }
    acc
}

#[inline(always)]
fn store<S: F32s, const MR: usize, const NV: usize>(
    s: S,
    acc: [[S::V; NV]; MR],
    place: Place<'_>,
    out: &mut Tile<'_>,
) {
    match place.cols {
        Cols::Run { at, width } if width == NV * S::LANES => {
            for i in 0..MR {
                let row = &mut out.row(place.rows[i] as usize)[at..][..NV * S::LANES];
                for j in 0..NV {
                    s.store(acc[i][j], &mut row[j * S::LANES..]);
                }
            }
        }
        Cols::Run { at, width } => {
            for i in 0..MR {
                let row = &mut out.row(place.rows[i] as usize)[at..][..width];
                for j in 0..NV {
                    s.store_some(acc[i][j], row.get_mut(j * S::LANES..).unwrap_or(&mut []));
                }
            }
        }
        Cols::Sieve { at, vectors } => {
            let vectors = &vectors[..NV];
            for i in 0..MR {
                let row = &mut out.row(place.rows[i] as usize)[at..];
                for j in 0..NV {
                    let [bits, first] = vectors[j];
                    let kept = &mut row[first as usize..][..bits.count_ones() as usize];
                    s.store_some(s.compress(acc[i][j], bits), kept);
                }
            }
        }
    }
}

/// Calls `$tile::<.., MR>` for a row count known only at run time.
macro_rules! for_height {
    ($rows:expr, $mr:ident => $call:expr) => {
        for_height!(@ $rows, $mr, $call, 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@ $rows:expr, $mr:ident, $call:expr, $($n:literal)*) => {
        match $rows {
            $($n => { const $mr: usize = $n; $call })*
            _ => unreachable!("no such tile height"),
        }
    };
}
pub(crate) use for_height;

/// Row counts up to this one are served several column panels at a time.
pub(crate) const FEW_ROWS: usize = 3;

const fn row(
    name: &'static str,
    op: &'static str,
    isa_name: &'static str,
    mr: usize,
    nr: usize,
) -> Row {
    Row {
        name,
        op,
        isa_name,
        mr,
        nr,
    }
}

/// The kernels made of these tiles.
pub(crate) const ROWS: &[Row] = &[
    #[cfg(not(target_arch = "aarch64"))]
    row("f32_gemm_6x8_portable", "gemm", "portable", 6, 8),
    #[cfg(not(target_arch = "aarch64"))]
    row("f32_conv_6x8_portable", "conv", "portable", 6, 8),
    #[cfg(target_arch = "aarch64")]
    row("f32_gemm_12x8_portable", "gemm", "portable", 12, 8),
    #[cfg(target_arch = "aarch64")]
    row("f32_conv_12x8_portable", "conv", "portable", 12, 8),
    row("f32_gemv_1x32_portable", "gemv", "portable", 1, 32),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemm_6x16_avx2", "gemm", "avx2", 6, 16),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemv_1x64_avx2", "gemv", "avx2", 1, 64),
    #[cfg(target_arch = "x86_64")]
    row("f32_conv_6x16_avx2", "conv", "avx2", 6, 16),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemm_12x32_avx512", "gemm", "avx512", 12, 32),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemv_1x128_avx512", "gemv", "avx512", 1, 128),
    #[cfg(target_arch = "x86_64")]
    row("f32_conv_12x32_avx512", "conv", "avx512", 12, 32),
];

/// The row for a matmul of `m` rows.
pub(crate) fn select_matmul(m: usize, isa: Isa) -> &'static Row {
    select(if m <= FEW_ROWS { "gemv" } else { "gemm" }, isa)
}

/// The row for a convolution.
pub(crate) fn select_conv(isa: Isa) -> &'static Row {
    select("conv", isa)
}

fn select(op: &str, isa: Isa) -> &'static Row {
    let fits = |row: &&Row| row.op == op && row.isa_name == isa.name();
    ROWS.iter()
        .find(fits)
        .expect("a row for every op and instruction set")
}
