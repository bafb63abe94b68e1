//! Attention against matrices that are written out, one feature at a time; rotations by hand.

use sluicegate::graph::{Attention, Op, Reach, Rotary, Scores};
use sluicegate::{Result, Tensor};

use crate::{bools, close, floats, ints, iota, run, run_all, tensor};

/// Numbers between -1 and 1 that repeat late.
fn wave(dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let at = |i: usize| (((i + 1) * (2 * seed + 37)) % 101) as f32 / 50.0 - 1.0;
    tensor(dims, &(0..n).map(at).collect::<Vec<_>>())
}

/// What a query may see: added to the scores.
type Bias = dyn Fn(usize, usize, usize, usize) -> f64;

/// A problem with heads on axis 1.
struct Case {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: f64,
    softcap: f64,
}

impl Case {
    /// Two samples with so many heads of queries and of keys, queries, keys, and widths of keys and values.
    fn new(heads: [usize; 2], tokens: [usize; 2], widths: [usize; 2]) -> Self {
        Self {
            q: wave(&[2, heads[0], tokens[0], widths[0]], 1),
            k: wave(&[2, heads[1], tokens[1], widths[0]], 2),
            v: wave(&[2, heads[1], tokens[1], widths[1]], 3),
            scale: 1.0 / (widths[0] as f64).sqrt(),
            softcap: 0.0,
        }
    }

    /// Y, then products, capped, biased, probabilities: all as whole matrices.
    fn expected(&self, bias: &Bias) -> [Vec<f32>; 5] {
        let (q, k, v) = (self.q.shape(), self.k.shape(), self.v.shape());
        let at = |t: &Tensor, n: usize, h: usize, i: usize, d: usize| {
            let s = t.shape();
            f64::from(floats(t)[((n * s[1] + h) * s[2] + i) * s[3] + d])
        };
        let mut all: [Vec<f32>; 5] = Default::default();
        for (n, h) in (0..q[0]).flat_map(|n| (0..q[1]).map(move |h| (n, h))) {
            let shared = h / (q[1] / k[1]);
            for i in 0..q[2] {
                let product = |j| -> f64 {
                    let terms =
                        (0..q[3]).map(|d| at(&self.q, n, h, i, d) * at(&self.k, n, shared, j, d));
                    terms.sum()
                };
                let products: Vec<f64> = (0..k[2]).map(|j| product(j) * self.scale).collect();
                let cap = |x: f64| match self.softcap {
                    0.0 => x,
                    c => c * (x / c).tanh(),
                };
                let capped: Vec<f64> = products.iter().map(|&x| cap(x)).collect();
                let biased: Vec<f64> = (0..k[2]).map(|j| capped[j] + bias(n, h, i, j)).collect();
                let powers: Vec<f64> = biased.iter().map(|s| s.exp()).collect();
                let sum: f64 = powers.iter().sum();
                let p: Vec<f64> = powers
                    .iter()
                    .map(|e| if sum == 0.0 { 0.0 } else { e / sum })
                    .collect();
                for d in 0..v[3] {
                    let y: f64 = (0..k[2]).map(|j| p[j] * at(&self.v, n, shared, j, d)).sum();
                    all[0].push(y as f32);
                }
                for (all, row) in all[1..].iter_mut().zip([products, capped, biased, p]) {
                    all.extend(row.iter().map(|&x| x as f32));
                }
            }
        }
        all
    }

    fn run(&self, of: Attention, more: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
        let operands = [&[Some(&self.q), Some(&self.k), Some(&self.v)], more].concat();
        run_all(&Op::Attention(of), &operands, 2)
    }

    /// Both results are as expected, for every kind of scores.
    #[track_caller]
    fn check(&self, of: Attention, more: &[Option<&Tensor>], bias: &Bias) {
        let expected = self.expected(bias);
        let kinds = [
            Scores::Products,
            Scores::Capped,
            Scores::Biased,
            Scores::Probabilities,
        ];
        for (k, scores) in kinds.into_iter().enumerate() {
            let all = self.run(Attention { scores, ..of }, more).expect("results");
            close(&all[0], &expected[0]);
            assert_eq!(
                *all[1].shape(),
                [2, self.q.shape()[1], self.q.shape()[2], self.k.shape()[2]]
            );
            for (a, b) in floats(&all[1]).iter().zip(&expected[k + 1]) {
                assert!(a == b || (a - b).abs() < 1e-5, "{scores:?}: {a} is not {b}");
            }
        }
    }
}

const PLAIN: Attention = Attention {
    heads: None,
    reach: Reach {
        before: None,
        after: None,
    },
    scale: None,
    softcap: 0.0,
    scores: Scores::Products,
};

const NEVER: f64 = f64::NEG_INFINITY;

fn only(seen: bool) -> f64 {
    if seen { 0.0 } else { NEVER }
}

#[test]
fn by_hand() {
    // Scores 0 and ln 3: weights of a quarter and three quarters.
    let (q, k) = (
        tensor(&[1, 1, 1, 1], &[1f32]),
        tensor(&[1, 1, 2, 1], &[0f32, 3f32.ln()]),
    );
    let v = tensor(&[1, 1, 2, 2], &[4f32, 0., 0., 8.]);
    close(&run(Op::Attention(PLAIN), &[&q, &k, &v]), &[1., 6.]);
}

#[test]
fn heads_widths_and_lengths_of_their_own() {
    Case::new([3, 3], [4, 6], [8, 5]).check(PLAIN, &[], &|_, _, _, _| 0.0);
    // More columns of values than are summed together.
    Case::new([1, 1], [2, 3], [3, 150]).check(PLAIN, &[], &|_, _, _, _| 0.0);
}

#[test]
fn heads_that_share_keys() {
    Case::new([6, 2], [3, 4], [5, 7]).check(PLAIN, &[], &|_, _, _, _| 0.0);
    Case::new([4, 1], [3, 4], [5, 7]).check(PLAIN, &[], &|_, _, _, _| 0.0);
}

#[test]
fn heads_in_the_last_axis() {
    let case = Case::new([6, 2], [3, 4], [5, 7]);
    let join = |t: &Tensor| {
        let s = t.shape();
        let perm = Some(vec![0, 2, 1, 3]);
        let list = ints(&[s[0] as i64, s[2] as i64, (s[1] * s[3]) as i64]);
        run(
            Op::Reshape { allow_zero: false },
            &[&run(Op::Transpose { perm }, &[t]), &list],
        )
    };
    let apart = case.run(PLAIN, &[]).expect("results");
    let joined = Case {
        q: join(&case.q),
        k: join(&case.k),
        v: join(&case.v),
        ..case
    };
    let heads = Some((6, 2));
    let joined = joined
        .run(Attention { heads, ..PLAIN }, &[])
        .expect("results");
    assert_eq!(joined[0], join(&apart[0]));
    assert_eq!(joined[1], apart[1]);
}

#[test]
fn scale_and_softcap() {
    let case = Case {
        scale: 0.25,
        softcap: 0.5,
        ..Case::new([2, 2], [3, 4], [5, 7])
    };
    let of = Attention {
        scale: Some(0.25),
        softcap: 0.5,
        ..PLAIN
    };
    case.check(of, &[], &|_, _, _, _| 0.0);
}

#[test]
fn masks_are_stretched_and_padded() {
    let case = Case::new([2, 2], [3, 4], [5, 7]);
    for dims in [&[4][..], &[3, 4], &[2, 1, 4], &[2, 2, 3, 4], &[2, 1, 1, 4]] {
        let mask = wave(dims, 4);
        let at = run(Op::Expand, &[&mask, &ints(&[2, 2, 3, 4])]);
        case.check(PLAIN, &[Some(&mask)], &move |n, h, i, j| {
            floats(&at)[((n * 2 + h) * 3 + i) * 4 + j].into()
        });
    }
    let truth = bools(
        &[3, 4],
        &[
            true, false, true, true, true, true, false, true, true, true, true, true,
        ],
    );
    let at = truth.clone();
    case.check(PLAIN, &[Some(&truth)], &move |_, _, i, j| {
        only(at.view().bytes()[i * 4 + j] != 0)
    });
    // Two keys of four, one key of four.
    let short = wave(&[3, 2], 4);
    let at = short.clone();
    case.check(PLAIN, &[Some(&short)], &move |_, _, i, j| {
        if j < 2 {
            floats(&at)[i * 2 + j].into()
        } else {
            NEVER
        }
    });
    let first = bools(&[1], &[true]);
    case.check(PLAIN, &[Some(&first)], &|_, _, _, j| only(j == 0));
}

#[test]
fn queries_see_what_came_before_them() {
    let causal = Attention {
        reach: Reach::CAUSAL,
        ..PLAIN
    };
    let case = Case::new([2, 2], [3, 5], [5, 7]);
    case.check(causal, &[], &|_, _, i, j| only(j <= i));
    let past = ints(&[2]);
    let only_past = [None, None, None, Some(&past)];
    case.check(causal, &only_past, &|_, _, i, j| only(j <= i + 2));
    // With a mask of either kind: what both let through.
    let mask = wave(&[3, 5], 4);
    let at = mask.clone();
    case.check(causal, &[Some(&mask)], &move |_, _, i, j| {
        only(j <= i) + f64::from(floats(&at)[i * 5 + j])
    });
    // A window to both sides.
    let window = Attention {
        reach: Reach {
            before: Some(1),
            after: Some(2),
        },
        ..PLAIN
    };
    case.check(window, &[], &|_, _, i, j| only(j + 1 >= i && j <= i + 2));
    case.check(window, &only_past, &|_, _, i, j| {
        only(j + 1 >= i + 2 && j <= i + 4)
    });
}

#[test]
fn keys_beyond_the_length_of_a_sample() {
    let case = Case::new([2, 2], [3, 5], [5, 7]);
    let lengths = ints(&[5, 2]);
    let more = [None, Some(&lengths)];
    case.check(PLAIN, &more, &|n, _, _, j| only(j < [5, 2][n]));
    // The last query stands at the last key; of two keys, the first query of three sees none.
    let causal = Attention {
        reach: Reach::CAUSAL,
        ..PLAIN
    };
    case.check(causal, &more, &|n, _, i, j| {
        only(j < [5, 2][n] && j + 3 <= i + [5, 2][n])
    });
    let all = case.run(causal, &more).expect("results");
    assert_eq!(floats(&all[0])[42..49], [0.0; 7]);
    for lengths in [ints(&[i64::MIN, -1]), ints(&[i64::MAX, 9])] {
        let none = floats(&lengths_as_floats(&lengths))[0] < 0.0;
        case.check(PLAIN, &[None, Some(&lengths)], &move |_, _, _, _| {
            only(!none)
        });
    }
}

fn lengths_as_floats(list: &Tensor) -> Tensor {
    let to = sluicegate::DType::F32;
    run(Op::Cast { to }, &[list])
}

#[test]
fn dead_keys_are_not_read() {
    let mut case = Case::new([2, 2], [3, 4], [5, 7]);
    let live = tensor(&[2, 4], &[1f32, 0., 1., 1., 0., 1., 1., 0.]);
    let seen = |n: usize, j: usize| [[true, false, true, true], [false, true, true, false]][n][j];
    let more = [None, None, Some(&live)];
    case.check(PLAIN, &more, &move |n, _, _, j| only(seen(n, j)));
    let clean = case.run(PLAIN, &more).expect("results");
    for t in [&mut case.k, &mut case.v] {
        let (tokens, width) = (t.shape()[2], t.shape()[3]);
        let mut view = t.view_mut();
        for (i, x) in view
            .as_slice::<f32>()
            .expect("floats")
            .iter_mut()
            .enumerate()
        {
            let (n, j) = (i / width / tokens / 2, i / width % tokens);
            if !seen(n, j) {
                *x = f32::NAN;
            }
        }
    }
    let poisoned = case.run(PLAIN, &more).expect("results");
    assert_eq!(poisoned[0], clean[0]);
    let one_row = bools(&[1, 4], &[false, true, false, true]);
    let case = Case::new([2, 2], [3, 4], [5, 7]);
    case.check(PLAIN, &[None, None, Some(&one_row)], &|_, _, _, j| {
        only(j % 2 == 1)
    });
}

#[test]
fn rows_without_keys_are_zero() {
    let case = Case::new([2, 2], [2, 3], [4, 3]);
    let none = bools(&[2, 3], &[false, false, false, true, true, true]);
    case.check(PLAIN, &[Some(&none)], &|_, _, i, _| only(i == 1));
    let none = tensor(&[2, 1], &[f32::NEG_INFINITY, 0.]);
    case.check(PLAIN, &[Some(&none)], &|_, _, i, j| only(i == 1 && j == 0));
    let empty = Case::new([2, 2], [2, 0], [4, 3]);
    let all = empty.run(PLAIN, &[]).expect("results");
    assert_eq!(floats(&all[0]), [0.0; 24]);
    assert_eq!(*all[1].shape(), [2, 2, 2, 0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let refusal = |case: Case, of: Attention, more: &[Option<&Tensor>], says: &str| {
        let text = case.run(of, more).expect_err("refused").to_string();
        assert!(text.contains(says), "{text}");
    };
    let case = || Case::new([2, 2], [3, 4], [5, 7]);
    let joined = |heads| Attention {
        heads: Some(heads),
        ..PLAIN
    };
    refusal(case(), joined((2, 2)), &[], "[N, tokens, heads · width]");
    let flat = || Case {
        q: iota(&[2, 3, 8]),
        k: iota(&[2, 4, 4]),
        v: iota(&[2, 4, 6]),
        ..case()
    };
    refusal(flat(), PLAIN, &[], "[N, heads, tokens, width]");
    refusal(flat(), joined((3, 1)), &[], "multiple of 3 heads");
    refusal(flat(), joined((0, 1)), &[], "multiple of 0 heads");
    refusal(flat(), joined((2, 2)), &[], "width 4 and 2");
    refusal(
        Case::new([3, 2], [3, 4], [5, 7]),
        PLAIN,
        &[],
        "share 2 of keys",
    );
    let other = |k: &[usize], v: &[usize], says| {
        let (k, v) = (iota(k), iota(v));
        refusal(Case { k, v, ..case() }, PLAIN, &[], says);
    };
    other(&[1, 2, 4, 5], &[2, 2, 4, 7], "samples 2 and 1");
    other(&[2, 2, 4, 5], &[2, 1, 4, 7], "heads 2 and 1");
    other(&[2, 2, 4, 5], &[2, 2, 3, 7], "tokens 4 and 3");
    other(&[2, 2, 4, 6], &[2, 2, 4, 7], "width 5 and 6");
    for (mask, says) in [
        (iota(&[2, 4]), "does not broadcast"),
        (iota(&[5]), "4 keys"),
        (iota(&[]), "4 keys"),
        (iota(&[1, 1, 1, 1, 4]), "does not broadcast"),
        (ints(&[1, 1, 1, 1]), "not f32 or bool"),
    ] {
        refusal(case(), PLAIN, &[Some(&mask)], says);
    }
    refusal(case(), PLAIN, &[None, Some(&ints(&[1]))], "`kv_lengths`");
    refusal(case(), PLAIN, &[None, Some(&iota(&[2]))], "not i64");
    refusal(case(), PLAIN, &[None, None, Some(&iota(&[2, 3]))], "`live`");
    refusal(
        case(),
        PLAIN,
        &[None, None, Some(&ints(&[2]))],
        "not f32 or bool",
    );
    refusal(
        case(),
        PLAIN,
        &[None, None, None, Some(&ints(&[1, 2]))],
        "`past`",
    );
}

const PAIRS: Rotary = Rotary {
    heads: None,
    dims: None,
    interleaved: false,
};

#[test]
fn pairs_are_rotated_by_the_angle_of_their_place() {
    // A quarter turn at place 1, none at place 0.
    let (cos, sin) = (tensor(&[2, 1], &[1f32, 0.]), tensor(&[2, 1], &[0f32, 1.]));
    let x = tensor(&[1, 1, 3, 2], &[1f32, 2., 3., 4., 5., 6.]);
    let places = tensor(&[1, 3], &[1i64, 0, -1]);
    let y = run(Op::RotaryEmbedding(PAIRS), &[&x, &cos, &sin, &places]);
    close(&y, &[-2., 1., 3., 4., -6., 5.]);
    let beyond = tensor(&[1, 3], &[0i64, 2, 0]);
    let text = crate::refusal(Op::RotaryEmbedding(PAIRS), &[&x, &cos, &sin, &beyond]);
    assert!(text.contains("place 2"), "{text}");
}

#[test]
fn both_ways_to_pair_and_a_part_of_the_width() {
    let (cos, sin) = (iota(&[1, 1, 2]), tensor(&[1, 1, 2], &[1f32, 2.]));
    let x = tensor(&[1, 1, 1, 5], &[1f32, 2., 3., 4., 5.]);
    let of = |interleaved| {
        let dims = Some(4);
        Op::RotaryEmbedding(Rotary {
            dims,
            interleaved,
            ..PAIRS
        })
    };
    // cos 0, 1 and sin 1, 2: pairs (1, 3) and (2, 4), or (1, 2) and (3, 4).
    close(&run(of(false), &[&x, &cos, &sin]), &[-3., -6., 1., 8., 5.]);
    close(&run(of(true), &[&x, &cos, &sin]), &[-2., 1., -5., 10., 5.]);
}

#[test]
fn rotation_in_either_layout() {
    let (x, cos, sin) = (
        wave(&[2, 3, 4, 6], 1),
        wave(&[2, 4, 3], 2),
        wave(&[2, 4, 3], 3),
    );
    let swap = |t: &Tensor| {
        run(
            Op::Transpose {
                perm: Some(vec![0, 2, 1, 3]),
            },
            &[t],
        )
    };
    let shape = |t: &Tensor, dims| run(Op::Reshape { allow_zero: false }, &[t, &ints(dims)]);
    let apart = run(Op::RotaryEmbedding(PAIRS), &[&x, &cos, &sin]);
    let joined = Op::RotaryEmbedding(Rotary {
        heads: Some(3),
        ..PAIRS
    });
    let joined = run(joined, &[&shape(&swap(&x), &[2, 4, 18]), &cos, &sin]);
    assert_eq!(swap(&shape(&joined, &[2, 4, 3, 6])), apart);
}

#[test]
fn rotations_that_do_not_fit_are_refused() {
    let (x, t) = (iota(&[1, 2, 3, 4]), iota(&[1, 3, 2]));
    let refusal = |of: Rotary, inputs: &[&Tensor], says: &str| {
        let text = crate::refusal(Op::RotaryEmbedding(of), inputs);
        assert!(text.contains(says), "{text}");
    };
    let dims = |n| Rotary {
        dims: Some(n),
        ..PAIRS
    };
    refusal(dims(3), &[&x, &t, &t], "3 elements");
    refusal(dims(6), &[&x, &t, &t], "6 elements");
    refusal(dims(2), &[&x, &t, &t], "`cos`");
    refusal(PAIRS, &[&x, &t, &iota(&[1, 3, 1])], "do not agree");
    refusal(PAIRS, &[&x, &iota(&[3, 2]), &iota(&[3, 2])], "needs places");
    refusal(
        PAIRS,
        &[&x, &t, &t, &tensor(&[1, 3], &[0i64; 3])],
        "a table of 2 columns",
    );
    let heads = |n| Rotary {
        heads: Some(n),
        ..PAIRS
    };
    refusal(heads(2), &[&x, &t, &t], "[N, tokens, width]");
    refusal(heads(0), &[&iota(&[1, 3, 4]), &t, &t], "0 heads");
}
