//! `data train-tokenizer`: a byte-level BPE tokenizer from text, in bounded memory and the same on every run.
//!
//! Words are cut by the `tokenizers` crate's byte-level pre-tokenizer (GPT-2's pattern), so that training sees what
//! tokenising will see. Merges are learnt here: the crate's trainer breaks ties in hash order and counts in 32 bits.

mod bpe;

pub use bpe::{Merges, learn};

use super::build::{Input, InputOptions, Progress, Raw, ordered};
use super::codes;
use super::output::Output;
use athanor_ir::diag::{Diagnostic, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

/// Options of [`train`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOptions {
    /// What to read.
    pub input: InputOptions,
    /// Size of the vocabulary, special tokens and the 256 bytes included.
    pub vocab_size: usize,
    /// Pairs seen less often are not merged.
    pub min_frequency: u64,
    /// First ids of the vocabulary, in this order. The first one is also the end-of-text token.
    pub special_tokens: Vec<String>,
    /// Where `tokenizer.json` goes; `tokenizer_config.json` is written beside it.
    pub output: PathBuf,
    /// Threads that cut words.
    pub workers: usize,
    /// Different words to keep count of; beyond this the rarest are forgotten. It bounds memory.
    pub max_words: usize,
    /// Replace an existing tokenizer.
    pub overwrite: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            input: InputOptions::default(),
            vocab_size: 32000,
            min_frequency: 2,
            special_tokens: vec!["<|endoftext|>".into()],
            output: "tokenizer.json".into(),
            workers: 1,
            max_words: 10_000_000,
            overwrite: false,
        }
    }
}

/// What [`train`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainReport {
    /// Size of the vocabulary; smaller than asked for if the text has no more pairs to merge.
    pub vocab_size: usize,
    /// Different words in the text.
    pub words: usize,
    /// Words forgotten because there were more than `max_words`; their pairs are not counted.
    pub forgotten: u64,
    /// The id of the end-of-text token, if there is one.
    pub eos_id: Option<u32>,
}

/// Learns a tokenizer and writes `tokenizer.json` and `tokenizer_config.json`.
///
/// The result depends on the text and the options only, not on the number of workers.
///
/// # Errors
/// D0001, D0002 and D0014 for the input, D0013 and D0018 for the output, D0017 if `vocab_size` is too small.
pub fn train(options: &TrainOptions, progress: &mut dyn FnMut(Progress)) -> Result<TrainReport> {
    check(options)?;
    let config_path = options.output.with_file_name("tokenizer_config.json");
    for path in [&options.output, &config_path] {
        if path.exists() && !options.overwrite {
            return Diagnostic::error(&codes::OUTPUT_EXISTS, format!("{} already exists", path.display()))
                .help("give --overwrite to replace it, or another output")
                .err();
        }
    }
    let mut words = Words { counts: HashMap::new(), max: options.max_words.max(1), forgotten: 0 };
    count_words(options, &mut words, progress)?;
    if words.counts.is_empty() {
        return Diagnostic::error(&codes::INPUT_TEXT, "the input has no text").help("check the input files").err();
    }
    let distinct = words.counts.len();
    let merges = learn(words.counts, options.vocab_size, options.min_frequency, &options.special_tokens);
    let vocab_size = merges.vocab.len();
    let (json, config) = assemble(merges, options)?;
    let mut files = vec![];
    for (path, text) in [(&options.output, json), (&config_path, config)] {
        let mut out = Output::create(path)?;
        out.write(text.as_bytes())?;
        files.push(out.finish()?);
    }
    files.into_iter().try_for_each(super::output::Finished::publish)?;
    let eos_id = (!options.special_tokens.is_empty()).then_some(0);
    Ok(TrainReport { vocab_size, words: distinct, forgotten: words.forgotten, eos_id })
}

fn check(options: &TrainOptions) -> Result<()> {
    let bad = |message: String, help: &str| Diagnostic::error(&codes::OPTIONS, message).help(help).err();
    let least = 256 + options.special_tokens.len();
    if options.vocab_size < least {
        return bad(
            format!("vocab_size {} is less than the 256 bytes and the special tokens", options.vocab_size),
            &format!("use {least} or more"),
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    if let Some(t) = options.special_tokens.iter().find(|t| t.chars().count() < 2 || !seen.insert(*t)) {
        return bad(
            format!("the special token {t:?} is given twice, or has less than two characters"),
            "special tokens are different and cannot be a single character",
        );
    }
    if options.output.file_name().is_none() {
        return bad("the output names no file".into(), "give a path such as data/tokenizer.json");
    }
    Ok(())
}

/// Counts of words, the rarest of which may be forgotten.
struct Words {
    counts: HashMap<String, u64>,
    max: usize,
    forgotten: u64,
}

impl Words {
    fn add(&mut self, words: HashMap<String, u64>) {
        for (word, count) in words {
            *self.counts.entry(word).or_default() += count;
        }
        let mut rare = 1;
        while self.counts.len() > self.max {
            let before = self.counts.len();
            self.counts.retain(|_, count| *count > rare);
            self.forgotten += (before - self.counts.len()) as u64;
            rare += 1;
        }
    }
}

fn count_words(options: &TrainOptions, words: &mut Words, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let keys = options.input.keys()?;
    let mut input = Input::open(&options.input)?;
    let mut state = Progress { total_bytes: input.total_bytes(), ..Progress::default() };
    let read = input.counter();
    let splitter = ByteLevel::new(false, true, true);
    ordered(
        &mut || input.next_batch(),
        vec![(); options.workers.max(1)],
        |(), batch: Vec<Raw>| {
            let mut counts = HashMap::new();
            for raw in &batch {
                for text in raw.texts(&keys)?.into_iter().flatten() {
                    split(splitter, text, &mut counts).or_else(|e| raw.place.error(0, &e, "check the text"))?;
                }
            }
            Ok((counts, batch.len() as u64))
        },
        &mut |(counts, documents)| {
            words.add(counts);
            state.bytes = read.get();
            state.documents += documents;
            progress(state);
            Ok(())
        },
    )
}

fn split(splitter: ByteLevel, text: String, counts: &mut HashMap<String, u64>) -> std::result::Result<(), String> {
    let mut cut = PreTokenizedString::from(text);
    splitter.pre_tokenize(&mut cut).map_err(|e| e.to_string())?;
    for (word, ..) in cut.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.to_string(), 1);
            }
        }
    }
    Ok(())
}

/// The JSON texts of the tokenizer and its configuration.
fn assemble(merges: Merges, options: &TrainOptions) -> Result<(String, String)> {
    let failed = |e: String| {
        Diagnostic::error(&codes::TOKENIZER, format!("the learnt tokenizer cannot be assembled: {e}")).err()
    };
    let vocab: Vocab = merges.vocab.into_iter().zip(0..).collect();
    let model = match BPE::builder().vocab_and_merges(vocab, merges.merges).build() {
        Ok(model) => model,
        Err(e) => return failed(e.to_string()),
    };
    let mut tokenizer = Tokenizer::new(model);
    let byte_level = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    tokenizer.with_post_processor(Some(ByteLevel::new(false, false, true)));
    let special: Vec<AddedToken> = options.special_tokens.iter().map(|t| AddedToken::from(t.clone(), true)).collect();
    let added = tokenizer.add_special_tokens(special).map_err(|e| e.to_string());
    let json = match added.and_then(|_| tokenizer.to_string(true).map_err(|e| e.to_string())) {
        Ok(json) => json + "\n",
        Err(e) => return failed(e),
    };
    let eos = options.special_tokens.first();
    let config = serde_json::json!({
        "add_prefix_space": false,
        "bos_token": eos,
        "clean_up_tokenization_spaces": false,
        "eos_token": eos,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    match serde_json::to_string_pretty(&config) {
        Ok(config) => Ok((json, config + "\n")),
        Err(e) => failed(e.to_string()),
    }
}

#[cfg(test)]
mod tests;
