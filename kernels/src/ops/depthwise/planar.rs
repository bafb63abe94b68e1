//! Which kernel takes planes as they lie, where pixels are lanes.

use super::{Job, line, rows, stack, strip};
use crate::Isa;
use crate::isa::{F32s, Task};
use crate::ops::conv_shape::ConvShape;

/// The kernel that takes planes as they lie.
#[derive(Clone, Copy)]
pub(super) enum Planar {
    Line,
    Stacked(usize),
    OverRows,
    Strip,
}

impl Planar {
    pub(super) fn of(
        isa: Isa,
        shape: &ConvShape,
        map: (usize, usize),
        (_, ow): (usize, usize),
    ) -> Self {
        if line::serves(isa, shape, map, ow) {
            return Self::Line;
        }
        // Small enough that no index overflows.
        let ((h, w), [top, left, ..], pitch) = (map, shape.pads, shape.dilation[0]);
        let small = [h, w, top, left, pitch].into_iter().all(|n| n < 1 << 20);
        if !small || w == 0 || (shape.kernel[0] > 3 && isa.lanes() < WIDE) {
            return Self::Strip;
        }
        match stack::rows(isa, shape, map, ow) {
            0 if rows::serves(shape) => Self::OverRows,
            0 => Self::Strip,
            n => Self::Stacked(n),
        }
    }

    /// Every kernel is a task of its own: together they would share one frame, with the strip on it.
    pub(super) fn run(self, isa: Isa, job: &mut Job<'_, '_>) {
        match self {
            Self::Line => isa.run(Line(job)),
            Self::Stacked(n) => run_stacked(isa, n, job),
            Self::OverRows => run_over_rows(isa, job),
            Self::Strip => isa.run(Strip(job)),
        }
    }

    /// About how many cycles a plane takes; nothing for kernels that others always do better than, where they can. Measured as
    /// [`super::lanes`] says.
    pub(super) fn cycles(
        self,
        isa: Isa,
        shape: &ConvShape,
        (h, w): (usize, usize),
        (_, ow): (usize, usize),
    ) -> Option<f64> {
        let [kh, kw] = shape.kernel;
        let vectors = ow.div_ceil(isa.lanes());
        // A row of the map costs something, and something for each tap and vector of the output.
        let (row, tap) = match shape.stride[1] {
            1 if isa.lanes() > WIDE => (3.0, 0.57),
            1 => (3.0, 0.85),
            _ => (6.0, 0.42),
        };
        let share = match (self, shape.stride[1]) {
            (Self::Strip, _) => return None,
            (Self::Line, _) => return Some(0.0),
            (Self::Stacked(1), 1) => 1.0,
            (Self::Stacked(2), 1) => 0.8,
            (Self::Stacked(_), 1) => 0.6,
            (Self::Stacked(_), _) => 0.5,
            (Self::OverRows, _) if rows::is_whole(shape, w, vectors, isa.lanes()) => 1.0,
            (Self::OverRows, _) => 1.7,
        };
        Some(h as f64 * share * (row + tap * (kh * kw * vectors) as f64))
    }
}

fn run_stacked(isa: Isa, n: usize, job: &mut Job<'_, '_>) {
    let shape = &job.call.shape;
    match (shape.kernel[0], shape.stride[0], n) {
        (3, 1, 1) => isa.run(Same::<3, 1>(job)),
        (3, 1, 2) => isa.run(Same::<3, 2>(job)),
        (3, 1, _) => isa.run(Same::<3, 3>(job)),
        (5, 1, _) => isa.run(Same::<5, 1>(job)),
        (_, 1, _) => isa.run(Same::<7, 1>(job)),
        (_, _, 1) => isa.run(Halved::<3, 2>(job)),
        (_, _, _) => isa.run(Halved::<3, 4>(job)),
    }
}

fn run_over_rows(isa: Isa, job: &mut Job<'_, '_>) {
    let shape = &job.call.shape;
    match (shape.kernel, shape.stride, shape.dilation) {
        ([3, 3], [1, 1], [1, 1]) => isa.run(OverRows::<3, 1, 1>(job)),
        ([3, 3], [1, 1], [_, 2]) => isa.run(OverRows::<3, 1, 2>(job)),
        ([3, 3], [2, 2], [1, 1]) => isa.run(OverRows::<3, 2, 1>(job)),
        ([5, 5], [1, 1], [1, 1]) => isa.run(OverRows::<5, 1, 1>(job)),
        ([5, 5], [1, 1], [_, 2]) => isa.run(OverRows::<5, 1, 2>(job)),
        ([5, 5], [2, 2], [1, 1]) => isa.run(OverRows::<5, 2, 1>(job)),
        ([7, 7], [1, 1], [1, 1]) => isa.run(OverRows::<7, 1, 1>(job)),
        ([7, 7], [2, 2], [1, 1]) => isa.run(OverRows::<7, 2, 1>(job)),
        _ => unreachable!("served over rows"),
    }
}

/// Lanes from which on kernels above 3 x 3 have loops of their own: a third of the code of this module, for sets of which none is the best of
/// its machine.
const WIDE: usize = 8;

/// Planes by the kernel for 1 x K.
struct Line<'j, 'a, 't>(&'j mut Job<'a, 't>);

impl Task for Line<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        line::planes(s, self.0);
    }
}

/// Planes by the kernel for K x K where a vector holds N rows of the map.
struct Same<'j, 'a, 't, const K: usize, const N: usize>(&'j mut Job<'a, 't>);

impl<const K: usize, const N: usize> Task for Same<'_, '_, '_, K, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        if S::LANES >= WIDE || K == 3 {
            stack::same::<S, K, N>(s, self.0);
        }
    }
}

/// The same for stride 2, M rows of the map in a vector and between.
struct Halved<'j, 'a, 't, const K: usize, const M: usize>(&'j mut Job<'a, 't>);

impl<const K: usize, const M: usize> Task for Halved<'_, '_, '_, K, M> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        stack::halved::<S, K, M>(s, self.0);
    }
}

/// Planes by the kernel for K x K over rows of vectors, stride T, dilation D.
struct OverRows<'j, 'a, 't, const K: usize, const T: usize, const D: usize>(&'j mut Job<'a, 't>);

impl<const K: usize, const T: usize, const D: usize> Task for OverRows<'_, '_, '_, K, T, D> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        if S::LANES >= WIDE || K == 3 {
            rows::planes::<S, K, T, D>(s, self.0);
        }
    }
}

/// Planes by the kernel for everything.
struct Strip<'j, 'a, 't>(&'j mut Job<'a, 't>);

impl Task for Strip<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        strip::planes(s, self.0);
    }
}
