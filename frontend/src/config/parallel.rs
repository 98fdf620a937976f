//! `parallel`: what `MindSpore` calls the auto-parallel context.

use super::reader::{Rule, Section};
use super::span::Spanned;

/// How the original distributes the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParallelMode {
    /// Every device holds the whole model.
    DataParallel,
    /// As `parallel_config` says.
    SemiAuto,
    /// Searched by the original's planner.
    Auto,
    /// By hand.
    Hybrid,
}

/// The `parallel` section.
#[derive(Debug, Clone)]
pub struct Parallel {
    /// `parallel_mode`.
    pub parallel_mode: Spanned<ParallelMode>,
    /// `full_batch`: each rank reads the whole global batch.
    pub full_batch: Spanned<bool>,
    /// `dataset_strategy`: ways along each dim of each input column.
    pub dataset_strategy: Option<Spanned<Vec<Vec<usize>>>>,
    /// `gradients_mean`: gradients are averaged, not summed, over replicas.
    pub gradients_mean: Spanned<bool>,
    /// `enable_parallel_optimizer`: optimizer state and weights sharded over replicas.
    pub enable_parallel_optimizer: Spanned<bool>,
    /// `parallel_optimizer_config.gradient_accumulation_shard`.
    pub gradient_accumulation_shard: Spanned<bool>,
    /// `parallel_optimizer_config.parallel_optimizer_threshold`, KiB: smaller parameters stay whole.
    pub parallel_optimizer_threshold: Spanned<u64>,
    /// `parallel_optimizer_config.optimizer_weight_shard_size`; -1 is all replicas.
    pub optimizer_weight_shard_size: Spanned<i64>,
    /// `pipeline_config.pipeline_interleave`.
    pub pipeline_interleave: Spanned<bool>,
    /// `pipeline_config.pipeline_scheduler`.
    pub pipeline_scheduler: Spanned<PipelineScheduler>,
}

/// Order of forward and backward passes in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineScheduler {
    /// All forward passes, then all backward passes.
    Gpipe,
    /// One forward, one backward.
    OneFOneB,
    /// 1F1B over chunks of the sequence.
    Seqpipe,
    /// The same with several chunks of layers per stage.
    Seqvpp,
    /// A variant of `Seqvpp` with less memory.
    Seqsmartvpp,
    /// Zero bubble, V shape.
    ZeroBubbleV,
    /// Forward and backward of two chunks overlapped, V shape. `MindFormers` has no such schedule.
    DualpipeV,
}

impl PipelineScheduler {
    /// Whether it is made for slices of sequences (`seq_split_num`).
    pub const fn cuts_sequences(self) -> bool {
        matches!(self, Self::Seqpipe | Self::Seqvpp | Self::Seqsmartvpp)
    }
}

pub(super) const SCHEDULERS: &[(&str, PipelineScheduler)] = &[
    ("1f1b", PipelineScheduler::OneFOneB),
    ("gpipe", PipelineScheduler::Gpipe),
    ("seqpipe", PipelineScheduler::Seqpipe),
    ("seqvpp", PipelineScheduler::Seqvpp),
    ("seqsmartvpp", PipelineScheduler::Seqsmartvpp),
    ("zero_bubble_v", PipelineScheduler::ZeroBubbleV),
    ("dualpipe_v", PipelineScheduler::DualpipeV),
];

pub(super) fn read(mut s: Section<'_>) -> Parallel {
    const MODES: &[(&str, ParallelMode)] = &[
        ("0", ParallelMode::DataParallel),
        ("1", ParallelMode::SemiAuto),
        ("2", ParallelMode::Auto),
        ("3", ParallelMode::Hybrid),
        ("data_parallel", ParallelMode::DataParallel),
        ("semi_auto_parallel", ParallelMode::SemiAuto),
        ("auto_parallel", ParallelMode::Auto),
        ("hybrid_parallel", ParallelMode::Hybrid),
    ];
    let mut optimizer = s.section("parallel_optimizer_config");
    let gradient_accumulation_shard = optimizer.get("gradient_accumulation_shard", false);
    let parallel_optimizer_threshold = optimizer.get("parallel_optimizer_threshold", 64);
    let rule = "must be at least 1, or -1 for all replicas";
    let optimizer_weight_shard_size =
        optimizer.checked("optimizer_weight_shard_size", -1, rule, |n| *n >= 1 || *n == -1);
    optimizer.finish(Rule::Open);
    let mut pipeline = s.section("pipeline_config");
    let pipeline_interleave = pipeline.get("pipeline_interleave", false);
    let pipeline_scheduler = pipeline.one_of("pipeline_scheduler", SCHEDULERS, PipelineScheduler::OneFOneB);
    pipeline.finish(Rule::Open);
    let config = Parallel {
        parallel_mode: s.one_of("parallel_mode", MODES, ParallelMode::SemiAuto),
        full_batch: s.get("full_batch", true),
        dataset_strategy: dataset_strategy(&mut s),
        gradients_mean: s.get("gradients_mean", false),
        enable_parallel_optimizer: s.get("enable_parallel_optimizer", false),
        gradient_accumulation_shard,
        parallel_optimizer_threshold,
        optimizer_weight_shard_size,
        pipeline_interleave,
        pipeline_scheduler,
    };
    s.finish(Rule::Open);
    config
}

/// The strategy, or nothing for the word `full_batch`, which old files use in its place.
fn dataset_strategy(s: &mut Section<'_>) -> Option<Spanned<Vec<Vec<usize>>>> {
    let field = s.field("dataset_strategy")?;
    if field.node.text() == Some("full_batch") {
        return None;
    }
    s.opt("dataset_strategy")
}
