//! The command `sluicegate`: gated models on audio streams and on tensors, and a look inside them.
#![forbid(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
