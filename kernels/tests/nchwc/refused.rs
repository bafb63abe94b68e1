//! Masks and shapes that maps in blocks are not for, and operands that do not fit.

use super::{plain, square};
use sluicegate_kernels::ops::conv::NchwcConv;
use sluicegate_kernels::ops::depthwise::NchwcDepthwise;
use sluicegate_kernels::ops::nchwc::{self, Live};
use sluicegate_kernels::ops::{ConvShape, ConvSpec};
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::{Channels, Error, Isa};

#[test]
fn what_blocks_cannot_do_is_refused() {
    let isa = Isa::best();
    let words = [!0u64 >> 44];
    let live = Some(Channels::new(&words, 20).expect("20 bits"));
    let weights = vec![0.0; 4 * 400];
    let spec = |shape| plain(shape, &weights);
    let (good, hw) = (spec(square(20, 3, 1)), (4, 5));
    let refused = [
        ConvSpec {
            live_in: live,
            ..good
        },
        ConvSpec {
            live_out: live,
            ..good
        },
        spec(ConvShape {
            c_out: 40,
            ..good.shape
        }),
        spec(ConvShape {
            stride: [1, 3],
            ..good.shape
        }),
    ];
    for spec in refused {
        let error = NchwcDepthwise::pack(isa, &spec, hw).expect_err("refused");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    let one = ConvShape {
        groups: 1,
        kernel: [1, 1],
        pads: [0; 4],
        ..good.shape
    };
    let grouped = ConvShape { groups: 2, ..one };
    let error = NchwcConv::pack_blocks(isa, &spec(grouped), hw).expect_err("refused");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let masked = ConvSpec {
        live_in: live,
        ..spec(one)
    };
    assert!(NchwcConv::pack_planes(isa, &masked, hw).is_err());
    assert!(NchwcConv::pack_blocks(isa, &masked, hw).is_err());
    for huge in [(usize::MAX / 4, 5), (1 << 20, 1 << 20), (5, usize::MAX)] {
        assert!(NchwcDepthwise::pack(isa, &good, huge).is_err(), "{huge:?}");
        assert!(
            NchwcConv::pack_blocks(isa, &spec(one), huge).is_err(),
            "{huge:?}"
        );
    }
    let packed = NchwcDepthwise::pack(isa, &good, hw).expect("valid");
    let conv = NchwcConv::pack_blocks(isa, &spec(one), hw).expect("valid");
    let all = nchwc::elements(isa, 20, 20).expect("small");
    let (x, mut y) = (vec![0.0; all], vec![0.0; all]);
    let mut scratch = vec![0.0; packed.scratch_len(1, true).max(conv.scratch_len(1, true))];
    for (inputs, outputs) in [(all - 1, all), (all, all - 1)] {
        let (x, y) = (&x[..inputs], &mut y[..outputs]);
        assert!(packed.run(&Serial, x, None, y, &mut scratch).is_err());
        assert!(conv.run(&Serial, x, None, None, y, &mut scratch).is_err());
        assert!(nchwc::mean(isa, &x[..inputs.min(all - 1)], (20, 20), None, y).is_err());
    }
    assert!(conv.run(&Serial, &x, None, None, &mut y, &mut []).is_err());
    let other = Channels::new(&[0], 19).expect("19 bits");
    let few = Channels::new(&[3], 20).expect("20 bits");
    let mut mismatched = |live_in, live_out| {
        let error = conv.run(&Serial, &x, live_in, live_out, &mut y, &mut scratch);
        assert!(matches!(error, Err(Error::Mismatch { .. })), "{error:?}");
    };
    mismatched(Some(Live::InPlace(other)), None);
    mismatched(Some(Live::Compact(other)), None);
    mismatched(None, Some(other));
    let error = packed.run(&Serial, &x, Some(other), &mut y, &mut scratch);
    assert!(matches!(error, Err(Error::Mismatch { .. })), "{error:?}");
    // Scratch for calls without masks is not enough for the others.
    let short = &mut vec![0.0; conv.scratch_len(1, false)];
    let error = conv.run(&Serial, &x, None, Some(few), &mut y, short);
    assert!(matches!(error, Err(Error::TooShort { .. })), "{error:?}");
    let planes = NchwcConv::pack_planes(isa, &spec(one), hw).expect("valid");
    let compact = Some(Live::Compact(few));
    let error = planes.run(&Serial, &x, compact, None, &mut y, &mut scratch);
    assert!(matches!(error, Err(Error::Invalid { .. })), "{error:?}");
}

/// A mask moves channels from one group to another.
#[test]
fn masks_of_groups_are_refused() {
    for isa in Isa::available() {
        let channels = 2 * isa.lanes();
        let shape = ConvShape {
            groups: 2,
            ..square(channels, 3, 1)
        };
        let weights = vec![0.0; shape.weights_len().expect("small")];
        let conv =
            NchwcConv::pack_blocks(isa, &plain(shape, &weights), (4, 5)).expect("whole blocks");
        let all = nchwc::elements(isa, channels, 20).expect("small");
        let (x, mut y) = (vec![0.0; all], vec![0.0; all]);
        let mut scratch = vec![0.0; conv.scratch_len(1, true)];
        let few = Channels::new(&[1], channels).expect("one word");
        for (live_in, live_out) in [
            (Some(Live::InPlace(few)), None),
            (Some(Live::Compact(few)), None),
            (None, Some(few)),
        ] {
            let error = conv.run(&Serial, &x, live_in, live_out, &mut y, &mut scratch);
            assert!(matches!(error, Err(Error::Invalid { .. })), "{error:?}");
        }
        let full = [u64::MAX >> (64 - channels)];
        let full = Channels::new(&full, channels).expect("one word");
        conv.run(
            &Serial,
            &x,
            Some(Live::InPlace(full)),
            Some(full),
            &mut y,
            &mut scratch,
        )
        .expect("nothing is masked");
    }
}

/// Layouts of masked maps.
#[test]
fn operands_of_other_layouts_are_refused() {
    let isa = Isa::best();
    let all = nchwc::elements(isa, 20, 20).expect("small");
    let (x, mut y) = (vec![0.0; all], vec![0.0; all]);
    let few = Channels::new(&[3], 20).expect("20 bits");
    let other = Channels::new(&[0], 19).expect("19 bits");
    let extents = (20, 20);
    let from = nchwc::from_planes(isa, &Serial, &x, extents, Some(other), &mut y);
    assert!(matches!(from, Err(Error::Mismatch { .. })), "{from:?}");
    let spare = &mut [0.0; 20];
    let to = nchwc::to_planes(isa, &Serial, &x, extents, Some(other), &mut y, spare);
    assert!(matches!(to, Err(Error::Mismatch { .. })), "{to:?}");
    let mean = nchwc::mean(isa, &x, extents, Some(other), &mut y);
    assert!(matches!(mean, Err(Error::Mismatch { .. })), "{mean:?}");
    assert!(nchwc::compact(isa, &Serial, &x[1..], 20, few, &mut y).is_err());
    assert!(nchwc::compact(isa, &Serial, &x, 20, few, &mut []).is_err());
    assert!(nchwc::expand(isa, 20, few, &mut y[1..]).is_err());
    assert!(nchwc::expand(isa, usize::MAX, few, &mut y).is_err());
}
