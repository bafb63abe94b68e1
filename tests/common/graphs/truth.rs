//! What must hold of a random graph: every way of running it agrees with the dense interpreter.

use sluicegate::graph::{Op, ValueId};
use sluicegate::{Isa, Mode, Model, Options, Outcome, Session, View, ops};

use super::{Case, Choices};

/// What the oracle says of one sample.
struct Truth {
    outputs: Vec<(String, Vec<f32>)>,
    /// By gate: score and threshold.
    gates: Vec<(f32, f32)>,
    /// A mask logit or a score is too close to its bound to say.
    undecided: bool,
}

fn truth(case: &Case, x: &[f32]) -> Truth {
    let dims: Vec<usize> = std::iter::once(1)
        .chain(case.sample.iter().copied())
        .collect();
    let view = View::new(&dims, x).unwrap();
    let tensors = ops::interpret(&case.graph, &[view], 1 << 28).unwrap();
    let name = |id: &ValueId| case.graph.value(*id).name.clone();
    let outputs: Vec<(String, Vec<f32>)> = case
        .graph
        .outputs
        .iter()
        .zip(&tensors)
        .map(|(id, t)| (name(id), t.as_slice::<f32>().unwrap().to_vec()))
        .collect();
    let find = |n: &str| &outputs.iter().find(|(o, _)| o == n).unwrap().1;
    let gates: Vec<(f32, f32)> = case
        .graph
        .nodes
        .iter()
        .filter_map(|node| match node.op {
            Op::Gate { threshold, .. } => {
                Some((find(&name(&node.inputs[0].unwrap()))[0], threshold))
            }
            _ => None,
        })
        .collect();
    let logits = case
        .logits
        .iter()
        .any(|n| find(n).iter().any(|v| v.abs() < 1e-3));
    let scores = gates.iter().any(|(s, t)| (s - t).abs() < 1e-3);
    let huge = outputs
        .iter()
        .any(|(_, v)| v.iter().any(|v| v.is_nan() || v.abs() >= 1e4));
    Truth {
        outputs,
        gates,
        undecided: logits || scores || huge,
    }
}

/// Runs the case in every mode on every instruction set and compares with the oracle. `false`: too close to call.
pub(crate) fn check(case: &Case, batch: usize, c: &mut Choices<'_>) -> bool {
    let each: usize = case.sample.iter().product();
    let x = c.floats(batch * each, 1.5);
    let truths: Vec<Truth> = x.chunks_exact(each).map(|x| truth(case, x)).collect();
    if truths.iter().any(|t| t.undecided) {
        return false;
    }
    let model = Model::from_graph(case.graph.clone());
    let dims: Vec<usize> = std::iter::once(batch)
        .chain(case.sample.iter().copied())
        .collect();
    let inputs = [("input", View::new(&dims, &x).unwrap())];
    for isa in Isa::available() {
        for mode in [Mode::Skip, Mode::Dense] {
            let options = Options {
                mode,
                isa: Some(isa),
                ..Options::default()
            };
            let mut session = model.session(options).unwrap();
            compare(
                &mut session,
                &inputs,
                &truths,
                mode,
                &format!("{isa} {mode:?}"),
            );
            // A second run meets the storage that the first one left behind.
            compare(
                &mut session,
                &inputs,
                &truths,
                mode,
                &format!("{isa} {mode:?} again"),
            );
        }
    }
    true
}

fn compare(
    session: &mut Session,
    inputs: &[(&str, View<'_>)],
    truths: &[Truth],
    mode: Mode,
    what: &str,
) {
    let run = session.run(inputs).unwrap();
    let separate = run.samples() == truths.len();
    assert!(separate || run.samples() == 1, "{what}");
    for (i, truth) in truths.iter().enumerate() {
        let slot = if separate { i } else { 0 };
        let leaves = truth
            .gates
            .iter()
            .position(|(s, t)| s < t)
            .filter(|_| mode == Mode::Skip);
        let exit = match run.outcome(slot) {
            Outcome::Exited { gate, .. } => Some(gate),
            Outcome::Completed(_) => None,
        };
        assert_eq!(exit, leaves, "{what}: sample {i}");
        for (name, expected) in &truth.outputs {
            let Some(view) = run.outputs(slot).get(name) else {
                assert!(exit.is_some(), "{what}: sample {i} has no {name}");
                continue;
            };
            let all = view.as_slice::<f32>().unwrap();
            let found = if separate {
                all
            } else {
                &all[i * expected.len()..][..expected.len()]
            };
            assert_eq!(found.len(), expected.len(), "{what}: {name}");
            // Ten layers of sums of at most a few thousand terms, each of relative error k * 2^-24.
            let bound = 1e-4 * expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            for (j, (f, e)) in found.iter().zip(expected).enumerate() {
                assert!(
                    (f - e).abs() <= bound,
                    "{what}: sample {i} {name}[{j}] is {f}, expected {e}"
                );
            }
        }
    }
}
