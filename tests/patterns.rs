//! Operators that a graph spells out in smaller ones are found, and give what the smaller ones give; what only looks like them is left.

mod common;

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

#[test]
fn attention_with_its_scale_anywhere() {
    let root = 0.5f64.sqrt();
    let before = of_qkv(|net, [q, k, v]| {
        let q = net.times(q, 0.5);
        let s = products(net, q, k);
        attend(net, s, v, -1)
    });
    let after = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let two = net.number(2.0);
        let s = net.div(s, two);
        attend(net, s, v, 3)
    });
    let split = of_qkv(|net, [q, k, v]| {
        let q = net.times(q, root);
        let k = net.swap(k, &LAST_TWO);
        let k = net.times(k, root);
        let s = net.node(Op::MatMul, &[q, k]);
        attend(net, s, v, -1)
    });
    let inside = of_qkv(|net, [q, k, v]| {
        let k = net.times(k, root);
        let s = products(net, q, k);
        attend(net, s, v, -1)
    });
    for found in [before, after, split, inside] {
        assert_eq!(found, ["Attention"]);
    }
}

#[test]
fn keys_that_were_transposed_once_for_all() {
    // [N, T, H, D] to [N, H, D, T] in one step.
    let dims: [&[usize]; 3] = [&[2, 2, 5, 4], &[2, 6, 2, 4], &[2, 2, 6, 3]];
    let mut net = Net::default();
    let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
    let k = net.swap(k, &[0, 2, 3, 1]);
    let s = net.node(Op::MatMul, &[q, k]);
    let y = attend(&mut net, s, v, -1);
    net.output(y);
    assert_eq!(kernels(net, &dims), ["Attention"]);
    // Through rows of all heads, as torch.export writes it.
    let found = of_qkv(|net, [q, k, v]| {
        let reshape = Op::Reshape { allow_zero: false };
        let rows = net.constant(&[3], &[4i64, 6, 4]);
        let k = net.node(reshape.clone(), &[k, rows]);
        let k = net.swap(k, &[0, 2, 1]);
        let heads = net.constant(&[4], &[2i64, 2, 4, 6]);
        let k = net.node(reshape, &[k, heads]);
        let s = net.node(Op::MatMul, &[q, k]);
        attend(net, s, v, -1)
    });
    assert_eq!(found, ["Attention"]);
}

#[test]
fn attention_without_an_axis_of_heads() {
    let dims: [&[usize]; 3] = [&[3, 5, 4], &[3, 6, 4], &[3, 6, 2]];
    let mut net = Net::default();
    let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
    let k = net.swap(k, &[0, 2, 1]);
    let s = net.node(Op::MatMul, &[q, k]);
    let mask = net.weights(&[5, 6]);
    let s = net.add(s, mask);
    let y = attend(&mut net, s, v, -1);
    net.output(y);
    assert_eq!(kernels(net, &dims), ["Attention"]);
}

#[test]
fn masks_are_added_or_chosen() {
    for dims in [&[5, 6][..], &[2, 1, 5, 6], &[2, 1, 1, 6], &[6]] {
        let found = of_qkv(|net, [q, k, v]| {
            let s = products(net, q, k);
            let s = net.times(s, 0.5);
            let mask = net.weights(dims);
            let s = net.add(mask, s);
            attend(net, s, v, -1)
        });
        assert_eq!(found, ["Attention"], "{dims:?}");
    }
    let seen = [true, true, false, true, true, false];
    for (fill, is_dead) in [
        (f32::NEG_INFINITY, false),
        (f32::MIN, false),
        (f32::MIN, true),
    ] {
        let found = of_qkv(|net, [q, k, v]| {
            let s = products(net, q, k);
            let truth: Vec<bool> = seen.iter().map(|&b| b != is_dead).collect();
            let truth = Tensor::from_bools(&[1, 6], &truth).unwrap();
            let truth = net.graph.add_constant("seen", truth);
            let fill = net.constant(&[], &[fill]);
            let operands = if is_dead {
                [truth, fill, s]
            } else {
                [truth, s, fill]
            };
            let s = net.node(Op::Where, &operands);
            attend(net, s, v, -1)
        });
        assert_eq!(*found.last().unwrap(), "Attention", "{fill} {is_dead}");
        assert!(!found.contains(&"Softmax"));
    }
}

#[test]
fn a_triangle_is_no_mask_that_is_read() {
    let dims: [&[usize]; 3] = [&[1, 2, 3, 4]; 3];
    for finite in [false, true] {
        let mut net = Net::default();
        let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
        let never = if finite { f32::MIN } else { f32::NEG_INFINITY };
        let bias = [0., never, never, 0., 0., never, 0., 0., 0.];
        let bias = net.constant(&[1, 1, 3, 3], &bias);
        let s = products(&mut net, q, k);
        let s = net.add(s, bias);
        let y = attend(&mut net, s, v, -1);
        net.output(y);
        assert_eq!(kernels(net, &dims), ["Attention"]);
    }
}

#[test]
fn scores_that_are_bent() {
    let found = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let s = net.times(s, 0.25);
        let s = net.one(Unary::Tanh, s);
        let s = net.times(s, 2.0);
        attend(net, s, v, -1)
    });
    assert_eq!(found, ["Attention"]);
}

#[test]
fn what_only_looks_like_attention() {
    // Over another axis.
    let other_axis = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        attend(net, s, v, 2)
    });
    // The probabilities are a result.
    let shown = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let op = Op::Softmax {
            axis: -1,
            flatten: false,
        };
        let p = net.node(op, &[s]);
        net.output(p);
        net.node(Op::MatMul, &[p, v])
    });
    // The scores are.
    let scores = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        net.output(s);
        attend(net, s, v, -1)
    });
    // Rows without a key would get the mean of all values.
    let finite = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let truth = net.two(Binary::Less, s, s);
        let fill = net.number(-1e9);
        let s = net.node(Op::Where, &[truth, s, fill]);
        attend(net, s, v, -1)
    });
    // A factor for each key is not a scale.
    let factors = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let w = net.weights(&[6]);
        let s = net.mul(s, w);
        attend(net, s, v, -1)
    });
    // A mask with one key for all would be padded.
    let column = of_qkv(|net, [q, k, v]| {
        let s = products(net, q, k);
        let w = net.weights(&[5, 1]);
        let s = net.add(s, w);
        attend(net, s, v, -1)
    });
    for found in [other_axis, shown, scores, finite, factors, column] {
        assert!(
            found.contains(&"Softmax") && !found.contains(&"Attention"),
            "{found:?}"
        );
    }
}

const EPSILON: f64 = 1e-5;

/// x / √(mean(square) + ε), in one of four ways.
fn quotient(net: &mut Net, x: ValueId, square: ValueId, axis: i64, way: usize) -> ValueId {
    let mean = net.mean(square, axis);
    let mean = net.plus(mean, EPSILON);
    match way {
        0 => {
            let root = net.one(Unary::Sqrt, mean);
            net.div(x, root)
        }
        1 => {
            let root = net.one(Unary::Sqrt, mean);
            let inverse = net.one(Unary::Reciprocal, root);
            net.mul(inverse, x)
        }
        2 => {
            let inverse = net.pow(mean, -0.5);
            net.mul(x, inverse)
        }
        _ => {
            let root = net.pow(mean, 0.5);
            let one = net.number(1.0);
            let inverse = net.div(one, root);
            net.mul(x, inverse)
        }
    }
}

#[test]
fn rms_norms() {
    for way in 0..4 {
        let found = of_x(&[2, 3, 8], |net, x| {
            let square = if way == 0 {
                net.mul(x, x)
            } else {
                net.pow(x, 2.0)
            };
            let unit = quotient(net, x, square, -1, way);
            let w = net.weights(&[8]);
            if way == 1 {
                net.mul(w, unit)
            } else {
                net.mul(unit, w)
            }
        });
        assert_eq!(found, ["RMSNormalization"], "{way}");
    }
    let bare = of_x(&[2, 3, 8], |net, x| {
        let square = net.mul(x, x);
        quotient(net, x, square, 2, 0)
    });
    assert_eq!(bare, ["RMSNormalization"]);
}

#[test]
fn layer_norms() {
    for (way, twice, row) in [
        (0, false, 1),
        (0, true, 1),
        (1, false, 3),
        (2, true, 1),
        (3, false, 2),
    ] {
        let found = of_x(&[2, 3, 8], |net, x| {
            let mean = net.mean(x, -1);
            let centred = net.two(Binary::Sub, x, mean);
            let again = match twice {
                true => net.two(Binary::Sub, x, mean),
                false => centred,
            };
            let square = if way < 2 {
                net.pow(again, 2.0)
            } else {
                net.mul(again, again)
            };
            let unit = quotient(net, centred, square, 2, way);
            // A row may come with axes of one in front.
            let dims = [&vec![1; row - 1][..], &[8]].concat();
            let (w, b) = (net.weights(&dims), net.weights(&dims));
            let scaled = net.mul(unit, w);
            net.add(b, scaled)
        });
        assert_eq!(found, ["LayerNormalization"], "{way} {twice}");
    }
}

#[test]
fn what_only_looks_like_a_norm() {
    let norm = |net: &mut Net, x, axis| {
        let square = net.mul(x, x);
        quotient(net, x, square, axis, 0)
    };
    let middle = of_x(&[2, 3, 8], |net, x| norm(net, x, 1));
    let shown = of_x(&[2, 3, 8], |net, x| {
        let square = net.mul(x, x);
        net.output(square);
        quotient(net, x, square, -1, 0)
    });
    let other = of_x(&[2, 3, 8], |net, x| {
        let y = net.one(Unary::Exp, x);
        let square = net.mul(y, y);
        quotient(net, x, square, -1, 0)
    });
    let cube = of_x(&[2, 3, 8], |net, x| {
        let cube = net.pow(x, 4.0);
        quotient(net, x, cube, -1, 0)
    });
    for found in [middle, shown, other, cube] {
        assert!(found.contains(&"ReduceMean"), "{found:?}");
    }
    // A scale for each token is not a row; the norm itself is one.
    let column = of_x(&[2, 3, 8], |net, x| {
        let unit = norm(net, x, -1);
        let w = net.weights(&[3, 1]);
        net.mul(unit, w)
    });
    assert_eq!(column, ["RMSNormalization", "Mul"]);
}

const ROOT: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// The kernel of an activation of a value that is not an input.
#[track_caller]
fn activation(f: impl FnOnce(&mut Net, ValueId) -> ValueId) -> Vec<&'static str> {
    of_x(&[2, 3, 8], |net, x| {
        let w = net.weights(&[8, 8]);
        let x = net.node(Op::MatMul, &[x, w]);
        f(net, x)
    })
}

#[test]
fn gelus_in_every_order() {
    for order in 0..7 {
        let found = activation(|net, x| {
            let root_two = net.number(1.0 / ROOT);
            let z = if order % 2 == 0 {
                net.div(x, root_two)
            } else {
                net.times(x, ROOT)
            };
            let erf = net.one(Unary::Erf, z);
            let sum = net.plus(erf, 1.0);
            match order {
                0 => {
                    let half = net.times(x, 0.5);
                    net.mul(half, sum)
                }
                1 => {
                    let product = net.mul(x, sum);
                    net.times(product, 0.5)
                }
                2 => {
                    let half = net.times(sum, 0.5);
                    net.mul(x, half)
                }
                3 => {
                    let product = net.mul(sum, x);
                    let two = net.number(2.0);
                    net.div(product, two)
                }
                4 => {
                    let half = net.times(erf, 0.5);
                    let half = net.plus(half, 0.5);
                    net.mul(half, x)
                }
                5 => {
                    let half = net.times(x, 0.5);
                    let other = net.mul(half, erf);
                    net.add(other, half)
                }
                _ => {
                    let half = net.number(0.5);
                    let half = net.mul(half, sum);
                    net.mul(half, x)
                }
            }
        });
        assert_eq!(found, ["Linear"], "{order}");
    }
}

#[test]
fn gelus_by_tanh() {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    for order in 0..5 {
        let found = activation(|net, x| {
            let z = match order {
                0 => {
                    let cube = net.pow(x, 3.0);
                    let cube = net.times(cube, 0.044715);
                    let sum = net.add(x, cube);
                    net.times(sum, root)
                }
                1 => {
                    let square = net.mul(x, x);
                    let cube = net.mul(square, x);
                    let cube = net.times(cube, 0.044715);
                    let sum = net.add(x, cube);
                    net.times(sum, root)
                }
                2 => {
                    let square = net.mul(x, x);
                    let slope = net.times(square, 0.044715);
                    let slope = net.plus(slope, 1.0);
                    let outer = net.times(x, root);
                    net.mul(outer, slope)
                }
                3 => {
                    let cube = net.times(x, 0.044715 * root);
                    let cube = net.mul(cube, x);
                    let cube = net.mul(cube, x);
                    let own = net.times(x, root);
                    net.add(own, cube)
                }
                _ => {
                    let square = net.pow(x, 2.0);
                    let cube = net.mul(x, square);
                    let cube = net.times(cube, 0.044715);
                    let sum = net.add(cube, x);
                    net.times(sum, root)
                }
            };
            let tanh = net.one(Unary::Tanh, z);
            let sum = net.plus(tanh, 1.0);
            if order % 2 == 0 {
                let half = net.times(x, 0.5);
                net.mul(half, sum)
            } else {
                let product = net.mul(x, sum);
                net.times(product, 0.5)
            }
        });
        assert_eq!(found, ["Linear"], "{order}");
    }
}

#[test]
fn products_with_the_logistic_function() {
    let silu = activation(|net, x| {
        let sigmoid = net.one(Unary::Sigmoid, x);
        net.mul(sigmoid, x)
    });
    assert_eq!(silu, ["Linear"]);
    let quick = activation(|net, x| {
        let z = net.times(x, 1.702);
        let sigmoid = net.one(Unary::Sigmoid, z);
        net.mul(x, sigmoid)
    });
    // No kernel does that at once, and the operator itself is taken apart.
    assert_eq!(quick, ["Linear", "Mul", "Activation", "Mul"]);
    let swish = activation(|net, x| net.one(Unary::Silu { alpha: 1.702 }, x));
    assert_eq!(swish, ["Linear", "Mul", "Activation", "Mul"]);
    let swish = activation(|net, x| net.one(Unary::Silu { alpha: 1.0 }, x));
    assert_eq!(swish, ["Linear"]);
}

#[test]
fn sums_of_themselves_are_not_followed_for_ever() {
    let found = of_x(&[2, 3], |net, x| {
        let mut z = x;
        for _ in 0..200 {
            z = net.add(z, z);
        }
        let f = net.one(Unary::Tanh, z);
        net.mul(f, x)
    });
    assert_eq!(found.len(), 202);
}

#[test]
fn what_only_looks_like_a_gelu() {
    let gelu = |net: &mut Net, x, y, root: f64, one: f64, half: f64| {
        let z = net.times(x, root);
        let erf = net.one(Unary::Erf, z);
        let sum = net.plus(erf, one);
        let product = net.mul(y, sum);
        net.times(product, half)
    };
    for (root, one, half) in [
        (ROOT * 1.0001, 1.0, 0.5),
        (ROOT, 1.01, 0.5),
        (ROOT, 1.0, 0.51),
        (-ROOT, 1.0, 0.5),
    ] {
        let found = activation(|net, x| gelu(net, x, x, root, one, half));
        assert!(found.len() > 2, "{found:?}");
    }
    let two = activation(|net, x| {
        let w = net.weights(&[8, 8]);
        let other = net.node(Op::MatMul, &[x, w]);
        gelu(net, x, other, ROOT, 1.0, 0.5)
    });
    assert!(two.len() > 2, "{two:?}");
    let shown = activation(|net, x| {
        let y = gelu(net, x, x, ROOT, 1.0, 0.5);
        let z = net.times(x, ROOT);
        let erf = net.one(Unary::Erf, z);
        net.output(erf);
        net.mul(y, erf)
    });
    assert!(shown.len() > 1, "{shown:?}");
    let coefficient = activation(|net, x| {
        let cube = net.pow(x, 3.0);
        let cube = net.times(cube, 0.0448);
        let sum = net.add(x, cube);
        let z = net.times(sum, (2.0 / std::f64::consts::PI).sqrt());
        let tanh = net.one(Unary::Tanh, z);
        let sum = net.plus(tanh, 1.0);
        let half = net.times(x, 0.5);
        net.mul(half, sum)
    });
    assert!(coefficient.len() > 2, "{coefficient:?}");
}

/// [N, T, heads · width] as [N, heads, T, width].
fn apart(net: &mut Net, x: ValueId, dims: [i64; 4]) -> ValueId {
    let dims = net.constant(&[4], &dims);
    let x = net.node(Op::Reshape { allow_zero: false }, &[x, dims]);
    net.swap(x, &[0, 2, 1, 3])
}

fn together(net: &mut Net, y: ValueId, dims: &[i64]) -> ValueId {
    let y = net.swap(y, &[0, 2, 1, 3]);
    let dims = net.constant(&[dims.len()], dims);
    net.node(Op::Reshape { allow_zero: false }, &[y, dims])
}

#[test]
fn heads_taken_apart_and_put_together() {
    for joined in [&[2i64, 5, 8][..], &[10, 8]] {
        let mut net = Net::default();
        let x = net.input("x", &[2, 5, 8]);
        let [q, k, v] = [0; 3].map(|_| {
            let w = net.weights(&[8, 8]);
            net.node(Op::MatMul, &[x, w])
        });
        let [q, k, v] = [q, k, v].map(|x| apart(&mut net, x, [2, 5, 2, 4]));
        let s = products(&mut net, q, k);
        let y = attend(&mut net, s, v, -1);
        let y = together(&mut net, y, joined);
        net.output(y);
        let expected = ["Linear", "Linear", "Linear", "Attention"];
        assert_eq!(kernels(net, &[&[2, 5, 8]]), expected);
    }
}

#[test]
fn queries_keys_and_values_of_one_product() {
    for way in 0..4 {
        let mut net = Net::default();
        let x = net.input("x", &[2, 5, 8]);
        let (w, b) = (net.weights(&[8, 24]), net.weights(&[24]));
        let mut all = net.node(Op::MatMul, &[x, w]);
        if way > 0 {
            all = net.add(all, b);
        }
        let dims = net.constant(&[5], &[2i64, 5, 3, 2, 4]);
        let all = net.node(Op::Reshape { allow_zero: false }, &[all, dims]);
        let all = net.swap(all, &[2, 0, 3, 1, 4]);
        let zero = net.constant(&[1], &[0i64]);
        let [q, k, v] = [0i64, 1, 2].map(|i| match way {
            0 => {
                let i = net.constant(&[], &[i]);
                net.node(Op::Gather { axis: 0 }, &[all, i])
            }
            1 => {
                let i = net.constant(&[], &[i - 3]);
                net.node(Op::Gather { axis: -5 }, &[all, i])
            }
            2 => {
                let (begin, end) = (net.constant(&[1], &[i]), net.constant(&[1], &[i + 1]));
                let part = net.node(Op::Slice, &[all, begin, end, zero]);
                net.node(Op::Squeeze, &[part, zero])
            }
            // The places of a list keep their axis.
            _ => {
                let i = net.constant(&[1], &[i]);
                let part = net.node(Op::Gather { axis: 0 }, &[all, i]);
                net.node(Op::Squeeze, &[part, zero])
            }
        });
        let s = products(&mut net, q, k);
        let y = attend(&mut net, s, v, -1);
        let y = together(&mut net, y, &[2, 5, 8]);
        net.output(y);
        let found = kernels(net, &[&[2, 5, 8]]);
        assert!(found.contains(&"Attention"), "{way}: {found:?}");
    }
}

#[test]
fn heads_in_other_places() {
    // Heads outside of tokens in memory: nothing to join.
    let mut net = Net::default();
    let x = net.input("x", &[2, 5, 8]);
    let dims = net.constant(&[4], &[2i64, 2, 5, 4]);
    let x = net.node(Op::Reshape { allow_zero: false }, &[x, dims]);
    let s = products(&mut net, x, x);
    let y = attend(&mut net, s, x, -1);
    let y = together(&mut net, y, &[2, 5, 8]);
    net.output(y);
    assert_eq!(kernels(net, &[&[2, 5, 8]]), ["Attention"]);
    // Channels inside of which the heads stand: every second element.
    let mut net = Net::default();
    let x = net.input("x", &[2, 5, 8]);
    let dims = net.constant(&[4], &[2i64, 5, 4, 2]);
    let x = net.node(Op::Reshape { allow_zero: false }, &[x, dims]);
    let x = net.swap(x, &[0, 3, 1, 2]);
    let s = products(&mut net, x, x);
    let y = attend(&mut net, s, x, -1);
    let y = together(&mut net, y, &[2, 5, 8]);
    net.output(y);
    assert_eq!(kernels(net, &[&[2, 5, 8]]), ["Attention"]);
    // A result whose tokens are not put first.
    let mut net = Net::default();
    let x = net.input("x", &[2, 5, 8]);
    let x = apart(&mut net, x, [2, 5, 2, 4]);
    let s = products(&mut net, x, x);
    let y = attend(&mut net, s, x, -1);
    let dims = net.constant(&[3], &[2i64, 5, 8]);
    let y = net.node(Op::Reshape { allow_zero: false }, &[y, dims]);
    net.output(y);
    assert_eq!(kernels(net, &[&[2, 5, 8]]), ["Attention"]);
}

#[test]
fn keys_that_were_repeated_for_heads_that_share_them() {
    let dims: [&[usize]; 3] = [&[2, 6, 5, 4], &[2, 2, 7, 4], &[2, 2, 7, 3]];
    let mut net = Net::default();
    let [q, k, v] = [0, 1, 2].map(|i| net.input(["q", "k", "v"][i], dims[i]));
    let [k, v] = [(k, 4i64), (v, 3)].map(|(x, width)| {
        let two = net.constant(&[1], &[2i64]);
        let x = net.node(Op::Unsqueeze, &[x, two]);
        let wide = net.constant(&[5], &[2, 2, 3, 7, width]);
        let x = net.node(Op::Expand, &[x, wide]);
        let dims = net.constant(&[4], &[2, 6, 7, width]);
        net.node(Op::Reshape { allow_zero: false }, &[x, dims])
    });
    let s = products(&mut net, q, k);
    let y = attend(&mut net, s, v, -1);
    net.output(y);
    assert_eq!(kernels(net, &dims), ["Attention"]);
}
