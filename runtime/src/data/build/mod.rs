//! `data build`: text to an indexed dataset, in bounded memory and in the order of the input.
//!
//! A reader cuts the input into documents, workers tokenise them, and one writer puts them in order; the queues
//! between them are short, so that memory does not depend on the size of the input.

mod encode;
mod input;
mod options;
mod pipeline;
mod raw;
mod sink;
mod wikitext;

pub use encode::Encoder;
pub use options::{BuildOptions, InputFormat, InputOptions, SequenceLayout, TextUnit};
pub use wikitext::WikitextCleaner;

pub(crate) use input::Input;
pub(crate) use pipeline::ordered;
pub(crate) use raw::Raw;

use super::codes;
use super::indexed::with_extension;
use athanor_ir::diag::{Diagnostic, Result};
use encode::Encoded;
use sink::Sink;
use std::path::{Path, PathBuf};

/// How far a tool has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes read of the input files (compressed ones as they lie on disk).
    pub bytes: u64,
    /// Size of all input files.
    pub total_bytes: u64,
    /// Documents finished.
    pub documents: u64,
    /// Tokens written.
    pub tokens: u64,
}

/// One dataset that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Prefix of the `.bin` and `.idx` file.
    pub prefix: PathBuf,
    /// Sequences in it.
    pub sequences: u64,
    /// Tokens in it.
    pub tokens: u64,
}

/// What [`build`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildReport {
    /// One dataset per JSON key.
    pub datasets: Vec<Built>,
    /// Documents read.
    pub documents: u64,
    /// Documents left out because they gave no token.
    pub empty: u64,
    /// Tokens at the end that did not fill a sequence (`stitch` only).
    pub dropped_tokens: u64,
}

/// The dataset prefix for one key: `<output_prefix>_<key>_document`.
pub fn dataset_prefix(output_prefix: &Path, key: &str) -> PathBuf {
    with_extension(output_prefix, &format!("_{key}_document"))
}

/// Makes one dataset per key of `options.input.json_keys` (text files have the one key `text`).
///
/// `progress` is called about once per 64 KiB of input.
///
/// # Errors
/// Any of D0001, D0002 (input), D0013 (output), D0014 to D0018. No output appears then.
pub fn build(options: &BuildOptions, progress: &mut dyn FnMut(Progress)) -> Result<BuildReport> {
    options.check()?;
    let encoder = Encoder::open(options)?;
    let keys = options.input.keys()?;
    let prefixes: Vec<PathBuf> = keys.iter().map(|key| dataset_prefix(&options.output_prefix, key)).collect();
    for prefix in &prefixes {
        let taken = [".bin", ".idx"].map(|e| with_extension(prefix, e)).into_iter().find(|p| p.exists());
        if let Some(path) = taken.filter(|_| !options.overwrite) {
            return Diagnostic::error(&codes::OUTPUT_EXISTS, format!("{} already exists", path.display()))
                .help("give --overwrite to replace it, or another --output-prefix")
                .err();
        }
    }
    let mut sinks: Vec<Sink> =
        prefixes.iter().map(|p| Sink::create(p, options, encoder.pad())).collect::<Result<_>>()?;
    let mut input = Input::open(&options.input)?;
    let mut state = Progress { total_bytes: input.total_bytes(), ..Progress::default() };
    let read = input.counter();
    let mut empty = 0;
    let workers: Vec<Encoder> = (0..options.workers.max(1)).map(|_| encoder.clone()).collect();
    ordered(
        &mut || input.next_batch(),
        workers,
        |encoder, batch: Vec<Raw>| batch.iter().map(|raw| encoder.document(raw, &keys)).collect::<Result<Vec<_>>>(),
        &mut |batch: Vec<Encoded>| {
            for document in batch {
                for (sink, texts) in sinks.iter_mut().zip(&document.keys) {
                    sink.add(texts, document.ends)?;
                }
                if document.ends {
                    state.documents += 1;
                    empty += u64::from(document.keys.iter().all(|k| k.iter().all(Vec::is_empty)));
                }
            }
            state.bytes = read.get();
            state.tokens = sinks.iter().map(Sink::tokens).sum();
            progress(state);
            Ok(())
        },
    )?;
    let mut report = BuildReport { datasets: vec![], documents: state.documents, empty, dropped_tokens: 0 };
    let mut finished = vec![];
    for (sink, prefix) in sinks.into_iter().zip(prefixes) {
        report.datasets.push(Built { prefix, sequences: sink.sequences(), tokens: sink.tokens() });
        report.dropped_tokens += sink.left_over();
        finished.push(sink);
    }
    if report.datasets.iter().all(|d| d.sequences == 0) {
        return Diagnostic::error(&codes::INPUT_TEXT, format!("{} documents give no sequence", report.documents))
            .help("check the input; with stitch, seq_length + 1 tokens are needed at least")
            .err();
    }
    finished.into_iter().try_for_each(Sink::finish)?;
    Ok(report)
}

#[cfg(test)]
mod tests;
