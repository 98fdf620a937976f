//! What is in a dataset, for `data inspect`.

use super::dtype::TokenType;
use super::indexed::{IndexedDataset, with_extension};
use athanor_ir::diag::Result;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// A summary of an indexed dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetSummary {
    /// Path without `.bin` and `.idx`.
    pub prefix: PathBuf,
    /// Type of the stored tokens.
    pub dtype: TokenType,
    /// Sequences; `GPTDataset` calls these documents.
    pub sequences: u64,
    /// Documents, each of one or more sequences.
    pub documents: u64,
    /// All tokens.
    pub tokens: u64,
    /// Size of the token file in bytes.
    pub bin_bytes: u64,
    /// Shortest sequence.
    pub min_length: u32,
    /// Tokens per sequence, on average.
    pub mean_length: f64,
    /// Longest sequence.
    pub max_length: u32,
    /// Smallest token id among those looked at.
    pub min_token: i32,
    /// Largest token id among those looked at; the vocabulary must be larger.
    pub max_token: i32,
    /// Tokens looked at for the two above: all of them, or the first of a large dataset.
    pub tokens_checked: u64,
    /// The beginning of the first sequence that has tokens.
    pub first_tokens: Vec<i32>,
}

/// Tokens of the first sequence to show.
const SHOWN: usize = 32;

/// Describes the dataset at `prefix` (`.idx` or `.bin` at its end is ignored), looking at up to `max_tokens` tokens.
///
/// # Errors
/// As [`IndexedDataset::open`] and [`IndexedDataset::read`].
pub fn inspect(prefix: &Path, max_tokens: u64) -> Result<DatasetSummary> {
    let prefix = strip_extension(prefix);
    let d = IndexedDataset::open(&prefix, false)?;
    let mut s = DatasetSummary {
        dtype: d.dtype(),
        sequences: d.sequences() as u64,
        documents: d.documents() as u64,
        tokens: 0,
        bin_bytes: d.bin_len(),
        min_length: u32::MAX,
        mean_length: 0.0,
        max_length: 0,
        min_token: i32::MAX,
        max_token: i32::MIN,
        tokens_checked: 0,
        first_tokens: vec![],
        prefix,
    };
    let mut buffer = vec![0; 1 << 16];
    for i in 0..d.sequences() {
        let length = d.length(i);
        s.tokens += length as u64;
        s.min_length = s.min_length.min(length);
        s.max_length = s.max_length.max(length);
        let mut offset = 0;
        while offset < length as usize && s.tokens_checked < max_tokens {
            let left = (max_tokens - s.tokens_checked).min((length as usize - offset) as u64);
            let part = left.min(buffer.len() as u64) as usize;
            d.read(i, offset, &mut buffer[..part])?;
            for &token in &buffer[..part] {
                s.min_token = s.min_token.min(token);
                s.max_token = s.max_token.max(token);
            }
            if s.first_tokens.is_empty() {
                s.first_tokens = buffer[..part.min(SHOWN)].to_vec();
            }
            s.tokens_checked += part as u64;
            offset += part;
        }
    }
    s.mean_length = if s.sequences == 0 { 0.0 } else { s.tokens as f64 / s.sequences as f64 };
    s.min_length = s.min_length.min(s.max_length);
    if s.tokens_checked == 0 {
        (s.min_token, s.max_token) = (0, 0);
    }
    Ok(s)
}

/// The prefix that is meant by the path of either file.
fn strip_extension(path: &Path) -> PathBuf {
    let known = path.extension().is_some_and(|e| e == "idx" || e == "bin");
    if known && !with_extension(path, ".idx").exists() { path.with_extension("") } else { path.to_path_buf() }
}

impl fmt::Display for DatasetSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, sequences, documents, tokens, bin_bytes, .. } = self;
        writeln!(f, "{}", self.prefix.display())?;
        writeln!(f, "  tokens     {tokens} {} in {bin_bytes} bytes", dtype.name())?;
        writeln!(f, "  documents  {documents} of {sequences} sequences")?;
        let (min, mean, max) = (self.min_length, self.mean_length, self.max_length);
        writeln!(f, "  lengths    {min} to {max}, mean {mean:.1}")?;
        let checked = if self.tokens_checked == *tokens { "all".to_string() } else { self.tokens_checked.to_string() };
        writeln!(f, "  token ids  {} to {} ({checked} looked at)", self.min_token, self.max_token)?;
        write!(f, "  begins     {:?}", self.first_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/megatron").join(name)
    }

    #[test]
    fn a_dataset_is_described_by_prefix_or_file() {
        let s = inspect(&golden("tiny_text_document"), u64::MAX).unwrap();
        assert_eq!((s.sequences, s.documents, s.tokens, s.tokens_checked), (20, 20, 398, 398));
        assert_eq!((s.min_length, s.max_length, s.min_token, s.max_token), (4, 35, 1, 996));
        assert_eq!(s.first_tokens, [539, 504, 581, 213, 921, 617, 350, 1]);
        assert_eq!(inspect(&golden("tiny_text_document.idx"), u64::MAX).unwrap(), s);
        let text = s.to_string();
        assert!(text.contains("398 int32") && text.contains("mean 19.9"), "{text}");
        let few = inspect(&golden("tiny_text_document"), 10).unwrap();
        assert_eq!((few.tokens_checked, few.tokens), (10, 398));
    }

    #[test]
    fn a_missing_dataset_is_an_error() {
        assert_eq!(inspect(&golden("none"), 1).unwrap_err().code.id, "D0001");
    }
}
