//! One product over packed column panels, cut into blocks of C that threads take.
//!
//! ```text
//! for each block of C (rows x columns)                  a job; its own scratch
//!     for each depth block of KC live terms             partial sums stay in C between them
//!         put the rows of A together                    if they have an index
//!         for each column panel                         KC x NR, stays in L2
//!             for each row tile                         the micro-kernel
//! ```
//! With an output mask, panels without a live column are left out, and of the others the live lanes are stored. Where that pays, panels are put
//! together from the live columns only; then, and when a static mask dropped some, tiles spread their columns over C.
#![forbid(unsafe_code)]

use super::few::few;
use super::gathered::{self, gathering_pays};
use super::panels::{PAIR, Panels};
use super::pass::Pass;
use super::spread::{Spread, Target};
use super::tall;
use super::whole;
use crate::Isa;
use crate::epilogue::Activation;
use crate::isa::{F32s, Task, cache};
use crate::pack::rows::Wanted;
use crate::pack::transposed::Transposed;
use crate::pack::{panel_width, slack};
use crate::panel::{Below, LINE, Terms, lines, take, take_indices};
use crate::pool::{Pool, Tile, worth};
use crate::tile::gemm::{FEW_ROWS, NV, Start, TALL};

/// Depth of a block, at most: its panel is 128 KiB with the widest vectors and comes from L2 for every row tile, which takes a
/// sixth of what L2 delivers. Measured on Zen 5, 1024 x 1024 x 1024: 384 (the panel in L1) gives 207 GFLOP/s, 512 gives 224, 768 gives
/// 234, 1024 gives 239; what is lost with a smaller one is reading and writing C once more.
pub(super) const KC: usize = 1024;
/// The same of panels that were put together for a few rows: half of L1.
const KC_OF_FEW: usize = 96;
/// Elements of A in a block, 3/8 of L2; up to half as many again where the rows divide so. B comes from L3 once for each block of rows: on a Xeon with 2 MiB
/// of L2, 1024 x 1024 x 1024 takes 0.93 of the time that it takes with half as many.
fn block_len() -> usize {
    cache::l2() / size_of::<f32>() * 3 / 8
}

/// Rows of a job, and of a block that is not deep.
pub(super) const MC: usize = 384;

/// Which packed columns there are, and where they go.
#[derive(Clone, Copy)]
pub(super) enum Columns<'a> {
    /// Column j of C is packed column j.
    All,
    /// As `All`, but only some are wanted: these panels, the lanes of each of their vectors.
    Picked {
        panels: &'a [u32],
        lanes: &'a [[u32; NV]],
    },
    /// Column `to[i]` of C is packed column `from[i]`; both ascend.
    Some { from: &'a [u32], to: &'a [u32] },
}

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) a: &'a [f32],
    pub(super) a_index: Option<&'a [u32]>,
    /// Elements from row to row.
    pub(super) lda: usize,
    /// Where the live terms are in a row of A.
    pub(super) of_a: Below<'a>,
    /// Where the same k begin in a column panel.
    pub(super) of_b: Below<'a>,
    /// Which they are of the packed ones; of weights by columns, where not all columns are wanted.
    pub(super) places: Below<'a>,
    /// Where they would begin if they alone were in it, and it alone in its rows.
    pub(super) close: &'a [u32],
    /// Whether the terms are 0, 1, 2 ... in A and in B alike.
    pub(super) in_order: bool,
    pub(super) panels: &'a [f32],
    pub(super) by_columns: Option<&'a Transposed>,
    /// What counts as the first panel.
    pub(super) first_panel: usize,
    /// Columns of a panel, elements from one of its rows to the next, and elements of all panels that share rows.
    pub(super) nr: usize,
    pub(super) pitch: usize,
    pub(super) panel_len: usize,
    /// Packed columns.
    pub(super) n: usize,
    /// Padded to whole panels.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Activation,
    pub(super) columns: Columns<'a>,
    pub(super) c_index: Option<&'a [u32]>,
    pub(super) m: usize,
    /// What is used after it.
    pub(super) then: &'a [f32],
}

/// Elements that a thread needs for its blocks of `m` rows and `n` columns of C.
pub(super) fn scratch_len(m: usize, n: usize, lanes: usize) -> usize {
    let nr = panel_width(lanes);
    let (row, block) = (KC + LINE, block_len() * 3 + KC + MC * 3 * LINE);
    let pack = lines(m.max(1).saturating_mul(row).min(block)) + lines(2 * KC);
    let gather = gathered::scratch_len(nr);
    let panels = n.div_ceil(nr);
    let spread = lines(panels) + Spread::scratch_len((panels, n), lanes);
    // Rows are few or many.
    spread + (pack + gather).max(whole::scratch_len(lanes))
}

impl<'a> Product<'a> {
    /// Computes the product into `out`, which is all of C with the rows that exist in memory.
    pub(super) fn run(&self, isa: Isa, pool: &dyn Pool, out: Tile<'_>, scratch: &mut [f32]) {
        let nr = self.nr;
        let depth = self.of_b.len();
        let columns = match self.columns {
            Columns::All => self.n,
            Columns::Picked { panels, .. } => panels.len() * nr,
            Columns::Some { to, .. } => to.len(),
        };
        let pool = worth(pool, self.m * depth * columns);
        if self.m <= FEW_ROWS && matches!(self.columns, Columns::All) && pool.threads() == 1 {
            return isa.run(Alone(self, out, scratch));
        }
        // Whole threads' worth of blocks: along the rows where they are many, else along the columns.
        let threads = pool.threads().max(1);
        let rows = if self.c_index.is_some() {
            out.rows()
        } else {
            let blocks = self.m.div_ceil(MC);
            let blocks = if self.m >= threads * MC / 4 {
                blocks.next_multiple_of(threads)
            } else {
                blocks
            };
            self.m.div_ceil(blocks.max(1))
        };
        let blocks = self.m.div_ceil(rows);
        let wide = if blocks >= threads {
            out.cols()
        } else {
            let each = out.cols().div_ceil(threads.div_ceil(blocks));
            // Pairs of panels stay together, unless a thread has but one.
            each.next_multiple_of(if each > nr { PAIR * nr } else { nr })
        };
        // Of columns that are put together for a few rows, those of a pair of panels are read to their end.
        let wide = match self.columns {
            Columns::Some { to, .. } if self.m <= FEW_ROWS && self.by_columns.is_some() => {
                let each = PAIR * nr * out.cols() / to.len().max(1);
                wide.min(each.next_multiple_of(nr).max(nr))
            }
            _ => wide,
        };
        let each = scratch_len(self.m, out.cols(), isa.lanes());
        out.split_with(pool, (rows, wide), scratch, each, |r, c, out, scratch| {
            let rows = if self.c_index.is_some() {
                (0, self.m)
            } else {
                (r, out.rows())
            };
            isa.run(Block {
                product: self,
                rows,
                first_col: c,
                out,
                scratch,
            });
        });
    }

    /// The panels that hold the packed columns from one to another, if they lie one behind the other.
    pub(super) fn between(&self, first: u32, last: u32) -> &'a [f32] {
        let number = |column: u32| self.first_panel + column as usize / self.nr;
        match self.pitch == self.nr {
            true => {
                &self.panels[number(first) * self.panel_len..(number(last) + 1) * self.panel_len]
            }
            false => &[],
        }
    }

    pub(super) fn a_start(&self, row: usize) -> usize {
        let row = self.a_index.map_or(row, |index| index[row] as usize);
        row * self.lda
    }

    /// Whether a row of A lies among others: its elements are on their cache lines.
    fn side_by_side(&self) -> bool {
        self.lda <= LINE
    }

    /// Panel `i` of what is used then, if its panels are as these.
    fn after<'t>(&self, then: &'t [f32], i: usize) -> &'t [f32] {
        let together = self.pitch / self.nr;
        let at = i / together * self.panel_len + i % together * self.nr;
        then.get(at..).unwrap_or(&[])
    }

    /// Panel `i`, and what loads of `lanes` may reach behind it.
    pub(super) fn panel(&self, i: usize, lanes: usize) -> &'a [f32] {
        let (i, together) = (self.first_panel + i, self.pitch / self.nr);
        let rows = &self.panels[i / together * self.panel_len..];
        &rows[..self.panel_len + slack(self.nr, lanes)][i % together * self.nr..]
    }
}

/// A product without blocks.
struct Alone<'a, 't>(&'a Product<'a>, Tile<'t>, &'a mut [f32]);

impl Task for Alone<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let p = self.0;
        let to = p.c_index.unwrap_or(&IN_ORDER[..p.m]);
        few(s, p, 0, Panels::From(0), p.n, to, &mut self.1, &mut self.2);
    }
}

pub(super) struct Block<'a, 't> {
    pub(super) product: &'a Product<'a>,
    /// The first row of A, and how many.
    pub(super) rows: (usize, usize),
    pub(super) first_col: usize,
    /// The block's columns of C, and its rows, or all rows when C has an index.
    pub(super) out: Tile<'t>,
    pub(super) scratch: &'a mut [f32],
}

/// Rows as they lie.
pub(super) const IN_ORDER: [u32; TALL] = {
    let mut list = [0; TALL];
    let mut i = 0;
    while i < list.len() {
        list[i] = i as u32;
        i += 1;
    }
    list
};

impl Task for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let p = self.product;
        let nr = p.nr;
        let mut rest = core::mem::take(&mut self.scratch);
        let end = self.first_col + self.out.cols();
        let (panels, width) = match p.columns {
            Columns::All => (Panels::From(self.first_col / nr), self.out.cols()),
            Columns::Picked { panels, lanes } => {
                let lo = panels.partition_point(|&x| (x as usize) < self.first_col / nr);
                let hi = panels.partition_point(|&x| (x as usize) < end.div_ceil(nr));
                let picked = Panels::Picked {
                    list: &panels[lo..hi],
                    lanes: &lanes[lo..hi],
                    first: self.first_col,
                };
                (picked, (hi - lo) * nr)
            }
            Columns::Some { from, to } => {
                let lo = to.partition_point(|&j| (j as usize) < self.first_col);
                let hi = to.partition_point(|&j| (j as usize) < end);
                if lo == hi {
                    return;
                }
                self.apart::<S>((&from[lo..hi], &to[lo..hi]), &mut rest)
            }
        };
        compute(s, p, self.rows, panels, width, &mut self.out, &mut rest);
    }
}

impl Block<'_, '_> {
    /// The panels that hold the packed columns `from`, which are columns `to` of C; and how many columns these panels have.
    #[inline(always)]
    fn apart<'a, S: F32s>(
        &self,
        (from, to): (&'a [u32], &[u32]),
        rest: &mut &'a mut [f32],
    ) -> (Panels<'a>, usize) {
        let p = self.product;
        let (nr, live) = (p.nr, from.len());
        let used = take_indices(rest, p.n.div_ceil(nr));
        let mut count = 0;
        for &j in from {
            let panel = j / nr as u32;
            if count == 0 || used[count - 1] != panel {
                used[count] = panel;
                count += 1;
            }
        }
        let list = &used[..count];
        let gather = gathering_pays(
            (self.rows.1, p.of_b.len()),
            (live, count),
            (nr, p.panels.len(), p.by_columns),
        );
        let n = self.out.cols();
        let columns = to.iter().map(|&j| j as usize - self.first_col);
        if gather {
            let columns = columns.enumerate().map(|(i, j)| (i / nr, i % nr, j));
            let to = Spread::new::<S>((live.div_ceil(nr), n), columns, rest);
            return (Panels::Gather { from, to }, live);
        }
        let packed = from.iter().scan(0, |rank, &j| {
            while list[*rank] != j / nr as u32 {
                *rank += 1;
            }
            Some((*rank, j as usize % nr))
        });
        let columns = packed.zip(columns).map(|((x, lane), j)| (x, lane, j));
        let to = Spread::new::<S>((count, n), columns, rest);
        (Panels::Spread { list, to }, count * nr)
    }
}

/// Computes `rows` of the product over `panels` into `out`, `width` columns of it.
#[inline(always)]
fn compute<S: F32s>(
    s: S,
    p: &Product<'_>,
    rows: (usize, usize),
    panels: Panels<'_>,
    width: usize,
    out: &mut Tile<'_>,
    rest: &mut &mut [f32],
) {
    s.outline(
        #[inline(always)]
        || blocks(s, p, rows, panels, width, out, rest),
    );
}

#[inline(always)]
fn blocks<S: F32s>(
    s: S,
    p: &Product<'_>,
    (first_row, rows): (usize, usize),
    panels: Panels<'_>,
    width: usize,
    out: &mut Tile<'_>,
    rest: &mut &mut [f32],
) {
    let nr = p.nr;
    let depth = p.of_b.len();
    let count = width.div_ceil(nr);
    let index = p.c_index;
    let is_few = rows <= FEW_ROWS && !matches!(panels, Panels::Gather { .. });
    if is_few || tall::serves::<S>(p, rows, panels) {
        let to = match index {
            Some(index) => &index[first_row..][..rows],
            None => &IN_ORDER[..rows],
        };
        return match is_few {
            true => few(s, p, first_row, panels, width, to, out, rest),
            false => tall::tall(s, p, first_row, panels, width, to, out, rest),
        };
    }
    // Live elements are read where they lie: to put them together first takes as long as it saves. Rows of an index are no matrix.
    let moved = p.a_index.is_some() || index.is_some();
    let mut room = match panels {
        Panels::Gather { from, .. } => Some((from, gathered::Room::new(nr, rest))),
        _ => None,
    };
    // Equal depth blocks: a short one would pay for its start and its end all the same. What few rows read once should be in L1 by then.
    let kc = match rows <= FEW_ROWS {
        true => KC_OF_FEW,
        false => depth.div_ceil(depth.div_ceil(KC).max(1)).max(1),
    };
    // Equal row blocks, too: B passes through for each, so none is for the sake of a few rows.
    // Gathered panels are put together for each block: then A may fill most of L2.
    let most = match panels {
        Panels::Gather { .. } => 2 * block_len(),
        _ => block_len(),
    };
    // What a row of a depth block has in the caches: whole lines, where live terms are far between.
    let reach = match moved || p.in_order || p.side_by_side() {
        true => kc,
        false => (p.of_a.bound() / depth.div_ceil(kc).max(1)).clamp(kc, LINE * kc),
    };
    let mc = (most / reach).clamp(1, MC);
    let mc = rows.div_ceil(((rows + mc / 2) / mc).max(1)).max(1);
    let ld = lines(kc) + LINE;
    let rows_of_a = take(rest, if moved { mc * ld } else { 0 });
    let listed = take_indices(rest, if moved { 2 * kc } else { 0 });
    // An indexed C may have more rows than a packed block holds.
    for r in (0..rows).step_by(mc) {
        // The others would ask for it in vain.
        let then = if r + mc < rows { &[][..] } else { p.then };
        let rows = mc.min(rows - r);
        for t in (0..depth.max(1)).step_by(kc) {
            let terms = (t, kc.min(depth - t.min(depth)));
            let last = t + kc >= depth;
            let live = t..t + terms.1;
            if moved {
                let wanted = Wanted::new::<S>(p.of_a.part(live.clone()), listed);
                let start = |i: usize| p.a_start(first_row + r + i);
                wanted.copy(s, p.a, start, rows, (&mut *rows_of_a, ld));
            }
            let mut gathered = room
                .as_mut()
                .map(|(from, room)| room.depth_block::<S>(p, from, live.clone()));
            let mut x = 0;
            while x < count {
                let at = panels.next_to::<S>(x, width, nr);
                let first = at.vector * S::LANES;
                let after = x + at.count;
                if let Some(gathered) = &mut gathered {
                    gathered.gather(s, x, at.columns);
                }
                let (of, next, bias) = if let Some(gathered) = &gathered {
                    (gathered.panels(), [&[][..]; PAIR], gathered.bias())
                } else {
                    let panel = |i: usize| match i < count {
                        true => p.panel(panels.nth(i), S::LANES).get(first..).unwrap_or(&[]),
                        false if last => p.after(then, i - count),
                        false => &[],
                    };
                    let of = core::array::from_fn(|i| panel(x + i));
                    let bias = p.bias.map(|bias| &bias[panels.nth(x) * nr + first..]);
                    (of, core::array::from_fn(|i| panel(after + i)), bias)
                };
                let sources = match &gathered {
                    Some(gathered) if p.in_order && kc == depth && after < count => {
                        let columns = panels.next_to::<S>(after, width, nr).columns;
                        gathered.sources(after, columns)
                    }
                    _ if last && after >= count && p.activation.in_registers() => then,
                    _ => &[],
                };
                let pass = Pass {
                    product: p,
                    terms,
                    first_row: first_row + r,
                    moved: moved.then_some((&*rows_of_a, ld)),
                    start: match bias {
                        _ if t > 0 => Start::Partial,
                        Some(bias) => Start::Cols(bias),
                        None => Start::Zero,
                    },
                    width: at.columns,
                    target: match panels.target((x, at.count), nr, at.columns) {
                        Target::Picked(to, lanes) => {
                            Target::Picked(to + first, &lanes[at.vector..])
                        }
                        target => target,
                    },
                    activation: if last { p.activation } else { Activation::None },
                    panels: of,
                    next,
                    sources,
                    gathered: gathered.is_some(),
                };
                pass.column(s, at.count, rows, r, index, out);
                x = after;
            }
        }
        if !p.activation.in_registers() {
            let share = then.len().div_ceil(rows);
            for i in 0..rows {
                for at in (i * share..(i + 1) * share).step_by(LINE) {
                    s.prefetch_ahead(then, at);
                }
                let row = index.map_or(r + i, |index| index[first_row + r + i] as usize);
                panels.activate(s, p.activation, width, out.row(row));
            }
        }
    }
}
