//! Products of which only parts are read, one by each reader: queries, keys and values made by one product become three.
//!
//! What each output of a product is does not change, and no part is copied out of the whole.

use super::super::net::{Item, Net};
use super::super::rewrite::Work;
use crate::Result;
use crate::graph::{Binary, Op, ValueId};

/// A product x · W + b that is cut, and its parts.
struct Cut {
    x: ValueId,
    weights: ValueId,
    bias: Option<ValueId>,
    label: String,
    /// The item of each part, and its first column and the one behind its last.
    parts: Vec<(usize, usize, usize)>,
}

/// Cuts all products of which that is true.
pub(super) fn cut(net: &mut Net) -> Result<()> {
    let uses = net.uses();
    let mut makers: Vec<Option<usize>> = vec![None; net.len()];
    let mut parts: Vec<Vec<(usize, usize, usize)>> = vec![Vec::new(); net.len()];
    for (i, item) in net.items.iter().enumerate() {
        for id in item.outputs.iter().flatten() {
            makers[id.index()] = Some(i);
        }
        if let Some((begin, end)) = columns(net, item) {
            parts[item.x().index()].push((i, begin, end));
        }
    }
    let mut cuts = Vec::new();
    for (at, mut parts) in parts.into_iter().enumerate() {
        parts.sort_unstable_by_key(|part| part.1);
        let are_apart = parts.windows(2).all(|two| two[0].2 <= two[1].1);
        if parts.len() > 1 && parts.len() == uses[at] && are_apart {
            cuts.extend(product(net, &makers, &uses, ValueId(at as u32), parts));
        }
    }
    let mut replaced: Vec<Vec<Item>> = vec![Vec::new(); net.items.len()];
    for cut in cuts {
        let bytes = net.value(cut.weights).bytes();
        if bytes > net.room() / 2 {
            continue;
        }
        for &(i, begin, end) in &cut.parts {
            replaced[i] = part(net, &cut, i, begin, end)?;
        }
    }
    let items = std::mem::take(&mut net.items);
    for (item, replaced) in items.into_iter().zip(replaced) {
        if replaced.is_empty() {
            net.items.push(item);
        } else {
            net.items.extend(replaced);
        }
    }
    net.drop_unused();
    Ok(())
}

/// The columns that a slice takes of its operand: of the last axis alone, in order.
fn columns(net: &Net, item: &Item) -> Option<(usize, usize)> {
    let Work::Op(Op::Slice) = item.work else {
        return None;
    };
    let one = |i: usize| -> Option<i64> {
        let list = net.value(item.input(i)?).constant.as_ref()?;
        match list.as_slice::<i64>().ok()? {
            [one] => Some(*one),
            _ => None,
        }
    };
    let (from, to) = (net.shape(item.x()), net.shape(item.y()));
    let last = from.rank().checked_sub(1)?;
    let axis = one(3)?;
    let is_last = axis == -1 || axis == last as i64;
    let in_order = item.input(4).is_none() || one(4) == Some(1);
    let begin = one(1)?;
    let begin = if begin < 0 {
        begin + from[last] as i64
    } else {
        begin
    };
    let begin = usize::try_from(begin).ok()?;
    (is_last && in_order && to[last] > 0).then_some((begin, begin + to[last]))
}

/// The product that makes a value, with a bias or without, if nobody else reads it.
fn product(
    net: &Net,
    makers: &[Option<usize>],
    uses: &[usize],
    id: ValueId,
    parts: Vec<(usize, usize, usize)>,
) -> Option<Cut> {
    let maker = |id: ValueId| makers[id.index()].map(|i| &net.items[i]);
    let n = *net.shape(id).last()?;
    let last = maker(id)?;
    let (matmul, bias) = match &last.work {
        Work::Op(Op::MatMul) => (last, None),
        Work::Op(Op::Binary(Binary::Add)) => {
            let (a, b) = (last.x(), last.input(1)?);
            let (product, bias) = match net.value(b).constant {
                Some(_) => (a, b),
                None => (b, a),
            };
            let is_row = *net.shape(bias) == [n] && net.value(bias).floats().is_some();
            let alone = uses[product.index()] == 1 && net.shape(product) == net.shape(id);
            (maker(product).filter(|_| is_row && alone)?, Some(bias))
        }
        _ => return None,
    };
    let Work::Op(Op::MatMul) = matmul.work else {
        return None;
    };
    let weights = matmul.input(1)?;
    let is_matrix = net.shape(weights).rank() == 2 && net.value(weights).floats().is_some();
    is_matrix.then(|| Cut {
        x: matmul.x(),
        weights,
        bias,
        label: matmul.label.clone(),
        parts,
    })
}

/// The items that compute one part in the place of the slice.
fn part(net: &mut Net, cut: &Cut, i: usize, begin: usize, end: usize) -> Result<Vec<Item>> {
    let label = format!("{} [{begin}..{end}]", cut.label);
    let y = net.items[i].y();
    let columns = |row: &[f32]| row[begin..end].to_vec();
    let shape = net.shape(cut.weights);
    let all = net.value(cut.weights).floats().unwrap_or_default();
    let weights: Vec<f32> = all
        .chunks_exact(shape[1].max(1))
        .flat_map(columns)
        .collect();
    let bias = cut.bias.and_then(|id| net.value(id).floats()).map(columns);
    let weights = net.constant(
        format!("{label} weights"),
        &[shape[0], end - begin],
        weights,
    )?;
    let matmul = Item {
        label: label.clone(),
        work: Work::Op(Op::MatMul),
        inputs: vec![Some(cut.x), Some(weights)],
        outputs: Vec::new(),
    };
    let Some(bias) = bias else {
        let outputs = vec![Some(y)];
        return Ok(vec![Item { outputs, ..matmul }]);
    };
    let bias = net.constant(format!("{label} bias"), &[end - begin], bias)?;
    let matmul = net.make(matmul)?;
    let add = Item {
        label: "bias".to_owned(),
        work: Work::Op(Op::Binary(Binary::Add)),
        inputs: vec![Some(matmul.y()), Some(bias)],
        outputs: vec![Some(y)],
    };
    Ok(vec![matmul, add])
}
