//! The rules of several devices: what can be run on a mesh, and what a mesh must divide.

use athanor_ir::Diagnostic;

use super::context;
use crate::config::span::{Span, Spanned};
use crate::config::{Config, Moe, UpdateRule, codes, pipeline};

/// Marks a place in a diagnostic.
pub(in crate::config) type Mark<'a> = dyn Fn(Diagnostic, Option<Span>, &str) -> Diagnostic + 'a;

/// What of `config` cannot be run on its mesh; nothing for one device.
pub(in crate::config) fn limits(config: &Config, mark: &Mark<'_>) -> Vec<Diagnostic> {
    let mesh = config.mesh();
    if mesh.ranks() == 1 {
        return vec![];
    }
    let mut found = vec![];
    let p = &config.parallel_config;
    // The degree that makes it a mesh.
    let degrees = [&p.model_parallel, &p.data_parallel, &p.pipeline_stage, &p.context_parallel];
    let degree = degrees.into_iter().find(|d| d.value > 1).unwrap_or(&p.data_parallel);
    let mut refuse = |what: &str, span: Option<Span>, help: &str| {
        let d = Diagnostic::error(&codes::NOT_SUPPORTED, format!("{what} on several devices is not supported yet"));
        let d = mark(d.help(help), span, "asked for here");
        found.push(if d.labels.is_empty() { mark(d, degree.span, "several devices") } else { d });
    };
    let m = &config.model;
    if let Some(capacity) = m.moe.as_ref().and_then(|moe| moe.capacity.as_ref()).filter(|_| {
        let parts = mesh.replicas() * p.context_parallel.value;
        parts > 1
    }) {
        // Which tokens are dropped depends on all of the batch.
        let help = "leave the capacity out, or write `data_parallel: 1` and `context_parallel: 1`";
        refuse("a capacity of experts", capacity.factor.span, help);
    }
    let rule = &config.optimizer;
    if matches!(rule.rule, UpdateRule::Muon(_)) {
        refuse(&format!("the optimizer `{}`", rule.kind.value), rule.kind.span, "use AdamW");
    }
    if config.parallel.gradients_mean.value {
        let span = config.parallel.gradients_mean.span;
        refuse("`gradients_mean`", span, "leave it out: the loss is the mean over the global batch already");
    }
    if let Some(strategy) = &config.parallel.dataset_strategy
        && !config.parallel.full_batch.value
        && strategy.value.first().and_then(|s| s.first()) != Some(&p.data_parallel.value)
    {
        let message = format!("`dataset_strategy` does not cut the batch in {} replicas", p.data_parallel.value);
        let d = Diagnostic::error(&codes::CONTRADICTION, message)
            .help("the first number of its first list is `data_parallel`");
        found.push(mark(mark(d, strategy.span, "the strategy"), p.data_parallel.span, "replicas"));
    }
    found.extend(context::limits(config, mark));
    found.extend(super::sharing::limits(config, mark));
    if p.pipeline_stage.value > 1 {
        found.extend(pipeline::limits(config, mark));
        found.extend(super::slices::limits(config, mark));
    }
    if let Some(moe) = &m.moe {
        expert_limits(config, moe, mark, &mut found);
    }
    let tp = p.model_parallel.value;
    if tp > 1 {
        let mut sizes = vec![("heads", m.num_attention_heads), ("key and value heads", m.num_query_groups)];
        if m.latent.is_some() {
            sizes.pop();
        }
        let heads = sizes.into_iter().map(|(what, size)| (format!("{} {what}", size.value), size));
        let inner = |what: &str, size: Spanned<usize>| (format!("{what} inner width of {}", size.value), size);
        let dense = m.moe.as_ref().is_none_or(|moe| moe.layers.value.contains(&false));
        let widths = dense.then(|| inner("an", m.ffn_hidden_size)).into_iter();
        let by_width = config.expert_ranks().is_none_or(|(_, over_tp)| !over_tp);
        let moe = m.moe.iter().filter(|_| by_width).map(|moe| inner("the experts'", moe.ffn_hidden_size));
        let shared = m.moe.iter().filter_map(|moe| moe.shared.as_ref());
        let shared = shared.map(|s| inner("the shared expert's", s.ffn_hidden_size));
        let rows = config.cuts_vocabulary();
        let rows = rows.then(|| (format!("a vocabulary of {}", m.vocab_size.value), m.vocab_size));
        let parts = heads.chain(widths).chain(moe).chain(shared).chain(rows);
        for (what, size) in parts.filter(|(_, size)| !size.value.is_multiple_of(tp)) {
            let d = Diagnostic::error(&codes::CONTRADICTION, format!("{what} cannot be cut in {tp} equal parts"))
                .help("lower `model_parallel`, or change the model");
            found.push(mark(mark(d, size.span, "of the model"), p.model_parallel.span, "parts"));
        }
        let tokens = m.seq_length;
        // What does not divide among ranks with parts of sequences is reported already.
        let cp = p.context_parallel.value;
        let parts = if tokens.value.is_multiple_of(cp) { cp * tp } else { tp };
        if p.use_seq_parallel.value && !tokens.value.is_multiple_of(parts) {
            let message = format!("a sequence of {} tokens cannot be cut in {parts} equal parts", tokens.value);
            let d = Diagnostic::error(&codes::CONTRADICTION, message)
                .help("lower `model_parallel`, or write `use_seq_parallel: False`");
            let d = mark(mark(d, tokens.span, "tokens"), p.model_parallel.span, "parts");
            found.push(mark(d, p.use_seq_parallel.span, "sequences are cut"));
        }
    }
    found
}

/// What expert parallelism must divide.
fn expert_limits(config: &Config, moe: &Moe, mark: &Mark<'_>, found: &mut Vec<Diagnostic>) {
    let p = &config.parallel_config;
    let (dp, ep) = (&p.data_parallel, &p.expert_parallel);
    if config.expert_ranks().is_none() {
        let (tp, ranks) = (p.model_parallel.value, ep.value);
        let message = format!("`expert_parallel: {ranks}` on {} × {tp} ranks is not supported yet", dp.value);
        let d = Diagnostic::error(&codes::NOT_SUPPORTED, message).help(
            "ranks that share experts are some of the replicas, or all tensor-parallel ranks of some: write a divisor of \
             `data_parallel`, or one times `model_parallel`",
        );
        found.push(mark(mark(d, ep.span, "share experts"), dp.span, "replicas"));
    } else if !moe.num_experts.value.is_multiple_of(ep.value) {
        let message = format!("{} experts cannot be shared by {} ranks evenly", moe.num_experts.value, ep.value);
        let d = Diagnostic::error(&codes::CONTRADICTION, message).help("lower `expert_parallel`, or change the model");
        found.push(mark(mark(d, moe.num_experts.span, "of the model"), ep.span, "ranks"));
    }
}
