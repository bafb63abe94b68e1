//! Maps in blocks of channels (NCHWc) between layers that gain by it.
//!
//! Depthwise convolutions of small maps transpose planes first and last, which maps in blocks need not be; other convolutions hand such
//! maps on. Where masks are, maps stay planes: there a dead channel is a stretch that nobody touches, and in a block a lane among
//! live ones.

use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::depthwise::NchwcDepthwise;
use sluicegate_kernels::ops::nchwc;

use super::net::{Item, Net};
use super::rewrite::{Maps, Work};
use super::step::BlocksOp;
use crate::graph::{Op, ValueId};
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
    /// Makes blocks of planes.
    Enters,
    /// Makes blocks of blocks.
    Through,
    /// Reads blocks.
    Leaves,
    /// Keeps what it reads in planes.
    Refuses,
}

/// Lays maps out in blocks where that saves more transpositions than it takes.
pub(super) fn lay_out(net: &mut Net, isa: Isa) -> Result<()> {
    if !net.items.iter().any(|item| gain(item) > 0) {
        return Ok(());
    }
    let roles = roles(net);
    let blocked = choose(net, &roles);
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
    for (item, role) in std::mem::take(&mut net.items).into_iter().zip(roles) {
        layout.item(net, item, role)?;
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

/// Transpositions that a depthwise convolution saves when its maps are in blocks, less what it is slower then, in units of one: on Zen 5 planes
/// of 14 columns and more take 0.8 to 1 of the time with windows of 3 columns and steps of 1.
fn gain(item: &Item) -> i32 {
    match &item.work {
        Work::Conv(conv) if conv.is_depthwise() && NchwcDepthwise::serves(&conv.shape, conv.hw) => {
            let columns = conv.shape.output(conv.hw).map_or(0, |out| out.1);
            match (conv.shape.stride[1], conv.shape.kernel[1]) {
                (1, _) if columns <= 7 => 2,
                (1, ..=3) => -2,
                (2, _) if columns <= 28 => 2,
                _ => 0,
            }
        }
        _ => 0,
    }
}

/// How a value would lie, if all items did what they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lies {
    InPlanes,
    /// Made of planes.
    InBlocks,
    /// Behind a layer that gains by it.
    Gained,
}

fn roles(net: &Net) -> Vec<Role> {
    let mut roles = Vec::with_capacity(net.items.len());
    let mut lies = vec![Lies::InPlanes; net.len()];
    for item in &net.items {
        let role = role(net, item, &lies);
        let gained = item
            .inputs
            .iter()
            .flatten()
            .any(|id| lies[id.index()] == Lies::Gained);
        if let Some(y) = item.output(0) {
            lies[y.index()] = match role {
                Role::Through if gained || gain(item) > 0 => Lies::Gained,
                Role::Through | Role::Enters => Lies::InBlocks,
                _ => Lies::InPlanes,
            };
        }
        roles.push(role);
    }
    roles
}

fn role(net: &Net, item: &Item, lies: &[Lies]) -> Role {
    let maps = |ids: &[Option<ValueId>]| ids.iter().flatten().all(|&id| is_map(net, id));
    let Some(y) = item.output(0) else {
        return Role::Planes;
    };
    match &item.work {
        Work::Conv(conv) if maps(&[item.input(0), Some(y)]) => {
            let shape = &conv.shape;
            let unit = [shape.stride, shape.dilation] == [[1, 1]; 2];
            let gained = lies[item.x().index()] == Lies::Gained;
            if conv.is_depthwise() {
                // In front of all that gain, maps need not be in blocks yet.
                match NchwcDepthwise::serves(shape, conv.hw) && (gained || gain(item) > 0) {
                    true => Role::Through,
                    false => Role::Planes,
                }
            } else if shape.groups != 1 || shape.kernel == [3, 3] && unit {
                // Winograd's filtering is for planes.
                Role::Planes
            } else if gained {
                Role::Through
            } else {
                Role::Enters
            }
        }
        Work::Activate(_)
            if maps(&[item.input(0), Some(y)]) && lies[item.x().index()] != Lies::InPlanes =>
        {
            Role::Through
        }
        Work::Op(Op::Binary(_))
            if maps(&item.inputs)
                && maps(&[Some(y)])
                && item
                    .inputs
                    .iter()
                    .flatten()
                    .all(|&id| net.shape(id) == net.shape(y)) =>
        {
            Role::Through
        }
        Work::Op(Op::GlobalAveragePool) if maps(&[item.input(0)]) => Role::Leaves,
        Work::Op(Op::Mask { .. }) => Role::Refuses,
        _ => Role::Planes,
    }
}

/// The values that are to be in blocks. Those that items pass through are in blocks together.
fn choose(net: &Net, roles: &[Role]) -> Vec<bool> {
    let mut part: Vec<usize> = (0..net.len()).collect();
    fn root(part: &mut [usize], mut i: usize) -> usize {
        while part[i] != i {
            part[i] = part[part[i]];
            i = part[i];
        }
        i
    }
    // What items read as maps that may be in blocks.
    let maps = |item: &Item, role: Role| {
        let count = match (role, &item.work) {
            (Role::Through, Work::Op(Op::Binary(_))) => 2,
            (Role::Through | Role::Leaves, _) => 1,
            _ => 0,
        };
        item.inputs
            .iter()
            .take(count)
            .flatten()
            .copied()
            .collect::<Vec<_>>()
    };
    for (item, &role) in net
        .items
        .iter()
        .zip(roles)
        .filter(|(_, role)| **role == Role::Through)
    {
        for id in maps(item, role) {
            let (a, b) = (
                root(&mut part, id.index()),
                root(&mut part, item.y().index()),
            );
            part[a] = b;
        }
    }
    let mut gains = vec![0; net.len()];
    let (mut comes, mut goes) = (vec![true; net.len()], vec![false; net.len()]);
    let mut refused = vec![false; net.len()];
    for (item, &role) in net.items.iter().zip(roles) {
        if let (Role::Enters | Role::Through, Some(y)) = (role, item.output(0)) {
            gains[root(&mut part, y.index())] += gain(item);
            comes[y.index()] = false;
        }
        let maps = maps(item, role);
        for id in item.inputs.iter().flatten().filter(|id| !maps.contains(id)) {
            goes[id.index()] = true;
        }
        if role == Role::Refuses {
            for id in item.inputs.iter().chain(&item.outputs).flatten() {
                refused[root(&mut part, id.index())] = true;
            }
        }
    }
    for id in &net.outputs {
        goes[id.index()] = true;
    }
    for i in 0..net.len() {
        gains[root(&mut part, i)] -= i32::from(comes[i] || goes[i]);
    }
    // What comes in planes stays so, and is transposed where it is read.
    let chosen = |i: usize| {
        let at = root(&mut part, i);
        gains[at] > 0 && !refused[at] && !comes[i]
    };
    (0..net.len()).map(chosen).collect()
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

    fn item(&mut self, net: &mut Net, mut item: Item, role: Role) -> Result<()> {
        let makes = self.is_blocked(item.output(0));
        let takes = match role {
            Role::Through => makes,
            Role::Leaves => self.is_blocked(item.input(0)),
            _ => false,
        };
        if let (true, Some(y)) = (makes, item.output(0)) {
            net.set_shape(y, in_blocks(net.shape(y), self.isa)?);
        }
        if let (Work::Op(Op::GlobalAveragePool), true) = (&item.work, takes)
            && let Some(shape) = self.planes[item.x().index()]
        {
            item.work = Work::Blocks(Blocks::new(BlocksOp::Mean, shape));
        }
        for i in 0..item.inputs.len() {
            let is_map = i == 0 || matches!(item.work, Work::Op(Op::Binary(_)));
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
