//! Time per sample of a model over a file of features: `window_time MODEL FEATURES.npy [--dense] [--passes N] [--trace]`.
//!
//! Prints one line of JSON, so that a script can run it turn by turn with another runtime.

use std::process::ExitCode;
use std::time::Instant;

use sluicegate::{Mode, Model, Options, View};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("window_time: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().any(|a| a == name);
    let [model, features, ..] = &args[..] else {
        return Err(
            "usage: window_time MODEL FEATURES.npy [--dense] [--passes N] [--trace]".into(),
        );
    };
    let passes = match args
        .iter()
        .position(|a| a == "--passes")
        .and_then(|i| args.get(i + 1))
    {
        Some(n) => n.parse()?,
        None => 20,
    };
    let model = Model::load(model)?;
    let file = npyz::NpyFile::new(std::io::BufReader::new(std::fs::File::open(features)?))?;
    let mut dims: Vec<usize> = file.shape().iter().map(|&d| d as usize).collect();
    let x: Vec<f32> = file.into_vec()?;
    let samples = std::mem::replace(dims.first_mut().ok_or("features without axes")?, 1);
    let each: usize = dims.iter().product();
    let options = Options {
        mode: if flag("--dense") {
            Mode::Dense
        } else {
            Mode::Skip
        },
        trace: flag("--trace"),
        ..Options::default()
    };
    let mut session = model.session(options)?;
    let name = model.graph().value(model.graph().inputs[0]).name.clone();
    let (mut times, mut done, mut dense) = (Vec::new(), 0, 0);
    let mut nodes: Vec<(String, u64, u64)> = Vec::new();
    for pass in 0..=passes {
        (done, dense) = (0, 0);
        let started = Instant::now();
        for sample in x.chunks_exact(each) {
            let inputs = [(name.as_str(), View::new(&dims, sample)?)];
            let run = session.run(&inputs)?;
            done += run.macs().done;
            dense += run.macs().dense;
            if let Some(trace) = run.trace() {
                nodes.resize(trace.nodes().len(), Default::default());
                for (sum, (node, took)) in nodes.iter_mut().zip(trace.nodes()) {
                    sum.0.clone_from(&node.label);
                    sum.1 += took.ns;
                    sum.2 += took.macs;
                }
            }
        }
        if pass > 0 {
            times.push(started.elapsed().as_secs_f64() * 1e6 / samples as f64);
        }
    }
    times.sort_by(f64::total_cmp);
    for (label, ns, macs) in nodes {
        let runs = ((passes + 1) * samples) as f64;
        println!(
            "{:9.0} ns {:9.0} MACs  {label}",
            ns as f64 / runs,
            macs as f64 / runs
        );
    }
    println!(
        "{{\"us_per_window\": {:.3}, \"min\": {:.3}, \"macs\": {:.4}}}",
        times[times.len() / 2],
        times[0],
        done as f64 / dense.max(1) as f64
    );
    Ok(())
}
