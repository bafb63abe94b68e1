//! Rows anywhere in memory, read where they lie.

use core::ops::Range;

use super::{Below, Lhs, Terms};

/// Step `t` is `data[starts[i] + list[t] * stride]` for each row `i`: rows anywhere in memory, read in place.
#[derive(Clone, Copy)]
pub(crate) struct Gathered<'a, const MR: usize> {
    // Invariant of `new` and `GatheredRows::tile`: every row is long enough for the greatest index of the list.
    rows: [&'a [f32]; MR],
    stride: usize,
    list: Below<'a>,
}

impl<'a, const MR: usize> Gathered<'a, MR> {
    /// Panics when a row does not hold the elements that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(
        data: &'a [f32],
        starts: [usize; MR],
        stride: usize,
        list: Below<'a>,
    ) -> Self {
        let rows = starts.map(|s| &data[s.min(data.len())..]);
        if list.len() > 0 {
            let last = (list.bound() - 1).checked_mul(stride);
            assert!(
                last.is_some_and(|last| rows.iter().all(|r| last < r.len())),
                "a row is too short"
            );
        }
        Self { rows, stride, list }
    }
}

/// Rows for several tiles, `MR` each, whose terms are side by side; checked once for all.
#[derive(Clone, Copy)]
pub(crate) struct GatheredRows<'a, const MR: usize> {
    data: &'a [f32],
    // Invariant of `new`: from every start on, `data` holds every term.
    starts: &'a [[u32; MR]],
    list: Below<'a>,
}

impl<'a, const MR: usize> GatheredRows<'a, MR> {
    /// Panics when a row does not hold the elements that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(data: &'a [f32], starts: &'a [[u32; MR]], list: Below<'a>) -> Self {
        if !starts.is_empty() && list.len() > 0 {
            let last = Below::all(starts.as_flattened()).bound() - 1;
            let end = last.checked_add(list.bound());
            assert!(
                end.is_some_and(|end| end <= data.len()),
                "a row is too short"
            );
        }
        Self { data, starts, list }
    }

    /// Those of the `n`-th tile. Panics when there is none.
    #[inline(always)]
    pub(crate) fn tile(self, n: usize) -> Gathered<'a, MR> {
        let Self { data, starts, list } = self;
        let row = |start: u32| match list.len() {
            0 => data,
            // SAFETY: every start is inside the data (`new`).
            _ => unsafe { data.get_unchecked(start as usize..) },
        };
        Gathered {
            rows: starts[n].map(row),
            stride: 1,
            list,
        }
    }
}

impl<const MR: usize> Lhs<MR> for Gathered<'_, MR> {
    const GROUP: usize = if MR <= 6 { 2 } else { 1 };
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
        let at = self.list.at::<U>(n, u) * self.stride;
        for i in 0..MR {
            // SAFETY: a term is below the bound of all (`Terms`), and rows hold `(bound - 1) * stride` (`new`).
            f(i, 0, unsafe { *self.rows[i].get_unchecked(at) });
        }
    }
}

/// As [`Gathered`], four steps from branch to branch, for which there are registers where the other operand's terms are even. What counts and compares takes
/// turns of the FMA units: of 8 rows by two vectors 0.94 of the time, of 5 by three 0.92.
#[derive(Clone, Copy)]
pub(crate) struct InFours<'a, const MR: usize>(pub(crate) Gathered<'a, MR>);

impl<const MR: usize> Lhs<MR> for InFours<'_, MR> {
    const GROUP: usize = 4;
    #[inline(always)]
    fn len(self) -> usize {
        self.0.len()
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        Self(self.0.part(steps))
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, f: impl FnMut(usize, usize, f32)) {
        self.0.each::<U>(n, u, f);
    }
}
