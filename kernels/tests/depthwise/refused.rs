//! Operands that do not fit, and steps that overflow.

use super::nn::Mask;
use super::{Case, square};
use sluicegate_kernels::Isa;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::depthwise::Depthwise;
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::Serial;

#[test]
fn bad_operands_are_refused() {
    let isa = Isa::best();
    let case = Case {
        shape: square(4, 3, 1, 0),
        map: (5, 5),
        act: Activation::None,
        bias: true,
        seed: 1,
    };
    let operands = case.operands();
    let spec = case.spec(&operands);
    let bad = |shape| Depthwise::pack(isa, &ConvSpec { shape, ..spec }).is_err();
    assert!(bad(ConvShape {
        groups: 2,
        ..spec.shape
    }));
    assert!(bad(ConvShape {
        groups: 0,
        ..spec.shape
    }));
    assert!(bad(ConvShape {
        c_out: 6,
        ..spec.shape
    }));
    assert!(bad(ConvShape {
        stride: [0, 1],
        ..spec.shape
    }));
    assert!(bad(ConvShape {
        kernel: [usize::MAX, 3],
        ..spec.shape
    }));
    assert!(
        Depthwise::pack(
            isa,
            &ConvSpec {
                bias: Some(&[0.0; 3]),
                ..spec
            }
        )
        .is_err()
    );
    let kernel = Depthwise::pack(isa, &spec).expect("valid");
    let five = Mask::full(5);
    let mut y = vec![0.0; 36];
    let x = &operands.x;
    let run = |x: &[f32], map, i, o, y: &mut [f32]| {
        let mut scratch = vec![0.0; kernel.scratch_len(map, 1)];
        kernel.run(&Serial, x, map, i, o, y, &mut scratch).is_err()
    };
    assert!(run(&x[1..], (5, 5), None, None, &mut y));
    assert!(run(x, (5, 6), None, None, &mut y));
    assert!(run(x, (2, 50), None, None, &mut y));
    assert!(run(x, (usize::MAX, 5), None, None, &mut y));
    assert!(run(x, (5, 5), Some(five.live()), None, &mut y));
    assert!(run(x, (5, 5), None, Some(five.live()), &mut y));
    assert!(!run(x, (5, 5), None, None, &mut y));
    assert!(run(x, (5, 5), None, None, &mut y[1..]));
}

#[test]
fn a_short_scratch_is_refused() {
    for isa in Isa::available().filter(|isa| isa.lanes() > 4) {
        let case = Case {
            shape: square(32, 4, 2, 1),
            map: (10, 9),
            act: Activation::None,
            bias: false,
            seed: 1,
        };
        let operands = case.operands();
        let kernel = Depthwise::pack(isa, &case.spec(&operands)).expect("valid");
        let (oh, ow) = kernel.output(case.map).expect("fits");
        let mut y = vec![0.0; 32 * oh * ow];
        let mut scratch = vec![0.0; kernel.scratch_len(case.map, 1) - 1];
        let run = kernel.run(
            &Serial,
            &operands.x,
            case.map,
            None,
            None,
            &mut y,
            &mut scratch,
        );
        assert!(run.is_err(), "{isa}");
    }
}

#[test]
fn steps_that_nobody_takes_may_be_huge() {
    for isa in Isa::available() {
        let mut shape = square(4, 3, 1, 1);
        shape.stride = [usize::MAX / 4; 2];
        let (x, weights) = (vec![1.0; 4 * 9], vec![0.5; 4 * 9]);
        let spec = ConvSpec {
            shape,
            weights: &weights,
            bias: None,
            activation: Activation::None,
            live_in: None,
            live_out: None,
            masked_outputs: false,
            algorithm: Algorithm::Direct,
        };
        let kernel = Depthwise::pack(isa, &spec).expect("one output a plane");
        let mut y = [0.0; 4];
        let mut scratch = vec![0.0; kernel.scratch_len((3, 3), 1)];
        let run = kernel.run(&Serial, &x, (3, 3), None, None, &mut y, &mut scratch);
        assert!(run.is_ok() && y == [2.0; 4], "{isa}");
    }
}
