//! Carries masks through the operations that preserve zero, and says where they end and why.

use std::collections::BTreeSet;

use super::{MaskId, Masked, Masks, Skip, describe};
use crate::graph::{Binary, Op, ValueId};
use crate::plan::net::{Item, Net};
use crate::plan::rewrite::{Work, keeps_zero};
use crate::{ChannelMask, DType, Shape};

/// Channels of a mask at most, once it is stretched over the elements of a flattened map.
const WIDEST: usize = 1 << 18;

pub(super) struct Walk<'a> {
    net: &'a Net,
    copied: &'a BTreeSet<usize>,
    /// The item that makes a value.
    makers: Vec<Option<usize>>,
    /// The last item that reads a value; `usize::MAX` for outputs.
    last: Vec<usize>,
    uses: Vec<usize>,
    state: Vec<Option<Masked>>,
    /// For a result that is its operand's storage: the item, and whether it names dead channels that the operand does not have.
    aliased_by: Vec<Option<(usize, bool)>>,
    /// The value whose storage a value is, itself where it has its own.
    tops: Vec<ValueId>,
    /// For a value with storage of its own: the others that are it.
    aliases: Vec<Vec<ValueId>>,
    /// The item at which the walk is; `usize::MAX` at the outputs.
    now: usize,
    pub(super) masks: Masks,
    /// Masks that cannot be aliases after all.
    pub(super) conflicts: Vec<usize>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(net: &'a Net, copied: &'a BTreeSet<usize>) -> Self {
        let n = net.len();
        let (mut makers, mut last) = (vec![None; n], vec![0; n]);
        for (i, item) in net.items.iter().enumerate() {
            for id in item.outputs.iter().flatten() {
                makers[id.index()] = Some(i);
            }
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
            uses: net.uses(),
            state: vec![None; n],
            aliased_by: vec![None; n],
            tops: (0..n).map(|i| ValueId(i as u32)).collect(),
            aliases: vec![Vec::new(); n],
            now: 0,
            masks: Masks::default(),
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
            if let Some(settle) = self.settle(id) {
                self.masks.settle_outputs.push(settle);
            }
        }
    }

    fn item(&mut self, i: usize) -> Skip {
        let item = &self.net.items[i];
        let skip = match &item.work {
            Work::Conv(conv) => self.kernel(
                i,
                1,
                conv.is_depthwise(),
                conv.shape.c_out / conv.shape.c_in.max(1),
            ),
            Work::Attention(_) => self.attention(i),
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
        // Whatever rule was taken, an operand that it does not skip is read in full.
        let mut skip = skip;
        let skipped = if skip.input.is_some() || skip.alias {
            item.input(0)
        } else {
            None
        };
        let rest: Vec<ValueId> = item
            .inputs
            .iter()
            .flatten()
            .copied()
            .filter(|&id| Some(id) != skipped)
            .collect();
        if !self.keeps_all(item) {
            for id in rest {
                skip.settle.extend(self.settle(id));
            }
        }
        skip
    }

    /// Elementwise products and sums handle the masks of both operands themselves.
    fn keeps_all(&self, item: &Item) -> bool {
        matches!(item.work, Work::Op(Op::Binary(_))) && self.state_of(item.output(0)).is_some()
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
            Op::RmsNorm { axis, .. } => {
                let last = self.net.shape(item.x()).rank() as i64 - 1;
                let along = self
                    .state_of(item.input(0))
                    .is_some_and(|m| m.axis as i64 == last);
                if along && (*axis == -1 || *axis == last) {
                    self.carry(item, None)
                } else {
                    self.end(item, "it normalises over other axes too")
                }
            }
            Op::Gate { .. } => {
                // A sample that leaves takes along the outputs that are there.
                let mut skip = self.end(item, "a gate decides by one number");
                for &id in &self.net.outputs {
                    skip.settle.extend(self.settle(id));
                }
                skip
            }
            Op::Transpose { perm } => self.transpose(item, perm.as_deref()),
            Op::Binary(op) => self.binary(item, *op),
            _ => self.end(item, "its kernel reads every channel"),
        }
    }

    fn attention(&mut self, i: usize) -> Skip {
        let item = &self.net.items[i];
        let mut skip = self.end(item, "attention reads every channel");
        skip.input = item
            .input(5)
            .map(|live| self.masks.table.of_value(self.net, &self.makers, live));
        skip
    }

    fn state_of(&self, id: Option<ValueId>) -> Option<Masked> {
        id.and_then(|id| self.state[id.index()])
    }

    fn name(&self, mask: MaskId) -> String {
        describe(self.net, &self.masks.table, mask)
    }

    fn set(&mut self, id: ValueId, axis: usize, mask: MaskId, clean: bool) {
        self.state[id.index()] = Some(Masked { axis, mask, clean });
    }

    /// Notes that `y`, the result of item `i`, is the storage of its operand.
    fn alias(&mut self, y: ValueId, i: usize, masks: bool) {
        self.aliased_by[y.index()] = Some((i, masks));
        let top = self.tops[self.net.items[i].x().index()];
        self.tops[y.index()] = top;
        self.aliases[top.index()].push(y);
    }

    /// The zeros that must be written before `id` is read in full.
    fn settle(&mut self, id: ValueId) -> Option<(ValueId, usize, MaskId)> {
        let masked = self.state[id.index()].filter(|m| !m.clean)?;
        // Zeros in storage that another value still reads where it lives would change that value: then the mask copies instead.
        let top = self.tops[id.index()];
        let (mut at, mut mask_item) = (id, None);
        while let (None, Some((by, masks))) = (mask_item, self.aliased_by[at.index()]) {
            mask_item = masks.then_some(by);
            at = self.net.items[by].x();
        }
        let dead_there_too = |v: ValueId| {
            self.state[v.index()].is_some_and(|m| {
                m.axis == masked.axis && self.masks.table.implies(m.mask, masked.mask)
            })
        };
        let harmed = |v: ValueId| v != id && self.last[v.index()] >= self.now && !dead_there_too(v);
        let ours = self.makers[top.index()].is_some();
        let shared = harmed(top) || self.aliases[top.index()].iter().any(|&v| harmed(v));
        if let Some(item) = mask_item.filter(|_| shared || !ours) {
            self.conflicts.push(item);
        }
        self.state[id.index()] = Some(Masked {
            clean: true,
            ..masked
        });
        Some((id, masked.axis, masked.mask))
    }

    /// A convolution or a product: skips dead inputs, and dead outputs when the next mask is known before it runs.
    fn kernel(&mut self, i: usize, axis: usize, depthwise: bool, multiplier: usize) -> Skip {
        let item = &self.net.items[i];
        let (x, y) = (item.x(), item.y());
        let mut skip = Skip::default();
        if let Some(masked) = self.state_of(Some(x)) {
            if masked.axis == axis {
                skip.input = Some(masked.mask);
                skip.note = format!("skips dead inputs ({})", self.name(masked.mask));
            } else {
                skip.note = "its operand's dead channels are not along the summed axis".into();
            }
        }
        let zero_in_zero_out = match &item.work {
            Work::Conv(conv) => depthwise && item.input(2).is_none() && keeps_zero(conv.activation),
            _ => false,
        };
        if depthwise && skip.input.is_some() {
            if zero_in_zero_out {
                let mask = self
                    .masks
                    .table
                    .stretch(self.state_of(Some(x)).expect("masked").mask, multiplier);
                skip.output = Some(mask);
                self.set(y, axis, mask, false);
                return skip;
            }
            skip.note +=
                "; the mask ends here: a bias or the activation makes dead channels constants";
        }
        if let Some(mask) = self.next_mask(i, y, axis) {
            let separator = if skip.note.is_empty() { "" } else { ", " };
            skip.note = format!(
                "{}{separator}computes live outputs only ({})",
                skip.note,
                self.name(mask)
            );
            skip.output = Some(mask);
            self.set(y, axis, mask, false);
        }
        skip
    }

    /// The mask on the result of item `i`, when that is all that is done with the result and the mask is there before.
    fn next_mask(&mut self, i: usize, y: ValueId, axis: usize) -> Option<MaskId> {
        if self.uses[y.index()] != 1 {
            return None;
        }
        let reader = self.net.items.get(self.last[y.index()])?;
        let Work::Op(Op::Mask { axis: masked }) = reader.work else {
            return None;
        };
        let mask = reader
            .input(1)
            .filter(|&id| self.net.value(id).dtype == DType::F32)?;
        // What nobody makes is a constant or an input of the graph.
        let ready = self.makers[mask.index()].is_none_or(|m| m < i);
        (masked == axis && reader.x() == y && ready)
            .then(|| self.masks.table.of_value(self.net, &self.makers, mask))
            .filter(|&m| {
                !self
                    .masks
                    .table
                    .as_static(m)
                    .is_some_and(ChannelMask::is_full)
            })
    }

    fn mask(&mut self, i: usize, axis: usize) -> Skip {
        let item = &self.net.items[i];
        let (x, y, m) = (
            item.x(),
            item.y(),
            item.input(1).expect("a mask has two operands"),
        );
        if [x, m]
            .iter()
            .any(|&id| self.net.value(id).dtype != DType::F32)
        {
            return self.end(item, "only masks of f32 on f32 are carried");
        }
        let mut skip = Skip::default();
        let full = |values: &[f32]| values.iter().all(|&v| v != 0.0);
        if self.net.value(m).floats().is_some_and(full) {
            skip.alias = true;
            skip.note = "every channel is live".into();
            self.state[y.index()] = self.state[x.index()];
            self.alias(y, i, false);
            return skip;
        }
        let mut mask = self.masks.table.of_value(self.net, &self.makers, m);
        if let Some(before) = self.state_of(Some(x)) {
            if before.axis == axis {
                mask = self.masks.table.and(before.mask, mask);
            } else {
                skip.settle.extend(self.settle(x));
            }
        }
        if self.copied.contains(&i) {
            skip.settle.extend(self.settle(x));
            skip.note = "copies: its operand is also read in full later".into();
            self.set(y, axis, mask, true);
        } else {
            skip.alias = true;
            skip.note = format!(
                "costs nothing: names the dead channels ({})",
                self.name(mask)
            );
            self.alias(y, i, true);
            self.set(y, axis, mask, false);
        }
        skip
    }

    /// Operations on each channel by itself, zero in, zero out.
    fn carry(&mut self, item: &Item, only_axis: Option<usize>) -> Skip {
        let mut skip = Skip::default();
        let Some(masked) = self.state_of(item.input(0)) else {
            return skip;
        };
        if only_axis.is_some_and(|axis| axis != masked.axis) {
            return self.end(item, "its dead channels are along another axis");
        }
        skip.input = Some(masked.mask);
        skip.output = Some(masked.mask);
        skip.axis = masked.axis;
        skip.note = format!("skips dead channels ({})", self.name(masked.mask));
        for id in item.outputs.iter().flatten() {
            self.set(*id, masked.axis, masked.mask, false);
        }
        skip
    }

    /// The mask ends: the operand is filled with zeros and read in full.
    fn end(&mut self, item: &Item, why: &str) -> Skip {
        let masked = item
            .inputs
            .iter()
            .flatten()
            .any(|id| self.state[id.index()].is_some());
        Skip {
            note: if masked {
                format!("the mask ends here: {why}")
            } else {
                String::new()
            },
            ..Skip::default()
        }
    }

    fn reshape(&mut self, item: &Item) -> Skip {
        let (x, y) = (item.x(), item.y());
        let (from, to) = (self.net.shape(x), self.net.shape(y));
        let mut skip = Skip::default();
        self.alias(y, self.now, false);
        if let Some(masked) = self.state_of(Some(x)) {
            match reshaped_axis(from, to, masked.axis) {
                Some((axis, times)) if to[axis] <= WIDEST => {
                    let mask = self.masks.table.stretch(masked.mask, times);
                    self.set(y, axis, mask, masked.clean);
                }
                _ => {
                    skip = self.end(item, "the new shape mixes channels with other axes");
                    skip.settle.extend(self.settle(x));
                }
            }
        }
        skip.alias = true;
        skip
    }

    fn transpose(&mut self, item: &Item, perm: Option<&[usize]>) -> Skip {
        let Some(masked) = self.state_of(item.input(0)) else {
            return Skip::default();
        };
        let rank = self.net.shape(item.x()).rank();
        let axis = match perm {
            None => rank - 1 - masked.axis,
            Some(perm) => match perm.iter().position(|&p| p == masked.axis) {
                Some(axis) => axis,
                None => return self.end(item, "the permutation has no such axis"),
            },
        };
        self.set(item.y(), axis, masked.mask, masked.clean);
        Skip {
            input: Some(masked.mask),
            note: "carries the mask, copies every channel".into(),
            ..Skip::default()
        }
    }

    fn binary(&mut self, item: &Item, op: Binary) -> Skip {
        let y = item.y();
        let out = self.net.value(y);
        let full = |id: Option<ValueId>| id.filter(|&id| self.net.shape(id) == out.shape);
        let (a, b) = (
            self.state_of(full(item.input(0))),
            self.state_of(full(item.input(1))),
        );
        let (plain_a, plain_b) = (self.plain(item.input(0)), self.plain(item.input(1)));
        let table = &mut self.masks.table;
        let carried = match (op, a, b) {
            _ if out.dtype != DType::F32 => None,
            (Binary::Mul, Some(a), Some(b)) if a.axis == b.axis => {
                Some((a.axis, table.and(a.mask, b.mask)))
            }
            // The other operand of a product or the divisor is read as it is where this one lives.
            (Binary::Mul | Binary::Div, Some(a), None) if plain_b => Some((a.axis, a.mask)),
            (Binary::Mul, None, Some(b)) if plain_a => Some((b.axis, b.mask)),
            (Binary::Add | Binary::Sub | Binary::Min | Binary::Max, Some(a), Some(b))
                if a.axis == b.axis =>
            {
                if a.mask == b.mask {
                    Some((a.axis, a.mask))
                } else {
                    let either = table.or(a.mask, b.mask);
                    let mut skip = Skip {
                        note: format!("the union of two masks ({})", self.name(either)),
                        ..Skip::default()
                    };
                    skip.settle
                        .extend(item.input(0).and_then(|id| self.settle(id)));
                    skip.settle
                        .extend(item.input(1).and_then(|id| self.settle(id)));
                    self.set(y, a.axis, either, true);
                    return skip;
                }
            }
            _ => None,
        };
        let Some((axis, mask)) = carried else {
            return self.end(item, "the other operand is live everywhere");
        };
        self.set(y, axis, mask, false);
        Skip {
            input: Some(mask),
            output: Some(mask),
            axis,
            note: format!("skips dead channels ({})", self.name(mask)),
            ..Skip::default()
        }
    }

    /// Whether a value has no dead channels that hold anything but zeros.
    fn plain(&self, id: Option<ValueId>) -> bool {
        self.state_of(id).is_none_or(|m| m.clean)
    }
}

/// Where the channel axis of `from` is found in `to`, and how often each channel is repeated there.
fn reshaped_axis(from: Shape, to: Shape, axis: usize) -> Option<(usize, usize)> {
    let before: usize = from[..axis].iter().product();
    let channels = from[axis];
    let mut outer = 1usize;
    for (i, &d) in to.iter().enumerate() {
        if outer == before && d != 1 && d >= channels && d % channels == 0 {
            let times = d / channels;
            let inner: usize = from[axis + 1..].iter().product();
            return (times == 1 || inner.is_multiple_of(times)).then_some((i, times));
        }
        outer *= d;
    }
    None
}
