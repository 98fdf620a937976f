//! The `athanor` command: argument parsing and printing only, one file per subcommand.
#![allow(clippy::doc_markdown, reason = "doc comments of arguments are their help text")]
#![allow(clippy::struct_field_names, reason = "fields are named after the flags that users know")]

#[cfg(feature = "compiler")]
mod check;
mod ckpt;
mod codes;
#[cfg(feature = "compiler")]
mod compile;
#[cfg(feature = "compiler")]
mod config_args;
mod data;
mod explain;
mod failure;
mod inspect;
#[cfg(feature = "compiler")]
mod mindformers;
#[cfg(feature = "compiler")]
mod opt;
mod output;
mod ranks;
mod stages;
mod text;
mod train;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// Compiles a pretraining configuration into an executable plan and runs it.
#[derive(Parser)]
#[command(version, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[cfg(feature = "compiler")]
const HELP: &str = "\
Examples:
  athanor check examples/quickstart.yaml
  athanor train examples/quickstart.yaml
  athanor compile examples/quickstart.yaml -o plan --dump-ir plan/ir
  athanor explain C0003

Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted.";

#[cfg(not(feature = "compiler"))]
const HELP: &str = "\
This is the runner: it has no compiler in it and runs plans that `athanor compile` made.

Examples:
  athanor train plan --metrics-json metrics.jsonl
  athanor inspect plan

Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "compiler")]
    Check(check::Args),
    #[cfg(feature = "compiler")]
    Compile(compile::Args),
    Train(train::Args),
    #[cfg(feature = "compiler")]
    Opt(opt::Args),
    Inspect(inspect::Args),
    Explain(explain::Args),
    /// Convert and check checkpoints
    #[command(subcommand)]
    Ckpt(ckpt::Command),
    /// Prepare training data
    #[command(subcommand)]
    Data(data::Command),
}

fn main() -> ExitCode {
    let args = std::env::args_os();
    #[cfg(feature = "compiler")]
    let args = mindformers::rewrite(args);
    let result: Result<(), Failure> = match Cli::parse_from(args).command {
        #[cfg(feature = "compiler")]
        Command::Check(args) => check::run(&args),
        #[cfg(feature = "compiler")]
        Command::Compile(args) => compile::run(&args),
        Command::Train(args) => train::run(&args),
        #[cfg(feature = "compiler")]
        Command::Opt(args) => opt::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Ckpt(command) => ckpt::run(&command),
        Command::Data(command) => data::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
