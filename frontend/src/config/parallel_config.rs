//! `parallel_config`: how many ways each axis of the mesh is split.

use athanor_ir::run::{ExpertExchange, ExpertRows};

use super::reader::{Rule, Section};
use super::span::Spanned;

/// Spellings of [`ExpertRows`].
pub(super) const ROWS: &[(&str, ExpertRows)] =
    &[("auto", ExpertRows::Auto), ("gather", ExpertRows::Gathered), ("exchange", ExpertRows::Exchanged)];

/// How attention is computed when the sequence is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextParallelAlgo {
    /// Gather keys and values.
    Colossalai,
    /// All-to-all between sequence and heads.
    Ulysses,
    /// Both, in `ulysses_degree_in_cp` groups.
    Hybrid,
}

/// The `parallel_config` section.
#[derive(Debug, Clone)]
pub struct ParallelConfig {
    /// Data parallel ways.
    pub data_parallel: Spanned<usize>,
    /// Tensor parallel ways.
    pub model_parallel: Spanned<usize>,
    /// Pipeline stages.
    pub pipeline_stage: Spanned<usize>,
    /// Context parallel ways.
    pub context_parallel: Spanned<usize>,
    /// Algorithm of context parallelism.
    pub context_parallel_algo: Spanned<ContextParallelAlgo>,
    /// Ulysses ways inside of context parallelism.
    pub ulysses_degree_in_cp: Spanned<usize>,
    /// Expert parallel ways.
    pub expert_parallel: Spanned<usize>,
    /// How ranks that share experts come by rows of them: `auto`, `gather` or `exchange`. Ours.
    pub expert_exchange: Spanned<ExpertRows>,
    /// Room for rows between two ranks in a round, times an even share. Ours.
    pub expert_exchange_factor: Spanned<f64>,
    /// Micro batches per step in a pipeline.
    pub micro_batch_num: Spanned<usize>,
    /// Chunks a sequence is cut into by the Seq-Pipe schedule.
    pub seq_split_num: Spanned<usize>,
    /// Split activations between tensor parallel regions along the sequence.
    pub use_seq_parallel: Spanned<bool>,
    /// Number of groups in which gradients are reduced.
    pub gradient_aggregation_group: Spanned<usize>,
    /// Keep the embedding whole on each tensor parallel rank.
    pub vocab_emb_dp: Spanned<bool>,
}

impl ParallelConfig {
    /// Ranks that the configuration describes: dp · mp · cp · pp.
    pub fn world_size(&self) -> usize {
        [&self.data_parallel, &self.model_parallel, &self.context_parallel, &self.pipeline_stage]
            .iter()
            .fold(1usize, |n, d| n.saturating_mul(d.value))
    }

    /// Ranks with other parts of the same sequences: those that gather keys and values, times those that exchange tokens for
    /// heads. What does not divide is refused with the other limits of a mesh.
    pub fn context_ranks(&self) -> (usize, usize) {
        let all = self.context_parallel.value;
        let by_heads = match self.context_parallel_algo.value {
            ContextParallelAlgo::Colossalai => 1,
            ContextParallelAlgo::Ulysses => all,
            ContextParallelAlgo::Hybrid => self.ulysses_degree_in_cp.value.min(all),
        };
        (all / by_heads, by_heads)
    }
}

pub(super) fn read(mut s: Section<'_>) -> ParallelConfig {
    const ALGOS: &[(&str, ContextParallelAlgo)] = &[
        ("colossalai_cp", ContextParallelAlgo::Colossalai),
        ("ulysses_cp", ContextParallelAlgo::Ulysses),
        ("hybrid_cp", ContextParallelAlgo::Hybrid),
    ];
    let exchange = ExpertExchange::default();
    let config = ParallelConfig {
        data_parallel: s.positive("data_parallel", 1),
        model_parallel: s.positive("model_parallel", 1),
        pipeline_stage: s.positive("pipeline_stage", 1),
        context_parallel: s.positive("context_parallel", 1),
        context_parallel_algo: s.one_of("context_parallel_algo", ALGOS, ContextParallelAlgo::Colossalai),
        ulysses_degree_in_cp: s.positive("ulysses_degree_in_cp", 1),
        expert_parallel: s.positive("expert_parallel", 1),
        expert_exchange: s.one_of("expert_exchange", ROWS, exchange.rows),
        expert_exchange_factor: s.checked("expert_exchange_factor", exchange.factor, "must be above 0", |f| *f > 0.0),
        micro_batch_num: s.positive("micro_batch_num", 1),
        seq_split_num: s.positive("seq_split_num", 1),
        use_seq_parallel: s.get("use_seq_parallel", false),
        gradient_aggregation_group: s.positive("gradient_aggregation_group", 4),
        vocab_emb_dp: s.get("vocab_emb_dp", true),
    };
    s.finish(Rule::Strict);
    config
}
