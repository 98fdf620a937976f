//! Token ids of documents to sequences of one dataset.

use super::options::{BuildOptions, SequenceLayout};
use crate::data::indexed::IndexedWriter;
use athanor_ir::diag::Result;
use std::path::Path;

/// The writer of one key's dataset.
pub(super) struct Sink {
    writer: IndexedWriter,
    layout: SequenceLayout,
    /// Tokens per sequence of `stitch` and `pad`.
    chunk: usize,
    pad: u32,
    /// Tokens that wait for their sequence to be full (`stitch`) or their document to end (`pad`).
    waiting: Vec<u32>,
    /// Tokens of the open sequence that are already written (`documents`).
    open: u64,
    /// Sequences before the current document.
    document_start: u64,
}

impl Sink {
    pub(super) fn create(prefix: &Path, options: &BuildOptions, pad: u32) -> Result<Self> {
        Ok(Self {
            writer: IndexedWriter::create(prefix, options.dtype)?,
            layout: options.layout,
            chunk: options.seq_length.saturating_add(1),
            pad,
            waiting: vec![],
            open: 0,
            document_start: 0,
        })
    }

    /// Adds the texts of a document, or of a part of one; `ends` closes it.
    pub(super) fn add(&mut self, texts: &[Vec<u32>], ends: bool) -> Result<()> {
        match self.layout {
            SequenceLayout::Documents => self.add_document(texts, ends),
            SequenceLayout::Stitch => self.stitch(texts),
            SequenceLayout::Pad => self.add_padded(texts, ends),
        }
    }

    fn add_document(&mut self, texts: &[Vec<u32>], ends: bool) -> Result<()> {
        // Texts of a list are sequences of one document; parts of a file are one sequence.
        for text in texts {
            self.writer.add_tokens(text)?;
            self.open += text.len() as u64;
            if ends && self.open > 0 {
                self.writer.end_sequence(std::mem::take(&mut self.open))?;
            }
        }
        if ends && self.writer.sequences() > self.document_start {
            self.document_start = self.writer.sequences();
            self.writer.end_document()?;
        }
        Ok(())
    }

    fn stitch(&mut self, texts: &[Vec<u32>]) -> Result<()> {
        for text in texts {
            self.waiting.extend_from_slice(text);
        }
        let whole = self.waiting.len() / self.chunk * self.chunk;
        for sequence in self.waiting[..whole].chunks_exact(self.chunk) {
            self.writer.add_sequence(sequence)?;
            self.writer.end_document()?;
        }
        self.waiting.drain(..whole);
        Ok(())
    }

    fn add_padded(&mut self, texts: &[Vec<u32>], ends: bool) -> Result<()> {
        for text in texts {
            let room = self.chunk - self.waiting.len();
            self.waiting.extend_from_slice(&text[..text.len().min(room)]);
        }
        if ends && !self.waiting.is_empty() {
            self.waiting.resize(self.chunk, self.pad);
            self.writer.add_sequence(&self.waiting)?;
            self.writer.end_document()?;
            self.waiting.clear();
        }
        Ok(())
    }

    pub(super) fn sequences(&self) -> u64 {
        self.writer.sequences()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.writer.tokens()
    }

    /// Tokens that no sequence takes.
    pub(super) fn left_over(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub(super) fn finish(self) -> Result<()> {
        self.writer.finish()
    }
}
