//! Threads change no bit: layers large enough to be cut, on 1, 2 and 4 threads, with masks and without, on every instruction set.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::conv::Case;
use common::{Mask, Threads, bits, floats};
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::depthwise::Depthwise;
use sluicegate_kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};
use sluicegate_kernels::ops::{Algorithm, ConvShape};
use sluicegate_kernels::pool::Pool;
use sluicegate_kernels::{Channels, Isa};

/// Threads that remember the most jobs that they were given at once.
struct Counted {
    threads: Threads,
    most: AtomicUsize,
}

impl Pool for Counted {
    // Small layers are cut as well.
    fn least_macs(&self) -> usize {
        0
    }
    fn threads(&self) -> usize {
        self.threads.threads()
    }
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        self.most.fetch_max(jobs, Ordering::Relaxed);
        self.threads.run(jobs, job);
    }
}

type Masks<'a> = (Option<Channels<'a>>, Option<Channels<'a>>);

/// Compares `run` on 2 and on 4 threads with 1, with masks of about a third and without.
fn check(
    what: &str,
    (inputs, outputs): (usize, usize),
    outputs_len: usize,
    run: impl Fn(&dyn Pool, Masks<'_>, &mut [f32]),
) {
    let third = |channels: usize| {
        let live: Vec<bool> = (0..channels).map(|c| c * 7 % 3 == 0).collect();
        Mask::new(&live)
    };
    let (live_in, live_out) = (third(inputs), third(outputs));
    let (live_in, live_out) = (Some(live_in.view()), Some(live_out.view()));
    for masks in [
        (None, None),
        (live_in, None),
        (None, live_out),
        (live_in, live_out),
    ] {
        let on = |threads: usize| {
            let pool = Counted {
                threads: Threads(threads),
                most: AtomicUsize::new(0),
            };
            let mut y = vec![0.5; outputs_len];
            run(&pool, masks, &mut y);
            let most = pool.most.into_inner();
            // What masks leave may be too little to be cut.
            let masked = masks.0.is_some() || masks.1.is_some();
            assert!(
                threads == 1 || masked || most > 1,
                "{what}: not cut for {threads} threads"
            );
            bits(&y)
        };
        let one = on(1);
        for threads in [2, 4] {
            let kind = (masks.0.is_some(), masks.1.is_some());
            assert!(
                on(threads) == one,
                "{what}: {threads} threads, masks {kind:?}"
            );
        }
    }
}

#[test]
fn products() {
    let shapes = [
        (300, 200, 130),
        (49, 512, 256),
        (16, 1024, 300),
        (1, 2048, 2048),
    ];
    for isa in Isa::available() {
        for (m, k, n) in shapes {
            let (a, b, bias) = (floats(m * k, 1), floats(k * n, 2), floats(n, 3));
            let spec = MatMulSpec {
                bias: Some(&bias),
                activation: Activation::Relu,
                masked_rows: Some(m),
                masked_columns: true,
                ..MatMulSpec::new(k, n, &b)
            };
            let kernel = MatMul::pack(isa, &spec).unwrap();
            let what = format!("{isa} {m} x {k} x {n}");
            check(&what, (k, n), m * n, |pool, (live_in, live_out), y| {
                let mut scratch = vec![f32::NAN; kernel.scratch_len(m, pool.threads())];
                let (a, c) = (Rows::new(&a, m, k), RowsMut::new(y, m, n));
                kernel
                    .run(pool, a, live_in, live_out, c, &mut scratch)
                    .unwrap();
            });
        }
    }
}

const fn window(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> ConvShape {
    ConvShape {
        c_in,
        c_out,
        groups: 1,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1, 1],
        pads: [kernel / 2; 4],
    }
}

#[test]
fn convolutions() {
    use Algorithm::{Direct, Winograd2, Winograd4};
    let layers = [
        (window(40, 50, 3, 1), (30, 30), Direct),
        (window(40, 50, 3, 1), (30, 30), Winograd2),
        (window(40, 50, 3, 1), (30, 30), Winograd4),
        (window(130, 200, 3, 1), (7, 7), Direct),
        (window(130, 200, 3, 1), (7, 7), Winograd2),
        (window(64, 96, 1, 1), (28, 28), Direct),
        (window(200, 300, 1, 1), (7, 7), Direct),
        (window(24, 64, 5, 2), (41, 41), Direct),
    ];
    for isa in Isa::available() {
        for (shape, map, algorithm) in layers {
            let case = Case::dense(shape, map);
            let (kernel, x) = (case.pack(isa, algorithm, false), case.x());
            let what = format!("{isa} {algorithm:?} {shape:?} on {map:?}");
            let channels = (shape.c_in, shape.c_out);
            let len = shape.c_out * case.pixels();
            check(&what, channels, len, |pool, (live_in, live_out), y| {
                let mut scratch = vec![f32::NAN; kernel.scratch_len(pool.threads())];
                kernel
                    .run(pool, &x, live_in, live_out, y, &mut scratch)
                    .unwrap();
            });
        }
    }
}

#[test]
fn depthwise() {
    for isa in Isa::available() {
        for (kernel, stride, map) in [(3, 1, 40), (3, 2, 41), (3, 1, 14), (5, 1, 28), (7, 2, 30)] {
            let shape = ConvShape {
                groups: 90,
                ..window(90, 90, kernel, stride)
            };
            let case = Case::dense(shape, (map, map));
            let (weights, bias, x) = (case.weights(), case.bias(), case.x());
            let spec = case.spec(&weights, bias.as_deref(), Algorithm::Direct);
            let depthwise = Depthwise::pack(isa, &spec).unwrap();
            let what = format!("{isa} {kernel} x {kernel} by {stride} on {map} x {map}");
            check(
                &what,
                (90, 90),
                90 * case.pixels(),
                |pool, (live_in, live_out), y| {
                    let len = depthwise.scratch_len((map, map), pool.threads());
                    let mut scratch = vec![f32::NAN; len];
                    depthwise
                        .run(pool, &x, (map, map), live_in, live_out, y, &mut scratch)
                        .unwrap();
                },
            );
        }
    }
}
