//! The fixed head of an `.idx` file.

use crate::data::codes;
use crate::data::dtype::TokenType;
use athanor_ir::diag::{Diagnostic, Result};
use std::path::Path;

/// First bytes of every `.idx` file.
pub(super) const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
/// The one version there is.
pub(super) const VERSION: u64 = 1;
/// Bytes before the sequence lengths.
pub const HEADER_LEN: usize = 34;

/// What the head says; sizes are checked against the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) dtype: TokenType,
    pub(super) sequences: usize,
    /// Number of documents + 1.
    pub(super) document_starts: usize,
}

impl Header {
    /// Reads the head of `idx`, the whole content of `path`.
    pub(super) fn parse(path: &Path, idx: &[u8]) -> Result<Self> {
        let name = path.display();
        let bad = |at: usize, what: String| {
            Diagnostic::error(&codes::IDX_HEADER, format!("{name}: byte {at}: {what}"))
                .help("give the prefix of a Megatron dataset, without .idx or .bin")
                .err()
        };
        let Some(head) = idx.first_chunk::<HEADER_LEN>() else {
            return wrong_size(path, idx.len(), &format!("the header alone has {HEADER_LEN}"));
        };
        if !head.starts_with(MAGIC) {
            return bad(0, "the file does not start with MMIDIDX".into());
        }
        let u64_at = |at: usize| head[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        if u64_at(9) != VERSION {
            return bad(9, format!("version {} is unknown, expected {VERSION}", u64_at(9)));
        }
        let Some(dtype) = TokenType::from_code(head[17]) else {
            return bad(17, format!("token type code {} is unknown, expected 1 to 8", head[17]));
        };
        let (sequences, starts) = (u64_at(18), u64_at(26));
        let Some(plain) = implied_len(sequences, starts) else {
            return wrong_size(
                path,
                idx.len(),
                &format!("the header counts {sequences} sequences and {starts} documents"),
            );
        };
        // A multimodal dataset has one byte per sequence more, which text training does not look at.
        if ![plain, plain + sequences].contains(&(idx.len() as u64)) {
            return wrong_size(path, idx.len(), &format!("its header implies {plain}"));
        }
        if starts == 0 {
            return bad(26, "there is no document index".into());
        }
        Ok(Self { dtype, sequences: sequences as usize, document_starts: starts as usize })
    }

    pub(super) fn pointers_at(&self) -> usize {
        HEADER_LEN + 4 * self.sequences
    }

    pub(super) fn documents_at(&self) -> usize {
        HEADER_LEN + 12 * self.sequences
    }
}

fn implied_len(sequences: u64, starts: u64) -> Option<u64> {
    // A thirteenth byte per sequence leaves room for the modes of a multimodal dataset.
    sequences.checked_mul(13)?.checked_add(starts.checked_mul(8)?)?.checked_add(HEADER_LEN as u64)?;
    Some(HEADER_LEN as u64 + 12 * sequences + 8 * starts)
}

pub(super) fn wrong_size<T>(path: &Path, len: usize, expected: &str) -> Result<T> {
    Diagnostic::error(&codes::IDX_SIZE, format!("{} has {len} bytes, but {expected}", path.display()))
        .help("the file was cut off while it was written or copied: copy or build the dataset again")
        .err()
}
