//! Arguments.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand};

const ENVIRONMENT: &str = "\
Environment:
  SLUICEGATE_MAX_ISA  use no instruction set above this one: portable, avx2 or avx512
  SLUICEGATE_ISA      use exactly this one; it is an error when the machine lacks it";

/// Sparse inference for gated networks: dead channels are skipped, and the graph is left at a gate.
#[derive(Debug, Parser)]
#[command(version, after_help = ENVIRONMENT, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Listen(Listen),
    Run(Run),
    Inspect(Inspect),
    /// List the kernels and the instruction sets of this machine.
    #[command(after_help = ENVIRONMENT)]
    Kernels,
    Check(Check),
}

/// Listen to a recording with a keyword model and report what the gates saved.
///
/// One-second windows slide over the recording. Detections are printed as they happen, then a summary: where the windows left
/// the graph, how many channels were live, and what that saves in multiply-accumulates (MACs) and in time against the same model
/// with gates and masks ignored.
#[derive(Debug, clap::Args)]
pub(crate) struct Listen {
    /// ONNX model; its input is MFCC [N, 1, 49, 10] or log-mel energies [N, 1, 49, 40]
    #[arg(default_value = "models/kws_dynamic.onnx")]
    pub(crate) model: PathBuf,
    /// Recording: any WAV file of at least a second (mixed down and resampled to 16 kHz)
    #[arg(default_value = "models/stream.wav")]
    pub(crate) stream: PathBuf,
    /// Milliseconds between windows
    #[arg(long, default_value = "200")]
    pub(crate) hop: NonZeroUsize,
    /// Probability above which a window counts for a keyword
    #[arg(long, default_value_t = 0.7, value_parser = probability)]
    pub(crate) threshold: f32,
    /// The classes of the model in order, a JSON list or one a line; those that begin with `_` are no keywords [default: the
    /// twelve of the bundled models]
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// Draw waveform, gate scores, exits and detections over time
    #[arg(long, value_name = "OUT.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave out the dense run that times are compared with
    #[arg(long)]
    pub(crate) no_dense: bool,
    /// Times that every window is run; the best time counts
    #[arg(long, default_value = "3")]
    pub(crate) rounds: NonZeroUsize,
    /// Threads
    #[arg(long, default_value = "1")]
    pub(crate) threads: NonZeroUsize,
}

/// Run a model on tensors from NPY files.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// ONNX model
    pub(crate) model: PathBuf,
    /// An input of the graph and the NPY file that it is read from; once for each input
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = pair::<PathBuf>)]
    pub(crate) inputs: Vec<(String, PathBuf)>,
    /// Folder for the outputs, one NAME.npy each; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Print time and multiply-accumulates of every node
    #[arg(long)]
    pub(crate) report: bool,
    /// Ignore gates and masks: compute every channel of every node
    #[arg(long)]
    pub(crate) dense: bool,
    /// Use the reference interpreter instead of the kernels (slow; ignores gates)
    #[arg(long, conflicts_with_all = ["dense", "report"])]
    pub(crate) reference: bool,
    /// Threads
    #[arg(long, default_value = "1")]
    pub(crate) threads: NonZeroUsize,
}

/// Show what a model computes and what can be skipped.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// ONNX model
    pub(crate) model: PathBuf,
    /// The shape of an input, e.g. input=4x1x49x10 (where the model leaves an extent open, 1 is taken)
    #[arg(long = "shape", value_name = "NAME=DxDx..", value_parser = pair::<Dims>)]
    pub(crate) shapes: Vec<(String, Dims)>,
}

/// Run test cases and compare the outputs.
///
/// A case is a folder with model.onnx, in_K.npy and out_K.npy, K the number of the graph's input or output. Exit code 1 when a case
/// failed; one that uses what is not supported is counted apart.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Folders, searched recursively
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Relative tolerance
    #[arg(long, default_value_t = 1e-3, value_parser = tolerance)]
    pub(crate) rtol: f64,
    /// Absolute tolerance
    #[arg(long, default_value_t = 1e-7, value_parser = tolerance)]
    pub(crate) atol: f64,
    /// Use the reference interpreter instead of the kernels
    #[arg(long)]
    pub(crate) reference: bool,
    /// Cases that run at the same time
    #[arg(long, default_value = "1")]
    pub(crate) jobs: NonZeroUsize,
}

/// The extents of a shape, as `1x1x49x10`; empty for a scalar.
#[derive(Debug, Clone)]
pub(crate) struct Dims(pub(crate) Vec<usize>);

impl FromStr for Dims {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(['x', ','])
            .map(|d| {
                d.trim()
                    .parse()
                    .map_err(|_| format!("`{d}` is not an extent"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// NAME=VALUE. Names of tensors may hold `=`, values should not: the last one counts.
fn pair<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(String, T), String> {
    let (name, value) = text.rsplit_once('=').ok_or("must be NAME=VALUE")?;
    let value = value.parse().map_err(|e: T::Err| e.to_string())?;
    Ok((name.to_owned(), value))
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("must be between 0 and 1".to_owned()),
    }
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(t) if (0.0..f64::INFINITY).contains(&t) => Ok(t),
        _ => Err("must be a number that is not negative".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn shapes_and_pairs() {
        assert_eq!("1x1x49x10".parse::<Dims>().unwrap().0, [1, 1, 49, 10]);
        assert!("".parse::<Dims>().unwrap().0.is_empty());
        assert!("1xx2".parse::<Dims>().is_err());
        let (name, dims) = pair::<Dims>("a=b=3").unwrap();
        assert_eq!((name.as_str(), dims.0), ("a=b", vec![3]));
        assert!(pair::<Dims>("3").is_err());
    }
}
