//! Batches of one data-parallel rank, read ahead on a background thread.

use super::{Dataset, SampleMut, codes};
use athanor_ir::diag::{Diagnostic, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How samples become batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// This rank along the data axis of the mesh.
    pub dp_rank: usize,
    /// Size of the data axis.
    pub dp_size: usize,
    /// Samples per micro batch of one rank.
    pub micro_batch_size: usize,
    /// Micro batches per step of one rank.
    pub micro_batch_num: usize,
    /// First step to yield.
    pub start_step: u64,
    /// Token ids must be below this.
    pub vocab_size: usize,
    /// Inputs equal to this do not count in the loss, when the dataset gives no mask of its own.
    pub pad_token_id: Option<i32>,
    /// Labels equal to this do not count in the loss; −100 in MindFormers.
    pub ignore_token_id: i32,
    /// Leave out the last samples that do not fill a global batch; otherwise it is filled from the beginning.
    pub drop_remainder: bool,
    /// The epoch ends after this many samples, if the dataset has more (`sizes` of Megatron data).
    pub take: Option<u64>,
    /// Batches read ahead, at least 1.
    pub prefetch: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            dp_rank: 0,
            dp_size: 1,
            micro_batch_size: 1,
            micro_batch_num: 1,
            start_step: 0,
            vocab_size: i32::MAX as usize,
            pad_token_id: None,
            ignore_token_id: -100,
            drop_remainder: true,
            take: None,
            prefetch: 2,
        }
    }
}

/// One micro batch; `b` is `micro_batch_size` and `s` the sequence length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Step that the batch belongs to, from 0.
    pub step: u64,
    /// Number of the micro batch in its step, from 0.
    pub micro_batch: usize,
    /// Pass over the data, from 0.
    pub epoch: u64,
    /// Samples that all ranks together have consumed when this step is done.
    pub consumed_samples: u64,
    /// Input token ids, `[b, s]`, each in `0..vocab_size`.
    pub tokens: Vec<i32>,
    /// Target token ids, `[b, s]`, each in `0..vocab_size`; 0 where masked as ignored.
    pub labels: Vec<i32>,
    /// 1 where a position counts in the loss, `[b, s]`.
    pub loss_mask: Vec<f32>,
    /// Positions, `[b, s]`, if the dataset resets them; otherwise empty: every row is `0..s`.
    pub position_ids: Vec<i32>,
    /// Cumulative document ends, `[b, eod_pad_length]`, if the dataset gives them; otherwise empty.
    pub actual_seq_len: Vec<i32>,
}

/// Which samples a step reads: a pure function of the step.
///
/// Rank `r` of `n` reads samples `r, r + n, r + 2n, …` in order, as MindSpore's sharded loader does, so that a step
/// reads the same set of samples whatever the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    samples: u64,
    steps_per_epoch: u64,
    global_batch: u64,
    dp_rank: u64,
    dp_size: u64,
    micro_batch_size: u64,
}

impl Schedule {
    /// The schedule for a dataset of `samples` samples.
    ///
    /// # Errors
    /// D0009 if a size is 0 or the rank is outside the axis, D0010 if there is less than one global batch.
    pub fn new(samples: u64, o: &LoaderOptions) -> Result<Self> {
        let sizes = [o.dp_size, o.micro_batch_size, o.micro_batch_num].map(|n| n as u64);
        let global_batch = sizes.iter().try_fold(1_u64, |a, &b| a.checked_mul(b)).filter(|&n| n > 0);
        let Some(global_batch) = global_batch.filter(|_| o.dp_rank < o.dp_size) else {
            return Diagnostic::error(
                &codes::SPEC,
                format!("rank {} of {} with micro batches {}x{}", o.dp_rank, o.dp_size, sizes[2], sizes[1]),
            )
            .help("batch size, micro_batch_num and data_parallel are positive numbers")
            .err();
        };
        let steps = if o.drop_remainder { samples / global_batch } else { samples.div_ceil(global_batch) };
        // MindFormers cuts the built dataset to whole steps of the requested size.
        let steps_per_epoch = o.take.map_or(steps, |t| steps.min(t / global_batch));
        if steps_per_epoch == 0 {
            return Diagnostic::error(
                &codes::TOO_FEW,
                format!(
                    "a global batch needs {global_batch} samples; the data has {samples}{}",
                    o.take.map_or(String::new(), |t| format!(", of which sizes asks for {t}"))
                ),
            )
            .help("use more data, a smaller batch or a shorter seq_length, or set drop_remainder: False")
            .err();
        }
        Ok(Self {
            samples,
            steps_per_epoch,
            global_batch,
            dp_rank: o.dp_rank as u64,
            dp_size: o.dp_size as u64,
            micro_batch_size: o.micro_batch_size as u64,
        })
    }

    /// Steps in one pass over the data.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Samples that all ranks together read in one step.
    pub fn global_batch(&self) -> u64 {
        self.global_batch
    }

    /// Number of the sample in row `row` of micro batch `micro` of `step`.
    pub fn sample(&self, step: u64, micro: usize, row: usize) -> u64 {
        let local = micro as u64 * self.micro_batch_size + row as u64;
        let at = step % self.steps_per_epoch * self.global_batch + local * self.dp_size + self.dp_rank;
        // Only the last batch of an epoch without drop_remainder reaches beyond the end.
        at % self.samples
    }
}

/// Reads batches of one rank.
struct Reader {
    dataset: Arc<dyn Dataset>,
    schedule: Schedule,
    options: LoaderOptions,
}

impl Reader {
    fn batch(&self, step: u64, micro: usize) -> Result<Batch> {
        let (o, columns) = (&self.options, self.dataset.columns());
        let (b, s) = (o.micro_batch_size, self.dataset.seq_length());
        let mut batch = Batch {
            step,
            micro_batch: micro,
            epoch: step / self.schedule.steps_per_epoch,
            consumed_samples: (step + 1) * self.schedule.global_batch,
            tokens: vec![0; b * s],
            labels: vec![0; b * s],
            loss_mask: vec![1.0; b * s],
            position_ids: vec![0; if columns.position_ids { b * s } else { 0 }],
            actual_seq_len: vec![0; b * columns.actual_seq_len],
        };
        for row in 0..b {
            let sample = self.schedule.sample(step, micro, row);
            let span = row * s..(row + 1) * s;
            let ends = row * columns.actual_seq_len..(row + 1) * columns.actual_seq_len;
            let mut out = SampleMut {
                tokens: &mut batch.tokens[span.clone()],
                labels: &mut batch.labels[span.clone()],
                loss_mask: &mut batch.loss_mask[span.clone()],
                position_ids: batch.position_ids.get_mut(span).unwrap_or_default(),
                actual_seq_len: &mut batch.actual_seq_len[ends],
            };
            self.dataset.sample(sample, &mut out)?;
            self.finish(sample, columns.loss_mask, &mut out)?;
        }
        Ok(batch)
    }

    /// Applies padding and ignored labels to the mask and checks the token ids.
    fn finish(&self, sample: u64, has_mask: bool, out: &mut SampleMut<'_>) -> Result<()> {
        let o = &self.options;
        for ((mask, label), token) in out.loss_mask.iter_mut().zip(out.labels.iter_mut()).zip(&*out.tokens) {
            if !has_mask && o.pad_token_id == Some(*token) {
                *mask = 0.0;
            }
            if *label == o.ignore_token_id {
                *mask = 0.0;
                *label = 0;
            }
        }
        let bad = |ids: &[i32]| ids.iter().position(|&id| id < 0 || id as usize >= o.vocab_size);
        let found = bad(out.tokens).map(|k| (k, out.tokens[k]));
        let found = found.or_else(|| bad(out.labels).map(|k| (k + 1, out.labels[k])));
        let Some((offset, id)) = found else { return Ok(()) };
        Diagnostic::error(
            &codes::TOKEN_RANGE,
            format!(
                "token id {id} is not in the vocabulary of {}: sample {sample}, token {offset} ({})",
                o.vocab_size,
                self.dataset.locate(sample, offset)
            ),
        )
        .help("set model vocab_size to that of the tokenizer which made the data, or build the data again")
        .err()
    }
}

/// Yields the micro batches of one rank in order, without end: after the last step of an epoch comes the first.
pub struct BatchLoader {
    reader: Arc<Reader>,
    queue: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for BatchLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchLoader").field("schedule", &self.reader.schedule).finish_non_exhaustive()
    }
}

impl BatchLoader {
    /// Starts reading ahead from `options.start_step`.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        let schedule = Schedule::new(dataset.len(), &options)?;
        let (sender, receiver) = sync_channel(options.prefetch.max(1));
        let reader = Arc::new(Reader { dataset, schedule, options });
        let ahead = Arc::clone(&reader);
        let thread = std::thread::Builder::new().name("athanor-data".into()).spawn(move || read_ahead(&ahead, &sender));
        let thread = thread.or_else(|e| {
            Diagnostic::error(&codes::FILE_READ, format!("cannot start the thread that reads data: {e}")).err()
        })?;
        Ok(Self { reader, queue: Some(receiver), thread: Some(thread) })
    }

    /// Which samples each step reads.
    pub fn schedule(&self) -> Schedule {
        self.reader.schedule
    }

    /// The next micro batch; after an error there is none.
    ///
    /// # Errors
    /// As [`Dataset::sample`], and D0007 if a token id is not in the vocabulary.
    #[expect(clippy::should_implement_trait, reason = "an endless stream of results is no iterator")]
    pub fn next(&mut self) -> Result<Batch> {
        let received = self.queue.as_ref().and_then(|q| q.recv().ok());
        received.unwrap_or_else(|| {
            Diagnostic::error(&codes::FILE_READ, "reading data has stopped after an earlier error").err()
        })
    }

    /// Any micro batch of this rank, read now.
    ///
    /// # Errors
    /// As [`BatchLoader::next`].
    pub fn batch_at(&self, step: u64, micro_batch: usize) -> Result<Batch> {
        self.reader.batch(step, micro_batch)
    }
}

impl Drop for BatchLoader {
    fn drop(&mut self) {
        // The thread stops when its queue is gone.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_ahead(reader: &Reader, queue: &SyncSender<Result<Batch>>) {
    for step in reader.options.start_step.. {
        for micro in 0..reader.options.micro_batch_num {
            let batch = reader.batch(step, micro);
            let failed = batch.is_err();
            if queue.send(batch).is_err() || failed {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
