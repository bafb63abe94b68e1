//! The laws of matmul, on every instruction set of this machine.

mod before;
#[path = "../common/mod.rs"]
mod common;
mod refused;

use common::{Mask, Threads, activation, bits, floats, mask};
use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::matmul::{
    MatMul, MatMulSpec, Rows, RowsMut, Strided, matmul, matmul_scratch_len,
};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::reference::matmul as reference;
use sluicegate_kernels::{Channels, Isa};

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    transposed: bool,
    bias: bool,
    activation: Activation,
    live_in: Mask,
    live_out: Mask,
    masked_rows: Option<usize>,
    masked_columns: bool,
    seed: u64,
}

impl Case {
    fn a(&self) -> Vec<f32> {
        floats(self.m * self.k, self.seed)
    }
    fn b(&self) -> Vec<f32> {
        floats(self.k * self.n, self.seed + 1)
    }
    fn bias(&self) -> Option<Vec<f32>> {
        self.bias.then(|| floats(self.n, self.seed + 2))
    }
    fn b_at(&self, b: &[f32], t: usize, j: usize) -> f32 {
        if self.transposed {
            b[j * self.k + t]
        } else {
            b[t * self.n + j]
        }
    }
    fn pack(&self, isa: Isa, b: &[f32], fold: bool) -> MatMul {
        let bias = self.bias();
        let spec = MatMulSpec {
            k: self.k,
            n: self.n,
            b,
            transposed: self.transposed,
            bias: bias.as_deref(),
            activation: self.activation,
            live_in: fold.then(|| self.live_in.view()),
            live_out: fold.then(|| self.live_out.view()),
            masked_rows: self.masked_rows,
            masked_columns: self.masked_columns,
        };
        MatMul::pack(isa, &spec).unwrap()
    }
}

fn case(m: impl Strategy<Value = usize>, k: usize, n: usize) -> impl Strategy<Value = Case> {
    (m, 0..k, 0..n).prop_flat_map(|(m, k, n)| {
        (
            any::<[bool; 3]>(),
            activation(),
            mask(k),
            mask(n),
            0..1000u64,
        )
            .prop_map(move |(flags, activation, live_in, live_out, seed)| Case {
                m,
                k,
                n,
                transposed: flags[0],
                bias: flags[1],
                activation,
                live_in,
                live_out,
                masked_rows: Some(m),
                masked_columns: flags[2],
                seed,
            })
    })
}

fn small() -> impl Strategy<Value = Case> {
    case(0..40usize, 70, 150)
}

/// Several depth blocks.
fn deep() -> impl Strategy<Value = Case> {
    case(prop_oneof![0..8usize, 12..50usize], 2500, 150)
}

/// Several row blocks and column panels.
fn large() -> impl Strategy<Value = Case> {
    case(prop_oneof![0..6usize, 12..27usize, 180..230usize], 700, 300)
}

const CANARY: f32 = 12345.0;

/// Runs with scratch full of NaN and returns C, which held canaries.
fn run(
    mm: &MatMul,
    pool: &dyn Pool,
    a: &[f32],
    m: usize,
    live_in: Option<Channels<'_>>,
    live_out: Option<Channels<'_>>,
) -> Vec<f32> {
    let mut scratch = vec![f32::NAN; mm.scratch_len(m, pool.threads())];
    let mut c = vec![CANARY; m * mm.n() + 7];
    let (a, to) = (Rows::new(a, m, mm.k()), RowsMut::new(&mut c, m, mm.n()));
    mm.run(pool, a, live_in, live_out, to, &mut scratch)
        .unwrap();
    assert!(c[m * mm.n()..].iter().all(|&x| x == CANARY), "canary");
    c.truncate(m * mm.n());
    c
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let &Case { m, k, n, .. } = case;
    let (a, b, bias) = (case.a(), case.b(), case.bias());
    let (live_in, live_out) = (case.live_in.view(), case.live_out.view());
    let expected = reference::matmul(
        (m, k, n),
        |i, t| a[i * k + t],
        |t, j| case.b_at(&b, t, j),
        bias.as_deref(),
        Some(live_in),
    );
    let mut zeroed = a.clone();
    let mut poisoned = a.clone();
    for i in 0..m * k {
        if !live_in.contains(i % k) {
            zeroed[i] = 0.0;
            poisoned[i] = f32::NAN;
        }
    }
    for isa in Isa::available() {
        let mm = case.pack(isa, &b, false);
        let skipped = run(&mm, &Serial, &poisoned, m, Some(live_in), None);
        for (i, (x, sum)) in skipped.iter().zip(&expected).enumerate() {
            let sum = sum.activated(case.activation);
            prop_assert!(sum.admits(*x), "{isa} [{}, {}]: {x} {sum:?}", i / n, i % n);
        }
        let dense = run(&mm, &Serial, &zeroed, m, None, None);
        prop_assert_eq!(bits(&skipped), bits(&dense), "{} skipping is zeroing", isa);

        let masked = run(&mm, &Serial, &poisoned, m, Some(live_in), Some(live_out));
        let mut partly = skipped.clone();
        for (i, x) in partly.iter_mut().enumerate() {
            if !live_out.contains(i % n) {
                *x = CANARY;
            }
        }
        prop_assert_eq!(bits(&masked), bits(&partly), "{} output mask", isa);
        let folded = case.pack(isa, &b, true);
        let x = run(&folded, &Serial, &poisoned, m, None, None);
        prop_assert_eq!(bits(&x), bits(&partly), "{} fold", isa);
        let x = run(
            &folded,
            &Serial,
            &poisoned,
            m,
            Some(live_in),
            Some(live_out),
        );
        prop_assert_eq!(bits(&x), bits(&partly), "{} fold and mask", isa);

        let all = (Mask::new(&vec![true; k]), Mask::new(&vec![true; n]));
        let full = run(
            &mm,
            &Serial,
            &zeroed,
            m,
            Some(all.0.view()),
            Some(all.1.view()),
        );
        prop_assert_eq!(bits(&full), bits(&dense), "{} full mask", isa);
        for threads in [2, 4] {
            let pool = Threads(threads);
            let x = run(&mm, &pool, &poisoned, m, Some(live_in), None);
            prop_assert_eq!(bits(&x), bits(&skipped), "{} threads", isa);
            let x = run(&mm, &pool, &poisoned, m, Some(live_in), Some(live_out));
            prop_assert_eq!(bits(&x), bits(&partly), "{} threads, output mask", isa);
            let x = run(&folded, &pool, &poisoned, m, None, None);
            prop_assert_eq!(bits(&x), bits(&partly), "{} threads, fold", isa);
        }
        // One row alone is what it is among many.
        if m > 0 {
            let row = run(
                &mm,
                &Serial,
                &poisoned[(m - 1) * k..],
                1,
                Some(live_in),
                None,
            );
            prop_assert_eq!(bits(&row), bits(&skipped[(m - 1) * n..]), "{} batch", isa);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn laws_on_small_shapes(case in small()) {
        check(&case)?;
    }

    #[test]
    fn gathered_rows_equal_contiguous_rows(case in small(), reverse in any::<bool>()) {
        let Case { m, k, n, .. } = case;
        let (a, b) = (case.a(), case.b());
        let order = |i: usize| if reverse { m - 1 - i } else { i };
        let index: Vec<u32> = (0..m).map(|i| 2 * order(i) as u32 + 1).collect();
        let (lda, ldc) = (k + 3, n + 5);
        let mut spread = vec![f32::NAN; 2 * m * lda];
        for i in 0..m {
            spread[index[i] as usize * lda..][..k].copy_from_slice(&a[i * k..][..k]);
        }
        for isa in Isa::available() {
            let mm = case.pack(isa, &b, false);
            let dense = run(&mm, &Serial, &a, m, None, Some(case.live_out.view()));
            let mut c = vec![CANARY; 2 * m * ldc];
            let mut scratch = vec![f32::NAN; mm.scratch_len(m, 1)];
            let from = Rows { data: &spread, m, ld: lda, index: Some(&index) };
            let to = RowsMut { data: &mut c, m, ld: ldc, index: Some(&index) };
            mm.run(&Serial, from, None, Some(case.live_out.view()), to, &mut scratch).unwrap();
            let mut expected = vec![CANARY; 2 * m * ldc];
            for i in 0..m {
                expected[index[i] as usize * ldc..][..n].copy_from_slice(&dense[i * n..][..n]);
            }
            prop_assert_eq!(bits(&c), bits(&expected), "{}", isa);
        }
    }

    #[test]
    fn run_time_operands_of_any_stride(case in small(), a_transposed in any::<bool>()) {
        let Case { m, k, n, transposed, .. } = case;
        let (a, b) = (case.a(), case.b());
        let a_strides = if a_transposed { (1, m) } else { (k, 1) };
        let b_strides = if transposed { (1, k) } else { (n, 1) };
        let expected = reference::matmul(
            (m, k, n),
            |i, t| a[i * a_strides.0 + t * a_strides.1],
            |t, j| case.b_at(&b, t, j),
            None,
            None,
        );
        for isa in Isa::available() {
            let mut c = vec![CANARY; m * n + 3];
            let mut scratch = vec![f32::NAN; matmul_scratch_len(isa, m, k, n, 1)];
            let a = Strided { data: &a, strides: a_strides };
            let b = Strided { data: &b, strides: b_strides };
            matmul(isa, &Serial, m, k, n, a, b, &mut c, &mut scratch).unwrap();
            for (x, sum) in c.iter().zip(&expected) {
                prop_assert!(sum.admits(*x), "{isa}: {x} {sum:?}");
            }
            prop_assert!(c[m * n..].iter().all(|&x| x == CANARY));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn laws_on_large_shapes(case in large()) {
        check(&case)?;
    }

    #[test]
    fn laws_on_deep_shapes(case in deep()) {
        check(&case)?;
    }
}

#[test]
fn without_terms_the_bias_remains() {
    for isa in Isa::available() {
        for (m, n) in [1, 5, 6, 14, 16, 24, 25, 40]
            .into_iter()
            .flat_map(|m| [1, 40, 160].map(|n| (m, n)))
        {
            let bias: Vec<f32> = (0..n).map(|j| j as f32).collect();
            let spec = MatMulSpec {
                bias: Some(&bias),
                ..MatMulSpec::new(0, n, &[])
            };
            let mm = MatMul::pack(isa, &spec).unwrap();
            let c = run(&mm, &Serial, &[], m, None, None);
            assert!(c.chunks(n).all(|row| row == bias), "{isa} {m} x 0 x {n}");
        }
    }
}

#[test]
fn every_tile_edge() {
    for isa in Isa::available() {
        let wide = 8 * isa.lanes();
        let ns = (1..wide + 2).step_by(3).chain([wide - 1, wide, wide + 1]);
        for n in ns {
            for m in 1..=25 {
                let live_in = Mask::new(&[true; 5]);
                let live_out = Mask::new(&vec![true; n]);
                let case = Case {
                    m,
                    k: 5,
                    n,
                    transposed: false,
                    bias: true,
                    activation: Activation::Relu,
                    live_in,
                    live_out,
                    masked_rows: None,
                    masked_columns: true,
                    seed: 3,
                };
                let (a, b, bias) = (case.a(), case.b(), case.bias());
                let mm = case.pack(isa, &b, false);
                let c = run(&mm, &Serial, &a, m, None, None);
                let (a, b) = (
                    |i: usize, t: usize| a[i * 5 + t],
                    |t: usize, j: usize| b[t * n + j],
                );
                let expected = reference::matmul((m, 5, n), a, b, bias.as_deref(), None);
                for (x, sum) in c.iter().zip(expected) {
                    assert!(sum.activated(Activation::Relu).admits(*x), "{isa} {m} {n}");
                }
            }
        }
    }
}

/// Weights that L2 holds, in several depth blocks, and ones that it does not.
#[test]
fn a_tile_of_rows_by_many_terms() {
    for (m, every) in [(14, 1), (17, 2), (24, 3)] {
        let (k, n) = (1700, 130);
        let case = Case {
            m,
            k,
            n,
            transposed: false,
            bias: true,
            activation: Activation::None,
            live_in: Mask::new(&(0..k).map(|t| t % every == 0).collect::<Vec<_>>()),
            live_out: Mask::new(&(0..n).map(|j| j % 7 != 3).collect::<Vec<_>>()),
            masked_rows: None,
            masked_columns: true,
            seed: 11,
        };
        check(&case).expect("the laws hold");
    }
}

/// The columns of a thread, some of which a static mask dropped, begin and end within packed panels.
#[test]
fn threads_share_columns_that_are_left() {
    for m in [13, 60, 90, 190] {
        let (k, n) = (100, 330);
        let case = Case {
            m,
            k,
            n,
            transposed: true,
            bias: true,
            activation: Activation::None,
            live_in: Mask::new(&vec![true; k]),
            live_out: Mask::new(&(0..n).map(|j| j % 5 != 1).collect::<Vec<_>>()),
            masked_rows: None,
            masked_columns: true,
            seed: 7,
        };
        check(&case).expect("the laws hold");
    }
}

/// Panels narrower than a vector, read by loads that reach beyond a row.
#[test]
fn heads_of_few_columns() {
    for n in 1..=17 {
        for m in [1, 2, 3, 4, 13, 33] {
            for k in [0, 1, 9, 1100] {
                let case = Case {
                    m,
                    k,
                    n,
                    transposed: n % 2 == 0,
                    bias: m % 2 == 1,
                    activation: Activation::Relu,
                    live_in: Mask::new(&(0..k).map(|t| t % 3 != 1).collect::<Vec<_>>()),
                    live_out: Mask::new(&(0..n).map(|j| j % 3 != 1).collect::<Vec<_>>()),
                    masked_rows: None,
                    masked_columns: true,
                    seed: 5,
                };
                check(&case).unwrap();
            }
        }
    }
}

/// Without terms, panels have no elements, and the bias is all there is.
#[test]
fn no_terms_under_output_masks() {
    for m in [1, 6, 14] {
        for n in [3, 46, 100] {
            let case = Case {
                m,
                k: 0,
                n,
                transposed: false,
                bias: true,
                activation: Activation::None,
                live_in: Mask::new(&[]),
                live_out: Mask::new(&(0..n).map(|j| j / 8 % 2 == 1 && j > 16).collect::<Vec<_>>()),
                masked_rows: Some(m),
                masked_columns: true,
                seed: 1,
            };
            check(&case).unwrap();
        }
    }
}

/// Weights from memory are laid out for the rows that calls with masks have, and other calls must work, too.
#[test]
fn laws_on_weights_from_memory() {
    let (k, n) = (2100, 2010);
    for (m, masked_rows) in [(1, 1), (9, 9), (7, 1), (3, 9), (2, 2), (16, 16)] {
        let case = Case {
            m,
            k,
            n,
            transposed: false,
            bias: true,
            activation: if m == 1 {
                Activation::Gelu
            } else {
                Activation::Relu
            },
            live_in: Mask::new(&(0..k).map(|t| t * t % 7 < 3).collect::<Vec<_>>()),
            live_out: Mask::new(&(0..n).map(|j| j * j % 11 < 4).collect::<Vec<_>>()),
            masked_rows: Some(masked_rows),
            masked_columns: m % 2 == 1,
            seed: 9,
        };
        check(&case).unwrap();
    }
}

#[test]
fn relu_lets_nan_through() {
    for isa in Isa::available() {
        let spec = MatMulSpec {
            activation: Activation::Relu,
            ..MatMulSpec::new(1, 3, &[1.0, f32::NAN, -1.0])
        };
        let mm = MatMul::pack(isa, &spec).unwrap();
        let c = run(&mm, &Serial, &[2.0], 1, None, None);
        assert!(c[0] == 2.0 && c[1].is_nan() && c[2] == 0.0, "{isa}: {c:?}");
    }
}
