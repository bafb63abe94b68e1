//! The last steps: outputs under their names, dead nodes and values away.

use super::builder::Builder;
use super::proto;
use super::scope::Scope;
use crate::graph::{Graph, Op, ValueId};
use crate::{Error, Result};

/// Enters the outputs of the model.
pub(super) fn outputs<'m>(
    b: &mut Builder<'m>,
    scope: &Scope<'_, 'm>,
    graph: &'m proto::Graph<'m>,
) -> Result<()> {
    for info in &graph.outputs {
        let Some(Some(mut id)) = scope.find(info.name) else {
            return Err(Error::Model(format!(
                "output `{}` is made by nobody",
                info.name
            )));
        };
        if b.graph
            .outputs
            .iter()
            .any(|&o| b.graph.value(o).name == info.name)
        {
            return Err(Error::Model(format!(
                "there are two outputs named `{}`",
                info.name
            )));
        }
        // A branch may hand out a value of the graph around it under another name.
        if b.graph.value(id).name != info.name {
            let name = b.unique("Identity", info.name);
            let results = [Some(info.name.to_string())];
            if let [Some(copy)] = b.node(name, Op::Identity, vec![Some(id)], &results)?[..] {
                id = copy;
            }
        }
        b.graph.outputs.push(id);
    }
    Ok(())
}

/// Drops nodes whose results nobody reads, except gates, and values that are left over.
pub(super) fn prune(graph: &mut Graph) {
    let mut is_used = vec![false; graph.values.len()];
    for output in &graph.outputs {
        is_used[output.index()] = true;
    }
    let mut is_live = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        let is_read = |o: &Option<ValueId>| o.is_some_and(|o| is_used[o.index()]);
        is_live[i] = matches!(node.op, Op::Gate { .. }) || node.outputs.iter().any(is_read);
        if is_live[i] {
            for input in node.inputs.iter().flatten() {
                is_used[input.index()] = true;
            }
        }
    }
    let mut live = is_live.iter();
    graph.nodes.retain(|_| live.next() == Some(&true));
    for input in &graph.inputs {
        is_used[input.index()] = true;
    }

    // Results that nobody reads are no values any more; the others move up.
    let mut moved = vec![None; graph.values.len()];
    let mut values = Vec::new();
    for (i, value) in std::mem::take(&mut graph.values).into_iter().enumerate() {
        if is_used[i] {
            moved[i] = Some(ValueId(values.len() as u32));
            values.push(value);
        }
    }
    graph.values = values;
    let ids = graph
        .nodes
        .iter_mut()
        .flat_map(|n| n.inputs.iter_mut().chain(&mut n.outputs));
    for id in ids {
        *id = id.and_then(|id| moved[id.index()]);
    }
    for id in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        *id = moved[id.index()].expect("inputs and outputs are used");
    }
}
