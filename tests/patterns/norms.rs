//! Normalisations.

use crate::*;

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
