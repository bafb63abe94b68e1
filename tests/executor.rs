//! Random gated graphs run as the dense interpreter says, in every mode, on every instruction set, in batches.

mod common;

use common::graphs::truth::check;
use common::graphs::{Choices, build};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 100, max_global_rejects: 8192, ..ProptestConfig::default() })]

    #[test]
    fn skipping_and_leaving_equal_the_dense_prefix(bytes in prop::collection::vec(any::<u8>(), 4..80), batch in 1usize..5) {
        let mut choices = Choices::new(&bytes);
        let case = build(&mut choices);
        prop_assume!(check(&case, batch, &mut choices));
    }
}

/// A mask whose result is an output, and a second mask on it whose dead channels someone needs as zeros: the zeros must not reach the output.
#[test]
fn zeros_do_not_reach_an_output_that_lives_there() {
    let bytes = [
        0, 0, 73, 43, 255, 255, 255, 255, 255, 255, 255, 255, 15, 255, 255, 1, 255, 90, 132, 1, 99,
        255, 20, 38, 46, 197,
    ];
    let mut choices = Choices::new(&bytes);
    let batch = 1 + choices.pick(4);
    let case = build(&mut choices);
    assert!(check(&case, batch, &mut choices));
}
