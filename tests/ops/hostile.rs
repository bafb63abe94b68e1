//! Whatever the operands, an operation gives results or an error: it does not panic and does not take for ever.

use proptest::prelude::*;
use proptest::sample::select;
use sluicegate::graph::{
    Attention, Binary, Op, PadMode, Padding, Reach, Reduction, Rotary, Scores, Unary, Window,
};
use sluicegate::ops::{Fact, eval, infer};
use sluicegate::tensor::Element;
use sluicegate::{DType, Shape, Tensor};

use crate::tensor;

const TYPES: [DType; 6] = [
    DType::F32,
    DType::I64,
    DType::I32,
    DType::U8,
    DType::I8,
    DType::Bool,
];

/// Small numbers mostly, and the ends of the range.
fn numbers() -> impl Strategy<Value = i64> {
    prop_oneof![
        12 => -3i64..5,
        1 => select(vec![i64::MIN, i64::MAX, i64::MIN + 1, 1 << 31, 1 << 60, -(1 << 40)]),
    ]
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0usize..4, 1 => select(vec![usize::MAX, 1 << 31, 1 << 62])]
}

fn lists() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![2 => Just(vec![]), 3 => prop::collection::vec(lengths(), 1..4)]
}

fn windows() -> impl Strategy<Value = Window> {
    let padding = prop_oneof![
        prop::collection::vec(lengths(), 0..7).prop_map(Padding::Explicit),
        select(vec![Padding::SameUpper, Padding::SameLower, Padding::Valid]),
    ];
    (lists(), lists(), lists(), padding).prop_map(|(kernel, strides, dilations, padding)| Window {
        kernel,
        strides,
        dilations,
        padding,
    })
}

fn filled<T: Element>(shape: Shape, data: &[i64], to: impl Fn(i64) -> T) -> Tensor {
    let at = |i| data.get(i % data.len().max(1)).copied().unwrap_or(0);
    let all: Vec<T> = (0..shape.elements()).map(|i| to(at(i))).collect();
    tensor(&shape, &all)
}

fn tensors() -> impl Strategy<Value = Tensor> {
    let dims = prop_oneof![
        3 => prop::collection::vec(0usize..4, 0..6),
        // Lists of integers, for shapes, axes and the like.
        2 => prop::collection::vec(0usize..7, 1),
        1 => prop::collection::vec(1usize..3, 3..9),
        1 => Just(vec![1 << 40, 0]),
        1 => Just(vec![0, 2, 1 << 40]),
    ];
    let dtype =
        prop_oneof![2 => Just(DType::F32), 2 => Just(DType::I64), 2 => select(TYPES.to_vec())];
    (dtype, dims, prop::collection::vec(numbers(), 0..8)).prop_map(|(dtype, dims, data)| {
        let shape = Shape::new(&dims).expect("a shape of the test");
        match dtype {
            DType::F32 => filled(
                shape,
                &data,
                |x| if x == 1 << 31 { f32::NAN } else { x as f32 },
            ),
            DType::I64 => filled(shape, &data, |x| x),
            DType::I32 => filled(shape, &data, |x| x as i32),
            DType::U8 => filled(shape, &data, |x| x as u8),
            DType::I8 => filled(shape, &data, |x| x as i8),
            _ => {
                let truth = filled(shape, &data, |x| u8::from(x > 0));
                let bytes = truth.as_slice::<u8>().expect("bytes").iter();
                crate::bools(&shape, &bytes.map(|&b| b != 0).collect::<Vec<_>>())
            }
        }
    })
}

fn layers() -> BoxedStrategy<Op> {
    let epsilon = 1e-5;
    prop_oneof![
        (windows(), any::<[bool; 2]>()).prop_map(|(window, [ceil, count_include_pad])| {
            Op::AveragePool {
                window,
                ceil,
                count_include_pad,
            }
        }),
        (windows(), any::<[bool; 2]>()).prop_map(|(window, [ceil, column_major_indices])| {
            Op::MaxPool {
                window,
                ceil,
                column_major_indices,
            }
        }),
        (windows(), lengths()).prop_map(|(window, groups)| Op::Conv { window, groups }),
        Just(Op::BatchNorm { epsilon }),
        Just(Op::GlobalAveragePool),
        Just(Op::GlobalMaxPool),
        Just(Op::MatMul),
        any::<[bool; 4]>().prop_map(|[trans_a, trans_b, a, b]| Op::Gemm {
            alpha: a.into(),
            beta: b.into(),
            trans_a,
            trans_b,
        }),
        numbers().prop_map(move |axis| Op::LayerNorm { axis, epsilon }),
        numbers().prop_map(move |axis| Op::RmsNorm { axis, epsilon }),
        (numbers(), any::<bool>()).prop_map(|(axis, flatten)| Op::Softmax { axis, flatten }),
        (numbers(), any::<bool>()).prop_map(|(axis, flatten)| Op::LogSoftmax { axis, flatten }),
        lengths().prop_map(|axis| Op::Mask { axis }),
        Just(Op::Gate {
            threshold: 0.0,
            index: 0
        }),
    ]
    .boxed()
}

fn scores() -> impl Strategy<Value = Scores> {
    use Scores::{Biased, Capped, Probabilities, Products};
    select(vec![Products, Capped, Biased, Probabilities])
}

fn attention() -> BoxedStrategy<Op> {
    let some = || prop::option::of(lengths());
    let heads = prop::option::of((lengths(), lengths()));
    let attention = (heads, some(), some(), scores(), any::<bool>()).prop_map(
        |(heads, before, after, scores, capped)| {
            Op::Attention(Attention {
                heads,
                reach: Reach { before, after },
                scale: capped.then_some(f32::NAN),
                softcap: capped.into(),
                scores,
            })
        },
    );
    let rotary = (some(), some(), any::<bool>()).prop_map(|(heads, dims, interleaved)| {
        Op::RotaryEmbedding(Rotary {
            heads,
            dims,
            interleaved,
        })
    });
    prop_oneof![attention, rotary].boxed()
}

/// Operands of attention that fit, more often than not.
fn heads() -> impl Strategy<Value = (Option<(usize, usize)>, Vec<Option<Tensor>>)> {
    let extents = (
        0usize..3,
        1usize..3,
        1usize..3,
        0usize..4,
        0usize..4,
        0usize..3,
        0usize..70,
    );
    let extras = (
        tensors(),
        prop::collection::vec(numbers(), 1..4),
        any::<[bool; 5]>(),
    );
    (extents, extras).prop_map(|((n, h, group, tq, tk, d, dv), (mask, list, given))| {
        let of = |dims: &[usize]| filled(Shape::new(dims).expect("small"), &list, |x| x as f32);
        let joined = given[0];
        let heads = joined.then_some((h * group, h));
        let operand = |heads, tokens, width| match joined {
            true => of(&[n, tokens, heads * width]),
            false => of(&[n, heads, tokens, width]),
        };
        let long = |dims: &[usize]| filled(Shape::new(dims).expect("small"), &list, |x| x);
        let operands = vec![
            Some(operand(h * group, tq, d)),
            Some(operand(h, tk, d)),
            Some(operand(h, tk, dv)),
            given[1].then_some(mask),
            given[2].then(|| long(&[n])),
            given[3].then(|| of(&[1, tk])),
            given[4].then(|| long(&[1])),
        ];
        (heads, operands)
    })
}

fn moves() -> BoxedStrategy<Op> {
    let modes = vec![
        PadMode::Constant,
        PadMode::Edge,
        PadMode::Reflect,
        PadMode::Wrap,
    ];
    prop_oneof![
        numbers().prop_map(|axis| Op::Concat { axis }),
        Just(Op::Expand),
        numbers().prop_map(|axis| Op::Flatten { axis }),
        numbers().prop_map(|axis| Op::Gather { axis }),
        Just(Op::CastLike),
        Just(Op::Identity),
        Just(Op::Range),
        select(modes).prop_map(|mode| Op::Pad { mode }),
        any::<bool>().prop_map(|allow_zero| Op::Reshape { allow_zero }),
        (numbers(), prop::option::of(numbers())).prop_map(|(start, end)| Op::Shape { start, end }),
        Just(Op::Slice),
        numbers().prop_map(|axis| Op::Split { axis }),
        Just(Op::Squeeze),
        Just(Op::Unsqueeze),
        prop::option::of(lists()).prop_map(|perm| Op::Transpose { perm }),
        Just(Op::Where),
    ]
    .boxed()
}

fn pointwise() -> BoxedStrategy<Op> {
    use Binary::{Add, And, Div, Equal, Greater, Less, Max, Min, Mul, Or, Pow, Sub};
    let binary = vec![
        Add, And, Div, Equal, Greater, Less, Max, Min, Mul, Or, Pow, Sub,
    ];
    let unary = vec![
        Unary::Abs,
        Unary::Elu { alpha: 1.0 },
        Unary::Gelu { tanh: true },
        Unary::HardSwish,
        Unary::Log,
        Unary::Neg,
        Unary::Not,
        Unary::Relu,
        Unary::Round,
        Unary::Softplus,
    ];
    let kinds = vec![Reduction::Max, Reduction::Mean, Reduction::Sum];
    prop_oneof![
        2 => select(binary).prop_map(Op::Binary),
        1 => select(unary).prop_map(Op::Unary),
        1 => select(TYPES.to_vec()).prop_map(|to| Op::Cast { to }),
        1 => Just(Op::Clip),
        2 => (select(kinds), any::<[bool; 2]>()).prop_map(|(kind, [keep_dims, noop])| Op::Reduce {
            kind,
            keep_dims,
            noop_with_empty_axes: noop,
        }),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn nothing_panics(
        op in prop_oneof![4 => layers(), 4 => moves(), 4 => pointwise(), 1 => attention()],
        inputs in prop::collection::vec(prop::option::weighted(0.95, tensors()), 0..6),
        same in any::<bool>(),
        outputs in 0usize..4,
    ) {
        // Operators of several operands want them alike.
        let first = inputs.first().cloned().flatten();
        let inputs: Vec<_> = inputs.into_iter().enumerate()
            .map(|(i, t)| if same && i == 1 { first.clone() } else { t })
            .collect();
        let views: Vec<_> = inputs.iter().map(|t| t.as_ref().map(Tensor::view)).collect();
        let facts: Vec<_> = views.iter().map(|v| v.map(Fact::from)).collect();
        let types = infer(&op, &facts, outputs);
        // Less is known, nothing else is said.
        let unknown = |fact: &Option<Fact<'_>>| fact.map(|f| Fact { value: None, ..f });
        let guess = infer(&op, &facts.iter().map(unknown).collect::<Vec<_>>(), outputs);
        if let (Ok(types), Ok(guess)) = (&types, guess) {
            prop_assert_eq!(types, &guess);
        }
        let Ok(types) = types else { return Ok(()) };
        if types.iter().any(|(_, shape)| shape.elements() > 1 << 16) {
            return Ok(());
        }
        let mut results: Vec<_> =
            types.iter().map(|&(dtype, shape)| Tensor::zeros(dtype, shape)).collect();
        let mut results: Vec<_> = results.iter_mut().map(|t| Some(t.view_mut())).collect();
        // An error is a good answer too: indices out of range, division by zero.
        let _ = eval(&op, &views, &mut results);
    }
    #[test]
    fn attention_of_any_numbers(
        (heads, operands) in heads(),
        (before, after) in (prop::option::of(lengths()), prop::option::of(lengths())),
        (scores, softcap) in (scores(), select(vec![0.0, 1.0, f32::INFINITY, f32::NAN])),
    ) {
        let reach = Reach { before, after };
        let op = Op::Attention(Attention { heads, reach, scale: None, softcap, scores });
        let operands: Vec<_> = operands.iter().map(Option::as_ref).collect();
        if let Ok(results) = crate::run_all(&op, &operands, 2) {
            prop_assert_eq!(results.len(), 2);
        } else {
            prop_assert!(operands[3].is_some(), "only the mask is arbitrary");
        }
    }
}
