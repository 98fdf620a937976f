//! Settings that are understood, and that nothing here depends on: they are reported, so that nobody waits for an effect.
//!
//! What changes neither numbers nor files (numbers of loader threads, say) is a hint, and taken as one in silence.

use super::recompute::{RecomputeConfig, Selection};
use super::report::Report;
use super::span::Span;
use super::{CheckpointFormat, Config, DataLoader, Dtype};

/// Adds every such setting of `config` to the note on keys without an effect.
pub(super) fn note(report: &Report, config: &Config) {
    let say = |section: &str, key: &str, span: Option<Span>, differs: bool| {
        if let Some(span) = span.filter(|_| differs) {
            report.idle(section, key, span);
        }
    };
    let g = &config.general;
    say("", "auto_trans_ckpt", g.auto_trans_ckpt.span, g.auto_trans_ckpt.value);
    say("", "remove_redundancy", g.remove_redundancy.span, g.remove_redundancy.value);
    say("", "ignore_data_skip", g.ignore_data_skip.span, g.ignore_data_skip.value);
    say("", "data_skip_steps", g.data_skip_steps.and_then(|s| s.span), true);
    let memory = config.context.max_device_memory.and_then(|m| m.span);
    say("context", "max_device_memory", memory, config.recompute.recompute.value != Selection::Auto);
    let w = &config.wrapper;
    say("runner_wrapper", "local_norm", w.local_norm.span, w.local_norm.value);
    let r = &config.recompute;
    let again = &r.parallel_optimizer_comm_recompute;
    let shares = config.sharing().is_some() && config.shares_steps();
    say("recompute_config", "parallel_optimizer_comm_recompute", again.span, again.value && !shares);
    let c = &config.parallel_config;
    // What a layer starts from is in parts then.
    let sliced = c.use_seq_parallel.value && config.mesh().size("tp") > 1;
    recompute(r, sliced, &say);
    if config.mesh().ranks() > 1 {
        // They choose where values lie, never what they are.
        let o = &config.parallel;
        let enable = &o.enable_parallel_optimizer;
        say("parallel", "enable_parallel_optimizer", enable.span, enable.value && !config.shares_steps());
        let shard = &o.gradient_accumulation_shard;
        say("parallel.parallel_optimizer_config", "gradient_accumulation_shard", shard.span, shard.value && !shares);
        let part = &o.optimizer_weight_shard_size;
        let one = part.value == 1 && enable.value;
        say(
            "parallel.parallel_optimizer_config",
            "optimizer_weight_shard_size",
            part.span,
            part.value > 0 && !shares && !one,
        );
        let on_each = c.model_parallel.value == 1;
        say("parallel_config", "vocab_emb_dp", c.vocab_emb_dp.span, !c.vocab_emb_dp.value && on_each);
    }
    if let DataLoader::Megatron(d) = &config.dataset.loader {
        let mask = &d.create_attention_mask;
        say("train_dataset.data_loader.config", "create_attention_mask", mask.span, mask.value);
    }
    let m = &config.model;
    // Only ranks that would gather keys can pass them on.
    let gathers = config.mesh().size("cp") > 1;
    say("model.model_config", "use_ring_attention", m.use_ring_attention.span, m.use_ring_attention.value && !gathers);
    for (key, dtype) in [
        ("params_dtype", &m.params_dtype),
        ("embedding_params_dtype", &m.embedding_params_dtype),
        ("layernorm_compute_dtype", &m.layernorm_compute_dtype),
        ("softmax_compute_dtype", &m.softmax_compute_dtype),
        ("rotary_dtype", &m.rotary_dtype),
    ] {
        // Weights, norms, softmax and rotation are in f32.
        say("model.model_config", key, dtype.span, dtype.value != Dtype::F32);
    }
    if let Some(c) = &config.callbacks.checkpoint {
        let section = "callbacks.CheckpointMonitor";
        say(section, "directory", c.directory.as_ref().and_then(|d| d.span), true);
        say(section, "save_checkpoint_seconds", c.save_checkpoint_seconds.span, c.save_checkpoint_seconds.value > 0);
        say(section, "async_save", c.async_save.span, c.async_save.value);
        // Checkpoints are safetensors, with the optimizer's state beside the weights.
        let other = c.checkpoint_format.value != CheckpointFormat::Safetensors;
        say(section, "checkpoint_format", c.checkpoint_format.span, other);
        say(section, "save_optimizer", c.save_optimizer.span, !c.save_optimizer.value);
        say(section, "remove_redundancy", c.remove_redundancy.span, c.remove_redundancy.value);
    }
}

/// Where sequences are not `sliced` nothing is communicated that could be kept or done again.
fn recompute(r: &RecomputeConfig, sliced: bool, say: &impl Fn(&str, &str, Option<Span>, bool)) {
    let section = "recompute_config";
    let (chosen, kept) = (&r.select_comm_recompute, &r.select_comm_recompute_exclude);
    let done = sliced && chosen.value == Selection::All(true) && kept.value.is_none();
    say(section, "select_comm_recompute", chosen.span, !chosen.value.is_none() && !done);
    say(section, "select_comm_recompute_exclude", kept.span, !kept.value.is_none());
    let slice = &r.recompute_slice_activation;
    say(section, "recompute_slice_activation", slice.span, slice.value && !sliced);
}

#[cfg(test)]
mod tests {
    use crate::config::testing::LLAMA;

    /// The help of the note on keys without an effect.
    fn noted(overrides: &[(&str, &str)]) -> Option<String> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let loaded = crate::config::parse("llama.yaml", LLAMA, &overrides);
        assert!(loaded.config.is_some(), "{:#?}", loaded.diagnostics);
        loaded.diagnostics.into_iter().find(|d| d.code.id == "C0005").and_then(|d| d.help)
    }

    #[test]
    fn what_is_asked_for_and_not_done_is_said() {
        assert_eq!(noted(&[]), None);
        for (key, value) in [
            ("recompute_config.select_comm_recompute", "True"),
            ("recompute_config.parallel_optimizer_comm_recompute", "True"),
            ("model.model_config.softmax_compute_dtype", "bfloat16"),
            ("callbacks", "[{type: CheckpointMonitor, checkpoint_format: ckpt}]"),
            ("context.max_device_memory", "58GB"),
            ("model.model_config.use_ring_attention", "True"),
        ] {
            let help = noted(&[(key, value)]).unwrap_or_else(|| panic!("nothing about {key}"));
            let last = if key == "callbacks" { "checkpoint_format" } else { key.rsplit('.').next().unwrap() };
            assert!(help.contains(last), "{key}: {help}");
        }
    }

    #[test]
    fn a_ring_needs_ranks_that_would_gather_keys() {
        let ring = ("model.model_config.use_ring_attention", "True");
        let parallel = [ring, ("use_parallel", "True"), ("parallel_config.context_parallel", "2")];
        assert_eq!(noted(&parallel), None);
        let exchanged = ("parallel_config.context_parallel_algo", "ulysses_cp");
        assert!(noted(&[&parallel[..], &[exchanged]].concat()).is_some_and(|help| help.contains("use_ring_attention")));
    }

    #[test]
    fn communication_is_done_again_in_all_layers_or_in_none() {
        let parts = [
            ("use_parallel", "True"),
            ("parallel_config.model_parallel", "2"),
            ("parallel_config.use_seq_parallel", "True"),
            ("recompute_config.mp_comm_recompute", "False"),
        ];
        let says = |more: &[(&str, &str)]| noted(&[&parts[..], more].concat()).unwrap_or_default();
        let all = ("recompute_config.select_comm_recompute", "True");
        assert!(!says(&[all]).contains("comm_recompute"));
        assert!(says(&[("recompute_config.select_comm_recompute", "[1]")]).contains("select_comm_recompute"));
        assert!(
            says(&[all, ("recompute_config.select_comm_recompute_exclude", "['norm']")])
                .contains("select_comm_recompute")
        );
    }

    #[test]
    fn what_is_off_or_as_it_is_done_here_is_not_worth_a_word() {
        let quiet = [
            ("recompute_config.recompute", "True"),
            ("optimizer.swap", "True"),
            ("swap_config.swap", "True"),
            ("recompute_config.select_recompute", "['mlp']"),
            ("recompute_config.select_comm_recompute", "[0, 0]"),
            ("recompute_config.mp_comm_recompute", "True"),
            ("model.model_config.softmax_compute_dtype", "float32"),
            ("callbacks", "[{type: CheckpointMonitor, checkpoint_format: safetensors, async_save: False}]"),
        ];
        assert_eq!(noted(&quiet), None);
    }
}
