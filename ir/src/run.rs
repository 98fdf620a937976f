//! What the run needs to know beside the programs: optimizer, schedule of the learning rate, data, logging, saving.
//!
//! It is written once by the frontend, travels as an attribute of the module and ends in the plan.

use crate::lr::LrSchedule;
use crate::names::NameTable;
use serde::{Deserialize, Serialize};

/// Where Adam corrects the bias of its moments, which start at zero. With t counted from 1:
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasCorrection {
    /// m/(1−β₁ᵗ) over √(v/(1−β₂ᵗ)) + eps: `AdamW`.
    #[default]
    Full,
    /// √(1−β₂ᵗ)/(1−β₁ᵗ) · m over √v + eps: `AdamWeightDecayX`.
    EpsBeforeCorrection,
    /// m over √v + eps: MindSpore's `AdamWeightDecay`, which is also what `adamw` and `FP32StateAdamWeightDecay` mean.
    None,
}

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
    /// How the bias of the moments is corrected.
    #[serde(default)]
    pub bias_correction: BiasCorrection,
}

/// The per-step scalars of `update`, as [`crate::op::Op::AdamW`] takes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepScalars {
    /// Learning rate; times the weight decay it is the part of a weight that a step takes away.
    pub lr: f64,
    /// Factor of the first moment.
    pub step_size: f64,
    /// Factor of the second moment, under the root.
    pub v_scale: f64,
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
    /// How weights are named and laid out on disk: they are saved by the first table and read by the one that fits. Without
    /// one they have their names in the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<NameTable>,
}

impl RunSpec {
    /// The scalars of the optimizer step that follows `step` finished ones.
    ///
    /// The rules of [`BiasCorrection`] differ in nothing else, so one `update` does them all.
    pub fn step_scalars(&self, step: u64) -> StepScalars {
        let (lr, t) = (self.lr.at(step), (step + 1) as f64);
        let (first, second) = (1.0 - self.optimizer.beta1.powf(t), 1.0 - self.optimizer.beta2.powf(t));
        let (step_size, v_scale) = match self.optimizer.bias_correction {
            BiasCorrection::Full => (lr / first, 1.0 / second),
            BiasCorrection::EpsBeforeCorrection => (lr * second.sqrt() / first, 1.0),
            BiasCorrection::None => (lr, 1.0),
        };
        StepScalars { lr, step_size, v_scale }
    }

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
            optimizer: AdamWSpec {
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                bias_correction: BiasCorrection::Full,
            },
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
            weights: vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars(bias_correction: BiasCorrection, step: u64) -> StepScalars {
        let mut run = RunSpec::for_tests();
        run.optimizer.bias_correction = bias_correction;
        run.lr.learning_rate = 0.5;
        run.step_scalars(step)
    }

    /// β = 0.9, 0.95 at the first step and the third: 1 − 0.9³ = 0.271, 1 − 0.95³ = 0.142625.
    #[test]
    fn bias_is_corrected_as_the_rule_says() {
        let is = |found: StepScalars, step_size: f64, v_scale: f64| {
            let close = |a: f64, b: f64| (a - b).abs() < 1e-12 * b.abs();
            let right = found.lr == 0.5 && close(found.step_size, step_size) && close(found.v_scale, v_scale);
            assert!(right, "{found:?} is not {step_size}, {v_scale}");
        };
        is(scalars(BiasCorrection::Full, 0), 5.0, 20.0);
        is(scalars(BiasCorrection::Full, 2), 0.5 / 0.271, 1.0 / 0.142625);
        is(scalars(BiasCorrection::EpsBeforeCorrection, 0), 5.0 * 0.05f64.sqrt(), 1.0);
        is(scalars(BiasCorrection::EpsBeforeCorrection, 2), 0.5 * 0.142625f64.sqrt() / 0.271, 1.0);
        is(scalars(BiasCorrection::None, 2), 0.5, 1.0);
    }

    #[test]
    fn a_run_without_the_field_is_fully_corrected() {
        let mut json = serde_json::to_value(RunSpec::for_tests()).unwrap();
        let optimizer = json["optimizer"].as_object_mut().unwrap();
        assert_eq!(optimizer.remove("bias_correction"), Some("full".into()));
        let run: RunSpec = serde_json::from_value(json).unwrap();
        assert_eq!(run, RunSpec::for_tests());
    }
}
