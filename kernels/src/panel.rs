//! Operands as a micro-kernel reads them: what it broadcasts ([`Lhs`]) and what it loads as vectors ([`Rhs`]).
//!
//! Both are walked by a step `t`, one step a live term. *Which* element a step means is the operand's affair: an offset list
//! makes dead terms cost nothing inside the loop, whatever the density.

mod gathered;
mod spaced;
mod terms;

use core::marker::PhantomData;
use core::ops::Range;

use crate::isa::F32s;

pub(crate) use gathered::{Gathered, GatheredRows, InFours};
pub(crate) use spaced::{Apart, Beside, Spaced, SpacedRows};
pub(crate) use terms::{Below, Bounded, Even, Runs, Terms};

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

/// `MR` scalars a step, to be broadcast.
pub(crate) trait Lhs<const MR: usize>: Copy {
    /// Steps from branch to branch, whose addresses leave registers to the sums.
    const GROUP: usize = 2;
    /// Number of steps.
    fn len(self) -> usize;
    /// These steps alone, so that a loop over them need not check each. Panics when they are not all there.
    fn part(self, steps: Range<usize>) -> Self;
    /// Steps whose scalars of a row are read one after the other: two of one cache line are read in one cycle, two of different lines, at the same place in
    /// them, are not.
    const TOGETHER: usize = 1;
    /// Calls `f(i, k, scalar)` for each row `i` and each step `u + k` of those together, in the `n`-th group of `U`, in order. Not an array of
    /// them: one scalar at a time is in a register.
    fn each<const U: usize>(self, n: usize, u: usize, f: impl FnMut(usize, usize, f32));
}

/// Step `t` is row `t` of a `[depth][MR]` panel.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a, const MR: usize>(pub(crate) &'a [[f32; MR]]);

impl<const MR: usize> Lhs<MR> for Packed<'_, MR> {
    #[inline(always)]
    fn len(self) -> usize {
        self.0.len()
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        Self(&self.0[steps])
    }
    #[inline(always)]
    fn each<const U: usize>(self, n: usize, u: usize, mut f: impl FnMut(usize, usize, f32)) {
        let group: *const [[f32; MR]; U] = &self.0.as_chunks::<U>().0[n];
        // SAFETY: it is that group.
        let row = unsafe { &(*one_register(group))[u] };
        for i in 0..MR {
            f(i, 0, row[i]);
        }
    }
}

/// Step `t` is row `list[t]` of a panel whose rows are `stride` apart, a list being any [`Terms`].
#[derive(Clone, Copy)]
pub(crate) struct Listed<'a, T, const MR: usize> {
    // Invariant of `new`: the panel holds the row of every term.
    panel: &'a [f32],
    stride: usize,
    list: T,
}

impl<'a, T: Terms, const MR: usize> Listed<'a, T, MR> {
    /// Panics when the panel does not hold the rows that the bound of `list` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(panel: &'a [f32], stride: usize, list: T) -> Self {
        if list.len() > 0 {
            let end = (list.bound() - 1)
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

impl<T: Terms, const MR: usize> Lhs<MR> for Listed<'_, T, MR> {
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
            // SAFETY: a term is below the bound of all (`Terms`), and the panel holds `MR` elements there (`new`).
            f(i, 0, unsafe { *self.panel.get_unchecked(at + i) });
        }
    }
}

/// `at`, in one register: an FMA with an index beside an address is two operations on Intel, as if it did not broadcast what it reads.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // what is there is neither read nor written by no instruction
pub(crate) fn one_register<T>(at: *const T) -> *const T {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let mut at = at;
        // SAFETY: no instruction, of which nothing is known but its operand; so `at` is what it was.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags));
        }
        at
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    at
}

/// `NV` vectors a step.
pub(crate) trait Rhs<S: F32s, const NV: usize>: Copy {
    /// Number of steps.
    fn len(self) -> usize;
    /// These steps alone, so that a loop over them need not check each. Panics when they are not all there.
    fn part(self, steps: Range<usize>) -> Self;
    /// Those of step `u` of the `n`-th group of `U`.
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV];
}

/// Step `t` is `panel[offsets[t]..]` of each of `NP` panels, `EACH` vectors of it.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a, S, T, const NP: usize, const EACH: usize> {
    // Invariant of `new`: every panel holds `EACH` vectors of `S` from every term on.
    panels: [&'a [f32]; NP],
    offsets: T,
    of: PhantomData<S>,
}

impl<'a, S: F32s, T: Terms, const NP: usize, const EACH: usize> Side<'a, S, T, NP, EACH> {
    /// Panics when a panel does not hold the vectors that the bound of `offsets` allows to be asked for.
    #[inline(always)]
    pub(crate) fn new(panels: [&'a [f32]; NP], offsets: T) -> Self {
        if offsets.len() > 0 {
            let end = (offsets.bound() - 1).checked_add(EACH * S::LANES);
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

impl<S: F32s, T: Terms, const NP: usize, const EACH: usize, const NV: usize> Rhs<S, NV>
    for Side<'_, S, T, NP, EACH>
{
    #[inline(always)]
    fn len(self) -> usize {
        self.offsets.len()
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let offsets = self.offsets.part(steps);
        Self { offsets, ..self }
    }
    #[inline(always)]
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV] {
        const { assert!(NP * EACH == NV, "as many vectors as the tile has") };
        let at = self.offsets.at::<U>(n, u);
        // Not `array::from_fn`: what it calls is not always compiled for the instruction set.
        let mut v = [s.splat(0.0); NV];
        for p in 0..NP {
            for j in 0..EACH {
                let from = at + j * S::LANES;
                // SAFETY: a term is below the bound of all (`Terms`), and the panels hold `EACH` vectors there (`new`).
                let row = unsafe { self.panels[p].get_unchecked(from..from + S::LANES) };
                v[p * EACH + j] = s.load(row);
            }
        }
        v
    }
}

/// As [`Side`], while the terms `AHEAD` steps behind are prefetched, unless that is zero.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a, S, T, const NP: usize, const EACH: usize, const AHEAD: usize>(
    pub(crate) Side<'a, S, T, NP, EACH>,
);

impl<S: F32s, T: Terms, const NP: usize, const EACH: usize, const AHEAD: usize, const NV: usize>
    Rhs<S, NV> for Ahead<'_, S, T, NP, EACH, AHEAD>
{
    #[inline(always)]
    fn len(self) -> usize {
        Rhs::<S, NV>::len(self.0)
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        Self(Rhs::<S, NV>::part(self.0, steps))
    }
    #[inline(always)]
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV] {
        if AHEAD > 0 {
            let then = self.0.offsets.near(n * U + u + AHEAD);
            for panel in self.0.panels {
                for j in 0..EACH {
                    s.prefetch_ahead(panel, then + j * S::LANES);
                }
            }
        }
        self.0.at::<U>(s, n, u)
    }
}

/// What is used after some panels.
#[derive(Clone, Copy)]
pub(crate) struct Next<'a, const NP: usize> {
    /// Panels as they are; these themselves where none follow.
    pub(crate) panels: [&'a [f32]; NP],
    /// What panels are put together from, one behind the other.
    pub(crate) sources: &'a [f32],
}

impl<'a, const NP: usize> Next<'a, NP> {
    /// These.
    #[inline(always)]
    pub(crate) fn panels(panels: [&'a [f32]; NP]) -> Self {
        Self {
            panels,
            sources: &[],
        }
    }
}

/// As [`Side`], while the panels that are used next are prefetched, some of each by each of the first tiles that pass over these. What is asked for slowly comes
/// in time, too, and does not wait for what memory can bring at once: a core has 16 lines under way, which are 17 GB/s from the L3 of a Xeon.
///
/// One vector of every step, of every other one where terms are even and come in groups. With `LINES`, where a row is its vectors and nothing else, a line in two
/// steps, one behind the other: 0.97 of the time. It takes a register more.
#[derive(Clone, Copy)]
pub(crate) struct Foreseen<'a, S, T, const NP: usize, const EACH: usize, const LINES: bool> {
    of: Side<'a, S, T, NP, EACH>,
    /// What is asked for in turns.
    next: [&'a [f32]; 2],
}

impl<'a, S: F32s, T: Terms, const NP: usize, const EACH: usize, const LINES: bool>
    Foreseen<'a, S, T, NP, EACH, LINES>
{
    /// For the `nth` of `tiles` that pass over `panels`. Panics as [`Side::new`].
    #[inline(always)]
    pub(crate) fn new(
        panels: [&'a [f32]; NP],
        offsets: T,
        next: Next<'a, NP>,
        (nth, tiles): (usize, usize),
    ) -> Self {
        let Next {
            panels: next,
            sources,
        } = next;
        // Panels by comparison: arrays that are indexed, or written in parts and read as a whole, go through memory between two tiles.
        let all = NP * EACH;
        let from = |i: usize, at: usize| {
            let mut panel = next[0];
            for p in 1..NP {
                if i % NP == p {
                    panel = next[p];
                }
            }
            &panel[at.min(panel.len())..]
        };
        let vector = |i: usize, later: usize| {
            if i >= all {
                return panels[0];
            }
            from(i / EACH, i % EACH * S::LANES + later)
        };
        let in_turns = S::REGISTERS >= 32;
        // Of the sources: what the tiles in front of this one have asked for.
        let before = nth * (offsets.len() / 2 * LINE);
        let next = match offsets.step() {
            // All tiles ask for some of the sources.
            Some(_) if Self::in_lines(offsets) && before < sources.len() => [&sources[before..]; 2],
            // Most tiles; whatever else decides is instructions between two of them.
            _ if nth >= 2 * all => [panels[0]; 2],
            Some(step) if Self::in_lines(offsets) => {
                let rows = offsets.len() * (nth / NP) / (2 * EACH);
                [from(nth, offsets.near(0) + rows * step); 2]
            }
            Some(step) if in_turns => [vector(nth % all, nth / all * step); 2],
            None if in_turns && tiles >= 2 * all => {
                let asked = vector(nth % all, 0);
                match nth < all {
                    true => [asked, panels[0]],
                    false => [panels[0], asked],
                }
            }
            _ => [vector(nth, 0); 2],
        };
        Self {
            of: Side::new(panels, offsets),
            next,
        }
    }

    /// Whether lines are asked for one behind the other.
    #[inline(always)]
    fn in_lines(offsets: T) -> bool {
        LINES && S::REGISTERS >= 32 && EACH > 1 && offsets.step() == Some(EACH * S::LANES)
    }
}

impl<S: F32s, T: Terms, const NP: usize, const EACH: usize, const LINES: bool, const NV: usize>
    Rhs<S, NV> for Foreseen<'_, S, T, NP, EACH, LINES>
{
    #[inline(always)]
    fn len(self) -> usize {
        Rhs::<S, NV>::len(self.of)
    }
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        let of = Rhs::<S, NV>::part(self.of, steps);
        Self { of, ..self }
    }
    #[inline(always)]
    fn at<const U: usize>(self, s: S, n: usize, u: usize) -> [S::V; NV] {
        let offsets = self.of.offsets;
        if Self::in_lines(offsets) {
            if U > 1 && u.is_multiple_of(2) {
                s.prefetch_ahead(self.next[0], (n * U + u) * S::LANES / 2);
            }
        } else if u.is_multiple_of(2) || offsets.step().is_none() {
            s.prefetch_ahead(self.next[u % 2], offsets.at::<U>(n, u));
        }
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
        if offsets.len() > 0 {
            let end = below
                .checked_mul(Q - 1)
                .and_then(|last| last.checked_add(offsets.bound() - 1))
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
        self.offsets.len()
    }

    /// Those of row `q` in step `t`.
    #[inline(always)]
    pub(crate) fn at(self, s: S, t: usize, q: usize) -> [S::V; R] {
        assert!(q < Q, "row out of range");
        let first = self.offsets.at::<1>(t, 0) + q * self.below;
        let mut v = [s.splat(0.0); R];
        for r in 0..R {
            let from = first + r * T * S::LANES;
            // SAFETY: a term is below the bound of all (`Terms`), and from there on there are `R` vectors of `Q` rows (`new`).
            v[r] = s.load(unsafe { self.data.get_unchecked(from..from + S::LANES) });
        }
        v
    }
}
