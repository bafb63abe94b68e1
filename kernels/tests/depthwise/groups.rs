//! Channels as lanes: whole groups, what is left of one, and groups put together by a mask.

use super::{Case, check_masks, check_values, square};
use sluicegate_kernels::Isa;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::ConvShape;
use sluicegate_kernels::ops::depthwise::Depthwise;

fn case(shape: ConvShape, map: (usize, usize)) -> Case {
    Case {
        shape,
        map,
        act: Activation::Relu,
        bias: true,
        seed: (map.0 * 100 + map.1 + shape.c_out) as u64,
    }
}

/// Checks a shape that every instruction set of more than four lanes computes in groups.
fn check(shape: ConvShape, map: (usize, usize)) {
    let case = case(shape, map);
    let operands = case.operands();
    for isa in Isa::available().filter(|isa| isa.lanes() > 4) {
        let kernel = Depthwise::pack(isa, &case.spec(&operands)).expect("valid");
        assert!(kernel.scratch_len(map, 1) > 0, "{isa}: {case:?} by planes");
    }
    check_all(&case);
}

fn check_all(case: &Case) {
    check_values(case);
    for density in [2, 5, 8] {
        check_masks(case, density);
    }
}

#[test]
fn every_count_of_channels() {
    for c in 1..=50 {
        check(square(c, 4, 2, 1), (10, 9));
    }
}

#[test]
fn two_outputs_a_channel() {
    let shape = ConvShape {
        c_out: 40,
        ..square(20, 4, 1, 2)
    };
    check(shape, (6, 7));
}

/// Tiles of every width, one row high and several; maps of fewer pixels than a vector has lanes.
#[test]
fn every_width() {
    for w in 1..=40 {
        for h in [1, 2, 3, 5, 8] {
            for (kernel, stride) in [([4, 4], [1, 1]), ([3, 4], [2, 2]), ([2, 6], [3, 1])] {
                let shape = ConvShape {
                    kernel,
                    stride,
                    pads: [1, 2, 2, 3],
                    ..square(19, 1, 1, 0)
                };
                check(shape, (h, w));
            }
        }
    }
}

#[test]
fn windows_far_outside_the_map() {
    for pads in [[0, 0, 0, 0], [9, 0, 0, 9], [0, 9, 9, 0], [5, 7, 6, 8]] {
        for dilation in [[1, 1], [2, 3]] {
            let shape = ConvShape {
                kernel: [4, 5],
                dilation,
                pads,
                ..square(17, 1, 1, 0)
            };
            check(shape, (13, 14));
        }
    }
}

/// The padding of "SAME" with stride 2 on even maps: none on the left.
#[test]
fn padding_on_one_side() {
    for k in [3, 5, 7] {
        let shape = ConvShape {
            pads: [(k - 2) / 2, (k - 2) / 2, k / 2, k / 2],
            ..square(33, k, 2, 0)
        };
        check_all(&case(shape, (14, 14)));
    }
}
