//! Which products are masks.

use sluicegate::graph::Op;

use crate::writer::{self, Message, Model, f32s, i64s, int, node};
use crate::{floats, graph, operand};

/// The axis of the last node, if it is a mask.
fn axis(nodes: Vec<Message>, constants: &[Message]) -> Option<usize> {
    let mut model = Model::new(nodes, &["y"])
        .input(writer::value("s", 1, &[-1, 4]))
        .input(writer::value("flags", 9, &[-1, 4]))
        .constant(f32s("zero", &[], &[0.0]))
        .constant(i64s("spread", &[2], &[2, 3]));
    for constant in constants {
        model = model.constant(constant.clone());
    }
    let graph = graph(&model);
    crate::assert_sound(&graph);
    match graph.nodes.last().unwrap().op {
        Op::Mask { axis } => Some(axis),
        _ => None,
    }
}

/// keep = s > 0, m = Cast(keep) to f32
fn compared() -> Vec<Message> {
    vec![
        node("Greater", &["s", "zero"], &["keep"]),
        node("Cast", &["keep"], &["m"]).with(&[int("to", 1)]),
    ]
}

fn unsqueezed() -> Vec<Message> {
    vec![
        node("Unsqueeze", &["m", "spread"], &["u"]),
        node("Mul", &["x", "u"], &["y"]),
    ]
}

#[test]
fn comparisons_and_flags_are_masks() {
    assert_eq!(axis([compared(), unsqueezed()].concat(), &[]), Some(1));
    let flags = vec![node("Cast", &["flags"], &["m"]).with(&[int("to", 1)])];
    assert_eq!(axis([flags, unsqueezed()].concat(), &[]), Some(1));
    let swapped = vec![
        node("Unsqueeze", &["m", "spread"], &["u0"]),
        node("Identity", &["u0"], &["u"]),
        node("Mul", &["u", "x"], &["y"]),
    ];
    assert_eq!(axis([compared(), swapped].concat(), &[]), Some(1));
}

#[test]
fn products_of_masks_are_masks() {
    let chained = vec![
        node("Cast", &["flags"], &["f"]).with(&[int("to", 1)]),
        node("Greater", &["s", "zero"], &["keep"]),
        node("Cast", &["keep"], &["k"]).with(&[int("to", 1)]),
        node("Mul", &["k", "f"], &["p"]),
        node("Min", &["p", "f"], &["m"]),
    ];
    assert_eq!(axis([chained, unsqueezed()].concat(), &[]), Some(1));
}

#[test]
fn what_is_not_proven_is_not_a_mask() {
    // Not 0 or 1.
    let plain = vec![node("Relu", &["s"], &["m"])];
    assert_eq!(axis([plain, unsqueezed()].concat(), &[]), None);
    // Not a vector of channels: N is not on axis 0, or the ranks differ.
    for axes in [&[0, 3][..], &[2], &[0]] {
        let product = vec![
            node("Unsqueeze", &["m", "other"], &["u"]),
            node("Mul", &["x", "u"], &["y"]),
        ];
        let other = i64s("other", &[axes.len() as i64], axes);
        assert_eq!(
            axis([compared(), product].concat(), &[other]),
            None,
            "{axes:?}"
        );
    }
    // X is a constant, so that the product has the rows of the mask.
    let product = vec![
        node("Unsqueeze", &["m", "spread"], &["u"]),
        node("Mul", &["k", "u"], &["y"]),
    ];
    let k = f32s("k", &[1, 4, 1, 1], &[3.0; 4]);
    assert_eq!(axis([compared(), product].concat(), &[k]), None);
}

#[test]
fn reshaped_masks() {
    let spread = |to: &[i64]| {
        let nodes = vec![
            node("Reshape", &["m", "to"], &["u"]),
            node("Mul", &["x", "u"], &["y"]),
        ];
        axis(
            [compared(), nodes].concat(),
            &[i64s("to", &[to.len() as i64], to)],
        )
    };
    assert_eq!(spread(&[0, 4, 1, 1]), Some(1));
    assert_eq!(spread(&[-1, 4, 1, 1]), Some(1));
    assert_eq!(spread(&[0, -1, 1, 1]), Some(1));
    assert_eq!(spread(&[-1, 0, 1, 1]), Some(1));
    assert_eq!(spread(&[0, 1, 4, 1]), Some(2));
    assert_eq!(spread(&[-1, 2, 1, 1]), None);
    assert_eq!(spread(&[-1, 1, 0, 1]), None);
    assert_eq!(spread(&[0, 2, 2, 1]), None);
}

#[test]
fn constant_vectors_of_channels() {
    let product = || vec![node("Mul", &["x", "c"], &["y"])];
    for (dims, expected) in [
        (&[1, 4, 1, 1][..], Some(1)),
        (&[4, 1, 1], Some(1)),
        (&[4], Some(3)),
        (&[4, 1, 1, 1], None),
        (&[2, 2], None),
        (&[1, 1, 4, 1, 1], Some(2)),
    ] {
        let constant = f32s("c", dims, &[1.0, 0.0, 0.0, 1.0]);
        // With more axes than X the product has a rank of its own.
        let expected = expected.filter(|_| dims.len() <= 4);
        assert_eq!(axis(product(), &[constant]), expected, "{dims:?}");
    }
    let half = f32s("c", &[1, 4, 1, 1], &[1.0, 0.0, 0.5, 1.0]);
    assert_eq!(axis(product(), &[half]), None);
}

#[test]
fn static_masks_are_constants_also_in_chains() {
    let nodes = vec![
        node("Identity", &["a"], &["a2"]),
        node("Mul", &["a2", "b"], &["m"]),
        node("Unsqueeze", &["m", "axes"], &["u"]),
        node("Mul", &["x", "u"], &["y"]),
    ];
    let model = Model::new(nodes, &["y"])
        .constant(f32s("a", &[1, 4], &[1.0, 1.0, 0.0, 0.0]))
        .constant(f32s("b", &[1, 4], &[1.0, 0.0, 1.0, 0.0]))
        .constant(i64s("axes", &[2], &[-1, -2]));
    let graph = graph(&model);
    assert_eq!(crate::ops(&graph), ["Mask"]);
    assert_eq!(floats(&graph, &graph.nodes[0], 1), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(operand(&graph.nodes[0], 0), graph.inputs[0]);
}
