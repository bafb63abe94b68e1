//! `sluicegate check`: test cases in folders.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use sluicegate::{DType, Error, Model, Options, Tensor, View, ops};

use super::args::Check;
use super::npy;
use super::report;

pub(crate) fn check(args: &Check, out: &mut dyn Write) -> Result<ExitCode> {
    let mut cases = BTreeSet::new();
    for dir in &args.dirs {
        find(dir, &mut cases)?;
    }
    let dirs: Vec<String> = args.dirs.iter().map(|d| d.display().to_string()).collect();
    ensure!(
        !cases.is_empty(),
        "{}: no folder here holds a model.onnx",
        dirs.join(", ")
    );
    let cases: Vec<PathBuf> = cases.into_iter().collect();
    let verdicts = run_all(args, &cases);
    let (mut passed, mut failed, mut unsupported) = (0, 0, 0);
    for (case, verdict) in cases.iter().zip(&verdicts) {
        let (kind, why) = match verdict {
            Verdict::Passed => {
                passed += 1;
                continue;
            }
            Verdict::Failed(why) => {
                failed += 1;
                ("failed", why)
            }
            Verdict::Unsupported(why) => {
                unsupported += 1;
                ("unsupported", why)
            }
        };
        writeln!(out, "{kind:11}  {}: {why}", case.display())?;
    }
    writeln!(
        out,
        "{passed} passed, {failed} failed, {unsupported} unsupported"
    )?;
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The folders at and below `dir` that hold a model. Links to folders are not followed: they may form a ring.
fn find(dir: &Path, cases: &mut BTreeSet<PathBuf>) -> Result<()> {
    let name = || dir.display().to_string();
    if dir.join("model.onnx").is_file() {
        cases.insert(dir.to_owned());
    }
    for entry in std::fs::read_dir(dir).with_context(name)? {
        let entry = entry.with_context(name)?;
        if entry.file_type().with_context(name)?.is_dir() {
            find(&entry.path(), cases)?;
        }
    }
    Ok(())
}

enum Verdict {
    Passed,
    Failed(String),
    Unsupported(String),
}

fn run_all(args: &Check, cases: &[PathBuf]) -> Vec<Verdict> {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(|info| LAST_PANIC.set(info.to_string())));
    let next = AtomicUsize::new(0);
    let verdicts: Vec<Mutex<Option<Verdict>>> = cases.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while let Some((case, slot)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            cases.get(i).zip(verdicts.get(i))
        } {
            let verdict = judge(args, case);
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(verdict);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..args.jobs.get().min(cases.len()) {
            scope.spawn(work);
        }
        work();
    });
    panic::set_hook(usual);
    let verdict = |slot: Mutex<Option<Verdict>>| slot.into_inner().ok().flatten();
    let lost = || Verdict::Failed("was not run".to_owned());
    let verdicts = verdicts.into_iter();
    verdicts.map(|v| verdict(v).unwrap_or_else(lost)).collect()
}

thread_local! {
    /// What the last panic of this thread said, and where.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic is a failure of one case, not of the others.
fn judge(args: &Check, case: &Path) -> Verdict {
    match panic::catch_unwind(AssertUnwindSafe(|| run(args, case))) {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(error)) if is_unsupported(&error) => Verdict::Unsupported(report::one_line(&error)),
        Ok(Err(error)) => Verdict::Failed(report::one_line(&error)),
        Err(_) => Verdict::Failed(LAST_PANIC.take().replace('\n', " ")),
    }
}

fn is_unsupported(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<npy::UnsupportedType>()
            || matches!(cause.downcast_ref(), Some(Error::Unsupported { .. }))
    })
}

fn run(args: &Check, case: &Path) -> Result<()> {
    let model = Model::load(case.join("model.onnx"))?;
    let graph = model.graph();
    let mut inputs = Vec::new();
    for (k, &id) in graph.inputs.iter().enumerate() {
        let file = case.join(format!("in_{k}.npy"));
        // A missing file is an optional input that is left out.
        if file.exists() {
            inputs.push((graph.value(id).name.as_str(), npy::read(&file)?));
        }
    }
    let mut expected = Vec::new();
    for (k, &id) in graph.outputs.iter().enumerate() {
        let file = case.join(format!("out_{k}.npy"));
        if file.exists() {
            expected.push((k, graph.value(id).name.as_str(), npy::read(&file)?));
        }
    }
    ensure!(!expected.is_empty(), "there is no out_K.npy");

    let differ = |name: &str, got: View<'_>, want: &Tensor| {
        compare(got, want.view(), args).with_context(|| format!("output `{name}`"))
    };
    if args.reference {
        ensure!(
            inputs.len() == graph.inputs.len(),
            "the reference interpreter needs all inputs"
        );
        let views: Vec<View<'_>> = inputs.iter().map(|(_, t)| t.view()).collect();
        let outputs = ops::interpret(graph, &views, Options::default().memory_limit)?;
        for (k, name, want) in &expected {
            differ(name, outputs[*k].view(), want)?;
        }
        return Ok(());
    }
    let views: Vec<(&str, View<'_>)> = inputs.iter().map(|(n, t)| (*n, t.view())).collect();
    let mut session = model.session(Options::default())?;
    let run = session.run(&views)?;
    for (_, name, want) in &expected {
        let got = super::run::gather(&run, name)?;
        match got.samples.len() {
            n if n == run.samples() => differ(name, got.tensor.view(), want)?,
            n => bail!(
                "output `{name}`: computed for {n} of {} samples",
                run.samples()
            ),
        }
    }
    Ok(())
}

/// Fails unless types and shapes are equal and |got - want| <= atol + rtol |want| everywhere; integers and truth values must be equal.
/// NaN equals NaN.
fn compare(got: View<'_>, want: View<'_>, args: &Check) -> Result<()> {
    let facts = |v: View<'_>| format!("{} {}", v.dtype(), v.shape());
    ensure!(
        got.dtype() == want.dtype() && got.shape() == want.shape(),
        "is {} and should be {}",
        facts(got),
        facts(want)
    );
    match got.dtype() {
        DType::F32 => {
            let pairs = got.as_slice::<f32>()?.iter().zip(want.as_slice::<f32>()?);
            let close = |&g: &f32, &w: &f32| {
                let (g, w) = (f64::from(g), f64::from(w));
                let near = (g - w).abs() <= args.atol + args.rtol * w.abs();
                g == w || g.is_nan() && w.is_nan() || near && w.is_finite()
            };
            let distance = |&g: &f32, &w: &f32| match (f64::from(g) - f64::from(w)).abs() {
                d if d.is_nan() => f64::INFINITY,
                d => d,
            };
            differences(pairs, close, distance)
        }
        DType::I64 => integers(got.as_slice::<i64>()?, want.as_slice()?),
        DType::I32 => integers(got.as_slice::<i32>()?, want.as_slice()?),
        DType::I8 => integers(got.as_slice::<i8>()?, want.as_slice()?),
        _ => integers(got.bytes(), want.bytes()),
    }
}

fn integers<T: Copy + Into<i64> + fmt::Display>(got: &[T], want: &[T]) -> Result<()> {
    let value = |x: &T| -> i64 { (*x).into() };
    let close = |g: &T, w: &T| value(g) == value(w);
    let distance = |g: &T, w: &T| value(g).abs_diff(value(w)) as f64;
    differences(got.iter().zip(want), close, distance)
}

/// An error that tells how many pairs are not close, the greatest distance among them, and where that is.
fn differences<'a, T: fmt::Display + 'a>(
    pairs: impl Iterator<Item = (&'a T, &'a T)>,
    close: impl Fn(&T, &T) -> bool,
    distance: impl Fn(&T, &T) -> f64,
) -> Result<()> {
    let (mut wrong, mut worst, mut elements) = (0usize, None::<(f64, String)>, 0usize);
    for (i, (got, want)) in pairs.enumerate() {
        elements += 1;
        if close(got, want) {
            continue;
        }
        wrong += 1;
        let d = distance(got, want);
        if worst.as_ref().is_none_or(|w| d > w.0) {
            worst = Some((d, format!("{got} instead of {want} at element {i}")));
        }
    }
    match worst {
        Some((max, at)) => {
            bail!("{wrong} of {elements} elements differ, max error {max:.3e}: {at}")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn verdict(got: &[f32], want: &[f32]) -> Result<()> {
        let args = super::super::args::Args::parse_from(["sluicegate", "check", "x", "--atol=0.1"]);
        let super::super::args::Command::Check(args) = args.command else {
            bail!("not check")
        };
        compare(
            View::new(&[got.len()], got)?,
            View::new(&[want.len()], want)?,
            &args,
        )
    }

    #[test]
    fn comparison() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert!(verdict(&[1.0, nan, inf, -inf], &[1.05, nan, inf, -inf]).is_ok());
        for (got, want) in [(1.0, 2.0), (nan, 1.0), (1.0, nan), (inf, -inf), (1.0, inf)] {
            assert!(verdict(&[got], &[want]).is_err(), "{got} {want}");
        }
        let error = verdict(&[1.0, 5.0, 0.0], &[0.0, 0.0, 0.0]).unwrap_err();
        let expected = "2 of 3 elements differ, max error 5.000e0: 5 instead of 0 at element 1";
        assert_eq!(error.to_string(), expected);
        assert!(
            verdict(&[1.0], &[1.0, 1.0])
                .unwrap_err()
                .to_string()
                .contains("f32 [2]")
        );
        assert!(integers(&[1u8, 2], &[1, 3]).is_err());
    }
}
