//! Windows that reach far beyond small maps: tap after tap, each for the outputs that it is on the map for.

use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::ConvShape;

use super::{Case, masks, square};

/// As many vectors of outputs as tiles have, and more; steps and dilations; taps that are on the map for no output; padding on some sides.
#[test]
fn small_maps_and_large_windows() {
    for (c_in, c_out, map, k, stride, dilation, pads) in [
        (48, 70, (8, 8), 7, 1, 1, [3; 4]),
        (40, 64, (13, 13), 7, 1, 1, [3; 4]),
        (72, 20, (5, 5), 5, 1, 1, [2; 4]),
        (64, 33, (7, 10), 5, 2, 1, [2; 4]),
        (64, 48, (10, 14), 5, 1, 2, [4; 4]),
        (36, 100, (4, 6), 7, 1, 1, [3; 4]),
        (50, 64, (9, 3), 5, 1, 1, [2; 4]),
        (64, 40, (6, 7), 3, 1, 3, [3, 4, 3, 2]),
        (64, 32, (3, 3), 5, 1, 1, [4; 4]),
        (64, 32, (7, 9), 7, 2, 1, [0, 3, 5, 1]),
    ] {
        let shape = ConvShape {
            c_in,
            c_out,
            groups: 1,
            dilation: [dilation; 2],
            pads,
            ..square(1, k, stride)
        };
        // Of few live channels taps are not worth it.
        let inputs = (0..9).map(|seed| [Some(seed), None]);
        for live in masks().into_iter().chain(inputs) {
            for (seed, act) in [
                (1, Activation::None),
                (2, Activation::Clip { lo: 0.5, hi: 2.0 }),
                (3, Activation::Silu),
            ] {
                Case {
                    act,
                    bias: seed < 3,
                    live,
                    ..Case::new(shape, map, seed)
                }
                .check();
            }
        }
    }
}

/// Each group reads blocks of its own.
#[test]
fn groups() {
    for (groups, each, map, k) in [(3, 48, (7, 7), 5), (2, 64, (8, 6), 7)] {
        let shape = ConvShape {
            c_in: groups * each,
            c_out: groups * each,
            groups,
            ..square(1, k, 1)
        };
        Case::new(shape, map, k as u64).check();
    }
}

/// More terms a tap than a depth block has.
#[test]
fn many_channels() {
    let shape = ConvShape {
        c_in: 1500,
        c_out: 33,
        groups: 1,
        ..square(1, 5, 1)
    };
    for live in masks() {
        let case = Case::new(shape, (5, 6), 1);
        Case { live, ..case }.check();
    }
}

/// Some windows have no tap on the map, and panels are put together from what lives.
#[test]
fn windows_beyond_the_map() {
    for (kernel, pads) in [
        ([3, 4], [3, 1, 0, 0]),
        ([2, 3], [0, 4, 3, 3]),
        ([5, 5], [5; 4]),
    ] {
        let shape = ConvShape {
            c_in: 7,
            c_out: 70,
            groups: 1,
            kernel,
            pads,
            ..square(1, 1, 1)
        };
        for live in masks() {
            let case = Case::new(shape, (5, 3), 1);
            Case { live, ..case }.check();
        }
    }
}
