//! The rules of slices: what a pipeline needs whose unit of work is a part of each sequence.

use athanor_ir::Diagnostic;
use athanor_ir::pipeline::Kind;

use super::Mark;
use crate::config::model::PositionEmbedding;
use crate::config::span::Span;
use crate::config::{AuxLoss, Config, codes};

/// What of `config` cannot be run with its slices; nothing where sequences come through whole.
pub(super) fn limits(config: &Config, mark: &Mark<'_>) -> Vec<Diagnostic> {
    let (p, m, pipeline) = (&config.parallel_config, &config.model, &config.parallel);
    let slices = &p.seq_split_num;
    if slices.value == 1 || p.pipeline_stage.value == 1 {
        return vec![];
    }
    let mut found = vec![];
    let wrong = |text: String, help: &str| Diagnostic::error(&codes::CONTRADICTION, text).help(help);
    if !pipeline.pipeline_scheduler.value.cuts_sequences() {
        let d = wrong(
            format!("this schedule cuts no sequences, and `seq_split_num` is {}", slices.value),
            "write `pipeline_scheduler: seqpipe`, or `seq_split_num: 1`",
        );
        found.push(mark(mark(d, slices.span, "slices"), pipeline.pipeline_scheduler.span, "this schedule"));
    }
    if !m.seq_length.value.is_multiple_of(slices.value) {
        let text =
            format!("a sequence of {} tokens cannot be cut in {} equal slices", m.seq_length.value, slices.value);
        let d = wrong(text, "lower `seq_split_num`, or change `seq_length`");
        found.push(mark(mark(d, m.seq_length.span, "tokens"), slices.span, "slices"));
    }
    let (len, tp) = (m.seq_length.value / slices.value, &p.model_parallel);
    let whole = m.seq_length.value.is_multiple_of(tp.value) && m.seq_length.value.is_multiple_of(slices.value);
    if p.use_seq_parallel.value && whole && !len.is_multiple_of(tp.value) {
        let text = format!("a slice of {len} tokens cannot be cut in {} equal parts", tp.value);
        let d = wrong(text, "lower `seq_split_num`, or write `use_seq_parallel: False`");
        found.push(mark(mark(d, slices.span, "slices"), tp.span, "parts"));
    }
    let mut refuse = |what: &str, span: Option<Span>, help: &str| {
        let text = format!("{what} with slices of sequences is not supported yet");
        let d = Diagnostic::error(&codes::NOT_SUPPORTED, text).help(help);
        found.push(mark(mark(d, span, "asked for here"), slices.span, "slices"));
    };
    if pipeline.pipeline_scheduler.value.cuts_sequences() && config.schedule() != Some(Kind::Seqpipe) {
        refuse("more than one chunk of layers per stage", m.chunks.span, "leave `pp_interleave_num` out");
    }
    if p.context_parallel.value > 1 {
        refuse("`context_parallel`", p.context_parallel.span, "write `context_parallel: 1`, or `seq_split_num: 1`");
    }
    if m.position_embedding.value == PositionEmbedding::LearnedAbsolute {
        refuse("learned positions", m.position_embedding.span, "write `seq_split_num: 1`");
    }
    let Some(moe) = &m.moe else { return found };
    if let Some(capacity) = &moe.capacity {
        // Which tokens are dropped depends on all of the sequence.
        refuse("a capacity of experts", capacity.factor.span, "leave the capacity out, or write `seq_split_num: 1`");
    }
    if moe.balance.coeff.value > 0.0 && moe.balance.kind.value == AuxLoss::GlobalBatch {
        // Slices of a micro-batch come before others have ended, and its load counts for those behind it.
        refuse(
            "a balance loss over micro-batches",
            moe.balance.kind.span,
            "write `moe_router_load_balancing_type: seq_aux_loss`, or `seq_split_num: 1`",
        );
    }
    found
}
