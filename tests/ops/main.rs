//! The meaning of the operators: values computed by hand, and laws.

mod arithmetic;
mod attention;
#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod layers;
mod models;
mod movement;
mod shapes;
mod whole_graph;

use sluicegate::graph::Op;
use sluicegate::ops::{Fact, eval, infer};
use sluicegate::tensor::Element;
use sluicegate::{Error, Result, Tensor};

/// The results of an operation, through both doors.
fn run_all(op: &Op, inputs: &[Option<&Tensor>], outputs: usize) -> Result<Vec<Tensor>> {
    let views: Vec<_> = inputs.iter().map(|t| t.map(Tensor::view)).collect();
    let facts: Vec<_> = views.iter().map(|v| v.map(Fact::from)).collect();
    let types = infer(op, &facts, outputs)?;
    let mut results: Vec<_> = types
        .into_iter()
        .map(|(dtype, shape)| Tensor::zeros(dtype, shape))
        .collect();
    // Memory is not clean when an operation gets it: every element must be written.
    results
        .iter_mut()
        .for_each(|t| t.view_mut().bytes().fill(1));
    let mut views_mut: Vec<_> = results.iter_mut().map(|t| Some(t.view_mut())).collect();
    eval(op, &views, &mut views_mut)?;
    Ok(results)
}

/// The only result of an operation, or its first.
fn try_run(op: Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs: Vec<_> = inputs.iter().map(|&t| Some(t)).collect();
    run_all(&op, &inputs, 1).map(|mut all| all.remove(0))
}

#[track_caller]
fn run(op: Op, inputs: &[&Tensor]) -> Tensor {
    let name = op.name();
    try_run(op, inputs).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What an operation says against its operands.
#[track_caller]
fn refusal(op: Op, inputs: &[&Tensor]) -> String {
    match try_run(op, inputs) {
        Err(Error::Node { what, .. }) => what,
        other => panic!("expected an error of the node, got {other:?}"),
    }
}

#[track_caller]
fn tensor<T: Element>(dims: &[usize], data: &[T]) -> Tensor {
    Tensor::new(dims, data.to_vec()).expect("a tensor of the test")
}

/// A list of integers.
fn ints(data: &[i64]) -> Tensor {
    tensor(&[data.len()], data)
}

fn bools(dims: &[usize], data: &[bool]) -> Tensor {
    Tensor::from_bools(dims, data).expect("a tensor of the test")
}

/// 0, 1, 2, ...
fn iota(dims: &[usize]) -> Tensor {
    let n = dims.iter().product::<usize>();
    tensor(dims, &(0..n).map(|i| i as f32).collect::<Vec<_>>())
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_slice().expect("floats")
}

#[track_caller]
fn close(found: &Tensor, expected: &[f32]) {
    let found = floats(found);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= 1e-5 * b.abs().max(1.0),
            "{found:?} is not {expected:?}"
        );
    }
}
