//! Rules between sections: each value is fine on its own, and they cannot hold together.

mod context;
mod experts;
mod mesh;
mod sharing;
mod slices;

use athanor_ir::Diagnostic;
pub(super) use mesh::{Mark, limits as mesh_limits};

use crate::config::general::General;
use crate::config::generation::Generation;
use crate::config::model::{ModelConfig, PositionEmbedding};
use crate::config::parallel::{Parallel, ParallelMode};
use crate::config::parallel_config::ParallelConfig;
use crate::config::recompute::Selection;
use crate::config::report::Report;
use crate::config::runner_wrapper::{LossScale, RunnerWrapper};
use crate::config::span::{Span, Spanned};
use crate::config::swap;
use crate::config::{Config, DataLoader, Dtype, GptDataset, codes};

/// The rules that need a whole configuration.
pub(super) fn check(report: &Report, config: &Config) {
    model(report, &config.model);
    if let DataLoader::Megatron(data) = &config.dataset.loader {
        gpt_dataset(report, &config.model, data);
    }
    if let Some(in_wrapper) = &config.wrapper.calculate_per_token_loss {
        let in_model = &config.model.calculate_per_token_loss;
        if in_model.is_set() && in_model.value != in_wrapper.value {
            let message = "`calculate_per_token_loss` differs between `runner_wrapper` and the model";
            pair(report, message, in_wrapper.span, "one", in_model.span, "the other", "give both the same value");
        }
    }
    training(report, &config.wrapper, &config.model);
    let recompute = &config.recompute.recompute;
    if recompute.value == Selection::Auto && config.context.max_device_memory.is_none() {
        let found = Diagnostic::error(&codes::MISSING_KEY, "`recompute: auto` needs `context.max_device_memory`")
            .help("say how much the run may take, such as `max_device_memory: \"12GB\"`");
        report.push(report.mark(found, recompute.span, "to fit into what?"));
    }
    let mark = |d: Diagnostic, span: Option<Span>, text: &str| report.mark(d, span, text);
    mesh::limits(config, &mark).into_iter().for_each(|d| report.push(d));
    swap::limits(config, &mark).into_iter().for_each(|d| report.push(d));
}

/// More layers than any model has: compiling them would take hours before memory runs out.
const MOST_LAYERS: usize = 2000;

/// More than any model has of anything; token ids and positions are 32 bits wide.
const MOST_WIDE: usize = i32::MAX as usize;

/// Sizes that only a slip of the keyboard can mean.
fn sizes(report: &Report, m: &ModelConfig) {
    let sizes = [
        ("layers", &m.num_layers, MOST_LAYERS),
        ("tokens in the vocabulary", &m.vocab_size, MOST_WIDE),
        ("hidden elements", &m.hidden_size, MOST_WIDE),
        ("elements in the feed-forward layer", &m.ffn_hidden_size, MOST_WIDE),
        ("tokens in a sequence", &m.seq_length, MOST_WIDE),
    ];
    for (what, size, most) in sizes.into_iter().filter(|(_, size, most)| size.value > *most) {
        let found = Diagnostic::error(&codes::OUT_OF_RANGE, format!("{} {what} are more than {most}", size.value));
        report.push(report.mark(found.help("is there a digit too many?"), size.span, "too large"));
    }
}

/// The rules of the model alone.
fn model(report: &Report, m: &ModelConfig) {
    sizes(report, m);
    let (heads, groups, hidden) = (&m.num_attention_heads, &m.num_query_groups, &m.hidden_size);
    if !heads.value.is_multiple_of(groups.value) {
        let message = format!("{} attention heads cannot share {} query groups evenly", heads.value, groups.value);
        let help = "the number of heads must be a multiple of the number of groups (key and value heads)";
        pair(report, &message, heads.span, "heads", groups.span, "groups", help);
    }
    if m.latent.is_none() && !m.kv_channels.is_set() && !hidden.value.is_multiple_of(heads.value) {
        let message = format!("the hidden size {} is not a multiple of {} heads", hidden.value, heads.value);
        let help = "change one of them, or give the size of a head in `head_dim`";
        pair(report, &message, hidden.span, "hidden size", heads.span, "heads", help);
    }
    match &m.position_embedding.value {
        PositionEmbedding::Rope(rope) => {
            let width = m.latent.as_ref().map_or(m.kv_channels, |l| l.qk_pos_emb_head_dim);
            let rotated = width.value as f64 * rope.partial_rotary_factor.value;
            if rotated.fract() != 0.0 || !(rotated as usize).is_multiple_of(2) || rotated < 2.0 {
                let message = format!("{rotated} rotated elements per head is not an even number");
                let help =
                    "rotary embedding turns pairs: the size of a head times `partial_rotary_factor` must be even";
                let (a, b) = (width.span.or(hidden.span), rope.partial_rotary_factor.span);
                pair(report, &message, a, "from here", b, "and here", help);
            }
        }
        PositionEmbedding::LearnedAbsolute if m.seq_length.value > m.max_position_embeddings.value => {
            let (seq, max) = (m.seq_length.value, m.max_position_embeddings.value);
            let message = format!("sequences of {seq} tokens need more than the {max} learned positions");
            let help = "raise `max_position_embeddings` or lower `seq_length`";
            pair(report, &message, m.seq_length.span, "tokens", m.max_position_embeddings.span, "positions", help);
        }
        PositionEmbedding::LearnedAbsolute | PositionEmbedding::Alibi | PositionEmbedding::None => {}
    }
    if let Some(moe) = &m.moe {
        experts::check(report, m, moe);
    }
    if m.pad_token_id.is_set() && m.pad_token_id.value >= m.vocab_size.value as i64 {
        let message =
            format!("`pad_token_id` {} is not in a vocabulary of {}", m.pad_token_id.value, m.vocab_size.value);
        let help = "the vocabulary must be larger than every token id";
        pair(report, &message, m.pad_token_id.span, "token", m.vocab_size.span, "vocabulary", help);
    }
    if m.chunk_loss_num.value > m.seq_length.value {
        let message =
            format!("the loss of {} tokens cannot be cut into {} pieces", m.seq_length.value, m.chunk_loss_num.value);
        let help = "lower `chunk_loss_num`";
        pair(report, &message, m.chunk_loss_num.span, "pieces", m.seq_length.span, "tokens", help);
    }
}

fn gpt_dataset(report: &Report, m: &ModelConfig, d: &GptDataset) {
    if m.seq_length.value != d.seq_length.value {
        let message =
            format!("the model takes {} tokens and the data set gives {}", m.seq_length.value, d.seq_length.value);
        let help = "give `model.model_config.seq_length` and `data_loader.config.seq_length` the same value";
        pair(report, &message, m.seq_length.span, "the model", d.seq_length.span, "the data set", help);
    }
    for (name, token) in [("eod", &d.eod), ("pad", &d.pad)] {
        if token.value >= m.vocab_size.value as i64 {
            let message = format!("`{name}` {} is not in a vocabulary of {}", token.value, m.vocab_size.value);
            let help = "the vocabulary must be larger than every token id";
            pair(report, &message, token.span, "token", m.vocab_size.span, "vocabulary", help);
        }
    }
    if d.sizes.is_set() && d.sizes.value[0] == 0 {
        let found = Diagnostic::error(&codes::OUT_OF_RANGE, "`sizes` asks for no training samples")
            .help("the first of the three numbers is the training set");
        report.push(report.mark(found, d.sizes.span, "0 samples"));
    }
    let per_document = d.reset_attention_mask.value || d.reset_position_ids.value || d.eod_mask_loss.value;
    if d.eod.value < 0 && (per_document || d.create_compressed_eod_mask.value) {
        let asks = [&d.reset_attention_mask, &d.reset_position_ids, &d.eod_mask_loss, &d.create_compressed_eod_mask];
        let by = asks.iter().find(|a| a.value).and_then(|a| a.span);
        let help = "set `eod` to the id of the end-of-document token";
        pair(report, "documents cannot be told apart without an `eod` token", by, "needs it", d.eod.span, "none", help);
    }
}

/// The rules of the mesh, and what of it cannot be run yet. They hold whatever the model is.
pub(super) fn mesh(
    report: &Report,
    generation: Generation,
    general: &General,
    p: &ParallelConfig,
    parallel: &Parallel,
) {
    if !general.use_parallel.value || matches!(parallel.parallel_mode.value, ParallelMode::DataParallel) {
        let split = degrees(p).into_iter().find(|(_, d)| d.value > 1);
        if let Some((name, degree)) = split {
            let (why, span) = if general.use_parallel.value {
                ("`parallel_mode` is data parallel", parallel.parallel_mode.span)
            } else {
                ("`use_parallel` is False", general.use_parallel.span)
            };
            let message = format!("`parallel_config` is not used because {why}");
            let found =
                Diagnostic::warning(&codes::COMPATIBILITY, message).help("the run is on one device, as in MindFormers");
            let found = report.mark(found, degree.span, format!("`{name}` counts as 1"));
            report.push(report.mark(found, span, ""));
        }
        return;
    }
    if p.seq_split_num.value > 1 && p.pipeline_stage.value == 1 {
        let message = format!("`seq_split_num: {}` without a pipeline is not supported yet", p.seq_split_num.value);
        let found = Diagnostic::error(&codes::NOT_SUPPORTED, message)
            .help("write `seq_split_num: 1`, or more than one `pipeline_stage`");
        let found = report.mark(found, p.seq_split_num.span, "slices");
        report.push(report.mark(found, p.pipeline_stage.span, "one stage"));
    }
    if p.pipeline_stage.value > 1 && p.micro_batch_num.value < p.pipeline_stage.value {
        let message =
            format!("{} micro batches cannot fill {} pipeline stages", p.micro_batch_num.value, p.pipeline_stage.value);
        let help = "raise `micro_batch_num` to at least `pipeline_stage`";
        pair(report, &message, p.pipeline_stage.span, "stages", p.micro_batch_num.span, "micro batches", help);
    }
    if generation == Generation::G2 && p.use_seq_parallel.value && p.model_parallel.value == 1 {
        let message = "`use_seq_parallel` needs `model_parallel` above 1";
        let help = "write `use_seq_parallel: False`";
        pair(report, message, p.use_seq_parallel.span, "on", p.model_parallel.span, "one rank", help);
    }
    let ranks = [&p.data_parallel, &p.model_parallel, &p.context_parallel];
    if p.expert_parallel.value > ranks.into_iter().fold(1usize, |n, d| n.saturating_mul(d.value)) {
        let message = format!(
            "`expert_parallel: {}` is more than data_parallel · model_parallel · context_parallel",
            p.expert_parallel.value
        );
        let help = "experts are spread over all ranks of a pipeline stage";
        pair(report, &message, p.expert_parallel.span, "experts", p.data_parallel.span, "ranks", help);
    }
}

fn degrees(p: &ParallelConfig) -> [(&'static str, &Spanned<usize>); 6] {
    [
        ("data_parallel", &p.data_parallel),
        ("model_parallel", &p.model_parallel),
        ("pipeline_stage", &p.pipeline_stage),
        ("context_parallel", &p.context_parallel),
        ("expert_parallel", &p.expert_parallel),
        ("seq_split_num", &p.seq_split_num),
    ]
}

/// The rules between the loss scale and the types.
fn training(report: &Report, wrapper: &RunnerWrapper, m: &ModelConfig) {
    let unscaled = matches!(wrapper.scale_sense.value, LossScale::Static(scale) if scale <= 1.0);
    if m.compute_dtype.value == Dtype::F16 && unscaled {
        let message = "float16 gradients without loss scaling fall below the smallest number";
        let found = Diagnostic::warning(&codes::COMPATIBILITY, message)
            .help("use `compute_dtype: bfloat16`, or a `scale_sense` of type DynamicLossScaleUpdateCell");
        let found = report.mark(found, m.compute_dtype.span.or(m.span), "float16");
        report.push(report.mark(found, wrapper.scale_sense.span, "no scaling"));
    }
}

/// Reports a contradiction between two places, either of which may be a default.
fn pair(report: &Report, message: &str, a: Option<Span>, what_a: &str, b: Option<Span>, what_b: &str, help: &str) {
    let found = Diagnostic::error(&codes::CONTRADICTION, message).help(help);
    let found = report.mark(found, a, what_a);
    report.push(report.mark(found, b, what_b));
}
