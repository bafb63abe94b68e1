//! Groups that are whole blocks.

use sluicegate_kernels::Isa;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::ConvShape;
use sluicegate_kernels::ops::nchwc::is_compact;

use super::{Case, channels_of, square};

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
                !live.is_full() && !is_compact(live)
            });
            let tried = some.map(|case| case.on(isa)).count();
            assert!(tried > 3, "{tried} of 40");
        }
    }
}
