//! Operators that a file spells out in smaller ones, put together again: attention, normalisations, activations.
//!
//! One walk in the order of the graph. Each item may be the last one of a pattern; what leads to it is then one item in its place. A pattern
//! counts only when nobody else reads what it would not compute any more, and when what it computes instead differs by rounding alone.
//! Patterns build on each other: a normalisation is found without its scale, then takes the scale, then the bias.

mod attention;
mod gelu;
mod heads;
mod norm;

use super::net::{Item, Net};
use super::rewrite::Work;
use crate::graph::{Binary, Op, Unary, ValueId};
use crate::{DType, Result, Shape, Tensor};

/// Finds all patterns.
pub(super) fn fuse(net: &mut Net) -> Result<()> {
    forget_identities(net);
    // Readers that nobody reads do not count.
    net.drop_unused();
    let uses = net.uses();
    let items = std::mem::take(&mut net.items);
    let mut walk = Walk {
        uses,
        makers: vec![None; net.len()],
        done: Vec::with_capacity(items.len()),
        net,
    };
    for item in items {
        walk.push(item);
        // What was found may be the end of a larger pattern.
        while let Some(found) = walk.find() {
            walk.replace(found)?;
        }
    }
    net.items = walk.done;
    net.drop_unused();
    Ok(())
}

/// The items up to one of them, which is the last.
struct Walk<'a> {
    net: &'a mut Net,
    done: Vec<Item>,
    /// Which item makes a value.
    makers: Vec<Option<usize>>,
    /// How often a value is read.
    uses: Vec<usize>,
}

impl Walk<'_> {
    fn push(&mut self, item: Item) {
        self.makers.resize(self.net.len(), None);
        self.uses.resize(self.net.len(), 0);
        for id in item.outputs.iter().flatten() {
            self.makers[id.index()] = Some(self.done.len());
        }
        self.done.push(item);
    }

    /// A pattern that ends at the last item.
    fn find(&self) -> Option<Found> {
        let last = self.done.len() - 1;
        let known = Known {
            net: self.net,
            items: &self.done,
            makers: &self.makers,
            uses: &self.uses,
        };
        attention::find(&known, last)
            .or_else(|| heads::find(&known, last))
            .or_else(|| norm::find(&known, last))
            .or_else(|| gelu::find(&known, last))
            .filter(|found| known.is_alone(&found.parts, last))
    }

    /// Puts what was found in the place of the last item. Its other parts stay, unread.
    fn replace(&mut self, found: Found) -> Result<()> {
        let mut item = self.done.pop().expect("there is a last item");
        let mut parts = found.parts;
        parts.sort_unstable();
        let own = std::mem::take(&mut item.label);
        for label in parts.iter().map(|&i| &self.done[i].label).chain([&own]) {
            if item.label.is_empty() {
                item.label.clone_from(label);
            } else {
                item.append_label(label);
            }
        }
        let read = parts.iter().flat_map(|&i| &self.done[i].inputs);
        for id in read.chain(&item.inputs).flatten() {
            self.uses[id.index()] -= 1;
        }
        item.work = Work::Op(found.op);
        item.inputs = Vec::with_capacity(found.operands.len());
        for operand in found.operands {
            let id = match operand {
                None => None,
                Some(operand) => Some(self.operand(operand, &item.label)?),
            };
            self.uses.resize(self.net.len(), 0);
            if let Some(id) = id {
                self.uses[id.index()] += 1;
            }
            item.inputs.push(id);
        }
        self.push(item);
        Ok(())
    }

    fn operand(&mut self, operand: Operand, label: &str) -> Result<ValueId> {
        match operand {
            Operand::Value(id) => Ok(id),
            Operand::Row(shape, row) => self.net.constant(format!("{label} row"), &shape, row),
            Operand::Of(steps, mut id) => {
                for Step { op, more } in steps {
                    let label = format!("{label} operand");
                    let mut inputs = vec![Some(id)];
                    for tensor in more {
                        inputs.push(Some(self.net.known(format!("{label} constant"), tensor)?));
                    }
                    let outputs = Vec::new();
                    let made = self.net.make(Item {
                        label,
                        work: Work::Op(op),
                        inputs,
                        outputs,
                    })?;
                    self.uses[id.index()] += 1;
                    id = made.y();
                    self.push(made);
                }
                Ok(id)
            }
        }
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

/// Items that are followed one after the other, at most.
const LONGEST: usize = 16;

/// A pattern that ends at some item.
struct Found {
    op: Op,
    operands: Vec<Option<Operand>>,
    /// The other items that it is made of.
    parts: Vec<usize>,
}

impl Found {
    fn new(op: Op) -> Self {
        Self {
            op,
            operands: Vec::new(),
            parts: Vec::new(),
        }
    }
}

/// An operand of what was found.
enum Operand {
    Value(ValueId),
    /// A constant of this shape.
    Row(Vec<usize>, Vec<f32>),
    /// What a few more operations make of a value.
    Of(Vec<Step>, ValueId),
}

/// An operation of one value, and the constants that are its other operands.
struct Step {
    op: Op,
    more: Vec<Tensor>,
}

impl Step {
    fn new(op: Op) -> Self {
        Self {
            op,
            more: Vec::new(),
        }
    }

    fn reshape(dims: &[usize]) -> Result<Self> {
        Ok(Self {
            op: Op::Reshape { allow_zero: true },
            more: vec![list(dims)?],
        })
    }
}

/// Extents or places as an operand.
fn list(list: &[usize]) -> Result<Tensor> {
    Tensor::new(&[list.len()], list.iter().map(|&n| n as i64).collect())
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
        for _ in 0..LONGEST {
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
                _ => break,
            }
        }
        (factor, id)
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
