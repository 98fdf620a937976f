//! Documents to token ids.

use super::options::{BuildOptions, SequenceLayout};
use super::raw::Raw;
use crate::data::codes;
use crate::data::source::open_file;
use athanor_ir::diag::{Diagnostic, Result};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Longer texts are tokenised in pieces, cut between words, because the tokenizer needs many times their size.
const PIECE: usize = 1 << 20;
/// No tokenizer is larger than this.
const MAX_TOKENIZER: u64 = 1 << 30;

/// A tokenizer with the special tokens that a dataset needs; every worker has its own.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Tokenizer,
    /// Put before each text.
    prefix: Vec<u32>,
    /// Put after each text.
    suffix: Vec<u32>,
    /// Put after each document.
    eod: Option<u32>,
    pad: u32,
}

/// Token ids of a document (or a part of one): per key, per text.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) keys: Vec<Vec<Vec<u32>>>,
    pub(super) ends: bool,
}

fn tokenizer_error<T>(message: String, help: &str) -> Result<T> {
    Diagnostic::error(&codes::TOKENIZER, message).help(help).err()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let (file, len) = open_file(path)?;
    if len > MAX_TOKENIZER {
        return tokenizer_error(format!("{} has {len} bytes", path.display()), "give the path of a tokenizer.json");
    }
    let mut bytes = vec![];
    file.take(MAX_TOKENIZER)
        .read_to_end(&mut bytes)
        .map(|_| ())
        .or_else(|e| Diagnostic::error(&codes::FILE_READ, format!("cannot read {}: {e}", path.display())).err())?;
    Ok(bytes)
}

/// Loads a `tokenizer.json` and gives its path.
pub(crate) fn load(path: &Path) -> Result<(Tokenizer, PathBuf)> {
    let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
    let bytes = read(&path)?;
    let parsed = std::panic::catch_unwind(|| Tokenizer::from_bytes(&bytes));
    let failed = |why: String| {
        tokenizer_error(
            format!("{} is no Hugging Face tokenizer: {why}", path.display()),
            "give a tokenizer.json, for example from the model's directory or from `athanor data train-tokenizer`",
        )
    };
    match parsed {
        Ok(Ok(mut tokenizer)) => {
            // A dataset holds whole documents, whatever the tokenizer does for inference.
            tokenizer.with_padding(None);
            if tokenizer.with_truncation(None).is_err() {
                return failed("truncation cannot be switched off".into());
            }
            Ok((tokenizer, path))
        }
        Ok(Err(e)) => failed(e.to_string()),
        Err(_) => failed("it cannot be read".into()),
    }
}

/// The named special tokens: from the options, or from the files beside `tokenizer.json`.
struct Named {
    configs: Vec<Value>,
    path: PathBuf,
}

impl Named {
    fn new(path: PathBuf) -> Self {
        let beside = ["tokenizer_config.json", "special_tokens_map.json"].map(|name| path.with_file_name(name));
        let parse = |p: &PathBuf| serde_json::from_slice(&read(p).ok()?).ok();
        Self { configs: beside.iter().filter_map(parse).collect(), path }
    }

    fn text(&self, key: &str, given: Option<&String>) -> Option<String> {
        let of = |v: &Value| v.as_str().or_else(|| v.get("content")?.as_str()).map(str::to_string);
        given.cloned().or_else(|| self.configs.iter().find_map(|c| c.get(key).and_then(of)))
    }

    fn id(&self, tokenizer: &Tokenizer, key: &str, given: Option<&String>) -> Result<u32> {
        let Some(text) = self.text(key, given) else {
            return tokenizer_error(
                format!("no {key} is known for {}", self.path.display()),
                &format!("name it with --{}, or put tokenizer_config.json beside the tokenizer", key.replace('_', "-")),
            );
        };
        tokenizer.token_to_id(&text).map_or_else(
            || {
                tokenizer_error(
                    format!("the {key} {text:?} is not in {}", self.path.display()),
                    "use a token of the vocabulary",
                )
            },
            Ok,
        )
    }
}

impl Encoder {
    /// Loads the tokenizer and finds the special tokens that the options ask for.
    ///
    /// # Errors
    /// D0001 or D0015 if the tokenizer or a token is missing, D0016 if its ids do not fit the token type.
    pub fn open(options: &BuildOptions) -> Result<Self> {
        let (tokenizer, path) = load(&options.tokenizer)?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if !options.dtype.encode(largest, &mut vec![]) {
            return Diagnostic::error(
                &codes::TOKEN_WIDTH,
                format!("{} has ids up to {largest}, too large for {}", path.display(), options.dtype.name()),
            )
            .help("build the dataset with int32 tokens")
            .err();
        }
        let named = Named::new(path);
        let (mut prefix, mut suffix) = if options.add_special_tokens { affixes(&tokenizer)? } else { (vec![], vec![]) };
        if options.add_bos_token {
            let bos = named.id(&tokenizer, "bos_token", options.bos_token.as_ref())?;
            if prefix.first() != Some(&bos) {
                prefix.insert(0, bos);
            }
        }
        let eos = || named.id(&tokenizer, "eos_token", options.eos_token.as_ref());
        if options.add_eos_token {
            let eos = eos()?;
            if suffix.last() != Some(&eos) {
                suffix.push(eos);
            }
        }
        let eod = options.append_eod.then(eos).transpose()?;
        let pad = match options.layout {
            SequenceLayout::Pad => {
                let key = if named.text("pad_token", options.pad_token.as_ref()).is_some() {
                    "pad_token"
                } else {
                    "eos_token"
                };
                let given = if key == "pad_token" { &options.pad_token } else { &options.eos_token };
                named.id(&tokenizer, key, given.as_ref())?
            }
            SequenceLayout::Documents | SequenceLayout::Stitch => 0,
        };
        Ok(Self { tokenizer, prefix, suffix, eod, pad })
    }

    /// The padding token.
    pub(super) fn pad(&self) -> u32 {
        self.pad
    }

    /// Ids of `text` alone, without special tokens around it.
    ///
    /// # Errors
    /// The tokenizer's own message.
    pub fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let mut ids = vec![];
        for piece in pieces(text) {
            let encoding = self.tokenizer.encode_fast(piece, false).map_err(|e| e.to_string())?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(ids)
    }

    /// Ids of a document: for each key its texts, the last one with the end-of-document token.
    pub(super) fn document(&self, raw: &Raw, keys: &[String]) -> Result<Encoded> {
        let texts = raw.texts(keys)?;
        let encode = |text: &String| -> Result<Vec<u32>> {
            let mut ids = if raw.starts && !text.is_empty() { self.prefix.clone() } else { vec![] };
            match self.encode(text) {
                Ok(body) => ids.extend(body),
                Err(e) => return raw.place.error(0, &format!("the tokenizer refuses the text: {e}"), "check the text"),
            }
            if raw.ends && (!ids.is_empty() || !raw.starts) {
                ids.extend_from_slice(&self.suffix);
            }
            Ok(ids)
        };
        let mut ids = Vec::with_capacity(texts.len());
        for texts in &texts {
            let mut document: Vec<Vec<u32>> = texts.iter().map(encode).collect::<Result<_>>()?;
            let open = !raw.starts || document.iter().any(|t| !t.is_empty());
            if let (true, Some(eod), Some(last)) = (raw.ends && open, self.eod, document.last_mut()) {
                last.push(eod);
            }
            ids.push(document);
        }
        Ok(Encoded { keys: ids, ends: raw.ends })
    }
}

/// What the tokenizer's post-processor puts around a text.
fn affixes(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    let ids = |special| tokenizer.encode_fast("a", special).map(|e| e.get_ids().to_vec());
    if let (Ok(plain), Ok(full)) = (ids(false), ids(true)) {
        let at = full.windows(plain.len().max(1)).position(|w| w == plain);
        if let Some(at) = at {
            return Ok((full[..at].to_vec(), full[at + plain.len()..].to_vec()));
        }
    }
    tokenizer_error(
        "the tokenizer's post-processor does not put fixed tokens around a text".into(),
        "switch add_special_tokens off",
    )
}

/// `text` in pieces of at most about [`PIECE`] bytes that begin with the single space between two words.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, tail) = rest.split_at(cut(rest));
        rest = tail;
        Some(piece)
    })
}

fn cut(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let bytes = text.as_bytes();
    let between_words =
        |&i: &usize| bytes[i] == b' ' && bytes[i - 1].is_ascii_alphanumeric() && bytes[i + 1].is_ascii_alphanumeric();
    // Text without a single space between words, such as Chinese, is cut at any character.
    (PIECE / 2..PIECE).rev().find(between_words).unwrap_or_else(|| text.floor_char_boundary(PIECE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_words() {
        let text = "word ".repeat(PIECE / 2) + "end";
        let parts: Vec<&str> = pieces(&text).collect();
        assert!(parts.len() > 2 && parts.iter().all(|p| p.len() <= PIECE));
        assert!(parts[1..].iter().all(|p| p.starts_with(" word")));
        assert_eq!(parts.concat(), text);
        let chinese = "汉".repeat(PIECE);
        assert_eq!(pieces(&chinese).collect::<String>(), chinese);
        assert_eq!(pieces("").count(), 0);
    }
}
