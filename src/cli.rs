//! The command line.

// What is asked for.
mod args;
// One module for each command.
mod check;
mod inspect;
mod kernels_cmd;
mod listen;
mod run;
// Audio: files, and the features that the models read.
mod frontend;
mod wav;
// Tensors in files, and files that appear whole or not at all.
mod npy;
mod output;
// What people read: numbers, tables, pictures.
mod plot;
mod report;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use sluicegate::Model;

use args::{Args, Command};

/// Runs the command; errors go to standard error as one line.
pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = dispatch(args, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // What was printed before the error comes first.
            out.flush().ok();
            eprintln!("error: {}", report::one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Reads a model; errors name the file.
fn load(file: &Path) -> Result<Model> {
    Model::load(file).with_context(|| file.display().to_string())
}

fn dispatch(args: Args, out: &mut dyn Write) -> Result<ExitCode> {
    match args.command {
        Command::Listen(args) => listen::listen(&args, out)?,
        Command::Run(args) => run::run(&args, out)?,
        Command::Inspect(args) => inspect::inspect(&args, out)?,
        Command::Kernels => kernels_cmd::kernels(out)?,
        Command::Check(args) => return check::check(&args, out),
    }
    Ok(ExitCode::SUCCESS)
}
