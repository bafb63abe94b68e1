//! Operators that a graph spells out in smaller ones are found, and give what the smaller ones give; what only looks like them is left.

#[path = "../common/mod.rs"]
mod common;

mod activations;
mod attention;
mod heads;
mod norms;
mod patches;

use common::net::{Net, floats};
use sluicegate::graph::{Binary, Op, Reduction, Unary, ValueId};
use sluicegate::ops::interpret;
use sluicegate::{Model, Options, Outcome, Plan, Shape, Tensor, View};

/// A plan's kernels, and whether its results are those of the graph as it stands.
#[track_caller]
fn kernels(net: Net, inputs: &[&[usize]]) -> Vec<&'static str> {
    let tensors: Vec<Tensor> = (inputs.iter().enumerate())
        .map(|(i, dims)| Tensor::new(dims, floats(dims.iter().product(), i as u64 + 1)).unwrap())
        .collect();
    check(net, &tensors)
}

#[track_caller]
fn check(net: Net, inputs: &[Tensor]) -> Vec<&'static str> {
    let views: Vec<View<'_>> = inputs.iter().map(Tensor::view).collect();
    let expected = interpret(&net.graph, &views, 1 << 30).unwrap();
    let names: Vec<_> = (net.graph.inputs.iter())
        .map(|&id| net.graph.value(id).name.clone())
        .collect();
    let given: Vec<_> = names.iter().map(String::as_str).zip(views).collect();
    let model = Model::from_graph(net.graph);
    let shapes: Vec<Shape> = inputs.iter().map(Tensor::shape).collect();
    let plan = model.plan(&shapes, &Options::default()).unwrap();
    let mut session = model.session(Options::default()).unwrap();
    let run = session.run(&given).unwrap();
    let Outcome::Completed(outputs) = run.outcome(0) else {
        panic!("there are no gates");
    };
    for (expected, (name, found)) in expected.iter().zip(outputs.iter()) {
        let found = found.expect("computed").as_slice::<f32>().unwrap().iter();
        let expected = expected.as_slice::<f32>().unwrap();
        for (f, e) in found.zip(expected) {
            assert!(
                (f - e).abs() <= 1e-5 * (1.0 + e.abs()),
                "{name}: {f} is not {e}"
            );
        }
    }
    ops(&plan)
}

/// What runs, but for what only moves elements.
fn ops(plan: &Plan) -> Vec<&'static str> {
    let moves = ["Reshape", "Transpose"];
    let all = plan.nodes().iter().map(|n| n.op);
    all.filter(|op| !moves.contains(op)).collect()
}

/// The graph's own vocabulary.
trait Words {
    fn two(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId;
    fn one(&mut self, op: Unary, x: ValueId) -> ValueId;
    fn number(&mut self, x: f64) -> ValueId;
    fn mean(&mut self, x: ValueId, axis: i64) -> ValueId;
    fn swap(&mut self, x: ValueId, perm: &[usize]) -> ValueId;

    fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.two(Binary::Mul, a, b)
    }
    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.two(Binary::Add, a, b)
    }
    fn div(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.two(Binary::Div, a, b)
    }
    fn times(&mut self, x: ValueId, c: f64) -> ValueId {
        let c = self.number(c);
        self.mul(x, c)
    }
    fn plus(&mut self, x: ValueId, c: f64) -> ValueId {
        let c = self.number(c);
        self.add(c, x)
    }
    fn pow(&mut self, x: ValueId, c: f64) -> ValueId {
        let c = self.number(c);
        self.two(Binary::Pow, x, c)
    }
}

impl Words for Net {
    fn two(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.node(Op::Binary(op), &[a, b])
    }
    fn one(&mut self, op: Unary, x: ValueId) -> ValueId {
        self.node(Op::Unary(op), &[x])
    }
    fn number(&mut self, x: f64) -> ValueId {
        self.constant(&[], &[x as f32])
    }
    fn mean(&mut self, x: ValueId, axis: i64) -> ValueId {
        let axes = self.constant(&[1], &[axis]);
        let op = Op::Reduce {
            kind: Reduction::Mean,
            keep_dims: true,
            noop_with_empty_axes: false,
        };
        self.node(op, &[x, axes])
    }
    fn swap(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        let perm = Some(perm.to_vec());
        self.node(Op::Transpose { perm }, &[x])
    }
}

/// The kernels of a function of one input.
#[track_caller]
fn of_x(dims: &[usize], f: impl FnOnce(&mut Net, ValueId) -> ValueId) -> Vec<&'static str> {
    let mut net = Net::default();
    let x = net.input("x", dims);
    let y = f(&mut net, x);
    net.output(y);
    kernels(net, &[dims])
}

/// The kernels of a function of q, k and v, two samples with two heads: five queries, six keys.
#[track_caller]
fn of_qkv(f: impl FnOnce(&mut Net, [ValueId; 3]) -> ValueId) -> Vec<&'static str> {
    let dims: [&[usize]; 3] = [&[2, 2, 5, 4], &[2, 2, 6, 4], &[2, 2, 6, 3]];
    let mut net = Net::default();
    let qkv = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
    let y = f(&mut net, qkv);
    net.output(y);
    kernels(net, &dims)
}

const LAST_TWO: [usize; 4] = [0, 1, 3, 2];

/// softmax(scores) v
fn attend(net: &mut Net, scores: ValueId, v: ValueId, axis: i64) -> ValueId {
    let op = Op::Softmax {
        axis,
        flatten: false,
    };
    let p = net.node(op, &[scores]);
    net.node(Op::MatMul, &[p, v])
}

fn products(net: &mut Net, q: ValueId, k: ValueId) -> ValueId {
    let k = net.swap(k, &LAST_TWO);
    net.node(Op::MatMul, &[q, k])
}
