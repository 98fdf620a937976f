//! Options of `data build`, in the terms of MindFormers' preprocessing scripts.

use crate::data::codes;
use crate::data::dtype::TokenType;
use athanor_ir::diag::{Diagnostic, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the input files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputFormat {
    /// By the file name: `.json` and `.jsonl` are JSONL, `.tokens` is wikitext, others are text.
    #[default]
    Auto,
    /// One JSON object per line.
    Jsonl,
    /// Plain text.
    Text,
    /// Raw wikitext-2 or wikitext-103, cleaned as `wikitext_to_bin.py` does.
    Wikitext,
}

/// What a document is in a plain text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextUnit {
    /// Each line that is not blank.
    Line,
    /// Lines up to a blank one.
    #[default]
    Paragraph,
    /// The whole file.
    File,
}

/// How documents become sequences (`--pad-or-stitch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SequenceLayout {
    /// Each document is a sequence of its own length, as `preprocess_indexed_dataset.py` writes them.
    #[default]
    Documents,
    /// All tokens in a row, cut into sequences of `seq_length + 1`; the rest is dropped.
    Stitch,
    /// Each document cut or padded to `seq_length + 1`.
    Pad,
}

/// Which text to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputOptions {
    /// Paths or glob patterns (`--input`); `.gz` files are unpacked on the fly. Patterns give files in sorted order.
    pub paths: Vec<String>,
    /// What the files hold.
    pub format: InputFormat,
    /// Keys to read from each JSON object (`--json-keys`); each gives a dataset of its own.
    pub json_keys: Vec<String>,
    /// What a document is in a text file.
    pub text_unit: TextUnit,
    /// Longest line or document in bytes; it bounds memory.
    pub max_document_bytes: usize,
}

impl Default for InputOptions {
    fn default() -> Self {
        Self {
            paths: vec![],
            format: InputFormat::Auto,
            json_keys: vec!["text".into()],
            text_unit: TextUnit::Paragraph,
            max_document_bytes: 256 << 20,
        }
    }
}

impl InputOptions {
    /// Default options for these paths.
    pub fn new(paths: Vec<String>) -> Self {
        Self { paths, ..Self::default() }
    }

    /// The format of one file.
    pub(crate) fn format_of(&self, path: &str) -> InputFormat {
        if self.format != InputFormat::Auto {
            return self.format;
        }
        let name = path.strip_suffix(".gz").unwrap_or(path);
        match name.rsplit('.').next() {
            Some("json" | "jsonl" | "ndjson") => InputFormat::Jsonl,
            Some("tokens") => InputFormat::Wikitext,
            _ => InputFormat::Text,
        }
    }

    /// The keys whose text is read.
    pub(crate) fn keys(&self) -> Result<Vec<String>> {
        let mut seen = std::collections::BTreeSet::new();
        let fine = !self.json_keys.is_empty()
            && self.json_keys.iter().all(|k| !k.is_empty() && !k.contains(['/', '\\']) && seen.insert(k));
        if fine {
            return Ok(self.json_keys.clone());
        }
        Diagnostic::error(&codes::OPTIONS, format!("--json-keys {:?} are no keys of a data set", self.json_keys))
            .help("name one or more different keys; each becomes part of a file name")
            .err()
    }
}

/// Options of [`super::build`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub struct BuildOptions {
    /// What to read.
    pub input: InputOptions,
    /// `tokenizer.json` or the directory that holds it (`--vocab-file`, `--tokenizer-file`, `--tokenizer-dir`).
    pub tokenizer: PathBuf,
    /// Add the tokens that the tokenizer's own post-processor adds, as calling a Hugging Face tokenizer does.
    pub add_special_tokens: bool,
    /// Begin each document with the `bos` token (`--add-bos-token`).
    pub add_bos_token: bool,
    /// End each text with the `eos` token (`--add-eos-token`).
    pub add_eos_token: bool,
    /// End each document with the end-of-document token (`--append-eod`).
    pub append_eod: bool,
    /// The `bos` token, if `tokenizer_config.json` does not name it.
    pub bos_token: Option<String>,
    /// The `eos` and end-of-document token, likewise (`--eos_token`).
    pub eos_token: Option<String>,
    /// The padding token, likewise.
    pub pad_token: Option<String>,
    /// Path without `_<key>_document.bin` (`--output-prefix`).
    pub output_prefix: PathBuf,
    /// How documents become sequences.
    pub layout: SequenceLayout,
    /// Input tokens per sequence for `stitch` and `pad` (`--seq-length`).
    pub seq_length: usize,
    /// Type of the written tokens.
    pub dtype: TokenType,
    /// Tokenising threads (`--workers`).
    pub workers: usize,
    /// Replace an existing dataset.
    pub overwrite: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            input: InputOptions::default(),
            tokenizer: PathBuf::new(),
            add_special_tokens: true,
            add_bos_token: false,
            add_eos_token: false,
            append_eod: false,
            bos_token: None,
            eos_token: None,
            pad_token: None,
            output_prefix: PathBuf::new(),
            layout: SequenceLayout::Documents,
            seq_length: 4096,
            dtype: TokenType::Int32,
            workers: 1,
            overwrite: false,
        }
    }
}

impl BuildOptions {
    /// The defaults of `wikitext_to_bin.py`.
    pub fn wikitext(input: String, tokenizer: PathBuf, output_prefix: PathBuf) -> Self {
        let input = InputOptions { format: InputFormat::Wikitext, ..InputOptions::new(vec![input]) };
        Self { input, tokenizer, output_prefix, layout: SequenceLayout::Stitch, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        let bad = |message: &str, help: &str| Diagnostic::error(&codes::OPTIONS, message).help(help).err();
        if self.output_prefix.file_name().is_none() {
            return bad("--output-prefix names no file", "give a path such as data/wiki");
        }
        if self.layout != SequenceLayout::Documents && !(1..i32::MAX as usize).contains(&self.seq_length) {
            return bad("--seq-length is not a usable length", "give a positive number");
        }
        Ok(())
    }
}
