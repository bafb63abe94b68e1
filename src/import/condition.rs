//! Which branch of an `If` is in the graph.

use super::builder::Builder;
use crate::graph::{Op, Unary, ValueId};
use crate::{DType, Tensor};

/// The truth value of a condition, as far as import can know it: a constant is what it is, and the `stop` of a gate is false, because
/// the executor leaves at the gate when it is true. Copies, casts, changes of shape and negations are followed.
pub(super) fn value(b: &Builder<'_>, mut id: ValueId) -> Option<bool> {
    let mut negated = false;
    while let Some(node) = b.maker(id) {
        if b.stops.contains(&id) {
            return Some(negated);
        }
        match node.op {
            Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze | Op::Identity | Op::Cast { .. } => {}
            Op::Unary(Unary::Not) => negated = !negated,
            _ => return None,
        }
        id = node.inputs.first().copied().flatten()?;
    }
    let constant = b.constant(id)?;
    (constant.shape().elements() == 1).then(|| is_true(constant) != negated)
}

/// Is the one element of a tensor not zero?
fn is_true(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>().is_ok_and(|v| v[0] != 0.0),
        _ => tensor.view().bytes().iter().any(|&b| b != 0),
    }
}
