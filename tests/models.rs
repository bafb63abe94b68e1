//! The bundled models reproduce what a dense runtime computed for them, and leave where its scores say.

mod common;

use common::{models, npy};
use sluicegate::{Isa, Mode, Model, Options, Outcome, View};

const MODELS: [(&str, &str); 5] = [
    ("kws_static", "mfcc"),
    ("kws_dynamic", "mfcc"),
    ("kws_gates", "mfcc"),
    ("kwt_static", "logmel"),
    ("kwt_dynamic", "logmel"),
];

/// Largest difference allowed, as a share of the range of an output.
const TOLERANCE: f32 = 1e-4;

/// Scores closer than this to their threshold may go either way.
const UNDECIDED: f32 = 1e-5;

struct Expected {
    logits: Vec<f32>,
    gates: Vec<Vec<f32>>,
    thresholds: Vec<f32>,
    masks: Vec<Vec<f32>>,
}

impl Expected {
    fn load(name: &str, model: &Model) -> Self {
        let thresholds: Vec<f32> = model
            .graph()
            .nodes
            .iter()
            .filter_map(|n| match n.op {
                sluicegate::graph::Op::Gate { threshold, .. } => Some(threshold),
                _ => None,
            })
            .collect();
        let read = |what: &str| npy::<f32>(models(&format!("expected/{name}.{what}.npy"))).1;
        let maybe = |what: String| {
            models(&format!("expected/{name}.{what}.npy"))
                .exists()
                .then(|| read(&what))
        };
        Self {
            logits: read("logits"),
            gates: (0..thresholds.len())
                .map(|g| read(&format!("gate_{g}")))
                .collect(),
            masks: (0..thresholds.len())
                .filter_map(|g| maybe(format!("mask_{g}")))
                .collect(),
            thresholds,
        }
    }

    /// The gate at which sample `i` leaves, or `None`; `Err` when a score is too close to call.
    fn exit(&self, i: usize) -> Result<Option<usize>, ()> {
        for (g, threshold) in self.thresholds.iter().enumerate() {
            let score = self.gates[g][i];
            if (score - threshold).abs() <= UNDECIDED {
                return Err(());
            }
            if score < *threshold {
                return Ok(Some(g));
            }
        }
        Ok(None)
    }
}

fn range(values: &[f32]) -> f32 {
    let (lo, hi) = values
        .iter()
        .fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    hi - lo
}

fn close(what: &str, found: &[f32], expected: &[f32], range: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= TOLERANCE * range,
            "{what}[{i}]: {f}, expected {e}"
        );
    }
}

fn check(form: &str, name: &str, features: &str, isa: Isa, mode: Mode, batch: usize) {
    let model = Model::load(models(&format!("{name}{form}.onnx"))).unwrap();
    let gated = model.graph().gates() > 0;
    let flat = Model::load(models(&format!("{name}.onnx"))).unwrap();
    let expected = Expected::load(name, &flat);
    let (shape, x) = npy::<f32>(models(&format!("expected/{features}.npy")));
    let each: usize = shape[1..].iter().product();
    let options = Options {
        mode,
        isa: Some(isa),
        ..Options::default()
    };
    let mut session = model.session(options).unwrap();
    for first in (0..shape[0]).step_by(batch) {
        let n = batch.min(shape[0] - first);
        let mut dims = shape.clone();
        dims[0] = n;
        let inputs = [(
            "input",
            View::new(&dims, &x[first * each..(first + n) * each]).unwrap(),
        )];
        let run = session.run(&inputs).unwrap();
        for s in 0..n {
            let i = first + s;
            let what = format!("{name}{form} {isa} {mode:?} clip {i}");
            let samples = if run.samples() == 1 { 1 } else { n };
            assert_eq!(run.samples(), samples, "{what}");
            let exit = expected.exit(i);
            let want = if mode == Mode::Dense || !gated {
                Ok(None)
            } else {
                exit
            };
            let Ok(want) = want else { continue };
            let outputs = run.outputs(s.min(run.samples() - 1));
            let row = |name: &str| {
                let view = outputs
                    .get(name)
                    .unwrap_or_else(|| panic!("{what}: no {name}"));
                let all = view.as_slice::<f32>().unwrap();
                let each = all.len() / if run.samples() == 1 { n } else { 1 };
                let from = if run.samples() == 1 { s * each } else { 0 };
                all[from..from + each].to_vec()
            };
            let classes = expected.logits.len() / shape[0];
            match run.outcome(s.min(run.samples() - 1)) {
                Outcome::Exited { gate, score } => {
                    assert_eq!(Some(gate), want, "{what}");
                    close(
                        &what,
                        &[score],
                        &[expected.gates[gate][i]],
                        range(&expected.gates[gate]),
                    );
                    assert!(outputs.get("logits").is_none(), "{what}");
                }
                Outcome::Completed(_) => {
                    assert_eq!(None, want, "{what}");
                    let logits = &expected.logits[i * classes..(i + 1) * classes];
                    close(&what, &row("logits"), logits, range(&expected.logits));
                }
            }
            for g in 0..want.map_or(expected.gates.len(), |g| g + 1) {
                let gate = &expected.gates[g];
                close(
                    &format!("{what} gate {g}"),
                    &row(&format!("gate_{g}")),
                    &gate[i..=i],
                    range(gate),
                );
            }
            if form.is_empty() && want.is_none() {
                for (g, masks) in expected.masks.iter().enumerate() {
                    let c = masks.len() / shape[0];
                    assert_eq!(
                        row(&format!("mask_{g}")),
                        masks[i * c..(i + 1) * c],
                        "{what} mask {g}"
                    );
                }
            }
        }
    }
}

#[test]
fn flat_models_one_clip_at_a_time() {
    for isa in Isa::available() {
        for (name, features) in MODELS {
            check("", name, features, isa, Mode::Skip, 1);
        }
    }
}

#[test]
fn flat_models_dense() {
    for isa in Isa::available() {
        for (name, features) in MODELS {
            check("", name, features, isa, Mode::Dense, 1);
        }
    }
}

#[test]
fn flat_models_in_batches() {
    for (name, features) in MODELS {
        for batch in [2, 7, 48] {
            check("", name, features, Isa::best(), Mode::Skip, batch);
        }
    }
}

#[test]
fn inlined_models() {
    for (name, features) in MODELS {
        check(".inlined", name, features, Isa::best(), Mode::Skip, 1);
    }
}

#[test]
fn staged_models() {
    for (name, features) in MODELS {
        check(".staged", name, features, Isa::best(), Mode::Skip, 1);
    }
}

#[test]
fn an_empty_batch_is_run_or_refused() {
    for (name, _) in &MODELS[..3] {
        let model = Model::load(models(&format!("{name}.onnx"))).unwrap();
        let mut session = model.session(Options::default()).unwrap();
        let inputs = [("input", View::new::<f32>(&[0, 1, 49, 10], &[]).unwrap())];
        if let Ok(run) = session.run(&inputs) {
            assert_eq!((run.samples(), run.macs().done), (0, 0));
        }
    }
}
