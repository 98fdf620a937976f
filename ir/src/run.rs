//! What the run needs to know beside the programs: optimizer, schedule of the learning rate, data, logging, saving.
//!
//! It is written once by the frontend, travels as an attribute of the module and ends in the plan.

use crate::lr::LrSchedule;
use serde::{Deserialize, Serialize};

/// AdamW with decoupled weight decay; which weights decay is in their [`crate::func::Role`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWSpec {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of the weights that decay.
    pub weight_decay: f64,
}

/// Everything about a training run that is not a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Seed of initial weights.
    pub seed: u64,
    /// Total optimizer steps.
    pub steps: u64,
    /// Epochs, for the log line.
    pub epochs: u64,
    /// Sequences per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per step.
    pub accumulation: usize,
    /// Tokens per sequence.
    pub seq_length: usize,
    /// Vocabulary size; token ids are below it.
    pub vocab_size: usize,
    /// Optimizer.
    pub optimizer: AdamWSpec,
    /// Clips gradients to this global norm.
    pub max_grad_norm: Option<f64>,
    /// Divide summed losses by the tokens of the whole step instead of averaging micro-batch means.
    pub per_token_loss: bool,
    /// Learning rate by step.
    pub lr: LrSchedule,
    /// Model FLOPs of one sequence, forward and backward (the `train_throughput` formula).
    pub flops_per_sequence: f64,
    /// Data set; `None` in modules that are compiled but not trained.
    pub data: Option<serde_json::Value>,
    /// Checkpoint to start from: a safetensors file or a Hugging Face directory; empty to initialise.
    pub load_checkpoint: String,
    /// Root of what the run writes.
    pub output_dir: String,
    /// Save every this many steps; 0 never.
    pub save_steps: u64,
    /// Keep this many saved steps.
    pub keep_checkpoint_max: usize,
    /// Prefix of saved file names.
    pub checkpoint_prefix: String,
    /// Log every this many steps.
    pub log_steps: u64,
    /// Hugging Face `config.json` of the model, written beside saved weights.
    pub hf_config: serde_json::Value,
}
