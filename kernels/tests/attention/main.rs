//! The laws of attention, on every instruction set of this machine.

mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod refused;

use common::{Mask, Threads, bits, floats, mask};
use proptest::prelude::*;
use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::attention::{
    Attention, AttentionSpec, Bias, Heads, HeadsMut, Layout, Live, Operands, Scores,
};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::reference::attention as reference;

/// What an untouched element holds.
const CANARY: f32 = -1.5e37;
const GUARD: usize = 19;

#[derive(Debug, Clone, Copy, PartialEq)]
enum BiasKind {
    None,
    Add,
    Keep,
    /// One row for all queries and heads.
    Row,
}

#[derive(Debug, Clone)]
struct Case {
    spec: AttentionSpec,
    /// Tokens before heads in memory, as projections leave them.
    by_token: bool,
    pad: usize,
    bias: BiasKind,
    valid: usize,
    offset: isize,
    outputs: Mask,
    queries: Mask,
    keys: Mask,
    seed: u64,
}

/// A tensor of heads with its own storage.
struct Tensor {
    data: Vec<f32>,
    head: usize,
    token: usize,
}

impl Tensor {
    fn new(case: &Case, [heads, tokens, width]: [usize; 3], seed: u64) -> Self {
        let (head, token) = if case.by_token {
            (width, heads * width + case.pad)
        } else {
            ((tokens * width) + case.pad, width)
        };
        let len = (heads.max(1) - 1) * head + (tokens.max(1) - 1) * token + width;
        let data = if tokens == 0 {
            Vec::new()
        } else {
            floats(len, case.seed + seed)
        };
        Self { data, head, token }
    }
    fn view(&self) -> Heads<'_> {
        Heads {
            data: &self.data,
            head: self.head,
            token: self.token,
        }
    }
    fn poison(
        &mut self,
        [heads, tokens, width]: [usize; 3],
        dead: impl Fn(usize, usize, usize) -> bool,
    ) {
        for h in 0..heads {
            for t in 0..tokens {
                for c in 0..width {
                    if dead(h, t, c) {
                        self.data[h * self.head + t * self.token + c] = f32::NAN;
                    }
                }
            }
        }
    }
}

/// Operands with storage.
struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    add: Vec<f32>,
    keep: Vec<u8>,
}

impl Inputs {
    fn new(case: &Case) -> Self {
        let s = &case.spec;
        let scores = s.q_heads * s.queries * s.keys;
        let add = floats(scores, case.seed + 3)
            .iter()
            .map(|&x| if x > 0.8 { f32::NEG_INFINITY } else { x * 3.0 })
            .collect();
        let keep = floats(scores, case.seed + 4)
            .iter()
            .map(|&x| u8::from(x > -0.3))
            .collect();
        Self {
            q: Tensor::new(case, [s.q_heads, s.queries, s.width], 0),
            k: Tensor::new(case, [s.kv_heads, s.keys, s.width], 1),
            v: Tensor::new(case, [s.kv_heads, s.keys, s.v_width], 2),
            add,
            keep,
        }
    }
    fn poisoned(mut self, case: &Case) -> Self {
        let s = &case.spec;
        self.q.poison([s.q_heads, s.queries, s.width], |h, t, _| {
            !case.head_lives(h) || !case.queries.live(t)
        });
        let gone = |t: usize| !case.keys.live(t) || t >= case.valid;
        self.k
            .poison([s.kv_heads, s.keys, s.width], |_, t, _| gone(t));
        self.v.poison([s.kv_heads, s.keys, s.v_width], |h, t, c| {
            let mut group = h * (s.q_heads / s.kv_heads)..(h + 1) * (s.q_heads / s.kv_heads);
            gone(t) || !group.any(|h| case.outputs.live(h * s.v_width + c))
        });
        self
    }
    fn operands(&self, case: &Case) -> Operands<'_> {
        let s = &case.spec;
        let full = |scores| Bias {
            scores,
            head: s.queries * s.keys,
            query: s.keys,
        };
        let bias = match case.bias {
            BiasKind::None => None,
            BiasKind::Add => Some(full(Scores::Add(&self.add))),
            BiasKind::Keep => Some(full(Scores::Keep(&self.keep))),
            BiasKind::Row => Some(Bias {
                scores: Scores::Add(&self.add[..self.add.len().min(s.keys)]),
                head: 0,
                query: 0,
            }),
        };
        Operands {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            bias,
            valid: case.valid,
            offset: case.offset,
        }
    }
}

impl Case {
    fn head_lives(&self, h: usize) -> bool {
        let width = self.spec.v_width;
        self.outputs.view().any_in(h * width..(h + 1) * width)
    }
    fn live(&self) -> Live<'_> {
        Live {
            outputs: Some(self.outputs.view()),
            queries: Some(self.queries.view()),
            keys: Some(self.keys.view()),
        }
    }
    fn run(
        &self,
        isa: Isa,
        pool: &dyn Pool,
        x: &Inputs,
        live: Live<'_>,
        layout: Layout,
    ) -> Vec<f32> {
        let s = &self.spec;
        let at = Attention::new(isa, *s).unwrap();
        let n = match layout {
            Layout::Heads => s.q_heads * s.queries * s.v_width,
            Layout::Tokens(ld) => s.queries * ld,
        };
        let mut y = vec![CANARY; n + 2 * GUARD];
        let mut scratch = vec![f32::NAN; at.scratch_len(pool.threads())];
        let to = HeadsMut {
            data: &mut y[GUARD..GUARD + n],
            layout,
        };
        at.run(pool, x.operands(self), live, to, &mut scratch)
            .unwrap();
        let touched = |y: &[f32]| y.iter().any(|&y| y != CANARY);
        assert!(
            !touched(&y[..GUARD]) && !touched(&y[GUARD + n..]),
            "written around the output"
        );
        y[GUARD..GUARD + n].to_vec()
    }
    /// Element `[h, i, c]` of a result.
    fn at(&self, y: &[f32], layout: Layout, [h, i, c]: [usize; 3]) -> f32 {
        let s = &self.spec;
        match layout {
            Layout::Heads => y[(h * s.queries + i) * s.v_width + c],
            Layout::Tokens(ld) => y[i * ld + h * s.v_width + c],
        }
    }
    fn layouts(&self) -> [Layout; 2] {
        [
            Layout::Heads,
            Layout::Tokens(self.spec.q_heads * self.spec.v_width + self.pad),
        ]
    }
    fn check(&self, y: &[f32], layout: Layout, want: &[Option<reference::Element>]) {
        let s = &self.spec;
        let mut touched = 0;
        for h in 0..s.q_heads {
            for i in 0..s.queries {
                for c in 0..s.v_width {
                    let y = self.at(y, layout, [h, i, c]);
                    match want[(h * s.queries + i) * s.v_width + c] {
                        None => assert_eq!(y, CANARY, "dead element {h} {i} {c} was written"),
                        Some(want) => {
                            touched += 1;
                            let error = (f64::from(y) - want.value).abs();
                            assert!(
                                error <= want.tolerance,
                                "[{h}, {i}, {c}] is {y}, expected {want:?}"
                            );
                        }
                    }
                }
            }
        }
        let written = y.iter().filter(|&&y| y != CANARY).count();
        assert_eq!(written, touched, "elements between rows were written");
    }
}

/// The live elements of live heads.
fn within(heads: &Mask, elements: &Mask, width: usize) -> Mask {
    let live = |c: usize| heads.live(c / width) && elements.live(c);
    let all: Vec<bool> = (0..elements.view().len()).map(live).collect();
    Mask::new(&all)
}

fn case(tokens: usize, keys: usize, width: usize) -> impl Strategy<Value = Case> {
    let extents = (1..4usize, 1..6usize, 0..tokens, 0..keys, 1..width, 1..width);
    extents.prop_flat_map(|(kv_heads, group, queries, keys, width, v_width)| {
        let masks = (
            mask(kv_heads * group),
            mask(queries),
            mask(keys),
            mask(kv_heads * group * v_width),
        );
        let window = (
            prop::option::of(0..40usize),
            prop::option::of(0..20usize),
            -10..30isize,
        );
        let bias = prop_oneof![
            Just(BiasKind::None),
            Just(BiasKind::Add),
            Just(BiasKind::Keep),
            Just(BiasKind::Row)
        ];
        let softcap = prop_oneof![3 => Just(0.0f32), 1 => 0.5..5.0f32];
        let flags = (
            any::<bool>(),
            0..3usize,
            bias,
            softcap,
            prop_oneof![Just(keys), 0..=keys],
            0..1000u64,
        );
        (masks, window, flags).prop_map(
            move |(
                (heads, queries_live, keys_live, elements),
                (before, after, offset),
                (by_token, pad, bias, softcap, valid, seed),
            )| Case {
                spec: AttentionSpec {
                    q_heads: kv_heads * group,
                    kv_heads,
                    queries,
                    keys,
                    width,
                    v_width,
                    scale: 1.7 / (width as f32).sqrt(),
                    softcap,
                    before,
                    after,
                },
                by_token,
                pad,
                bias,
                valid,
                offset,
                outputs: within(&heads, &elements, v_width),
                queries: queries_live,
                keys: keys_live,
                seed,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn equals_the_reference(case in case(70, 90, 40)) {
        let x = Inputs::new(&case);
        let want = reference::attention(&case.spec, &x.operands(&case), &Live::default());
        for isa in Isa::available() {
            for layout in case.layouts() {
                case.check(&case.run(isa, &Serial, &x, Live::default(), layout), layout, &want);
            }
        }
    }

    #[test]
    fn what_is_dead_is_neither_read_nor_written(case in case(70, 90, 40)) {
        let want = reference::attention(&case.spec, &Inputs::new(&case).operands(&case), &case.live());
        let x = Inputs::new(&case).poisoned(&case);
        for isa in Isa::available() {
            for layout in case.layouts() {
                case.check(&case.run(isa, &Serial, &x, case.live(), layout), layout, &want);
            }
        }
    }

    #[test]
    fn threads_do_not_matter(case in case(200, 90, 70)) {
        let x = Inputs::new(&case);
        let [layout, _] = case.layouts();
        for isa in Isa::available() {
            let one = case.run(isa, &Serial, &x, case.live(), layout);
            for threads in [2, 4] {
                let more = case.run(isa, &Threads(threads), &x, case.live(), layout);
                prop_assert_eq!(bits(&one), bits(&more), "{} threads on {}", threads, isa);
            }
        }
    }

    #[test]
    fn full_masks_are_no_masks(case in case(70, 90, 40)) {
        let s = &case.spec;
        let full = |n: usize| Mask::new(&vec![true; n]);
        let (outputs, queries, keys) = (full(s.q_heads * s.v_width), full(s.queries), full(s.keys));
        let live = Live {
            outputs: Some(outputs.view()),
            queries: Some(queries.view()),
            keys: Some(keys.view()),
        };
        let x = Inputs::new(&case);
        for isa in Isa::available() {
            for layout in case.layouts() {
                let (some, none) = (case.run(isa, &Serial, &x, live, layout), case.run(isa, &Serial, &x, Live::default(), layout));
                prop_assert_eq!(bits(&some), bits(&none));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn many_keys_and_wide_heads(case in case(40, 700, 257)) {
        let x = Inputs::new(&case).poisoned(&case);
        let want = reference::attention(&case.spec, &Inputs::new(&case).operands(&case), &case.live());
        for isa in Isa::available() {
            let [layout, _] = case.layouts();
            case.check(&case.run(isa, &Serial, &x, case.live(), layout), layout, &want);
        }
    }
}

/// Self-attention of two heads over eight elements, all live.
fn plain(queries: usize, keys: usize) -> Case {
    let full = |n: usize| Mask::new(&vec![true; n]);
    Case {
        spec: AttentionSpec {
            q_heads: 2,
            kv_heads: 2,
            queries,
            keys,
            width: 8,
            v_width: 8,
            scale: 0.4,
            softcap: 0.0,
            before: None,
            after: None,
        },
        by_token: false,
        pad: 0,
        bias: BiasKind::None,
        valid: keys,
        offset: 0,
        outputs: full(16),
        queries: full(queries),
        keys: full(keys),
        seed: 5,
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros() {
    let case = Case {
        valid: 0,
        ..plain(37, 20)
    };
    let x = Inputs::new(&case);
    for isa in Isa::available() {
        let y = case.run(isa, &Serial, &x, Live::default(), Layout::Heads);
        assert!(y.iter().all(|&y| y == 0.0), "{isa}: no valid key");
    }
    // Query 0 is two keys before the first one that it may see.
    let mut case = plain(37, 20);
    case.spec.after = Some(0);
    case.offset = -2;
    let x = Inputs::new(&case);
    for isa in Isa::available() {
        let y = case.run(isa, &Serial, &x, Live::default(), Layout::Heads);
        assert!(
            y[..16].iter().all(|&y| y == 0.0),
            "{isa}: queries before the first key"
        );
        let y_of = |i: usize| &y[i * 8..][..8];
        assert_eq!(y_of(2), &x.v.data[..8], "{isa}: the first key alone");
    }
}

#[test]
fn one_key_is_its_value_and_scores_may_be_huge() {
    let mut case = plain(33, 1);
    case.spec.scale = 1e30;
    let x = Inputs::new(&case);
    for isa in Isa::available() {
        let y = case.run(isa, &Serial, &x, Live::default(), Layout::Heads);
        for (h, y) in y.chunks(33 * 8).enumerate() {
            assert!(y.chunks(8).all(|y| y == &x.v.data[h * 8..][..8]), "{isa}");
        }
    }
}

#[test]
fn nan_in_a_live_key_shows() {
    let case = plain(40, 33);
    let mut x = Inputs::new(&case);
    x.k.data[3] = f32::NAN;
    for isa in Isa::available() {
        let y = case.run(isa, &Serial, &x, Live::default(), Layout::Heads);
        assert!(y[..40 * 8].iter().all(|y| y.is_nan()), "{isa}");
        assert!(y[40 * 8..].iter().all(|y| y.is_finite()), "{isa}");
    }
}

#[test]
fn keys_hidden_by_the_least_float_count_when_there_is_no_other() {
    let mut case = plain(40, 33);
    case.bias = BiasKind::Add;
    let mut x = Inputs::new(&case);
    let keys = case.spec.keys;
    for row in x.add.chunks_mut(2 * keys) {
        row.fill(f32::MIN);
        let hidden = row.len() - keys;
        row[hidden..][..keys / 2].fill(0.0);
    }
    let want = reference::attention(&case.spec, &x.operands(&case), &Live::default());
    for isa in Isa::available() {
        let y = case.run(isa, &Serial, &x, Live::default(), Layout::Heads);
        for (y, want) in y.iter().zip(want.iter().flatten()) {
            let error = (f64::from(*y) - want.value).abs();
            assert!(error <= 1e-5, "{isa}: {y}, expected {}", want.value);
        }
        assert!(
            y[..8].iter().any(|&y| y != 0.0),
            "{isa}: a mean of all values"
        );
    }
}
