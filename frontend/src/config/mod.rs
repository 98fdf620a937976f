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
mod known;
mod lr_schedule;
mod model;
mod node;
mod optimizer;
mod parallel;
mod parallel_config;
mod reader;
mod recompute;
mod report;
mod runner_config;
mod runner_wrapper;
mod scalar;
mod sources;
mod span;
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
pub use lr_schedule::{LrScheduleConfig, LrShape, Steps};
pub use model::{
    Activation, Convention, Dtype, Family, InitStdRule, ModelConfig, Normalization, PositionEmbedding, Rope,
    RopeScaling, Yarn, YarnMagnitude,
};
pub use optimizer::{AdamVariant, OptimizerConfig};
pub use parallel::{Parallel, ParallelMode, PipelineScheduler};
pub use parallel_config::{ContextParallelAlgo, ParallelConfig};
pub use recompute::{Amount, RecomputeConfig, Selection};
pub use runner_config::RunnerConfig;
pub use runner_wrapper::{LossScale, RunnerWrapper};
pub use span::{Span, Spanned};

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

    /// Micro batches summed into one optimizer step: of the pipeline, or of gradient accumulation without one.
    pub fn micro_batches(&self) -> usize {
        if self.is_parallel() && self.parallel_config.pipeline_stage.value > 1 {
            self.parallel_config.micro_batch_num.value
        } else {
            self.runner.gradient_accumulation_steps.value
        }
    }

    /// Samples per optimizer step over `world_size` devices.
    ///
    /// Under semi-automatic parallelism the replicas are `data_parallel`, otherwise all devices.
    pub fn global_batch_size(&self, world_size: usize) -> usize {
        let (replicas, interleave) = if self.is_parallel() {
            (self.parallel_config.data_parallel.value, self.general.micro_batch_interleave_num.value)
        } else {
            (world_size, 1)
        };
        [self.runner.batch_size.value, replicas, interleave, self.micro_batches()]
            .into_iter()
            .fold(1usize, usize::saturating_mul)
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
    let lr_schedule = lr_schedule::read(top.section("lr_schedule"), optimizer.learning_rate.as_ref());
    let wrapper = runner_wrapper::read(top.section("runner_wrapper"));
    let parallel_config = parallel_config::read(top.section("parallel_config"));
    let parallel = parallel::read(top.section("parallel"));
    let recompute = recompute::read(top.section("recompute_config"), generation == Generation::G2);
    recompute::read_swap(top.section("swap_config"));
    let context = context::read(top.section("context"));
    let callbacks = callbacks::read(report, &mut top);
    for idle in ["monitor_config", "tensorboard"] {
        top.section(idle).finish(Rule::Open);
    }
    top.finish(Rule::Open);
    validate::mesh(report, &general, &parallel_config, &parallel);
    let config = Config {
        generation,
        sources: vec![],
        dir: dir.map(Path::to_owned),
        general,
        runner,
        model: model?,
        optimizer,
        lr_schedule,
        wrapper,
        dataset: dataset?,
        parallel_config,
        parallel,
        recompute,
        context,
        callbacks,
    };
    validate::check(report, &config);
    Some(config)
}
