//! Damaged files: whatever the bytes, an answer or an error, in bounded time and memory.
//!
//! `SLUICEGATE_MUTANTS` sets how many damaged copies are made of every bundled model (2,000 by default).

use std::panic::catch_unwind;

use sluicegate::import::from_bytes;

use crate::mutants::{Random, damage, lengths};

#[test]
fn damaged_models_are_answered() {
    let mutants = match std::env::var("SLUICEGATE_MUTANTS") {
        Ok(text) => text.parse().expect("SLUICEGATE_MUTANTS is a number"),
        Err(_) => 2000,
    };
    for file in crate::bundled::files() {
        let bytes = std::fs::read(&file).unwrap();
        let mut places = Vec::new();
        lengths(&bytes, 0, 0, &mut places).expect("the file is well-formed");
        let (mut read, mut refused) = (0, 0);
        for i in 0..mutants {
            let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (i as u64 + 1));
            let mutant = damage(&bytes, &places, &mut random);
            match catch_unwind(|| from_bytes(&mutant, None).is_ok()) {
                Ok(true) => read += 1,
                Ok(false) => refused += 1,
                Err(_) => panic!("mutant {i} of {} made the importer panic", file.display()),
            }
        }
        println!("{}: {read} read, {refused} refused", file.display());
    }
}
