//! What each kind of work does to masks.

use super::Skip;
use super::needs::query_axis;
use super::walk::Walk;
use crate::graph::{Binary, ValueId};
use crate::plan::net::Item;
use crate::plan::rewrite::{Work, keeps_zero};
use crate::plan::views::Attend;
use crate::{DType, Shape};

/// Channels of a mask at most, once it is stretched over the elements of a flattened map.
const WIDEST: usize = 1 << 18;

impl Walk<'_> {
    /// A convolution or a product: skips dead inputs, and dead outputs when the next mask is known before it runs. Rows of a product that
    /// nobody reads are left out.
    pub(super) fn kernel(&mut self, i: usize, axis: usize, depthwise: bool, times: usize) -> Skip {
        let item = &self.net.items[i];
        let (x, y) = (item.x(), item.y());
        let mut skip = Skip::default();
        if let Some(masked) = self.at(x, axis) {
            skip.input = Some(masked.mask);
            skip.say(format!("skips dead inputs ({})", self.name(masked.mask)));
            self.handled.push((x, axis));
        }
        if depthwise && let Some(mask) = skip.input {
            let keeps_zero = match &item.work {
                Work::Conv(conv) => item.input(2).is_none() && keeps_zero(conv.activation),
                _ => false,
            };
            if keeps_zero {
                let mask = self.masks.table.stretch(mask, times);
                skip.output = Some(mask);
                self.set(y, axis, mask, false);
                return skip;
            }
            skip.note +=
                "; the mask ends here: a bias or the activation makes dead channels constants";
        }
        if let Some(mask) = self.needs.result(&self.masks.table, i, y, axis) {
            skip.say(format!("computes live outputs only ({})", self.name(mask)));
            skip.output = Some(mask);
            self.set(y, axis, mask, false);
        }
        if let Work::Linear(_) = item.work
            && let Some(row) = row_axis(self.net.shape(y))
        {
            self.rows(i, row, "rows", &mut skip);
        }
        if skip.note.is_empty() && self.masks_of(Some(x)).iter().flatten().count() > 0 {
            skip.note = "its operand's dead channels are not along the summed axis".into();
        }
        skip
    }

    /// Leaves out the rows of the result that nobody reads.
    fn rows(&mut self, i: usize, row: usize, what: &str, skip: &mut Skip) {
        let y = self.net.items[i].y();
        if let Some(mask) = self.needs.result(&self.masks.table, i, y, row) {
            skip.say(format!("leaves out dead {what} ({})", self.name(mask)));
            skip.rows = Some(mask);
            self.set(y, row, mask, false);
        }
    }

    /// A normalisation from an axis on. Zeros in front of it stay zeros without a shift, those along it if there is nothing else.
    pub(super) fn norm(&mut self, i: usize, axis: i64, keeps_zero: bool) -> Skip {
        let item = &self.net.items[i];
        let (x, y) = (item.x(), item.y());
        let rank = self.net.shape(x).rank();
        let first = if axis < 0 { axis + rank as i64 } else { axis };
        let mut skip = Skip::default();
        for masked in self.masks_of(Some(x)).into_iter().flatten() {
            let at = masked.axis as i64;
            let along = at == first && first == rank as i64 - 1;
            if keeps_zero && (along || at < first) {
                self.handled.push((x, masked.axis));
                self.set(y, masked.axis, masked.mask, false);
            }
            if keeps_zero && along {
                skip.input = Some(masked.mask);
                skip.output = Some(masked.mask);
                skip.axis = masked.axis;
                skip.say(format!("skips dead channels ({})", self.name(masked.mask)));
            } else if keeps_zero && Some(masked.axis) == row_axis(self.net.shape(x)) {
                skip.rows = Some(masked.mask);
                skip.say(format!("leaves out dead rows ({})", self.name(masked.mask)));
            }
        }
        if let Some(row) = row_axis(self.net.shape(x))
            && (row as i64) < first
            && skip.rows.is_none()
        {
            self.rows(i, row, "rows", &mut skip);
        }
        if skip.note.is_empty() {
            return self.end(item, "it normalises over dead channels too, or shifts them");
        }
        skip
    }

    /// Dead keys are left out, and heads, elements and queries that nobody reads.
    pub(super) fn attention(&mut self, i: usize, at: &Attend) -> Skip {
        let item = &self.net.items[i];
        let y = item.y();
        let shape = self.net.shape(y);
        let mut skip = Skip::default();
        if let Some(live) = item.input(5) {
            let keys = self.masks.table.of_value(self.net, self.makers, live);
            skip.input = Some(keys);
            skip.say(format!("leaves out dead keys ({})", self.name(keys)));
        }
        if at.samples != 1 {
            return skip;
        }
        let axis = if at.by_token { shape.rank() - 1 } else { 1 };
        if let Some(mask) = self.needs.result(&self.masks.table, i, y, axis) {
            self.set(y, axis, mask, false);
            let times = if at.by_token { 1 } else { at.spec.v_width };
            skip.output = Some(self.masks.table.stretch(mask, times));
            skip.say(format!("leaves out dead heads ({})", self.name(mask)));
        }
        if let Some(row) = query_axis(at, shape) {
            self.rows(i, row, "queries", &mut skip);
        }
        skip
    }

    pub(super) fn mask(&mut self, i: usize, axis: usize) -> Skip {
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
            self.pass_on(x, y);
            self.alias(y, i, false);
            return skip;
        }
        let mut mask = self.masks.table.of_value(self.net, self.makers, m);
        let copies = self.copied.contains(&i);
        for before in self.masks_of(Some(x)).into_iter().flatten() {
            let others = self.masks_of(Some(y)).iter().flatten().count();
            if before.axis == axis {
                mask = self.masks.table.and(before.mask, mask);
            } else if copies || others > 0 {
                // A copy reads all, and there is room for one more axis.
                skip.settle.extend(self.settle(x, before.axis));
            } else {
                self.set(y, before.axis, before.mask, before.clean);
            }
        }
        if copies {
            skip.settle.extend(self.settle_all(x));
            skip.note = "copies: its operand is also read in full later".into();
            self.set(y, axis, mask, true);
        } else {
            for masked in self.masks_of(Some(x)).into_iter().flatten() {
                self.handled.push((x, masked.axis));
            }
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

    /// Gives a result the masks of the operand that it is.
    fn pass_on(&mut self, x: ValueId, y: ValueId) {
        for masked in self.masks_of(Some(x)).into_iter().flatten() {
            self.handled.push((x, masked.axis));
            self.set(y, masked.axis, masked.mask, masked.clean);
        }
    }

    /// Operations on each channel by itself, zero in, zero out. What the kernel skips is the mask of the first axis.
    pub(super) fn carry(&mut self, item: &Item, only_axis: Option<usize>) -> Skip {
        let mut skip = Skip::default();
        let Some(x) = item.input(0) else { return skip };
        for masked in self.masks_of(Some(x)).into_iter().flatten() {
            if only_axis.is_some_and(|axis| axis != masked.axis) {
                continue;
            }
            self.handled.push((x, masked.axis));
            if skip.input.is_none() || masked.axis < skip.axis {
                skip.input = Some(masked.mask);
                skip.output = Some(masked.mask);
                skip.axis = masked.axis;
            }
            for &id in item.outputs.iter().flatten() {
                self.set(id, masked.axis, masked.mask, false);
            }
        }
        match skip.input {
            Some(mask) => skip.say(format!("skips dead channels ({})", self.name(mask))),
            None => return self.end(item, "its dead channels are along another axis"),
        }
        skip
    }

    /// The mask ends: the operand is filled with zeros and read in full.
    pub(super) fn end(&mut self, item: &Item, why: &str) -> Skip {
        let masked = item
            .inputs
            .iter()
            .any(|&id| self.masks_of(id).iter().any(Option::is_some));
        Skip {
            note: if masked {
                format!("the mask ends here: {why}")
            } else {
                String::new()
            },
            ..Skip::default()
        }
    }

    pub(super) fn reshape(&mut self, item: &Item) -> Skip {
        let (x, y) = (item.x(), item.y());
        let (from, to) = (self.net.shape(x), self.net.shape(y));
        let mut skip = Skip::default();
        self.alias(y, self.now, false);
        for masked in self.masks_of(Some(x)).into_iter().flatten() {
            let taken = |axis| self.at(y, axis).is_some();
            match reshaped_axis(from, to, masked.axis) {
                Some((axis, times)) if to[axis] <= WIDEST && !taken(axis) => {
                    let mask = self.masks.table.stretch(masked.mask, times);
                    self.handled.push((x, masked.axis));
                    self.set(y, axis, mask, masked.clean);
                }
                _ => {
                    skip.note =
                        "the mask ends here: the new shape mixes channels with other axes".into();
                }
            }
        }
        skip.alias = true;
        skip
    }

    pub(super) fn transpose(&mut self, item: &Item, perm: Option<&[usize]>) -> Skip {
        let x = item.x();
        let rank = self.net.shape(x).rank();
        let mut skip = Skip::default();
        for masked in self.masks_of(Some(x)).into_iter().flatten() {
            let axis = match perm {
                None => rank - 1 - masked.axis,
                Some(perm) => match perm.iter().position(|&p| p == masked.axis) {
                    Some(axis) => axis,
                    None => return self.end(item, "the permutation has no such axis"),
                },
            };
            self.handled.push((x, masked.axis));
            self.set(item.y(), axis, masked.mask, masked.clean);
            skip.note = "carries the mask, copies every channel".into();
        }
        skip
    }

    pub(super) fn binary(&mut self, i: usize, op: Binary) -> Skip {
        let item = &self.net.items[i];
        let y = item.y();
        let out = self.net.value(y);
        let (left, right) = (item.input(0), item.input(1));
        if out.dtype != DType::F32 {
            return self.end(item, "only f32 is carried");
        }
        let full = |id: Option<ValueId>| id.filter(|&id| self.net.shape(id) == out.shape);
        let (a, b) = (full(left), full(right));
        let mut axes: Vec<usize> = Vec::with_capacity(4);
        for masked in [a, b].iter().flat_map(|&id| self.masks_of(id)).flatten() {
            if !axes.contains(&masked.axis) {
                axes.push(masked.axis);
            }
        }
        // In one order whatever the operands: two axes are carried.
        axes.sort_unstable();
        let mut skip = Skip::default();
        for axis in axes.into_iter().take(2) {
            let (in_a, in_b) = (
                a.and_then(|id| self.at(id, axis)),
                b.and_then(|id| self.at(id, axis)),
            );
            let plain = |id: Option<ValueId>| {
                self.masks_of(id)
                    .iter()
                    .flatten()
                    .all(|m| m.clean || m.axis != axis)
            };
            let (plain_a, plain_b) = (plain(left), plain(right));
            let table = &mut self.masks.table;
            let mask = match (op, in_a, in_b) {
                (Binary::Mul, Some(a), Some(b)) => table.and(a.mask, b.mask),
                // The other operand of a product or the divisor is read as it is where this one lives.
                (Binary::Mul | Binary::Div, Some(a), None) if plain_b => a.mask,
                (Binary::Mul, None, Some(b)) if plain_a => b.mask,
                (Binary::Add | Binary::Sub | Binary::Min | Binary::Max, Some(a), Some(b)) => {
                    if a.mask != b.mask {
                        let either = table.or(a.mask, b.mask);
                        skip.say(format!("the union of two masks ({})", self.name(either)));
                        for id in [left, right].into_iter().flatten() {
                            skip.settle.extend(self.settle(id, axis));
                        }
                        self.set(y, axis, either, true);
                        continue;
                    }
                    a.mask
                }
                _ => continue,
            };
            for id in [left, right].into_iter().flatten() {
                self.handled.push((id, axis));
            }
            self.set(y, axis, mask, false);
            if skip.input.is_none() {
                skip.input = Some(mask);
                skip.output = Some(mask);
                skip.axis = axis;
                skip.say(format!("skips dead channels ({})", self.name(mask)));
            }
        }
        if skip.note.is_empty() {
            return self.end(item, "the other operand is live everywhere");
        }
        skip
    }
}

impl Skip {
    /// Adds to the note.
    fn say(&mut self, what: impl AsRef<str>) {
        if !self.note.is_empty() {
            self.note += ", ";
        }
        self.note += what.as_ref();
    }
}

/// The axis whose elements are rows: the only one in front of the last.
fn row_axis(shape: Shape) -> Option<usize> {
    let last = shape.rank().checked_sub(1)?;
    let mut several = (0..last).filter(|&axis| shape[axis] != 1);
    let axis = several.next()?;
    several.next().is_none().then_some(axis)
}

/// Where the channel axis of `from`, which has elements, is found in `to`, and how often each channel is repeated there.
pub(super) fn reshaped_axis(from: Shape, to: Shape, axis: usize) -> Option<(usize, usize)> {
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
