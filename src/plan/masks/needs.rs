//! Which channels of a value anybody reads: masks carried backwards.
//!
//! A channel that every reader drops, or makes only such channels of, need not be computed. Dead tokens behave so: a block's products and
//! norms make something of a row of zeros, but its attention has no such key, and the mask behind it no such row.

use super::rules::reshaped_axis;
use super::{LOOKS, MaskDef, MaskId, MaskTable};
use crate::graph::{Op, ValueId};
use crate::plan::net::Net;
use crate::plan::rewrite::Work;
use crate::plan::step::BlocksOp;
use crate::plan::views::Attend;
use crate::{ChannelMask, DType, Shape};

/// Which channels along one axis anybody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Need {
    /// None, as far as is known.
    #[default]
    Nothing,
    Only(MaskId),
    All,
}

/// What is read of each value, by axis.
pub(super) struct Needs<'a> {
    net: &'a Net,
    makers: &'a [Option<usize>],
    of: Vec<Vec<Need>>,
    is_output: Vec<bool>,
}

impl<'a> Needs<'a> {
    /// Readers come behind what they read: one walk from the end sees them first.
    pub(super) fn new(net: &'a Net, makers: &'a [Option<usize>], table: &mut MaskTable) -> Self {
        let mut needs = Self {
            net,
            makers,
            of: vec![Vec::new(); net.len()],
            is_output: vec![false; net.len()],
        };
        for id in &net.outputs {
            needs.is_output[id.index()] = true;
        }
        for (i, item) in net.items.iter().enumerate().rev() {
            for &x in item.inputs.iter().flatten() {
                let rank = net.shape(x).rank();
                needs.of[x.index()].resize(rank, Need::Nothing);
                for axis in 0..rank {
                    let one = needs.by(table, i, x, axis);
                    let all = &mut needs.of[x.index()][axis];
                    *all = joined(table, *all, one.map_or(Need::All, Need::Only));
                }
            }
        }
        needs
    }

    /// The only channels along `axis` of a result that anybody reads.
    fn only(&self, y: ValueId, axis: usize) -> Option<MaskId> {
        match self.of[y.index()].get(axis) {
            Some(&Need::Only(mask)) if !self.is_output[y.index()] => Some(mask),
            _ => None,
        }
    }

    /// The same, of a result of item `i` and when they are known before it runs.
    pub(super) fn result(
        &self,
        table: &MaskTable,
        i: usize,
        y: ValueId,
        axis: usize,
    ) -> Option<MaskId> {
        self.useful(table, self.only(y, axis)?, i)
    }

    /// The only channels that item `i` reads of an operand, when they are known before it runs.
    pub(super) fn operand(
        &self,
        table: &mut MaskTable,
        i: usize,
        x: ValueId,
        axis: usize,
    ) -> Option<MaskId> {
        let mask = self.by(table, i, x, axis)?;
        self.useful(table, mask, i)
    }

    fn useful(&self, table: &MaskTable, mask: MaskId, i: usize) -> Option<MaskId> {
        let full = table.as_static(mask).is_some_and(ChannelMask::is_full);
        (!full && self.ready(table, mask, i, &mut { LOOKS })).then_some(mask)
    }

    /// Whether all that a mask is made of is there before item `i`. What nobody makes is a constant or an input of the graph.
    fn ready(&self, table: &MaskTable, mask: MaskId, i: usize, looks: &mut u32) -> bool {
        let Some(left) = looks.checked_sub(1) else {
            return false;
        };
        *looks = left;
        match table.defs[mask.0] {
            MaskDef::Static(_) => true,
            MaskDef::Value(id) => self.makers[id.index()].is_none_or(|maker| maker < i),
            MaskDef::And(a, b) | MaskDef::Or(a, b) => {
                self.ready(table, a, i, looks) && self.ready(table, b, i, looks)
            }
            MaskDef::Stretch(a, _) | MaskDef::Tile(a, _) => self.ready(table, a, i, looks),
        }
    }

    /// What item `r` reads of `x`.
    fn by(&self, table: &mut MaskTable, r: usize, x: ValueId, axis: usize) -> Option<MaskId> {
        let net = self.net;
        let item = &net.items[r];
        let (from, y) = (net.shape(x), item.output(0)?);
        let to = net.shape(y);
        if from.elements() == 0 || to.elements() == 0 {
            return None;
        }
        let is_first = item.input(0) == Some(x) && !item.inputs[1..].contains(&Some(x));
        match &item.work {
            Work::Op(Op::Mask { axis: masked }) if is_first => {
                let mask = item.input(1)?;
                if *masked != axis {
                    return self.only(y, axis);
                }
                let floats = [x, mask]
                    .iter()
                    .all(|&id| net.value(id).dtype == DType::F32);
                floats.then(|| table.of_value(net, self.makers, mask))
            }
            Work::Linear(_) if is_first => {
                let row = axis + 1 < from.rank();
                let same = from.rank() == to.rank() && from[axis] == to[axis];
                (row && same).then(|| self.only(y, axis)).flatten()
            }
            Work::Activate(_) | Work::Op(Op::Unary(_)) => self.only(y, axis),
            Work::Blocks(blocks) => match blocks.op {
                BlocksOp::FromPlanes
                | BlocksOp::ToPlanes
                | BlocksOp::Activate(_)
                | BlocksOp::Binary(_)
                    if axis == 1 =>
                {
                    self.only(y, axis)
                }
                BlocksOp::Mask if axis == 1 && is_first => {
                    Some(table.of_value(net, self.makers, item.input(1)?))
                }
                _ => None,
            },
            Work::Op(Op::Binary(_)) if from == to => self.only(y, axis),
            Work::Op(Op::RmsNorm { axis: n, .. } | Op::LayerNorm { axis: n, .. }) if is_first => {
                let first = if *n < 0 { *n + from.rank() as i64 } else { *n };
                let alone = item.outputs.len() == 1 && (axis as i64) < first;
                alone.then(|| self.only(y, axis)).flatten()
            }
            Work::Op(Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze)
                if is_first =>
            {
                let (axis, times) = (0..to.rank()).filter(|&a| to[a] != 1).find_map(|a| {
                    let (at, times) = reshaped_axis(to, from, a)?;
                    (at == axis && to[a] * times == from[axis]).then_some((a, times))
                })?;
                let mask = self.only(y, axis)?;
                Some(table.stretch(mask, times))
            }
            Work::Op(Op::Transpose { perm }) => {
                let axis = match perm {
                    None => from.rank() - 1 - axis,
                    Some(perm) => perm.iter().position(|&p| p == axis)?,
                };
                self.only(y, axis)
            }
            Work::Attention(at) => self.by_attention(table, r, at, x, axis),
            _ => None,
        }
    }

    /// What attention reads of a value that holds operands of it.
    fn by_attention(
        &self,
        table: &mut MaskTable,
        r: usize,
        at: &Attend,
        x: ValueId,
        axis: usize,
    ) -> Option<MaskId> {
        let item = &self.net.items[r];
        let (shape, y) = (self.net.shape(x), item.y());
        if at.samples != 1 || item.inputs[3..].contains(&Some(x)) {
            return None;
        }
        let spec = &at.spec;
        let mut all = Need::Nothing;
        for (role, place) in [at.q, at.k, at.v].into_iter().enumerate() {
            if item.input(role) != Some(x) {
                continue;
            }
            let (heads, tokens, width) = match role {
                0 => (spec.q_heads, spec.queries, spec.width),
                1 => (spec.kv_heads, spec.keys, spec.width),
                _ => (spec.kv_heads, spec.keys, spec.v_width),
            };
            let one = if axis + 1 == shape.rank() {
                let side_by_side = place.head == width && heads == spec.q_heads;
                let whole = shape[axis].is_multiple_of(heads * width)
                    && place.offset.is_multiple_of(heads * width);
                if !(side_by_side && whole) {
                    return None;
                }
                let live = self.live_heads(table, y, at)?;
                let part = table.stretch(live, width);
                Some(table.tile(part, shape[axis] / (heads * width)))
            } else if shape[axis] == tokens
                && shape.strides()[axis] == place.token
                && shape[..axis].iter().all(|&d| d == 1)
            {
                match role {
                    0 => {
                        let axis = query_axis(at, self.net.shape(y))?;
                        self.only(y, axis)
                    }
                    _ => item
                        .input(5)
                        .map(|live| table.of_value(self.net, self.makers, live)),
                }
            } else {
                None
            };
            all = joined(table, all, Need::Only(one?));
        }
        match all {
            Need::Only(mask) => Some(mask),
            _ => None,
        }
    }

    /// The heads of the result of attention that anybody reads.
    fn live_heads(&self, table: &mut MaskTable, y: ValueId, at: &Attend) -> Option<MaskId> {
        let rank = self.net.shape(y).rank();
        if at.by_token {
            let mask = self.only(y, rank - 1)?;
            table.unstretched(mask, at.spec.v_width)
        } else {
            self.only(y, 1)
        }
    }
}

/// What either of two readers reads, when one of them reads all of that.
fn joined(table: &MaskTable, a: Need, b: Need) -> Need {
    match (a, b) {
        (Need::Nothing, one) | (one, Need::Nothing) => one,
        (Need::Only(a), Need::Only(b)) if table.implies(b, a) => Need::Only(a),
        (Need::Only(a), Need::Only(b)) if table.implies(a, b) => Need::Only(b),
        _ => Need::All,
    }
}

/// The axis of queries in the result of attention of one sample.
pub(super) fn query_axis(at: &Attend, y: Shape) -> Option<usize> {
    let axis = y.rank().checked_sub(2)?;
    let alone = !at.by_token || y[..axis].iter().all(|&d| d == 1);
    (at.samples == 1 && alone && y[axis] == at.spec.queries).then_some(axis)
}

impl MaskTable {
    /// All channels, several times one behind the other.
    fn tile(&mut self, a: MaskId, times: usize) -> MaskId {
        if times == 1 {
            return a;
        }
        let each = self.channels[a.0];
        let mask = self
            .as_static(a)
            .map(|mask| ChannelMask::from_fn(each * times, |c| mask.contains(c % each)));
        self.intern(
            mask.map_or(MaskDef::Tile(a, times), MaskDef::Static),
            each * times,
        )
    }

    /// The mask that stretched is this one, where there is one.
    fn unstretched(&mut self, mask: MaskId, times: usize) -> Option<MaskId> {
        match &self.defs[mask.0] {
            _ if times == 1 => Some(mask),
            MaskDef::Stretch(a, by) if *by == times => Some(*a),
            MaskDef::Static(all) => {
                let few = ChannelMask::from_fn(all.len() / times, |c| all.contains(c * times));
                let same = few.stretch(times) == *all;
                let count = few.len();
                same.then(|| self.intern(MaskDef::Static(few), count))
            }
            _ => None,
        }
    }
}
