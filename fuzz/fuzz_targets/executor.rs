//! Random gated graphs in batches, in every mode and on every instruction set, against the dense interpreter.
#![no_main]

#[allow(dead_code, reason = "what the tests alone use")]
#[path = "../../tests/common/graphs.rs"]
mod graphs;

use graphs::truth::check;
use graphs::{Choices, build};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let batch = 1 + choices.pick(4);
    let case = build(&mut choices);
    check(&case, batch, &mut choices);
});
