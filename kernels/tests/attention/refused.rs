//! What is refused, before anything is written.

use sluicegate_kernels::ops::attention::{
    Attention, AttentionSpec, Bias, Heads, HeadsMut, Layout, Live, Operands, Scores,
};
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::{Error, Isa};

use super::common::Mask;
use super::{CANARY, Inputs, plain};

/// Tokens too far apart for its elements.
fn short(x: Heads<'_>) -> Heads<'_> {
    Heads {
        token: x.token + 1,
        ..x
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let case = plain(5, 6);
    let x = Inputs::new(&case);
    let isa = Isa::best();
    let at = Attention::new(isa, case.spec).unwrap();
    let mut scratch = vec![0.0; at.scratch_len(1)];
    let mut y = vec![CANARY; 2 * 5 * 8];
    let good = x.operands(&case);
    let mut refused = |x: Operands<'_>, live: Live<'_>, n: usize, layout, scratch: &mut [f32]| {
        let to = HeadsMut {
            data: &mut y[..n],
            layout,
        };
        let e = at.run(&Serial, x, live, to, scratch).unwrap_err();
        assert!(y.iter().all(|&y| y == CANARY), "written in spite of {e}");
        e
    };
    let all = Live::default();
    let too_short = |e: Error| assert!(matches!(e, Error::TooShort { .. }), "{e}");
    let mismatch = |e: Error| assert!(matches!(e, Error::Mismatch { .. }), "{e}");
    too_short(refused(
        Operands {
            q: short(good.q),
            ..good
        },
        all,
        80,
        Layout::Heads,
        &mut scratch,
    ));
    too_short(refused(
        Operands {
            k: short(good.k),
            ..good
        },
        all,
        80,
        Layout::Heads,
        &mut scratch,
    ));
    too_short(refused(
        Operands {
            v: short(good.v),
            ..good
        },
        all,
        80,
        Layout::Heads,
        &mut scratch,
    ));
    too_short(refused(good, all, 79, Layout::Heads, &mut scratch));
    too_short(refused(good, all, 79, Layout::Tokens(16), &mut scratch));
    mismatch(refused(good, all, 80, Layout::Tokens(15), &mut scratch));
    mismatch(refused(
        Operands { valid: 7, ..good },
        all,
        80,
        Layout::Heads,
        &mut scratch,
    ));
    let short_scratch = scratch.len() - 1;
    too_short(refused(
        good,
        all,
        80,
        Layout::Heads,
        &mut scratch[..short_scratch],
    ));
    let bias = Bias {
        scores: Scores::Keep(&[1; 11]),
        head: 0,
        query: 6,
    };
    too_short(refused(
        Operands {
            bias: Some(bias),
            ..good
        },
        all,
        80,
        Layout::Heads,
        &mut scratch,
    ));
    let other = Mask::new(&[true; 7]);
    let other = Some(other.view());
    for live in [
        Live {
            outputs: other,
            ..all
        },
        Live {
            queries: other,
            ..all
        },
        Live { keys: other, ..all },
    ] {
        mismatch(refused(good, live, 80, Layout::Heads, &mut scratch));
    }
    let far = Heads {
        head: usize::MAX,
        ..good.q
    };
    let e = refused(
        Operands { q: far, ..good },
        all,
        80,
        Layout::Heads,
        &mut scratch,
    );
    assert!(
        matches!(e, Error::TooLarge { .. } | Error::TooShort { .. }),
        "{e}"
    );

    for spec in [
        AttentionSpec {
            kv_heads: 0,
            ..case.spec
        },
        AttentionSpec {
            q_heads: 3,
            ..case.spec
        },
        AttentionSpec {
            width: 0,
            ..case.spec
        },
        AttentionSpec {
            v_width: 0,
            ..case.spec
        },
        AttentionSpec {
            keys: usize::MAX,
            ..case.spec
        },
        AttentionSpec {
            queries: usize::MAX / 8,
            ..case.spec
        },
    ] {
        assert!(Attention::new(isa, spec).is_err(), "{spec:?}");
    }
}
