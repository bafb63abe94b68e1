//! Extents that overflow, or that nobody has the memory for.

use sluicegate::graph::{Attention, Dim, Op, PadMode, Padding, Unary, Value, Window};
use sluicegate::{DType, Model, Shape, Tensor};

use crate::common::net::Net;
use crate::writer::{self, f32s, i64s, ints, node, value};
use crate::{attempt, named, plan, refused, says};

const HUGE: [i64; 6] = [
    1 << 28,
    i32::MAX as i64,
    1 << 32,
    1 << 40,
    1 << 61,
    i64::MAX,
];

/// Extents that overflow, or that nobody has the memory for.
#[test]
fn huge_extents_are_refused() {
    for huge in HUGE {
        for dims in [
            vec![huge],
            vec![huge, huge],
            vec![2, huge, 3],
            vec![huge, 0, huge],
            vec![-1, huge],
            vec![huge; 8],
        ] {
            let n = dims.len() as i64;
            // Zero elements need no memory.
            let empty = dims.contains(&0);
            for op in ["ConstantOfShape", "Expand", "Reshape"] {
                let operands: &[&str] = match op {
                    "ConstantOfShape" => &["dims"],
                    "Expand" => &["one", "dims"],
                    _ => &["x", "dims"],
                };
                let model = writer::Model::new(vec![named(op, operands, &["y"])], &["y"])
                    .constant(i64s("dims", &[n], &dims))
                    .constant(f32s("one", &[], &[1.0]));
                let answer = Model::from_bytes(&model.bytes()).and_then(|model| attempt(&model));
                match answer {
                    Ok(()) => assert!(empty, "{op} {dims:?}"),
                    Err(e) => says(&e.to_string(), &["culprit"]),
                }
            }
        }
        let windows: [&[writer::Message]; 8] = [
            &[ints("pads", &[huge, 0, 0, 0])],
            &[ints("pads", &[huge, huge, huge, huge])],
            &[
                ints("pads", &[huge, huge, huge, huge]),
                ints("strides", &[huge, huge]),
            ],
            &[ints("pads", &[huge, 0, 0, 0]), ints("strides", &[huge, 1])],
            &[ints("dilations", &[huge, huge])],
            &[
                ints("dilations", &[huge, 1]),
                ints("pads", &[huge, 0, huge, 0]),
            ],
            &[
                ints("dilations", &[huge, 1]),
                ints("pads", &[huge, 0, huge, 0]),
                ints("strides", &[huge, 1]),
            ],
            &[
                ints("kernel_shape", &[huge, huge]),
                ints("pads", &[huge, huge, huge, huge]),
            ],
        ];
        for window in windows {
            for op in ["Conv", "MaxPool", "AveragePool"] {
                let operands: &[&str] = if op == "Conv" { &["x", "w"] } else { &["x"] };
                let mut attributes = window.to_vec();
                if op != "Conv" && window.len() != 2 {
                    attributes.push(ints("kernel_shape", &[2, 2]));
                }
                let culprit = named(op, operands, &["y"]).with(&attributes);
                let model = writer::Model::new(vec![culprit], &["y"])
                    .version(22)
                    .constant(f32s("w", &[2, 4, 2, 2], &[0.5; 32]));
                if let Err(e) = Model::from_bytes(&model.bytes()).and_then(|model| attempt(&model))
                {
                    says(&e.to_string(), &["culprit"]);
                }
            }
        }
        for (op, constants) in [
            (
                "Pad",
                vec![i64s("a", &[8], &[huge, 0, 0, 0, huge, 0, 0, 0])],
            ),
            (
                "Pad",
                vec![i64s("a", &[8], &[0, -huge, 0, 0, 0, 0, 0, -huge])],
            ),
            (
                "Slice",
                vec![i64s("a", &[1], &[-huge]), i64s("b", &[1], &[huge])],
            ),
            (
                "Slice",
                vec![i64s("a", &[1], &[huge]), i64s("b", &[1], &[-huge])],
            ),
            ("Gather", vec![i64s("a", &[1], &[huge])]),
            ("Split", vec![i64s("a", &[1], &[huge])]),
        ] {
            let names = ["x", "a", "b"];
            let mut model =
                writer::Model::new(vec![named(op, &names[..=constants.len()], &["y"])], &["y"]);
            for constant in constants {
                model = model.constant(constant);
            }
            if let Err(e) = Model::from_bytes(&model.bytes()).and_then(|model| attempt(&model)) {
                says(&e.to_string(), &["culprit"]);
            }
        }
        let mut model = writer::Model::new(vec![named("Relu", &["x"], &["y"])], &["y"]);
        model.inputs = vec![value("x", 1, &[huge, 0, huge])];
        let _ = Model::from_bytes(&model.bytes()).and_then(|model| attempt(&model));
    }
}

/// Each within the limit, all together far beyond it.
#[test]
fn many_large_constants_are_refused() {
    let mut nodes = Vec::new();
    for i in 0..40 {
        let name: &'static str = Box::leak(format!("c{i}").into_boxed_str());
        nodes.push(named("ConstantOfShape", &["dims"], &[name]));
        let (from, to) = (
            if i == 0 {
                "x".into()
            } else {
                format!("y{}", i - 1)
            },
            format!("y{i}"),
        );
        nodes.push(node("Where", &["no", name, &from], &[&to]));
    }
    let model = writer::Model::new(nodes, &["y39"])
        .constant(i64s("dims", &[4], &[100_000, 4, 3, 3]))
        .constant(writer::bools("no", &[], &[false]));
    says(&refused(&model), &["culprit", "limit"]);
}

/// Small weights that many nodes share, each of which packs them anew; and operators whose plan is larger than their operands.
#[test]
fn many_nodes_of_few_weights_are_refused() {
    let chain = |op: &str, constant: fn(writer::Model) -> writer::Model, dims: &[i64]| {
        let mut model = writer::Model::new(Vec::new(), &["s399"]);
        for i in 0..400 {
            let (y, s): (&'static str, &'static str) = (
                Box::leak(format!("y{i}").into_boxed_str()),
                Box::leak(format!("s{i}").into_boxed_str()),
            );
            let before = if i == 0 {
                "y0".to_owned()
            } else {
                format!("s{}", i - 1)
            };
            model.nodes.push(named(op, &["x", "c"], &[y]));
            model.nodes.push(node("Add", &[y, &before], &[s]));
        }
        model.inputs = vec![value("x", 1, dims)];
        constant(model)
    };
    let narrow = |m: writer::Model| m.constant(f32s("c", &[4096, 1], &[0.5; 4096]));
    says(
        &refused(&chain("MatMul", narrow, &[-1, 4096])),
        &["culprit", "limit"],
    );
    let wide = |m: writer::Model| m.constant(f32s("c", &[64, 64, 3, 3], &[0.5; 36864]));
    says(
        &refused(&chain("Conv", wide, &[-1, 64, 3, 3])),
        &["culprit", "limit"],
    );
}

/// Windows as large as an address, which no file can say.
#[test]
fn huge_windows_of_a_graph_are_refused() {
    for huge in [1usize << 24, 1 << 31, 1 << 40, usize::MAX / 2, usize::MAX] {
        let lists = [
            vec![],
            vec![1, 1],
            vec![huge, 1],
            vec![1, huge],
            vec![huge, huge],
        ];
        for strides in &lists {
            for dilations in &lists {
                for pads in [
                    vec![],
                    vec![huge; 4],
                    vec![huge, 0, huge, 0],
                    vec![0, 0, huge, huge],
                ] {
                    let window = |kernel: &[usize]| Window {
                        kernel: kernel.to_vec(),
                        strides: strides.clone(),
                        dilations: dilations.clone(),
                        padding: Padding::Explicit(pads.clone()),
                    };
                    let mut net = Net::default();
                    let x = net.input("x", &[0, 4, 6, 6]);
                    let w = net.weights(&[4, 4, 2, 2]);
                    let y = net.node(
                        Op::Conv {
                            window: window(&[2, 2]),
                            groups: 1,
                        },
                        &[x, w],
                    );
                    net.output(y);
                    if let Err(e) = plan(net, 0.5) {
                        says(&e.to_string(), &["make_v2 (Conv)"]);
                    }
                    let mut net = Net::default();
                    let x = net.input("x", &[0, 4, 6, 6]);
                    let w = net.weights(&[4, 1, 2, 2]);
                    let y = net.node(
                        Op::Conv {
                            window: window(&[2, 2]),
                            groups: 4,
                        },
                        &[x, w],
                    );
                    net.output(y);
                    if let Err(e) = plan(net, 0.5) {
                        says(&e.to_string(), &["make_v2 (Conv)"]);
                    }
                    for kernel in [[2, 2], [huge, 2], [huge, huge]] {
                        for ceil in [false, true] {
                            let mut net = Net::default();
                            let x = net.input("x", &[0, 4, 6, 6]);
                            let y = net.node(
                                Op::MaxPool {
                                    window: window(&kernel),
                                    ceil,
                                    column_major_indices: false,
                                },
                                &[x],
                            );
                            net.output(y);
                            let y = net.node(
                                Op::AveragePool {
                                    window: window(&kernel),
                                    ceil,
                                    count_include_pad: true,
                                },
                                &[x],
                            );
                            net.output(y);
                            if let Err(e) = plan(net, 0.5) {
                                says(&e.to_string(), &["make_v", "Pool)"]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Products over no terms, and of no rows or columns, whatever the other extents.
#[test]
fn empty_extents_beside_huge_ones() {
    for huge in [1usize << 20, 1 << 32, 1 << 40] {
        for (rows, k, n) in [
            (3, 0, huge),
            (0, 0, huge),
            (0, 5, 7),
            (3, 5, 0),
            (huge, 0, 4),
            (0, huge, 0),
        ] {
            let mut net = Net::default();
            let dims = [1, rows, k];
            let x = net.graph.add(Value {
                name: "x".into(),
                dtype: Some(DType::F32),
                dims: Some(dims.iter().map(|&d| Dim::Fixed(d)).collect()),
                constant: None,
            });
            net.graph.inputs.push(x);
            let w = if n == huge && k == 0 || k * n == 0 {
                net.graph
                    .add_constant("w", Tensor::zeros(DType::F32, Shape::new(&[k, n]).unwrap()))
            } else {
                net.weights(&[k, n])
            };
            let y = net.node(Op::MatMul, &[x, w]);
            let y = net.node(Op::Unary(Unary::Relu), &[y]);
            net.output(y);
            if let Err(e) = plan(net, 0.5) {
                says(&e.to_string(), &["make_v"]);
            }
        }
    }
}

/// Borders wider than the map, and narrower than nothing.
#[test]
fn pads_of_any_size() {
    let padding = [
        PadMode::Constant,
        PadMode::Edge,
        PadMode::Reflect,
        PadMode::Wrap,
    ];
    for mode in padding {
        for pads in [
            [0, 0, 100, 0, 0, 0, 0, 0],
            [0, -5, 0, 0, 0, 0, 0, 0],
            [0, 0, i64::MAX, 0, 0, 0, i64::MAX, 0],
        ] {
            let mut net = Net::default();
            let x = net.input("x", &[0, 4, 3, 3]);
            let pads = net.constant(&[8], &pads);
            let y = net.node(Op::Pad { mode }, &[x, pads]);
            net.output(y);
            if let Err(e) = plan(net, 1.0) {
                says(&e.to_string(), &["(Pad)"]);
            }
        }
    }
}

/// Operands of attention are followed through what takes parts of values; a part that is not there is no place.
#[test]
fn parts_behind_the_end_hold_no_heads() {
    for index in [3, -4, 1 << 40, i64::MAX, i64::MIN] {
        let mut net = Net::default();
        let x = net.input("x", &[3, 1, 2, 5, 4]);
        let at = net.constant::<i64>(&[], &[index]);
        let x = net.node(Op::Gather { axis: 0 }, &[x, at]);
        let y = net.node(Op::Attention(Attention::default()), &[x, x, x]);
        net.output(y);
        assert!(attempt(&Model::from_graph(net.graph)).is_err(), "{index}");
    }
}

/// A mask of no channels, in front of a reshape and behind one: what nobody reads is looked for along axes that are not there.
#[test]
fn masks_of_values_without_elements() {
    for dims in [[1, 0, 4], [1, 3, 0], [1, 0, 0]] {
        for (axis, &channels) in dims.iter().enumerate().skip(1) {
            let mut net = Net::default();
            let x = net.input("x", &dims);
            net.graph.values[x.index()].dims = Some(dims.map(Dim::Fixed).to_vec());
            let mask = net.constant(&[1, channels], &vec![0.0f32; channels]);
            let flat = net.constant::<i64>(&[2], &[0, 5]);
            let back = net.constant::<i64>(&[3], &dims.map(|d| d as i64));
            let reshape = Op::Reshape { allow_zero: true };
            let y = net.node(Op::Mask { axis }, &[x, mask]);
            let y = net.node(reshape.clone(), &[y, flat]);
            let y = net.node(Op::Unary(Unary::Relu), &[y]);
            let y = net.node(reshape, &[y, back]);
            let y = net.node(Op::Mask { axis }, &[y, mask]);
            net.output(y);
            let answer = attempt(&Model::from_graph(net.graph));
            assert!(channels == 0 || answer.is_ok(), "{dims:?}: {answer:?}");
        }
    }
}
