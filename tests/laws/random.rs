//! Random gated graphs: a batch is its samples, skipping is multiplying by zeros, leaving is running the prefix.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sluicegate::graph::{Graph, Op, ValueId};
use sluicegate::{Isa, Mode, Model, View, ops};

use crate::common::graphs::{Case, Choices, build};
use crate::{Sample, options, run};

/// Whether every value of the graph is a moderate number: infinities make 0 x Inf a matter of who multiplies.
fn moderate(graph: &Graph, view: View<'_>) -> bool {
    let mut all = graph.clone();
    all.outputs = all
        .nodes
        .iter()
        .flat_map(|n| n.outputs.clone())
        .flatten()
        .collect();
    let tensors = ops::interpret(&all, &[view], 1 << 28).unwrap();
    let fine = |v: &f32| v.abs() < 1e6;
    tensors.iter().all(|t| {
        t.as_slice::<f32>().is_ok_and(|t| t.iter().all(fine)) || t.as_slice::<f32>().is_err()
    })
}

/// The graph up to gate `gate`. What the rest would read becomes an output, so that nothing is fused that is not fused in the whole.
fn prefix(graph: &Graph, gate: usize) -> Graph {
    let at = graph
        .nodes
        .iter()
        .position(|n| matches!(n.op, Op::Gate { index, .. } if index == gate));
    let (before, after) = graph.nodes.split_at(at.expect("the gate is there") + 1);
    let results = before.iter().flat_map(|n| n.outputs.iter().flatten());
    let made: BTreeSet<ValueId> = results.chain(&graph.inputs).copied().collect();
    let mut cut = graph.clone();
    cut.nodes = before.to_vec();
    cut.outputs.retain(|id| made.contains(id));
    for id in after.iter().flat_map(|n| n.inputs.iter().flatten()) {
        if made.contains(id) && !cut.outputs.contains(id) {
            cut.outputs.push(*id);
        }
    }
    cut
}

fn check(case: &Case, batch: usize, c: &mut Choices<'_>) -> Result<(), TestCaseError> {
    let each: usize = case.sample.iter().product();
    let x = c.floats(batch * each, 1.5);
    let dims = |n: usize| -> Vec<usize> {
        std::iter::once(n)
            .chain(case.sample.iter().copied())
            .collect()
    };
    let whole_dims = dims(batch);
    let whole = View::new(&whole_dims, &x).unwrap();
    prop_assume!(moderate(&case.graph, whole));
    let model = Model::from_graph(case.graph.clone());
    let inputs = [("input", whole)];
    for isa in Isa::available() {
        let (skipped, macs) = run(&model, options(Mode::Skip, isa), &inputs);
        let (dense, dense_macs) = run(&model, options(Mode::Dense, isa), &inputs);
        prop_assert!(macs.done <= macs.dense, "{isa}: {macs:?}");
        prop_assert_eq!(macs.dense, dense_macs.dense);

        // A batch is its samples, each alone.
        for i in 0..batch {
            let alone_dims = dims(1);
            let alone = [(
                "input",
                View::new(&alone_dims, &x[i * each..][..each]).unwrap(),
            )];
            let (alone, _) = run(&model, options(Mode::Skip, isa), &alone);
            if skipped.len() == batch {
                prop_assert_eq!(&alone[0], &skipped[i], "{} sample {}", isa, i);
                continue;
            }
            for (a, b) in alone[0].outputs.iter().zip(&skipped[0].outputs) {
                let (a, b) = (a.1.as_ref().unwrap(), b.1.as_ref().unwrap());
                prop_assert_eq!(&a[..], &b[i * a.len()..][..a.len()], "{} sample {}", isa, i);
            }
        }

        // Skipping is multiplying by zeros. Compared as numbers: a product with zero may be -0. Queries that are left out change which
        // of its two kernels attention gives to the others, so then it is about numbers that are close.
        let is_attention = |op: &Op| matches!(op, Op::Attention(_));
        let exact = !case.graph.nodes.iter().any(|n| is_attention(&n.op));
        let same = |a: Vec<f32>, b: Vec<f32>| {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * (1.0 + b.abs());
            a == b || !exact && a.iter().zip(&b).all(close)
        };
        let decided = |s: &Sample| {
            let far = |name: &String| {
                let at = s.outputs.iter().position(|(n, _)| n == name);
                let there = at.filter(|&at| s.outputs[at].1.is_some());
                there.is_none_or(|at| s.floats(at).iter().all(|x| x.abs() > 1e-3))
            };
            exact || case.logits.iter().all(far)
        };
        prop_assume!(dense.iter().chain(&skipped).all(decided));
        for (s, d) in skipped.iter().zip(&dense) {
            prop_assert!(d.exit.is_none());
            for (i, (name, bytes)) in s.outputs.iter().enumerate() {
                if bytes.is_some() {
                    prop_assert!(same(s.floats(i), d.floats(i)), "{} {}", isa, name);
                }
            }
        }

        // Leaving at a gate is running the prefix.
        for gate in 0..case.graph.gates() {
            let cut = Model::from_graph(prefix(&case.graph, gate));
            let (cut, _) = run(&cut, options(Mode::Skip, isa), &inputs);
            for (i, (whole, cut)) in skipped.iter().zip(&cut).enumerate() {
                if whole.exit.is_some_and(|(at, _)| at <= gate) {
                    prop_assert_eq!(whole.exit, cut.exit, "{} gate {} sample {}", isa, gate, i);
                } else {
                    prop_assert_eq!(None, cut.exit, "{} gate {} sample {}", isa, gate, i);
                }
                for (o, (name, bytes)) in whole.outputs.iter().enumerate() {
                    // What lies behind the gate may be there all the same: storage that was complete before, under another name.
                    let Some(other) = cut.outputs.iter().position(|(n, _)| n == name) else {
                        continue;
                    };
                    let at = format!("{isa} gate {gate} sample {i} {name}");
                    prop_assert_eq!(bytes.is_some(), cut.outputs[other].1.is_some(), "{}", at);
                    // As numbers: the prefix may lack the reader for whose sake channels are skipped, and multiply them to -0.
                    if bytes.is_some() {
                        prop_assert!(same(whole.floats(o), cut.floats(other)), "{}", at);
                    }
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 100, max_global_rejects: 8192, ..ProptestConfig::default() })]

    #[test]
    fn random_gated_graphs(bytes in prop::collection::vec(any::<u8>(), 4..80), batch in 1usize..5) {
        let mut choices = Choices::new(&bytes);
        let case = build(&mut choices);
        check(&case, batch, &mut choices)?;
    }
}
