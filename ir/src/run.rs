//! What the run needs to know beside the programs: optimizer, schedule of the learning rate, data, logging, saving.
//!
//! It is written once by the frontend, travels as an attribute of the module and ends in the plan.

use crate::lr::LrSchedule;
use crate::names::NameTable;
use crate::offload::Offload;
use crate::optimizer::OptimizerSpec;
use crate::pipeline::Pipeline;
use crate::recompute::Recompute;
use crate::sharing::Sharing;
use serde::{Deserialize, Serialize};

/// Factor on the loss before the backward pass, so that small gradients do not vanish in f16.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossScale {
    /// The same for every step.
    Fixed {
        /// The factor.
        value: f64,
    },
    /// Divided by `factor` (to 1 at least) when a gradient overflows, multiplied by it after `window` steps without overflow.
    Dynamic {
        /// The factor at the start.
        value: f64,
        /// By which it changes.
        factor: f64,
        /// Steps without overflow before it grows.
        window: u64,
    },
}

impl LossScale {
    /// The factor of the first step.
    pub fn initial(self) -> f64 {
        match self {
            Self::Fixed { value } | Self::Dynamic { value, .. } => value,
        }
    }
}

/// Whether sequences that ranks brought together for the forward pass are kept for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Joined {
    /// They are.
    Kept,
    /// Each rank keeps its part, and the parts are brought together again.
    Again,
}

/// How ranks with parts of a sequence come to the keys and values of all parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// Each gathers all of them.
    #[default]
    Gathered,
    /// They go from rank to rank, a part at a time.
    Ring,
}

impl Keys {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn are_gathered(&self) -> bool {
        *self == Self::Gathered
    }
}

/// Weights with a learning rate of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrGroup {
    /// Their learning rate by step.
    pub lr: LrSchedule,
    /// Their global names.
    pub weights: Vec<String>,
}

/// How ranks along axis ep come by the rows of their experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertRows {
    /// By exchange where it at least halves the rows that a rank has room for.
    #[default]
    Auto,
    /// Every rank has the tokens of all.
    Gathered,
    /// Ranks send each other rows, round by round.
    Exchanged,
}

/// Rows of experts between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertExchange {
    /// How ranks come by rows.
    pub rows: ExpertRows,
    /// Rows that a rank sends another in a round, as a multiple of what it sends if all experts have as many.
    pub factor: f64,
}

impl Default for ExpertExchange {
    fn default() -> Self {
        Self { rows: ExpertRows::Auto, factor: 1.5 }
    }
}

impl ExpertExchange {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
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
    /// Sequences per micro-batch of one replica: of each rank along axis dp.
    pub batch_size: usize,
    /// Micro-batches per step.
    pub accumulation: usize,
    /// Tokens per sequence.
    pub seq_length: usize,
    /// Vocabulary size; token ids are below it.
    pub vocab_size: usize,
    /// Optimizer.
    pub optimizer: OptimizerSpec,
    /// What replicas share of weights; `None`: each has all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// Ranks along axis tp share the rows of embedding and output layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_vocabulary: bool,
    /// Ranks along axis tp share the tokens of every sequence wherever they do not share heads or widths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_sequence: Option<Joined>,
    /// How ranks along axis cp come to the keys and values of all of them.
    #[serde(default, skip_serializing_if = "Keys::are_gathered")]
    pub keys: Keys,
    /// Ranks along axis tp have other experts, not parts of the same ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub experts_over_tp: bool,
    /// How ranks along axis ep come by the rows of their experts.
    #[serde(default, skip_serializing_if = "ExpertExchange::is_default")]
    pub expert_exchange: ExpertExchange,
    /// Clips gradients to this global norm.
    pub max_grad_norm: Option<f64>,
    /// Divide summed losses by the tokens of the whole step instead of averaging micro-batch means.
    pub per_token_loss: bool,
    /// Learning rate by step.
    pub lr: LrSchedule,
    /// Weights with other learning rates; group k of the programs is entry k − 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lr_groups: Vec<LrGroup>,
    /// Scaling of the loss; `None` leaves gradients as they are and stops at one that is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
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
    /// What the backward pass computes again.
    #[serde(default, skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// What lies on the host.
    #[serde(default, skip_serializing_if = "Offload::is_none")]
    pub offload: Offload,
    /// How layers lie on the ranks along axis pp; `None` without that axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
}

impl RunSpec {
    /// The scalar inputs of the `update` that follows `done` earlier ones, by name.
    pub fn step_scalars(&self, done: u64) -> Vec<(String, f64)> {
        let of = |lr: &LrSchedule| self.optimizer.scalars(lr.at(done), done + 1);
        let all = of(&self.lr).into_iter().map(|s| (s.name.to_owned(), s.value));
        let grouped = self.lr_groups.iter().enumerate().flat_map(|(k, group)| {
            let own = of(&group.lr).into_iter().filter(|s| s.of_rate);
            own.map(move |s| (group_scalar(s.name, k + 1), s.value))
        });
        all.chain(grouped).collect()
    }

    /// The group of learning rates that weight `name` belongs to; 0 is [`Self::lr`].
    pub fn lr_group(&self, name: &str) -> usize {
        self.lr_groups.iter().position(|g| g.weights.iter().any(|w| w == name)).map_or(0, |k| k + 1)
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
            optimizer: OptimizerSpec::default(),
            sharing: None,
            cut_vocabulary: false,
            cut_sequence: None,
            keys: Keys::Gathered,
            experts_over_tp: false,
            expert_exchange: ExpertExchange::default(),
            max_grad_norm: None,
            per_token_loss: false,
            lr: LrSchedule {
                learning_rate: 1e-3,
                warmup_steps: 0,
                warmup_lr_init: 0.0,
                shape: crate::lr::Shape::Constant,
            },
            lr_groups: vec![],
            loss_scale: None,
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
            recompute: Recompute::default(),
            offload: Offload::default(),
            pipeline: None,
        }
    }
}

/// Name of the scalar input `name` for group `k` of learning rates.
pub fn group_scalar(name: &str, k: usize) -> String {
    if k == 0 { name.to_owned() } else { format!("{name}.{k}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_the_newer_fields_is_as_before() {
        let mut json = serde_json::to_value(RunSpec::for_tests()).unwrap();
        assert!(json.get("loss_scale").is_none() && json.get("lr_groups").is_none());
        let optimizer = json["optimizer"].as_object_mut().unwrap();
        assert_eq!(optimizer.remove("bias_correction"), Some("full".into()));
        let run: RunSpec = serde_json::from_value(json).unwrap();
        assert_eq!(run, RunSpec::for_tests());
    }

    #[test]
    fn groups_have_scalars_of_their_own_where_the_rate_matters() {
        let mut run = RunSpec::for_tests();
        run.lr_groups =
            vec![LrGroup { lr: LrSchedule { learning_rate: 0.5, ..run.lr.clone() }, weights: vec!["a".into()] }];
        let names: Vec<String> = run.step_scalars(0).into_iter().map(|s| s.0).collect();
        assert_eq!(names, ["lr", "step_size", "v_scale", "lr.1", "step_size.1"]);
        assert!(run.step_scalars(0).contains(&("lr.1".into(), 0.5)));
        assert_eq!((run.lr_group("a"), run.lr_group("b")), (1, 0));
    }
}
