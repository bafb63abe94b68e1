//! `sluicegate listen`: a keyword model on a recording, window by window.

// What the outputs mean, and when a word counts as heard.
mod words;
// What is read off the graph and off a run: gates, masks, exits.
mod probe;
// The account at the end.
mod summary;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sluicegate::graph::{Dim, Graph};
use sluicegate::{Isa, Mode, Model, Options, Plan, Session, View, default_isa};

use super::args::Listen;
use super::frontend::{FRAMES, Features, FrontEnd, WINDOW};
use super::output::Pending;
use super::plot::Picture;
use super::wav::{self, SAMPLE_RATE};
pub(crate) use probe::{Observation, Probe};
pub(crate) use summary::Summary;
use words::Listener;
pub(crate) use words::{Detection, Words};

/// Windows that run one after another before the dense session gets its turn on the same ones: long enough that each session works
/// from warm caches, as it would alone, short enough that both meet the same phases of the machine.
const BLOCK: usize = 16;

/// What happened in a window.
pub(crate) struct Window {
    /// Gates, masks, exit.
    pub(crate) seen: Observation,
    /// The likeliest keyword and its probability, if the window was run to the end.
    pub(crate) keyword: Option<(usize, f32)>,
    /// Best time of the run, and of the dense run.
    ns: u64,
    dense_ns: u64,
}

pub(crate) fn listen(args: &Listen, out: &mut dyn Write) -> Result<()> {
    let model = super::load(&args.model)?;
    let of_model = || args.model.display().to_string();
    let (input, features) = input(model.graph()).with_context(of_model)?;
    let probe = Probe::new(model.graph()).with_context(of_model)?;
    let words = match &args.labels {
        Some(file) => Words::read(file)?,
        None => Words::default(),
    };
    let audio = wav::read(&args.stream)?;
    ensure!(
        audio.samples.len() >= WINDOW,
        "{}: {:.2} s of audio is shorter than the window of {} s",
        args.stream.display(),
        seconds(audio.samples.len()),
        seconds(WINDOW),
    );
    let plot = args.plot.as_deref().map(Pending::new).transpose()?;
    if !args.json {
        let notes: Vec<&str> = audio.converted.iter().map(String::as_str).collect();
        let notes = match notes.join(", ") {
            notes if notes.is_empty() => notes,
            notes => format!(" ({notes})"),
        };
        writeln!(
            out,
            "{} listens to {}{notes}, {:.1} s",
            args.model.display(),
            args.stream.display(),
            seconds(audio.samples.len()),
        )?;
    }

    let hop = args
        .hop
        .get()
        .checked_mul(SAMPLE_RATE / 1000)
        .context("--hop is too large")?;
    let isa = default_isa()?;
    let mut ear = Ear {
        input: &input,
        shape: [1, 1, FRAMES, features.width()],
        skip: session(&model, Mode::Skip, isa, args)?,
        dense: match args.no_dense {
            true => None,
            false => Some(session(&model, Mode::Dense, isa, args)?),
        },
        front_end: FrontEnd::new(features),
        front_end_ns: 0,
        probe: &probe,
        words: &words,
        rounds: args.rounds.get(),
    };
    let starts: Vec<usize> = (0..=audio.samples.len() - WINDOW).step_by(hop).collect();
    let bar = progress(starts.len());
    let mut windows: Vec<Window> = Vec::with_capacity(starts.len());
    let mut listener = Listener::new(args.threshold);
    let mut detections = Vec::new();
    for block in starts.chunks(BLOCK) {
        let from = windows.len();
        ear.hear(&audio.samples, block, hop, &mut windows)
            .with_context(of_model)?;
        for (window, &start) in windows[from..].iter().zip(block) {
            let Some(detection) = listener.hear(window.keyword, seconds(start + WINDOW)) else {
                continue;
            };
            if !args.json {
                let line = detection.line(&words);
                bar.suspend(|| writeln!(out, "{line}").and_then(|()| out.flush()))?;
            }
            detections.push(detection);
        }
        bar.inc(block.len() as u64);
    }
    bar.finish_and_clear();

    let masks = ear.skip.plan().into_iter().flat_map(Plan::masks);
    let mut summary = Summary::new(args, &probe, masks, &windows, ear.front_end_ns, hop);
    summary.seconds = seconds(audio.samples.len());
    summary.isa = isa.name();
    summary.detections = detections.iter().map(|d| d.record(&words)).collect();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &summary)?;
        writeln!(out)?;
    } else {
        write!(out, "\n{}", summary.text())?;
    }
    if let Some(mut file) = plot {
        let picture = Picture {
            model: file_name(&args.model),
            stream: file_name(&args.stream),
            samples: &audio.samples,
            hop: seconds(hop),
            windows: &windows,
            probe: &probe,
            words: &words,
            detections: &detections,
            threshold: args.threshold,
            summary: &summary,
        };
        file.write(picture.svg().as_bytes())?;
        let path = file.finish()?;
        if !args.json {
            writeln!(out, "\nplot           {}", path.display())?;
        }
    }
    Ok(())
}

/// Samples as seconds.
pub(crate) fn seconds(samples: usize) -> f64 {
    samples as f64 / SAMPLE_RATE as f64
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The one input of a keyword model, and the features that its shape asks for.
fn input(graph: &Graph) -> Result<(String, Features)> {
    let fit = |dims: &[Dim]| {
        let [batch, Dim::Fixed(1), Dim::Fixed(FRAMES), Dim::Fixed(width)] = dims else {
            return None;
        };
        let all = [Features::Mfcc, Features::LogMel];
        let features = all.into_iter().find(|f| f.width() == *width)?;
        (!matches!(batch, Dim::Fixed(n) if *n != 1)).then_some(features)
    };
    if let [id] = graph.inputs[..] {
        let value = graph.value(id);
        if let Some(features) = value.dims.as_deref().and_then(fit) {
            return Ok((value.name.clone(), features));
        }
    }
    let describe = |&id| {
        let value = graph.value(id);
        format!(
            "`{}` {}",
            value.name,
            super::inspect::dims(value.dims.as_deref())
        )
    };
    let inputs: Vec<String> = graph.inputs.iter().map(describe).collect();
    bail!(
        "the inputs are {}; `listen` has front ends for one input, MFCC [N, 1, 49, 10] or log-mel [N, 1, 49, 40]",
        inputs.join(", "),
    );
}

fn progress(windows: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} windows, {eta} left");
    let bar = ProgressBar::new(windows as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn session(model: &Model, mode: Mode, isa: Isa, args: &Listen) -> Result<Session> {
    Ok(model.session(Options {
        mode,
        isa: Some(isa),
        threads: args.threads.get(),
        ..Options::default()
    })?)
}

/// From samples to windows: the front end, the session and its dense rival.
struct Ear<'a> {
    input: &'a str,
    shape: [usize; 4],
    skip: Session,
    dense: Option<Session>,
    front_end: FrontEnd,
    front_end_ns: u64,
    probe: &'a Probe,
    words: &'a Words,
    rounds: usize,
}

impl Ear<'_> {
    /// Runs the windows that start at `starts` and adds them to `windows`.
    fn hear(
        &mut self,
        samples: &[f32],
        starts: &[usize],
        hop: usize,
        windows: &mut Vec<Window>,
    ) -> Result<()> {
        let len = self.shape.iter().product::<usize>();
        let mut features = Vec::with_capacity(starts.len() * len);
        for &start in starts {
            let clock = Instant::now();
            let window = self.front_end.slide(&samples[start..start + WINDOW], hop)?;
            self.front_end_ns += elapsed(clock);
            features.extend_from_slice(window);
        }
        let from = windows.len();
        for round in 0..self.rounds {
            for (i, features) in features.chunks_exact(len).enumerate() {
                let inputs = [(self.input, View::new(&self.shape, features)?)];
                self.skip.prepare(&inputs)?;
                let clock = Instant::now();
                let run = self.skip.run(&inputs)?;
                let ns = elapsed(clock);
                if round == 0 {
                    let seen = self.probe.observe(&run);
                    let keyword = match self.probe.logits(&run) {
                        Some(logits) if seen.exit.is_none() => Some(self.words.likeliest(logits?)?),
                        _ => None,
                    };
                    windows.push(Window {
                        seen,
                        keyword,
                        ns,
                        dense_ns: u64::MAX,
                    });
                } else {
                    let window = &mut windows[from + i];
                    window.ns = window.ns.min(ns);
                }
            }
            let Some(dense) = &mut self.dense else {
                continue;
            };
            for (i, features) in features.chunks_exact(len).enumerate() {
                let inputs = [(self.input, View::new(&self.shape, features)?)];
                dense.prepare(&inputs)?;
                let clock = Instant::now();
                dense.run(&inputs)?;
                let window = &mut windows[from + i];
                window.dense_ns = window.dense_ns.min(elapsed(clock));
            }
        }
        Ok(())
    }
}

fn elapsed(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
