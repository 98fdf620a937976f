//! The rules of context parallelism: what its degree and its algorithm must divide.

use athanor_ir::Diagnostic;

use super::Mark;
use crate::config::model::PositionEmbedding;
use crate::config::{Config, ContextParallelAlgo, codes};

/// What of `config` cannot be run with its parts of sequences; nothing where sequences are whole.
pub(super) fn limits(config: &Config, mark: &Mark<'_>) -> Vec<Diagnostic> {
    let (p, m) = (&config.parallel_config, &config.model);
    let cp = &p.context_parallel;
    if cp.value == 1 {
        return vec![];
    }
    let mut found = vec![];
    let (gathered, by_heads) = p.context_ranks();
    if !m.seq_length.value.is_multiple_of(cp.value) {
        let message = format!("a sequence of {} tokens cannot be cut in {} equal parts", m.seq_length.value, cp.value);
        let d =
            Diagnostic::error(&codes::CONTRADICTION, message).help("lower `context_parallel`, or change `seq_length`");
        found.push(mark(mark(d, m.seq_length.span, "tokens"), cp.span, "parts"));
    }
    let (algo, degree) = (&p.context_parallel_algo, &p.ulysses_degree_in_cp);
    if algo.value == ContextParallelAlgo::Hybrid && gathered * degree.value != cp.value {
        let message =
            format!("`ulysses_degree_in_cp: {}` does not divide `context_parallel: {}`", degree.value, cp.value);
        let d = Diagnostic::error(&codes::CONTRADICTION, message)
            .help("`hybrid_cp` exchanges heads in groups of that many ranks: write a divisor");
        found.push(mark(mark(d, degree.span, "does not divide"), cp.span, "ranks"));
    }
    if by_heads == 1 {
        return found;
    }
    if let PositionEmbedding::Alibi = m.position_embedding.value {
        let d = Diagnostic::error(&codes::NOT_SUPPORTED, "ALiBi with heads that ranks exchange is not supported yet")
            .help("its slopes belong to heads: write `context_parallel_algo: colossalai_cp`, or `context_parallel: 1`");
        found.push(mark(
            mark(d, m.position_embedding.span, "asked for here"),
            algo.span.or(cp.span),
            "exchanges heads",
        ));
    }
    let tp = p.model_parallel.value;
    let mut sizes = vec![("heads", m.num_attention_heads), ("key and value heads", m.num_query_groups)];
    if m.latent.is_some() {
        sizes.pop();
    }
    // Those that `model_parallel` does not divide are reported already.
    for (what, size) in sizes.into_iter().filter(|(_, size)| size.value.is_multiple_of(tp)) {
        let own = size.value / tp;
        if !own.is_multiple_of(by_heads) {
            let ranks = if tp > 1 { format!(" of each of {tp} tensor-parallel ranks") } else { String::new() };
            let message = format!("{own} {what}{ranks} cannot be exchanged by {by_heads} ranks evenly");
            let d = Diagnostic::error(&codes::CONTRADICTION, message)
                .help("lower `context_parallel`, or exchange fewer: `hybrid_cp` with a smaller `ulysses_degree_in_cp`");
            found.push(mark(mark(d, size.span, "of the model"), degree_span(p), "ranks"));
        }
    }
    found
}

/// What says how many ranks exchange heads.
fn degree_span(p: &crate::config::parallel_config::ParallelConfig) -> Option<crate::config::span::Span> {
    match p.context_parallel_algo.value {
        ContextParallelAlgo::Hybrid => p.ulysses_degree_in_cp.span,
        _ => p.context_parallel.span,
    }
}
