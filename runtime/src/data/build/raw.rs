//! One document as it lies in a file, and the text in it.

use crate::data::codes;
use athanor_ir::diag::{Diagnostic, Result};
use serde_json::Value;
use std::sync::Arc;

/// A document or a part of one, as it lies in the file.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) bytes: Vec<u8>,
    /// The bytes are a JSON object; otherwise they are the text itself.
    pub(crate) json: bool,
    /// A document begins here.
    pub(crate) starts: bool,
    /// A document ends here.
    pub(crate) ends: bool,
    pub(crate) place: Place,
}

impl Raw {
    /// The texts under each key; plain text has one text, whatever the key.
    ///
    /// # Errors
    /// D0014 if the bytes are not UTF-8, not JSON, or lack a key.
    pub(crate) fn texts(&self, keys: &[String]) -> Result<Vec<Vec<String>>> {
        if self.json {
            return parse_json(self, keys);
        }
        let text = decode(&self.bytes, &self.place)?;
        Ok(keys.iter().map(|_| vec![text.clone()]).collect())
    }
}

/// Where a document begins.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(super) path: Arc<str>,
    pub(super) line: u64,
    pub(super) offset: u64,
}

impl Place {
    /// A D0014 error at `offset` bytes behind this place.
    pub(crate) fn error<T>(&self, offset: usize, what: &str, help: &str) -> Result<T> {
        Diagnostic::error(
            &codes::INPUT_TEXT,
            format!("{}: line {}, byte {}: {what}", self.path, self.line, self.offset + offset as u64),
        )
        .help(help)
        .err()
    }
}

/// Text of UTF-8 `bytes` with line ends as `\n`.
pub(super) fn decode(bytes: &[u8], place: &Place) -> Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains('\r') => Ok(text.replace("\r\n", "\n").replace('\r', "\n")),
        Ok(text) => Ok(text.to_string()),
        Err(e) => place.error(e.valid_up_to(), "this is not UTF-8 text", "convert the file to UTF-8"),
    }
}

fn parse_json(raw: &Raw, keys: &[String]) -> Result<Vec<Vec<String>>> {
    const HELP: &str =
        "each line of a JSONL file is an object such as {\"text\": \"...\"}; name the keys with --json-keys";
    let value: Value = match serde_json::from_slice(&raw.bytes) {
        Ok(value) => value,
        Err(e) => return raw.place.error(e.column().saturating_sub(1), &format!("this is no JSON: {e}"), HELP),
    };
    let of = |key: &String| -> Result<Vec<String>> {
        let texts = match value.get(key) {
            Some(Value::String(text)) => Some(vec![text.clone()]),
            Some(Value::Array(items)) => items.iter().map(|i| i.as_str().map(str::to_string)).collect(),
            Some(_) => None,
            None => return raw.place.error(0, &format!("the document has no key {key:?}"), HELP),
        };
        texts.map_or_else(|| raw.place.error(0, &format!("{key:?} holds neither a text nor a list of texts"), HELP), Ok)
    };
    keys.iter().map(of).collect()
}
