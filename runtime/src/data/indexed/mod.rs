//! Megatron indexed datasets: `<prefix>.bin` holds tokens, `<prefix>.idx` where each sequence starts.
//!
//! Layout of `.idx`, little-endian: `MMIDIDX\0\0`, u64 version 1, u8 token type, u64 sequences N, u64 document starts M,
//! i32 lengths `[N]`, i64 byte offsets `[N]`, i64 document starts `[M]`, and i8 modes `[N]` in multimodal datasets.

mod header;
mod writer;

pub use header::HEADER_LEN;
pub use writer::IndexedWriter;

use super::codes;
use super::dtype::TokenType;
use super::source::{Source, map, open_file};
use athanor_ir::diag::{Diagnostic, Result};
use header::Header;
use memmap2::Mmap;
use std::path::{Path, PathBuf};

/// An opened and validated pair of `.idx` and `.bin`.
#[derive(Debug)]
pub struct IndexedDataset {
    prefix: PathBuf,
    header: Header,
    idx: Mmap,
    bin: Source,
}

/// `<prefix><extension>`; the prefix may itself have dots in it.
pub fn with_extension(prefix: &Path, extension: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(extension);
    PathBuf::from(name)
}

impl IndexedDataset {
    /// Opens `<prefix>.idx` and `<prefix>.bin` and checks all that the index says, in one pass and no extra memory.
    ///
    /// `mmap` maps the token file instead of reading it.
    ///
    /// # Errors
    /// D0001 if a file is missing, D0003 to D0005 if the index is damaged, D0006 if the token file is too short.
    pub fn open(prefix: &Path, mmap: bool) -> Result<Self> {
        let path = with_extension(prefix, ".idx");
        let (file, len) = open_file(&path)?;
        if len == 0 {
            // An empty file cannot be mapped.
            return header::wrong_size(&path, 0, "the header alone has 34");
        }
        let idx = map(&file, &path)?;
        let header = Header::parse(&path, &idx)?;
        let bin = Source::open(&with_extension(prefix, ".bin"), mmap)?;
        let dataset = Self { prefix: prefix.to_path_buf(), header, idx, bin };
        dataset.check_sequences(&path)?;
        dataset.check_documents(&path)?;
        Ok(dataset)
    }

    /// The path without `.idx` and `.bin`.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Type of the stored tokens.
    pub fn dtype(&self) -> TokenType {
        self.header.dtype
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.header.sequences
    }

    /// Number of documents; each is one sequence or more.
    pub fn documents(&self) -> usize {
        self.header.document_starts.saturating_sub(1)
    }

    /// Size of the token file in bytes.
    pub fn bin_len(&self) -> u64 {
        self.bin.len
    }

    /// Tokens in sequence `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Self::sequences`].
    pub fn length(&self, i: usize) -> u32 {
        assert!(i < self.header.sequences, "sequence {i} of {}", self.header.sequences);
        self.i32_at(HEADER_LEN + 4 * i) as u32
    }

    /// Byte offset of sequence `i` in the token file.
    ///
    /// # Panics
    /// If `i` is not below [`Self::sequences`].
    pub fn pointer(&self, i: usize) -> u64 {
        assert!(i < self.header.sequences, "sequence {i} of {}", self.header.sequences);
        self.i64_at(self.header.pointers_at() + 8 * i) as u64
    }

    /// Sequence at which document `d` starts; `d` may be [`Self::documents`], which gives the number of sequences.
    ///
    /// # Panics
    /// If `d` is above [`Self::documents`].
    pub fn document_start(&self, d: usize) -> usize {
        assert!(d < self.header.document_starts, "document {d} of {}", self.documents());
        self.i64_at(self.header.documents_at() + 8 * d) as usize
    }

    /// Reads `out.len()` tokens of sequence `i` from token `offset` on.
    ///
    /// # Errors
    /// D0002 if the file cannot be read, D0007 if a stored value is not a 32-bit integer.
    ///
    /// # Panics
    /// If the range is not inside the sequence.
    pub fn read(&self, i: usize, offset: usize, out: &mut [i32]) -> Result<()> {
        assert!(offset + out.len() <= self.length(i) as usize, "range inside the sequence");
        let size = self.header.dtype.size();
        let at = self.pointer(i) + (offset * size) as u64;
        let mut bytes = vec![0; out.len() * size];
        self.bin.read_at(at, &mut bytes)?;
        self.header.dtype.decode(&bytes, out).or_else(|k| {
            Diagnostic::error(
                &codes::TOKEN_RANGE,
                format!(
                    "{}: the {} at byte {} (sequence {i}, token {}) is no token id",
                    self.bin.path.display(),
                    self.header.dtype.name(),
                    at + (k * size) as u64,
                    offset + k
                ),
            )
            .help("token ids are integers below 2^31; build the dataset again")
            .err()
        })
    }

    /// File and byte offset of token `offset` of sequence `i`, for messages.
    pub fn locate(&self, i: usize, offset: usize) -> String {
        let at = self.pointer(i) + (offset * self.header.dtype.size()) as u64;
        format!("{}, byte {at} (sequence {i}, token {offset})", self.bin.path.display())
    }

    fn i32_at(&self, at: usize) -> i32 {
        self.idx[at..at + 4].try_into().map_or(0, i32::from_le_bytes)
    }

    fn i64_at(&self, at: usize) -> i64 {
        self.idx[at..at + 8].try_into().map_or(0, i64::from_le_bytes)
    }

    fn check_sequences(&self, path: &Path) -> Result<()> {
        let (h, size) = (&self.header, self.header.dtype.size() as u64);
        let wrong = |at: usize, what: String| content(path, at, &what);
        let mut end = 0_u64;
        for i in 0..h.sequences {
            let (length_at, pointer_at) = (HEADER_LEN + 4 * i, h.pointers_at() + 8 * i);
            let (length, pointer) = (self.i32_at(length_at), self.i64_at(pointer_at));
            if length < 0 {
                return wrong(length_at, format!("sequence {i} has length {length}"));
            }
            // Writers lay sequences out one after the other; a gap would be odd, an overlap is damage.
            let next = u64::try_from(pointer).ok().filter(|&p| p >= end);
            let Some(next) = next.and_then(|p| p.checked_add(length as u64 * size)) else {
                return wrong(
                    pointer_at,
                    format!("sequence {i} starts at byte {pointer}, the one before ends at {end}"),
                );
            };
            end = next;
        }
        if end > self.bin.len {
            return Diagnostic::error(
                &codes::BIN_SIZE,
                format!(
                    "{} has {} bytes, but {} describes {end}",
                    self.bin.path.display(),
                    self.bin.len,
                    path.display()
                ),
            )
            .help("copy or build the dataset again; .bin and .idx must come from the same build")
            .err();
        }
        Ok(())
    }

    fn check_documents(&self, path: &Path) -> Result<()> {
        let h = &self.header;
        let (mut last, mut at) = (0, h.documents_at());
        for d in 0..h.document_starts {
            at = h.documents_at() + 8 * d;
            let start = self.i64_at(at);
            if start < last || start > h.sequences as i64 || (d == 0 && start != 0) {
                return content(path, at, &format!("document {d} starts at sequence {start}, after {last}"));
            }
            last = start;
        }
        if last != h.sequences as i64 {
            return content(path, at, &format!("documents end at sequence {last} of {}", h.sequences));
        }
        Ok(())
    }
}

fn content(path: &Path, at: usize, what: &str) -> Result<()> {
    Diagnostic::error(&codes::IDX_CONTENT, format!("{}: byte {at}: {what}", path.display()))
        .help("the file is damaged: copy or build the dataset again")
        .err()
}

#[cfg(test)]
mod tests;
