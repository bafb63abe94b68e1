//! The dense interpreter.

use sluicegate::graph::{Binary, Dim, Graph, Node, Op, Unary, Value, ValueId};
use sluicegate::ops::interpret;
use sluicegate::{DType, Error, Tensor};

use crate::{ints, iota, tensor};

/// y = relu(x - 2) reshaped to [-1, 2], with a gate on the way; x is [n, 4].
fn graph() -> Graph {
    let mut graph = Graph::default();
    let value = |name: &str| Value {
        name: name.into(),
        ..Value::default()
    };
    let x = graph.add(Value {
        dtype: Some(DType::F32),
        dims: Some(vec![Dim::Symbol("n".into()), Dim::Fixed(4)]),
        ..value("x")
    });
    let two = graph.add_constant("two", Tensor::scalar(2f32));
    let shape = graph.add_constant("shape", ints(&[-1, 2]));
    let [less, relu, y] = ["less", "relu", "y"].map(|name| graph.add(value(name)));
    let node = |op: Op, inputs: &[ValueId], output: Option<ValueId>| Node {
        name: "a node".into(),
        op,
        inputs: inputs.iter().copied().map(Some).collect(),
        outputs: output.into_iter().map(Some).collect(),
    };
    graph.inputs = vec![x];
    graph.outputs = vec![y, x, y];
    graph.nodes = vec![
        node(Op::Binary(Binary::Sub), &[x, two], Some(less)),
        node(
            Op::Gate {
                threshold: 0.5,
                index: 0,
            },
            &[less],
            None,
        ),
        node(Op::Unary(Unary::Relu), &[less], Some(relu)),
        node(Op::Reshape { allow_zero: false }, &[relu, shape], Some(y)),
    ];
    graph
}

#[test]
fn nodes_run_in_order_and_gates_do_not_stop() {
    let x = iota(&[1, 4]);
    let outputs = interpret(&graph(), &[x.view()], 1 << 20).expect("outputs");
    assert_eq!(outputs[0], tensor(&[2, 2], &[0f32, 0., 0., 1.]));
    assert_eq!((&outputs[1], &outputs[2]), (&x, &outputs[0]));
}

#[test]
fn memory_is_limited() {
    // At most four tensors of 16 bytes: y and the three outputs.
    let x = iota(&[1, 4]);
    assert!(interpret(&graph(), &[x.view()], 64).is_ok());
    let error = interpret(&graph(), &[x.view()], 63).expect_err("too much");
    assert!(
        matches!(
            error,
            Error::TooLarge {
                needed: 64,
                limit: 63,
                ..
            }
        ),
        "{error}"
    );
    let error = interpret(&graph(), &[x.view()], 31).expect_err("too much");
    assert!(
        error
            .to_string()
            .starts_with("a result of a node (Relu) needs 32 bytes"),
        "{error}"
    );
}

#[test]
fn inputs_are_those_declared() {
    let graph = graph();
    let says = |inputs: &[&Tensor]| {
        let views: Vec<_> = inputs.iter().map(|t| t.view()).collect();
        interpret(&graph, &views, 1 << 20)
            .expect_err("wrong inputs")
            .to_string()
    };
    let x = iota(&[1, 4]);
    assert_eq!(says(&[]), "input `x`: is not given");
    assert!(says(&[&x, &x]).contains("2 inputs are given, 1 are declared"));
    assert!(says(&[&ints(&[1])]).starts_with("input `x`: is i64, not f32"));
    assert!(says(&[&iota(&[4])]).starts_with("input `x`: has shape [4], not 2 axes"));
    assert!(says(&[&iota(&[1, 3])]).starts_with("input `x`: has shape [1, 3]"));
}

#[test]
fn errors_name_the_node() {
    let mut graph = graph();
    graph.values[2].constant = Some(std::sync::Arc::new(ints(&[3, 2])));
    let error = interpret(&graph, &[iota(&[1, 4]).view()], 1 << 20).expect_err("a shape too large");
    let words = error.to_string();
    assert_eq!(
        words,
        "a node (Reshape): the elements of [1, 4] do not fill [3, 2]"
    );
}
