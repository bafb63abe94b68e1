//! The laws of DESIGN.md that are about graphs: leaving is running the prefix, a batch is its samples, threads change nothing, skipping is
//! multiplying by zeros, and what is dead is never read. All comparisons are of bits, unless said otherwise.

#[path = "../common/mod.rs"]
mod common;

#[path = "../../kernels/tests/common/pool.rs"]
mod pool;

mod attention;
mod masks;
mod random;
mod threads;

use sluicegate::{Isa, Macs, Mode, Model, Options, Outcome, Session, View};

/// How a sample ended: the gate and the bits of its score, and the bytes of each output that was computed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) exit: Option<(usize, u32)>,
    pub(crate) outputs: Vec<(String, Option<Vec<u8>>)>,
}

impl Sample {
    pub(crate) fn floats(&self, i: usize) -> Vec<f32> {
        let bytes = self.outputs[i].1.as_ref().expect("the sample came so far");
        let word = |b: &[u8]| f32::from_ne_bytes(b.try_into().expect("four bytes"));
        bytes.chunks_exact(4).map(word).collect()
    }
}

pub(crate) fn options(mode: Mode, isa: Isa) -> Options {
    Options {
        mode,
        isa: Some(isa),
        ..Options::default()
    }
}

pub(crate) fn samples(session: &mut Session, inputs: &[(&str, View<'_>)]) -> (Vec<Sample>, Macs) {
    let run = session.run(inputs).unwrap();
    let all = (0..run.samples()).map(|i| Sample {
        exit: match run.outcome(i) {
            Outcome::Exited { gate, score } => Some((gate, score.to_bits())),
            Outcome::Completed(_) => None,
        },
        outputs: run
            .outputs(i)
            .iter()
            .map(|(name, view)| (name.to_owned(), view.map(|v| v.bytes().to_vec())))
            .collect(),
    });
    (all.collect(), run.macs())
}

pub(crate) fn run(
    model: &Model,
    options: Options,
    inputs: &[(&str, View<'_>)],
) -> (Vec<Sample>, Macs) {
    samples(&mut model.session(options).unwrap(), inputs)
}
