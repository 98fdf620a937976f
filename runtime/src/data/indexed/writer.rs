//! Streaming writer of indexed datasets.

use super::header::{MAGIC, VERSION};
use super::{IndexedDataset, with_extension};
use crate::data::codes;
use crate::data::dtype::TokenType;
use crate::data::output::Output;
use athanor_ir::diag::{Diagnostic, Result};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Writes sequences one by one in bounded memory; nothing is visible before [`IndexedWriter::finish`].
///
/// Lengths and document starts wait in anonymous temporary files, so that memory does not grow with the dataset.
#[derive(Debug)]
pub struct IndexedWriter {
    prefix: PathBuf,
    dtype: TokenType,
    bin: Output,
    lengths: Spool,
    documents: Spool,
    sequences: u64,
    tokens: u64,
    bytes: Vec<u8>,
}

/// A temporary file of numbers that will be a section of the index.
#[derive(Debug)]
struct Spool {
    file: std::fs::File,
    buffer: Vec<u8>,
    path: PathBuf,
}

const SPOOL_BUFFER: usize = 1 << 16;

impl IndexedWriter {
    /// Starts a dataset of `dtype` tokens at `<prefix>.bin` and `<prefix>.idx`; the directory is made if missing.
    ///
    /// # Errors
    /// D0013 if the directory cannot be written.
    pub fn create(prefix: &Path, dtype: TokenType) -> Result<Self> {
        let bin = Output::create(&with_extension(prefix, ".bin"))?;
        let spool = || Spool::create(&with_extension(prefix, ".idx"));
        let (lengths, mut documents) = (spool()?, spool()?);
        documents.push(&0_i64.to_le_bytes())?;
        let prefix = prefix.to_path_buf();
        Ok(Self { prefix, dtype, bin, lengths, documents, sequences: 0, tokens: 0, bytes: vec![] })
    }

    /// Appends one sequence to the current document.
    ///
    /// # Errors
    /// D0016 if a token does not fit the token type, D0013 if the disk is full.
    pub fn add_sequence(&mut self, tokens: &[u32]) -> Result<()> {
        self.add_tokens(tokens)?;
        self.end_sequence(tokens.len() as u64)
    }

    /// Appends tokens to a sequence that [`IndexedWriter::end_sequence`] will close.
    ///
    /// # Errors
    /// As [`IndexedWriter::add_sequence`].
    pub fn add_tokens(&mut self, tokens: &[u32]) -> Result<()> {
        self.bytes.clear();
        for &token in tokens {
            if !self.dtype.encode(token, &mut self.bytes) {
                return Diagnostic::error(
                    &codes::TOKEN_WIDTH,
                    format!("token {token} in sequence {} does not fit {}", self.sequences, self.dtype.name()),
                )
                .help("build the dataset with int32 tokens")
                .err();
            }
        }
        self.tokens += tokens.len() as u64;
        self.bin.write(&self.bytes)
    }

    /// Closes a sequence of `len` tokens.
    ///
    /// # Errors
    /// D0014 if the sequence is longer than the format can say, D0013 if the disk is full.
    pub fn end_sequence(&mut self, len: u64) -> Result<()> {
        let Ok(len) = i32::try_from(len) else {
            return Diagnostic::error(
                &codes::INPUT_TEXT,
                format!("sequence {} has {len} tokens; the index holds lengths below 2^31", self.sequences),
            )
            .help("split the document")
            .err();
        };
        self.sequences += 1;
        self.lengths.push(&len.to_le_bytes())
    }

    /// Ends the current document, which may be empty.
    ///
    /// # Errors
    /// D0013 if the disk is full.
    pub fn end_document(&mut self) -> Result<()> {
        self.documents.push(&(self.sequences as i64).to_le_bytes())
    }

    /// Appends all documents of another dataset of the same token type.
    ///
    /// # Errors
    /// D0017 if the token types differ; otherwise as reading and writing.
    pub fn add_dataset(&mut self, other: &IndexedDataset) -> Result<()> {
        if other.dtype() != self.dtype {
            return Diagnostic::error(
                &codes::OPTIONS,
                format!(
                    "{} holds {} tokens, the merged dataset {}",
                    other.prefix().display(),
                    other.dtype().name(),
                    self.dtype.name()
                ),
            )
            .help("merge datasets of one token type")
            .err();
        }
        let mut tokens = vec![];
        let mut ids: Vec<u32> = vec![];
        for d in 0..other.documents() {
            for i in other.document_start(d)..other.document_start(d + 1) {
                tokens.resize(other.length(i) as usize, 0);
                other.read(i, 0, &mut tokens)?;
                ids.clear();
                ids.extend(tokens.iter().map(|&t| t as u32));
                self.add_sequence(&ids)?;
            }
            self.end_document()?;
        }
        Ok(())
    }

    /// Sequences so far.
    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Writes the index and puts both files in their place, `.idx` last because it is what readers look for.
    ///
    /// # Errors
    /// D0013 if the disk is full; then neither file appears.
    pub fn finish(mut self) -> Result<()> {
        let mut idx = Output::create(&with_extension(&self.prefix, ".idx"))?;
        let documents = self.documents.flush()? / 8;
        self.lengths.flush()?;
        idx.write(MAGIC)?;
        idx.write(&VERSION.to_le_bytes())?;
        idx.write(&[self.dtype as u8])?;
        idx.write(&self.sequences.to_le_bytes())?;
        idx.write(&documents.to_le_bytes())?;
        self.lengths.copy(&mut idx, Output::write)?;
        let mut at = 0_i64;
        let size = self.dtype.size() as i64;
        self.lengths.copy(&mut idx, |idx, part| {
            for length in part.as_chunks::<4>().0 {
                idx.write(&at.to_le_bytes())?;
                at += i32::from_le_bytes(*length) as i64 * size;
            }
            Ok(())
        })?;
        self.documents.copy(&mut idx, Output::write)?;
        let (bin, idx) = (self.bin.finish()?, idx.finish()?);
        bin.publish()?;
        idx.publish()
    }
}

impl Spool {
    fn create(path: &Path) -> Result<Self> {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = path.to_path_buf();
        match tempfile::tempfile_in(dir) {
            Ok(file) => Ok(Self { file, buffer: Vec::with_capacity(SPOOL_BUFFER), path }),
            Err(e) => spool_failed(&path, &e),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > SPOOL_BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes out the buffer and gives the length of the file.
    fn flush(&mut self) -> Result<u64> {
        use std::io::Write;
        let end = self.file.seek(SeekFrom::End(0));
        let written = end.and_then(|end| self.file.write_all(&self.buffer).map(|()| end + self.buffer.len() as u64));
        self.buffer.clear();
        written.or_else(|e| spool_failed(&self.path, &e))
    }

    /// Hands the whole file to `sink` in parts of at most `SPOOL_BUFFER` bytes, a multiple of 8 except for the last.
    fn copy(&mut self, out: &mut Output, mut sink: impl FnMut(&mut Output, &[u8]) -> Result<()>) -> Result<()> {
        let mut part = vec![0; SPOOL_BUFFER];
        let mut done = self.file.seek(SeekFrom::Start(0));
        while done.is_ok() {
            let mut filled = 0;
            while filled < part.len() {
                match self.file.read(&mut part[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        done = Err(e);
                        break;
                    }
                }
            }
            if filled == 0 {
                break;
            }
            sink(out, &part[..filled])?;
        }
        done.map_or_else(|e| spool_failed(&self.path, &e), |_| Ok(()))
    }
}

fn spool_failed<T>(path: &Path, e: &std::io::Error) -> Result<T> {
    Diagnostic::error(&codes::FILE_WRITE, format!("cannot write the parts of {}: {e}", path.display()))
        .help("check that the directory is writable and the disk has room")
        .err()
}
