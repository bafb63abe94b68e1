//! The weights of a call: the panels as they are packed, or those of its live terms and outputs put together.
#![forbid(unsafe_code)]

use crate::Channels;
use crate::isa::{F32s, Isa, Task, WIDEST};
use crate::ops::matmul::MatMul;
use crate::pack::gather::{self, Panels};
use crate::pack::transposed::Columns;
use crate::pack::vectors::Vectors;
use crate::panel::{Below, Terms, lines, take, take_indices};
use crate::pool::{Pool, Tile, worth};

/// Multiply-accumulates that an element costs which is put together.
const GATHERING: usize = 8;
/// Panels that a strip reads at once.
const AT_ONCE: usize = 2;

/// Some panels.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    packed: &'a MatMul,
    /// If they are put together: the panels from a number on.
    chosen: Option<(Chosen<'a>, &'a [f32], usize)>,
}

impl<'a> Weights<'a> {
    /// All, as they are packed.
    pub(super) fn all(packed: &'a MatMul) -> Self {
        Self {
            packed,
            chosen: None,
        }
    }

    /// What a vector of outputs is multiplied by, from output `first` on, and its bias.
    #[inline(always)]
    pub(super) fn vector(&self, first: usize) -> (&'a [f32], Option<&'a [f32]>) {
        let Some((chosen, panels, number)) = self.chosen else {
            return self.packed.vector(first);
        };
        let nr = self.packed.panel_width();
        let at = (first / nr - number) * chosen.panel_len() + first % nr;
        let panel = panels.get(at..).unwrap_or(&[]);
        (panel, chosen.bias.map(|bias| &bias[first..]))
    }
}

/// The rows and the columns of packed panels that live.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'a> {
    packed: &'a MatMul,
    /// Where the rows begin in a panel.
    of_w: Below<'a>,
    /// The same by columns, if some outputs are dead and the weights are kept so.
    columns: Option<Columns<'a>>,
    outputs: Option<Channels<'a>>,
    /// How many outputs there are.
    count: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> Chosen<'a> {
    /// Takes the live rows of the weights.
    pub(super) fn new(
        isa: Isa,
        packed: &'a MatMul,
        rows: &'a [u32],
        (outputs, all): (Option<Channels<'a>>, usize),
        rest: &mut &'a mut [f32],
    ) -> Self {
        let count = outputs.map_or(all, |live| live.count());
        let bias = packed.vector(0).1.map(|all| {
            let Some(live) = outputs else { return all };
            let bias = take(rest, lines(count.next_multiple_of(packed.panel_width())));
            gather::pick(all, live.live(), bias);
            &*bias
        });
        let columns = outputs.and_then(|_| {
            let room = take_indices(rest, 2 * rows.len());
            let rows = Below::new(rows, packed.k());
            packed.columns(Vectors::new(rows, isa.lanes(), room))
        });
        let of_w = take_indices(rest, rows.len());
        for (of_w, &row) in of_w.iter_mut().zip(rows) {
            *of_w = row * packed.pitch() as u32;
        }
        Self {
            packed,
            of_w: Below::all(of_w),
            columns,
            outputs,
            count,
            bias,
        }
    }

    /// Elements of scratch that [`Chosen::new`] needs for so many outputs, and [`Chosen::gather`] besides, with so many terms.
    pub(super) fn scratch_len(packed: &MatMul, (terms, outputs): (usize, usize)) -> [usize; 2] {
        let panels = outputs.div_ceil(packed.panel_width());
        let lists = lines(terms).saturating_add(lines(terms.saturating_mul(2)));
        [
            lists.saturating_add(panels.saturating_mul(lines(packed.panel_width()))),
            panels.saturating_mul(panel_len(packed, terms)),
        ]
    }

    /// Elements of scratch that [`Chosen::some`] needs for so many terms.
    pub(super) fn room_len(packed: &MatMul, terms: usize) -> usize {
        panel_len(packed, terms).saturating_mul(AT_ONCE)
    }

    fn panel_len(&self) -> usize {
        panel_len(self.packed, self.of_w.len())
    }

    /// All panels of them, put together by all threads.
    pub(super) fn gather(self, isa: Isa, pool: &dyn Pool, rest: &mut &'a mut [f32]) -> Weights<'a> {
        let panels = self.count.div_ceil(self.packed.panel_width());
        let len = self.panel_len();
        let to = take(rest, panels * len);
        let pool = worth(pool, self.of_w.len() * self.count * GATHERING);
        let tile = Tile::new(to, panels, len, len);
        tile.split(pool, (1, len), |number, _, mut tile| {
            isa.run(Gather {
                chosen: self,
                number,
                to: tile.row(0),
            });
        });
        Weights {
            packed: self.packed,
            chosen: Some((self, to, 0)),
        }
    }

    /// So many that a strip reads next, from the one of output `first` on: they are near then.
    #[inline(always)]
    pub(super) fn some<'r, S: F32s>(
        self,
        s: S,
        first: usize,
        panels: usize,
        room: &'r mut [f32],
    ) -> Weights<'r>
    where
        'a: 'r,
    {
        let nr = self.packed.panel_width();
        let number = first / nr;
        let rooms = room.chunks_exact_mut(self.panel_len());
        for (number, room) in (number..).zip(rooms.take(panels)) {
            self.panel(s, number, room);
        }
        Weights {
            packed: self.packed,
            chosen: Some((self, room, number)),
        }
    }

    /// What so many panels from that of output `first` on are put together from, if it lies together.
    pub(super) fn sources(&self, first: usize, panels: usize) -> &'a [f32] {
        let count = (panels * self.packed.panel_width()).min(self.count.saturating_sub(first));
        if count == 0 || self.of_w.len() < self.packed.k() {
            return &[];
        }
        let mut of = [0; AT_ONCE * AT_ONCE * WIDEST];
        gather::list(self.outputs, first, &mut of[..count]);
        match self.columns {
            Some(columns) => columns.between(of[0], of[count - 1]),
            None => self.packed.between(of[0], of[count - 1]),
        }
    }

    /// Puts a panel together.
    #[inline(always)]
    fn panel<S: F32s>(&self, s: S, number: usize, to: &mut [f32]) {
        let nr = self.packed.panel_width();
        let mut from = [0; AT_ONCE * WIDEST];
        let from = &mut from[..nr.min(self.count - number * nr)];
        gather::list(self.outputs, number * nr, from);
        let panels = Panels {
            of: |panel| self.packed.vector(panel * nr).0,
            width: nr,
            terms: self.of_w,
            len: self.packed.len(),
            columns: self.columns,
        };
        panels.gather(s, from, nr, to);
    }
}

/// Elements of a panel of so many terms; what is put together last may reach a row behind it.
fn panel_len(packed: &MatMul, terms: usize) -> usize {
    lines(
        terms
            .saturating_add(1)
            .saturating_mul(packed.panel_width())
            .saturating_add(WIDEST),
    )
}

/// A panel.
struct Gather<'a> {
    chosen: Chosen<'a>,
    number: usize,
    to: &'a mut [f32],
}

impl Task for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        self.chosen.panel(s, self.number, self.to);
    }
}
