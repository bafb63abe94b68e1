//! Rows of A put together from live elements only.
#![forbid(unsafe_code)]

use super::vectors::Vectors;
use crate::isa::F32s;
use crate::panel::{Below, Terms};

/// Elements of a list that a vector must bring on average, to be worth more than copying them one by one: a vector is a load, a compression (two
/// operations of one port), a store and their addresses.
const WORTH: usize = 3;

/// Rows that share what is read of the list.
const TOGETHER: usize = 4;

/// Which elements of a row are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    list: Below<'a>,
    /// None where elements are better copied one by one.
    vectors: Option<Vectors<'a>>,
}

impl<'a> Wanted<'a> {
    /// The elements of an ascending list. There is room for two numbers an element.
    #[inline(always)]
    pub(crate) fn new<S: F32s>(list: Below<'a>, room: &'a mut [u32]) -> Self {
        let vectors = Vectors::new(list, S::LANES, room);
        let whole = list.bound() >= S::LANES && vectors.bring(WORTH);
        let vectors = whole.then_some(vectors);
        Self { list, vectors }
    }

    /// Copies them from the rows that begin at `start(0)`, `start(1)` and so on: `out` has `rows` rows, `ld` elements apart, each with room for a vector more.
    #[inline(always)]
    pub(crate) fn copy<S: F32s>(
        self,
        s: S,
        data: &[f32],
        start: impl Fn(usize) -> usize,
        rows: usize,
        (out, ld): (&mut [f32], usize),
    ) {
        let most = self.list.bound();
        let row = |i: usize| &data[start(i)..][..most];
        s.outline(
            #[inline(always)]
            move || {
                let whole = rows / TOGETHER * TOGETHER;
                for i in (0..whole).step_by(TOGETHER) {
                    let from: [&[f32]; TOGETHER] = core::array::from_fn(|r| row(i + r));
                    self.some(s, from, &mut out[i * ld..], ld);
                }
                for i in whole..rows {
                    self.some(s, [row(i)], &mut out[i * ld..], ld);
                }
            },
        );
    }

    #[inline(always)]
    fn some<S: F32s, const R: usize>(self, s: S, from: [&[f32]; R], out: &mut [f32], ld: usize) {
        let Some(vectors) = self.vectors else {
            for (t, &x) in self.list.as_slice().iter().enumerate() {
                for r in 0..R {
                    out[r * ld + t] = from[r][x as usize];
                }
            }
            return;
        };
        let mut t = 0;
        for &[first, lanes] in vectors.as_slice() {
            for r in 0..R {
                let v = s.compress(s.load(&from[r][first as usize..]), lanes);
                s.store(v, &mut out[r * ld + t..]);
            }
            t += lanes.count_ones() as usize;
        }
    }
}
