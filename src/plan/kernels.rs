//! Which kernel computes an item.

pub(super) mod operator;
mod weights;

use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::Algorithm;
use sluicegate_kernels::ops::attention::Attention;
use sluicegate_kernels::ops::conv::NchwcConv;
use sluicegate_kernels::ops::depthwise::NchwcDepthwise;

use super::blocks::Blocks;
use super::masks::{MaskTable, Skip};
use super::net::{Item, Net};
use super::rewrite::{Maps, Work};
use super::step::{AttentionCall, BlocksCall, Cost, Kernel, Planes};
use super::views::Attend;
use crate::graph::Op;
use crate::{DType, Error, Result, Shape};

/// A kernel and which operands of the item it reads.
pub(super) struct Made {
    pub(super) kernel: Kernel,
    pub(super) operands: Vec<usize>,
    pub(super) cost: Cost,
    /// Static masks of the operand, and of the result, are in the packed weights.
    pub(super) folds: [bool; 2],
}

/// What an item is called in reports.
pub(super) fn op_name(work: &Work) -> &'static str {
    match work {
        Work::Op(op) => op.name(),
        Work::Attention(_) => "Attention",
        Work::Activate(_) => "Activation",
        Work::Conv(conv) if conv.is_depthwise() => "Depthwise",
        Work::Conv(_) => "Conv",
        Work::Linear(_) => "Linear",
        Work::MeanMax => "MeanMax",
        Work::Blocks(blocks) => blocks.op.name(),
    }
}

pub(super) fn make(
    net: &Net,
    table: &MaskTable,
    item: &Item,
    skip: &Skip,
    (isa, algorithm): (Isa, Algorithm),
) -> Result<Made> {
    match &item.work {
        Work::Attention(at) => attention(net, item, skip, at, isa),
        Work::Conv(conv) => weights::convolution(net, table, item, skip, conv, (isa, algorithm)),
        Work::Linear(work) => weights::linear(net, table, item, skip, work, isa),
        Work::Activate(act) => {
            let shape = net.shape(item.y());
            let cut = shape.rank().min(2);
            let kernel = Kernel::Activate {
                activation: *act,
                extents: (shape[..cut].iter().product(), shape[cut..].iter().product()),
            };
            Ok(plain(kernel, 1))
        }
        Work::MeanMax => {
            let x = net.shape(item.x());
            let kernel = Kernel::MeanMax {
                channels: x[0] * x[1],
                inner: x[2..].iter().product(),
            };
            Ok(plain(kernel, 1))
        }
        Work::Blocks(blocks) => {
            let Blocks {
                op,
                images,
                channels,
                pixels,
            } = *blocks;
            let call = BlocksCall::Op {
                op,
                extents: (channels, pixels),
            };
            Ok(plain(Kernel::Blocks { call, images }, item.inputs.len()))
        }
        Work::Op(op) => {
            let floats = item
                .inputs
                .iter()
                .flatten()
                .all(|&id| net.value(id).dtype == DType::F32);
            let special = operator::special(net, item, op)
                .filter(|_| floats || matches!(op, Op::Reduce { .. } | Op::Cast { .. }));
            match special {
                Some(made) => Ok(made),
                None => Ok(by_definition(net, item, op)),
            }
        }
    }
}

/// Bytes that the kernel of an item will take beside its operands, at most.
pub(super) fn packed_bytes(
    net: &Net,
    table: &MaskTable,
    item: &Item,
    skip: &Skip,
    algorithm: Algorithm,
) -> usize {
    /// Columns that a product's weights are padded by at most; and terms, where they are kept by columns, too.
    const PANEL: usize = 128;
    let picked = skip.output.filter(|&mask| table.as_static(mask).is_none());
    let (copies, more) = match picked {
        Some(_) => (2, PANEL),
        None => (1, 0),
    };
    let bytes = |i| item.input(i).map_or(0, |id| net.value(id).bytes());
    match &item.work {
        Work::Linear(work) => work
            .n
            .saturating_add(PANEL)
            .saturating_mul(work.k.saturating_add(1 + more))
            .saturating_mul(copies * size_of::<f32>()),
        // Lists of its keys and elements: nodes may share K, but each has its own.
        Work::Attention(at) => {
            (at.spec.keys.saturating_add(2 * at.spec.width)).saturating_mul(size_of::<u32>())
        }
        // In blocks, channels are padded to vectors, and taps are listed for each area of outputs that have the same ones.
        Work::Conv(work) if work.maps != Maps::Planes => {
            let shape = &work.shape;
            let taps = shape.kernel[0].saturating_mul(shape.kernel[1]);
            let (terms, lists) = if work.is_depthwise() {
                (taps, NchwcDepthwise::listed(shape))
            } else {
                let terms = shape.c_in.saturating_mul(taps);
                (terms, NchwcConv::listed(shape))
            };
            let panels = shape
                .c_out
                .saturating_add(PANEL)
                .saturating_mul(terms.saturating_add(more));
            panels
                .saturating_mul(copies)
                .saturating_add(lists)
                .saturating_mul(size_of::<f32>())
        }
        // Winograd's filtering takes up to 6 x 6 points a window; rows are padded to panels of 12 or 16.
        Work::Conv(work) if algorithm != Algorithm::Direct && work.shape.kernel == [3, 3] => {
            let rows = work.shape.c_out.saturating_add(16);
            let each = work.shape.c_in.saturating_mul(36 * size_of::<f32>());
            rows.saturating_mul(each)
        }
        // The last row panel of each group is padded, to less than twice.
        Work::Conv(_) => bytes(1).saturating_mul(2),
        Work::Op(Op::BatchNorm { .. }) => bytes(1).saturating_mul(2),
        Work::Op(Op::MatMul) => {
            let y = net.shape(item.y());
            let batch: usize = y[..y.rank().saturating_sub(2)].iter().product();
            batch.saturating_mul(size_of::<(usize, usize)>())
        }
        _ => 0,
    }
}

/// Whether a kernel can leave out the channels of `axis` of its operand or, for two operands, of its result.
pub(super) fn takes_mask(kernel: &Kernel, shape: Shape, axis: usize) -> bool {
    let planes = Planes::of(shape, axis);
    let are =
        |extents: (usize, usize)| planes.outer == 1 && extents == (planes.channels, planes.inner);
    match kernel {
        Kernel::Attention(_)
        | Kernel::Blocks { .. }
        | Kernel::Conv { .. }
        | Kernel::Depthwise { .. }
        | Kernel::Linear { .. } => true,
        Kernel::Activate { extents, .. } | Kernel::Binary { extents, .. } => are(*extents),
        Kernel::MeanMax { channels, inner } => are((*channels, *inner)),
        Kernel::Reduce { extents, .. } => are((extents[0], extents[1] * extents[2])),
        Kernel::Pool(pooling) => {
            pooling.images == 1 && planes.outer == 1 && pooling.map.0 == planes.channels
        }
        Kernel::RmsNorm { n, .. } => planes.inner == 1 && *n == planes.channels,
        _ => false,
    }
}

/// Whether a kernel can leave out some of so many rows.
pub(super) fn takes_rows(kernel: &Kernel, count: usize) -> bool {
    match kernel {
        Kernel::Attention(call) => call.at.samples == 1 && call.at.spec.queries == count,
        Kernel::LayerNorm { rows, .. }
        | Kernel::Linear { rows, .. }
        | Kernel::RmsNorm { rows, .. } => *rows == count,
        _ => false,
    }
}

fn plain(kernel: Kernel, operands: usize) -> Made {
    Made {
        kernel,
        operands: (0..operands).collect(),
        cost: Cost::default(),
        folds: [false; 2],
    }
}

fn attention(net: &Net, item: &Item, skip: &Skip, at: &Attend, isa: Isa) -> Result<Made> {
    let s = &at.spec;
    let macs = [
        at.samples,
        s.q_heads,
        s.queries,
        s.keys,
        s.width + s.v_width,
    ];
    let call = AttentionCall {
        attention: Attention::new(isa, *s)?,
        at: *at,
        truth: item
            .input(3)
            .is_some_and(|id| net.value(id).dtype == DType::Bool),
        keys_as_bias: item.input(5).is_some() && skip.input.is_none(),
    };
    Ok(Made {
        cost: Cost {
            channels: (s.keys, s.q_heads * s.v_width),
            rows: s.queries,
            ..dense_cost(macs.iter().map(|&n| n as u64).product())
        },
        ..plain(Kernel::Attention(Box::new(call)), item.inputs.len())
    })
}

fn by_definition(net: &Net, item: &Item, op: &Op) -> Made {
    let typed = |id: &Option<_>| id.map(|id| (net.value(id).dtype, net.shape(id)));
    let kernel = Kernel::Operator {
        op: op.clone(),
        inputs: item.inputs.iter().map(typed).collect(),
        outputs: item.outputs.iter().map(typed).collect(),
    };
    let mut made = plain(kernel, item.inputs.len());
    if let (Op::Conv { .. } | Op::MatMul | Op::Gemm { .. }, Some(w)) = (op, item.input(1)) {
        let (y, w) = (net.shape(item.y()), net.shape(w));
        let depth = match op {
            Op::Conv { .. } => w[1..].iter().product(),
            Op::Gemm { trans_b, .. } => w[usize::from(*trans_b)],
            _ => w[w.rank().saturating_sub(2)],
        };
        made.cost = dense_cost(y.elements() as u64 * depth as u64);
    }
    made
}

fn dense_cost(macs: u64) -> Cost {
    Cost {
        dense: macs,
        planned: macs,
        ..Cost::default()
    }
}

/// An axis that may count from the end.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_start)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| Error::Node {
            node: String::new(),
            what: format!("axis {axis} of a tensor of {rank} axes"),
        })
}

/// The extents of a split's parts.
pub(super) fn split_sizes(net: &Net, item: &Item, whole: usize) -> Result<Vec<usize>> {
    let parts = item.outputs.len();
    let sizes = item.input(1).and_then(|id| net.value(id).constant.as_ref());
    match sizes {
        Some(sizes) => Ok(sizes
            .as_slice::<i64>()?
            .iter()
            .map(|&s| s as usize)
            .collect()),
        None => {
            let each = whole.div_ceil(parts.max(1));
            Ok((0..parts)
                .map(|i| each.min(whole.saturating_sub(i * each)))
                .collect())
        }
    }
}
