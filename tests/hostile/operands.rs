//! Graphs that make no sense, and inputs that do not fit.

use sluicegate::{Error, Model, Options, View};

use crate::common::models;
use crate::writer::{self, f32s, i64s, int, ints, node, value};
use crate::{attempt, inputs, named, options, refused, says};

#[test]
fn graphs_that_go_in_circles() {
    let circle = vec![
        named("Add", &["x", "b"], &["a"]),
        node("Relu", &["a"], &["b"]),
    ];
    says(
        &refused(&writer::Model::new(circle, &["b"])),
        &["culprit", "cycle"],
    );
    let own = vec![named("Add", &["x", "y"], &["y"])];
    says(
        &refused(&writer::Model::new(own, &["y"])),
        &["culprit", "cycle"],
    );
}

/// No axes at all: unusual, and sound.
#[test]
fn numbers_have_no_channels() {
    for op in [
        "Add", "Relu", "Mul", "Sigmoid", "MatMul", "Softmax", "Max", "Clip", "Identity", "Less",
    ] {
        for dims in [&[][..], &[3]] {
            let operands: &[&str] = match op {
                "Relu" | "Sigmoid" | "Softmax" | "Clip" | "Identity" => &["x"],
                _ => &["x", "x"],
            };
            let mut model = writer::Model::new(vec![named(op, operands, &["y"])], &["y"]);
            model.inputs = vec![value("x", 1, dims)];
            match Model::from_bytes(&model.bytes()).and_then(|model| attempt(&model)) {
                Ok(()) => {}
                Err(e) => says(&e.to_string(), &["culprit"]),
            }
        }
    }
}

#[test]
fn tensors_that_are_missing() {
    let model = writer::Model::new(vec![named("Add", &["x", "nowhere"], &["y"])], &["y"]);
    says(&refused(&model), &["nowhere"]);
    let model = writer::Model::new(vec![named("Relu", &["x"], &["y"])], &["nothing"]);
    says(&refused(&model), &["nothing"]);
    let model = writer::Model::new(vec![named("Conv", &["x"], &["y"])], &["y"]);
    says(&refused(&model), &["culprit"]);
    let short = f32s("w", &[4, 4, 3, 3], &[0.0; 7]);
    let model =
        writer::Model::new(vec![named("Conv", &["x", "w"], &["y"])], &["y"]).constant(short);
    says(&refused(&model), &["w"]);
}

#[test]
fn shapes_and_types_that_do_not_fit() {
    let cases = [
        (
            named("Conv", &["x", "c"], &["y"]),
            f32s("c", &[2, 5, 1, 1], &[0.0; 10]),
        ),
        (
            named("Conv", &["x", "c"], &["y"]),
            f32s("c", &[2, 4, 9, 9], &[0.0; 648]),
        ),
        (
            named("Conv", &["x", "c"], &["y"]),
            i64s("c", &[2, 4, 1, 1], &[0; 8]),
        ),
        (
            named("Conv", &["x", "c"], &["y"]).with(&[int("group", 3)]),
            f32s("c", &[2, 4, 1, 1], &[0.0; 8]),
        ),
        (
            named("Conv", &["x", "c"], &["y"]).with(&[ints("strides", &[0, 1])]),
            f32s("c", &[2, 4, 1, 1], &[0.0; 8]),
        ),
        (
            named("Conv", &["x", "c"], &["y"]).with(&[ints("pads", &[-1, 0, 0, 0])]),
            f32s("c", &[2, 4, 1, 1], &[0.0; 8]),
        ),
        (
            named("Conv", &["x", "c"], &["y"]).with(&[ints("dilations", &[1])]),
            f32s("c", &[2, 4, 1, 1], &[0.0; 8]),
        ),
        (
            named("MatMul", &["x", "c"], &["y"]),
            f32s("c", &[5, 2], &[0.0; 10]),
        ),
        (
            named("MatMul", &["x", "c"], &["y"]),
            i64s("c", &[3, 2], &[0; 6]),
        ),
        (
            named("Gemm", &["x", "c"], &["y"]),
            f32s("c", &[3, 2], &[0.0; 6]),
        ),
        (
            named("Add", &["x", "c"], &["y"]),
            f32s("c", &[5], &[0.0; 5]),
        ),
        (named("Add", &["x", "c"], &["y"]), i64s("c", &[3], &[0; 3])),
        (
            named("Concat", &["x", "c"], &["y"]).with(&[int("axis", 1)]),
            f32s("c", &[1, 4, 3, 2], &[0.0; 24]),
        ),
        (
            named("Concat", &["x", "c"], &["y"]).with(&[int("axis", 9)]),
            f32s("c", &[1, 4, 3, 3], &[0.0; 36]),
        ),
        (
            named("Reshape", &["x", "c"], &["y"]),
            i64s("c", &[2], &[7, 7]),
        ),
        (
            named("Reshape", &["x", "c"], &["y"]),
            i64s("c", &[2], &[-1, -1]),
        ),
        (
            named("Reshape", &["x", "c"], &["y"]),
            f32s("c", &[1], &[-1.0]),
        ),
        (
            named("Gather", &["x", "c"], &["y"]).with(&[int("axis", 1)]),
            i64s("c", &[1], &[4]),
        ),
        (
            named("Gather", &["x", "c"], &["y"]).with(&[int("axis", 1)]),
            i64s("c", &[1], &[i64::MIN]),
        ),
        (
            named("Split", &["x", "c"], &["y"]).with(&[int("axis", 1)]),
            i64s("c", &[1], &[3]),
        ),
        (
            named("Split", &["x", "c"], &["y", "z"]).with(&[int("axis", 1)]),
            i64s("c", &[2], &[9, -5]),
        ),
        (
            named("Unsqueeze", &["x", "c"], &["y"]),
            i64s("c", &[5], &[0, 1, 2, 3, 4]),
        ),
        (named("Squeeze", &["x", "c"], &["y"]), i64s("c", &[1], &[1])),
        (
            named("ReduceSum", &["x", "c"], &["y"]),
            i64s("c", &[1], &[4]),
        ),
        (
            named("Slice", &["x", "c", "c", "c", "zero"], &["y"]),
            i64s("c", &[1], &[1]),
        ),
        (named("Clip", &["x", "c"], &["y"]), i64s("c", &[], &[1])),
        (
            named("Where", &["x", "x", "c"], &["y"]),
            f32s("c", &[1], &[1.0]),
        ),
    ];
    for (node, constant) in cases {
        let model = writer::Model::new(vec![node], &["y"])
            .constant(constant)
            .constant(i64s("zero", &[1], &[0]));
        says(&refused(&model), &["culprit"]);
    }
}

/// What is given to `run` is named when it does not fit, and the session lives on.
#[test]
fn inputs_that_do_not_fit() {
    let model = Model::load(models("kws_dynamic.onnx")).unwrap();
    let tensors = inputs(model.graph(), 0.0).unwrap();
    let (name, good) = (tensors[0].0.as_str(), tensors[0].1.view());
    let dims = good.shape().to_vec();
    let zeros = vec![0.0f32; 4 * good.shape().elements()];
    let view = |dims: &[usize]| View::new(dims, &zeros[..dims.iter().product()]).unwrap();
    let with = |axis: usize, extent: usize| {
        let mut dims = dims.clone();
        dims[axis] = extent;
        dims
    };
    let integers = vec![0i64; good.shape().elements()];
    let bad: Vec<Vec<(&str, View<'_>)>> = vec![
        vec![],
        vec![("other", good)],
        vec![(name, good), (name, good)],
        vec![(name, good), ("other", good)],
        vec![(name, View::new(&dims, &integers).unwrap())],
        vec![(name, view(&with(1, dims[1] + 1)))],
        vec![(name, view(&with(dims.len() - 1, 1)))],
        vec![(name, view(&with(dims.len() - 1, 0)))],
        vec![(name, view(&dims[1..]))],
        vec![(name, view(&[]))],
    ];
    let mut session = model.session(options()).unwrap();
    for (i, given) in bad.iter().enumerate() {
        let e = session
            .run(given)
            .err()
            .unwrap_or_else(|| panic!("case {i} was run"));
        assert!(matches!(e, Error::Input { .. }), "case {i}: {e}");
        let names = [name, "other"]
            .iter()
            .any(|n| e.to_string().contains(&format!("`{n}`")));
        assert!(names, "case {i}: {e}");
        assert!(session.run(&[(name, good)]).is_ok(), "after case {i}");
    }
    // No samples are a batch like any other.
    let nobody = with(0, 0);
    let given = [(name, view(&nobody))];
    match session.run(&given) {
        Ok(run) => assert_eq!(run.samples(), 0),
        Err(e) => says(&e.to_string(), &[name]),
    }
    assert!(session.run(&[(name, good)]).is_ok());
    // More samples than the memory allows.
    let tight = Options {
        memory_limit: 1 << 20,
        ..options()
    };
    let mut session = model.session(tight).unwrap();
    let crowd = with(0, 4);
    let answer = session.run(&[(name, good)]).map(|_| ());
    assert!(answer.is_ok() || matches!(answer, Err(Error::TooLarge { .. })));
    let _ = session.run(&[(name, view(&crowd))]);
    let _ = session.run(&[(name, good)]);
}
