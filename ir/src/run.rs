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

impl RunSpec {
    /// A run of one step on nothing, for tests of passes that need a module but not its run.
    pub fn for_tests() -> Self {
        Self {
            seed: 1,
            steps: 1,
            epochs: 1,
            batch_size: 1,
            accumulation: 1,
            seq_length: 1,
            vocab_size: 1,
            optimizer: AdamWSpec { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 },
            max_grad_norm: None,
            per_token_loss: false,
            lr: LrSchedule {
                learning_rate: 1e-3,
                warmup_steps: 0,
                warmup_lr_init: 0.0,
                shape: crate::lr::Shape::Constant,
            },
            flops_per_sequence: 0.0,
            data: None,
            load_checkpoint: String::new(),
            output_dir: String::new(),
            save_steps: 0,
            keep_checkpoint_max: 1,
            checkpoint_prefix: String::new(),
            log_steps: 1,
            hf_config: serde_json::Value::Null,
        }
    }
}
