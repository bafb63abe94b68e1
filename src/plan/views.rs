//! Attention without the copies around it.
//!
//! Files put heads in front of tokens with Reshape, Transpose, Split, Slice and Gather, and behind attention they put them back. All of
//! these only say where an element lies, which the kernel can be told instead: [`View`]s follow an operand back to the value that holds it.

use sluicegate_kernels::ops::attention::AttentionSpec;

use super::kernels;
use super::net::{Item, Net, Readers};
use super::rewrite::Work;
use crate::graph::{self, Op, ValueId};
use crate::{DType, Shape};

/// Views that are looked through for one operand.
const DEEP: u32 = 16;

/// Where the elements of a value lie in another one.
#[derive(Debug, Clone, PartialEq)]
struct View {
    base: ValueId,
    offset: usize,
    /// Extent and distance of each axis.
    axes: Vec<(usize, usize)>,
}

/// Where heads lie in a value: element `c` of token `t` in head `h` of sample `n` is at `offset + n batch + h head + t token + c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadsAt {
    pub(crate) offset: usize,
    pub(crate) batch: usize,
    pub(crate) head: usize,
    pub(crate) token: usize,
}

/// A mask of scores: distances, and how many keys it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BiasAt {
    pub(crate) batch: usize,
    pub(crate) head: usize,
    pub(crate) query: usize,
    pub(crate) keys: usize,
}

/// Attention with a kernel: (Q, K, V, mask?, kv_lengths?, live?, past?), each of the first three in a value that holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attend {
    pub(crate) spec: AttentionSpec,
    pub(crate) samples: usize,
    pub(crate) q: HeadsAt,
    pub(crate) k: HeadsAt,
    pub(crate) v: HeadsAt,
    pub(crate) bias: Option<BiasAt>,
    /// The result is `[samples, queries, q_heads * v_width]`; else heads are in front of queries.
    pub(crate) by_token: bool,
}

impl View {
    fn whole(net: &Net, id: ValueId) -> Self {
        let shape = net.shape(id);
        let strides = shape.strides();
        Self {
            base: id,
            offset: 0,
            axes: shape.iter().copied().zip(strides.iter().copied()).collect(),
        }
    }

    /// The view of a value, as far back as that is possible.
    fn of(net: &Net, makers: &[Option<usize>], id: ValueId, deep: u32) -> Self {
        Self::through(net, makers, id, deep).unwrap_or_else(|| Self::whole(net, id))
    }

    fn through(net: &Net, makers: &[Option<usize>], id: ValueId, deep: u32) -> Option<Self> {
        let deep = deep.checked_sub(1)?;
        let item = &net.items[makers[id.index()]?];
        let Work::Op(op) = &item.work else {
            return None;
        };
        let x = || Self::of(net, makers, item.x(), deep);
        let shape = net.shape(id);
        let ints = |i: usize| -> Option<Vec<i64>> {
            let constant = net.value(item.input(i)?).constant.as_ref()?;
            Some(constant.as_slice::<i64>().ok()?.to_vec())
        };
        match op {
            Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze => {
                x().reshaped(&shape)
            }
            Op::Transpose { perm } => {
                let mut view = x();
                let from = view.axes.clone();
                let rank = from.len();
                for (i, axis) in view.axes.iter_mut().enumerate() {
                    let at = perm.as_ref().map_or(rank - 1 - i, |perm| perm[i]);
                    *axis = *from.get(at)?;
                }
                Some(view)
            }
            Op::Split { axis } => {
                let mut view = x();
                let axis = kernels::axis(*axis, view.axes.len()).ok()?;
                let sizes = kernels::split_sizes(net, item, view.axes[axis].0).ok()?;
                let part = item.outputs.iter().position(|&y| y == Some(id))?;
                let first: usize = sizes[..part].iter().sum();
                view.offset += first * view.axes[axis].1;
                view.axes[axis].0 = sizes[part];
                Some(view)
            }
            Op::Slice => {
                let mut view = x();
                let (starts, steps) = (ints(1)?, ints(4));
                let axes = match item.input(3) {
                    Some(_) => ints(3)?,
                    None => (0..starts.len() as i64).collect(),
                };
                if item.input(4).is_some() && steps?.iter().any(|&step| step != 1) {
                    return None;
                }
                for (start, axis) in starts.into_iter().zip(axes) {
                    let axis = kernels::axis(axis, view.axes.len()).ok()?;
                    let (extent, stride) = view.axes[axis];
                    let from_end = if start < 0 { extent as i64 } else { 0 };
                    let start = start.saturating_add(from_end).clamp(0, extent as i64);
                    view.offset += start as usize * stride;
                    view.axes[axis].0 = shape[axis];
                }
                Some(view)
            }
            Op::Gather { axis } => {
                let mut view = x();
                let axis = kernels::axis(*axis, view.axes.len()).ok()?;
                let &[index] = &ints(1)?[..] else { return None };
                let (extent, stride) = view.axes[axis];
                let from_end = if index < 0 { extent as i64 } else { 0 };
                let index = usize::try_from(index + from_end).ok();
                let index = index.filter(|&index| index < extent)?;
                view.offset += index * stride;
                if net.shape(item.input(1)?).rank() == 0 {
                    view.axes.remove(axis);
                } else {
                    view.axes[axis].0 = 1;
                }
                Some(view)
            }
            _ => None,
        }
    }

    /// The same elements in another shape, where axes are cut or joined in place.
    fn reshaped(mut self, to: &[usize]) -> Option<Self> {
        if to.contains(&0) || self.axes.iter().any(|a| a.0 == 0) {
            return None;
        }
        // Axes that lie side by side are one.
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &(extent, stride) in self.axes.iter().filter(|a| a.0 != 1) {
            match runs.last_mut() {
                Some(run) if run.1 == extent * stride => *run = (run.0 * extent, stride),
                _ => runs.push((extent, stride)),
            }
        }
        let mut runs = runs.into_iter();
        let mut left = (1, 1);
        self.axes.clear();
        for &extent in to {
            if extent == 1 {
                self.axes.push((1, 0));
                continue;
            }
            if left.0 == 1 {
                left = runs.next()?;
            }
            if !left.0.is_multiple_of(extent) {
                return None;
            }
            left.0 /= extent;
            self.axes.push((extent, left.0 * left.1));
        }
        Some(self)
    }

    /// `[samples, heads, tokens, width]` as heads, their elements side by side.
    fn heads(&self) -> Option<HeadsAt> {
        let &[batch, head, token, (width, step)] = &self.axes[..] else {
            return None;
        };
        (width == 1 || step == 1).then_some(HeadsAt {
            offset: self.offset,
            batch: batch.1,
            head: head.1,
            token: token.1,
        })
    }
}

/// Gives attention the kernel, where its operands are such.
pub(super) fn attend(net: &mut Net) {
    let makers = net.makers();
    let readers = net.readers();
    let mut found = false;
    for i in 0..net.items.len() {
        let Work::Op(Op::Attention(op)) = &net.items[i].work else {
            continue;
        };
        let Some((attend, operands)) = attention(net, &makers, &net.items[i], op) else {
            continue;
        };
        found = true;
        let behind = (!attend.by_token).then(|| put_back(net, &readers, &net.items[i]));
        let item = &mut net.items[i];
        item.inputs = operands;
        item.outputs.truncate(1);
        let Some([transpose, reshape]) = behind.flatten() else {
            item.work = Work::Attention(attend);
            continue;
        };
        item.work = Work::Attention(Attend {
            by_token: true,
            ..attend
        });
        let y = net.items[reshape].outputs.clone();
        for gone in [transpose, reshape] {
            let label = net.items[gone].label.clone();
            net.items[i].append_label(&label);
            net.items[gone].outputs.clear();
        }
        net.items[i].outputs = y;
    }
    if found {
        net.drop_unused();
    }
}

/// The transposition and the reshape that alone read the result, and put heads back behind tokens.
fn put_back(net: &Net, readers: &Readers, item: &Item) -> Option<[usize; 2]> {
    let transpose = readers.only(item.y())?;
    let Work::Op(Op::Transpose { perm: Some(perm) }) = &net.items[transpose].work else {
        return None;
    };
    let y = net.items[transpose].y();
    let reshape = readers.only(y)?;
    let joins = matches!(
        &net.items[reshape].work,
        Work::Op(Op::Reshape { .. } | Op::Flatten { .. })
    );
    let [.., heads, width] = net.shape(y)[..] else {
        return None;
    };
    let to = net.shape(net.items[reshape].y());
    let whole = to.last() == Some(&(heads * width));
    (joins && whole && perm[..] == [0, 2, 1, 3]).then_some([transpose, reshape])
}

fn attention(
    net: &Net,
    makers: &[Option<usize>],
    item: &Item,
    op: &graph::Attention,
) -> Option<(Attend, Vec<Option<ValueId>>)> {
    if item.output(1).is_some() || item.inputs.len() > 7 {
        return None;
    }
    let ids = [item.x(), item.input(1)?, item.input(2)?];
    if ids.iter().any(|&id| net.value(id).dtype != DType::F32) {
        return None;
    }
    let heads = op.heads.map(|(q, kv)| [q, kv, kv]);
    let mut at = Vec::with_capacity(3);
    let mut extents = Vec::with_capacity(3);
    let mut operands = item.inputs.clone();
    for (i, &id) in ids.iter().enumerate() {
        let laid_out = |view: View| -> Option<(View, HeadsAt)> {
            let mut view = view;
            if let Some(heads) = heads {
                let &[n, tokens, all] = &net.shape(id)[..] else {
                    return None;
                };
                view = view.reshaped(&[n, tokens, heads[i], all.checked_div(heads[i])?])?;
                view.axes.swap(1, 2);
            }
            let heads = view.heads()?;
            Some((view, heads))
        };
        let (view, place) =
            laid_out(View::of(net, makers, id, DEEP)).or_else(|| laid_out(View::whole(net, id)))?;
        let shape: Vec<usize> = view.axes.iter().map(|a| a.0).collect();
        operands[i] = Some(view.base);
        at.push(place);
        extents.push(shape);
    }
    let ([q, k, v], [qs, ks, vs]) = (&at[..], &extents[..]) else {
        return None;
    };
    let spec = AttentionSpec {
        q_heads: qs[1],
        kv_heads: ks[1],
        queries: qs[2],
        keys: ks[2],
        width: qs[3],
        v_width: vs[3],
        scale: op.scale.unwrap_or(1.0 / (qs[3] as f32).sqrt()),
        softcap: op.softcap,
        before: op.reach.before,
        after: op.reach.after,
    };
    let bias = match item.input(3) {
        None => None,
        Some(id) => Some(bias_at(net, id, &spec)?),
    };
    // Which keys live is one set, of one sample.
    let one_set = item.input(5).is_none_or(|id| {
        net.value(id).dtype == DType::F32 && net.shape(id).elements() == spec.keys && qs[0] == 1
    });
    let positive = extents.iter().flatten().all(|&extent| extent > 0);
    (one_set && positive).then_some((
        Attend {
            spec,
            samples: qs[0],
            q: *q,
            k: *k,
            v: *v,
            bias,
            by_token: op.heads.is_some(),
        },
        operands,
    ))
}

/// How a mask covers scores.
fn bias_at(net: &Net, id: ValueId, spec: &AttentionSpec) -> Option<BiasAt> {
    let value = net.value(id);
    if !matches!(value.dtype, DType::F32 | DType::Bool) {
        return None;
    }
    let shape: Shape = value.shape;
    let strides = shape.strides();
    // Axis `back` from the end: zero where there is one for all.
    let step = |back: usize| {
        let axis = shape.rank().checked_sub(back);
        axis.map_or(0, |axis| if shape[axis] == 1 { 0 } else { strides[axis] })
    };
    Some(BiasAt {
        batch: step(4),
        head: step(3),
        query: step(2),
        keys: shape.last().copied().unwrap_or(1).min(spec.keys),
    })
}
