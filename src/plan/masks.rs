//! Which channels are dead where: carries masks through the operations that preserve zero, and says where they end and why.

use std::collections::BTreeSet;

use super::net::{Item, Net};
use super::rewrite::{Work, keeps_zero};
use crate::graph::{Binary, Op, ValueId};
use crate::{ChannelMask, DType, Shape};

/// An index into [`MaskTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MaskId(pub(crate) usize);

/// Where a mask comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MaskDef {
    /// A constant of the model.
    Static(ChannelMask),
    /// Channel `c` is live where element `c` of the value is not zero; one mask per sample.
    Value(ValueId),
    /// Live in both.
    And(MaskId, MaskId),
    /// Live in either.
    Or(MaskId, MaskId),
    /// Each channel repeated.
    Stretch(MaskId, usize),
}

/// All masks of a plan, each defined once.
#[derive(Debug, Clone, Default)]
pub(crate) struct MaskTable {
    pub(crate) defs: Vec<MaskDef>,
    /// Channels of each.
    pub(crate) channels: Vec<usize>,
}

impl MaskTable {
    fn intern(&mut self, def: MaskDef, channels: usize) -> MaskId {
        let known = self.defs.iter().position(|d| *d == def);
        MaskId(known.unwrap_or_else(|| {
            self.defs.push(def);
            self.channels.push(channels);
            self.defs.len() - 1
        }))
    }

    pub(crate) fn as_static(&self, id: MaskId) -> Option<&ChannelMask> {
        match &self.defs[id.0] {
            MaskDef::Static(mask) => Some(mask),
            _ => None,
        }
    }

    /// Whether every channel live in `a` is live in `b` for certain.
    fn implies(&self, a: MaskId, b: MaskId) -> bool {
        if a == b {
            return true;
        }
        match (&self.defs[a.0], &self.defs[b.0]) {
            (MaskDef::Static(x), MaskDef::Static(y)) => x.and(y).is_ok_and(|both| both == *x),
            (MaskDef::And(x, y), _) => self.implies(*x, b) || self.implies(*y, b),
            (_, MaskDef::Or(x, y)) => self.implies(a, *x) || self.implies(a, *y),
            _ => false,
        }
    }

    fn and(&mut self, a: MaskId, b: MaskId) -> MaskId {
        if self.implies(a, b) {
            return a;
        }
        if self.implies(b, a) {
            return b;
        }
        let channels = self.channels[a.0];
        let both = self
            .as_static(a)
            .zip(self.as_static(b))
            .and_then(|(x, y)| x.and(y).ok());
        self.intern(both.map_or(MaskDef::And(a, b), MaskDef::Static), channels)
    }

    fn or(&mut self, a: MaskId, b: MaskId) -> MaskId {
        if self.implies(a, b) {
            return b;
        }
        if self.implies(b, a) {
            return a;
        }
        let channels = self.channels[a.0];
        let both = self
            .as_static(a)
            .zip(self.as_static(b))
            .and_then(|(x, y)| x.or(y).ok());
        self.intern(both.map_or(MaskDef::Or(a, b), MaskDef::Static), channels)
    }

    fn stretch(&mut self, a: MaskId, times: usize) -> MaskId {
        if times == 1 {
            return a;
        }
        let channels = self.channels[a.0] * times;
        let mask = self.as_static(a).map(|m| m.stretch(times));
        self.intern(
            mask.map_or(MaskDef::Stretch(a, times), MaskDef::Static),
            channels,
        )
    }

    /// The mask that a value of zeros and ones stands for. A product of two is live where both are.
    fn of_value(&mut self, net: &Net, makers: &[Option<usize>], id: ValueId) -> MaskId {
        let value = net.value(id);
        let channels = value.shape.last().copied().unwrap_or(1);
        if let Some(values) = value.floats() {
            return self.intern(
                MaskDef::Static(ChannelMask::from_fn(channels, |c| values[c] != 0.0)),
                channels,
            );
        }
        if let Some(item) = makers[id.index()].map(|i| &net.items[i])
            && let (Work::Op(Op::Binary(Binary::Mul)), Some(a), Some(b)) =
                (&item.work, item.input(0), item.input(1))
            && [a, b].iter().all(|&v| net.shape(v) == value.shape)
        {
            let a = self.of_value(net, makers, a);
            let b = self.of_value(net, makers, b);
            return self.and(a, b);
        }
        self.intern(MaskDef::Value(id), channels)
    }
}

/// Dead channels of a value: along `axis` those outside `mask` are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Masked {
    pub(super) axis: usize,
    pub(super) mask: MaskId,
    /// Their storage holds the zeros; otherwise it holds anything.
    clean: bool,
}

/// What masks do to one item.
#[derive(Debug, Clone, Default)]
pub(super) struct Skip {
    /// Channels of the operand that are not read.
    pub(super) input: Option<MaskId>,
    /// Channels of the result that are neither computed nor written.
    pub(super) output: Option<MaskId>,
    /// Operands whose dead channels are filled with zeros first.
    pub(super) settle: Vec<(ValueId, usize, MaskId)>,
    /// The channel axis of both.
    pub(super) axis: usize,
    /// A [`Op::Mask`] that only names dead channels: the result is the operand's storage.
    pub(super) alias: bool,
    /// What a reader of the plan wants to know.
    pub(super) note: String,
}

/// The masks of a net, item by item, and those of the outputs that must be settled at the end.
#[derive(Debug, Default)]
pub(super) struct Masks {
    pub(super) table: MaskTable,
    pub(super) skips: Vec<Skip>,
    pub(super) settle_outputs: Vec<(ValueId, usize, MaskId)>,
}

/// Carries the masks through the net.
pub(super) fn propagate(net: &Net) -> Masks {
    // A mask is an alias of its operand until someone needs the zeros in storage that others still read in full.
    let mut copied = BTreeSet::new();
    loop {
        let mut walk = Walk::new(net, &copied);
        walk.run();
        match walk.conflict {
            Some(item) => copied.insert(item),
            None => return walk.masks,
        };
    }
}

struct Walk<'a> {
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
    masks: Masks,
    conflict: Option<usize>,
}

impl<'a> Walk<'a> {
    fn new(net: &'a Net, copied: &'a BTreeSet<usize>) -> Self {
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
            masks: Masks::default(),
            conflict: None,
        }
    }

    fn run(&mut self) {
        for i in 0..self.net.items.len() {
            let skip = self.item(i);
            self.masks.skips.push(skip);
        }
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
            Op::Transpose { perm } => self.transpose(item, perm.as_deref()),
            Op::Binary(op) => self.binary(item, *op),
            _ => self.end(item, "its kernel reads every channel"),
        }
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

    /// The zeros that must be written before `id` is read in full.
    fn settle(&mut self, id: ValueId) -> Option<(ValueId, usize, MaskId)> {
        let masked = self.state[id.index()].filter(|m| !m.clean)?;
        // Storage shared with a value that is still read in full must not be changed: then the mask copies instead.
        let (mut root, mut mask_item) = (id, None);
        while let Some((by, masks)) = self.aliased_by[root.index()] {
            let source = self.net.items[by].x();
            if masks {
                mask_item = Some(by);
            }
            let shared = masks || self.state[source.index()].is_none();
            let ours = self.makers[source.index()].is_some() && self.last[source.index()] <= by;
            if shared && !ours && self.conflict.is_none() {
                self.conflict = mask_item;
            }
            root = source;
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
        let mask = reader.input(1)?;
        let ready = self.net.value(mask).constant.is_some()
            || self.makers[mask.index()].is_some_and(|m| m < i);
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
        let mut skip = Skip::default();
        let mut mask = self.masks.table.of_value(self.net, &self.makers, m);
        if self
            .masks
            .table
            .as_static(mask)
            .is_some_and(ChannelMask::is_full)
        {
            skip.alias = true;
            skip.note = "every channel is live".into();
            self.state[y.index()] = self.state[x.index()];
            self.aliased_by[y.index()] = Some((i, false));
            return skip;
        }
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
            self.aliased_by[y.index()] = Some((i, true));
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
        self.aliased_by[y.index()] = self.makers[y.index()].map(|i| (i, false));
        if let Some(masked) = self.state_of(Some(x)) {
            match reshaped_axis(from, to, masked.axis) {
                Some((axis, times)) => {
                    let mask = self.masks.table.stretch(masked.mask, times);
                    self.set(y, axis, mask, masked.clean);
                }
                None => {
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

/// A mask in words.
pub(super) fn describe(net: &Net, table: &MaskTable, id: MaskId) -> String {
    match &table.defs[id.0] {
        MaskDef::Static(mask) => format!("static, {} of {} live", mask.count(), mask.len()),
        MaskDef::Value(value) => format!("mask `{}`", net.value(*value).name),
        MaskDef::And(a, b) => format!(
            "{} and {}",
            describe(net, table, *a),
            describe(net, table, *b)
        ),
        MaskDef::Or(a, b) => format!(
            "{} or {}",
            describe(net, table, *a),
            describe(net, table, *b)
        ),
        MaskDef::Stretch(a, times) => format!("{}, each {times} times", describe(net, table, *a)),
    }
}
