//! Finds channel masks: turns a product with a proven mask into [`Op::Mask`].
//!
//! `Mul(X, U)` is a mask when three things are proven.
//! - *U is 0 or 1.* Proven for constants with such elements, results of comparisons and of logic, values declared bool; for casts,
//!   copies, changes of shape, selections and concatenations of such values; for their products, minima and maxima.
//! - *U is one vector of channels a sample.* A constant with one extent other than 1; or `Unsqueeze(m)` or `Reshape(m)` of a matrix
//!   `m` = `[N or 1, C]` that puts N on axis 0, C on another axis, and 1 elsewhere.
//! - *X has as many axes as U*, so that nothing else broadcasts; and m has one row, or m and X are both made from the inputs: then
//!   they have one row a sample.
//!
//! Masks that are copies and products of constants become constants, so that later stages see that they are static.
//!
//! Ranks are those that follow from the operators and the constants, else those that the file declares. A product of two masks stays
//! a product: it is the mask of a chain of layers.

use std::collections::HashMap;

use crate::graph::{Binary, Dim, Graph, Node, Op, Value, ValueId};
use crate::{DType, Shape, Tensor};

/// What is known about a value.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    rank: Option<usize>,
    dtype: Option<DType>,
    /// Each element is 0 or 1.
    zero_one: bool,
    /// It depends on an input of the graph.
    sampled: bool,
    /// The last extent.
    last: Option<usize>,
    /// The first extent is 1.
    one_row: bool,
}

/// Elements of folded masks at most; far more than the channels of any model.
const MAX_FOLDED: usize = 1 << 22;

/// Products inside products at most.
const MAX_CHAIN: u32 = 64;

/// The search: the graph and what is known so far.
struct Search<'g> {
    graph: &'g mut Graph,
    facts: Vec<Facts>,
    makers: HashMap<ValueId, usize>,
    /// Masks as constants; `None` = not one.
    folded: HashMap<ValueId, Option<ValueId>>,
    elements: usize,
}

/// Replaces what is proven.
pub(super) fn find(graph: &mut Graph) {
    let mut facts: Vec<Facts> = graph.values.iter().map(declared).collect();
    for &input in &graph.inputs {
        facts[input.index()].sampled = true;
    }
    let mut search = Search {
        graph,
        facts,
        makers: HashMap::new(),
        folded: HashMap::new(),
        elements: 0,
    };
    for i in 0..search.graph.nodes.len() {
        search.visit(i);
    }
}

impl Facts {
    /// The same elements in another shape.
    fn moved(self) -> Facts {
        Facts {
            last: None,
            one_row: false,
            ..self
        }
    }

    /// What was derived, or else what was declared.
    fn or(self, declared: Facts) -> Facts {
        Facts {
            rank: self.rank.or(declared.rank),
            dtype: self.dtype.or(declared.dtype),
            last: self.last.or(declared.last),
            ..self
        }
    }
}

/// What a constant is, or what the file declares.
fn declared(value: &Value) -> Facts {
    let dims = value.dims.as_ref();
    Facts {
        rank: dims.map(Vec::len),
        dtype: value.dtype,
        zero_one: match &value.constant {
            Some(tensor) => is_zero_one(tensor),
            None => value.dtype == Some(DType::Bool),
        },
        sampled: false,
        one_row: value.constant.is_some() && dims.and_then(|d| d.first()) == Some(&Dim::Fixed(1)),
        last: dims.and_then(|d| d.last()).and_then(|d| match d {
            Dim::Fixed(n) => Some(*n),
            _ => None,
        }),
    }
}

fn is_zero_one(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DType::F32 => {
            (tensor.as_slice::<f32>()).is_ok_and(|v| v.iter().all(|&e| e == 0.0 || e == 1.0))
        }
        DType::I64 => (tensor.as_slice::<i64>()).is_ok_and(|v| v.iter().all(|&e| e == 0 || e == 1)),
        DType::I32 => (tensor.as_slice::<i32>()).is_ok_and(|v| v.iter().all(|&e| e == 0 || e == 1)),
        _ => tensor.view().bytes().iter().all(|&e| e <= 1),
    }
}

/// The elements of a constant list of integers.
fn list(graph: &Graph, node: &Node, i: usize) -> Option<Vec<i64>> {
    let id = node.inputs.get(i).copied().flatten()?;
    let tensor = graph.value(id).constant.as_ref()?;
    Some(tensor.as_slice::<i64>().ok()?.to_vec())
}

/// What follows for a result from the operator and its operands.
fn derive(graph: &Graph, facts: &[Facts], node: &Node, result: usize) -> Facts {
    let input = |i: usize| -> Facts {
        let id = node.inputs.get(i).copied().flatten();
        id.map_or(Facts::default(), |id| facts[id.index()])
    };
    let ranks = |inputs: &[Facts]| -> Option<usize> {
        inputs
            .iter()
            .map(|f| f.rank)
            .try_fold(0, |most, r| Some(most.max(r?)))
    };
    let (a, b, c) = (input(0), input(1), input(2));
    let mut f = Facts::default();
    match &node.op {
        Op::Identity | Op::Mask { .. } => f = a,
        Op::Cast { to } => {
            // A cast to bool makes 0 and 1 of everything.
            let zero_one = a.zero_one || *to == DType::Bool;
            f = Facts {
                dtype: Some(*to),
                zero_one,
                ..a
            };
        }
        Op::CastLike => {
            f = Facts {
                dtype: b.dtype,
                zero_one: a.zero_one || b.dtype == Some(DType::Bool),
                ..a
            };
        }
        Op::Unary(crate::graph::Unary::Not) => f = a,
        Op::Unary(_) | Op::Clip => {
            f.rank = a.rank;
            f.last = a.last;
            f.one_row = a.one_row;
        }
        Op::Binary(op) => {
            f.one_row = a.one_row && b.one_row && a.rank == b.rank;
            f.rank = ranks(&[a, b]);
            f.last = match (a.last, b.last) {
                (x, y) if x == y => x,
                (x, Some(1)) => x,
                (Some(1), y) => y,
                (x, _) if b.rank == Some(0) => x,
                (_, y) if a.rank == Some(0) => y,
                _ => None,
            };
            match op {
                Binary::And
                | Binary::Or
                | Binary::Equal
                | Binary::Greater
                | Binary::GreaterOrEqual
                | Binary::Less
                | Binary::LessOrEqual => {
                    f.dtype = Some(DType::Bool);
                    f.zero_one = true;
                }
                Binary::Mul | Binary::Min | Binary::Max => {
                    f.dtype = a.dtype.or(b.dtype);
                    f.zero_one = a.zero_one && b.zero_one;
                }
                _ => {}
            }
        }
        Op::Where => {
            f.rank = ranks(&[a, b, c]);
            f.dtype = b.dtype.or(c.dtype);
            f.zero_one = b.zero_one && c.zero_one;
        }
        Op::Concat { .. } => {
            f.rank = a.rank;
            f.dtype = a.dtype;
            f.zero_one = (0..node.inputs.len()).all(|i| input(i).zero_one);
        }
        Op::Conv { .. } => f.rank = a.rank.or(b.rank),
        Op::Attention(_)
        | Op::AveragePool { .. }
        | Op::BatchNorm { .. }
        | Op::GlobalAveragePool
        | Op::GlobalMaxPool
        | Op::LayerNorm { .. }
        | Op::LogSoftmax { .. }
        | Op::MaxPool { .. }
        | Op::Pad { .. }
        | Op::RmsNorm { .. }
        | Op::RotaryEmbedding(_)
        | Op::Softmax { .. } => f.rank = a.rank.filter(|_| result == 0),
        Op::Slice | Op::Split { .. } | Op::Transpose { .. } => {
            f = a.moved();
        }
        Op::Gemm { trans_b, .. } => {
            f.rank = Some(2);
            f.last = (node.inputs.get(1).copied().flatten())
                .and_then(|w| graph.value(w).constant.as_ref())
                .and_then(|w| w.shape().get(usize::from(!trans_b)).copied());
        }
        Op::MatMul => {
            f.rank = match (a.rank, b.rank) {
                (Some(1), Some(1)) => Some(0),
                (Some(1), Some(n)) | (Some(n), Some(1)) => n.checked_sub(1),
                _ => ranks(&[a, b]),
            };
            f.last = b.last.filter(|_| b.rank.is_some_and(|r| r >= 2));
        }
        Op::Reduce {
            keep_dims,
            noop_with_empty_axes,
            ..
        } => {
            let axes = match node.inputs.get(1).copied().flatten() {
                Some(_) => list(graph, node, 1).map(|l| l.len()),
                None => Some(0),
            };
            f.rank = match (keep_dims, axes) {
                (true, _) => a.rank,
                (false, Some(0)) if !noop_with_empty_axes => Some(0),
                (false, Some(n)) => a.rank.and_then(|r| r.checked_sub(n)),
                _ => None,
            };
        }
        Op::Gather { .. } => {
            f = Facts {
                rank: a.rank.zip(b.rank).and_then(|(x, y)| (x + y).checked_sub(1)),
                ..a.moved()
            };
        }
        Op::Flatten { .. } => {
            f = Facts {
                rank: Some(2),
                ..a.moved()
            };
        }
        Op::Reshape { .. } => {
            f = Facts {
                rank: list(graph, node, 1).map(|l| l.len()),
                ..a.moved()
            };
        }
        Op::Expand => {
            let to = list(graph, node, 1).map(|l| l.len());
            f = Facts {
                rank: a.rank.zip(to).map(|(x, y)| x.max(y)),
                ..a.moved()
            };
        }
        Op::Squeeze | Op::Unsqueeze => {
            let n = list(graph, node, 1).map(|l| l.len());
            let is_squeeze = node.op == Op::Squeeze;
            f = Facts {
                rank: a.rank.zip(n).and_then(|(r, n)| match is_squeeze {
                    true => r.checked_sub(n),
                    false => Some(r + n),
                }),
                ..a.moved()
            };
        }
        Op::Shape { .. } | Op::Range => f.rank = Some(1),
        Op::Gate { .. } => {}
    }
    f
}

/// Where the mask of a product comes from.
enum Mask {
    /// A value of shape `[N or 1, C]`.
    Matrix(ValueId),
    /// A constant with C as its only extent other than 1.
    Vector(ValueId),
}

impl Search<'_> {
    /// Replaces node `i` if it is a mask, and notes what is known of its results.
    fn visit(&mut self, i: usize) {
        if let Some((x, mask, axis)) = self.mask_of(i) {
            let mask = match mask {
                Mask::Matrix(id) => self.fold(id, MAX_CHAIN).unwrap_or(id),
                Mask::Vector(id) => self.row(id),
            };
            let node = &mut self.graph.nodes[i];
            node.op = Op::Mask { axis };
            node.inputs = vec![Some(x), Some(mask)];
        }
        let node = &self.graph.nodes[i];
        let sampled = (node.inputs.iter().flatten()).any(|i| self.facts[i.index()].sampled);
        for (k, output) in node.outputs.iter().enumerate() {
            if let Some(output) = *output {
                self.makers.insert(output, i);
                let known = self.facts[output.index()];
                let derived = derive(self.graph, &self.facts, node, k).or(known);
                self.facts[output.index()] = Facts { sampled, ..derived };
            }
        }
    }

    /// X, the mask and the axis of the channels, when node `i` is a product with a proven mask.
    fn mask_of(&self, i: usize) -> Option<(ValueId, Mask, usize)> {
        let node = &self.graph.nodes[i];
        let (Op::Binary(Binary::Mul), &[Some(left), Some(right)]) = (&node.op, &node.inputs[..])
        else {
            return None;
        };
        [(left, right), (right, left)]
            .into_iter()
            .find_map(|(x, u)| {
                let (fx, fu) = (self.facts[x.index()], self.facts[u.index()]);
                if fx.zero_one || !fu.zero_one || fu.dtype != Some(DType::F32) {
                    return None;
                }
                let (mask, axis) = self.spread(fx.rank?, u)?;
                if let Mask::Matrix(m) = mask {
                    let m = self.facts[m.index()];
                    let rows_match = m.one_row || m.sampled && fx.sampled;
                    if !rows_match {
                        return None;
                    }
                }
                Some((x, mask, axis))
            })
    }

    fn maker(&self, id: ValueId) -> Option<&Node> {
        self.makers.get(&id).map(|&i| &self.graph.nodes[i])
    }

    /// The mask that `u` spreads over a tensor of this rank, and the axis of its channels.
    fn spread(&self, rank: usize, mut u: ValueId) -> Option<(Mask, usize)> {
        if let Some(constant) = &self.graph.value(u).constant {
            let axis = channel_axis(&constant.shape(), rank)?;
            return Some((Mask::Vector(u), axis));
        }
        let mut maker = self.maker(u)?;
        while maker.op == Op::Identity {
            u = maker.inputs.first().copied().flatten()?;
            maker = self.maker(u)?;
        }
        let m = maker.inputs.first().copied().flatten()?;
        let of = self.facts[m.index()];
        if of.rank != Some(2) || self.facts[u.index()].rank != Some(rank) {
            return None;
        }
        let axis = match maker.op {
            Op::Unsqueeze => unsqueezed(&list(self.graph, maker, 1)?, rank)?,
            Op::Reshape { allow_zero } => {
                reshaped(&list(self.graph, maker, 1)?, allow_zero, of.last)?
            }
            _ => return None,
        };
        Some((Mask::Matrix(m), axis))
    }

    /// A mask as a constant, when it is made by copies and products of constants alone.
    fn fold(&mut self, id: ValueId, depth: u32) -> Option<ValueId> {
        if self.graph.value(id).constant.is_some() {
            return Some(id);
        }
        if let Some(&known) = self.folded.get(&id) {
            return known;
        }
        let maker = self.maker(id)?;
        let (op, inputs) = (maker.op.clone(), maker.inputs.clone());
        let folded = match (op, &inputs[..]) {
            _ if depth == 0 => None,
            (Op::Identity, &[Some(x)]) => self.fold(x, depth - 1),
            (Op::Binary(Binary::Mul | Binary::Min), &[Some(x), Some(y)]) => {
                let x = self.fold(x, depth - 1);
                let y = self.fold(y, depth - 1);
                x.zip(y).and_then(|(x, y)| self.product(id, x, y))
            }
            _ => None,
        };
        self.folded.insert(id, folded);
        folded
    }

    /// The product of two constant masks of one shape.
    fn product(&mut self, of: ValueId, x: ValueId, y: ValueId) -> Option<ValueId> {
        let (x, y) = (self.graph.value(x), self.graph.value(y));
        let (x, y) = (x.constant.as_ref()?, y.constant.as_ref()?);
        self.elements += x.shape().elements();
        if x.shape() != y.shape() || self.elements > MAX_FOLDED {
            return None;
        }
        let pairs = x
            .as_slice::<f32>()
            .ok()?
            .iter()
            .zip(y.as_slice::<f32>().ok()?);
        let product = Tensor::new(&x.shape(), pairs.map(|(x, y)| x * y).collect()).ok()?;
        let name = format!("{}/static", self.graph.value(of).name);
        Some(self.constant(name, product))
    }

    /// A constant vector of channels as a matrix of one row.
    fn row(&mut self, id: ValueId) -> ValueId {
        if let Some(&Some(known)) = self.folded.get(&id) {
            return known;
        }
        let value = self.graph.value(id);
        let name = format!("{}/row", value.name);
        let tensor = value.constant.clone().expect("a vector is a constant");
        let row = tensor.as_slice::<f32>().expect("a mask is f32").to_vec();
        let row = Tensor::new(&[1, row.len()], row).expect("a row of the same elements");
        let row = self.constant(name, row);
        self.folded.insert(id, Some(row));
        row
    }

    fn constant(&mut self, name: String, tensor: Tensor) -> ValueId {
        let id = self.graph.add_constant(name, tensor);
        self.facts.push(declared(self.graph.value(id)));
        id
    }
}

/// The only axis whose extent is not 1, counted in a tensor of this rank.
fn channel_axis(shape: &Shape, rank: usize) -> Option<usize> {
    let mut others = (0..shape.rank()).filter(|&i| shape[i] != 1);
    let axis = others.next()? + rank.checked_sub(shape.rank())?;
    (others.next().is_none() && axis > 0).then_some(axis)
}

/// Where Unsqueeze with these axes puts C; N must stay on axis 0.
fn unsqueezed(axes: &[i64], rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let inserted = |axis: i64| axes.contains(&axis) || axes.contains(&(axis - rank));
    let mut kept = (0..rank).filter(|&axis| !inserted(axis));
    match (kept.next(), kept.next(), kept.next()) {
        (Some(0), Some(axis), None) => usize::try_from(axis).ok(),
        _ => None,
    }
}

/// Where Reshape to `to` puts C of `[N, C]`, when N stays on axis 0 and the other extents are 1.
fn reshaped(to: &[i64], allow_zero: bool, channels: Option<usize>) -> Option<usize> {
    let mut others = (1..to.len()).filter(|&i| to[i] != 1);
    let axis = others.next()?;
    if others.next().is_some() {
        return None;
    }
    let copies = |i: usize| to[i] == 0 && !allow_zero && i < 2;
    let says_channels = channels.is_some_and(|c| i64::try_from(c) == Ok(to[axis]) && c > 0);
    // The element count is given, so one of the two extents decides the other.
    let is_free = |i: usize| to[i] > 0 || to[i] == -1;
    let kept = if copies(0) {
        is_free(axis) || (copies(axis) && axis == 1)
    } else {
        is_free(0) && (says_channels || (copies(axis) && axis == 1))
    };
    kept.then_some(axis)
}
