//! Carries masks through the operations that preserve zero, and says where they end and why.

use std::collections::BTreeSet;

use super::needs::Needs;
use super::{MaskId, MaskTable, Masked, Masks, Skip, describe};
use crate::graph::{Op, ValueId};
use crate::plan::net::Net;
use crate::plan::rewrite::{Maps, Work, keeps_zero};

/// Dead channels along two axes at most: channels, and tokens.
type Slots = [Option<Masked>; 2];

pub(super) struct Walk<'a> {
    pub(super) net: &'a Net,
    pub(super) copied: &'a BTreeSet<usize>,
    /// The item that makes a value.
    pub(super) makers: &'a [Option<usize>],
    /// The last item that reads a value; `usize::MAX` for outputs.
    last: Vec<usize>,
    pub(super) needs: &'a Needs<'a>,
    state: Vec<Slots>,
    /// Operands of the item at hand, and axes, whose dead channels its rule has seen to.
    pub(super) handled: Vec<(ValueId, usize)>,
    /// For a result that is its operand's storage: the item, and whether it names dead channels that the operand does not have.
    aliased_by: Vec<Option<(usize, bool)>>,
    /// The value whose storage a value is, itself where it has its own.
    tops: Vec<ValueId>,
    /// For a value with storage of its own: the others that are it.
    aliases: Vec<Vec<ValueId>>,
    /// The item at which the walk is; `usize::MAX` at the outputs.
    pub(super) now: usize,
    pub(super) masks: Masks,
    /// Masks that cannot be aliases after all.
    pub(super) conflicts: Vec<usize>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        net: &'a Net,
        makers: &'a [Option<usize>],
        needs: &'a Needs<'a>,
        table: MaskTable,
        copied: &'a BTreeSet<usize>,
    ) -> Self {
        let n = net.len();
        let mut last = vec![0; n];
        for (i, item) in net.items.iter().enumerate() {
            for id in item.inputs.iter().flatten() {
                last[id.index()] = i;
            }
        }
        for id in &net.outputs {
            last[id.index()] = usize::MAX;
        }
        Self {
            net,
            copied,
            makers,
            last,
            needs,
            state: vec![[None; 2]; n],
            handled: Vec::new(),
            aliased_by: vec![None; n],
            tops: (0..n).map(|i| ValueId(i as u32)).collect(),
            aliases: vec![Vec::new(); n],
            now: 0,
            masks: Masks {
                table,
                ..Masks::default()
            },
            conflicts: Vec::new(),
        }
    }

    pub(super) fn run(&mut self) {
        for i in 0..self.net.items.len() {
            self.now = i;
            let skip = self.item(i);
            self.masks.skips.push(skip);
        }
        self.now = usize::MAX;
        for &id in &self.net.outputs {
            let settled = self.settle_all(id);
            self.masks.settle_outputs.extend(settled);
        }
    }

    fn item(&mut self, i: usize) -> Skip {
        let item = &self.net.items[i];
        let skip = match &item.work {
            Work::Conv(conv) if conv.maps != Maps::Planes => self.blocks_conv(i, conv),
            Work::Blocks(blocks) => self.blocks_op(i, blocks),
            Work::Conv(conv) => self.kernel(
                i,
                1,
                conv.is_depthwise(),
                conv.shape.c_out / conv.shape.c_in.max(1),
            ),
            Work::Attention(at) => self.attention(i, at),
            Work::Linear(_) => self.kernel(i, self.net.shape(item.x()).rank() - 1, false, 1),
            Work::Activate(act) => {
                if keeps_zero(*act) {
                    self.carry(item, None)
                } else {
                    self.end(item, "the function does not map zero to zero")
                }
            }
            Work::MeanMax => self.carry(item, Some(1)),
            Work::Op(op) => self.operator(i, op),
        };
        // Whatever rule was taken, an operand that it has not seen to is read in full, unless nobody reads what is made of the rest.
        let mut skip = skip;
        for &id in item.inputs.iter().flatten() {
            for masked in self.state[id.index()].into_iter().flatten() {
                let Masked { axis, mask, clean } = masked;
                if clean || self.handled.contains(&(id, axis)) {
                    continue;
                }
                let table = &mut self.masks.table;
                let need = self.needs.operand(table, i, id, axis);
                let unread = need.is_some_and(|need| table.implies(need, mask));
                // What is compact is not in its place.
                if !unread || self.net.value(id).in_blocks {
                    skip.settle.extend(self.settle(id, axis));
                }
            }
        }
        self.handled.clear();
        skip
    }

    fn operator(&mut self, i: usize, op: &Op) -> Skip {
        let item = &self.net.items[i];
        match op {
            Op::Mask { axis } => self.mask(i, *axis),
            Op::GlobalAveragePool | Op::GlobalMaxPool => self.carry(item, Some(1)),
            Op::AveragePool { .. } => self.carry(item, Some(1)),
            Op::MaxPool { .. } if item.output(1).is_none() => self.carry(item, Some(1)),
            Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze => {
                self.reshape(item)
            }
            Op::RmsNorm { axis, .. } => self.norm(i, *axis, true),
            Op::LayerNorm { axis, .. } if item.output(1).is_none() && item.output(2).is_none() => {
                self.norm(i, *axis, false)
            }
            Op::Gate { .. } => {
                // A sample that leaves takes along the outputs that are there.
                let mut skip = self.end(item, "a gate decides by one number");
                for &id in &self.net.outputs {
                    skip.settle.extend(self.settle_all(id));
                }
                skip
            }
            Op::Transpose { perm } => self.transpose(item, perm.as_deref()),
            Op::Binary(op) => self.binary(i, *op),
            _ => self.end(item, "its kernel reads every channel"),
        }
    }

    /// The mask of a value along an axis.
    pub(super) fn at(&self, id: ValueId, axis: usize) -> Option<Masked> {
        let slots = self.state[id.index()].into_iter().flatten();
        slots.into_iter().find(|masked| masked.axis == axis)
    }

    pub(super) fn masks_of(&self, id: Option<ValueId>) -> Slots {
        id.map_or([None; 2], |id| self.state[id.index()])
    }

    pub(super) fn name(&self, mask: MaskId) -> String {
        describe(self.net, &self.masks.table, mask)
    }

    /// Gives a value a mask. One without elements has nothing to skip.
    pub(super) fn set(&mut self, id: ValueId, axis: usize, mask: MaskId, clean: bool) {
        if self.net.shape(id).elements() == 0 {
            return;
        }
        let slots = &mut self.state[id.index()];
        let same = |slot: &Option<Masked>| slot.is_none_or(|masked| masked.axis == axis);
        let at = slots.iter().position(same).expect("two axes at most");
        slots[at] = Some(Masked { axis, mask, clean });
    }

    /// A value, and all that is its storage, has no mask of an axis any more.
    fn forget(&mut self, id: ValueId, axis: usize) {
        let top = self.tops[id.index()];
        for v in [top].iter().chain(&self.aliases[top.index()]) {
            for slot in &mut self.state[v.index()] {
                slot.take_if(|masked| masked.axis == axis);
            }
        }
    }

    /// Notes that `y`, the result of item `i`, is the storage of its operand.
    pub(super) fn alias(&mut self, y: ValueId, i: usize, masks: bool) {
        self.aliased_by[y.index()] = Some((i, masks));
        let top = self.tops[self.net.items[i].x().index()];
        self.tops[y.index()] = top;
        self.aliases[top.index()].push(y);
    }

    /// The zeros that must be written before `id` is read in full.
    pub(super) fn settle_all(&mut self, id: ValueId) -> Vec<(ValueId, usize, MaskId)> {
        let slots = self.state[id.index()].into_iter().flatten();
        slots
            .filter_map(|masked| self.settle(id, masked.axis))
            .collect()
    }

    /// The zeros that must be written before all of an axis is read.
    pub(super) fn settle(&mut self, id: ValueId, axis: usize) -> Option<(ValueId, usize, MaskId)> {
        let masked = self.at(id, axis).filter(|m| !m.clean)?;
        if self.net.value(id).in_blocks {
            self.forget(id, axis);
            return Some((id, axis, masked.mask));
        }
        // Zeros in storage that another value still reads where it lives would change that value: then the mask copies instead.
        let top = self.tops[id.index()];
        let (mut at, mut mask_item) = (id, None);
        while let (None, Some((by, masks))) = (mask_item, self.aliased_by[at.index()]) {
            mask_item = masks.then_some(by);
            at = self.net.items[by].x();
        }
        let dead_there_too = |v: ValueId| {
            self.at(v, axis)
                .is_some_and(|m| self.masks.table.implies(m.mask, masked.mask))
        };
        let harmed = |v: ValueId| v != id && self.last[v.index()] >= self.now && !dead_there_too(v);
        let ours = self.makers[top.index()].is_some();
        let shared = harmed(top) || self.aliases[top.index()].iter().any(|&v| harmed(v));
        if let Some(item) = mask_item.filter(|_| shared || !ours) {
            self.conflicts.push(item);
        }
        self.set(id, axis, masked.mask, true);
        Some((id, axis, masked.mask))
    }
}
