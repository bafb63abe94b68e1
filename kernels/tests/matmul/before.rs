//! Products that ask for the weights of the next one.

use sluicegate_kernels::Isa;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};

use super::common::{Mask, Threads, bits, floats};

/// So many of a hundred channels, at random.
fn mask(len: usize, percent: u8, seed: u64) -> Mask {
    let lives = |x: &f32| (x.abs() * 100.0) as u8 <= percent;
    Mask::new(&floats(len, seed).iter().map(lives).collect::<Vec<_>>())
}

/// What is asked for is a hint: whatever comes next, and however its panels lie, the numbers are the same.
#[test]
fn what_comes_next_is_no_part_of_a_product() {
    let all = |len| Mask::new(&vec![true; len]);
    for isa in Isa::available() {
        for (m, k, n, activation, masked_rows) in [
            (197, 96, 200, Activation::None, None),
            (50, 70, 192, Activation::Gelu, None),
            (33, 40, 100, Activation::Relu, Some(33)),
            (16, 64, 256, Activation::None, None),
            (3, 64, 90, Activation::Silu, Some(3)),
        ] {
            let (a, b) = (floats(m * k, 1), floats(k * n, 2));
            let spec = MatMulSpec {
                activation,
                masked_rows,
                masked_columns: k % 2 == 0,
                ..MatMulSpec::new(k, n, &b)
            };
            let packed = MatMul::pack(isa, &spec).expect("valid");
            let others = [(1, 1), (n, 300), (600, 200)].map(|(k, n)| {
                let b = floats(k * n, 3);
                MatMul::pack(isa, &MatMulSpec::new(k, n, &b)).expect("valid")
            });
            for masks in [
                [all(k), all(n)],
                [mask(k, 50, 4), all(n)],
                [all(k), mask(n, 50, 5)],
                [mask(k, 30, 6), mask(n, 70, 7)],
            ] {
                let [live_in, live_out] = masks.each_ref().map(Mask::view);
                let run = |then: &[f32], threads: usize| {
                    let mut c = vec![0.5; m * n];
                    let mut scratch = vec![f32::NAN; packed.scratch_len(m, threads)];
                    let (a, to) = (Rows::new(&a, m, k), RowsMut::new(&mut c, m, n));
                    let pool = Threads(threads);
                    let (live_in, live_out) = (Some(live_in), Some(live_out));
                    packed
                        .run_before(then, &pool, a, live_in, live_out, to, &mut scratch)
                        .expect("valid");
                    bits(&c)
                };
                let expected = run(&[], 1);
                for other in &others {
                    for threads in [1, 2] {
                        let y = run(other.first_weights(), threads);
                        assert!(y == expected, "{isa}: {m} x {k} x {n}, {threads} threads");
                    }
                }
            }
        }
    }
}
