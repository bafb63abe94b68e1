//! Where the terms of a product are in an operand.

use alloc::vec::Vec;
use core::ops::Range;

/// An offset for each step of a loop over terms.
///
/// # Safety
/// What [`Terms::at`] returns is less than [`Terms::bound`], and no part has a greater bound. In groups of [`Terms::GROUP`] the offsets of
/// [`Terms::TOGETHER`] steps, from a multiple of it on, follow one another.
pub(crate) unsafe trait Terms: Copy {
    /// Steps that a loop takes between two branches: as many as one address serves, or two.
    const GROUP: usize = 2;
    /// Steps whose offsets follow one another and which are read together where that pays.
    const TOGETHER: usize = 1;
    /// Elements from each offset to the next, if that is the same for all.
    fn step(self) -> Option<usize> {
        None
    }
    /// Number of steps.
    fn len(self) -> usize;
    /// What is greater than every offset; zero without steps.
    fn bound(self) -> usize;
    /// These steps alone, so that a loop over them need not check each. Panics when they are not all there.
    fn part(self, steps: Range<usize>) -> Self;
    /// The offset of step `t`, or, where there is none, of another or behind the last: for what may be anywhere. Panics without steps.
    fn near(self, t: usize) -> usize;
    /// The offset of step `u` of the `n`-th group of `U`. Panics when there is no such step.
    fn at<const U: usize>(self, n: usize, u: usize) -> usize;
    /// The same in two parts, of which the first is that of all steps of a group if one address serves them.
    #[inline(always)]
    fn within<const U: usize>(self, n: usize, u: usize) -> (usize, usize) {
        (self.at::<U>(n, u), 0)
    }
}

/// Terms at equal distances: no list to be read. In a loop that shares the ports of its FMAs with scalars, lists take a tenth of the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Even {
    first: usize,
    step: usize,
    // As many as there are steps: a slice has the checks of indices that the compiler knows how to drop.
    steps: &'static [()],
}

/// As many steps as anybody can ask for.
static STEPS: [(); usize::MAX] = [(); usize::MAX];

impl Even {
    /// `first`, `first + step` and so on, `len` of them. Panics when the last is beyond what can be addressed.
    #[inline(always)]
    pub(crate) fn new(first: usize, step: usize, len: usize) -> Self {
        let end = len.checked_mul(step).and_then(|n| n.checked_add(first));
        assert!(
            end.is_some_and(|end| end < isize::MAX as usize),
            "terms reach too far"
        );
        Self {
            first,
            step,
            steps: &STEPS[..len],
        }
    }
}

// SAFETY: offsets ascend, and `bound` is one more than the last, which `new` found to be in range; a part ends where the whole does, or before.
unsafe impl Terms for Even {
    const GROUP: usize = Runs::LEN;
    #[inline(always)]
    fn step(self) -> Option<usize> {
        Some(self.step)
    }
    #[inline(always)]
    fn len(self) -> usize {
        self.steps.len()
    }
    #[inline(always)]
    fn bound(self) -> usize {
        match self.steps.len() {
            0 => 0,
            len => self.first + (len - 1) * self.step + 1,
        }
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        Self {
            first: self.first + steps.start * self.step,
            step: self.step,
            steps: &self.steps[steps],
        }
    }
    #[inline(always)]
    fn near(self, t: usize) -> usize {
        self.first.wrapping_add(t.wrapping_mul(self.step))
    }
    #[inline(always)]
    fn at<const U: usize>(self, n: usize, u: usize) -> usize {
        let () = self.steps.as_chunks::<U>().0[n][u];
        self.first + (n * U + u) * self.step
    }
    #[inline(always)]
    fn within<const U: usize>(self, n: usize, u: usize) -> (usize, usize) {
        (self.at::<U>(n, 0), u * self.step)
    }
}

/// Indices that are all below a bound, checked once, so that a loop over them need not check each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Below<'a> {
    list: &'a [u32],
    bound: usize,
}

impl<'a> Below<'a> {
    /// Panics when an index is not below `bound`.
    #[inline(always)]
    pub(crate) fn new(list: &'a [u32], bound: usize) -> Self {
        let worst = list.iter().fold(0, |m, &i| m.max(i));
        assert!(
            list.is_empty() || (worst as usize) < bound,
            "index out of range"
        );
        Self { list, bound }
    }
    /// Any indices, below what the greatest of them says.
    #[inline(always)]
    pub(crate) fn all(list: &'a [u32]) -> Self {
        let worst = list.iter().fold(0, |m, &i| m.max(i));
        Self {
            list,
            bound: worst as usize + 1,
        }
    }
    pub(crate) fn as_slice(self) -> &'a [u32] {
        self.list
    }
}

// SAFETY: no index of the list is `bound` or greater: `new` and `all` looked at each, and a part has no others.
unsafe impl Terms for Below<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        self.list.len()
    }
    #[inline(always)]
    fn bound(self) -> usize {
        match self.list.len() {
            0 => 0,
            _ => self.bound,
        }
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        Self {
            list: &self.list[steps],
            bound: self.bound,
        }
    }
    #[inline(always)]
    fn near(self, t: usize) -> usize {
        self.list[t.min(self.list.len() - 1)] as usize
    }
    #[inline(always)]
    fn at<const U: usize>(self, n: usize, u: usize) -> usize {
        self.list.as_chunks::<U>().0[n][u] as usize
    }
}

/// Terms in runs of [`Runs::LEN`] that lie side by side, the last of which may be shorter: one address serves a run. Two are read together, or, where there are no
/// registers for the vectors of two, [one](Runs::singly).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs<'a, const TOGETHER: usize = 2> {
    starts: Below<'a>,
    len: usize,
}

impl<'a> Runs<'a> {
    pub(crate) const LEN: usize = 4;

    /// `len` terms, in runs that begin at `starts`. Panics when there are more of them than in these runs.
    #[inline(always)]
    pub(crate) fn new(starts: Below<'a>, len: usize) -> Self {
        Self::of(starts, len)
    }

    /// The same one by one.
    #[inline(always)]
    pub(crate) fn singly(self) -> Runs<'a, 1> {
        Runs::of(self.starts, self.len)
    }
}

impl<'a, const TOGETHER: usize> Runs<'a, TOGETHER> {
    #[inline(always)]
    fn of(starts: Below<'a>, len: usize) -> Self {
        assert!(len <= starts.len() * Runs::LEN, "no start of a run");
        Self { starts, len }
    }
}

// SAFETY: a term is less than LEN behind the start of its run, which is below the bound of the starts; a part has some of them. A group is a run.
unsafe impl<const TOGETHER: usize> Terms for Runs<'_, TOGETHER> {
    const GROUP: usize = Runs::LEN;
    const TOGETHER: usize = TOGETHER;
    #[inline(always)]
    fn len(self) -> usize {
        self.len
    }
    #[inline(always)]
    fn bound(self) -> usize {
        match self.len {
            0 => 0,
            _ => self.starts.bound() + Runs::LEN - 1,
        }
    }
    /// Panics unless it begins with a run.
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        assert!(
            steps.end <= self.len && steps.start.is_multiple_of(Runs::LEN),
            "a part begins with a run"
        );
        let runs = steps.start / Runs::LEN..steps.end.div_ceil(Runs::LEN);
        Self::of(self.starts.part(runs), steps.len())
    }
    #[inline(always)]
    fn near(self, t: usize) -> usize {
        self.starts.near(t / Runs::LEN)
    }
    #[inline(always)]
    fn at<const U: usize>(self, n: usize, u: usize) -> usize {
        let (start, behind) = self.within::<U>(n, u);
        start + behind
    }
    #[inline(always)]
    fn within<const U: usize>(self, n: usize, u: usize) -> (usize, usize) {
        if const { U == Runs::LEN } {
            return (self.starts.at::<1>(n, 0), u % Runs::LEN);
        }
        let t = n * U + u;
        (self.starts.at::<1>(t / Runs::LEN, 0), t % Runs::LEN)
    }
}

/// Indices of its own that are all below a bound.
#[derive(Debug)]
pub(crate) struct Bounded {
    list: Vec<u32>,
    bound: usize,
}

impl Bounded {
    /// Panics when an index is not below `bound`.
    #[inline(always)]
    pub(crate) fn new(list: Vec<u32>, bound: usize) -> Self {
        let Below { bound, .. } = Below::new(&list, bound);
        Self { list, bound }
    }
    /// Any indices, below what the greatest of them says.
    pub(crate) fn all_of(list: Vec<u32>) -> Self {
        let Below { bound, .. } = Below::all(&list);
        Self { list, bound }
    }
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
    pub(crate) fn bound(&self) -> usize {
        self.bound
    }
    pub(crate) fn all(&self) -> Below<'_> {
        Below {
            list: &self.list,
            bound: self.bound,
        }
    }
}
