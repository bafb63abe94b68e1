//! Operators that a file spells out in smaller ones, put together again: attention, normalisations, activations.
//!
//! One walk in the order of the graph. Each item may be the last one of a pattern; what leads to it is then one item in its place. A pattern
//! counts only when nobody else reads what it would not compute any more, and when what it computes instead differs by rounding alone.
//! Patterns build on each other: a normalisation is found without its scale, then takes the scale, then the bias.

mod attention;
mod gelu;
mod norm;

use super::net::{Item, Net};
use super::rewrite::Work;
use crate::graph::{Binary, Op, Unary, ValueId};
use crate::{DType, Result, Shape};

/// Finds all patterns.
pub(super) fn fuse(net: &mut Net) -> Result<()> {
    forget_identities(net);
    // Readers that nobody reads do not count.
    net.drop_unused();
    let mut uses = net.uses();
    let mut makers: Vec<Option<usize>> = vec![None; net.len()];
    let mut done: Vec<Item> = Vec::with_capacity(net.items.len());
    for item in std::mem::take(&mut net.items) {
        let last = done.len();
        note(&mut makers, &item, last);
        done.push(item);
        let known = Known {
            net,
            items: &done,
            makers: &makers,
            uses: &uses,
        };
        let found = attention::find(&known, last)
            .or_else(|| norm::find(&known, last))
            .or_else(|| gelu::find(&known, last));
        let Some(found) = found.filter(|found| known.is_alone(&found.parts, last)) else {
            continue;
        };
        let mut item = done.pop().expect("the last one was just added");
        let mut parts = found.parts;
        parts.sort_unstable();
        let own = std::mem::take(&mut item.label);
        for label in parts.iter().map(|&i| &done[i].label).chain([&own]) {
            if item.label.is_empty() {
                item.label.clone_from(label);
            } else {
                item.append_label(label);
            }
        }
        let read = parts.iter().flat_map(|&i| &done[i].inputs);
        for id in read.chain(&item.inputs).flatten() {
            uses[id.index()] -= 1;
        }
        item.work = Work::Op(found.op);
        item.inputs = Vec::with_capacity(found.operands.len());
        for operand in found.operands {
            let id = match operand {
                None => None,
                Some(Operand::Value(id)) => Some(id),
                Some(Operand::Row(shape, row)) => {
                    Some(net.constant(format!("{} row", item.label), &shape, row)?)
                }
                Some(Operand::Of(op, x)) => {
                    let label = format!("{} operand", item.label);
                    let mut inputs = vec![Some(x)];
                    if let Some(shape) = op.1 {
                        inputs.push(Some(net.extents(format!("{label} shape"), &shape)?));
                    }
                    let made = net.make(Item {
                        label,
                        work: Work::Op(op.0),
                        inputs,
                        outputs: Vec::new(),
                    })?;
                    uses[x.index()] += 1;
                    makers.resize(net.len(), None);
                    note(&mut makers, &made, done.len());
                    let id = made.y();
                    done.push(made);
                    Some(id)
                }
            };
            makers.resize(net.len(), None);
            uses.resize(net.len(), 0);
            if let Some(id) = id {
                uses[id.index()] += 1;
            }
            item.inputs.push(id);
        }
        note(&mut makers, &item, done.len());
        done.push(item);
    }
    net.items = done;
    net.drop_unused();
    Ok(())
}

fn note(makers: &mut [Option<usize>], item: &Item, at: usize) {
    for id in item.outputs.iter().flatten() {
        makers[id.index()] = Some(at);
    }
}

/// Readers of a copy read what it is a copy of.
fn forget_identities(net: &mut Net) {
    let mut renamed: Vec<ValueId> = (0..net.len()).map(|i| ValueId(i as u32)).collect();
    net.items.retain_mut(|item| {
        for id in item.inputs.iter_mut().flatten() {
            *id = renamed[id.index()];
        }
        let is_copy = matches!(item.work, Work::Op(Op::Identity));
        if is_copy {
            renamed[item.y().index()] = item.x();
        }
        !is_copy
    });
    for id in &mut net.outputs {
        *id = renamed[id.index()];
    }
}

/// A pattern that ends at some item.
struct Found {
    op: Op,
    operands: Vec<Option<Operand>>,
    /// The other items that it is made of.
    parts: Vec<usize>,
}

/// An operand of what was found.
enum Operand {
    Value(ValueId),
    /// A constant of this shape.
    Row(Vec<usize>, Vec<f32>),
    /// The result of one more operation; a Reshape comes with its shape.
    Of((Op, Option<Vec<usize>>), ValueId),
}

/// What patterns are looked for in.
struct Known<'a> {
    net: &'a Net,
    items: &'a [Item],
    /// Which item makes a value.
    makers: &'a [Option<usize>],
    uses: &'a [usize],
}

impl<'a> Known<'a> {
    /// The operator that makes a value, and its place.
    fn maker(&self, id: ValueId) -> Option<(usize, &'a Item, &'a Op)> {
        let i = self.makers.get(id.index()).copied().flatten()?;
        match &self.items[i].work {
            Work::Op(op) => Some((i, &self.items[i], op)),
            _ => None,
        }
    }

    /// The operands of the binary operator that makes a value.
    fn binary(&self, id: ValueId, op: Binary) -> Option<(usize, ValueId, ValueId)> {
        match self.maker(id)? {
            (i, item, Op::Binary(found)) if *found == op => Some((i, item.x(), item.input(1)?)),
            _ => None,
        }
    }

    /// The operand of the function that makes a value.
    fn unary(&self, id: ValueId, op: Unary) -> Option<(usize, ValueId)> {
        match self.maker(id)? {
            (i, item, Op::Unary(found)) if *found == op => Some((i, item.x())),
            _ => None,
        }
    }

    /// The two operands of a commutative operator, in both orders.
    fn either(
        &self,
        id: ValueId,
        op: Binary,
    ) -> impl Iterator<Item = (usize, ValueId, ValueId)> + use<> {
        let found = self.binary(id, op);
        let swapped = found.map(|(i, a, b)| (i, b, a));
        found.into_iter().chain(swapped)
    }

    fn shape(&self, id: ValueId) -> Shape {
        self.net.shape(id)
    }

    fn is_float(&self, id: ValueId) -> bool {
        self.net.value(id).dtype == DType::F32
    }

    /// The number that a constant is.
    fn scalar(&self, id: ValueId) -> Option<f64> {
        match self.net.value(id).floats()? {
            [one] => Some((*one).into()),
            _ => None,
        }
    }

    /// A value as a number times another, which products with constants lead to; the items of these are added to `parts`.
    fn scaled(&self, mut id: ValueId, parts: &mut Vec<usize>) -> (f64, ValueId) {
        let mut factor = 1.0;
        loop {
            let product =
                (self.either(id, Binary::Mul)).find_map(|(i, x, c)| Some((i, x, self.scalar(c)?)));
            let quotient = (self.binary(id, Binary::Div))
                .and_then(|(i, x, c)| Some((i, x, 1.0 / self.scalar(c)?)));
            match product.or(quotient) {
                Some((i, x, c)) if self.shape(x) == self.shape(id) && c.is_finite() => {
                    factor *= c;
                    parts.push(i);
                    id = x;
                }
                _ => return (factor, id),
            }
        }
    }

    /// Whether nobody but the parts of a pattern, and its last item, reads what they make.
    fn is_alone(&self, parts: &[usize], last: usize) -> bool {
        let mut all = parts.to_vec();
        all.sort_unstable();
        all.dedup();
        if all.len() != parts.len() || all.contains(&last) {
            return false;
        }
        let reads = |id: ValueId| {
            let readers = all.iter().chain([&last]).map(|&i| &self.items[i]);
            let inputs = readers.flat_map(|item| item.inputs.iter().flatten());
            inputs.filter(|&&read| read == id).count()
        };
        let made = all
            .iter()
            .flat_map(|&i| self.items[i].outputs.iter().flatten());
        made.into_iter()
            .all(|&id| reads(id) == self.uses[id.index()])
    }
}

/// Equal but for the rounding of a constant to f32.
fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs()
}
