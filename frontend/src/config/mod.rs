//! YAML text to a typed [`Config`] in which every value knows the line it came from.
//!
//! The layouts G1 (legacy) and G2 (Mcore) of `MindSpore` Transformers are read; G2.5 and G3 are recognised and refused.
//! Reading goes in three steps: text to a tree with spans (`yaml`, `sources`), tree to typed sections (one file each,
//! by way of `reader`, which ticks off every key), and the rules between sections (`validate`). All diagnostics are
//! collected, so that a user sees every mistake at once:
//!
//! ```
//! let loaded = athanor_frontend::config::parse("pretrain.yaml", "run_mode: trian\n", &[]);
//! assert!(loaded.config.is_none());
//! assert!(loaded.diagnostics.iter().any(|d| d.help.as_deref() == Some("did you mean `train`? Accepted: \
//!     train, finetune, predict, eval, predict_with_train_model")));
//! ```

mod callbacks;
mod codes;
mod context;
mod dataset;
mod effective;
mod general;
mod generation;
mod idle;
mod known;
mod lr_schedule;
mod mesh;
mod model;
mod node;
mod optimizer;
mod parallel;
mod parallel_config;
mod pipeline;
mod reader;
mod recompute;
mod report;
mod runner_config;
mod runner_wrapper;
mod scalar;
mod sharing;
mod sources;
mod span;
mod swap;
#[cfg(test)]
mod testing;
mod validate;
mod yaml;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use athanor_ir::Diagnostic;
use athanor_ir::diag::SourceFile;

pub use callbacks::{Callbacks, CheckpointMonitor, LossMonitor};
pub use codes::CODES;
pub use context::Context;
pub use dataset::{DataLoader, DataPath, DatasetConfig, GptDataset, TokenBin, TokenDtype};
pub use effective::effective;
pub use general::{CheckpointFormat, General, Resume, RunMode};
pub use generation::Generation;
pub use lr_schedule::{LrGroupConfig, LrScheduleConfig, LrShape, Steps};
pub use model::{
    Activation, AuxLoss, Balance, Capacity, Convention, DropPolicy, Dtype, Family, GroupMask, Groups, InitStdRule,
    LatentAttention, Layouts, LoadCounts, ModelConfig, Moe, Mtp, Normalization, PositionEmbedding, Rope, RopeScaling,
    Router, ScoreFunction, SharedExpert, Yarn, YarnMagnitude,
};
pub use optimizer::{MuonConfig, OptimizerConfig, UpdateRule};
pub use parallel::{Parallel, ParallelMode, PipelineScheduler};
pub use parallel_config::{ContextParallelAlgo, ParallelConfig};
pub use pipeline::Offset;
pub use recompute::{Amount, RecomputeConfig, Selection};
pub use runner_config::RunnerConfig;
pub use runner_wrapper::{LossScale, RunnerWrapper};
pub use span::{Span, Spanned};
pub use swap::{Numbers, SwapConfig, SwapEntry, layers_by_number};

use reader::{Field, Rule, Section};
use report::Report;

/// A checked configuration of one pretraining run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Layout of the file.
    pub generation: Generation,
    /// Every text that was read: the YAML, its `base_config`s, overrides, the config.json. [`Span::file`] indexes it.
    pub sources: Vec<Arc<SourceFile>>,
    /// Folder of the YAML file; relative paths in the configuration start there or at the working directory.
    pub dir: Option<PathBuf>,
    /// Settings at the top level.
    pub general: General,
    /// `runner_config`.
    pub runner: RunnerConfig,
    /// `model`.
    pub model: ModelConfig,
    /// `optimizer`.
    pub optimizer: OptimizerConfig,
    /// `lr_schedule`.
    pub lr_schedule: LrScheduleConfig,
    /// `grouped_lr_schedule.grouped`; its `default` is [`Self::lr_schedule`].
    pub lr_groups: Vec<LrGroupConfig>,
    /// `runner_wrapper`.
    pub wrapper: RunnerWrapper,
    /// `train_dataset`.
    pub dataset: DatasetConfig,
    /// `parallel_config`.
    pub parallel_config: ParallelConfig,
    /// `parallel`.
    pub parallel: Parallel,
    /// `recompute_config`.
    pub recompute: RecomputeConfig,
    /// `swap_config`.
    pub swap: SwapConfig,
    /// `context`.
    pub context: Context,
    /// `callbacks`.
    pub callbacks: Callbacks,
}

/// What reading a configuration gives.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration; `None` if there is an error among the diagnostics.
    pub config: Option<Config>,
    /// Everything worth saying: errors first, then warnings, then notes, each in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads the file at `path`, the files its `base_config` names, and `overrides` (`("runner_config.epochs", "2")`).
pub fn load(path: &Path, overrides: &[(String, String)]) -> Loaded {
    let report = Report::default();
    let root = sources::read_file(&report, path);
    finish(report, root, path.parent(), overrides)
}

/// Reads `text` as if it were the file `name` in the working directory.
pub fn parse(name: &str, text: &str, overrides: &[(String, String)]) -> Loaded {
    let report = Report::default();
    let root = sources::read_str(&report, name, text);
    finish(report, root, None, overrides)
}

impl Config {
    /// The folder that relative paths start from and then the working directory: the first of them where `path` is.
    pub fn resolve_path(&self, path: &str) -> PathBuf {
        sources::resolve(path, self.dir.as_deref())
    }

    /// True if `parallel_config` applies; otherwise the run is on one device whatever it says.
    pub fn is_parallel(&self) -> bool {
        let mode = self.parallel.parallel_mode.value;
        self.general.use_parallel.value && matches!(mode, ParallelMode::SemiAuto | ParallelMode::Auto)
    }

    /// Micro batches summed into one optimizer step: of the pipeline, or of gradient accumulation without one, each as many
    /// times as batches are interleaved.
    pub fn micro_batches(&self) -> usize {
        if !self.is_parallel() {
            return self.runner.gradient_accumulation_steps.value;
        }
        let own = if self.parallel_config.pipeline_stage.value > 1 {
            self.parallel_config.micro_batch_num.value
        } else {
            self.runner.gradient_accumulation_steps.value
        };
        own.saturating_mul(self.general.micro_batch_interleave_num.value)
    }

    /// Samples per optimizer step over all devices.
    pub fn global_batch_size(&self) -> usize {
        let replicas = self.mesh().replicas();
        [self.runner.batch_size.value, replicas, self.micro_batches()].into_iter().fold(1usize, usize::saturating_mul)
    }

    /// `file:line` of a span, for messages.
    pub fn place(&self, span: Option<Span>) -> Option<String> {
        let span = span?;
        let source = self.sources.get(span.file as usize)?;
        Some(format!("{}:{}", source.name, athanor_ir::diag::line_col(&source.text, span.start as usize).0))
    }
}

fn finish(report: Report, root: Option<Arc<node::Node>>, dir: Option<&Path>, overrides: &[(String, String)]) -> Loaded {
    let config = root.and_then(|root| {
        let root = sources::apply_overrides(&report, root, overrides);
        assemble(&report, &root, dir)
    });
    let ok = !report.has_errors();
    let (sources, diagnostics) = report.finish();
    let config = config.filter(|_| ok).map(|config| Config { sources, ..config });
    Loaded { config, diagnostics }
}

fn assemble(report: &Report, root: &Arc<node::Node>, dir: Option<&Path>) -> Option<Config> {
    if !root.is_null() && !matches!(root.kind, node::Kind::Map(_)) {
        let message = format!("a configuration is a mapping of sections, found {}", root.describe());
        report.push(report.mark(
            Diagnostic::error(&codes::WRONG_TYPE, message),
            Some(root.span),
            "expected `key: value`",
        ));
        return None;
    }
    let generation = generation::detect(report, root)?;
    let whole = Field { written: "", key_span: Span { end: root.span.start, ..root.span }, node: root };
    let mut top = Section::new(report, "", Some(whole));
    let general = general::read(&mut top);
    let runner = runner_config::read(top.section("runner_config"));
    let dataset = dataset::read(report, &mut top);
    let data_seq_length = dataset.as_ref().and_then(|d| match &d.loader {
        DataLoader::Megatron(data) => Some(data.seq_length).filter(Spanned::is_set),
        DataLoader::TokenBin(_) => None,
    });
    let layers = model::Layers::load(report, generation, &general, dir);
    let inputs = model::Inputs { report, generation, general: &general, data_seq_length };
    let model = model::read(&mut top, &layers, &inputs);
    let optimizer = optimizer::read(top.section("optimizer"));
    let (lr_schedule, lr_groups) = lr_schedule::read_all(&mut top, optimizer.learning_rate.as_ref());
    let wrapper = runner_wrapper::read(top.section("runner_wrapper"));
    let parallel_config = parallel_config::read(top.section("parallel_config"));
    let parallel = parallel::read(top.section("parallel"));
    let recompute = recompute::read(top.section("recompute_config"), generation == Generation::G2);
    let swap = swap::read(top.section("swap_config"));
    let context = context::read(top.section("context"));
    let callbacks = callbacks::read(report, &mut top);
    for idle in ["monitor_config", "tensorboard"] {
        top.section(idle).finish(Rule::Open);
    }
    top.finish(Rule::Open);
    validate::mesh(report, generation, &general, &parallel_config, &parallel);
    let config = Config {
        generation,
        sources: vec![],
        dir: dir.map(Path::to_owned),
        general,
        runner,
        model: model?,
        optimizer,
        lr_schedule,
        lr_groups,
        wrapper,
        dataset: dataset?,
        parallel_config,
        parallel,
        recompute,
        swap,
        context,
        callbacks,
    };
    validate::check(report, &config);
    idle::note(report, &config);
    Some(config)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{LLAMA, complaints, with};
    use super::{Resume, load, parse};

    #[test]
    fn global_batch_size() {
        let accumulate = ("runner_config.gradient_accumulation_steps", "4");
        assert_eq!(with(&[accumulate]).global_batch_size(), 8);
        let parallel = with(&[accumulate, ("use_parallel", "True"), ("micro_batch_interleave_num", "2")]);
        assert_eq!((parallel.micro_batches(), parallel.global_batch_size()), (8, 16));
        let replicas = with(&[accumulate, ("use_parallel", "True"), ("parallel_config.data_parallel", "3")]);
        assert_eq!(replicas.global_batch_size(), 24);
    }

    #[test]
    fn resuming() {
        let resume = |value| with(&[("resume_training", value)]).general.resume_training.value;
        assert_eq!(resume("True"), Resume::Auto);
        assert_eq!(resume("False"), Resume::Off);
        assert_eq!(resume("llama_rank_0-10_2"), Resume::From("llama_rank_0-10_2".into()));
    }

    #[test]
    fn a_missing_file_is_one_error() {
        let loaded = load(std::path::Path::new("/nowhere/at/all.yaml"), &[]);
        assert!(loaded.config.is_none());
        assert_eq!(loaded.diagnostics.len(), 1);
    }

    #[test]
    fn a_text_wrong_all_over_is_bounded() {
        let callbacks = "  - {type: ObsMonitor}\n  - {type: nothing, a: 1, b: 2}\n".repeat(5_000);
        let loaded = parse("long.yaml", &format!("{LLAMA}callbacks:\n{callbacks}"), &[]);
        assert!(loaded.config.is_none() && loaded.diagnostics.len() <= 1001);
        let unknown: Vec<String> = (0..9000).map(|i| format!("unknown_{i}: 1")).collect();
        let unknown = unknown.join("\n") + "\n";
        let loaded = parse("wide.yaml", &format!("{LLAMA}{unknown}optimizer: {{type: AdamW, eps: 0}}\n"), &[]);
        assert!(loaded.config.is_none() && loaded.diagnostics.len() <= 1001);
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let found = complaints(&[
            ("runner_config.epochs", "0"),
            ("optimizer.type", "AdamV"),
            ("lr_schedule.learning_rate", "fast"),
            ("model.model_config.num_query_groups", "3"),
            ("sede", "1"),
        ]);
        assert_eq!(found.len(), 5, "{found:#?}");
    }

    proptest! {
        /// Whatever bytes a file holds, reading it ends, and without a panic.
        #[test]
        fn damaged_text_never_panics(
            edits in proptest::collection::vec((0usize..LLAMA.len(), "[\\PC\n\t:{}\\[\\]&*!|>'\"%@`#,?-]{0,3}"), 1..6)
        ) {
            let mut text = LLAMA.to_owned();
            for (at, what) in edits {
                let at = text.floor_char_boundary(at.min(text.len()));
                let end = text.ceil_char_boundary((at + 1).min(text.len()));
                text.replace_range(at..end, &what);
            }
            let loaded = parse("damaged.yaml", &text, &[]);
            prop_assert!(loaded.config.is_some() || !loaded.diagnostics.is_empty());
        }

        /// The same for any value of any key.
        #[test]
        fn any_value_of_any_key_never_panics(
            key in prop::sample::select(vec![
                "seed", "callbacks", "context.max_device_memory", "runner_config.epochs", "optimizer.betas",
                "lr_schedule.total_steps", "lr_schedule.warmup_ratio", "model.model_config.hidden_size",
                "model.model_config.num_attention_heads", "model.model_config.rope_scaling",
                "model.model_config.kv_channels", "model.model_config.param_init_std_rules",
                "model.model_config.architectures", "train_dataset.data_loader.stride", "recompute_config.recompute",
                "parallel.dataset_strategy", "parallel_config.data_parallel", "runner_wrapper.scale_sense",
            ]),
            value in prop_oneof![
                any::<i64>().prop_map(|v| v.to_string()),
                any::<f64>().prop_map(|v| format!("{v:?}")),
                "\\PC{0,12}",
                Just("[]".to_owned()), Just("{}".to_owned()), Just("[[1], a, {b: c}]".to_owned()),
            ]
        ) {
            let loaded = parse("any.yaml", LLAMA, &[(key.to_owned(), value)]);
            prop_assert!(loaded.config.is_some() || !loaded.diagnostics.is_empty());
        }
    }
}
