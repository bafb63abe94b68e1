//! Matrix products.
#![forbid(unsafe_code)]

mod block;
mod few;
mod gathered;
mod panels;
mod pass;
mod rows;
mod runtime;
mod spread;
mod tall;
mod whole;

use alloc::vec::Vec;

use crate::buffer::Buffer;
use crate::epilogue::Activation;
use crate::pack::transposed::{self, Transposed};
use crate::pack::vectors::Vectors;
use crate::pack::{self, check_len, check_mask, extent, partial};
use crate::panel::{Below, Bounded, Terms, from_line, lines, take_indices};
use crate::pool::{Pool, Tile};
use crate::tile::gemm::{self, NV};
use crate::{Channels, Error, Isa};

use block::{Columns, Product};
use gathered::gathering_pays;
use rows::reach;
pub use rows::{Rows, RowsMut};
pub use runtime::{Strided, matmul, matmul_scratch_len};

/// What [`MatMul::pack`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct MatMulSpec<'a> {
    /// Depth: columns of A, rows of B.
    pub k: usize,
    /// Columns of B and C.
    pub n: usize,
    /// B, `[k, n]` row-major, or `[n, k]` when `transposed`.
    pub b: &'a [f32],
    /// Whether `b` is given as `[n, k]`.
    pub transposed: bool,
    /// One value a column of C.
    pub bias: Option<&'a [f32]>,
    /// Applied to every element of C.
    pub activation: Activation,
    /// Static mask of k: the weights of dead rows are dropped.
    pub live_in: Option<Channels<'a>>,
    /// Static mask of n: the weights of dead columns are dropped.
    pub live_out: Option<Channels<'a>>,
    /// Rows of A in calls with a mask of k, if there will be such calls: large B is laid out for them. All other calls work as well, if slower.
    pub masked_rows: Option<usize>,
    /// Whether there will be calls with a mask of n: B is kept by columns, too, in as much memory again, which makes them faster.
    pub masked_columns: bool,
}

impl<'a> MatMulSpec<'a> {
    /// B as `[k, n]`, and nothing else: no bias, no activation, no masks.
    pub fn new(k: usize, n: usize, b: &'a [f32]) -> Self {
        Self {
            k,
            n,
            b,
            transposed: false,
            bias: None,
            activation: Activation::None,
            live_in: None,
            live_out: None,
            masked_rows: None,
            masked_columns: false,
        }
    }
}

/// Elements of the weights that are asked for before they are used: four panels of 768 rows, of which one or two are put together.
const AHEAD: usize = 96 * 1024;

/// `C[m, n] = act(Σ_{k ∈ live} A[m, k] · B[k, n] + bias[n])`, B packed once.
///
/// # Shapes
/// A `[m, k]` and C `[m, n]`, row-major, rows `ld` apart, gathered by an index if one is given; B fixed at [`MatMul::pack`].
/// # Masks
/// Dead inputs are never read. Dead outputs are neither computed nor written; without a mask every output is written, except
/// those that the static mask dropped. Masks are over the k and n of the unpacked B; with a static mask the intersection counts.
/// # Numerics
/// One chain an element: from the bias (or 0) upwards in k, one `mul_add` a live term, then the activation. So the bits depend
/// neither on `m`, nor on threads, nor on how a channel died.
/// # Errors
/// [`Error::TooShort`], [`Error::Mismatch`], [`Error::Invalid`], [`Error::TooLarge`], each naming the operand.
/// # Panics
/// Never.
/// # Scratch
/// [`MatMul::scratch_len`] elements, contents ignored.
/// # Source
/// Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008, with the depth walked by a list of live k.
///
/// ```text
/// packed B: column panels [n / NR][k][NR], so that a dead k is a contiguous stretch nobody touches; large ones [n / 4 NR][k][4][NR],
/// or for a single row [k][n]
/// ```
#[derive(Debug)]
pub struct MatMul {
    isa: Isa,
    k: usize,
    n: usize,
    // Columns of a panel, and elements from one of its rows to the next.
    nr: usize,
    pitch: usize,
    // Original k and n of the packed rows and columns.
    kept_k: Bounded,
    kept_n: Vec<u32>,
    // 0, 1, 2 ...: the packed columns, or rows, without a mask.
    in_order: Bounded,
    // Where each packed row begins in a column panel, and where it would in one of `nr` columns alone.
    starts: Bounded,
    close: Vec<u32>,
    panels: Buffer,
    by_columns: Option<Transposed>,
    // Padded to whole panels.
    bias: Option<Buffer>,
    activation: Activation,
}

impl MatMul {
    /// Packs B for `isa`.
    ///
    /// # Errors
    /// When an operand does not fit the shape.
    pub fn pack(isa: Isa, spec: &MatMulSpec<'_>) -> Result<Self, Error> {
        let &MatMulSpec { k, n, b, .. } = spec;
        // Lists of k and of n are kept even where the other extent is zero.
        extent(&[k.max(1), n.max(1)], "B")?;
        check_len(b.len(), k * n, "B")?;
        if let Some(bias) = spec.bias {
            check_len(bias.len(), n, "bias")?;
        }
        let kept_k = pack::kept(spec.live_in, k, "length of the input mask")?;
        let kept_n = pack::kept(spec.live_out, n, "length of the output mask")?;
        let nr = pack::panel_width_for(kept_n.len(), isa.lanes());
        let slack = pack::slack(nr, isa.lanes());
        let pitch = pack::panel_pitch(spec.masked_rows, (kept_k.len(), kept_n.len()), nr);
        let width = kept_n.len().next_multiple_of(nr);
        let len = extent(&[kept_k.len(), width.next_multiple_of(pitch)], "packed B")?;
        let mut panels = Buffer::zeros(len + slack);
        let (rs, cs) = if spec.transposed { (1, k) } else { (n, 1) };
        let at = |t: usize, j: usize| b[kept_k[t] as usize * rs + kept_n[j] as usize * cs];
        let extents = (kept_k.len(), kept_n.len());
        pack::column_panels(&mut panels, pitch, extents, at);
        let by_columns = (spec.masked_columns && Transposed::serves(extents))
            .then(|| Transposed::new(extents, at));
        let bias = spec.bias.map(|bias| {
            let mut padded = Buffer::zeros(width + slack);
            for (to, &j) in padded.iter_mut().zip(&kept_n) {
                *to = bias[j as usize];
            }
            padded
        });
        let rows = |pitch| (0..kept_k.len()).map(|t| (t * pitch) as u32).collect();
        let starts = rows(pitch);
        Ok(Self {
            isa,
            k,
            n,
            nr,
            pitch,
            close: rows(nr),
            starts: Bounded::new(starts, kept_k.len().saturating_sub(1) * pitch + 1),
            in_order: Bounded::all_of((0..kept_k.len().max(kept_n.len()) as u32).collect()),
            kept_k: Bounded::new(kept_k, k),
            kept_n,
            panels,
            by_columns,
            bias,
            activation: spec.activation,
        })
    }

    /// Depth, dropped rows included.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns, dropped ones included.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Multiplications and additions of a run.
    pub fn macs(&self, m: usize, live_in: usize, live_out: usize) -> u64 {
        (m as u64)
            .saturating_mul(live_in as u64)
            .saturating_mul(live_out as u64)
    }

    /// The kernel that serves `m` rows.
    pub fn row_name(&self, m: usize) -> &'static str {
        gemm::select_matmul(m, self.isa).name
    }

    /// Elements of scratch that [`MatMul::run`] needs.
    pub fn scratch_len(&self, m: usize, threads: usize) -> usize {
        let nr = pack::panel_width(self.isa.lanes());
        let (k, n) = (self.kept_k.len(), self.kept_n.len());
        // The lists of live k and n, the panels of the live columns and their lanes, then every thread's own.
        6 * lines(k)
            + 2 * lines(n)
            + lines(n.div_ceil(self.nr))
            + lines(NV * n.div_ceil(self.nr))
            + lines(nr)
            + threads.max(1) * lines(block::scratch_len(m, self.n, self.isa.lanes()))
            + 64
    }

    /// The live columns as lanes of panels in place, unless it pays to put them together for `m` rows of a depth.
    fn pick<'a>(
        &self,
        (m, depth): (usize, usize),
        live: Channels<'_>,
        rest: &mut &'a mut [f32],
    ) -> Option<Columns<'a>> {
        let lanes = self.isa.lanes().min(self.nr);
        let all = self.n.div_ceil(self.nr);
        let panels = take_indices(rest, all);
        let (bits, _) = take_indices(rest, NV * all).as_chunks_mut::<NV>();
        let mut count = 0;
        for panel in 0..all {
            let of = |v: usize| match v * lanes < self.nr {
                true => live.bits(panel * self.nr + v * lanes, lanes.min(self.nr - v * lanes)),
                false => 0,
            };
            (panels[count], bits[count]) = (panel as u32, core::array::from_fn(of));
            count += usize::from(bits[count] != [0; NV]);
        }
        let gather = gathering_pays(
            (m, depth),
            (live.count(), count),
            (self.nr, self.panels.len(), self.by_columns.as_ref()),
        );
        (!gather).then_some(Columns::Picked {
            panels: &panels[..count],
            lanes: &bits[..count],
        })
    }

    /// Computes C.
    ///
    /// # Errors
    /// When an operand does not fit; nothing is written then.
    pub fn run(
        &self,
        pool: &dyn Pool,
        a: Rows<'_>,
        live_in: Option<Channels<'_>>,
        live_out: Option<Channels<'_>>,
        c: RowsMut<'_>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.run_before(&[], pool, a, live_in, live_out, c, scratch)
    }

    /// The first of the packed weights, for the product that runs [before](Self::run_before) this one.
    pub fn first_weights(&self) -> &[f32] {
        let all = match &self.by_columns {
            Some(columns) => columns.all(),
            None => &*self.panels,
        };
        &all[..all.len().min(AHEAD)]
    }

    /// As [`MatMul::run`], and asks for what is used next, meanwhile: weights that L2 does not hold come from L3 or from memory at 10 GB/s, and nothing else is
    /// done until the first panels are there. Where half of the outputs live, 197 x 768 x 192 takes 0.87 to 0.91 of the time.
    ///
    /// # Errors
    /// When an operand does not fit; nothing is written then.
    pub fn run_before(
        &self,
        then: &[f32],
        pool: &dyn Pool,
        a: Rows<'_>,
        live_in: Option<Channels<'_>>,
        live_out: Option<Channels<'_>>,
        c: RowsMut<'_>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let m = a.m;
        if c.m != m {
            return Err(Error::Mismatch {
                what: "number of rows of C",
                expected: m,
                found: c.m,
            });
        }
        check_mask(live_in, self.k, "length of the input mask")?;
        check_mask(live_out, self.n, "length of the output mask")?;
        reach(a.index, (m, a.ld, self.k, a.data.len()), "A")?;
        let rows = reach(c.index, (m, c.ld, self.n, c.data.len()), "C")?;
        check_len(scratch.len(), self.scratch_len(m, 1), "scratch")?;
        if m == 0 || self.kept_n.is_empty() {
            return Ok(());
        }

        let mut rest = from_line(scratch);
        let (k, n) = (self.kept_k.len(), self.kept_n.len());
        let (of_a, of_b) = match partial(live_in) {
            None => (self.kept_k.all(), self.starts.all()),
            Some(live) => {
                let (of_a, of_b) = (take_indices(&mut rest, k), take_indices(&mut rest, k));
                let mut depth = 0;
                let (kept, starts) = (self.kept_k.all().as_slice(), self.starts.all().as_slice());
                let mut take = |t: usize| {
                    (of_a[depth], of_b[depth]) = (kept[t], starts[t]);
                    depth += 1;
                };
                if k == self.k {
                    live.live().for_each(&mut take);
                } else {
                    let all = 0..k;
                    all.filter(|&t| live.contains(kept[t] as usize))
                        .for_each(&mut take);
                }
                (
                    Below::new(&of_a[..depth], self.k),
                    Below::new(&of_b[..depth], self.starts.bound()),
                )
            }
        };
        let live_out = partial(live_out);
        let in_order = self.in_order.all().as_slice();
        let some_columns = live_out.is_some() || n < self.n;
        let places = if self.by_columns.is_some() && some_columns {
            let (kept, live) = (self.kept_k.all().as_slice(), partial(live_in));
            let (places, _) = pack::live_of(kept, in_order, 0, live, &mut rest);
            Below::new(places, k)
        } else {
            Below::all(&[])
        };
        let in_place = n == self.n && self.activation.in_registers();
        let columns = match live_out {
            None if n == self.n => Columns::All,
            Some(live)
                if in_place && let Some(picked) = self.pick((m, of_a.len()), live, &mut rest) =>
            {
                picked
            }
            _ => {
                let (from, to) = pack::live_of(&self.kept_n, in_order, 0, live_out, &mut rest);
                Columns::Some { from, to }
            }
        };
        let product = Product {
            a_index: a.index,
            in_order: partial(live_in).is_none() && k == self.k,
            of_b,
            places,
            close: &self.close[..of_b.len()],
            columns,
            c_index: c.index,
            then,
            ..self.product(a.data, a.ld, of_a, m)
        };
        let out = Tile::new(c.data, rows, self.n, c.ld);
        product.run(self.isa, pool, out, rest);
        Ok(())
    }

    /// Columns of a panel.
    pub(crate) fn panel_width(&self) -> usize {
        self.nr
    }

    /// Elements from one row of a panel to the next.
    pub(crate) fn pitch(&self) -> usize {
        self.pitch
    }

    /// What a vector of packed columns is multiplied by, from column `first` on, and its bias.
    pub(crate) fn vector(&self, first: usize) -> (&[f32], Option<&[f32]>) {
        let all = self.product(&[], 0, Below::all(&[]), 0);
        let panel = all.panel(first / self.nr, self.isa.lanes());
        let bias = self.bias.as_deref().map(|bias| &bias[first..]);
        (panel.get(first % self.nr..).unwrap_or(&[]), bias)
    }

    /// The panels that hold the packed columns from one to another, if they lie one behind the other.
    pub(crate) fn between(&self, first: u32, last: u32) -> &[f32] {
        self.product(&[], 0, Below::all(&[]), 0)
            .between(first, last)
    }

    /// Some terms of the weights by columns, if they are kept so, and worth taking.
    pub(crate) fn columns<'a>(&'a self, terms: Vectors<'a>) -> Option<transposed::Columns<'a>> {
        self.by_columns.as_ref()?.some(terms)
    }

    /// Elements of the packed weights.
    pub(crate) fn len(&self) -> usize {
        self.panels.len()
    }

    /// What is applied to the sums.
    pub(crate) fn activation(&self) -> Activation {
        self.activation
    }

    /// The product of all packed terms and columns.
    fn product<'a>(&'a self, a: &'a [f32], ld: usize, of_a: Below<'a>, m: usize) -> Product<'a> {
        Product {
            a,
            a_index: None,
            lda: ld,
            of_a,
            of_b: self.starts.all(),
            places: Below::all(&[]),
            close: &self.close,
            in_order: false,
            panels: &self.panels,
            by_columns: self.by_columns.as_ref(),
            first_panel: 0,
            nr: self.nr,
            pitch: self.pitch,
            panel_len: self.kept_k.len() * self.pitch,
            n: self.kept_n.len(),
            bias: self.bias.as_deref(),
            activation: self.activation,
            columns: Columns::All,
            c_index: None,
            m,
            then: &[],
        }
    }
}
