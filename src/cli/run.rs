//! `sluicegate run`: a model on tensors from files.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use sluicegate::{Mode, Model, Options, Outcome, Run, Tensor, Trace, View, ops};

use super::args;
use super::npy;
use super::output::Pending;
use super::report::{Align, Table, percent, share, si, time};

/// Runs that are timed for a report.
const ROUNDS: usize = 10;

pub(crate) fn run(args: &args::Run, out: &mut dyn Write) -> Result<()> {
    let model = super::load(&args.model)?;
    let of_model = || args.model.display().to_string();
    let inputs = args.inputs.iter().map(|(name, file)| {
        let tensor = npy::read(file).with_context(|| format!("input `{name}`"))?;
        Ok((name.as_str(), tensor))
    });
    let inputs: Vec<(&str, Tensor)> = inputs.collect::<Result<_>>()?;
    let views: Vec<(&str, View<'_>)> = inputs.iter().map(|(n, t)| (*n, t.view())).collect();
    let results = if args.reference {
        reference(&model, &views).with_context(of_model)?
    } else {
        kernels(args, &model, &views, out).with_context(of_model)?
    };
    write(args, &results, out)
}

/// An output with the samples that it was computed for, stacked.
pub(crate) struct Gathered {
    name: String,
    /// Which samples these are.
    pub(crate) samples: Vec<usize>,
    /// How many there were.
    of: usize,
    pub(crate) tensor: Tensor,
}

/// Stacks what was computed of an output along its first axis, sample after sample.
pub(crate) fn gather(run: &Run<'_>, name: &str) -> Result<Gathered> {
    let computed = |i| run.outputs(i).get(name).map(|view| (i, view));
    let parts: Vec<(usize, View<'_>)> = (0..run.samples()).filter_map(computed).collect();
    let tensor = match parts[..] {
        [] => Tensor::new::<f32>(&[0], Vec::new())?,
        [(_, only)] if run.samples() == 1 => only.to_tensor(),
        [(_, first), ..] => {
            let mut dims = first.shape().to_vec();
            match dims.first_mut() {
                Some(batch) => *batch *= parts.len(),
                None => dims.push(parts.len()),
            }
            let mut tensor = Tensor::zeros(first.dtype(), sluicegate::Shape::new(&dims)?);
            let mut to = tensor.view_mut();
            let len = first.bytes().len();
            for (to, (_, from)) in to.bytes().chunks_exact_mut(len.max(1)).zip(&parts) {
                to.copy_from_slice(from.bytes());
            }
            tensor
        }
    };
    Ok(Gathered {
        name: name.to_owned(),
        samples: parts.iter().map(|p| p.0).collect(),
        of: run.samples(),
        tensor,
    })
}

fn reference(model: &Model, inputs: &[(&str, View<'_>)]) -> Result<Vec<Gathered>> {
    let graph = model.graph();
    let wanted = graph.inputs.iter().map(|&id| graph.value(id).name.as_str());
    for (name, _) in inputs {
        let given = inputs.iter().filter(|(n, _)| n == name).count();
        let known = wanted.clone().any(|n| n == *name);
        ensure!(
            known && given == 1,
            "input `{name}`: is not an input, or given twice"
        );
    }
    let view = |name: &str| {
        let found = inputs
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, view)| *view);
        found.with_context(|| format!("input `{name}`: is missing"))
    };
    let views: Vec<View<'_>> = wanted.map(view).collect::<Result<_>>()?;
    let outputs = ops::interpret(graph, &views, Options::default().memory_limit)?;
    let names = graph.outputs.iter().map(|&id| graph.value(id).name.clone());
    let gathered = names.zip(outputs).map(|(name, tensor)| Gathered {
        name,
        samples: vec![0],
        of: 1,
        tensor,
    });
    Ok(gathered.collect())
}

fn kernels(
    args: &args::Run,
    model: &Model,
    inputs: &[(&str, View<'_>)],
    out: &mut dyn Write,
) -> Result<Vec<Gathered>> {
    let mut session = model.session(Options {
        mode: if args.dense { Mode::Dense } else { Mode::Skip },
        threads: args.threads.get(),
        trace: args.report,
        ..Options::default()
    })?;
    // The first run plans and allocates; of the runs after it, the best time of every node counts.
    let mut best: Vec<u64> = Vec::new();
    for _ in 0..if args.report { ROUNDS } else { 0 } {
        let run = session.run(inputs)?;
        let Some(trace) = run.trace() else { break };
        let times: Vec<u64> = trace.nodes().map(|(_, took)| took.ns).collect();
        best.resize(times.len(), u64::MAX);
        best.iter_mut().zip(times).for_each(|(b, t)| *b = t.min(*b));
    }
    let run = session.run(inputs)?;
    for i in 0..run.samples() {
        match run.outcome(i) {
            Outcome::Exited { gate, score } => {
                writeln!(out, "sample {i}  left at gate {gate}, score {score:.6}")?;
            }
            Outcome::Completed(_) => writeln!(out, "sample {i}  ran to the end")?,
        }
    }
    let macs = run.macs();
    writeln!(
        out,
        "MACs      {} of {} dense: {} skipped",
        si(macs.done as f64),
        si(macs.dense as f64),
        percent(1.0 - share(macs.done as f64, macs.dense as f64)),
    )?;
    if let Some(trace) = run.trace() {
        write!(out, "\n{}\n", trace_table(trace, &best, run.samples()))?;
    }
    let graph = model.graph();
    let names = graph
        .outputs
        .iter()
        .map(|&id| graph.value(id).name.as_str());
    names.map(|name| gather(&run, name)).collect()
}

fn trace_table(trace: Trace<'_>, best: &[u64], samples: usize) -> String {
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("kernel", Align::Left),
        ("time", Align::Right),
        ("", Align::Right),
        ("MACs done", Align::Right),
        ("of dense", Align::Right),
        ("GMAC/s", Align::Right),
    ]);
    let total: u64 = best.iter().sum();
    for ((node, took), &ns) in trace.nodes().zip(best) {
        let dense = node.macs as f64 * samples as f64;
        let only = |text: String| if node.macs == 0 { String::new() } else { text };
        table.row([
            node.label.clone(),
            node.op.to_owned(),
            time(ns as f64),
            percent(share(ns as f64, total as f64)),
            only(si(took.macs as f64)),
            only(percent(share(took.macs as f64, dense))),
            only(format!("{:.1}", share(took.macs as f64, ns as f64))),
        ]);
    }
    let total = time(total as f64);
    format!(
        "{}total {total} (best of {ROUNDS} runs, node by node)\n",
        table.render("")
    )
}

/// Writes all outputs, or none: they get their names when the last one is on the disk.
fn write(args: &args::Run, results: &[Gathered], out: &mut dyn Write) -> Result<()> {
    let folder = || format!("output folder {}", args.output.display());
    std::fs::create_dir_all(&args.output).with_context(folder)?;
    let mut taken: Vec<String> = Vec::new();
    let mut pending = Vec::new();
    let mut lines = Vec::new();
    for result in results {
        if result.samples.is_empty() {
            lines.push(format!("{}  not computed for any sample", result.name));
            continue;
        }
        let stem = unique(file_safe(&result.name), &mut taken);
        let mut put = |stem: &str, tensor: View<'_>| -> Result<String> {
            let file = args.output.join(format!("{stem}.npy"));
            let mut writer = Pending::new(&file)?;
            writer.write(&npy::bytes(tensor))?;
            pending.push(writer);
            Ok(file.display().to_string())
        };
        let tensor = result.tensor.view();
        let file = put(&stem, tensor)?;
        let mut line = format!(
            "{}  {} {}  {file}",
            result.name,
            tensor.dtype(),
            tensor.shape()
        );
        if result.samples.len() < result.of {
            let samples: Vec<i64> = result.samples.iter().map(|&i| i as i64).collect();
            let which = View::new(&[samples.len()], &samples)?;
            let file = put(&unique(format!("{stem}.samples"), &mut taken), which)?;
            line += &format!(
                "  ({} of {} samples, listed in {file})",
                samples.len(),
                result.of
            );
        }
        lines.push(line);
    }
    for file in pending {
        file.finish()?;
    }
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// A name that is one file name everywhere: letters, digits, `.`, `_` and `-` stay.
fn file_safe(name: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name
        .chars()
        .map(|c| if safe(c) { c } else { '_' })
        .take(100)
        .collect();
    match name.trim_start_matches('.') {
        "" => "output".to_owned(),
        visible => visible.to_owned(),
    }
}

/// The name, with a number where an earlier output took it. File systems may not tell upper from lower case.
fn unique(name: String, taken: &mut Vec<String>) -> String {
    let numbered = (2usize..).map(|i| format!("{name}_{i}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    let free = names.find(|n| !taken.contains(&n.to_lowercase()));
    let free = free.unwrap_or(name);
    taken.push(free.to_lowercase());
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names() {
        assert_eq!(file_safe("logits"), "logits");
        assert_eq!(file_safe("../../etc/x:0"), "_.._etc_x_0");
        assert_eq!(file_safe(".."), "output");
        let mut taken = Vec::new();
        let names = ["a", "A", "a"].map(|n| unique(n.to_owned(), &mut taken));
        assert_eq!(names, ["a", "A_2", "a_3"]);
    }
}
