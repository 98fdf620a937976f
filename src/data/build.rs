//! `athanor data build`: text to `.bin` and `.idx`.

use super::input::Input;
use super::progress::Meter;
use crate::codes::{NO_EFFECT, NOT_DONE};
use crate::failure::{Failure, print};
use crate::output::say;
use crate::text::grouped;
use athanor_ir::Diagnostic;
use athanor_runtime::data::build::{BuildOptions, SequenceLayout, build};
use athanor_runtime::data::dtype::TokenType;
use clap::{ArgAction, Parser, ValueEnum};
use std::path::PathBuf;

/// Tokenise text or JSONL into a Megatron data set, in bounded memory and in the order of the input.
#[derive(Parser)]
#[command(after_help = "\
The flags of MindSpore Transformers' wikitext_to_bin.py and preprocess_indexed_dataset.py work here.\n\n\
Examples:\n  athanor data build --input 'books/*.txt' --tokenizer tokenizer.json --output-prefix data/books --append-eod\n  \
athanor data build --input wiki.jsonl.gz --json-keys text --tokenizer-dir llama3 --output-prefix data/wiki --append-eod --workers 16\n  \
athanor data build --input wiki.train.tokens --vocab-file tokenizer.json --output-prefix data/wiki --seq-length 4096 --workers 8")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// Hugging Face tokenizer: tokenizer.json, or the directory it is in
    #[arg(
        long,
        value_name = "PATH",
        visible_aliases = ["tokenizer-file", "tokenizer-dir", "vocab-file"],
        required = true,
        // A line for the scripts may name both files of one tokenizer; the last is taken.
        overrides_with = "tokenizer"
    )]
    tokenizer: PathBuf,
    /// Where to write: PREFIX_text_document.bin and .idx (`text` is the JSON key)
    #[arg(long, alias = "output_prefix", value_name = "PREFIX")]
    output_prefix: PathBuf,
    /// End each document with the end-of-document token
    #[arg(long, alias = "append_eod")]
    append_eod: bool,
    /// Begin each text with the bos token
    #[arg(long, alias = "add_bos_token", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          value_parser = boolean, action = ArgAction::Set)]
    add_bos_token: bool,
    /// End each text with the eos token
    #[arg(long, alias = "add_eos_token", num_args = 0..=1, default_value = "false", default_missing_value = "true",
          value_parser = boolean, action = ArgAction::Set)]
    add_eos_token: bool,
    /// Leave out the tokens that the tokenizer's own post-processor adds
    #[arg(long)]
    no_special_tokens: bool,
    /// The bos token, if tokenizer_config.json does not name it
    #[arg(long, alias = "bos_token", value_name = "TOKEN")]
    bos_token: Option<String>,
    /// The eos and end-of-document token, likewise
    #[arg(long, alias = "eos_token", value_name = "TOKEN")]
    eos_token: Option<String>,
    /// The padding token, likewise
    #[arg(long, alias = "pad_token", value_name = "TOKEN")]
    pad_token: Option<String>,
    /// How documents become sequences [default: stitch for wikitext, else documents]
    #[arg(long, value_enum, visible_alias = "pad-or-stitch")]
    layout: Option<Layout>,
    /// Input tokens per sequence, for stitch and pad; sequences have one token more
    #[arg(long, alias = "seq_length", default_value_t = 4096, value_name = "N")]
    seq_length: usize,
    /// Type of the stored tokens
    #[arg(long, value_enum, default_value = "int32")]
    dtype: Dtype,
    /// Replace an existing data set
    #[arg(long)]
    overwrite: bool,
    /// Print a line every N documents instead of a progress bar
    #[arg(long, alias = "log_interval", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    log_interval: Option<u64>,
    #[command(flatten)]
    scripts: Scripts,
}

/// Flags of the scripts that have nothing to choose here.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct Scripts {
    #[arg(long, hide = true)]
    split_sentences: bool,
    #[arg(long, hide = true)]
    keep_newlines: bool,
    #[arg(long, hide = true)]
    keep_sequential_samples: bool,
    #[arg(long, hide = true)]
    trust_remote_code: bool,
    #[arg(long, hide = true)]
    partitions: Option<String>,
    #[arg(long, hide = true)]
    lang: Option<String>,
    #[arg(long, hide = true)]
    tokenizer_type: Option<String>,
    #[arg(long, hide = true)]
    merges_file: Option<String>,
    #[arg(long, hide = true)]
    vocab_size: Option<String>,
    #[arg(long, hide = true, alias = "register_path")]
    register_path: Option<String>,
    #[arg(long, hide = true, alias = "auto_register")]
    auto_register: Option<String>,
}

impl Scripts {
    /// Refuses what would change the tokens and remarks what does nothing.
    fn check(&self) -> Result<(), Failure> {
        let refuse = |what: &str, help: &str| Err(Diagnostic::error(&NOT_DONE, what).help(help).into());
        if self.split_sentences {
            return refuse(
                "--split-sentences is not supported",
                "remove it: for pretraining a document is one sequence; MindSpore Transformers' script refuses it too",
            );
        }
        if self.register_path.is_some() || self.auto_register.is_some() {
            return refuse(
                "tokenizers written in Python (--register_path, --auto_register) cannot be loaded",
                "save the tokenizer with Hugging Face's `save_pretrained` and give its tokenizer.json",
            );
        }
        let given = [
            ("--keep-newlines", self.keep_newlines),
            ("--keep-sequential-samples", self.keep_sequential_samples),
            ("--trust-remote-code", self.trust_remote_code),
            // One part is what happens anyway, and so is English.
            ("--partitions", self.partitions.as_ref().is_some_and(|p| p != "1")),
            ("--lang", self.lang.as_ref().is_some_and(|l| l != "english")),
            ("--tokenizer-type", self.tokenizer_type.is_some()),
            ("--merges-file", self.merges_file.is_some()),
            ("--vocab-size", self.vocab_size.is_some()),
        ];
        let idle: Vec<&str> = given.into_iter().filter_map(|(name, on)| on.then_some(name)).collect();
        if !idle.is_empty() {
            let message = format!("{} without an effect: {}", plural(idle.len(), "option"), idle.join(", "));
            let help = "tokenizer.json says what the tokenizer is, and samples always stay in order; see `athanor explain A0001`";
            print(&[Diagnostic::note(&NO_EFFECT, message).help(help)]);
        }
        Ok(())
    }
}

fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("expected True or False".into()),
    }
}

#[derive(ValueEnum, Clone, Copy)]
enum Layout {
    /// Each document is a sequence of its own length
    Documents,
    /// All tokens in a row, cut into sequences of seq-length + 1
    Stitch,
    /// Each document cut or padded to seq-length + 1
    Pad,
}

#[derive(ValueEnum, Clone, Copy)]
enum Dtype {
    /// For vocabularies up to 65536 tokens
    Uint16,
    /// For any
    Int32,
}

impl Args {
    fn options(&self) -> BuildOptions {
        BuildOptions {
            input: self.input.options(),
            tokenizer: self.tokenizer.clone(),
            add_special_tokens: !self.no_special_tokens,
            add_bos_token: self.add_bos_token,
            add_eos_token: self.add_eos_token,
            append_eod: self.append_eod,
            bos_token: self.bos_token.clone(),
            eos_token: self.eos_token.clone(),
            pad_token: self.pad_token.clone(),
            output_prefix: self.output_prefix.clone(),
            layout: match self.layout {
                None if self.input.is_wikitext() => SequenceLayout::Stitch,
                None | Some(Layout::Documents) => SequenceLayout::Documents,
                Some(Layout::Stitch) => SequenceLayout::Stitch,
                Some(Layout::Pad) => SequenceLayout::Pad,
            },
            seq_length: self.seq_length,
            dtype: match self.dtype {
                Dtype::Uint16 => TokenType::Uint16,
                Dtype::Int32 => TokenType::Int32,
            },
            workers: self.input.workers(),
            overwrite: self.overwrite,
        }
    }
}

pub fn run(args: &Args) -> Result<(), Failure> {
    args.scripts.check()?;
    let mut meter = Meter::new("tokenising", args.log_interval);
    let report = build(&args.options(), &mut |p| meter.update(p))?;
    let seconds = meter.finish();
    for d in &report.datasets {
        let (tokens, sequences) = (grouped(d.tokens), grouped(d.sequences));
        say!("{}: {tokens} tokens in {sequences} sequences (.bin and .idx)", d.prefix.display());
    }
    let mut notes = vec![format!("{} documents in {seconds:.1} s", grouped(report.documents))];
    if report.empty > 0 {
        notes.push(format!("{} were empty", grouped(report.empty)));
    }
    if report.dropped_tokens > 0 {
        notes.push(format!("{} tokens at the end did not fill a sequence", grouped(report.dropped_tokens)));
    }
    say!("{}", notes.join(", "));
    Ok(())
}
