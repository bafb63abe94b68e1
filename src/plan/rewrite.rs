//! Fusion: which nodes become one kernel.

use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::ConvShape;

use super::blocks::Blocks;
use super::net::{Item, Net};
use super::views::Attend;
use crate::graph::{Binary, Op, Reduction, Unary, ValueId};
use crate::{DType, Result};

/// What an item computes once nodes are fused into kernels.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// One operator as it is.
    Op(Op),
    /// Attention over values that hold its operands: (Q, K, V, mask?, kv_lengths?, live?, past?)
    Attention(Attend),
    /// y = act(x), with a kernel.
    Activate(Activation),
    /// Convolution with constant weights, bias and activation: (x, weights, bias?)
    Conv(Conv),
    /// A[rows, k] B[k, n] with constant B, bias and activation: (A, B, bias?)
    Linear(Linear),
    /// Mean and maximum of every channel: (x) -> (mean, max)
    MeanMax,
    /// What happens to maps in blocks of channels beside convolutions: (x)
    Blocks(Blocks),
}

/// How a convolution's maps lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maps {
    Planes,
    /// Planes in, blocks of channels out.
    IntoBlocks,
    Blocks,
}

/// A convolution of `images` maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub(super) shape: ConvShape,
    pub(super) images: usize,
    pub(super) hw: (usize, usize),
    pub(super) activation: Activation,
    pub(super) maps: Maps,
}

impl Conv {
    pub(super) fn is_depthwise(&self) -> bool {
        self.shape.groups == self.shape.c_in && self.shape.groups > 1
    }
}

/// A product with constant weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linear {
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    /// The weights are `[n, k]`.
    pub(super) transposed: bool,
    pub(super) activation: Activation,
}

impl Work {
    pub(super) fn is_gate(&self) -> bool {
        matches!(self, Work::Op(Op::Gate { .. }))
    }

    /// The activation at the end, where the kernel has one to set.
    fn epilogue(&mut self) -> Option<&mut Activation> {
        match self {
            Work::Conv(conv) => Some(&mut conv.activation),
            Work::Linear(linear) => Some(&mut linear.activation),
            _ => None,
        }
    }
}

/// The kernel's name for an operator of one operand.
pub(super) fn activation(op: Unary) -> Option<Activation> {
    Some(match op {
        Unary::Relu => Activation::Relu,
        Unary::LeakyRelu { alpha } => Activation::LeakyRelu(alpha),
        Unary::Sigmoid => Activation::Sigmoid,
        Unary::Tanh => Activation::Tanh,
        Unary::Erf => Activation::Erf,
        Unary::Gelu { tanh: false } => Activation::Gelu,
        Unary::Gelu { tanh: true } => Activation::GeluTanh,
        Unary::Silu { alpha: 1.0 } => Activation::Silu,
        Unary::HardSigmoid { alpha, beta } => Activation::HardSigmoid { alpha, beta },
        Unary::HardSwish => Activation::HardSwish,
        Unary::Exp => Activation::Exp,
        Unary::Sqrt => Activation::Sqrt,
        _ => return None,
    })
}

/// Whether a dead channel stays zero under the function.
pub(super) fn keeps_zero(activation: Activation) -> bool {
    match activation {
        Activation::Clip { lo, hi } => lo <= 0.0 && hi >= 0.0,
        Activation::HardSigmoid { beta, .. } => beta <= 0.0,
        Activation::Sigmoid | Activation::Exp => false,
        _ => true,
    }
}

/// Turns operators into kernels and fuses what follows them, in one walk in the order of the graph.
pub(super) fn rewrite(net: &mut Net) -> Result<()> {
    let mut renamed: Vec<ValueId> = (0..net.len()).map(|i| ValueId(i as u32)).collect();
    let mut done: Vec<Item> = Vec::with_capacity(net.items.len());
    // Which item of `done` makes a value, as long as nothing else reads that value.
    let mut uses = net.uses();
    let mut maker: Vec<Option<usize>> = vec![None; net.len()];
    for mut item in std::mem::take(&mut net.items) {
        for id in item.inputs.iter_mut().flatten() {
            *id = renamed[id.index()];
        }
        if let Work::Op(Op::Identity) = item.work {
            let (x, y) = (item.x(), item.y());
            renamed[y.index()] = x;
            uses[x.index()] += uses[y.index()];
            uses[x.index()] -= 1;
            continue;
        }
        if matches!(item.work, Work::Op(_)) {
            to_kernel(net, &mut item);
        }
        let producer = item.inputs.iter().flatten().find_map(|id| {
            let i = maker.get(id.index()).copied().flatten()?;
            (uses[id.index()] == 1).then_some((i, *id))
        });
        if let Some((i, through)) = producer
            && fuse(net, &mut done[i], &item, through)?
        {
            let before = done[i].y();
            done[i].outputs = vec![Some(item.y())];
            done[i].append_label(&item.label);
            maker[before.index()] = None;
            maker[item.y().index()] = Some(i);
            continue;
        }
        if let Some((i, mean, max)) = mean_max(net, &done, &item) {
            done[i].work = Work::MeanMax;
            done[i].append_label(&item.label);
            done[i].inputs.truncate(1);
            done[i].outputs = vec![Some(mean), Some(max)];
            continue;
        }
        widen(net, &mut item)?;
        if let Some(Some(y)) = item.outputs.first() {
            maker[y.index()] = Some(done.len());
        }
        done.push(item);
    }
    for id in &mut net.outputs {
        *id = renamed[id.index()];
    }
    net.items = done;
    net.drop_unused();
    Ok(())
}

/// Replaces an operator by the kernel that computes it, when its weights are constants.
fn to_kernel(net: &mut Net, item: &mut Item) {
    let Work::Op(op) = &item.work else { return };
    let work = match op {
        Op::Unary(unary) if net.value(item.x()).dtype == DType::F32 => {
            activation(*unary).map(Work::Activate)
        }
        Op::Clip => clip(net, item).map(Work::Activate),
        Op::Conv { .. } => conv(net, item).map(Work::Conv),
        Op::Gemm { .. } => return gemm(net, item),
        Op::MatMul => matmul(net, item).map(Work::Linear),
        _ => None,
    };
    if let Some(work) = work {
        if matches!(work, Work::Activate(_)) {
            item.inputs.truncate(1);
        }
        item.work = work;
    }
}

fn clip(net: &Net, item: &Item) -> Option<Activation> {
    let bound = |i, default| match item.input(i) {
        None => Some(default),
        Some(id) => net.value(id).floats()?.first().copied(),
    };
    let is_float = net.value(item.x()).dtype == DType::F32;
    let (lo, hi) = (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?);
    is_float.then_some(Activation::Clip { lo, hi })
}

fn conv(net: &Net, item: &Item) -> Option<Conv> {
    let Work::Op(Op::Conv { window, groups }) = &item.work else {
        return None;
    };
    let (x, w) = (net.shape(item.x()), net.shape(item.input(1)?));
    net.value(item.input(1)?).floats()?;
    if let Some(bias) = item.input(2) {
        net.value(bias).floats()?;
    }
    let spatial = x.rank().checked_sub(2)?;
    if !(1..=2).contains(&spatial) {
        return None;
    }
    let at = window.resolve(&w[2..], &x[2..], false).ok()?;
    // A 1-D convolution is a 2-D one on maps of height 1.
    let pair = |v: &[usize], fill| match *v {
        [b] => [fill, b],
        [a, b, ..] => [a, b],
        [] => [fill, fill],
    };
    let (begins, ends) = (pair(&at.begins[..spatial], 0), pair(&at.ends[..spatial], 0));
    let hw = pair(&x[2..], 1);
    let shape = ConvShape {
        c_in: x[1],
        c_out: w[0],
        groups: *groups,
        kernel: pair(&w[2..], 1),
        stride: pair(&at.strides[..spatial], 1),
        dilation: pair(&at.dilations[..spatial], 1),
        pads: [begins[0], begins[1], ends[0], ends[1]],
    };
    let out = shape.output((hw[0], hw[1])).ok()?;
    let agrees = net.shape(item.y())[2..].iter().product::<usize>() == out.0.checked_mul(out.1)?;
    (shape.check().is_ok() && agrees).then_some(Conv {
        shape,
        images: x[0],
        hw: (hw[0], hw[1]),
        activation: Activation::None,
        maps: Maps::Planes,
    })
}

fn matmul(net: &Net, item: &Item) -> Option<Linear> {
    let (a, b) = (net.shape(item.x()), net.shape(item.input(1)?));
    let weights = net.value(item.input(1)?).floats()?;
    // A product over no terms may have any number of columns.
    if weights.is_empty() || b.rank() != 2 || a.rank() == 0 {
        return None;
    }
    Some(Linear {
        rows: a[..a.rank() - 1].iter().product(),
        k: b[0],
        n: b[1],
        transposed: false,
        activation: Activation::None,
    })
}

/// alpha A B + beta C with constant B and a C that is one row: alpha goes into B, beta C is the bias.
fn gemm(net: &mut Net, item: &mut Item) {
    let Work::Op(Op::Gemm {
        alpha,
        beta,
        trans_a: false,
        trans_b,
    }) = item.work
    else {
        return;
    };
    let (a, y) = (net.shape(item.x()), net.shape(item.y()));
    let Some(b) = item.input(1) else { return };
    let Some(weights) = net.value(b).floats().filter(|w| !w.is_empty()) else {
        return;
    };
    let scaled: Option<Vec<f32>> =
        (alpha != 1.0).then(|| weights.iter().map(|w| w * alpha).collect());
    let bias = match item.input(2) {
        None => None,
        Some(c) => match row_bias(net, c, y[1]) {
            Some(row) => Some(row.iter().map(|c| c * beta).collect::<Vec<f32>>()),
            None => return,
        },
    };
    let shape = net.shape(b);
    let constant = |net: &mut Net, what: &str, dims: &[usize], data| {
        net.constant(format!("{} {what}", item.label), dims, data)
            .ok()
    };
    let b = match scaled {
        None => Some(b),
        Some(w) => constant(net, "weights", &shape, w),
    };
    let Some(b) = b else { return };
    item.inputs = vec![item.input(0), Some(b)];
    if let Some(bias) = bias {
        let Some(c) = constant(net, "bias", &[y[1]], bias) else {
            return;
        };
        item.inputs.push(Some(c));
    }
    item.work = Work::Linear(Linear {
        rows: a[0],
        k: a[1],
        n: y[1],
        transposed: trans_b,
        activation: Activation::None,
    });
}

/// A constant that adds the same row of `n` to every row, as that row.
fn row_bias(net: &Net, id: ValueId, n: usize) -> Option<Vec<f32>> {
    let (shape, values) = (net.shape(id), net.value(id).floats()?);
    let outer = shape.len().saturating_sub(1);
    match values {
        [one] => Some(vec![*one; n]),
        row if row.len() == n
            && shape[..outer].iter().all(|&d| d == 1)
            && shape.last() == Some(&n) =>
        {
            Some(row.to_vec())
        }
        _ => None,
    }
}

/// A constant that adds one number to each of `c` channels of `rank` axes, as those numbers.
fn channel_bias(net: &Net, id: ValueId, c: usize, rank: usize) -> Option<Vec<f32>> {
    let (shape, values) = (net.shape(id), net.value(id).floats()?);
    match values {
        [one] => Some(vec![*one; c]),
        all if all.len() == c && shape.rank() + 1 >= rank && shape.rank() <= rank => {
            let axis = 1 + shape.rank() - rank;
            (shape[axis] == c).then(|| all.to_vec())
        }
        _ => None,
    }
}

/// Puts `next` into the end of `kernel`, whose only reader it is. Says whether it did.
fn fuse(net: &mut Net, kernel: &mut Item, next: &Item, through: ValueId) -> Result<bool> {
    if kernel.outputs.iter().flatten().count() != 1 || kernel.y() != through {
        return Ok(false);
    }
    let plain = kernel
        .work
        .epilogue()
        .is_some_and(|act| *act == Activation::None);
    if !plain {
        return Ok(false);
    }
    match &next.work {
        Work::Activate(act) => {
            let act = *act;
            if let Some(slot) = kernel.work.epilogue() {
                *slot = act;
            }
            Ok(true)
        }
        Work::Op(Op::Binary(Binary::Add)) => {
            let other = if next.input(0) == Some(through) {
                next.input(1)
            } else {
                next.input(0)
            };
            let Some(other) = other.filter(|&id| id != through) else {
                return Ok(false);
            };
            add_bias(net, kernel, next, other)
        }
        Work::Op(Op::BatchNorm { epsilon }) => fold_batch_norm(net, kernel, next, *epsilon),
        _ => Ok(false),
    }
}

fn add_bias(net: &mut Net, kernel: &mut Item, next: &Item, other: ValueId) -> Result<bool> {
    let y = net.shape(kernel.y());
    if net.shape(next.y()) != y {
        return Ok(false);
    }
    let bias = match &kernel.work {
        Work::Conv(conv) => channel_bias(net, other, conv.shape.c_out, y.rank()),
        Work::Linear(linear) => row_bias(net, other, linear.n),
        _ => None,
    };
    let Some(mut bias) = bias else {
        return Ok(false);
    };
    if let Some(old) = kernel.input(2).and_then(|id| net.value(id).floats()) {
        bias.iter_mut().zip(old).for_each(|(b, o)| *b += o);
    }
    let id = net.constant(format!("{} bias", next.label), &[bias.len()], bias)?;
    kernel.inputs.truncate(2);
    kernel.inputs.push(Some(id));
    Ok(true)
}

/// y = (x - mean) / sqrt(var + eps) * scale + shift, folded into the weights and the bias of the convolution before it.
fn fold_batch_norm(net: &mut Net, kernel: &mut Item, norm: &Item, epsilon: f32) -> Result<bool> {
    let Work::Conv(conv) = &kernel.work else {
        return Ok(false);
    };
    let c_out = conv.shape.c_out;
    let parameters: Option<Vec<Vec<f32>>> = (1..5)
        .map(|i| {
            net.value(norm.input(i)?)
                .floats()
                .filter(|v| v.len() == c_out)
                .map(<[f32]>::to_vec)
        })
        .collect();
    let (Some(parameters), Some(weights)) = (parameters, kernel.input(1)) else {
        return Ok(false);
    };
    let [scale, shift, mean, var] = &parameters[..] else {
        return Ok(false);
    };
    let factor: Vec<f64> = (0..c_out)
        .map(|c| f64::from(scale[c]) / (f64::from(var[c]) + f64::from(epsilon)).sqrt())
        .collect();
    let old = kernel.input(2).and_then(|id| net.value(id).floats());
    let bias: Vec<f32> = (0..c_out)
        .map(|c| {
            let b = f64::from(old.map_or(0.0, |b| b[c]));
            ((b - f64::from(mean[c])) * factor[c] + f64::from(shift[c])) as f32
        })
        .collect();
    let Some(values) = net.value(weights).floats() else {
        return Ok(false);
    };
    let each = (values.len() / c_out.max(1)).max(1);
    let folded: Vec<f32> = values
        .iter()
        .enumerate()
        .map(|(i, &w)| (f64::from(w) * factor[i / each]) as f32)
        .collect();
    let dims = net.shape(weights);
    let weights = net.constant(format!("{} weights", norm.label), &dims, folded)?;
    let bias = net.constant(format!("{} bias", norm.label), &[c_out], bias)?;
    kernel.inputs = vec![kernel.input(0), Some(weights), Some(bias)];
    Ok(true)
}

/// Repeats a short constant row so that the kernel runs over whole planes: rows of a few numbers cost more in calls than in arithmetic.
fn widen(net: &mut Net, item: &mut Item) -> Result<()> {
    const SHORT: usize = 64;
    const SMALL: usize = 4096;
    if !matches!(item.work, Work::Op(Op::Binary(_))) {
        return Ok(());
    }
    let out = net.shape(item.y());
    let short = out.last().is_some_and(|&d| d < SHORT) && out.elements() <= SMALL;
    for i in 0..2 {
        let Some(id) = item.input(i) else { continue };
        let Some(row) = net.value(id).floats().filter(|v| short && v.len() > 1) else {
            continue;
        };
        let repeats = out.last() == Some(&row.len()) && out.elements() > row.len();
        if repeats && row.len() == net.shape(id).last().copied().unwrap_or(1) {
            let wide = row.repeat(out.elements() / row.len());
            item.inputs[i] = Some(net.constant(format!("{} row", item.label), &out, wide)?);
        }
    }
    Ok(())
}

/// Whether `item` and an earlier item are the mean and the maximum over all spatial axes of one map: (earlier, mean, max).
fn mean_max(net: &Net, done: &[Item], item: &Item) -> Option<(usize, ValueId, ValueId)> {
    let kind = pools_planes(net, item)?;
    let (i, other, first) = done.iter().enumerate().rev().find_map(|(i, other)| {
        let first = pools_planes(net, other)?;
        (other.x() == item.x() && first != kind).then_some((i, other, first))
    })?;
    match (first, kind) {
        (Reduction::Mean, Reduction::Max) => Some((i, other.y(), item.y())),
        (Reduction::Max, Reduction::Mean) => Some((i, item.y(), other.y())),
        _ => None,
    }
}

/// The kind of a reduction of `[N, C, spatial..]` over all spatial axes.
pub(super) fn pools_planes(net: &Net, item: &Item) -> Option<Reduction> {
    let Work::Op(Op::Reduce { kind, .. }) = &item.work else {
        return None;
    };
    let x = net.value(item.x());
    let axes = net.value(item.input(1)?).constant.as_ref()?;
    let rank = x.shape.rank();
    let mut all: Vec<i64> = axes
        .as_slice::<i64>()
        .ok()?
        .iter()
        .map(|&a| if a < 0 { a + rank as i64 } else { a })
        .collect();
    all.sort_unstable();
    let spatial = rank >= 3 && all.iter().copied().eq(2..rank as i64);
    (spatial && x.dtype == DType::F32 && x.shape.elements() > 0).then_some(*kind)
}
