//! Groups that are whole blocks, and groups that share them.

use sluicegate_kernels::Isa;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::ConvShape;
use sluicegate_kernels::ops::conv::NchwcConv;
use sluicegate_kernels::ops::nchwc;
use sluicegate_kernels::pool::Serial;

use super::{Case, channels_of, data, guarded, in_blocks, in_planes, plain, square};

/// Groups that begin and end within the panels of weights, and tiles of every width.
#[test]
fn groups_of_whole_blocks() {
    for isa in Isa::available() {
        let lanes = isa.lanes();
        for (groups, [from, to], map, k, stride) in [
            (4, [1, 1], (28, 28), 3, 1),
            (3, [1, 3], (9, 30), 3, 2),
            (2, [2, 5], (12, 7), 5, 1),
            (5, [3, 2], (6, 11), 1, 1),
            (3, [1, 4], (40, 50), 1, 2),
            (2, [9, 6], (14, 13), 3, 1),
        ] {
            let shape = ConvShape {
                c_in: groups * from * lanes,
                c_out: groups * to * lanes,
                groups,
                ..square(1, k, stride)
            };
            Case::new(shape, map, k as u64).on(isa);
        }
    }
}

/// Rows of every length, and padding of which a tap leaves out one output at an end, several, or none.
#[test]
fn groups_of_one_vector() {
    for isa in Isa::available() {
        let lanes = isa.lanes();
        for w in 5..=62 {
            for (k, stride, dilation, pads) in [
                (3, 1, 1, [1, 1, 1, 1]),
                (3, 2, 1, [1, 1, 1, 1]),
                (3, 1, 1, [0, 0, 2, 1]),
                (3, 1, 1, [2, 1, 0, 0]),
                (3, 2, 2, [2, 2, 2, 2]),
                (3, 1, 2, [2, 2, 2, 2]),
                (5, 2, 1, [2, 2, 2, 2]),
                (2, 2, 1, [0, 0, 0, 0]),
                (1, 2, 1, [0, 1, 0, 1]),
                (4, 1, 3, [1, 1, 9, 1]),
            ] {
                let shape = ConvShape {
                    c_in: 2 * lanes * (1 + w % 2),
                    c_out: 2 * lanes,
                    groups: 2,
                    dilation: [dilation; 2],
                    pads,
                    ..square(1, k, stride)
                };
                let map = (1 + w * 7 % 13, w);
                if shape.output(map).is_ok() {
                    Case::new(shape, map, w as u64).on(isa);
                }
            }
        }
    }
}

/// Outputs that are zeros in their places, what is applied behind the tiles, and no bias.
#[test]
fn groups_of_one_vector_with_dead_outputs() {
    for isa in Isa::available() {
        let c_out = 6 * isa.lanes();
        for (w, act) in [
            (7, Activation::Relu),
            (14, Activation::Tanh),
            (33, Activation::None),
        ] {
            let shape = ConvShape {
                c_in: c_out,
                c_out,
                groups: 6,
                ..square(1, 3, 1)
            };
            let cases = (0..40).map(|seed| Case {
                act,
                bias: seed % 2 == 0,
                live: [None, Some(7)],
                ..Case::new(shape, (9, w), seed)
            });
            // So few are dead that the map is not compact.
            let some = cases.filter(|case| {
                let words = case.mask(1).expect("given");
                let live = channels_of(Some(&words), c_out).expect("given");
                !live.is_full() && !nchwc::is_compact(live)
            });
            let tried = some.map(|case| case.on(isa)).count();
            assert!(tried > 3, "{tried} of 40");
        }
    }
}

/// Groups that begin within blocks, of x, of y or of both, and end there, in areas and in windows that are cut.
#[test]
fn groups_that_share_blocks() {
    for isa in Isa::available() {
        let half = isa.lanes() / 2;
        for (groups, [from, to], map, k, stride, act) in [
            (6, [half, half], (7, 7), 3, 1, Activation::Relu),
            (5, [half, half], (9, 30), 3, 2, Activation::Silu),
            (4, [3 * half, 3 * half], (14, 14), 3, 2, Activation::Relu),
            (3, [3 * half, 3 * half], (7, 7), 5, 1, Activation::Tanh),
            (7, [4, 12], (10, 10), 5, 1, Activation::None),
            (9, [12, 20], (6, 11), 1, 1, Activation::Silu),
            (3, [20, 44], (13, 12), 3, 1, Activation::Relu),
            (5, [44, 5 * half], (40, 21), 1, 2, Activation::Relu),
            (2, [4, 52], (3, 50), 3, 1, Activation::None),
            (3, [52, 12 * half], (8, 8), 7, 1, Activation::Gelu),
        ] {
            if !to.is_multiple_of(4) || to < half || !from.is_multiple_of(4) {
                continue;
            }
            let shape = ConvShape {
                c_in: groups * from,
                c_out: groups * to,
                groups,
                ..square(1, k, stride)
            };
            for bias in [false, true] {
                let case = Case::new(shape, map, k as u64);
                Case { bias, act, ..case }.on(isa);
            }
        }
    }
}

/// An infinity or NaN reaches the outputs of its own group alone.
#[test]
fn what_others_hold_is_no_part_of_a_group() {
    for isa in Isa::available() {
        let each = (isa.lanes() / 2).next_multiple_of(4);
        for (k, map) in [(1, (5, 6)), (3, (7, 7)), (3, (3, 4)), (3, (20, 31))] {
            let shape = ConvShape {
                c_in: 4 * each,
                c_out: 4 * each,
                groups: 4,
                ..square(1, k, 1)
            };
            let weights = data(1, shape.weights_len().expect("small"));
            let spec = plain(shape, &weights);
            let pixels = map.0 * map.1;
            let mut x = data(2, shape.c_in * pixels);
            let run = |x: &[f32]| {
                let packed = NchwcConv::pack_blocks(isa, &spec, map).expect("served");
                let x = in_blocks(isa, x, shape.c_in);
                let len = nchwc::elements(isa, shape.c_out, pixels).expect("small");
                let mut scratch = vec![f32::NAN; packed.scratch_len(1, false)];
                let y = guarded(len, |y| {
                    let done = packed.run(&Serial, &x, None, None, y, &mut scratch);
                    done.expect("valid");
                });
                in_planes(isa, &y, (shape.c_out, pixels))
            };
            let expected = run(&x);
            x[each * pixels..][..each * pixels].fill(f32::NAN);
            let y = run(&x);
            for (c, (y, expected)) in y.iter().zip(&expected).enumerate() {
                let of_second = (each * pixels..2 * each * pixels).contains(&c);
                assert_eq!(y.is_nan(), of_second, "{isa}: {k} x {k}, element {c}");
                assert!(of_second || y == expected, "{isa}: {k} x {k}, element {c}");
            }
        }
    }
}
