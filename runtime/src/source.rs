//! Where batches come from.

use crate::codes::BATCH;
use crate::data::loader::{BatchLoader, LoaderOptions};
use crate::data::open::open;
use crate::data::spec::DataSpec;
use crate::data::split::Split;
use athanor_ir::run::RunSpec;
use athanor_ir::{Diagnostic, Mesh, Result};

pub use crate::data::loader::Batch;

/// Gives the batch of any step and micro-batch, usually asked for in order.
pub trait BatchSource {
    /// Batch of 0-based `step` and micro-batch `micro`: the same whenever it is asked for.
    ///
    /// # Errors
    /// When the data cannot be read or holds token ids outside the vocabulary.
    fn next(&mut self, step: u64, micro: usize) -> Result<Batch>;
}

/// Which samples of every batch a rank reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Own position among those that share the data.
    pub index: usize,
    /// How many they are.
    pub of: usize,
}

impl Share {
    /// What rank `rank` of `mesh` reads: replicas share the data, their ranks read the same.
    pub fn of(mesh: &Mesh, rank: usize) -> Self {
        Self { index: mesh.replica(rank), of: mesh.replicas() }
    }
}

/// Batches of a [`DataSpec`], read ahead in the background.
#[derive(Debug)]
pub struct DataSource {
    loader: BatchLoader,
    /// What opening the data had to say.
    pub notes: Vec<Diagnostic>,
}

impl DataSource {
    /// Opens the data that `run` names, of which `share` is read from 0-based step `start`.
    ///
    /// # Errors
    /// [`BATCH`] if the plan names no data or has a description that cannot be read, and what opening the data reports.
    pub fn open(run: &RunSpec, start: u64, share: Share) -> Result<Self> {
        let Some(value) = &run.data else {
            return Diagnostic::error(&BATCH, "the plan names no training data")
                .help("give train_dataset in the configuration and compile again")
                .err();
        };
        let spec: DataSpec = serde_json::from_value(value.clone()).or_else(|e| {
            Diagnostic::error(&BATCH, format!("run.data of the plan cannot be read: {e}"))
                .help("compile the configuration again with this version")
                .err()
        })?;
        if spec.seq_length() != run.seq_length {
            return Diagnostic::error(
                &BATCH,
                format!("the data has sequences of {}, the model of {} tokens", spec.seq_length(), run.seq_length),
            )
            .help("set seq_length of the data and of the model to the same value")
            .err();
        }
        let opened = open(&spec, Split::Train)?;
        if opened.dataset.resets_attention() {
            return Diagnostic::error(&BATCH, "the data asks for attention that stops at document ends")
                .help(
                    "set reset_attention_mask and create_compressed_eod_mask to False: the CPU plan cannot do that yet",
                )
                .err();
        }
        let options = LoaderOptions {
            dp_rank: share.index,
            dp_size: share.of,
            micro_batch_size: run.batch_size,
            micro_batch_num: run.accumulation,
            start_step: start,
            vocab_size: run.vocab_size,
            take: opened.requested,
            ..LoaderOptions::default()
        };
        Ok(Self { loader: BatchLoader::new(opened.dataset, options)?, notes: opened.notes })
    }
}

impl BatchSource for DataSource {
    fn next(&mut self, step: u64, micro: usize) -> Result<Batch> {
        let batch = self.loader.next()?;
        if (batch.step, batch.micro_batch) == (step, micro) { Ok(batch) } else { self.loader.batch_at(step, micro) }
    }
}
