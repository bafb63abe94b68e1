//! Which values decide shapes.

use crate::graph::{Graph, Op};

/// The operands of an operator whose values decide the shape of its results.
fn shape_operands(op: &Op) -> std::ops::Range<usize> {
    match op {
        Op::Expand
        | Op::Reshape { .. }
        | Op::Split { .. }
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Reduce { .. } => 1..2,
        Op::Pad { .. } => 1..4,
        Op::Range => 0..3,
        Op::Slice => 1..5,
        _ => 0..0,
    }
}

/// The graph inputs that some shape depends on: a plan is made for their values, not only for their shapes.
pub(crate) fn shape_inputs(graph: &Graph) -> Vec<bool> {
    let mut decides = vec![false; graph.values.len()];
    for node in graph.nodes.iter().rev() {
        // Only the shape of the operand of `Shape` matters, and that is known anyway.
        let through = !matches!(node.op, Op::Shape { .. })
            && node.outputs.iter().flatten().any(|id| decides[id.index()]);
        let own = shape_operands(&node.op);
        for (i, id) in node.inputs.iter().enumerate() {
            if let Some(id) = id {
                decides[id.index()] |= through || own.contains(&i);
            }
        }
    }
    graph.inputs.iter().map(|id| decides[id.index()]).collect()
}
