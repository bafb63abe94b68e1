//! Damaged copies of the bundled models.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sluicegate::Model;

use crate::attempt;
use crate::common::damage::{Random, damage, lengths};
use crate::common::models;

fn mutants(file: &str) {
    let range = match std::env::var("SLUICEGATE_MUTANTS") {
        Err(_) => 0..300,
        Ok(text) => {
            let number = |t: &str| {
                t.parse()
                    .expect("SLUICEGATE_MUTANTS is a number or a range")
            };
            text.split_once("..")
                .map_or_else(|| 0..number(&text), |(a, b)| number(a)..number(b))
        }
    };
    let bytes = std::fs::read(models(file)).unwrap();
    let mut places = Vec::new();
    lengths(&bytes, 0, 0, &mut places).expect("the file is well-formed");
    let (mut ran, mut planned, mut refused) = (0, 0, 0);
    for i in range {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (i as u64 + 1));
        let mutant = damage(&bytes, &places, &mut random);
        match catch_unwind(AssertUnwindSafe(|| {
            Model::from_bytes(&mutant).map(|model| attempt(&model))
        })) {
            Ok(Ok(Ok(()))) => ran += 1,
            Ok(Ok(Err(_))) => planned += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("mutant {i} of {file}"),
        }
    }
    println!(
        "{file}: {ran} planned or run, {planned} refused when planned or run, {refused} when read"
    );
}

macro_rules! mutants {
    ($($name:ident $file:literal;)*) => {$(
        #[test]
        fn $name() {
            mutants($file);
        }
    )*};
}

mutants! {
    mutants_of_kws_dynamic "kws_dynamic.onnx";
    mutants_of_kws_gates "kws_gates.onnx";
    mutants_of_kws_static "kws_static.onnx";
    mutants_of_kwt_static "kwt_static.onnx";
    mutants_of_kwt_dynamic "kwt_dynamic.onnx";
    mutants_of_kws_dynamic_inlined "kws_dynamic.inlined.onnx";
    mutants_of_kws_gates_inlined "kws_gates.inlined.onnx";
    mutants_of_kws_static_inlined "kws_static.inlined.onnx";
    mutants_of_kwt_static_inlined "kwt_static.inlined.onnx";
    mutants_of_kwt_dynamic_inlined "kwt_dynamic.inlined.onnx";
    mutants_of_kws_dynamic_staged "kws_dynamic.staged.onnx";
    mutants_of_kws_gates_staged "kws_gates.staged.onnx";
    mutants_of_kws_static_staged "kws_static.staged.onnx";
    mutants_of_kwt_static_staged "kwt_static.staged.onnx";
    mutants_of_kwt_dynamic_staged "kwt_dynamic.staged.onnx";
}
