//! `athanor data`: from text to what training reads.

mod build;
mod index;
mod input;
mod inspect;
mod progress;
mod tokenizer;

pub use inspect::show as show_dataset;

use crate::failure::Failure;
use clap::Subcommand;

/// Verbs of `athanor data`.
#[derive(Subcommand)]
pub enum Command {
    /// Tokenise text or JSONL into a Megatron data set (.bin and .idx)
    Build(build::Args),
    /// Learn a byte-level BPE tokenizer from text
    TrainTokenizer(tokenizer::Args),
    /// Build the sample index of a run ahead of it
    Index(index::Args),
    /// Look into a Megatron data set
    Inspect(inspect::Args),
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Build(args) => build::run(args),
        Command::TrainTokenizer(args) => tokenizer::run(args),
        Command::Index(args) => index::run(args),
        Command::Inspect(args) => inspect::run(args),
    }
}
