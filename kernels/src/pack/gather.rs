//! Panels put together from live columns only.
#![forbid(unsafe_code)]

use crate::Channels;
use crate::isa::{F32s, WIDEST};
use crate::pack::transposed::Columns;
use crate::pack::{FROM_L3, FROM_MEMORY};
use crate::panel::{Ahead, Rhs, Side, Terms};

/// Rows ahead of what is read that are asked for when the weights come from memory. Measured on Zen 5, 50 % of the columns live: 64 x 4096 x 4096
/// takes 0.80 of dense with 16 and 0.86 without; 49 x 512 x 512 0.37 with and 0.35 without.
const AHEAD: usize = 16;
/// Vectors that one pass over the terms takes from.
const SOURCES: usize = 4;

/// What it takes to gather a row of a panel, against an FMA of each of its vectors. From L2: measured on Zen 5 with half of the columns live, 196 x 256 x 256,
/// 4. From L3: 5 there; on a Xeon, whose L3 is far, 16 x 1024 x 1024 takes 1.25 of the time if it is gathered at 5.
const GATHERING: usize = 5;
const GATHERING_FAR: usize = 10;

/// What is saved when `live` of the columns of `touched` panels are put together, whose vectors each take part in so many FMAs: FMAs for each row. All
/// panels have `len` elements.
pub(crate) fn saved(
    fmas: usize,
    (live, touched): (usize, usize),
    width: usize,
    len: usize,
) -> usize {
    let dense = live.div_ceil(width);
    let each = if len >= FROM_L3 {
        GATHERING_FAR
    } else {
        GATHERING
    };
    (fmas * touched).saturating_sub(fmas * dense + each * (touched + dense))
}

/// Lists what a map or a product with this mask of outputs holds, of all from the `first` on as many as there is room for.
pub(crate) fn list(live: Option<Channels<'_>>, first: usize, to: &mut [u32]) {
    match live {
        Some(live) => {
            for (to, c) in to.iter_mut().zip(live.live_after(first)) {
                *to = c as u32;
            }
        }
        None => {
            for (to, c) in to.iter_mut().zip(first..) {
                *to = c as u32;
            }
        }
    }
}

/// What `bias` holds for the columns `from`, and zeros behind them: in lanes of no column a subnormal number would slow down every step.
pub(crate) fn pick(bias: &[f32], from: impl Iterator<Item = usize>, to: &mut [f32]) {
    let mut to = to.iter_mut();
    for (column, to) in from.zip(&mut to) {
        *to = bias[column];
    }
    to.for_each(|to| *to = 0.0);
}

/// Panels packed for a product, some columns of which are wanted.
pub(crate) struct Panels<'a, F, T> {
    /// The panel of a number, and what a vector from its last row on reaches behind it.
    pub(crate) of: F,
    /// Columns of each.
    pub(crate) width: usize,
    /// Where its live rows begin.
    pub(crate) terms: T,
    /// Elements of all that are packed: whether they come from memory.
    pub(crate) len: usize,
    /// The same terms by columns, if they are kept.
    pub(crate) columns: Option<Columns<'a>>,
}

/// A vector of a packed panel, and which lane of (what is there, this vector) each lane of the new one takes.
#[derive(Clone, Copy)]
struct Source<'a> {
    from: &'a [f32],
    lanes: [u32; WIDEST],
}

impl<'a, F: Fn(usize) -> &'a [f32], T: Terms> Panels<'_, F, T> {
    /// Puts the live rows of the columns `from`, which ascend, into a panel of their own, which is `width` wide, and goes on for a vector; with
    /// columns for a row. Behind the last of them a row holds anything.
    #[inline(always)]
    pub(crate) fn gather<S: F32s>(&self, s: S, from: &[u32], width: usize, panel: &mut [f32]) {
        if let Some(columns) = self.columns {
            return columns.gather(s, from, width, panel);
        }
        // The last first: what it writes into the next row is overwritten by the others.
        for (j, from) in from.chunks(S::LANES).enumerate().rev() {
            let to = &mut panel[j * S::LANES..];
            let mut x = from[0] as usize / self.width;
            let mut first = x * self.width;
            let (mut lane, mut again) = (0, false);
            while lane < from.len() {
                let mut sources = [Source::NONE; SOURCES];
                let (mut count, mut last) = (0, (usize::MAX, 0));
                while let Some(&column) = from.get(lane) {
                    while column as usize - first >= self.width {
                        (x, first) = (x + 1, first + self.width);
                    }
                    let at = column as usize - first;
                    let vector = at / S::LANES;
                    if (x, vector) != last {
                        if count == SOURCES {
                            break;
                        }
                        last = (x, vector);
                        // Without rows there is no panel.
                        let panel = (self.of)(x).get(vector * S::LANES..);
                        sources[count].from = panel.unwrap_or(&[]);
                        count += 1;
                    }
                    sources[count - 1].lanes[lane] = (S::LANES + at % S::LANES) as u32;
                    lane += 1;
                }
                let [a, b, c, d] = sources;
                match count {
                    1 => self.take(s, [a], again, width, to),
                    2 => self.take(s, [a, b], again, width, to),
                    3 => self.take(s, [a, b, c], again, width, to),
                    _ => self.take(s, [a, b, c, d], again, width, to),
                }
                again = true;
            }
        }
    }

    /// One vector of all rows, `width` apart, from N sources; `again` when it was begun with others.
    #[inline(always)]
    fn take<S: F32s, const N: usize>(
        &self,
        s: S,
        sources: [Source<'_>; N],
        again: bool,
        width: usize,
        to: &mut [f32],
    ) {
        let lanes = sources.map(|source| source.lanes);
        let from = Side::<S, _, N, 1>::new(sources.map(|source| source.from), self.terms);
        let rows = (self.terms.len(), width);
        if self.len >= FROM_MEMORY {
            take(s, Ahead::<S, _, N, 1, AHEAD>(from), lanes, rows, again, to);
        } else {
            take(s, from, lanes, rows, again, to);
        }
    }
}

impl Source<'_> {
    /// Every lane takes what is there.
    const NONE: Self = Self {
        from: &[],
        lanes: {
            let mut lanes = [0; WIDEST];
            let mut lane = 0;
            while lane < WIDEST {
                lanes[lane] = lane as u32;
                lane += 1;
            }
            lanes
        },
    };
}

#[inline(always)]
fn take<S: F32s, const N: usize>(
    s: S,
    from: impl Rhs<S, N>,
    lanes: [[u32; WIDEST]; N],
    (rows, width): (usize, usize),
    again: bool,
    to: &mut [f32],
) {
    // Of its own: behind a reference every store might change it.
    s.outline(
        #[inline(always)]
        move || {
            let mut at = [s.indices(|lane| lane); N];
            for n in 0..N {
                at[n] = s.indices(|lane| lanes[n][lane] as usize);
            }
            for t in 0..rows {
                let row = &mut to[t * width..][..S::LANES];
                let mut v = if again { s.load(row) } else { s.splat(0.0) };
                let from = from.at::<1>(s, t, 0);
                for n in 0..N {
                    v = s.pick(v, from[n], at[n]);
                }
                s.store(v, row);
            }
        },
    );
}
