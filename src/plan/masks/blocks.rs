//! Masks of maps in blocks of channels: what has one is compact, in storage too. It holds the channels of its mask alone.

use super::Skip;
use super::walk::Walk;
use crate::graph::ValueId;
use crate::plan::blocks::Blocks;
use crate::plan::net::Item;
use crate::plan::rewrite::{Conv, Maps, keeps_zero};
use crate::plan::step::BlocksOp;
use sluicegate_kernels::ops::binary::BinaryOp;

/// The axis of channels.
const AXIS: usize = 1;

impl Walk<'_> {
    /// A convolution that makes blocks.
    pub(super) fn blocks_conv(&mut self, i: usize, conv: &Conv) -> Skip {
        debug_assert!(conv.maps != Maps::Planes);
        let mut skip = if conv.is_depthwise() {
            self.blocks_depthwise(i, conv)
        } else {
            self.kernel(i, AXIS, false, 1)
        };
        skip.note = said("its maps are in blocks of channels", &skip.note);
        skip
    }

    /// Its result has the channels that its operand has.
    fn blocks_depthwise(&mut self, i: usize, conv: &Conv) -> Skip {
        let item = &self.net.items[i];
        let (x, y) = (item.x(), item.y());
        let Some(masked) = self.at(x, AXIS) else {
            return Skip::default();
        };
        let zero = item.input(2).is_none() && keeps_zero(conv.activation);
        let needed = self.needs.result(&self.masks.table, i, y, AXIS);
        let unread = needed.is_some_and(|need| self.masks.table.implies(need, masked.mask));
        if zero || unread {
            return self.stays_compact(item, &[x]);
        }
        self.end(
            item,
            "a bias or the activation makes dead channels constants",
        )
    }

    /// Another operation on maps in blocks.
    pub(super) fn blocks_op(&mut self, i: usize, blocks: &Blocks) -> Skip {
        let item = &self.net.items[i];
        let (x, other) = (item.x(), item.input(1));
        let mut skip = match blocks.op {
            BlocksOp::FromPlanes if self.at(x, AXIS).is_none() => self.blocks_of_planes(i),
            BlocksOp::FromPlanes
            | BlocksOp::ToPlanes
            | BlocksOp::Mean
            | BlocksOp::MeanMax
            | BlocksOp::Pool(_) => self.stays_compact(item, &[x]),
            BlocksOp::Activate(act) if keeps_zero(act) => self.stays_compact(item, &[x]),
            BlocksOp::Activate(_) => self.end(item, "the function does not map zero to zero"),
            BlocksOp::Binary(op) => {
                let masks = [Some(x), other].map(|id| Some(self.at(id?, AXIS)?.mask));
                let zero = !matches!(op, BinaryOp::Div | BinaryOp::Pow);
                match other {
                    Some(other) if zero && masks[0] == masks[1] => {
                        self.stays_compact(item, &[x, other])
                    }
                    _ => self.end(item, "the operands have other masks, or zeros do not stay"),
                }
            }
            BlocksOp::Mask => self.blocks_mask(i),
        };
        skip.note = said("of maps in blocks of channels", &skip.note);
        skip
    }

    /// Blocks of the planes that anybody reads.
    fn blocks_of_planes(&mut self, i: usize) -> Skip {
        let mut skip = Skip::default();
        let y = self.net.items[i].y();
        if let Some(mask) = self.needs.result(&self.masks.table, i, y, AXIS) {
            self.set(y, AXIS, mask, false);
            skip.input = Some(mask);
            skip.axis = AXIS;
            skip.note = format!("leaves out dead channels ({})", self.name(mask));
        }
        skip
    }

    /// The results have the mask of these operands, if they have one.
    fn stays_compact(&mut self, item: &Item, operands: &[ValueId]) -> Skip {
        let mut skip = Skip::default();
        let Some(masked) = self.at(operands[0], AXIS) else {
            return skip;
        };
        for &id in operands {
            self.handled.push((id, AXIS));
        }
        for &y in item.outputs.iter().flatten() {
            self.set(y, AXIS, masked.mask, false);
        }
        skip.input = Some(masked.mask);
        skip.axis = AXIS;
        skip.note = format!("skips dead channels ({})", self.name(masked.mask));
        skip
    }

    /// Where the operand is made of live channels alone, its storage; else those are put together.
    fn blocks_mask(&mut self, i: usize) -> Skip {
        let item = &self.net.items[i];
        let (x, y) = (item.x(), item.y());
        let m = item.input(1).expect("a mask has two operands");
        let mut skip = Skip::default();
        let mask = self.masks.table.of_value(self.net, self.makers, m);
        let before = self.at(x, AXIS).map(|masked| masked.mask);
        let full = |id| (self.masks.table.as_static(id)).is_some_and(|m| m.is_full());
        let narrows = match before {
            None => !full(mask),
            Some(before) => !self.masks.table.implies(before, mask),
        };
        if !narrows {
            skip.alias = true;
            self.alias(y, i, false);
            skip.note = "costs nothing: others are not there".into();
            if let Some(before) = before {
                self.handled.push((x, AXIS));
                self.set(y, AXIS, before, false);
            }
            return skip;
        }
        let mask = match before {
            None => mask,
            // What another mask has left out is put back first.
            Some(before) => {
                skip.settle.extend(self.settle(x, AXIS));
                self.masks.table.and(before, mask)
            }
        };
        self.set(y, AXIS, mask, false);
        skip.output = Some(mask);
        skip.note = format!("puts live channels together ({})", self.name(mask));
        skip.axis = AXIS;
        skip
    }
}

fn said(what: &str, more: &str) -> String {
    match more {
        "" => what.into(),
        _ => format!("{what}, {more}"),
    }
}
