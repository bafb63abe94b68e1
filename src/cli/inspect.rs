//! `sluicegate inspect`: what a model computes, and what can be skipped.

use std::io::Write;

use anyhow::{Context, Result, bail};
use sluicegate::graph::{Dim, Graph, ValueId};
use sluicegate::{Options, Plan, Shape};

use super::args;
use super::report::{Align, Table, bytes, percent, share, si};

pub(crate) fn inspect(args: &args::Inspect, out: &mut dyn Write) -> Result<()> {
    let model = super::load(&args.model)?;
    let of_model = || args.model.display().to_string();
    let shapes = shapes(args, model.graph()).with_context(of_model)?;
    let plan = model
        .plan(&shapes, &Options::default())
        .with_context(of_model)?;
    writeln!(out, "{}\n", args.model.display())?;
    write!(out, "{}", values(model.graph(), &shapes))?;
    write!(out, "\n{}", nodes(&plan))?;
    let macs = si(plan.macs() as f64);
    writeln!(
        out,
        "\n{macs} MACs a sample with every channel live and every gate passed"
    )?;
    writeln!(out, "{} of working storage a sample", bytes(plan.memory()))?;
    if plan.masks().len() > 0 {
        writeln!(out, "\n{}", masks(&plan).trim_end())?;
    }
    if !plan.gates().is_empty() {
        writeln!(out, "\n{}", gates(&plan).trim_end())?;
    }
    Ok(())
}

/// The shape of each input: from the arguments, else from the model with 1 for what it leaves open.
fn shapes(args: &args::Inspect, graph: &Graph) -> Result<Vec<Shape>> {
    let name = |id: &ValueId| graph.value(*id).name.as_str();
    for (given, _) in &args.shapes {
        if !graph.inputs.iter().any(|id| name(id) == given) {
            let names: Vec<&str> = graph.inputs.iter().map(name).collect();
            bail!(
                "input `{given}`: is not an input; the inputs are {}",
                names.join(", ")
            );
        }
    }
    let shape = |&id: &ValueId| {
        let value = graph.value(id);
        let given = args.shapes.iter().rfind(|(n, _)| *n == value.name);
        let dims: Vec<usize> = match (given, &value.dims) {
            (Some((_, dims)), _) => dims.0.clone(),
            (None, Some(dims)) => dims
                .iter()
                .map(|d| if let Dim::Fixed(n) = d { *n } else { 1 })
                .collect(),
            (None, None) => bail!(
                "the model gives no shape; give it with --shape {}=...",
                value.name
            ),
        };
        Ok(Shape::new(&dims)?)
    };
    let shape = |id| shape(id).with_context(|| format!("input `{}`", name(id)));
    graph.inputs.iter().map(shape).collect()
}

fn values(graph: &Graph, shapes: &[Shape]) -> String {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("name", Align::Left),
        ("type", Align::Left),
        ("declared", Align::Left),
        ("here", Align::Left),
    ]);
    let inputs = graph.inputs.iter().map(|id| ("input", id));
    let outputs = graph.outputs.iter().map(|id| ("output", id));
    for (i, (kind, &id)) in inputs.chain(outputs).enumerate() {
        let value = graph.value(id);
        table.row([
            kind.to_owned(),
            value.name.clone(),
            value.dtype.map_or("?".to_owned(), |t| t.to_string()),
            dims(value.dims.as_deref()),
            shapes.get(i).map_or(String::new(), Shape::to_string),
        ]);
    }
    table.render("")
}

fn nodes(plan: &Plan) -> String {
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("kernel", Align::Left),
        ("result", Align::Left),
        ("MACs", Align::Right),
        ("", Align::Right),
        ("skipped", Align::Left),
    ]);
    for node in plan.nodes() {
        let shapes: Vec<String> = node.shapes.iter().map(Shape::to_string).collect();
        let (macs, part) = match node.macs {
            0 => (String::new(), String::new()),
            n => (si(n as f64), percent(share(n as f64, plan.macs() as f64))),
        };
        table.row([
            node.label.clone(),
            node.op.to_owned(),
            shapes.join(" "),
            macs,
            part,
            node.note.clone(),
        ]);
    }
    table.render("")
}

fn masks(plan: &Plan) -> String {
    let mut table = Table::new(&[("mask", Align::Left), ("channels", Align::Right)]);
    for (name, channels) in plan.masks() {
        table.row([name.to_owned(), channels.to_string()]);
    }
    table.render("")
}

fn gates(plan: &Plan) -> String {
    let mut table = Table::new(&[
        ("gate", Align::Right),
        ("node", Align::Left),
        ("leaves when the score is below", Align::Right),
    ]);
    for gate in plan.gates() {
        table.row([
            gate.index.to_string(),
            gate.name.clone(),
            format!("{:.6}", gate.threshold),
        ]);
    }
    table.render("")
}

/// A declared shape, as `[N, 1, 49, 10]`.
pub(crate) fn dims(dims: Option<&[Dim]>) -> String {
    let Some(dims) = dims else {
        return "any shape".to_owned();
    };
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(n) => n.to_string(),
        Dim::Symbol(name) => name.clone(),
        Dim::Unknown => "?".to_owned(),
    };
    let dims: Vec<String> = dims.iter().map(dim).collect();
    format!("[{}]", dims.join(", "))
}
