//! The kernels as a worker of the timing rig: speaks its line protocol on stdin and stdout.
//!
//! ```text
//! -> prep key=value ...      <- ok NOTE | skip REASON
//! -> run MS REPS             <- ok WALL:DIRTY:CPU:CALIBRATION ...      nanoseconds, a sample each
//! ```
//! Inputs of a density below one get a run-time mask. `SLUICEGATE_ISA` caps the instruction set; `SLUICEGATE_CONV` (`fastest`, `direct`,
//! `winograd2`, `winograd4`) says how convolutions are computed, `SLUICEGATE_LAYOUT` (`nchw`, `nchwc`) how their maps lie: what
//! transposes them is not timed, as with the rivals.

mod attention;
mod clock;
mod layers;

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use sluicegate::graph::Dim;
use sluicegate::{Model, Options, Tensor, Threads};
use sluicegate_kernels::{Buffer, Isa};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Run = Box<dyn FnMut()>;

struct Case<'a>(HashMap<&'a str, &'a str>);

impl<'a> Case<'a> {
    fn parse(words: impl Iterator<Item = &'a str>) -> Self {
        Self(words.filter_map(|word| word.split_once('=')).collect())
    }
    fn text(&self, key: &str) -> &str {
        self.0.get(key).copied().unwrap_or("")
    }
    fn get(&self, key: &str, default: usize) -> usize {
        self.0
            .get(key)
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    }
    fn density(&self) -> f64 {
        self.text("density").parse().unwrap_or(1.0)
    }
}

/// Random numbers, and below zeros, in memory aligned as that of the rivals is.
fn floats(n: usize, seed: u64) -> Buffer {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s
    };
    let mut data = Buffer::zeros(n);
    data.fill_with(|| (next() >> 40) as f32 / 8_388_608.0 - 1.0);
    data
}

/// A random set of `density * len` channels, at least one; none where all are live.
fn mask(len: usize, density: f64) -> Option<Vec<u64>> {
    if density >= 1.0 {
        return None;
    }
    let mut order: Vec<usize> = (0..len).collect();
    let keys = floats(len, 7);
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    let live = ((len as f64 * density).round() as usize).max(1);
    let mut words = vec![0; len.div_ceil(64)];
    for &c in &order[..live] {
        words[c / 64] |= 1 << (c % 64);
    }
    Some(words)
}

/// Compares sampled outputs with f64 sums.
fn check(y: &[f32], expected: impl Fn(usize) -> f64) -> Outcome<()> {
    let (mut error, mut greatest) = (0f64, 1e-30f64);
    for i in (0..60).map(|t| t * 104_729 % y.len()) {
        let sum = expected(i);
        error = error.max((sum - f64::from(y[i])).abs());
        greatest = greatest.max(sum.abs());
    }
    if error / greatest > 1e-4 {
        return Err(format!("WRONG relerr={:.1e}", error / greatest).into());
    }
    Ok(())
}

/// How long threads wait for work: as long as those of OpenMP do, which most rivals use, so that between the bursts of a turn none is woken.
const LINGER: Duration = Duration::from_millis(10);

/// A whole model, `onnx` or `models/NAME.onnx`, on inputs that are random.
fn model(case: &Case<'_>, isa: Isa, pool: Threads) -> Outcome<(Run, &'static str)> {
    let named = format!("models/{}.onnx", case.text("name"));
    let model = Model::load(match case.text("onnx") {
        "" => &named,
        path => path,
    })?;
    let mut session = model.session(Options {
        isa: Some(isa),
        pool: Some(Arc::new(pool)),
        ..Options::default()
    })?;
    let mut inputs = Vec::new();
    for &id in &model.graph().inputs {
        let value = model.graph().value(id);
        let dims = value.dims.as_ref().ok_or("an input without a shape")?;
        let dims: Vec<usize> = dims
            .iter()
            .map(|dim| if let Dim::Fixed(n) = dim { *n } else { 1 })
            .collect();
        let data = floats(dims.iter().product(), 1);
        inputs.push((value.name.clone(), Tensor::new(&dims, data.to_vec())?));
    }
    let mut run = move || {
        let views: Vec<_> = inputs.iter().map(|(n, x)| (n.as_str(), x.view())).collect();
        session.run(&views).map(|_| ())
    };
    run()?;
    Ok((Box::new(move || run().expect("ran before")), "model"))
}

fn prepare(case: &Case<'_>) -> Outcome<(Run, &'static str)> {
    if !matches!(case.text("dt"), "" | "f32") {
        return Err("f32 only".into());
    }
    if !matches!(case.text("mode"), "" | "dense") {
        return Err("mode".into());
    }
    let isa = match std::env::var("SLUICEGATE_ISA") {
        Ok(name) => Isa::best_up_to(&name)?,
        Err(_) => Isa::best(),
    };
    let pool = Threads::lingering(case.get("threads", 1), LINGER)?;
    match case.text("op") {
        "trivial" => Ok((Box::new(|| ()), "nothing")),
        "gemm" => layers::product(case, isa, pool),
        "conv" => layers::convolution(case, isa, pool),
        "attn" => attention::attention(case, isa, pool),
        "model" => model(case, isa, pool),
        op => Err(format!("op {op}").into()),
    }
}

fn main() -> Outcome<()> {
    let (mut prepared, mut multi) = (None, false);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let answer = match words.next() {
            Some("prep") => {
                let case = Case::parse(words);
                multi = case.get("threads", 1) > 1;
                match prepare(&case) {
                    Ok((run, name)) => {
                        prepared = Some(run);
                        format!("ok {name}")
                    }
                    Err(why) => {
                        prepared = None;
                        format!("skip {why}")
                    }
                }
            }
            Some("run") => match &mut prepared {
                Some(run) => {
                    let ms: f64 = words.next().unwrap_or("8").parse()?;
                    let reps = words.next().unwrap_or("200").parse()?;
                    clock::sample(run, Duration::from_secs_f64(ms / 1e3), reps, multi)
                }
                None => "skip not-prepared".into(),
            },
            Some("quit") => break,
            _ => continue,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
