//! `athanor data train-tokenizer`: text to `tokenizer.json`.

use super::input::Input;
use super::progress::Meter;
use crate::failure::Failure;
use crate::output::say;
use crate::text::grouped;
use athanor_runtime::data::tokenizer::{TrainOptions, train};
use clap::Parser;
use std::path::PathBuf;

/// Learn a byte-level BPE tokenizer; equal text and options give an equal tokenizer.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
athanor data train-tokenizer --input 'books/*.txt' --vocab-size 4096 --output tokenizer.json\n  \
athanor data train-tokenizer --input corpus.jsonl.gz --vocab-size 32000 --special-token '<|endoftext|>' '<|pad|>' --output tokenizer.json")]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// Size of the vocabulary, with special tokens and the 256 bytes
    #[arg(long, default_value_t = 32000, value_name = "N")]
    vocab_size: usize,
    /// Where to write tokenizer.json; tokenizer_config.json goes beside it
    #[arg(long, short, default_value = "tokenizer.json", value_name = "FILE")]
    output: PathBuf,
    /// Pairs seen less often are not merged
    #[arg(long, default_value_t = 2, value_name = "N")]
    min_frequency: u64,
    /// Tokens with the first ids; the first one ends a text
    #[arg(long = "special-token", num_args = 1.., default_value = "<|endoftext|>", value_name = "TOKEN")]
    special_tokens: Vec<String>,
    /// Different words to keep count of; it bounds memory
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    max_words: usize,
    /// Replace an existing tokenizer
    #[arg(long)]
    overwrite: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let options = TrainOptions {
        input: args.input.options(),
        vocab_size: args.vocab_size,
        min_frequency: args.min_frequency,
        special_tokens: args.special_tokens.clone(),
        output: args.output.clone(),
        workers: args.input.workers(),
        max_words: args.max_words,
        overwrite: args.overwrite,
    };
    let mut meter = Meter::new("counting words", None);
    let report = train(&options, &mut |p| meter.update(p))?;
    let seconds = meter.finish();
    let (size, words) = (grouped(report.vocab_size as u64), grouped(report.words as u64));
    say!("{}: {size} tokens from {words} different words in {seconds:.1} s", args.output.display());
    if report.vocab_size < args.vocab_size {
        say!("  the text has no more pairs to merge: {} tokens were asked for", grouped(args.vocab_size as u64));
    }
    if report.forgotten > 0 {
        say!("  {} rare words were not counted (--max-words)", grouped(report.forgotten));
    }
    if let (Some(id), Some(token)) = (report.eos_id, args.special_tokens.first()) {
        say!("  end of text: {token} = {id}");
    }
    Ok(())
}
