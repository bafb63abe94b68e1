//! Kernels of operators whose operands are all computed.

use sluicegate_kernels::ops::binary::{BinaryOp, CompareOp};
use sluicegate_kernels::ops::pool::{PoolOp, PoolShape};
use sluicegate_kernels::ops::reduce::ReduceOp;

use super::{Made, axis, dense_cost, plain};
use crate::graph::{Binary, Op, Reduction};
use crate::plan::net::{Item, Net};
use crate::plan::step::{Cover, Kernel, Planes, Pooling, Products};
use crate::{DType, Shape};

/// The kernel of an operator on f32, where one fits its operands.
pub(super) fn special(net: &Net, item: &Item, op: &Op) -> Option<Made> {
    let x = item.input(0)?;
    let shape = net.shape(x);
    match (op, net.value(x).dtype) {
        (Op::Cast { to: DType::F32 }, DType::Bool) => return Some(plain(Kernel::FromBool, 1)),
        (_, DType::F32) => {}
        _ => return None,
    }
    let rank = shape.rank();
    Some(match op {
        Op::Binary(op) => binary(net, item, *op)?,
        Op::Mask { axis } => {
            let mask = net.shape(item.input(1)?);
            let planes = Planes::of(shape, *axis);
            let alone = mask.elements() == planes.channels;
            let (extents, cover) = if planes.outer == 1 && alone {
                ((planes.channels, planes.inner), Cover::Planes)
            } else if planes.inner == 1 && alone {
                ((planes.outer, planes.channels), Cover::Row)
            } else {
                return None;
            };
            plain(
                Kernel::Binary {
                    op: BinaryOp::Mul,
                    extents,
                    covers: [Cover::Full, cover],
                },
                2,
            )
        }
        Op::Softmax { axis: a, flatten } | Op::LogSoftmax { axis: a, flatten } => {
            let axis = axis(*a, rank.max(1)).ok()?;
            let extents = if *flatten {
                [
                    shape[..axis].iter().product(),
                    shape[axis..].iter().product(),
                    1,
                ]
            } else {
                around(shape, axis, axis + 1)
            };
            plain(
                Kernel::Softmax {
                    log: matches!(op, Op::LogSoftmax { .. }),
                    extents,
                },
                1,
            )
        }
        Op::Reduce {
            kind,
            noop_with_empty_axes,
            ..
        } => {
            let axes = match item.input(1) {
                Some(id) => net
                    .value(id)
                    .constant
                    .as_ref()?
                    .as_slice::<i64>()
                    .ok()?
                    .to_vec(),
                None => Vec::new(),
            };
            if axes.is_empty() && *noop_with_empty_axes || shape.elements() == 0 {
                return None;
            }
            let mut axes: Vec<usize> = axes
                .iter()
                .map(|&a| axis(a, rank).ok())
                .collect::<Option<_>>()?;
            axes.sort_unstable();
            if axes.is_empty() {
                axes = (0..rank).collect();
            }
            let (first, last) = (
                axes.first().copied().unwrap_or(0),
                axes.last().map_or(0, |a| a + 1),
            );
            if axes.len() != last - first {
                return None;
            }
            let op = match kind {
                Reduction::Max => ReduceOp::Max,
                Reduction::Mean => ReduceOp::Mean,
                Reduction::Sum => ReduceOp::Sum,
            };
            plain(
                Kernel::Reduce {
                    op,
                    extents: around(shape, first, last),
                },
                1,
            )
        }
        Op::GlobalAveragePool | Op::GlobalMaxPool if rank >= 3 && shape.elements() > 0 => {
            let op = if *op == Op::GlobalMaxPool {
                ReduceOp::Max
            } else {
                ReduceOp::Mean
            };
            plain(
                Kernel::Reduce {
                    op,
                    extents: [shape[0] * shape[1], shape[2..].iter().product(), 1],
                },
                1,
            )
        }
        Op::LayerNorm { axis: a, epsilon }
            if item.output(1).is_none() && item.output(2).is_none() =>
        {
            let axis = axis(*a, rank).ok()?;
            let n: usize = shape[axis..].iter().product();
            let whole = |i| item.input(i).is_none_or(|id| net.shape(id).elements() == n);
            if !(whole(1) && whole(2)) {
                return None;
            }
            let rows = shape[..axis].iter().product();
            plain(
                Kernel::LayerNorm {
                    rows,
                    n,
                    epsilon: *epsilon,
                },
                3,
            )
        }
        Op::RmsNorm { axis: a, epsilon } => {
            let axis = axis(*a, rank).ok()?;
            let n: usize = shape[axis..].iter().product();
            if item
                .input(1)
                .is_some_and(|id| net.shape(id).elements() != n)
            {
                return None;
            }
            let rows = shape[..axis].iter().product();
            plain(
                Kernel::RmsNorm {
                    rows,
                    n,
                    epsilon: *epsilon,
                },
                2,
            )
        }
        Op::BatchNorm { epsilon } => {
            let values = |i: usize| net.value(item.input(i)?).floats();
            let (scale, shift, mean, var) = (values(1)?, values(2)?, values(3)?, values(4)?);
            let factor: Vec<f32> = scale
                .iter()
                .zip(var)
                .map(|(s, v)| s / (v + epsilon).sqrt())
                .collect();
            let shift = (0..factor.len())
                .map(|c| shift[c] - mean[c] * factor[c])
                .collect();
            let images = *shape.first()?;
            let channels = if rank > 1 { shape[1] } else { 1 };
            let extents = (channels, shape.iter().skip(2).product());
            if factor.len() != channels {
                return None;
            }
            plain(
                Kernel::ScaleShift {
                    images,
                    extents,
                    scale: factor,
                    shift,
                },
                1,
            )
        }
        Op::MaxPool { .. } | Op::AveragePool { .. } => {
            plain(Kernel::Pool(pooling(net, item, op)?), 1)
        }
        Op::Gate { threshold, index } => plain(
            Kernel::Gate {
                threshold: *threshold,
                index: *index,
            },
            1,
        ),
        Op::MatMul => products(net, item)?,
        _ => return None,
    })
}

/// `[outer, from..to, inner]`
fn around(shape: Shape, from: usize, to: usize) -> [usize; 3] {
    [
        shape[..from].iter().product(),
        shape[from..to].iter().product(),
        shape[to..].iter().product(),
    ]
}

fn binary(net: &Net, item: &Item, op: Binary) -> Option<Made> {
    let out = net.shape(item.y());
    let (a, b) = (net.shape(item.input(0)?), net.shape(item.input(1)?));
    let (extents, covers) = covers(a, b, out)?;
    let kernel = match (arithmetic(op), comparison(op)) {
        (Some(op), _) => Kernel::Binary {
            op,
            extents,
            covers,
        },
        (None, Some(op)) => Kernel::Compare {
            op,
            extents,
            covers,
        },
        (None, None) => return None,
    };
    Some(plain(kernel, 2))
}

pub(in crate::plan) fn arithmetic(op: Binary) -> Option<BinaryOp> {
    Some(match op {
        Binary::Add => BinaryOp::Add,
        Binary::Sub => BinaryOp::Sub,
        Binary::Mul => BinaryOp::Mul,
        Binary::Div => BinaryOp::Div,
        Binary::Pow => BinaryOp::Pow,
        Binary::Min => BinaryOp::Min,
        Binary::Max => BinaryOp::Max,
        _ => return None,
    })
}

fn comparison(op: Binary) -> Option<CompareOp> {
    Some(match op {
        Binary::Equal => CompareOp::Equal,
        Binary::Less => CompareOp::Less,
        Binary::LessOrEqual => CompareOp::LessOrEqual,
        Binary::Greater => CompareOp::Greater,
        Binary::GreaterOrEqual => CompareOp::GreaterOrEqual,
        _ => return None,
    })
}

/// Planes `(c, p)` of the result over which both operands are full, a number, one number a plane, or one row.
fn covers(a: Shape, b: Shape, out: Shape) -> Option<((usize, usize), [Cover; 2])> {
    if out.elements() == 0 {
        return None;
    }
    // How an operand covers the result, and where it would cut the result into planes.
    let seen = |s: Shape| -> Option<(Cover, Option<usize>)> {
        let missing = out.rank() - s.rank();
        let extent = |axis: usize| if axis < missing { 1 } else { s[axis - missing] };
        let mut varies = (0..out.rank()).filter(|&i| extent(i) != 1);
        let Some(first) = varies.next() else {
            return Some((
                if out.elements() == 1 {
                    Cover::Full
                } else {
                    Cover::Scalar
                },
                None,
            ));
        };
        let last = varies.next_back().unwrap_or(first);
        let solid = (first..=last).all(|i| extent(i) == out[i]);
        let alone = |axes: &[usize]| axes.iter().all(|&d| d == 1);
        match (solid, alone(&out[..first]), alone(&out[last + 1..])) {
            (true, true, true) => Some((Cover::Full, None)),
            (true, true, false) => Some((Cover::Planes, Some(last + 1))),
            (true, false, true) => Some((Cover::Row, Some(first))),
            _ => None,
        }
    };
    let (ca, at_a) = seen(a)?;
    let (cb, at_b) = seen(b)?;
    let cut = match (at_a, at_b) {
        (Some(i), Some(j)) if i != j => return None,
        (Some(i), _) | (_, Some(i)) => i,
        // Both whole: the second axis is the one that masks are about.
        (None, None) => out.rank().min(2),
    };
    let (c, p) = (out[..cut].iter().product(), out[cut..].iter().product());
    Some(((c, p), [ca, cb]))
}

/// The pooling of maps that an item is.
pub(in crate::plan) fn pooling(net: &Net, item: &Item, op: &Op) -> Option<Pooling> {
    let (window, ceil, op) = match op {
        Op::MaxPool { window, ceil, .. } if item.output(1).is_none() => {
            (window, *ceil, PoolOp::Max)
        }
        Op::AveragePool {
            window,
            ceil,
            count_include_pad,
        } => {
            let include_pad = *count_include_pad;
            (window, *ceil, PoolOp::Mean { include_pad })
        }
        _ => return None,
    };
    let (x, y) = (net.shape(item.x()), net.shape(item.y()));
    if x.rank() != 4 || x.elements() == 0 || y.elements() == 0 {
        return None;
    }
    let at = window.resolve(&window.kernel, &x[2..], ceil).ok()?;
    let pair = |v: &[usize]| [v[0], v[1]];
    let shape = PoolShape {
        kernel: pair(&at.kernel),
        stride: pair(&at.strides),
        dilation: pair(&at.dilations),
        pads: [at.begins[0], at.begins[1], at.ends[0], at.ends[1]],
    };
    Some(Pooling {
        op,
        shape,
        images: x[0],
        map: (x[1], x[2], x[3]),
        out: (y[2], y[3]),
    })
}

fn products(net: &Net, item: &Item) -> Option<Made> {
    let (a, b) = (net.shape(item.input(0)?), net.shape(item.input(1)?));
    if a.rank() < 2 || b.rank() < 2 || net.shape(item.y()).elements() == 0 {
        return None;
    }
    let (m, k, n) = (a[a.rank() - 2], a[a.rank() - 1], b[b.rank() - 1]);
    let (batch_a, batch_b) = (
        Shape::new(&a[..a.rank() - 2]).ok()?,
        Shape::new(&b[..b.rank() - 2]).ok()?,
    );
    let batch = crate::ops::broadcast(batch_a, batch_b).ok()?;
    let step = |shape: Shape| {
        let strides = shape.strides();
        let missing = batch.rank() - shape.rank();
        move |axis: usize| {
            if axis < missing || shape[axis - missing] == 1 {
                0
            } else {
                strides[axis - missing]
            }
        }
    };
    let (step_a, step_b) = (step(batch_a), step(batch_b));
    let pairs = (0..batch.elements())
        .map(|flat| {
            let (mut rest, mut pair) = (flat, (0, 0));
            for axis in (0..batch.rank()).rev() {
                let at = rest % batch[axis];
                rest /= batch[axis];
                pair.0 += at * step_a(axis);
                pair.1 += at * step_b(axis);
            }
            pair
        })
        .collect();
    let macs = batch.elements() as u64 * m as u64 * k as u64 * n as u64;
    let kernel = Kernel::MatMul(Products { m, k, n, pairs });
    Some(Made {
        cost: dense_cost(macs),
        ..plain(kernel, 2)
    })
}
