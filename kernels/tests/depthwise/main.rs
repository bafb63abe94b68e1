//! Depthwise convolution against its reference, on every instruction set, and the laws of masks.

mod groups;
#[path = "../nn/mod.rs"]
mod nn;
mod refused;

use nn::{CANARY, Mask, Threads, assert_close, bits, data, guarded};
use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::depthwise::Depthwise;
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::{Channels, Isa, reference};

#[derive(Debug, Clone)]
struct Case {
    shape: ConvShape,
    map: (usize, usize),
    act: Activation,
    bias: bool,
    seed: u64,
}

struct Operands {
    x: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn operands(&self) -> Operands {
        let shape = &self.shape;
        Operands {
            x: data(self.seed, shape.c_in * self.map.0 * self.map.1),
            weights: data(self.seed + 1, shape.weights_len().expect("small")),
            bias: data(self.seed + 2, shape.c_out),
        }
    }

    fn spec<'a>(&self, operands: &'a Operands) -> ConvSpec<'a> {
        ConvSpec {
            shape: self.shape,
            weights: &operands.weights,
            bias: self.bias.then_some(&operands.bias),
            activation: self.act,
            live_in: None,
            live_out: None,
            masked_outputs: false,
            algorithm: Algorithm::Direct,
        }
    }
}

fn run(
    isa: Isa,
    pool: &dyn Pool,
    spec: &ConvSpec<'_>,
    x: &[f32],
    map: (usize, usize),
    live_in: Option<Channels<'_>>,
    live_out: Option<Channels<'_>>,
) -> Vec<f32> {
    let kernel = Depthwise::pack(isa, spec).expect("valid");
    let (oh, ow) = kernel.output(map).expect("valid");
    let mut scratch = vec![f32::NAN; kernel.scratch_len(map, pool.threads())];
    guarded(spec.shape.c_out * oh * ow, |y| {
        kernel
            .run(pool, x, map, live_in, live_out, y, &mut scratch)
            .expect("valid");
    })
}

fn any_case() -> impl Strategy<Value = Case> {
    let kernel = prop_oneof![
        4 => Just([3, 3]),
        2 => Just([5, 5]),
        2 => prop::array::uniform2(1usize..8),
    ];
    let steps = prop_oneof![
        3 => Just(([1, 1], [1, 1])),
        1 => Just(([2, 2], [1, 1])),
        2 => (prop::array::uniform2(1usize..4), prop::array::uniform2(1usize..4)),
    ];
    let act = prop_oneof![
        Just(Activation::None),
        Just(Activation::Relu),
        Just(Activation::Clip { lo: -0.5, hi: 0.5 }),
        Just(Activation::HardSwish),
        Just(Activation::Silu),
    ];
    let small = (
        kernel,
        steps,
        prop::array::uniform4(0usize..4),
        (1usize..26, 1usize..70),
    );
    (
        small,
        act,
        (prop_oneof![2 => 1usize..6, 1 => 6usize..40], 1usize..3),
        any::<bool>(),
        0u64..1 << 40,
    )
        .prop_map(
            |((kernel, (stride, dilation), pads, map), act, (c, m), bias, seed)| Case {
                shape: ConvShape {
                    c_in: c,
                    c_out: c * m,
                    groups: c,
                    kernel,
                    stride,
                    dilation,
                    pads,
                },
                map,
                act,
                bias,
                seed,
            },
        )
        .prop_filter("the kernel fits", |case| {
            case.shape.output(case.map).is_ok()
        })
}

/// Equals the reference within the bound of a chain: (taps + 2) eps Σ |terms|, and a little more for the activation.
fn check_values(case: &Case) {
    let operands = case.operands();
    let spec = case.spec(&operands);
    let out = case.shape.output(case.map).expect("fits");
    let want = reference::depthwise::depthwise(&spec, &operands.x, case.map, None, out);
    let absolute = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let all = Operands {
        x: absolute(&operands.x),
        weights: absolute(&operands.weights),
        bias: absolute(&operands.bias),
    };
    let all_spec = ConvSpec {
        activation: Activation::None,
        ..case.spec(&all)
    };
    let sums = reference::depthwise::depthwise(&all_spec, &all.x, case.map, None, out);
    let taps = case.shape.kernel.iter().product::<usize>() as f64;
    for isa in Isa::available() {
        let y = run(isa, &Serial, &spec, &operands.x, case.map, None, None);
        assert_close(&format!("{isa} {case:?}"), &y, &want, |i| {
            (taps + 8.0) * f64::from(f32::EPSILON) * (sums[i] + 1e-3)
        });
    }
}

fn check_masks(case: &Case, density: u32) {
    let operands = case.operands();
    let spec = case.spec(&operands);
    let ConvShape { c_in, c_out, .. } = case.shape;
    let (map, x) = (case.map, &operands.x);
    let live_in = Mask::new(case.seed + 3, c_in, density);
    let live_out = Mask::new(case.seed + 4, c_out, density);
    let (full_in, full_out) = (Mask::full(c_in), Mask::full(c_out));
    for isa in Isa::available() {
        let with = |x: &[f32], i, o| run(isa, &Serial, &spec, x, map, i, o);
        let dense = with(x, None, None);
        let full = with(x, Some(full_in.live()), Some(full_out.live()));
        assert_eq!(bits(&dense), bits(&full), "{isa}: full mask is dense");

        let zeroed = with(&live_in.kill(x, 0.0), None, None);
        let poisoned = live_in.kill(x, f32::NAN);
        let skipped = with(&poisoned, Some(live_in.live()), None);
        assert_eq!(skipped, zeroed, "{isa}: skipping is zeroing");
        let fixed = ConvSpec {
            live_in: Some(live_in.live()),
            live_out: Some(live_out.live()),
            algorithm: Algorithm::Direct,
            ..spec
        };
        let both = with(&poisoned, Some(live_in.live()), Some(live_out.live()));
        let expected = live_out.kill(&skipped, CANARY);
        assert_eq!(bits(&both), bits(&expected), "{isa}: dead outputs stay");
        let folded = run(isa, &Serial, &fixed, &poisoned, map, None, None);
        assert_eq!(bits(&folded), bits(&expected), "{isa}: static masks");

        for threads in [2, 4] {
            let y = run(isa, &Threads(threads), &spec, x, map, None, None);
            assert_eq!(bits(&y), bits(&dense), "{isa}: {threads} threads");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn equals_reference(case in any_case()) {
        check_values(&case);
    }

    #[test]
    fn masks_obey_the_laws(case in any_case(), density in 0u32..9) {
        check_masks(&case, density);
    }
}

fn square(c: usize, k: usize, stride: usize, pad: usize) -> ConvShape {
    ConvShape {
        c_in: c,
        c_out: c,
        groups: c,
        kernel: [k, k],
        stride: [stride, stride],
        dilation: [1, 1],
        pads: [pad; 4],
    }
}

#[test]
fn sizes_around_every_edge() {
    for k in [3, 5, 7] {
        for stride in [1, 2] {
            for w in [
                1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 18, 19, 31, 32, 33, 34, 37, 49,
            ] {
                for h in [1, 3, 7, 8, 10] {
                    for pad in [0, 1, 2, k, 20] {
                        let case = Case {
                            shape: square(2, k, stride, pad),
                            map: (h, w),
                            act: Activation::None,
                            bias: true,
                            seed: (w * 100 + h) as u64,
                        };
                        if case.shape.output(case.map).is_ok() {
                            check_values(&case);
                        }
                    }
                }
            }
        }
    }
}

/// Planes as one flat row: every width, with neighbours that must not be read.
#[test]
fn narrow_maps_of_the_size_of_their_output() {
    for kernel in [[3, 3], [5, 5], [1, 3], [3, 1], [2, 2], [4, 5], [1, 1]] {
        for w in 1..=40 {
            for h in [1, 2, 3, 4, 5, 6, 7, 12, 25, 512 / w] {
                let [kh, kw]: [usize; 2] = kernel;
                let dilation = [1, 1 + (w + h) % 2];
                let (down, right) = (kh - 1, (kw - 1) * dilation[1]);
                let case = Case {
                    shape: ConvShape {
                        kernel,
                        dilation,
                        pads: [down / 2, right / 2, down - down / 2, right - right / 2],
                        ..square(3, 1, 1, 0)
                    },
                    map: (h, w),
                    act: Activation::Relu,
                    bias: true,
                    seed: (w * 600 + h) as u64,
                };
                check_values(&case);
                if kernel == [3, 3] || h == 5 {
                    check_masks(&case, 5);
                }
            }
        }
    }
}

#[test]
fn wide_maps_long_kernels_and_far_taps() {
    let with = |kernel, stride, dilation, pads, map| {
        check_values(&Case {
            shape: ConvShape {
                kernel,
                stride,
                dilation,
                pads,
                ..square(1, 1, 1, 0)
            },
            map,
            act: Activation::Relu,
            bias: true,
            seed: 9,
        });
    };
    with([3, 3], [1, 1], [1, 1], [1; 4], (3, 1025));
    with([3, 3], [2, 2], [1, 1], [1; 4], (9, 2050));
    with([1, 9], [1, 1], [1, 1], [0, 4, 0, 4], (1, 101));
    with([1, 31], [1, 1], [1, 1], [0, 15, 0, 15], (2, 4500));
    with([13, 11], [1, 1], [1, 1], [6, 5, 6, 5], (20, 20));
    with([9, 1], [1, 1], [1, 1], [4, 0, 4, 0], (101, 1));
    with([9, 1], [2, 1], [1, 1], [4, 0, 3, 0], (101, 1));
    with([3, 3], [1, 1], [700, 40], [700, 40, 700, 40], (3, 50));
    with([3, 3], [1, 1], [700, 2], [700, 2, 700, 2], (3, 50));
    with([3, 3], [2, 2], [1, 1], [50, 1, 50, 1], (3, 14));
    with([3, 3], [1, 1], [1, 1], [50, 1, 50, 1], (2, 5));
    with([2, 2], [3, 9001], [1, 9000], [0; 4], (2, 9001));
    with([1, 1], [9001, 9001], [1, 1], [0; 4], (2, 2));
}

/// Blocks of eight, four and fewer vectors, at the ends of a row and inside; kernels of one and of several vectors.
#[test]
fn lines_of_every_length() {
    for k in [1, 2, 3, 9, 15, 16, 17, 31, 40] {
        for w in [9, 17, 40, 63, 64, 65, 100, 129, 200, 300, 500] {
            for (h, left, right) in [(1, k / 2, k / 2), (2, 0, 0), (3, k, 1)] {
                let case = Case {
                    shape: ConvShape {
                        kernel: [1, k],
                        pads: [0, left, 0, right],
                        ..square(2, 1, 1, 0)
                    },
                    map: (h, w),
                    act: Activation::Clip { lo: -0.5, hi: 0.5 },
                    bias: true,
                    seed: (w * 50 + k) as u64,
                };
                if case.shape.output(case.map).is_ok() {
                    check_values(&case);
                    check_masks(&case, 4);
                }
            }
        }
    }
}

/// Rows of a dilated kernel, as many classes as rows and more, and blocks with neighbours on one side and on both.
#[test]
fn dilated_kernels_and_wide_rows() {
    for (k, stride, dilation) in [
        (3, 1, [1, 2]),
        (3, 1, [2, 2]),
        (5, 1, [3, 2]),
        (3, 1, [1, 1]),
        (5, 1, [1, 1]),
        (7, 1, [1, 1]),
        (3, 2, [1, 1]),
        (5, 2, [1, 1]),
        (7, 2, [1, 1]),
    ] {
        for (h, w) in [
            (1, 5),
            (4, 20),
            (9, 40),
            (11, 65),
            (6, 112),
            (5, 150),
            (3, 300),
        ] {
            for pad in [0, 1, k / 2, k / 2 * dilation[1], 9] {
                let case = Case {
                    shape: ConvShape {
                        dilation,
                        ..square(2, k, stride, pad)
                    },
                    map: (h, w),
                    act: Activation::Relu,
                    bias: true,
                    seed: (w * 50 + h) as u64,
                };
                if case.shape.output(case.map).is_ok() {
                    check_values(&case);
                    check_masks(&case, 4);
                }
            }
        }
    }
}

/// Larger than a level-two cache: rows are fetched ahead, beyond the last one too.
#[test]
fn maps_that_are_fetched_ahead() {
    for stride in [1, 2] {
        for (c, side) in [(80, 56), (24, 120)] {
            let mut case = Case {
                shape: square(c, 3, stride, 1),
                map: (side, side),
                act: Activation::None,
                bias: false,
                seed: side as u64,
            };
            check_values(&case);
            case.shape.c_out = 2 * c;
            check_masks(&case, 4);
        }
    }
}

#[test]
fn an_empty_mask_is_the_epilogue_of_zero() {
    let case = Case {
        shape: square(5, 3, 1, 1),
        map: (6, 5),
        act: Activation::Sigmoid,
        bias: true,
        seed: 1,
    };
    let operands = case.operands();
    let empty = Mask::new(0, 5, 0);
    for isa in Isa::available() {
        let spec = case.spec(&operands);
        let nan = vec![f32::NAN; operands.x.len()];
        let y = run(
            isa,
            &Serial,
            &spec,
            &nan,
            case.map,
            Some(empty.live()),
            None,
        );
        for (c, plane) in y.chunks(30).enumerate() {
            let want = 1.0 / (1.0 + (-f64::from(operands.bias[c])).exp());
            assert_close("empty", plane, &[want; 30], |_| 1e-6);
        }
    }
}
