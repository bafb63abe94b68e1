//! Activations.

use crate::*;

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
