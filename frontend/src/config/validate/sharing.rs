//! Which replicas can share weights, where not all do.

use athanor_ir::Diagnostic;

use super::mesh::Mark;
use crate::config::{Config, codes};

/// What of the number of replicas that share cannot be had.
pub(super) fn limits(config: &Config, mark: &Mark<'_>) -> Vec<Diagnostic> {
    let (p, size) = (&config.parallel_config, &config.parallel.optimizer_weight_shard_size);
    let (replicas, on) = (p.data_parallel.value, config.parallel.enable_parallel_optimizer.value);
    let Some(shards) = usize::try_from(size.value).ok().filter(|n| on && *n > 1 && *n < replicas) else {
        return vec![];
    };
    if !replicas.is_multiple_of(shards) {
        let message = format!("{replicas} replicas cannot share weights in groups of {shards}");
        let found = Diagnostic::error(&codes::CONTRADICTION, message)
            .help("write a divisor of `data_parallel`, or -1 for all replicas");
        return vec![mark(mark(found, size.span, "that share"), p.data_parallel.span, "replicas")];
    }
    let Some((ep, _)) = config.expert_ranks().filter(|(ep, _)| !shards.is_multiple_of(*ep)) else { return vec![] };
    let message =
        format!("sharing weights in groups of {shards} replicas, {ep} of which share experts, is not supported yet");
    let found = Diagnostic::error(&codes::NOT_SUPPORTED, message)
        .help("replicas that share experts are in one group: write a multiple of their number, or -1 for all replicas");
    vec![mark(mark(found, size.span, "that share"), p.expert_parallel.span, "share experts")]
}
