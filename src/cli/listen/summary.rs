//! The account at the end: what left where, what was skipped, what that saved.

use serde::Serialize;

use super::super::args;
use super::super::report::{Align, Table, percent, share, si, time};
use super::words::Record;
use super::{Probe, Window, seconds};

/// The summary, as `--json` prints it. Times are in nanoseconds.
#[derive(Serialize)]
pub(crate) struct Summary {
    model: String,
    stream: String,
    /// Length of the stream.
    pub(super) seconds: f64,
    /// Seconds between windows.
    hop: f64,
    windows: usize,
    /// The instruction set of the kernels.
    pub(super) isa: &'static str,
    threads: usize,
    gates: Vec<Gate>,
    /// Windows that ran to the end.
    completed: usize,
    masks: Vec<Mask>,
    macs: Macs,
    time: Times,
    pub(super) detections: Vec<Record>,
}

#[derive(Serialize)]
struct Gate {
    gate: usize,
    threshold: f32,
    left: usize,
    left_share: f64,
    /// Share that left here or earlier.
    cumulative_share: f64,
}

#[derive(Serialize)]
struct Mask {
    name: String,
    channels: usize,
    /// Windows that reached the mask.
    windows: usize,
    mean_live: f64,
    min_live: usize,
    max_live: usize,
}

#[derive(Serialize)]
struct Macs {
    mean: f64,
    dense: f64,
    skipped_share: f64,
}

#[derive(Serialize)]
struct Times {
    /// Every window was run so often, and its best time counts.
    rounds: usize,
    window: Spread,
    dense_window: Option<Spread>,
    /// Mean time over mean dense time, to be held against `macs_ratio`.
    ratio: Option<f64>,
    macs_ratio: f64,
    front_end: f64,
    /// Computing time over the time that passes between windows.
    real_time_factor: f64,
}

#[derive(Serialize)]
struct Spread {
    median: f64,
    mean: f64,
}

impl Spread {
    fn of(mut ns: Vec<u64>) -> Self {
        ns.sort_unstable();
        Self {
            median: ns.get(ns.len() / 2).copied().unwrap_or(0) as f64,
            mean: mean(ns.iter().map(|&x| x as f64)),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), x| (sum + x, n + 1.0));
    share(sum, n)
}

impl Summary {
    pub(super) fn new<'m>(
        args: &args::Listen,
        probe: &Probe,
        masks: impl Iterator<Item = (&'m str, usize)>,
        windows: &[Window],
        front_end_ns: u64,
        hop: usize,
    ) -> Self {
        let n = windows.len() as f64;
        let left = |gate| windows.iter().filter(|w| w.seen.exit == Some(gate)).count();
        let mut gone = 0;
        let gates = probe.gates.iter().enumerate().map(|(gate, info)| {
            gone += left(gate);
            Gate {
                gate,
                threshold: info.threshold,
                left: left(gate),
                left_share: share(left(gate) as f64, n),
                cumulative_share: share(gone as f64, n),
            }
        });
        let masks = masks.enumerate().filter_map(|(i, (name, channels))| {
            let live = windows
                .iter()
                .filter_map(|w| w.seen.live.get(i).copied().flatten());
            Some(Mask {
                name: name.to_owned(),
                channels,
                windows: live.clone().count(),
                mean_live: mean(live.clone().map(|n| n as f64)),
                min_live: live.clone().min()?,
                max_live: live.max()?,
            })
        });
        let done = mean(windows.iter().map(|w| w.seen.macs.0 as f64));
        let dense = mean(windows.iter().map(|w| w.seen.macs.1 as f64));
        let window = Spread::of(windows.iter().map(|w| w.ns).collect());
        let dense_window =
            (!args.no_dense).then(|| Spread::of(windows.iter().map(|w| w.dense_ns).collect()));
        let front_end = share(front_end_ns as f64, n);
        let hop = seconds(hop);
        Self {
            model: args.model.display().to_string(),
            stream: args.stream.display().to_string(),
            seconds: 0.0,
            hop,
            windows: windows.len(),
            isa: "",
            threads: args.threads.get(),
            gates: gates.collect(),
            completed: windows.iter().filter(|w| w.seen.exit.is_none()).count(),
            masks: masks.collect(),
            macs: Macs {
                mean: done,
                dense,
                skipped_share: 1.0 - share(done, dense),
            },
            time: Times {
                rounds: args.rounds.get(),
                ratio: dense_window.as_ref().map(|d| share(window.mean, d.mean)),
                macs_ratio: share(done, dense),
                front_end,
                real_time_factor: (window.mean + front_end) / (hop * 1e9),
                window,
                dense_window,
            },
            detections: Vec::new(),
        }
    }

    /// One line under the title of a picture.
    pub(crate) fn headline(&self) -> String {
        let mut parts = vec![format!(
            "{} windows of 1 s, one every {:.0} ms",
            self.windows,
            1e3 * self.hop
        )];
        if let Some(last) = self.gates.last() {
            parts.push(format!("{} left at a gate", percent(last.cumulative_share)));
        }
        parts.push(format!(
            "{} of the MACs skipped",
            percent(self.macs.skipped_share)
        ));
        let window = time(self.time.window.mean);
        parts.push(match &self.time.dense_window {
            Some(dense) => format!("{window} a window ({} dense)", time(dense.mean)),
            None => format!("{window} a window"),
        });
        parts.join("  ·  ")
    }

    /// Share of the windows that left at each gate, then that ran to the end.
    pub(crate) fn exit_shares(&self) -> Vec<f64> {
        let end = share(self.completed as f64, self.windows as f64);
        self.gates
            .iter()
            .map(|g| g.left_share)
            .chain([end])
            .collect()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} windows of 1 s, one every {:.0} ms ({}, {} thread{})\n",
            self.windows,
            1e3 * self.hop,
            self.isa,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
        );
        let mut table = Table::new(&[
            ("", Align::Left),
            ("score <", Align::Right),
            ("left here", Align::Right),
            ("", Align::Right),
            ("so far", Align::Right),
        ]);
        for gate in &self.gates {
            table.row([
                format!("gate {}", gate.gate),
                format!("{:.3}", gate.threshold),
                gate.left.to_string(),
                percent(gate.left_share),
                percent(gate.cumulative_share),
            ]);
        }
        let end = share(self.completed as f64, self.windows as f64);
        table.row([
            "ran to the end".to_owned(),
            String::new(),
            self.completed.to_string(),
            percent(end),
            String::new(),
        ]);
        text.push('\n');
        text.push_str(&table.render(""));
        if !self.masks.is_empty() {
            let mut table = Table::new(&[
                ("", Align::Left),
                ("channels", Align::Right),
                ("live", Align::Right),
                ("mean", Align::Right),
                ("min", Align::Right),
                ("max", Align::Right),
                ("windows that got there", Align::Right),
            ]);
            for mask in &self.masks {
                table.row([
                    mask.name.clone(),
                    mask.channels.to_string(),
                    format!("{:.1}", mask.mean_live),
                    percent(share(mask.mean_live, mask.channels as f64)),
                    mask.min_live.to_string(),
                    mask.max_live.to_string(),
                    mask.windows.to_string(),
                ]);
            }
            text.push('\n');
            text.push_str(&table.render(""));
        }
        text.push_str(&format!(
            "\nMACs a window  {} of {} dense: {} skipped\n",
            si(self.macs.mean),
            si(self.macs.dense),
            percent(self.macs.skipped_share),
        ));
        let best = match self.time.rounds {
            1 => String::new(),
            n => format!(" (best of {n} runs of each window)"),
        };
        text.push_str(&format!(
            "time a window  median {}, mean {}{best}\n",
            time(self.time.window.median),
            time(self.time.window.mean),
        ));
        if let (Some(dense), Some(ratio)) = (&self.time.dense_window, self.time.ratio) {
            text.push_str(&format!(
                "run dense      median {}, mean {}\n",
                time(dense.median),
                time(dense.mean),
            ));
            text.push_str(&format!(
                "time ratio     {ratio:.3} of dense, where the MACs are {:.3}\n",
                self.time.macs_ratio,
            ));
        }
        text.push_str(&format!(
            "front end      {} a window\nreal time      {:.0} times faster (factor {:.6})\n",
            time(self.time.front_end),
            share(1.0, self.time.real_time_factor),
            self.time.real_time_factor,
        ));
        text
    }
}
