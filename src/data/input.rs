//! Options that say which text to read.

use athanor_runtime::data::build::{InputFormat, InputOptions, TextUnit};
use clap::{Parser, ValueEnum};

/// Which text to read, for `build` and `train-tokenizer`.
#[derive(Parser)]
pub struct Input {
    /// Files or glob patterns; `.gz` files are unpacked on the fly
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    input: Vec<String>,
    /// Keys of JSONL objects that hold text; each gives a data set of its own
    #[arg(long, alias = "json_keys", num_args = 1.., default_value = "text", value_name = "KEY")]
    json_keys: Vec<String>,
    /// What the files hold [by name: .json and .jsonl are JSONL, .tokens is wikitext, others are text]
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// What a document is in a text file
    #[arg(long, value_enum, default_value = "paragraph")]
    text_unit: Unit,
    /// Threads [default: the cores of this machine]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    workers: Option<u16>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// By the file name
    Auto,
    /// One JSON object a line
    Jsonl,
    /// Plain text
    Text,
    /// Raw wikitext, cleaned as wikitext_to_bin.py does
    Wikitext,
}

#[derive(ValueEnum, Clone, Copy)]
enum Unit {
    /// Each line that is not blank
    Line,
    /// Lines up to a blank one
    Paragraph,
    /// The whole file
    File,
}

impl Input {
    /// The options of the library.
    pub fn options(&self) -> InputOptions {
        InputOptions {
            paths: self.input.clone(),
            format: match self.format {
                Format::Auto => InputFormat::Auto,
                Format::Jsonl => InputFormat::Jsonl,
                Format::Text => InputFormat::Text,
                Format::Wikitext => InputFormat::Wikitext,
            },
            json_keys: self.json_keys.clone(),
            text_unit: match self.text_unit {
                Unit::Line => TextUnit::Line,
                Unit::Paragraph => TextUnit::Paragraph,
                Unit::File => TextUnit::File,
            },
            ..InputOptions::default()
        }
    }

    /// Whether the files are wikitext, by the option or by their names.
    pub fn is_wikitext(&self) -> bool {
        let named = |p: &String| p.strip_suffix(".gz").unwrap_or(p).ends_with(".tokens");
        match self.format {
            Format::Wikitext => true,
            Format::Auto => self.input.iter().all(named),
            Format::Jsonl | Format::Text => false,
        }
    }

    /// Threads to use.
    pub fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.map_or_else(cores, usize::from)
    }
}
