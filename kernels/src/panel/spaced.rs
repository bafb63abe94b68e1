//! Rows of a matrix, read where they lie.

use core::marker::PhantomData;
use core::ops::Range;

use super::{Even, Lhs, Terms, one_register};
use crate::tile::gemm::each_row;

/// Step `t` is `data[i * ld + list[t]]` for each row `i`: rows of a matrix, read in place.
#[derive(Clone, Copy)]
pub(crate) struct Spaced<'a, T, const MR: usize> {
    // Invariant of `SpacedRows::tile`: the last row holds every term.
    data: &'a [f32],
    ld: usize,
    list: T,
}

impl<'a, T: Terms, const MR: usize> Spaced<'a, T, MR> {
    /// Panics when the last row does not hold the elements that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(data: &'a [f32], ld: usize, list: T) -> Self {
        SpacedRows::new(data, ld, list, MR).tile(0)
    }
}

/// Rows for several tiles that read them in place, checked once for all.
#[derive(Clone, Copy)]
pub(crate) struct SpacedRows<'a, T> {
    // Invariant of `new`: every row holds every term.
    data: &'a [f32],
    ld: usize,
    list: T,
    rows: usize,
}

impl<'a, T: Terms> SpacedRows<'a, T> {
    /// Panics when the last row does not hold the elements that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(data: &'a [f32], ld: usize, list: T, rows: usize) -> Self {
        if rows > 0 && list.len() > 0 {
            let last = (rows - 1).checked_mul(ld);
            let last = last.and_then(|last| last.checked_add(list.bound() - 1));
            assert!(
                last.is_some_and(|last| last < data.len()),
                "a row is too short"
            );
        }
        Self {
            data,
            ld,
            list,
            rows,
        }
    }

    /// The rows from `first` on. Panics when there are fewer.
    #[inline(always)]
    pub(crate) fn tile<const MR: usize>(self, first: usize) -> Spaced<'a, T, MR> {
        assert!(
            MR <= self.rows && first <= self.rows - MR,
            "rows out of range"
        );
        let Self { data, ld, list, .. } = self;
        let skip = if list.len() > 0 { first * ld } else { 0 };
        Spaced {
            // SAFETY: the row begins in front of the last term of the last row (`new`).
            data: unsafe { data.get_unchecked(skip..) },
            ld,
            list,
        }
    }
}

impl<T: Terms, const MR: usize> Lhs<MR> for Spaced<'_, T, MR> {
    const GROUP: usize = T::GROUP;
    #[inline(always)]
    fn len(self) -> usize {
        self.list.len()
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let list = self.list.part(steps);
        Self { list, ..self }
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, usize, f32)) {
        // Three rows a base: x86 addresses base, base + ld and base + 2 ld directly, so that twelve rows take five registers
        // and not twelve, of which there are not so many.
        let mut base = self.data.as_ptr().wrapping_add(self.list.at::<U>(n, u));
        for i in 0..MR {
            if i > 0 && i % 3 == 0 {
                base = base.wrapping_add(3 * self.ld);
            }
            // SAFETY: a term is below the bound of all (`Terms`); row `MR - 1` holds it (`SpacedRows::tile`).
            f(i, 0, unsafe { *base.wrapping_add(i % 3 * self.ld) });
        }
    }
}

/// As [`Spaced`], by an address of its own for each row, for which there are registers where terms need none. Left to the compiler, each row is found from the
/// one before it in every step, in turns of the FMA units: 0.95 of the time.
#[derive(Clone, Copy)]
pub(crate) struct Apart<'a, const MR: usize> {
    // Invariant of `new`: each holds every term.
    rows: [*const f32; MR],
    terms: Even,
    of: PhantomData<&'a [f32]>,
}

impl<'a, const MR: usize> Apart<'a, MR> {
    #[inline(always)]
    pub(crate) fn new(of: Spaced<'a, Even, MR>) -> Self {
        let Spaced { data, ld, list } = of;
        // Such that no row is known to be anywhere near another.
        let row = |i: usize| one_register(data.as_ptr().wrapping_add(i * ld));
        Self {
            rows: core::array::from_fn(row),
            terms: list,
            of: PhantomData,
        }
    }
}

impl<const MR: usize> Lhs<MR> for Apart<'_, MR> {
    const GROUP: usize = Even::GROUP;
    #[inline(always)]
    fn len(self) -> usize {
        self.terms.len()
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let terms = self.terms.part(steps);
        Self { terms, ..self }
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, usize, f32)) {
        let at = self.terms.at::<U>(n, u);
        for i in 0..MR {
            // SAFETY: a term is below the bound of all (`Terms`), and the rows hold it (`new`).
            f(i, 0, unsafe { *self.rows[i].wrapping_add(at) });
        }
    }
}

/// As [`Spaced`], by one register and displacements from there: for rows that are a constant number of elements apart. Of runs two terms are read together:
/// with one vector of columns nothing but these loads holds up the FMAs. 26 rows in blocks of 16 channels take 13.4 cycles on a Xeon, and 14.7 term by term.
///
/// They may be `R` stretches, `MR / R` rows each, with a register for each stretch; the first `LO` and the last `HI` rows of each are not read.
#[derive(Clone, Copy)]
pub(crate) struct Beside<
    'a,
    T,
    const MR: usize,
    const R: usize = 1,
    const LO: usize = 0,
    const HI: usize = 0,
> {
    // Invariant: from each on, the last row that is read holds every term.
    stretches: [&'a [f32]; R],
    ld: usize,
    list: T,
}

impl<'a, T: Terms, const MR: usize> From<Spaced<'a, T, MR>> for Beside<'a, T, MR> {
    #[inline(always)]
    fn from(of: Spaced<'a, T, MR>) -> Self {
        let Spaced { data, ld, list } = of;
        Self {
            stretches: [data],
            ld,
            list,
        }
    }
}

impl<'a, T: Terms, const MR: usize, const R: usize, const LO: usize, const HI: usize>
    Beside<'a, T, MR, R, LO, HI>
{
    /// `stretches` from the first row on that is read. Panics when the last does not hold the elements that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(stretches: [&'a [f32]; R], ld: usize, list: T) -> Self {
        for data in stretches {
            SpacedRows::new(data, ld, list, const { MR / R - LO - HI });
        }
        Self {
            stretches,
            ld,
            list,
        }
    }
}

impl<T: Terms, const MR: usize, const R: usize, const LO: usize, const HI: usize> Lhs<MR>
    for Beside<'_, T, MR, R, LO, HI>
{
    const GROUP: usize = T::GROUP;
    const TOGETHER: usize = T::TOGETHER;
    #[inline(always)]
    fn len(self) -> usize {
        self.list.len()
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let list = self.list.part(steps);
        Self { list, ..self }
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, usize, f32)) {
        let together = if U == T::GROUP { T::TOGETHER } else { 1 };
        let (at, behind) = self.list.within::<U>(n, u);
        let mut firsts = [core::ptr::null(); R];
        for r in 0..R {
            firsts[r] = one_register(self.stretches[r].as_ptr().wrapping_add(at));
        }
        let each = const { MR / R };
        // Repeated here: loops of so many FMAs are not unrolled.
        each_row!(MR, i => {
            let (first, row) = (firsts[i / each], i % each);
            if row >= LO && row + HI < each {
                for k in 0..together {
                    // SAFETY: a term is below the bound of all, and so is one `k` behind it (`Terms`); the rows that are read hold them (`new`, `SpacedRows::tile`).
                    f(i, k, unsafe { *first.wrapping_add(behind + (row - LO) * self.ld + k) });
                }
            }
        });
    }
}
