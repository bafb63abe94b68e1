//! One step for one sample: operands found, the kernel called.

use sluicegate_kernels::ops::binary::{self, Operand};
use sluicegate_kernels::ops::matmul::{self, MatMul, Rows, RowsMut, Strided};
use sluicegate_kernels::ops::reduce::ReduceOp;
use sluicegate_kernels::ops::{nchwc, norm, pointwise, pool, reduce};
use sluicegate_kernels::pool::Pool;
use sluicegate_kernels::{Channels, Error as KernelError, Isa};

use super::State;
use super::arena::{Opened, RESULTS};
use super::{attention, blocks};
use crate::ops;
use crate::plan::Plan;
use crate::plan::masks::MaskId;
use crate::plan::step::{Cover, Kernel, Place, Products, Source, Step};
use crate::{Result, View, ViewMut};

/// What all steps of a run read.
pub(super) struct Frame<'a> {
    pub(super) plan: &'a Plan,
    pub(super) inputs: &'a [(&'a str, View<'a>)],
    pub(super) isa: Isa,
    pub(super) pool: &'a dyn Pool,
}

/// Operands of one operator at most; those with more (Concat) are several steps.
const OPERANDS: usize = 8;

/// Elements of f32 scratch that a step needs.
pub(super) fn scratch_len(isa: Isa, step: &Step, samples: usize, threads: usize) -> usize {
    match &step.kernel {
        Kernel::Attention(call) => call.attention.scratch_len(threads),
        Kernel::Blocks { call, .. } => blocks::scratch_len(call, &step.masks, threads),
        Kernel::Conv { conv, .. } => conv.scratch_len(threads),
        Kernel::Depthwise { conv, hw, .. } => conv.scratch_len(*hw, threads),
        Kernel::Linear { matmul, rows } => matmul.scratch_len(rows * samples, threads),
        Kernel::MatMul(p) => matmul::matmul_scratch_len(isa, p.m, p.k, p.n, threads),
        _ => 0,
    }
}

fn range(place: Place, sample: usize, samples: usize) -> std::ops::Range<usize> {
    let start = place.offset * samples + sample * place.len;
    start..start + place.len
}

fn floats(bytes: &[u8]) -> &[f32] {
    bytemuck::cast_slice(bytes)
}

fn floats_mut(bytes: &mut [u8]) -> &mut [f32] {
    bytemuck::cast_slice_mut(bytes)
}

impl<'a> Frame<'a> {
    /// The bytes of an operand that lies outside of the arena, or in a given part of it.
    fn outside(&self, source: Source, sample: usize, samples: usize, order: &[usize]) -> &'a [u8] {
        match source {
            Source::Constant(i) => self.plan.constants[i].view().bytes(),
            Source::Input(k) => {
                let bytes = self.inputs[order[k]].1.bytes();
                let (dtype, shape) = self.plan.key.inputs[k];
                let len = shape.elements() * dtype.size();
                // An input without the batch's extent is the same for every sample.
                if bytes.len() == len || samples == 1 {
                    bytes
                } else {
                    &bytes[sample * len..][..len]
                }
            }
            Source::Arena(_) => &[],
        }
    }

    /// The bytes of an operand while nothing is being written.
    pub(super) fn whole<'b>(
        &self,
        source: Source,
        sample: usize,
        samples: usize,
        order: &[usize],
        arena: &'b [u8],
    ) -> &'b [u8]
    where
        'a: 'b,
    {
        match source {
            Source::Arena(place) => &arena[range(place, sample, samples)],
            other => self.outside(other, sample, samples, order),
        }
    }

    /// Whether one call can take the rows of all samples: nothing about them differs but their data.
    pub(super) fn shares_rows(&self, step: &Step) -> bool {
        step.masks.all().iter().all(Option::is_none)
            && matches!(step.inputs[0], Some(Source::Arena(_)))
    }

    /// One product for the rows of all samples that are still in. The survivors are compacted where the product packs its rows anyway.
    pub(super) fn linear_of_all(
        &self,
        step: &Step,
        linear: &MatMul,
        rows: usize,
        state: &mut State,
    ) -> Result<()> {
        let (Some(Source::Arena(from)), Some(to)) = (step.inputs[0], step.outputs[0]) else {
            unreachable!("`shares_rows` saw them")
        };
        let n = state.samples;
        let (k, cols) = (linear.k(), linear.n());
        let everyone = state.active.len() == n;
        if !everyone && rows != 1 {
            for a in 0..state.active.len() {
                self.run(step, state.active[a] as usize, state)?;
            }
            return Ok(());
        }
        let all = |place: Place| place.offset * n..place.offset * n + place.len * n;
        let mut opened = state.arena.open(&[Some(all(to)), None, None]);
        let x = floats(opened.read(all(from)));
        let y = floats_mut(std::mem::take(&mut opened.results[0]));
        let index = (!everyone).then_some(state.active.as_slice());
        let m = if everyone {
            rows * n
        } else {
            state.active.len()
        };
        let (a, c) = (
            Rows {
                data: x,
                m,
                ld: k,
                index,
            },
            RowsMut {
                data: y,
                m,
                ld: cols,
                index,
            },
        );
        Ok(linear.run(self.pool, a, None, None, c, &mut state.scratch)?)
    }

    /// Runs a step for one sample.
    pub(super) fn run(&self, step: &Step, sample: usize, state: &mut State) -> Result<()> {
        let n = state.samples;
        let State {
            arena,
            scratch,
            masks,
            counts,
            order,
            rows,
            ..
        } = state;
        if let Kernel::Mask(id) = step.kernel {
            let source = step.inputs[0];
            let value = source.map(|s| floats(self.whole(s, sample, n, order, arena.bytes())));
            self.build_mask(id, sample, value, masks);
            counts[id.0][sample] = masks[id.0].sample(sample).count();
            return Ok(());
        }
        let mut places = [None, None, None];
        for (place, output) in places.iter_mut().zip(&step.outputs) {
            *place = output.map(|p| range(p, sample, n));
        }
        let mut opened = arena.open(&places);
        let results = std::mem::take(&mut opened.results);
        let operands = Operands {
            frame: self,
            step,
            opened: &opened,
            order,
            sample,
            samples: n,
        };
        let mask = |id: Option<MaskId>| id.map(|id| masks[id.0].sample(sample));
        self.call(
            step,
            operands,
            results,
            step.masks.all().map(mask),
            rows,
            scratch,
            |id| masks[id.0].sample(sample),
        )
    }

    fn call<'m>(
        &self,
        step: &Step,
        operands: Operands<'_>,
        results: [&mut [u8]; RESULTS],
        [live_in, live_out, live_rows]: [Option<Channels<'_>>; 3],
        list: &mut Vec<u32>,
        scratch: &mut [f32],
        mask: impl Fn(MaskId) -> Channels<'m>,
    ) -> Result<()> {
        let (isa, pool) = (self.isa, self.pool);
        let [first, second, third] = results;
        let x = |i| floats(operands.get(i));
        match &step.kernel {
            Kernel::Activate {
                activation,
                extents: (c, p),
            } => match live_in {
                None => pointwise::activate(isa, *activation, x(0), floats_mut(first))?,
                Some(live) => {
                    debug_assert_eq!(live.len(), *c);
                    let (x, y) = (x(0), floats_mut(first));
                    for run in live.runs() {
                        let span = run.start * p..run.end * p;
                        pointwise::activate(isa, *activation, &x[span.clone()], &mut y[span])?;
                    }
                }
            },
            Kernel::Attention(call) => attention::run(
                call,
                pool,
                operands,
                [live_in, live_out, live_rows],
                floats_mut(first),
                scratch,
            )?,
            Kernel::Binary {
                op,
                extents,
                covers,
            } => {
                let (a, b) = (covered(covers[0], x(0)), covered(covers[1], x(1)));
                binary::binary(isa, *op, a, b, *extents, live_in, floats_mut(first))?;
            }
            Kernel::Blocks { call, images } => blocks::run(
                (call, *images),
                (isa, pool),
                [Some(x(0)), operands.find(1).map(floats)],
                [live_in, live_out],
                [first, second].map(|bytes| match bytes.is_empty() {
                    true => &mut [],
                    false => floats_mut(bytes),
                }),
                scratch,
            )?,
            Kernel::Compare {
                op,
                extents,
                covers,
            } => {
                let (a, b) = (covered(covers[0], x(0)), covered(covers[1], x(1)));
                binary::compare(isa, *op, a, b, *extents, live_in, first)?;
            }
            Kernel::Conv { conv, images } => {
                let (x, y) = (x(0), floats_mut(first));
                for (x, y) in images_of(x, y, *images) {
                    conv.run(pool, x, live_in, live_out, y, scratch)?;
                }
            }
            Kernel::Copy {
                rows,
                from,
                to,
                len,
            } => {
                let x = operands.get(0);
                for r in 0..*rows {
                    first[r * to.1 + to.0..][..*len]
                        .copy_from_slice(&x[r * from.1 + from.0..][..*len]);
                }
            }
            Kernel::Depthwise { conv, images, hw } => {
                let (x, y) = (x(0), floats_mut(first));
                for (x, y) in images_of(x, y, *images) {
                    conv.run(pool, x, *hw, live_in, live_out, y, scratch)?;
                }
            }
            Kernel::FromBool => {
                for (y, &b) in floats_mut(first).iter_mut().zip(operands.get(0)) {
                    *y = f32::from(b);
                }
            }
            Kernel::LayerNorm { rows, n, epsilon } => {
                let parameter = |i| step.inputs.get(i).copied().flatten().map(|_| x(i));
                let (x, y) = (x(0), floats_mut(first));
                let (scale, bias) = (parameter(1), parameter(2));
                for_rows(live_rows, (*rows, *n), x, y, |m, x, y| {
                    norm::layer_norm(isa, x, (m, *n), scale, bias, *epsilon, y, None)
                })?;
            }
            Kernel::Linear { matmul, rows } => {
                let (k, n) = (matmul.k(), matmul.n());
                let (mut a, mut c) = (
                    Rows::new(x(0), *rows, k),
                    RowsMut::new(floats_mut(first), *rows, n),
                );
                if let Some(live) = live_rows.filter(|live| !live.is_full()) {
                    list.clear();
                    list.extend(live.live().map(|row| row as u32));
                    (a.m, c.m) = (list.len(), list.len());
                    (a.index, c.index) = (Some(list.as_slice()), Some(list.as_slice()));
                }
                let then = match step.then.map(|then| &self.plan.steps[then].kernel) {
                    Some(Kernel::Linear { matmul, .. }) => matmul.first_weights(),
                    _ => &[],
                };
                matmul.run_before(then, pool, a, live_in, live_out, c, scratch)?;
            }
            Kernel::MatMul(products) => {
                self.products(products, x(0), x(1), floats_mut(first), scratch)?;
            }
            Kernel::MeanMax { channels, inner } => {
                let (x, mean, max) = (x(0), floats_mut(first), floats_mut(second));
                pool::mean_max(isa, x, *channels, *inner, live_in, mean, max)?;
            }
            Kernel::Operator {
                op,
                inputs,
                outputs,
            } => operator(op, inputs, outputs, operands, [first, second, third])?,
            Kernel::Pool(p) => {
                let (c, h, w) = p.map;
                for (x, y) in images_of(x(0), floats_mut(first), p.images) {
                    pool::pool2d(isa, pool, p.op, &p.shape, x, (c, h, w), live_in, p.out, y)?;
                }
            }
            Kernel::Reduce { op, extents } => {
                let y = floats_mut(first);
                // One plane a channel: a mask over planes is a mask over `outer`.
                reduce::reduce(isa, *op, x(0), *extents, live_in, y)?;
                debug_assert!(!matches!(op, ReduceOp::Min));
            }
            Kernel::RmsNorm { rows, n, epsilon } => {
                let scale = step.inputs.get(1).copied().flatten().map(|_| x(1));
                let (x, y) = (x(0), floats_mut(first));
                for_rows(live_rows, (*rows, *n), x, y, |m, x, y| {
                    norm::rms_norm(isa, x, (m, *n), scale, *epsilon, live_in, y)
                })?;
            }
            Kernel::ScaleShift {
                images,
                extents,
                scale,
                shift,
            } => {
                for (x, y) in images_of(x(0), floats_mut(first), *images) {
                    norm::scale_shift(isa, Some(x), *extents, scale, shift, live_in, y)?;
                }
            }
            Kernel::Expand {
                mask: id,
                images,
                pixels,
            } => {
                let maps = floats_mut(first);
                let each = (maps.len() / images).max(1);
                for map in maps.chunks_exact_mut(each) {
                    nchwc::expand(isa, *pixels, mask(*id), map)?;
                }
            }
            Kernel::Settle { mask: id, planes } => {
                pointwise::settle(isa, mask(*id), planes.inner, floats_mut(first));
            }
            Kernel::Softmax { log, extents } => {
                let y = floats_mut(first);
                if *log {
                    norm::log_softmax(isa, x(0), *extents, y)?;
                } else {
                    norm::softmax(isa, x(0), *extents, y)?;
                }
            }
            Kernel::Gate { .. } | Kernel::Mask(_) => unreachable!("handled by the callers"),
        }
        Ok(())
    }

    fn products(
        &self,
        p: &Products,
        a: &[f32],
        b: &[f32],
        c: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<()> {
        let (m, k, n) = (p.m, p.k, p.n);
        for (&(i, j), c) in p.pairs.iter().zip(c.chunks_exact_mut((m * n).max(1))) {
            let a = Strided {
                data: &a[i * m * k..][..m * k],
                strides: (k, 1),
            };
            let b = Strided {
                data: &b[j * k * n..][..k * n],
                strides: (n, 1),
            };
            matmul::matmul(self.isa, self.pool, m, k, n, a, b, c, scratch)?;
        }
        Ok(())
    }
}

/// The operands of a step for one sample.
pub(super) struct Operands<'b> {
    frame: &'b Frame<'b>,
    step: &'b Step,
    opened: &'b Opened<'b>,
    order: &'b [usize],
    sample: usize,
    samples: usize,
}

impl<'b> Operands<'b> {
    /// The bytes of operand `i`, if the step has it.
    pub(super) fn find(&self, i: usize) -> Option<&'b [u8]> {
        self.step
            .inputs
            .get(i)
            .copied()
            .flatten()
            .map(|_| self.get(i))
    }

    fn get(&self, i: usize) -> &'b [u8] {
        match self.step.inputs[i].expect("the kernel knows which operands it has") {
            Source::Arena(place) => self.opened.read(range(place, self.sample, self.samples)),
            other => self
                .frame
                .outside(other, self.sample, self.samples, self.order),
        }
    }
}

/// Calls `f` with the number, the operand and the result of each run of live rows.
fn for_rows(
    live: Option<Channels<'_>>,
    (rows, n): (usize, usize),
    x: &[f32],
    y: &mut [f32],
    mut f: impl FnMut(usize, &[f32], &mut [f32]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let Some(live) = live else {
        return f(rows, x, y);
    };
    for run in live.runs() {
        let span = run.start * n..run.end * n;
        f(run.len(), &x[span.clone()], &mut y[span])?;
    }
    Ok(())
}

fn covered(cover: Cover, x: &[f32]) -> Operand<'_> {
    match cover {
        Cover::Full => Operand::Full(x),
        Cover::Scalar => Operand::Scalar(x[0]),
        Cover::Planes => Operand::Planes(x),
        Cover::Row => Operand::Row(x),
    }
}

/// The images of a batch that is one sample, with their results.
fn images_of<'x>(
    x: &'x [f32],
    y: &'x mut [f32],
    images: usize,
) -> impl Iterator<Item = (&'x [f32], &'x mut [f32])> {
    let (from, to) = (x.len() / images.max(1), y.len() / images.max(1));
    x.chunks_exact(from.max(1))
        .zip(y.chunks_exact_mut(to.max(1)))
}

/// An operator by its definition.
fn operator(
    op: &crate::graph::Op,
    inputs: &[Option<(crate::DType, crate::Shape)>],
    outputs: &[Option<(crate::DType, crate::Shape)>],
    operands: Operands<'_>,
    results: [&mut [u8]; RESULTS],
) -> Result<()> {
    let mut views = [None; OPERANDS];
    for (i, (view, typed)) in views.iter_mut().zip(inputs).enumerate() {
        *view = typed.map(|(dtype, shape)| View::from_bytes(dtype, shape, operands.get(i)));
    }
    let mut written = [None, None, None];
    for ((slot, typed), bytes) in written.iter_mut().zip(outputs).zip(results) {
        *slot = typed.map(|(dtype, shape)| ViewMut::from_bytes(dtype, shape, bytes));
    }
    ops::eval(
        op,
        &views[..inputs.len().min(OPERANDS)],
        &mut written[..outputs.len().min(RESULTS)],
    )
}
