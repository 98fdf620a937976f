//! Document, sample and shuffle index of a `GPTDataset`.
//!
//! The steps and their order of random draws are those of MindFormers' `gpt_dataset.py`; arrays have its types, so
//! that cached files can be exchanged.

use crate::data::codes;
use crate::data::npy::Array;
use crate::data::shuffle::RandomState;
use athanor_ir::diag::{Diagnostic, Result};
use std::ops::Range;

/// What the index depends on besides the sequence lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexOptions {
    /// Input tokens per sample.
    pub seq_length: usize,
    /// Samples share one token with their successor, which is the label of the last input.
    pub extra_token: bool,
    /// Samples wanted; `None` for one epoch.
    pub num_samples: Option<u64>,
    /// Seed of the one random stream.
    pub seed: u32,
    /// Drop the last, shorter sample.
    pub drop_last: bool,
}

/// Sizes that follow from the options and the number of tokens, without any random draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Passes over the documents.
    pub epochs: u64,
    /// The last pass is shuffled on its own, because less than 80 % of it is used.
    pub separate_final_epoch: bool,
    /// Samples that lie wholly in the passes before the last one.
    pub samples_sans_final: u64,
    /// All samples.
    pub samples: u64,
}

/// The three indices.
#[derive(Debug)]
pub struct GptIndex {
    /// Sizes.
    pub layout: Layout,
    /// Sequence numbers in the order in which they are read.
    pub document: Array<i32>,
    /// Position in `document` and token offset at which each sample starts; one more than samples.
    pub sample: Array<[i64; 2]>,
    /// Order of the samples.
    pub shuffle: Shuffle,
}

/// A permutation of sample numbers.
#[derive(Debug)]
pub enum Shuffle {
    /// Below 2³² − 2 samples.
    Narrow(Array<u32>),
    /// More.
    Wide(Array<i64>),
}

impl Shuffle {
    /// Whether `samples` sample numbers need 64 bits.
    pub fn is_wide(samples: u64) -> bool {
        samples >= u32::MAX as u64 - 1
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(a) => a.len(),
            Self::Wide(a) => a.len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entry `i`.
    pub fn get(&self, i: u64) -> Option<u64> {
        let i = usize::try_from(i).ok()?;
        match self {
            Self::Narrow(a) => a.as_slice().get(i).map(|&v| v as u64),
            Self::Wide(a) => a.as_slice().get(i).and_then(|&v| u64::try_from(v).ok()),
        }
    }
}

impl Layout {
    /// The layout for `tokens_per_epoch` tokens.
    ///
    /// # Errors
    /// D0010 without tokens, D0009 if the request needs more passes than a 32-bit number.
    pub fn new(tokens_per_epoch: u64, o: &IndexOptions) -> Result<Self> {
        let (per_epoch, seq, extra) = (tokens_per_epoch as u128, o.seq_length as u128, u128::from(o.extra_token));
        if per_epoch == 0 || seq == 0 {
            return Diagnostic::error(
                &codes::TOO_FEW,
                format!("{tokens_per_epoch} tokens cannot give samples of {seq} tokens"),
            )
            .help("check the split and the dataset with `athanor data inspect`")
            .err();
        }
        let wanted = o.num_samples.map_or(0, |n| n as u128 * seq + extra);
        let epochs = wanted.div_ceil(per_epoch).max(1);
        let total = epochs * per_epoch - extra;
        let samples = if o.drop_last {
            total / seq
        } else {
            // The reference divides in float32 here, and so large counts are rounded as it rounds them.
            (total as f32 / seq as f32).ceil() as u128
        };
        if epochs > i32::MAX as u128 || samples >= i64::MAX as u128 {
            return Diagnostic::error(
                &codes::SPEC,
                format!("{:?} samples of {seq} tokens need {epochs} passes over {per_epoch} tokens", o.num_samples),
            )
            .help("ask for fewer samples under sizes, or use more data")
            .err();
        }
        let sans = ((epochs - 1) * per_epoch).saturating_sub(extra) / seq;
        let per = (per_epoch - extra) / seq;
        // Both fit: they count samples, which are below 2^63.
        let last = o.num_samples.unwrap_or(0).saturating_sub(sans as u64);
        let separate_final_epoch = epochs > 1 && last < (0.80 * per as f64) as u64;
        Ok(Self {
            epochs: epochs as u64,
            separate_final_epoch,
            samples_sans_final: sans as u64,
            samples: samples as u64,
        })
    }
}

impl GptIndex {
    /// Builds the index of `documents`, whose lengths `length` gives.
    ///
    /// # Errors
    /// As [`Layout::new`], and D0009 if the index does not fit in memory.
    pub fn build(documents: Range<i32>, length: impl Fn(i32) -> u32, options: &IndexOptions) -> Result<Self> {
        let tokens = documents.clone().map(|d| length(d) as u64).sum();
        let layout = Layout::new(tokens, options)?;
        let mut random = RandomState::new(options.seed);
        let document = document_index(documents, &layout, &mut random)?;
        let sample = sample_index(&document, length, &layout, options)?;
        let first = if layout.separate_final_epoch { layout.samples_sans_final } else { layout.samples };
        let shuffle = if Shuffle::is_wide(layout.samples) {
            Shuffle::Wide(Array::Owned(permutation(first, layout.samples, &mut random, |v| v as i64)?))
        } else {
            Shuffle::Narrow(Array::Owned(permutation(first, layout.samples, &mut random, |v| v as u32)?))
        };
        Ok(Self { layout, document: Array::Owned(document), sample: Array::Owned(sample), shuffle })
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.layout.samples
    }
}

fn reserve<T>(len: u64, what: &str) -> Result<Vec<T>> {
    let mut v = Vec::new();
    if usize::try_from(len).is_ok_and(|n| v.try_reserve_exact(n).is_ok()) {
        return Ok(v);
    }
    Diagnostic::error(&codes::SPEC, format!("the {what} index of {len} entries does not fit in memory"))
        .help("ask for fewer samples under sizes")
        .err()
}

fn document_index(documents: Range<i32>, layout: &Layout, random: &mut RandomState) -> Result<Vec<i32>> {
    let mut index = reserve(layout.epochs.saturating_mul(documents.len() as u64), "document")?;
    let together = layout.epochs - u64::from(layout.separate_final_epoch);
    for _ in 0..together {
        index.extend(documents.clone());
    }
    random.shuffle(&mut index);
    if layout.separate_final_epoch {
        let start = index.len();
        index.extend(documents);
        random.shuffle(&mut index[start..]);
    }
    Ok(index)
}

fn sample_index(
    documents: &[i32],
    length: impl Fn(i32) -> u32,
    layout: &Layout,
    options: &IndexOptions,
) -> Result<Vec<[i64; 2]>> {
    let extra = i64::from(options.extra_token);
    let mut index = reserve(layout.samples + 1, "sample")?;
    index.push([0, 0]);
    let (mut at, mut offset) = (0, 0_i64);
    for _ in 0..layout.samples {
        let mut left = options.seq_length as i64 + extra;
        while left != 0 {
            let rest = length(documents[at]) as i64 - offset;
            left -= rest;
            if left <= 0 {
                // The next sample begins with the extra token of this one.
                offset += left + rest - extra;
                left = 0;
            } else if at + 1 == documents.len() {
                offset = length(documents[at]) as i64 - extra;
                break;
            } else {
                at += 1;
                offset = 0;
            }
        }
        index.push([at as i64, offset]);
    }
    Ok(index)
}

fn permutation<T>(first: u64, total: u64, random: &mut RandomState, cast: impl Fn(u64) -> T) -> Result<Vec<T>> {
    let mut index = reserve(total, "shuffle")?;
    index.extend((0..first).map(&cast));
    random.shuffle(&mut index);
    if first < total {
        let start = index.len();
        index.extend((first..total).map(&cast));
        random.shuffle(&mut index[start..]);
    }
    Ok(index)
}
