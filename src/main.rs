//! The `athanor` command: argument parsing and printing only, one file per subcommand.

#[cfg(feature = "compiler")]
mod check;
#[cfg(feature = "compiler")]
mod compile;
#[cfg(feature = "compiler")]
mod opt;
mod data;
mod explain;
mod failure;
mod inspect;
mod train;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// Compiles a pretraining configuration into an executable plan and runs it.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  athanor check examples/quickstart.yaml\n  athanor train examples/quickstart.yaml\n  \
                  athanor compile examples/quickstart.yaml -o plan --dump-ir plan/ir\n  athanor explain C0003\n\n\
                  Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a configuration and say what it would cost
    #[cfg(feature = "compiler")]
    Check(check::Args),
    /// Compile a configuration to a plan directory
    #[cfg(feature = "compiler")]
    Compile(compile::Args),
    /// Train from a configuration or from a plan directory
    Train(train::Args),
    /// Run passes on an MLIR dump
    #[cfg(feature = "compiler")]
    Opt(opt::Args),
    /// Look into an MLIR dump, a plan, a checkpoint or a data set
    Inspect(inspect::Args),
    /// Explain an error code, a pass or an op
    Explain(explain::Args),
    /// Prepare training data
    #[command(subcommand)]
    Data(data::Command),
}

fn main() -> ExitCode {
    let result: Result<(), Failure> = match Cli::parse().command {
        #[cfg(feature = "compiler")]
        Command::Check(args) => check::run(&args),
        #[cfg(feature = "compiler")]
        Command::Compile(args) => compile::run(&args),
        Command::Train(args) => train::run(&args),
        #[cfg(feature = "compiler")]
        Command::Opt(args) => opt::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Data(command) => data::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
