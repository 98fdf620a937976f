//! The rules of several devices: what can be run on a mesh, and what a mesh must divide.

use athanor_ir::Diagnostic;

use crate::config::span::Span;
use crate::config::{Config, UpdateRule, codes, pipeline};

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
    let degrees = [&p.model_parallel, &p.data_parallel, &p.pipeline_stage];
    let degree = degrees.into_iter().find(|d| d.value > 1).unwrap_or(&p.data_parallel);
    let mut refuse = |what: &str, span: Option<Span>, help: &str| {
        let d = Diagnostic::error(&codes::NOT_SUPPORTED, format!("{what} on several devices is not supported yet"));
        let d = mark(d.help(help), span, "asked for here");
        found.push(if d.labels.is_empty() { mark(d, degree.span, "several devices") } else { d });
    };
    let m = &config.model;
    if let Some(moe) = &m.moe {
        refuse("a model with experts", moe.num_experts.span, "use one device, or a dense model");
    }
    if let Some(mtp) = &m.mtp {
        refuse("the loss of a further token", mtp.num_layers.span, "use one device, or `mtp_num_layers: 0`");
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
    if p.pipeline_stage.value > 1 {
        found.extend(pipeline::limits(config, mark));
    }
    let tp = p.model_parallel.value;
    if tp > 1 {
        let mut sizes = vec![("heads", m.num_attention_heads), ("key and value heads", m.num_query_groups)];
        if m.latent.is_some() {
            sizes.pop();
        }
        let heads = sizes.into_iter().map(|(what, size)| (format!("{} {what}", size.value), size));
        let inner = (format!("an inner width of {}", m.ffn_hidden_size.value), m.ffn_hidden_size);
        for (what, size) in heads.chain([inner]).filter(|(_, size)| !size.value.is_multiple_of(tp)) {
            let d = Diagnostic::error(&codes::CONTRADICTION, format!("{what} cannot be cut in {tp} equal parts"))
                .help("lower `model_parallel`, or change the model");
            found.push(mark(mark(d, size.span, "of the model"), p.model_parallel.span, "parts"));
        }
    }
    found
}
