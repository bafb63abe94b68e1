//! A product of few rows: bound by reading B, which nobody reads twice.
//!
//! ```text
//! for each group of panels side by side       as many chains as hide the latency of an FMA
//!     for each live term                      the whole depth at once: sums never leave the registers
//!         fetch the rows of B some terms ahead
//!         a vector of each panel, an FMA for each row of A
//! ```
#![forbid(unsafe_code)]

use super::block::Product;
use super::panels::Panels;
use super::spread::Target;
use super::whole::whole;
use crate::isa::{F32s, cache};
use crate::pack::{FROM_L3, FROM_MEMORY, TOGETHER};
use crate::panel::{Ahead, Gathered, Side, Terms};
use crate::pool::Tile;
use crate::tile::gemm::{Place, Start, fits, tile};

/// Terms between a prefetch and the use of what it brings. Measured on Zen 5, 1 x 1024 x 1024 from L3: 39 us with 8, 45 without; to L2
/// instead of L1 it is lost effort (50).
const AHEAD: usize = 8;
/// The same from memory, where the hardware wants help.
const FAR_AHEAD: usize = 24;

/// Rows from `first_row` on over `panels`, into the rows `to` of `out`, `width` columns of them; one row of whole rows as [`whole`] does it.
#[inline(always)]
pub(super) fn few<S: F32s>(
    s: S,
    p: &Product<'_>,
    first_row: usize,
    panels: Panels<'_>,
    width: usize,
    to: &[u32],
    out: &mut Tile<'_>,
    rest: &mut &mut [f32],
) {
    match to {
        &[to] if p.pitch > TOGETHER * p.nr => whole(s, p, first_row, panels, width, to, out, rest),
        _ => s.outline(
            #[inline(always)]
            || match to.len() {
                1 => groups::<S, 1, 4, 8>(s, p, first_row, panels, width, to, out),
                2 => groups::<S, 2, 2, 4>(s, p, first_row, panels, width, to, out),
                3 => groups::<S, 3, 2, 4>(s, p, first_row, panels, width, to, out),
                4 => groups::<S, 4, 2, 4>(s, p, first_row, panels, width, to, out),
                5 => groups::<S, 5, 2, 4>(s, p, first_row, panels, width, to, out),
                _ => unreachable!("more than a few rows"),
            },
        ),
    }
    if !p.activation.in_registers() {
        for &row in to {
            panels.activate(s, p.activation, width, out.row(row as usize));
        }
    }
}

/// `MR` rows; `NP` panels of `NV` vectors at most in a group.
#[inline(always)]
fn groups<S: F32s, const MR: usize, const NP: usize, const NV: usize>(
    s: S,
    p: &Product<'_>,
    first_row: usize,
    panels: Panels<'_>,
    width: usize,
    to: &[u32],
    out: &mut Tile<'_>,
) {
    let count = width.div_ceil(p.nr);
    let mut starts = [0; MR];
    for (i, start) in starts.iter_mut().enumerate() {
        *start = p.a_start(first_row + i);
    }
    let lhs = Gathered::new(p.a, starts, 1, p.of_a);
    let mut group = Group {
        p,
        lhs,
        to,
        first: 0,
        width: 0,
        target: Target::Beside(0, 0),
    };
    let depth = p.of_b.len();
    let live = depth * p.n;
    // Whether lines are read one behind the other, all but a few: some hardware brings them best if it is left alone.
    let stream = p.panels.len() >= FROM_MEMORY && 8 * depth >= 7 * p.of_a.bound();
    let ahead = match stream {
        true if cache::foresees_streams() => 0,
        true => FAR_AHEAD,
        false if live >= FROM_L3 => AHEAD,
        false => 0,
    };
    let mut x = 0;
    while x < count {
        let first = panels.nth(x);
        // Panels of a group must be neighbours, for their bias to be.
        let neighbours = |n: usize| x + n <= count && panels.nth(x + n - 1) == first + n - 1;
        let together = if fits::<S>(MR, NV) && neighbours(NP) {
            NP
        } else if fits::<S>(MR, 4) && neighbours(2) {
            2
        } else {
            1
        };
        group.first = first;
        group.width = (together * p.nr).min(width - x * p.nr);
        group.target = panels.target((x, together), p.nr, group.width);
        match together {
            _ if fits::<S>(MR, NV) && together == NP => match ahead {
                AHEAD => group.run::<S, NP, 2, NV, AHEAD>(s, out),
                FAR_AHEAD => group.run::<S, NP, 2, NV, FAR_AHEAD>(s, out),
                _ => group.run::<S, NP, 2, NV, 0>(s, out),
            },
            2 if fits::<S>(MR, 4) => group.run::<S, 2, 2, 4, 0>(s, out),
            _ if group.width <= S::LANES => group.run::<S, 1, 1, 1, 0>(s, out),
            _ => group.run::<S, 1, 2, 2, 0>(s, out),
        }
        x += together;
    }
}

struct Group<'a, const MR: usize> {
    p: &'a Product<'a>,
    lhs: Gathered<'a, MR>,
    to: &'a [u32],
    /// The first panel.
    first: usize,
    width: usize,
    target: Target<'a>,
}

impl<const MR: usize> Group<'_, MR> {
    #[inline(always)]
    fn run<S: F32s, const NP: usize, const EACH: usize, const NV: usize, const AHEAD: usize>(
        &self,
        s: S,
        out: &mut Tile<'_>,
    ) {
        let p = self.p;
        let mut panels: [&[f32]; NP] = [&[]; NP];
        for (i, panel) in panels.iter_mut().enumerate() {
            *panel = p.panel(self.first + i, S::LANES);
        }
        let rhs = Ahead::<S, _, NP, EACH, AHEAD>(Side::new(panels, p.of_b));
        let to = self.to.first_chunk().expect("a row each");
        let place = Place {
            to: (out.listed::<MR>(to, 0), self.target.columns::<S, NV>()),
            start: match p.bias {
                Some(bias) => Start::Cols(&bias[self.first * p.nr..]),
                None => Start::Zero,
            },
            activation: p.activation,
        };
        tile::<S, MR, NV, _>(s, p.of_b.len(), self.lhs, rhs, place);
    }
}
