//! What a mask saves: every layer of the benchmarks at many densities, with masks of inputs, of outputs and of both, side by side.
//!
//! `density_sweep [--threads N] [--rounds N] [--only PART_OF_A_NAME]` prints a JSON list of rows
//!
//! ```text
//! {"peer": "sluicegate", "set": "sweep" | "net", "shape": NAME, "isa": .., "threads": N, "mask": "none" | "random" | "blocked",
//!  "side": "in" | "out" | "both", "density": D, "in": SHARE, "out": SHARE, "operations": those of the dense layer, "bytes": .., "us": MICROSECONDS}
//! ```
//! `density` is the share of live channels that was asked for, `in` and `out` are those of the masks, rounded to channels or runs of 16. A mask
//! of density 1 is one with every bit set, `none` is a call without masks. Each round times all rows of a shape once, forward and back in
//! turns; a row is the median over the rounds. `SLUICEGATE_MAX_ISA` caps the instruction set.

#[path = "../benches/common/mod.rs"]
mod common;

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use common::layers::{LAYERS, Layer};
use common::net::floats;
use common::{Pattern, mask_of, nets};
use sluicegate::{ChannelMask, Isa, Model, Options, Threads, View, default_isa};

type Outcome<T> = Result<T, Box<dyn Error>>;

const DENSITIES: [f64; 8] = [1.0, 0.9, 0.75, 0.5, 0.25, 0.1, 0.03, 0.0];

/// Which operands have the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    In,
    Out,
    Both,
}

impl Side {
    const ALL: [Self; 3] = [Self::In, Self::Out, Self::Both];

    fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        }
    }
}

struct Sweep {
    isa: Isa,
    threads: usize,
    rounds: usize,
    only: String,
    /// Whether a row was printed.
    begun: bool,
}

/// What is timed, as a row names it.
struct Row {
    mask: &'static str,
    side: &'static str,
    density: f64,
    /// Shares of the inputs and of the outputs that live.
    live: [f64; 2],
}

impl Row {
    const DENSE: Self = Self {
        mask: "none",
        side: "both",
        density: 1.0,
        live: [1.0; 2],
    };
}

/// A set of the share `density` of the channels: none, all, or some.
fn set(seed: u64, channels: usize, density: f64, pattern: Pattern) -> ChannelMask {
    if density == 0.0 {
        return ChannelMask::empty(channels);
    }
    mask_of(seed, channels, density, pattern).unwrap_or_else(|| ChannelMask::full(channels))
}

impl Sweep {
    /// Medians in microseconds of `run(i)` for each `i` below `rows`, in rounds.
    fn time(&self, rows: usize, mut run: impl FnMut(usize)) -> Vec<f64> {
        let repeats: Vec<u32> = (0..rows)
            .map(|i| {
                run(i);
                let start = Instant::now();
                run(i);
                let one = start.elapsed().max(Duration::from_nanos(50));
                (40_000 / one.as_nanos()).clamp(1, 1000) as u32
            })
            .collect();
        let mut samples = vec![Vec::new(); rows];
        for round in 0..self.rounds {
            for i in 0..rows {
                let i = if round % 2 == 0 { i } else { rows - 1 - i };
                run(i);
                for _ in 0..2 {
                    let start = Instant::now();
                    for _ in 0..repeats[i] {
                        run(i);
                    }
                    samples[i].push(start.elapsed().as_secs_f64() * 1e6 / f64::from(repeats[i]));
                }
            }
        }
        let median = |mut us: Vec<f64>| {
            us.sort_by(f64::total_cmp);
            us[us.len() / 2]
        };
        samples.into_iter().map(median).collect()
    }

    fn print(
        &mut self,
        set: &str,
        shape: &str,
        (operations, bytes): (u64, u64),
        row: &Row,
        us: f64,
    ) {
        let begin = if self.begun { ",\n" } else { "[\n" };
        self.begun = true;
        let Self { isa, threads, .. } = self;
        let Row {
            mask,
            side,
            density,
            live: [live_in, live_out],
        } = row;
        print!(
            "{begin}{{\"peer\": \"sluicegate\", \"set\": \"{set}\", \"shape\": \"{shape}\", \"isa\": \"{isa}\", \"threads\": {threads}, \
             \"mask\": \"{mask}\", \"side\": \"{side}\", \"density\": {density}, \"in\": {live_in:.4}, \"out\": {live_out:.4}, \"operations\": {operations}, \"bytes\": {bytes}, \
             \"us\": {us:.3}}}"
        );
    }

    fn layer(&mut self, layer: Layer, pool: &Threads) {
        let (inputs, outputs) = layer.channels();
        let mut prepared = layer.prepare(self.isa, self.threads);
        let mut rows = vec![(Row::DENSE, None, None)];
        for density in DENSITIES {
            for pattern in Pattern::ALL {
                if pattern == Pattern::Blocked && (density == 1.0 || density == 0.0) {
                    continue;
                }
                for side in Side::ALL {
                    let live_in = set(7, inputs, density, pattern);
                    // What a depthwise convolution reads of a channel is what it writes of it.
                    let seed = if layer.is_depthwise() { 7 } else { 8 };
                    let live_out = set(seed, outputs, density, pattern);
                    let live_in = (side != Side::Out).then_some(live_in);
                    let live_out = (side != Side::In).then_some(live_out);
                    let share = |set: &Option<ChannelMask>| {
                        set.as_ref()
                            .map_or(1.0, |set| set.count() as f64 / set.len() as f64)
                    };
                    let row = Row {
                        mask: pattern.name(),
                        side: side.name(),
                        density,
                        live: [share(&live_in), share(&live_out)],
                    };
                    rows.push((row, live_in, live_out));
                }
            }
        }
        let us = self.time(rows.len(), |i| {
            let (_, live_in, live_out) = &rows[i];
            let live_in = live_in.as_ref().map(ChannelMask::as_channels);
            let live_out = live_out.as_ref().map(ChannelMask::as_channels);
            black_box(&mut prepared).run(pool, live_in, live_out);
        });
        let cost = (layer.operations(inputs, outputs), layer.bytes());
        let shape = format!("{}/{}", layer.group, layer.name);
        for ((row, ..), us) in rows.iter().zip(us) {
            self.print("sweep", &shape, cost, row, us);
        }
    }

    fn net(&mut self, name: &str) -> Outcome<()> {
        let options = || Options {
            isa: Some(self.isa),
            threads: self.threads,
            ..Options::default()
        };
        let (plain, masked) = (nets::build(name, false), nets::build(name, true));
        let x = floats(plain.input.iter().product(), 1);
        let mut sessions = [
            Model::from_graph(plain.graph).session(options())?,
            Model::from_graph(masked.graph).session(options())?,
        ];
        let extents: Vec<[usize; 2]> = masked.masks.iter().map(|&(_, c)| [1, c]).collect();
        let mut rows = vec![Row::DENSE];
        let mut masks: Vec<Vec<Vec<f32>>> = vec![Vec::new()];
        for density in DENSITIES {
            for pattern in Pattern::ALL {
                if pattern == Pattern::Blocked && (density == 1.0 || density == 0.0) {
                    continue;
                }
                rows.push(Row {
                    mask: pattern.name(),
                    side: "both",
                    density,
                    live: [density; 2],
                });
                let each = masked.masks.iter().zip(7..).map(|(&(_, channels), seed)| {
                    let set = set(seed, channels, density, pattern);
                    let live = |c| f32::from(u8::from(set.contains(c)));
                    (0..channels).map(live).collect()
                });
                masks.push(each.collect());
            }
        }
        let mut inputs = Vec::new();
        for masks in &masks {
            let mut all = vec![("x", View::new(&plain.input, &x)?)];
            for (((name, _), dims), live) in masked.masks.iter().zip(&extents).zip(masks) {
                all.push((name, View::new(dims, live)?));
            }
            inputs.push(all);
        }
        let mut macs = 0;
        let us = self.time(rows.len(), |i| {
            let run = sessions[usize::from(i > 0)].run(&inputs[i]).expect("runs");
            macs = run.macs().dense;
        });
        for (row, us) in rows.iter().zip(us) {
            self.print("net", name, (2 * macs, 0), row, us);
        }
        Ok(())
    }
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let number = |name: &str, default: usize| value(name).map_or(Ok(default), |n| n.parse());
    let mut sweep = Sweep {
        isa: default_isa()?,
        threads: number("--threads", 1)?,
        rounds: number("--rounds", 9)?.max(1),
        only: value("--only").unwrap_or_default(),
        begun: false,
    };
    let pool = Threads::new(sweep.threads)?;
    for layer in LAYERS {
        if format!("{}/{}", layer.group, layer.name).contains(&sweep.only) {
            sweep.layer(*layer, &pool);
        }
    }
    for name in nets::NAMES {
        if format!("net/{name}").contains(&sweep.only) {
            sweep.net(name)?;
        }
    }
    println!("{}", if sweep.begun { "\n]" } else { "[]" });
    Ok(())
}
