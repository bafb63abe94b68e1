//! Maps in blocks of channels (NCHWc) between layers that gain by it.
//!
//! Depthwise convolutions of small maps transpose planes first and last, which maps in blocks need not be, and the tiles of other
//! convolutions store vectors of channels as they are; but to lay a map out anew takes time, too. With a mask such a map is compact, and
//! layers compute what a net of fewer channels would.

use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::conv::NchwcConv;
use sluicegate_kernels::ops::depthwise::NchwcDepthwise;
use sluicegate_kernels::ops::{ConvShape, nchwc};

use super::kernels::operator::{arithmetic, pooling};
use super::net::{Item, Net};
use super::rewrite::{Conv, Maps, Work, pools_planes};
use super::step::BlocksOp;
use crate::graph::{Op, Reduction, ValueId};
use crate::{DType, Result, Shape};

/// What happens to `images` maps of `channels` x `pixels`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks {
    pub(super) op: BlocksOp,
    pub(super) images: usize,
    pub(super) channels: usize,
    pub(super) pixels: usize,
}

impl Blocks {
    /// Of planes of a shape.
    pub(super) fn new(op: BlocksOp, planes: Shape) -> Self {
        Self {
            op,
            images: planes[0],
            channels: planes[1],
            pixels: planes[2..].iter().product(),
        }
    }
}

/// What an item can do with maps in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing.
    Planes,
    /// Makes blocks of planes, or of blocks.
    Makes,
    /// Makes blocks of blocks alone.
    Through,
    /// Reads blocks.
    Leaves,
}

/// Lays maps out in blocks where that saves more time than it takes to lay them out.
pub(super) fn lay_out(net: &mut Net, isa: Isa) -> Result<()> {
    if !net.items.iter().any(|item| gain(net, item, isa) > 0.0) {
        return Ok(());
    }
    let roles = roles(net, isa);
    let blocked = choose(net, &roles, isa);
    if !blocked.contains(&true) {
        return Ok(());
    }
    let mut layout = Layout {
        isa,
        planes: (0..blocked.len())
            .map(|i| blocked[i].then(|| net.shape(ValueId(i as u32))))
            .collect(),
        other: vec![None; blocked.len()],
    };
    let mut leaves = vec![false; blocked.len()];
    for id in &net.outputs {
        leaves[id.index()] = true;
    }
    // While all shapes are those of planes.
    let ops: Vec<_> = net
        .items
        .iter()
        .map(|item| op_in_blocks(net, item))
        .collect();
    let items = std::mem::take(&mut net.items).into_iter();
    for (item, seen) in items.zip(roles.into_iter().zip(ops)) {
        let made = item.outputs.clone();
        layout.item(net, item, seen)?;
        // At once, so that a sample that leaves at a gate takes it along.
        for id in made.into_iter().flatten().filter(|id| leaves[id.index()]) {
            layout.read(net, id, false)?;
        }
    }
    for i in 0..net.outputs.len() {
        net.outputs[i] = layout.read(net, net.outputs[i], false)?;
    }
    Ok(())
}

/// A map of channels: f32, `[n, c, spatial ..]`, not empty.
fn is_map(net: &Net, id: ValueId) -> bool {
    let value = net.value(id);
    let shape = value.shape;
    value.dtype == DType::F32
        && value.constant.is_none()
        && shape.rank() >= 3
        && shape.elements() > 0
}

/// Cycles to lay an element of a map out anew, if L2 holds the map, and if not. All gains are for vectors of 16; with others they are as many times
/// the same.
const LAID_OUT: [f64; 2] = [0.8, 1.6];
/// Elements of a map that L2 does not hold.
const FAR: usize = 1 << 18;
/// Multiplications and additions in a cycle.
const RATE: f64 = 32.0;

/// Cycles that an element of a pooling saves: 3 x 3 with a step of 2 takes 8 in planes, 2 in blocks.
const POOLED: f64 = 5.0;

/// Cycles that an item saves when its maps are in blocks. Measured on a Xeon, in shares of the time in planes: pointwise convolutions take 0.77 to
/// 0.98, mostly 0.94; larger windows with a step 0.8; depthwise ones of 3 x 3 with steps of 1 0.8 to 1.05 where maps are wide, else 0.4 to 0.8.
fn gain(net: &Net, item: &Item, isa: Isa) -> f64 {
    let conv = match &item.work {
        Work::Conv(conv) => conv,
        Work::Op(Op::MaxPool { .. } | Op::AveragePool { .. }) => {
            return POOLED * net.shape(item.y()).elements() as f64;
        }
        _ => return 0.0,
    };
    let shape = &conv.shape;
    let Ok((oh, ow)) = shape.output(conv.hw) else {
        return 0.0;
    };
    let map = |channels: usize, pixels: usize| conv.images as f64 * channels as f64 * pixels as f64;
    let (x, y) = (
        map(shape.c_in, conv.hw.0 * conv.hw.1),
        map(shape.c_out, oh * ow),
    );
    if !conv.is_depthwise() {
        let taps = shape.kernel[0] * shape.kernel[1];
        let cycles = y * (shape.c_in / shape.groups * taps) as f64 / RATE;
        return match is_direct(conv, isa) {
            false => 0.0,
            true if taps == 1 => 0.05 * cycles,
            true => 0.15 * cycles,
        };
    }
    if !NchwcDepthwise::serves(shape, conv.hw) {
        return 0.0;
    }
    match (shape.stride[1], shape.kernel[1]) {
        (1, ..=3) if ow > 28 => 0.0,
        (1, ..=3) if ow > 7 => 0.25 * y,
        (1, _) if ow > 7 => 0.5 * y,
        (1, _) => 0.4 * (x + y),
        _ if ow > 28 => 0.1 * (x + y),
        _ => 0.3 * (x + y),
    }
}

/// A convolution that maps in blocks are for: not one that Winograd's filtering takes, which is for planes.
fn is_direct(conv: &Conv, isa: Isa) -> bool {
    let ConvShape {
        kernel,
        stride,
        dilation,
        groups,
        ..
    } = conv.shape;
    (kernel, stride, dilation, groups) != ([3, 3], [1, 1], [1, 1], 1)
        && NchwcConv::serves(isa, &conv.shape, conv.hw)
        && NchwcConv::pays(isa, &conv.shape, conv.hw)
}

fn roles(net: &Net, isa: Isa) -> Vec<Role> {
    let masked = |item: &Item| matches!(item.work, Work::Op(Op::Mask { .. }));
    let apart = touched(net, |item| masked(item) && !is_mask_of_map(net, item));
    // Of groups, a compact map would have as many channels as live in each.
    let grouped = |item: &Item| match &item.work {
        Work::Conv(conv) => conv.shape.groups > 1 && !conv.is_depthwise(),
        _ => false,
    };
    let ragged = touched(net, masked);
    let mut in_blocks = vec![false; net.len()];
    let role = |item: &Item| {
        let mut values = item.inputs.iter().chain(&item.outputs).flatten();
        let stays = |id: &ValueId| apart[id.index()] || grouped(item) && ragged[id.index()];
        let role = match values.any(stays) {
            true => Role::Planes,
            false => role(net, item, &in_blocks, isa),
        };
        if let (Role::Makes | Role::Through, Some(y)) = (role, item.output(0)) {
            in_blocks[y.index()] = true;
        }
        role
    };
    net.items.iter().map(role).collect()
}

/// Whether it is a mask of the channels of one map.
fn is_mask_of_map(net: &Net, item: &Item) -> bool {
    let (Some(x), Some(mask)) = (item.input(0), item.input(1)) else {
        return false;
    };
    let (shape, mask) = (net.shape(x), net.value(mask));
    is_map(net, x)
        && matches!(item.work, Work::Op(Op::Mask { axis: 1 }))
        && shape[0] == 1
        && mask.dtype == DType::F32
        && mask.shape.elements() == shape[1]
}

/// The values that some masks have to do with, or may have by what becomes of them.
fn touched(net: &Net, is_mask: impl Fn(&Item) -> bool) -> Vec<bool> {
    let mut masked = vec![false; net.len()];
    // Its results have channels of their own.
    let sums = |item: &Item| match &item.work {
        Work::Conv(conv) => !conv.is_depthwise(),
        Work::Linear(_) | Work::Attention(_) => true,
        _ => false,
    };
    let mut spread = |item: &Item, from: &[Option<ValueId>], to: &[Option<ValueId>]| {
        let any = from.iter().flatten().any(|id| masked[id.index()]);
        if is_mask(item) || any && !sums(item) {
            for id in to.iter().flatten() {
                masked[id.index()] = true;
            }
        }
    };
    for item in &net.items {
        spread(item, &item.inputs, &item.outputs);
    }
    for item in net.items.iter().rev() {
        spread(item, &item.outputs, &item.inputs);
    }
    masked
}

/// That of an item, if these values would be in blocks.
fn role(net: &Net, item: &Item, in_blocks: &[bool], isa: Isa) -> Role {
    let maps = |ids: &[Option<ValueId>]| ids.iter().flatten().all(|&id| is_map(net, id));
    let Some(y) = item.output(0) else {
        return Role::Planes;
    };
    let in_blocks = item.inputs.iter().flatten().any(|id| in_blocks[id.index()]);
    match &item.work {
        Work::Conv(conv) if maps(&[item.input(0), Some(y)]) => {
            if conv.is_depthwise() {
                let gains = in_blocks || gain(net, item, isa) > 0.0;
                match gains && NchwcDepthwise::serves(&conv.shape, conv.hw) {
                    true => Role::Through,
                    false => Role::Planes,
                }
            } else if is_direct(conv, isa) {
                Role::Makes
            } else {
                Role::Planes
            }
        }
        Work::Activate(_) if in_blocks && maps(&[item.input(0), Some(y)]) => Role::Through,
        Work::Op(Op::Binary(op))
            if in_blocks
                && arithmetic(*op).is_some()
                && maps(&item.inputs)
                && maps(&[Some(y)])
                && item
                    .inputs
                    .iter()
                    .flatten()
                    .all(|&id| net.shape(id) == net.shape(y)) =>
        {
            Role::Through
        }
        Work::Op(Op::Mask { .. }) if in_blocks && is_mask_of_map(net, item) => Role::Through,
        Work::Op(op @ (Op::MaxPool { .. } | Op::AveragePool { .. }))
            if in_blocks && maps(&[item.input(0), Some(y)]) && pooling(net, item, op).is_some() =>
        {
            Role::Through
        }
        Work::MeanMax if in_blocks && maps(&[item.input(0)]) => Role::Leaves,
        _ if in_blocks && maps(&[item.input(0)]) && is_mean(net, item) => Role::Leaves,
        _ => Role::Planes,
    }
}

/// What an item that is no convolution does to maps in blocks.
fn op_in_blocks(net: &Net, item: &Item) -> Option<BlocksOp> {
    match &item.work {
        Work::Activate(act) => Some(BlocksOp::Activate(*act)),
        Work::MeanMax => Some(BlocksOp::MeanMax),
        Work::Op(Op::Mask { .. }) => Some(BlocksOp::Mask),
        Work::Op(Op::Binary(op)) => arithmetic(*op).map(BlocksOp::Binary),
        Work::Op(op @ (Op::MaxPool { .. } | Op::AveragePool { .. })) => {
            pooling(net, item, op).map(BlocksOp::Pool)
        }
        _ if is_mean(net, item) => Some(BlocksOp::Mean),
        _ => None,
    }
}

/// Whether it is the means of planes.
fn is_mean(net: &Net, item: &Item) -> bool {
    matches!(item.work, Work::Op(Op::GlobalAveragePool))
        || pools_planes(net, item) == Some(Reduction::Mean)
}

/// How often what is left is looked at again. What then still takes longer than it saves is as right.
const ROUNDS: usize = 8;

/// The values that are to be in blocks. Those that items pass through are so together; all of them at first, and then no more those that take
/// longer to lay out than they save, as long as there are any.
fn choose(net: &Net, roles: &[Role], isa: Isa) -> Vec<bool> {
    let mut parts = Parts::new(net.len());
    for (item, role) in net.items.iter().zip(roles) {
        if *role == Role::Through {
            maps(item, *role).for_each(|id| parts.join(id, item.y()));
        }
    }
    let made = |(item, role): (&Item, &Role)| match role {
        Role::Makes | Role::Through => item.output(0),
        _ => None,
    };
    let makers = || net.items.iter().zip(roles);
    let mut comes = vec![true; net.len()];
    for y in makers().filter_map(made) {
        comes[y.index()] = false;
    }
    let mut chosen = vec![true; net.len()];
    for _ in 0..ROUNDS {
        let mut goes = vec![false; net.len()];
        let mut saved = vec![0.0; net.len()];
        for id in &net.outputs {
            goes[id.index()] = true;
        }
        for (item, role) in makers() {
            let y = made((item, role)).map(|y| parts.of(y));
            if let Some(part) = y {
                saved[part] += gain(net, item, isa);
            }
            let in_blocks = *role == Role::Leaves || y.is_some_and(|part| chosen[part]);
            for (i, id) in item.inputs.iter().enumerate() {
                let as_map = in_blocks && i < maps(item, *role).count();
                if let (Some(id), false) = (id, as_map) {
                    goes[id.index()] = true;
                }
            }
        }
        for i in 0..net.len() {
            let id = ValueId(i as u32);
            let saved = &mut saved[parts.of(id)];
            // Where nothing is left to lose, values may be such as nobody makes.
            if *saved > 0.0 && (comes[i] || goes[i]) {
                let elements = net.shape(id).elements();
                *saved -= LAID_OUT[usize::from(elements > FAR)] * elements as f64;
            }
        }
        for (chosen, saved) in chosen.iter_mut().zip(saved) {
            *chosen &= saved > 0.0;
        }
    }
    // What comes in planes stays so, and is transposed where it is read.
    let lies = |i: usize| chosen[parts.of(ValueId(i as u32))] && !comes[i];
    (0..net.len()).map(lies).collect()
}

/// What an item reads as maps that may be in blocks, its first operands.
fn maps(item: &Item, role: Role) -> impl Iterator<Item = ValueId> {
    let count = match (role, &item.work) {
        (Role::Planes, _) => 0,
        (_, Work::Op(Op::Binary(_))) => 2,
        _ => 1,
    };
    item.inputs.iter().take(count).flatten().copied()
}

/// Values that lie alike, by one of them.
struct Parts(Vec<usize>);

impl Parts {
    fn new(len: usize) -> Self {
        Self((0..len).collect())
    }

    fn of(&mut self, id: ValueId) -> usize {
        let (part, mut at) = (&mut self.0, id.index());
        while part[at] != at {
            part[at] = part[part[at]];
            at = part[at];
        }
        at
    }

    fn join(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a] = b;
    }
}

struct Layout {
    isa: Isa,
    /// The shape of a value that is in blocks, as planes.
    planes: Vec<Option<Shape>>,
    /// Values as somebody reads them who wants them otherwise.
    other: Vec<Option<ValueId>>,
}

impl Layout {
    fn is_blocked(&self, id: Option<ValueId>) -> bool {
        id.is_some_and(|id| self.planes[id.index()].is_some())
    }

    /// `op` is what an item does to maps in blocks.
    fn item(
        &mut self,
        net: &mut Net,
        mut item: Item,
        (role, op): (Role, Option<BlocksOp>),
    ) -> Result<()> {
        let makes = self.is_blocked(item.output(0));
        let takes = match role {
            Role::Planes => false,
            Role::Makes => makes && self.is_blocked(item.input(0)),
            Role::Through => makes,
            Role::Leaves => self.is_blocked(item.input(0)),
        };
        if let (true, Some(y)) = (makes, item.output(0)) {
            net.lay_out(y, in_blocks(net.shape(y), self.isa)?, true);
        }
        let map = if makes { item.output(0) } else { item.input(0) };
        if let (Some(op), true, Some(map)) = (op, takes, map)
            && let Some(shape) = self.planes[map.index()]
        {
            item.work = Work::Blocks(Blocks::new(op, shape));
            if op == BlocksOp::Mean {
                // The axes go without saying.
                item.inputs.truncate(1);
            }
        }
        for i in 0..item.inputs.len() {
            let is_map = i == 0 || matches!(op, Some(BlocksOp::Binary(_)));
            if let Some(id) = item.inputs[i] {
                item.inputs[i] = Some(self.read(net, id, takes && is_map)?);
            }
        }
        if let Work::Conv(conv) = &mut item.work {
            conv.maps = match (takes, makes) {
                (true, _) => Maps::Blocks,
                (false, true) => Maps::IntoBlocks,
                (false, false) => Maps::Planes,
            };
        }
        net.items.push(item);
        Ok(())
    }

    /// A value as it is wanted, in blocks or in planes, transposed if it lies otherwise.
    fn read(&mut self, net: &mut Net, id: ValueId, blocks: bool) -> Result<ValueId> {
        let planes = self.planes[id.index()];
        if planes.is_some() == blocks {
            return Ok(id);
        }
        if let Some(other) = self.other[id.index()] {
            return Ok(other);
        }
        let (op, from, to) = match planes {
            Some(planes) => (BlocksOp::ToPlanes, planes, planes),
            None => {
                let shape = net.shape(id);
                (BlocksOp::FromPlanes, shape, in_blocks(shape, self.isa)?)
            }
        };
        let y = net.like(id, to)?;
        net.lay_out(y, to, blocks);
        net.items.push(Item {
            label: format!("{} ({})", net.value(id).name, op.name()),
            work: Work::Blocks(Blocks::new(op, from)),
            inputs: vec![Some(id)],
            outputs: vec![Some(y)],
        });
        self.other[id.index()] = Some(y);
        Ok(y)
    }
}

/// The shape of a map in blocks: images, blocks, pixels, channels of a block.
fn in_blocks(planes: Shape, isa: Isa) -> Result<Shape> {
    let pixels: usize = planes[2..].iter().product();
    nchwc::elements(isa, planes[1], pixels)?;
    Shape::new(&[
        planes[0],
        planes[1].div_ceil(isa.lanes()),
        pixels,
        isa.lanes(),
    ])
}
