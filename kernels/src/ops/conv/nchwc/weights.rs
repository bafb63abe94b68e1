//! The weights of a call: the panels as they are packed, or those of its live terms and outputs put together.
#![forbid(unsafe_code)]

use crate::Channels;
use crate::isa::{F32s, Isa, Task, WIDEST};
use crate::ops::matmul::MatMul;
use crate::pack::gather::Panels;
use crate::panel::{Below, Terms, lines, take};
use crate::pool::{Pool, Tile, worth};

/// Multiply-accumulates that an element costs which is put together.
const GATHERING: usize = 8;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    packed: &'a MatMul,
    gathered: Option<Gathered<'a>>,
}

#[derive(Clone, Copy)]
struct Gathered<'a> {
    panels: &'a [f32],
    panel_len: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> Weights<'a> {
    /// As they are packed.
    pub(super) fn all(packed: &'a MatMul) -> Self {
        Self {
            packed,
            gathered: None,
        }
    }

    /// Elements of scratch that [`Weights::gather`] needs for so many terms and outputs.
    pub(super) fn scratch_len(packed: &MatMul, (terms, outputs): (usize, usize)) -> usize {
        let panels = outputs.div_ceil(packed.panel_width());
        let panel = lines(panel_len(packed, terms)).saturating_add(lines(packed.panel_width()));
        panels.saturating_mul(panel)
    }

    /// The rows that begin at `of_w` in a panel, one behind the other, of the columns that live.
    pub(super) fn gather(
        isa: Isa,
        pool: &dyn Pool,
        packed: &'a MatMul,
        of_w: Below<'_>,
        live: Option<Channels<'_>>,
        outputs: usize,
        rest: &mut &'a mut [f32],
    ) -> Self {
        let nr = packed.panel_width();
        let held = live.map_or(outputs, |live| live.count());
        let panels = held.div_ceil(nr);
        let panel_len = panel_len(packed, of_w.len());
        let to = take(rest, panels * panel_len);
        let column = |i: usize| match live {
            Some(live) => live.live_after(i).next().unwrap_or(0),
            None => i,
        };
        let tile = Tile::new(to, panels, panel_len, panel_len);
        let pool = worth(pool, of_w.len() * held * GATHERING);
        tile.split(pool, (1, panel_len), |panel, _, mut tile| {
            let first = column(panel * nr);
            isa.run(Gather {
                packed,
                of_w,
                columns: (first, nr.min(held - panel * nr)),
                live,
                to: tile.row(0),
            });
        });
        let bias = packed.vector(0).1.map(|all| {
            let Some(live) = live else { return all };
            let bias = take(rest, lines(panels * nr));
            for (to, c) in bias.iter_mut().zip(live.live()) {
                *to = all[c];
            }
            &*bias
        });
        Self {
            packed,
            gathered: Some(Gathered {
                panels: to,
                panel_len,
                bias,
            }),
        }
    }

    /// What a vector of outputs is multiplied by, from output `first` on, and its bias.
    #[inline(always)]
    pub(super) fn vector(&self, first: usize) -> (&'a [f32], Option<&'a [f32]>) {
        let Some(gathered) = self.gathered else {
            return self.packed.vector(first);
        };
        let nr = self.packed.panel_width();
        let at = first / nr * gathered.panel_len + first % nr;
        let panel = gathered.panels.get(at..).unwrap_or(&[]);
        (panel, gathered.bias.map(|bias| &bias[first..]))
    }
}

/// Elements of a panel of so many terms; what is put together last may reach a vector behind it.
fn panel_len(packed: &MatMul, terms: usize) -> usize {
    lines(
        terms
            .saturating_mul(packed.panel_width())
            .saturating_add(WIDEST),
    )
}

/// A panel.
struct Gather<'a> {
    packed: &'a MatMul,
    of_w: Below<'a>,
    /// The first one, and how many.
    columns: (usize, usize),
    live: Option<Channels<'a>>,
    to: &'a mut [f32],
}

impl Task for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let (packed, (first, count)) = (self.packed, self.columns);
        let nr = packed.panel_width();
        let mut from = [0; 2 * WIDEST];
        let from = &mut from[..count];
        match self.live {
            Some(live) => {
                let columns = live.live_from(first);
                from.iter_mut()
                    .zip(columns)
                    .for_each(|(to, c)| *to = c as u32);
            }
            None => from
                .iter_mut()
                .zip(first..)
                .for_each(|(to, c)| *to = c as u32),
        }
        let panels = Panels {
            of: |panel| packed.vector(panel * nr).0,
            width: nr,
            terms: self.of_w,
            len: packed.len(),
        };
        panels.gather(s, from, nr, self.to);
    }
}
