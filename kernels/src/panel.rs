//! Operands as a micro-kernel reads them: what it broadcasts ([`Lhs`]) and what it loads as vectors ([`Rhs`]).
//!
//! Both are walked by a step `t`, one step a live term. *Which* element a step means is the operand's affair: an offset list
//! makes dead terms cost nothing inside the loop, whatever the density.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;

use crate::isa::F32s;

/// Floats in a cache line.
pub(crate) const LINE: usize = 16;

/// Takes `n` floats, rounded up to cache lines, off the front of `rest`. Panics when it is too short.
pub(crate) fn take<'a>(rest: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let all = core::mem::take(rest);
    let (front, back) = all.split_at_mut(lines(n));
    *rest = back;
    &mut front[..n]
}

/// As [`take`], for indices.
pub(crate) fn take_indices<'a>(rest: &mut &'a mut [f32], n: usize) -> &'a mut [u32] {
    bytemuck::cast_slice_mut(take(rest, n))
}

/// The part of `scratch` that starts on a cache line; [`LINE`] elements shorter than `scratch` at worst.
pub(crate) fn from_line(scratch: &mut [f32]) -> &mut [f32] {
    let skip = scratch.as_ptr().align_offset(64).min(scratch.len());
    &mut scratch[skip..]
}

/// `n` rounded up to whole cache lines, or the most there is.
pub(crate) fn lines(n: usize) -> usize {
    n.div_ceil(LINE).saturating_mul(LINE)
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
    pub(crate) fn all(list: &'a [u32]) -> Self {
        let worst = list.iter().fold(0, |m, &i| m.max(i));
        Self {
            list,
            bound: worst as usize + 1,
        }
    }
    /// The part `range` of the list.
    #[inline(always)]
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        Self {
            list: &self.list[range],
            bound: self.bound,
        }
    }
    /// The `n`-th group of `U` of the list.
    #[inline(always)]
    fn group<const U: usize>(self, n: usize) -> &'a [u32; U] {
        &self.list.as_chunks().0[n]
    }
    pub(crate) fn len(self) -> usize {
        self.list.len()
    }
    pub(crate) fn bound(self) -> usize {
        self.bound
    }
    pub(crate) fn as_slice(self) -> &'a [u32] {
        self.list
    }
    /// The list names less than one of `n` indices below the bound.
    pub(crate) fn is_sparse(self, n: usize) -> bool {
        self.list.len() * n < self.bound
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

/// `MR` scalars a step, to be broadcast.
pub(crate) trait Lhs<const MR: usize>: Copy {
    /// These steps alone, so that a loop over them need not check each. Panics when they are not all there.
    fn part(self, steps: Range<usize>) -> Self;
    /// Calls `f(i, scalar)` for each row `i` of step `u` of the `n`-th group of `U`, in order. Not an array of them: one scalar at a time is
    /// in a register.
    fn each<const U: usize>(self, n: usize, u: usize, f: impl FnMut(usize, f32));
    /// Whether the addresses of two steps at once leave registers to the sums.
    #[inline(always)]
    fn in_pairs(self) -> bool {
        true
    }
}

/// Step `t` is row `t` of a `[depth][MR]` panel.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a, const MR: usize>(pub(crate) &'a [[f32; MR]]);

impl<const MR: usize> Lhs<MR> for Packed<'_, MR> {
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        Self(&self.0[steps])
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, f32)) {
        let row = &self.0.as_chunks::<U>().0[n][u];
        for i in 0..MR {
            f(i, row[i]);
        }
    }
}

/// Step `t` is row `list[t]` of a panel whose rows are `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Listed<'a, const MR: usize> {
    // Invariant of `new`: the panel holds the row of the greatest index of the list.
    panel: &'a [f32],
    stride: usize,
    list: Below<'a>,
}

impl<'a, const MR: usize> Listed<'a, MR> {
    /// Panics when the panel does not hold the rows that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(panel: &'a [f32], stride: usize, list: Below<'a>) -> Self {
        if !list.list.is_empty() {
            let end = (list.bound - 1)
                .checked_mul(stride)
                .and_then(|start| start.checked_add(MR));
            assert!(
                end.is_some_and(|end| end <= panel.len()),
                "a panel is too short"
            );
        }
        Self {
            panel,
            stride,
            list,
        }
    }
}

impl<const MR: usize> Lhs<MR> for Listed<'_, MR> {
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let list = self.list.part(steps);
        Self { list, ..self }
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, f32)) {
        let at = self.list.group::<U>(n)[u] as usize * self.stride;
        for i in 0..MR {
            // SAFETY: a list index is below the list's bound (`Below::new`), and the panel holds `MR` elements there (`new`).
            f(i, unsafe { *self.panel.get_unchecked(at + i) });
        }
    }
}

/// Step `t` is `data[starts[i] + list[t] * stride]` for each row `i`: rows anywhere in memory, read in place.
#[derive(Clone, Copy)]
pub(crate) struct Gathered<'a, const MR: usize> {
    // Invariant of `new`: every row is long enough for the greatest index of the list.
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
        if !list.list.is_empty() {
            let last = (list.bound - 1).checked_mul(stride);
            assert!(
                last.is_some_and(|last| rows.iter().all(|r| last < r.len())),
                "a row is too short"
            );
        }
        Self { rows, stride, list }
    }
}

impl<const MR: usize> Lhs<MR> for Gathered<'_, MR> {
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let list = self.list.part(steps);
        Self { list, ..self }
    }
    #[inline(always)]
    fn in_pairs(self) -> bool {
        false
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, f32)) {
        let at = self.list.group::<U>(n)[u] as usize * self.stride;
        for i in 0..MR {
            // SAFETY: a list index is below the list's bound (`Below::new`), and rows hold `(bound - 1) * stride` (`new`).
            f(i, unsafe { *self.rows[i].get_unchecked(at) });
        }
    }
}

/// Step `t` is `data[i * ld + list[t] * stride]` for each row `i`: rows of a matrix, read in place.
#[derive(Clone, Copy)]
pub(crate) struct Spaced<'a, const MR: usize> {
    // Invariant of `new`: the last row is long enough for the greatest index of the list.
    data: &'a [f32],
    ld: usize,
    stride: usize,
    list: Below<'a>,
}

impl<'a, const MR: usize> Spaced<'a, MR> {
    /// Panics when the last row does not hold the elements that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(data: &'a [f32], ld: usize, stride: usize, list: Below<'a>) -> Self {
        if !list.list.is_empty() {
            let last = (list.bound - 1)
                .checked_mul(stride)
                .and_then(|k| (MR - 1).checked_mul(ld)?.checked_add(k));
            assert!(
                last.is_some_and(|last| last < data.len()),
                "a row is too short"
            );
        }
        Self {
            data,
            ld,
            stride,
            list,
        }
    }
}

impl<const MR: usize> Lhs<MR> for Spaced<'_, MR> {
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let list = self.list.part(steps);
        Self { list, ..self }
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, f32)) {
        // Three rows a base: x86 addresses base, base + ld and base + 2 ld directly, so that twelve rows take five registers
        // and not twelve, of which there are not so many.
        let k = self.list.group::<U>(n)[u] as usize * self.stride;
        let mut base = self.data.as_ptr().wrapping_add(k);
        for i in 0..MR {
            if i > 0 && i % 3 == 0 {
                base = base.wrapping_add(3 * self.ld);
            }
            // SAFETY: a list index is below the list's bound (`Below::new`); row `MR - 1` holds it (`new`).
            f(i, unsafe { *base.wrapping_add(i % 3 * self.ld) });
        }
    }
}

/// `NV` vectors a step.
pub(crate) trait Rhs<S: F32s, const NV: usize>: Copy {
    /// These steps alone, so that a loop over them need not check each. Panics when they are not all there.
    fn part(self, steps: Range<usize>) -> Self;
    /// Those of step `u` of the `n`-th group of `U`.
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV];
}

/// Step `t` is `panel[offsets[t]..]` of each of `NP` panels, `EACH` vectors of it. Those of step `t + AHEAD` are prefetched then, unless
/// `AHEAD` is zero.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a, S, const NP: usize, const EACH: usize, const AHEAD: usize = 0> {
    // Invariant of `new`: every panel holds `EACH` vectors of `S` from the greatest offset on.
    panels: [&'a [f32]; NP],
    offsets: Below<'a>,
    of: PhantomData<S>,
}

impl<'a, S: F32s, const NP: usize, const EACH: usize, const AHEAD: usize>
    Side<'a, S, NP, EACH, AHEAD>
{
    /// Panics when a panel does not hold the vectors that the bound of `offsets` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(panels: [&'a [f32]; NP], offsets: Below<'a>) -> Self {
        if !offsets.list.is_empty() {
            let end = (offsets.bound - 1).checked_add(EACH * S::LANES);
            for panel in panels {
                assert!(
                    end.is_some_and(|end| end <= panel.len()),
                    "a panel is too short"
                );
            }
        }
        Self {
            panels,
            offsets,
            of: PhantomData,
        }
    }
}

impl<S: F32s, const NP: usize, const EACH: usize, const AHEAD: usize, const NV: usize> Rhs<S, NV>
    for Side<'_, S, NP, EACH, AHEAD>
{
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let offsets = self.offsets.part(steps);
        Self { offsets, ..self }
    }
    #[inline(always)]
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV] {
        const { assert!(NP * EACH == NV, "as many vectors as the tile has") };
        let at = self.offsets.group::<U>(n)[u] as usize;
        if AHEAD > 0 {
            let list = self.offsets.list;
            let then = list[(n * U + u + AHEAD).min(list.len() - 1)] as usize;
            for panel in self.panels {
                for j in 0..EACH {
                    s.prefetch_ahead(panel, then + j * S::LANES);
                }
            }
        }
        // Not `array::from_fn`: what it calls is not always compiled for the instruction set.
        let mut v = [s.splat(0.0); NV];
        for p in 0..NP {
            for j in 0..EACH {
                let from = at + j * S::LANES;
                // SAFETY: an offset is below the list's bound (`Below::new`), and the panels hold `EACH` vectors there (`new`).
                let row = unsafe { self.panels[p].get_unchecked(from..from + S::LANES) };
                v[p * EACH + j] = s.load(row);
            }
        }
        v
    }
}

/// Step `t` is `panel[offsets[t]..]`, while that of the panel that is used next is prefetched: one vector by each of the first tiles that pass over
/// this one.
#[derive(Clone, Copy)]
pub(crate) struct Foreseen<'a, S, const NV: usize> {
    of: Side<'a, S, 1, NV>,
    next: &'a [f32],
}

impl<'a, S: F32s, const NV: usize> Foreseen<'a, S, NV> {
    /// For the `nth` tile that passes over `panel`; `next` is `panel` where none follows. Panics as [`Side::new`].
    #[inline(always)]
    pub(crate) fn new(panel: &'a [f32], offsets: Below<'a>, next: &'a [f32], nth: usize) -> Self {
        let next = if nth < NV { next } else { panel };
        Self {
            of: Side::new([panel], offsets),
            next: &next[(nth % NV * S::LANES).min(next.len())..],
        }
    }
}

impl<S: F32s, const NV: usize> Rhs<S, NV> for Foreseen<'_, S, NV> {
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let of = Rhs::<S, NV>::part(self.of, steps);
        Self { of, ..self }
    }
    #[inline(always)]
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV] {
        s.prefetch_ahead(self.next, self.of.offsets.group::<U>(n)[u] as usize);
        self.of.at::<U>(s, n, u)
    }
}

/// Step `t` is `R` vectors, `T` vectors apart, of each of `Q` rows, `below` elements apart, from `data[offsets[t]]` on.
#[derive(Clone, Copy)]
pub(crate) struct Stencil<'a, S, const R: usize, const Q: usize, const T: usize> {
    // Invariant of `new`: all of them are there from the greatest offset on.
    data: &'a [f32],
    below: usize,
    offsets: Below<'a>,
    of: PhantomData<S>,
}

impl<'a, S: F32s, const R: usize, const Q: usize, const T: usize> Stencil<'a, S, R, Q, T> {
    /// Panics when what the bound of `offsets` allows to be asked for is not there.
    #[inline(always)]
    pub(crate) fn new(data: &'a [f32], below: usize, offsets: Below<'a>) -> Self {
        if !offsets.list.is_empty() {
            let end = below
                .checked_mul(Q - 1)
                .and_then(|last| last.checked_add(offsets.bound - 1))
                .and_then(|last| last.checked_add((R - 1) * T * S::LANES + S::LANES));
            assert!(
                end.is_some_and(|end| end <= data.len()),
                "a map is too short"
            );
        }
        Self {
            data,
            below,
            offsets,
            of: PhantomData,
        }
    }

    /// Number of steps.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.offsets.list.len()
    }

    /// Those of row `q` in step `t`.
    #[inline(always)]
    pub(crate) fn at(self, s: S, t: usize, q: usize) -> [S::V; R] {
        assert!(q < Q, "row out of range");
        let first = self.offsets.list[t] as usize + q * self.below;
        let mut v = [s.splat(0.0); R];
        for r in 0..R {
            let from = first + r * T * S::LANES;
            // SAFETY: an offset is below the list's bound (`Below::new`), and from there on there are `R` vectors of `Q` rows (`new`).
            v[r] = s.load(unsafe { self.data.get_unchecked(from..from + S::LANES) });
        }
        v
    }
}
