//! From items to steps: weights packed, storage assigned, masks built where they are first needed.

use std::sync::Arc;

use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::Algorithm;

use super::kernels;
use super::layout::{self, Block};
use super::masks::{MaskDef, MaskId, Masks, Skip};
use super::net::{Item, Net, at};
use super::rewrite::Work;
use super::step::{Cost, Kernel, Place, Planes, Source, Step, StepMasks};
use super::{Gate, Output, PlanNode};
use crate::graph::{Op, ValueId};
use crate::{Error, Result, Tensor};

/// Steps between two products of which the first asks for the weights of the second, at most.
const SOON: usize = 8;

/// Where a value is kept.
#[derive(Debug, Clone, Copy)]
enum Home {
    Constant(usize),
    Input(usize),
    Block(usize),
}

/// What lowering makes.
pub(super) struct Lowered {
    pub(super) steps: Vec<Step>,
    pub(super) constants: Vec<Arc<Tensor>>,
    pub(super) outputs: Vec<Output>,
    pub(super) nodes: Vec<PlanNode>,
    pub(super) gates: Vec<Gate>,
    /// Bytes of the arena for one sample.
    pub(super) arena: usize,
}

pub(super) fn lower(net: &Net, masks: &Masks, isa: Isa, winograd: bool) -> Result<Lowered> {
    let mut lower = Lower {
        net,
        masks,
        isa,
        winograd,
        homes: vec![None; net.len()],
        built: vec![false; masks.table.defs.len()],
        blocks: Vec::new(),
        constants: Vec::new(),
        steps: Vec::new(),
        nodes: Vec::new(),
        gates: Vec::new(),
        packed: 0,
        ready: vec![0; net.len()],
    };
    for (k, id) in net.inputs.iter().enumerate() {
        if net.value(*id).constant.is_none() {
            lower.homes[id.index()] = Some(Home::Input(k));
        }
    }
    for (item, skip) in net.items.iter().zip(&masks.skips) {
        lower.item(item, skip).map_err(|e| at(&item.label, e))?;
    }
    if !masks.settle_outputs.is_empty() {
        let label = "outputs: zeros for dead channels".to_owned();
        lower.nodes.push(PlanNode::new(label, "Settle", &[]));
    }
    for &(id, axis, mask) in &masks.settle_outputs {
        lower.settle(id, axis, mask);
    }
    lower.finish()
}

struct Lower<'a> {
    net: &'a Net,
    masks: &'a Masks,
    isa: Isa,
    /// Whether convolutions may be computed so.
    winograd: bool,
    homes: Vec<Option<Home>>,
    built: Vec<bool>,
    blocks: Vec<Block>,
    constants: Vec<Arc<Tensor>>,
    steps: Vec<Step>,
    nodes: Vec<PlanNode>,
    gates: Vec<Gate>,
    /// Bytes of packed weights and the like: nodes may share weights, but each packs its own.
    packed: usize,
    /// Number of steps after which a value is there, zeros of its dead channels included.
    ready: Vec<usize>,
}

impl Lower<'_> {
    fn item(&mut self, item: &Item, skip: &Skip) -> Result<()> {
        let shapes: Vec<_> = item
            .outputs
            .iter()
            .flatten()
            .map(|&id| self.net.shape(id))
            .collect();
        self.nodes.push(PlanNode {
            note: skip.note.clone(),
            ..PlanNode::new(item.label.clone(), kernels::op_name(&item.work), &shapes)
        });
        for &(id, axis, mask) in &skip.settle {
            self.settle(id, axis, mask);
        }
        if skip.alias {
            self.home(item.x());
            self.homes[item.y().index()] = self.homes[item.x().index()];
            self.ready[item.y().index()] = self.ready[item.x().index()];
            return Ok(());
        }
        match &item.work {
            Work::Op(Op::Concat { axis }) => return self.concat(item, *axis),
            Work::Op(Op::Split { axis }) => return self.split(item, *axis),
            Work::Op(Op::Gate { threshold, index }) => {
                self.gates.push(Gate {
                    name: item.label.clone(),
                    threshold: *threshold,
                    index: *index,
                });
            }
            _ => {}
        }
        let packed = |algorithm| {
            let table = &self.masks.table;
            let bytes = kernels::packed_bytes(self.net, table, item, skip, algorithm);
            self.packed.saturating_add(bytes)
        };
        // Its weights take four times the memory, or more.
        let fits = packed(Algorithm::Fastest) <= self.net.limit;
        let algorithm = if self.winograd && fits {
            Algorithm::Fastest
        } else {
            Algorithm::Direct
        };
        self.packed = packed(algorithm);
        if self.packed > self.net.limit {
            return Err(Error::TooLarge {
                what: format!("packing the weights up to {}", item.label),
                needed: self.packed,
                limit: self.net.limit,
            });
        }
        let kernels::Made {
            kernel,
            operands,
            cost,
            folds,
        } = kernels::make(
            self.net,
            &self.masks.table,
            item,
            skip,
            (self.isa, algorithm),
        )?;
        let shape = if operands.len() == 2 {
            self.net.shape(item.y())
        } else {
            self.net.shape(item.x())
        };
        let masked = skip.input.is_some() || skip.output.is_some();
        let takes = masked && kernels::takes_mask(&kernel, shape, skip.axis);
        let run_time = |id: Option<MaskId>, folds: bool| {
            id.filter(|&m| takes && !(folds && self.masks.table.as_static(m).is_some()))
        };
        let row_mask = skip
            .rows
            .filter(|&mask| kernels::takes_rows(&kernel, self.masks.table.channels[mask.0]));
        let masks = StepMasks {
            input: run_time(skip.input, folds[0]),
            output: run_time(skip.output, folds[1]),
            rows: row_mask,
        };
        for mask in masks.all().into_iter().flatten() {
            self.build(mask);
        }
        let node = self.nodes.len() - 1;
        self.nodes[node].macs = cost.dense;
        let operand_ids: Vec<Option<ValueId>> = operands.iter().map(|&i| item.input(i)).collect();
        self.push(node, kernel, &operand_ids, &item.outputs, masks, cost);
        Ok(())
    }

    /// One copy an operand.
    fn concat(&mut self, item: &Item, axis: i64) -> Result<()> {
        let y = self.net.value(item.y());
        let axis = kernels::axis(axis, y.shape.rank())?;
        let planes = Planes::of(y.shape, axis);
        let row = planes.inner * y.dtype.size();
        let mut offset = 0;
        for id in item.inputs.iter().flatten() {
            let len = self.net.shape(*id)[axis] * row;
            let kernel = Kernel::Copy {
                rows: planes.outer,
                from: (0, len),
                to: (offset, planes.channels * row),
                len,
            };
            offset += len;
            self.push(
                self.nodes.len() - 1,
                kernel,
                &[Some(*id)],
                &item.outputs,
                StepMasks::default(),
                Cost::default(),
            );
        }
        if offset == 0 {
            self.allocate(item.y());
        }
        Ok(())
    }

    /// One copy a result.
    fn split(&mut self, item: &Item, axis: i64) -> Result<()> {
        let x = self.net.value(item.x());
        let axis = kernels::axis(axis, x.shape.rank())?;
        let planes = Planes::of(x.shape, axis);
        let row = planes.inner * x.dtype.size();
        // A part that nobody reads still takes its share of the axis.
        let parts = kernels::split_sizes(self.net, item, planes.channels)?;
        let mut offset = 0;
        for (id, part) in item.outputs.iter().zip(parts) {
            let len = part * row;
            if id.is_some() {
                let kernel = Kernel::Copy {
                    rows: planes.outer,
                    from: (offset, planes.channels * row),
                    to: (0, len),
                    len,
                };
                let x = [Some(item.x())];
                self.push(
                    self.nodes.len() - 1,
                    kernel,
                    &x,
                    &[*id],
                    StepMasks::default(),
                    Cost::default(),
                );
            }
            offset += len;
        }
        Ok(())
    }

    fn settle(&mut self, id: ValueId, axis: usize, mask: MaskId) {
        self.build(mask);
        let value = self.net.value(id);
        let kernel = match value.in_blocks {
            true => Kernel::Expand {
                mask,
                images: value.shape[0],
                pixels: value.shape[2],
            },
            false => Kernel::Settle {
                mask,
                planes: Planes::of(value.shape, axis),
            },
        };
        self.push(
            self.nodes.len() - 1,
            kernel,
            &[],
            &[Some(id)],
            StepMasks::default(),
            Cost::default(),
        );
    }

    /// Adds the steps that make a mask, once. What it is made of comes first, by a list of what waits: chains may be as long as a file.
    fn build(&mut self, id: MaskId) {
        let mut waiting = vec![id];
        while let Some(&id) = waiting.last() {
            let def = &self.masks.table.defs[id.0];
            let operand = match def {
                MaskDef::Value(value) => Some(*value),
                _ => None,
            };
            let parts = def.parts();
            if let Some(part) = parts.into_iter().flatten().find(|m| !self.built[m.0]) {
                waiting.push(part);
                continue;
            }
            waiting.pop();
            let built = std::mem::replace(&mut self.built[id.0], true);
            if built || self.masks.table.as_static(id).is_some() {
                continue;
            }
            self.push(
                self.nodes.len() - 1,
                Kernel::Mask(id),
                &[operand],
                &[],
                StepMasks::default(),
                Cost::default(),
            );
        }
    }

    fn push(
        &mut self,
        node: usize,
        kernel: Kernel,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        masks: StepMasks,
        cost: Cost,
    ) {
        let now = self.steps.len();
        let inputs = inputs
            .iter()
            .map(|id| id.map(|id| self.read(id, now)))
            .collect();
        for id in outputs.iter().flatten() {
            self.ready[id.index()] = now + 1;
        }
        let outputs = outputs
            .iter()
            .map(|id| id.map(|id| self.write(id, now)))
            .collect();
        if matches!(kernel, Kernel::Linear { .. }) {
            let mut before = self.steps.iter_mut().rev().take(SOON);
            if let Some(before) = before.find(|step| matches!(step.kernel, Kernel::Linear { .. })) {
                before.then = Some(now);
            }
        }
        self.steps.push(Step {
            node,
            kernel,
            inputs,
            outputs,
            masks,
            cost,
            then: None,
        });
    }

    /// The home of a value, constants being taken into the plan at their first use.
    fn home(&mut self, id: ValueId) -> Home {
        if let Some(home) = self.homes[id.index()] {
            return home;
        }
        let home = match &self.net.value(id).constant {
            Some(tensor) => {
                self.constants.push(Arc::clone(tensor));
                Home::Constant(self.constants.len() - 1)
            }
            None => self.allocate(id),
        };
        self.homes[id.index()] = Some(home);
        home
    }

    fn allocate(&mut self, id: ValueId) -> Home {
        if let Some(home) = self.homes[id.index()] {
            return home;
        }
        let now = self.steps.len();
        self.blocks.push(Block {
            bytes: self.net.value(id).bytes(),
            from: now,
            to: now,
        });
        let home = Home::Block(self.blocks.len() - 1);
        self.homes[id.index()] = Some(home);
        home
    }

    /// Until the layout is known, the offset of a place is the number of its block.
    fn read(&mut self, id: ValueId, now: usize) -> Source {
        match self.home(id) {
            Home::Constant(i) => Source::Constant(i),
            Home::Input(i) => Source::Input(i),
            Home::Block(b) => {
                self.blocks[b].to = self.blocks[b].to.max(now);
                Source::Arena(Place {
                    offset: b,
                    len: self.blocks[b].bytes,
                })
            }
        }
    }

    fn write(&mut self, id: ValueId, now: usize) -> Place {
        let home = self.allocate(id);
        let Home::Block(b) = home else {
            unreachable!("results are never constants or inputs: masks of those are copies")
        };
        self.blocks[b].to = self.blocks[b].to.max(now);
        Place {
            offset: b,
            len: self.blocks[b].bytes,
        }
    }

    fn finish(mut self) -> Result<Lowered> {
        let end = self.steps.len();
        let mut outputs = Vec::with_capacity(self.net.outputs.len());
        for (&id, name) in self.net.outputs.iter().zip(&self.net.output_names) {
            let value = self.net.value(id);
            outputs.push(Output {
                name: name.clone(),
                dtype: value.dtype,
                shape: value.shape,
                source: self.read(id, end),
                ready: self.ready[id.index()],
            });
        }
        let (offsets, arena) = layout::place(&self.blocks);
        let patch = |place: &mut Place| place.offset = offsets[place.offset];
        for step in &mut self.steps {
            step.outputs.iter_mut().flatten().for_each(patch);
            for source in step.inputs.iter_mut().flatten() {
                if let Source::Arena(place) = source {
                    patch(place);
                }
            }
        }
        for output in &mut outputs {
            if let Source::Arena(place) = &mut output.source {
                patch(place);
            }
        }
        Ok(Lowered {
            steps: self.steps,
            constants: self.constants,
            outputs,
            nodes: self.nodes,
            gates: self.gates,
            arena,
        })
    }
}
