//! The micro-kernel of matmul and convolution.
//!
//! ```text
//! acc[i][j] = start[i][j]                      bias, zero, or the partial sum of the previous depth block
//! for t in 0..depth                            live terms only, in ascending order
//!     acc[i][j] = fma(lhs[t][i], rhs[t][j], acc[i][j])
//! out[rows[i]][cols[j]] = activation(acc[i][j])
//! ```
//! Why this tile: an FMA takes 4 cycles and two start in each, so 8 accumulators keep the units busy; 12 x 2, 8 x 3 or 6 x 4 vectors (of 32
//! registers) or 6 x 2 (of 16) reuse each load most often. Lower and wider takes fewer instructions, taller fits narrow operands. Row counts below the maximum are instantiated one by one, so that
//! 64 rows are 11 + 11 + 11 + 11 + 10 + 10 and none of them padding.
#![forbid(unsafe_code)]

use core::ops::Range;

use crate::Isa;
use crate::epilogue::{self, Activation};
use crate::isa::F32s;
use crate::panel::{Lhs, Rhs};
use crate::pool::Rows;
use crate::table::{self, Row};

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

/// The lanes of one vector that are kept (bits), and the column of the first, from where on they go side by side.
pub(crate) type Sieved = [u32; 2];

/// One tile's place in the output, and what becomes of it.
pub(crate) struct Place<'a, T> {
    /// A [`Target`].
    pub(crate) to: T,
    pub(crate) start: Start<'a>,
    /// Applied when it can be in registers, see [`Activation::in_registers`].
    pub(crate) activation: Activation,
}

/// Whether a tile has a register for each accumulator, for the vectors or the scalars of a step, and one more.
pub(crate) const fn fits<S: F32s>(rows: usize, vectors: usize) -> bool {
    let fewer = if rows < vectors { rows } else { vectors };
    rows * vectors + fewer < S::REGISTERS
}

/// Rows of the tallest tile.
pub(crate) const fn tallest<S: F32s>() -> usize {
    if S::REGISTERS >= 32 { 12 } else { 6 }
}

/// Rows of the tallest tile of one vector, where an FMA broadcasts what only it reads.
pub(crate) const TALL: usize = 24;

/// Rows of the tallest tile whose rows are read anywhere in memory: each needs a general register, of which there are 16.
pub(crate) const fn tallest_gathered<S: F32s>() -> usize {
    if S::REGISTERS >= 32 { 8 } else { 4 }
}

/// Vectors in a row of the ordinary tile.
pub(crate) const NV: usize = 2;

/// Whether terms that are side by side have tiles of their own, which read no lists: 1.1 times as fast where instructions are what a core is short of. SSE2
/// alone is not worth the time that they take to compile.
pub(crate) const fn without_lists<S: F32s>() -> bool {
    S::LANES > 4 || cfg!(not(target_arch = "x86_64"))
}

/// Steps that an operand reads together, at most.
const PAIR: usize = 2;

/// See the module. To be called in a loop over tiles that is a function of its own and decides nothing else: what other callers ask for
/// takes registers and cycles.
#[inline(always)]
pub(crate) fn tile<S: F32s, const MR: usize, const NV: usize, L: Lhs<MR>>(
    s: S,
    depth: usize,
    lhs: L,
    rhs: impl Rhs<S, NV>,
    mut place: Place<'_, impl Target<S, MR, NV>>,
) {
    in_parts(
        s,
        &mut place,
        #[inline(always)]
        |acc| add(s, depth, lhs, rhs, acc),
    );
}

/// A tile whose terms come in parts, each of which is [added](add).
#[inline(always)]
pub(crate) fn in_parts<S: F32s, const MR: usize, const NV: usize>(
    s: S,
    place: &mut Place<'_, impl Target<S, MR, NV>>,
    parts: impl FnOnce(&mut [[S::V; NV]; MR]),
) {
    assert!(fits::<S>(MR, NV), "tile spills");
    let mut acc = first_sums::<S, MR, NV>(s, place);
    parts(&mut acc);
    epilogue::finish(s, place.activation, &mut acc);
    place.to.store(s, &acc);
}

/// Adds `depth` terms.
#[inline(always)]
pub(crate) fn add<S: F32s, const MR: usize, const NV: usize, L: Lhs<MR>>(
    s: S,
    depth: usize,
    lhs: L,
    rhs: impl Rhs<S, NV>,
    acc: &mut [[S::V; NV]; MR],
) {
    const { assert!(matches!(L::GROUP, 1 | 2 | 4), "no loop of such groups") };
    const { assert!(matches!(L::TOGETHER, 1 | PAIR), "no loop of so many") };
    // Some steps from branch to branch: where scalars share ports with vectors (Intel), what a loop counts and compares takes turns of the
    // FMA units.
    let whole = match const { group_of::<S>(L::GROUP, NV) } {
        1 => 0,
        group => depth - depth % group,
    };
    if const { group_of::<S>(L::GROUP, NV) == 2 } {
        steps::<S, L, MR, NV, 2>(s, 0..whole, lhs, rhs, acc);
    } else if const { group_of::<S>(L::GROUP, NV) == 4 } {
        steps::<S, L, MR, NV, 4>(s, 0..whole, lhs, rhs, acc);
    }
    steps::<S, L, MR, NV, 1>(s, whole..depth, lhs, rhs, acc);
}

/// Steps from branch to branch for an operand that has registers for so many. With 16 they come singly, unless one address serves all and a tile has several vectors.
const fn group_of<S: F32s>(most: usize, vectors: usize) -> usize {
    match most {
        _ if S::REGISTERS >= 32 => most,
        4 if S::LANES > 4 && vectors > 1 => 4,
        _ => 1,
    }
}

/// Adds the terms `range`, whole groups of `U`. Loads and FMAs only, without a branch between them: a load and its broadcast are one instruction only
/// in one basic block, and as two they take a turn of an FMA unit.
#[inline(always)]
fn steps<S: F32s, L: Lhs<MR>, const MR: usize, const NV: usize, const U: usize>(
    s: S,
    range: Range<usize>,
    lhs: L,
    rhs: impl Rhs<S, NV>,
    acc: &mut [[S::V; NV]; MR],
) {
    let (lhs, rhs) = (lhs.part(range.clone()), rhs.part(range));
    // All the same, which the optimizer does not see through every pair of operands: with a check in its block the loop spills.
    let count = lhs.len().min(rhs.len()) / U;
    let together = const { if L::TOGETHER < U { L::TOGETHER } else { U } };
    for n in 0..count {
        for u in (0..U).step_by(together) {
            let mut b = [[s.splat(0.0); NV]; PAIR];
            for k in 0..together {
                b[k] = rhs.at::<U>(s, n, u + k);
            }
            lhs.each::<U>(
                n,
                u,
                #[inline(always)]
                |i, k, a| {
                    let a = s.splat(a);
                    for j in 0..NV {
                        acc[i][j] = s.mul_add(a, b[k][j], acc[i][j]);
                    }
                },
            );
        }
    }
}

/// Repeats `$body` for each row `$i` below the constant `$mr`. A loop would do if the compiler unrolled it: accumulators that a loop indexes
/// live in memory. What is not repeated does not reach the optimizer, as a constant: it was four fifths of what was generated.
macro_rules! each_row {
    ($mr:expr, $i:ident => $body:expr) => {
        each_row!(@ $mr, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27)
    };
    // As many as there are numbers.
    (@ $mr:expr, $i:ident, $body:expr, $($n:literal)*) => {
        $(if const { $n < $mr } {
            let $i: usize = $n;
            $body
        })*
    };
}
pub(crate) use each_row;

/// Where the sums of a tile go.
pub(crate) trait Target<S: F32s, const MR: usize, const NV: usize> {
    /// What is there for row `i` of the tile; lanes that are not kept are anything.
    fn load(&mut self, s: S, i: usize) -> [S::V; NV];
    fn store(&mut self, s: S, sums: &[[S::V; NV]; MR]);
}

/// A row of the output for each of the tile, and which of its columns the lanes are.
impl<S: F32s, R: Rows<MR>, C: Columns<S, NV>, const MR: usize, const NV: usize> Target<S, MR, NV>
    for (R, C)
{
    #[inline(always)]
    fn load(&mut self, s: S, i: usize) -> [S::V; NV] {
        self.1.load(s, self.0.row(i))
    }
    #[inline(always)]
    fn store(&mut self, s: S, sums: &[[S::V; NV]; MR]) {
        self.1.store(s, sums, &mut self.0);
    }
}

/// The columns of a row that a tile keeps.
pub(crate) trait Columns<S: F32s, const NV: usize>: Copy {
    /// What the row holds there; lanes that are not kept are anything.
    fn load(self, s: S, row: &[f32]) -> [S::V; NV];
    fn store<const MR: usize>(self, s: S, sums: &[[S::V; NV]; MR], rows: &mut impl Rows<MR>);
}

/// All lanes, from this column on.
#[derive(Clone, Copy)]
pub(crate) struct Whole(pub(crate) usize);

impl<S: F32s, const NV: usize> Columns<S, NV> for Whole {
    #[inline(always)]
    fn load(self, s: S, row: &[f32]) -> [S::V; NV] {
        let row = &row[self.0..][..NV * S::LANES];
        let mut sums = [s.splat(0.0); NV];
        for j in 0..NV {
            sums[j] = s.load(&row[j * S::LANES..]);
        }
        sums
    }
    #[inline(always)]
    fn store<const MR: usize>(self, s: S, sums: &[[S::V; NV]; MR], rows: &mut impl Rows<MR>) {
        each_row!(MR, i => {
            let row = &mut rows.row(i)[self.0..][..NV * S::LANES];
            for j in 0..NV {
                s.store(sums[i][j], &mut row[j * S::LANES..]);
            }
        });
    }
}

/// Some lanes of each vector, in place: lane `i` of vector `j` is column `at + j * LANES + i`.
#[derive(Clone, Copy)]
pub(crate) struct Picked<const NV: usize> {
    at: usize,
    lanes: [u32; NV],
    /// All of them: a branch at the end is nothing beside the instance of a tile that it saves.
    whole: bool,
}

impl<const NV: usize> Picked<NV> {
    pub(crate) fn new<S: F32s>(at: usize, lanes: [u32; NV]) -> Self {
        let whole = lanes.iter().all(|&lanes| lanes == all::<S>());
        Self { at, lanes, whole }
    }
    /// The first `width` lanes.
    pub(crate) fn first<S: F32s>(at: usize, width: usize) -> Self {
        let kept = |j: usize| width.saturating_sub(j * S::LANES).min(S::LANES);
        Self {
            at,
            lanes: core::array::from_fn(|j| ((1u64 << kept(j)) - 1) as u32),
            whole: width >= NV * S::LANES,
        }
    }
}

/// The bits of all lanes.
const fn all<S: F32s>() -> u32 {
    !0 >> (u32::BITS as usize - S::LANES)
}

impl<S: F32s, const NV: usize> Columns<S, NV> for Picked<NV> {
    #[inline(always)]
    fn load(self, s: S, row: &[f32]) -> [S::V; NV] {
        if self.whole {
            return Whole(self.at).load(s, row);
        }
        let mut sums = [s.splat(0.0); NV];
        for j in 0..NV {
            let from = &row[(self.at + j * S::LANES).min(row.len())..];
            sums[j] = s.load_where(from, self.lanes[j]);
        }
        sums
    }
    #[inline(always)]
    fn store<const MR: usize>(self, s: S, sums: &[[S::V; NV]; MR], rows: &mut impl Rows<MR>) {
        if self.whole {
            return Whole(self.at).store(s, sums, rows);
        }
        each_row!(MR, i => {
            let row = rows.row(i);
            for j in 0..NV {
                let at = (self.at + j * S::LANES).min(row.len());
                s.store_where(sums[i][j], self.lanes[j], &mut row[at..]);
            }
        });
    }
}

/// Some lanes of each vector, which go side by side.
#[derive(Clone, Copy)]
pub(crate) struct Sieve<const NV: usize> {
    kept: [Sieved; NV],
    /// All lanes of all vectors, one behind the other.
    whole: bool,
}

impl<const NV: usize> Sieve<NV> {
    pub(crate) fn new<S: F32s>(kept: [Sieved; NV]) -> Self {
        let [_, at] = kept[0];
        let follows = |(j, &[bits, first]): (usize, &Sieved)| {
            bits == all::<S>() && first as usize == at as usize + j * S::LANES
        };
        let whole = kept.iter().enumerate().all(follows);
        Self { kept, whole }
    }
    /// The first `width` lanes, from column `at` on.
    pub(crate) fn first<S: F32s>(at: usize, width: usize) -> [Sieved; NV] {
        let Picked { lanes, .. } = Picked::<NV>::first::<S>(at, width);
        core::array::from_fn(|j| [lanes[j], (at + width.min(j * S::LANES)) as u32])
    }
}

impl<S: F32s, const NV: usize> Columns<S, NV> for Sieve<NV> {
    #[inline(always)]
    fn load(self, s: S, row: &[f32]) -> [S::V; NV] {
        if self.whole {
            return Whole(self.kept[0][1] as usize).load(s, row);
        }
        let mut sums = [s.splat(0.0); NV];
        for (sum, [bits, first]) in sums.iter_mut().zip(self.kept) {
            let kept = &row[first as usize..][..bits.count_ones() as usize];
            *sum = s.expand(s.load_some(kept), bits);
        }
        sums
    }
    #[inline(always)]
    fn store<const MR: usize>(self, s: S, sums: &[[S::V; NV]; MR], rows: &mut impl Rows<MR>) {
        if self.whole {
            return Whole(self.kept[0][1] as usize).store(s, sums, rows);
        }
        each_row!(MR, i => {
            let row = rows.row(i);
            for (sum, [bits, first]) in sums[i].into_iter().zip(self.kept) {
                let kept = &mut row[first as usize..][..bits.count_ones() as usize];
                s.store_some(s.compress(sum, bits), kept);
            }
        });
    }
}

#[inline(always)]
fn first_sums<S: F32s, const MR: usize, const NV: usize>(
    s: S,
    place: &mut Place<'_, impl Target<S, MR, NV>>,
) -> [[S::V; NV]; MR] {
    let mut acc = [[s.splat(0.0); NV]; MR];
    match place.start {
        Start::Zero => {}
        Start::Rows(bias) => {
            let bias: &[f32; MR] = bias.first_chunk().expect("a bias for each row");
            each_row!(MR, i => acc[i] = [s.splat(bias[i]); NV]);
        }
        Start::Cols(bias) => acc = [Whole(0).load(s, bias); MR],
        Start::Partial => {
            each_row!(MR, i => acc[i] = place.to.load(s, i));
        }
    }
    acc
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
pub(crate) const FEW_ROWS: usize = 5;

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
    row("f32_gemm_6x16_portable", "gemm", "portable", 6, 16),
    #[cfg(target_arch = "aarch64")]
    row("f32_conv_6x16_portable", "conv", "portable", 6, 16),
    row("f32_gemv_1x32_portable", "gemv", "portable", 1, 32),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemm_6x16_avx2", "gemm", "avx2", 6, 16),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemv_1x64_avx2", "gemv", "avx2", 1, 64),
    #[cfg(target_arch = "x86_64")]
    row("f32_conv_6x16_avx2", "conv", "avx2", 6, 16),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemm_6x64_avx512", "gemm", "avx512", 6, 64),
    #[cfg(target_arch = "x86_64")]
    row("f32_gemv_1x128_avx512", "gemv", "avx512", 1, 128),
    #[cfg(target_arch = "x86_64")]
    row("f32_conv_6x64_avx512", "conv", "avx512", 6, 64),
];

/// The row for a matmul of `m` rows.
pub(crate) fn select_matmul(m: usize, isa: Isa) -> &'static Row {
    table::find(if m <= FEW_ROWS { "gemv" } else { "gemm" }, isa)
}

/// The row for a convolution.
pub(crate) fn select_conv(isa: Isa) -> &'static Row {
    table::find("conv", isa)
}
