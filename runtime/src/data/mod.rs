//! Training data: Megatron indexed datasets, raw token files, batches, and the tools that make them.
//!
//! A [`spec::DataSpec`] says what to read, [`open::open`] turns it into a [`Dataset`], and a [`loader::BatchLoader`]
//! yields the batches of one data-parallel rank as a pure function of the step, so that resuming is exact.
//! [`build`] and [`tokenizer`] are the offline side: text to `.bin`/`.idx`, and text to `tokenizer.json`.

pub mod blend;
pub mod build;
pub mod cache;
pub mod codes;
pub mod dtype;
pub mod gpt;
pub mod indexed;
pub mod inspect;
pub mod loader;
pub mod npy;
pub mod open;
mod output;
pub mod shuffle;
mod source;
pub mod spec;
pub mod split;
pub mod token_bin;
pub mod tokenizer;

pub use codes::CODES;

use athanor_ir::diag::Result;

/// Where one sample is written: slices that the caller owns.
#[derive(Debug)]
pub struct SampleMut<'a> {
    /// Input token ids, `[seq_length]`.
    pub tokens: &'a mut [i32],
    /// Target token ids, `[seq_length]`; −100 (or the configured `ignore_token_id`) takes no part in the loss.
    pub labels: &'a mut [i32],
    /// 1 where a position counts in the loss, `[seq_length]`; written only if [`Columns::loss_mask`].
    pub loss_mask: &'a mut [f32],
    /// Position of each token in its document, `[seq_length]`; written only if [`Columns::position_ids`].
    pub position_ids: &'a mut [i32],
    /// Cumulative document ends inside the sample, padded with `seq_length`; its length is
    /// [`Columns::actual_seq_len`].
    pub actual_seq_len: &'a mut [i32],
}

/// Which optional columns of [`SampleMut`] a dataset writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Columns {
    /// The dataset decides which positions count in the loss.
    pub loss_mask: bool,
    /// The dataset gives position ids that restart at document ends.
    pub position_ids: bool,
    /// Length of the compressed end-of-document mask, 0 if there is none.
    pub actual_seq_len: usize,
}

/// Samples of a fixed length, addressed by number.
pub trait Dataset: Send + Sync {
    /// Number of samples in one epoch.
    fn len(&self) -> u64;

    /// Whether there is no sample at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens per sample (inputs, without the extra label token).
    fn seq_length(&self) -> usize;

    /// Reads sample `index`; slices of [`SampleMut`] must have the lengths it documents.
    ///
    /// # Errors
    /// When the sample does not exist or its file cannot be read.
    fn sample(&self, index: u64, out: &mut SampleMut<'_>) -> Result<()>;

    /// The optional columns that [`Dataset::sample`] writes.
    fn columns(&self) -> Columns {
        Columns::default()
    }

    /// Whether tokens must not attend across document ends (`reset_attention_mask` or
    /// `create_compressed_eod_mask`): the compiler must be able to do that, or refuse.
    fn resets_attention(&self) -> bool {
        false
    }

    /// File and byte offset of token `offset` (0 to `seq_length` inclusive) of sample `index`, for messages.
    fn locate(&self, index: u64, offset: usize) -> String;
}
