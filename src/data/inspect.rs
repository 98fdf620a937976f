//! `athanor data inspect`: what is in a data set.

use crate::failure::Failure;
use crate::inspect::json;
use crate::output::say;
use athanor_runtime::data::inspect::inspect;
use clap::Parser;
use std::path::{Path, PathBuf};

/// Look into a Megatron data set: sizes, lengths, token ids.
#[derive(Parser)]
#[command(after_help = "Examples:\n  athanor data inspect data/wiki_text_document\n  \
                        athanor data inspect data/wiki_text_document.idx --max-tokens 1000000 --json")]
pub struct Args {
    /// Prefix of the data set, or its .bin or .idx
    path: PathBuf,
    /// Look at the ids of at most this many tokens
    #[arg(long, default_value_t = 100_000_000, value_name = "N")]
    max_tokens: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    show(&args.path, args.max_tokens, args.json)
}

/// Prints the data set at `path`.
pub fn show(path: &Path, max_tokens: u64, as_json: bool) -> Result<(), Failure> {
    let summary = inspect(path, max_tokens)?;
    if as_json {
        json(&summary);
    } else {
        say!("{summary}");
    }
    Ok(())
}
