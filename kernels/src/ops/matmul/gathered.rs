//! Panels that are put together from live columns for the rows that pass over them.
#![forbid(unsafe_code)]

use core::array;
use core::ops::Range;

use super::block::{KC, MC, Product};
use super::panels::PAIR;
use crate::isa::F32s;
use crate::pack::gather::{self, saved};
use crate::pack::transposed::{Columns, Transposed};
use crate::pack::vectors::Vectors;
use crate::panel::{Below, LINE, Terms, lines, take, take_indices};
use crate::tile::gemm::FEW_ROWS;

/// What it takes to spread a row of a panel over C, against an FMA of each of its vectors; measured on Zen 5 with half of the columns live.
const SPREADING: usize = 16;

/// Whether `live` of the columns of `touched` panels, of `len` elements in all, are better put together than computed with the dead ones among them.
pub(super) fn gathering_pays(
    (rows, depth): (usize, usize),
    (live, touched): (usize, usize),
    (nr, len, by_columns): (usize, usize, Option<&Transposed>),
) -> bool {
    let rows = rows.min(MC);
    let saved = match by_columns.and_then(|of| of.saved((rows, depth), (live, touched), nr)) {
        Some(saved) => saved,
        None if rows <= FEW_ROWS => 0,
        None => depth * saved(rows, (live, touched), nr, len),
    };
    saved > rows * SPREADING * live.div_ceil(nr)
}

/// Elements from one panel to the next: behind the last row of each there is room for another.
const fn apart(nr: usize) -> usize {
    (KC + 1) * nr + LINE
}

/// Elements that [`Room::new`] takes.
pub(super) fn scratch_len(nr: usize) -> usize {
    lines(PAIR * apart(nr)) + lines(PAIR * nr + LINE) + lines(2 * KC)
}

/// Room for as many panels as a pass takes.
pub(super) struct Room<'a> {
    panels: &'a mut [f32],
    bias: &'a mut [f32],
    listed: &'a mut [u32],
}

impl<'a> Room<'a> {
    pub(super) fn new(nr: usize, rest: &mut &'a mut [f32]) -> Self {
        Self {
            panels: take(rest, PAIR * apart(nr)),
            bias: take(rest, PAIR * nr + LINE),
            listed: take_indices(rest, 2 * KC),
        }
    }

    /// For some live terms of the packed columns `from`.
    #[inline(always)]
    pub(super) fn depth_block<'r, S: F32s>(
        &'r mut self,
        product: &'r Product<'r>,
        from: &'r [u32],
        live: Range<usize>,
    ) -> Gathered<'r> {
        let listed = &mut *self.listed;
        let columns = product.by_columns.and_then(|all| {
            all.some(Vectors::new(
                product.places.part(live.clone()),
                S::LANES,
                listed,
            ))
        });
        Gathered {
            product,
            from,
            terms: product.of_b.part(live),
            columns,
            panels: self.panels,
            bias: self.bias,
        }
    }
}

/// The panels of a pass, `nr` columns each.
pub(super) struct Gathered<'r> {
    product: &'r Product<'r>,
    from: &'r [u32],
    terms: Below<'r>,
    columns: Option<Columns<'r>>,
    panels: &'r mut [f32],
    bias: &'r mut [f32],
}

impl Gathered<'_> {
    /// Puts so many columns together, from those of panel `x` on.
    #[inline(always)]
    pub(super) fn gather<S: F32s>(&mut self, s: S, x: usize, columns: usize) {
        let p = self.product;
        let packed = gather::Panels {
            of: |x| p.panel(x, S::LANES),
            width: p.nr,
            terms: self.terms,
            len: p.panels.len(),
            columns: self.columns,
        };
        let from = &self.from[x * p.nr..][..columns];
        for (i, from) in from.chunks(p.nr).enumerate() {
            packed.gather(s, from, p.nr, &mut self.panels[i * apart(p.nr)..]);
        }
        if let Some(bias) = p.bias {
            gather::pick(bias, from.iter().map(|&c| c as usize), self.bias);
        }
    }

    /// Those that were put together last.
    #[inline(always)]
    pub(super) fn panels(&self) -> [&[f32]; PAIR] {
        array::from_fn(|i| &self.panels[i * apart(self.product.nr)..])
    }

    /// Their bias.
    #[inline(always)]
    pub(super) fn bias(&self) -> Option<&[f32]> {
        self.product.bias.map(|_| &*self.bias)
    }

    /// What so many columns from panel `x` on will be put together from, if it lies together.
    #[inline(always)]
    pub(super) fn sources(&self, x: usize, columns: usize) -> &[f32] {
        let from = &self.from[x * self.product.nr..][..columns];
        let (first, last) = (from[0], from[from.len() - 1]);
        match self.columns {
            Some(columns) => columns.between(first, last),
            None => self.product.between(first, last),
        }
    }
}
