//! `GPTDataset`: fixed-length samples cut from shuffled documents, exactly as MindFormers and Megatron cut them.

pub mod index;
pub mod masks;

use super::indexed::IndexedDataset;
use super::{Columns, Dataset, SampleMut, codes};
use athanor_ir::diag::{Diagnostic, Result};
use index::GptIndex;
use masks::Masks;
use std::sync::Arc;

/// The samples of one split of one indexed dataset.
#[derive(Debug)]
pub struct GptDataset {
    indexed: Arc<IndexedDataset>,
    index: GptIndex,
    seq_length: usize,
    extra_token: bool,
    masks: Masks,
}

/// Tokens of one document inside a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    sequence: usize,
    start: usize,
    len: usize,
}

impl GptDataset {
    /// Joins a dataset with its index; `extra_token` as `add_extra_token_to_sequence`.
    pub fn new(
        indexed: Arc<IndexedDataset>,
        index: GptIndex,
        seq_length: usize,
        extra_token: bool,
        masks: Masks,
    ) -> Self {
        Self { indexed, index, seq_length, extra_token, masks }
    }

    /// The index behind the samples.
    pub fn index(&self) -> &GptIndex {
        &self.index
    }

    /// The documents that sample `i` is made of, in order.
    fn parts(&self, i: u64) -> Result<Vec<Part>> {
        let damaged = |what: &str| {
            Diagnostic::error(&codes::CACHE, format!("sample {i} of {}: {what}", self.indexed.prefix().display()))
                .help("delete the files under path_to_cache and start again")
                .err()
        };
        let samples = self.index.sample.as_slice();
        let at = self.index.shuffle.get(i).and_then(|j| usize::try_from(j).ok());
        let Some(&[[first, first_offset], [last, last_offset]]) =
            at.and_then(|j| samples.get(j..j.checked_add(2)?)).and_then(|w| w.first_chunk())
        else {
            return damaged("there is no such sample");
        };
        let documents = self.index.document.as_slice();
        let ends = (usize::try_from(first), usize::try_from(last));
        let (Ok(first), Ok(last)) = ends else {
            return damaged("the sample index has negative entries");
        };
        let Some(span) = documents.get(first..=last) else {
            return damaged("the sample index points behind the document index");
        };
        let mut parts = Vec::with_capacity(span.len());
        for (d, &document) in (first..).zip(span) {
            let Some(sequence) = usize::try_from(document).ok().filter(|&s| s < self.indexed.sequences()) else {
                return damaged("the document index points behind the dataset");
            };
            let len = self.indexed.length(sequence) as i64;
            let start = if d == first { first_offset.max(0) } else { 0 };
            let end = if d == last { last_offset + i64::from(self.extra_token) } else { len };
            if start > end || end > len {
                return damaged("the sample index points behind a document");
            }
            parts.push(Part { sequence, start: start as usize, len: (end - start) as usize });
        }
        if parts.iter().map(|p| p.len).sum::<usize>() > self.seq_length + usize::from(self.extra_token) {
            return damaged("the sample is too long");
        }
        Ok(parts)
    }
}

impl Dataset for GptDataset {
    fn len(&self) -> u64 {
        self.index.samples()
    }

    fn seq_length(&self) -> usize {
        self.seq_length
    }

    fn sample(&self, index: u64, out: &mut SampleMut<'_>) -> Result<()> {
        let mut text = vec![self.masks.pad; self.seq_length + 1];
        let mut filled = 0;
        for part in self.parts(index)? {
            self.indexed.read(part.sequence, part.start, &mut text[filled..filled + part.len])?;
            filled += part.len;
        }
        // Without the extra token, the label of the last input is padding; `text` has that in its last place.
        out.tokens.copy_from_slice(&text[..self.seq_length]);
        out.labels.copy_from_slice(&text[1..]);
        self.masks.apply(out).or_else(|e| {
            let at = self.locate(index, 0);
            Diagnostic { message: format!("sample {index} ({at}): {}", e.message), ..*e }.err()
        })
    }

    fn columns(&self) -> Columns {
        self.masks.columns()
    }

    fn resets_attention(&self) -> bool {
        self.masks.reset_attention_mask || self.masks.eod_pad_length > 0
    }

    fn locate(&self, index: u64, offset: usize) -> String {
        let mut left = offset;
        for part in self.parts(index).unwrap_or_default() {
            if left < part.len {
                return self.indexed.locate(part.sequence, part.start + left);
            }
            left -= part.len;
        }
        format!("{}.bin, sample {index}", self.indexed.prefix().display())
    }
}

#[cfg(test)]
mod tests;
