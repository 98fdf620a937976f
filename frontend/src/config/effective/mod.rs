//! The configuration as it will be used, every default filled in.

mod model;
mod step;
mod writer;

use std::fmt::Write as _;

use self::writer::{Writer, float, quoted};
use super::general::Resume;
use super::parallel_config::ROWS;
use super::recompute::{Amount, Selection};
use super::swap::{Numbers, SwapConfig, SwapEntry};
use super::{CheckpointFormat, Config, DataLoader, DataPath, GptDataset, LossScale, RunMode, TokenDtype};

/// The effective configuration as YAML in the G2 layout, canonical names throughout.
///
/// Reading it again gives the same effective configuration. It is for people: which convention `YaRN`'s magnitude follows
/// ([`super::YarnMagnitude`]) has no key and is not in it.
pub fn effective(config: &Config) -> String {
    let mut out = Writer::default();
    general(&mut out, config);
    runner(&mut out, config);
    model::write(&mut out, &config.model);
    step::optimizer(&mut out, config);
    step::lr_schedule(&mut out, config);
    dataset(&mut out, config);
    parallel(&mut out, config);
    recompute(&mut out, config);
    callbacks(&mut out, config);
    out.text
}

fn format_name(format: CheckpointFormat) -> &'static str {
    match format {
        CheckpointFormat::Ckpt => "ckpt",
        CheckpointFormat::Safetensors => "safetensors",
    }
}

fn general(out: &mut Writer, config: &Config) {
    let g = &config.general;
    out.raw("run_mode", if g.run_mode.value == RunMode::Train { "train" } else { "finetune" });
    out.boolean("use_legacy", false);
    out.number("seed", g.seed.value);
    out.string("output_dir", &g.output_dir);
    out.boolean("use_parallel", g.use_parallel.value);
    match &g.resume_training.value {
        Resume::Off => out.boolean("resume_training", false),
        Resume::Auto => out.boolean("resume_training", true),
        Resume::From(name) => out.string("resume_training", name),
    }
    out.string("load_checkpoint", g.load_checkpoint.as_ref().map_or("", |c| &c.value));
    out.raw("load_ckpt_format", format_name(g.load_ckpt_format.value));
    out.boolean("auto_trans_ckpt", g.auto_trans_ckpt.value);
    out.boolean("remove_redundancy", g.remove_redundancy.value);
    if let Some(dir) = &g.pretrained_model_dir {
        out.string("pretrained_model_dir", dir);
    }
    out.number("micro_batch_interleave_num", g.micro_batch_interleave_num.value);
    out.boolean("ignore_data_skip", g.ignore_data_skip.value);
    if let Some(steps) = &g.data_skip_steps {
        out.number("data_skip_steps", steps.value);
    }
    out.boolean("print_separate_loss", g.print_separate_loss.value);
    if let Some(name) = &g.model_name {
        out.section("trainer", |out| {
            out.raw("type", "CausalLanguageModelingTrainer");
            out.string("model_name", name);
        });
    }
    out.section("context", |out| {
        out.raw("device_target", &config.context.device_target);
        out.number("mode", config.context.mode.value);
        if let Some(memory) = &config.context.max_device_memory {
            out.string("max_device_memory", &format!("{}GB", memory.value as f64 / f64::from(1 << 30)));
        }
    });
}

fn runner(out: &mut Writer, config: &Config) {
    let (r, w) = (&config.runner, &config.wrapper);
    out.section("runner_config", |out| {
        out.number("epochs", r.epochs.value);
        out.number("batch_size", r.batch_size.value);
        out.boolean("sink_mode", r.sink_mode.value);
        out.number("sink_size", r.sink_size.value);
        out.number("gradient_accumulation_steps", r.gradient_accumulation_steps.value);
        out.number("stop_step", r.stop_step.value);
    });
    out.section("runner_wrapper", |out| {
        out.raw("type", &w.kind);
        match w.scale_sense.value {
            LossScale::Static(scale) => out.float("scale_sense", scale),
            LossScale::Dynamic { initial, factor, window } => out.section("scale_sense", |out| {
                out.raw("type", "DynamicLossScaleUpdateCell");
                out.float("loss_scale_value", initial);
                out.float("scale_factor", factor);
                out.number("scale_window", window);
            }),
        }
        out.boolean("use_clip_grad", w.use_clip_grad.value);
        out.float("max_grad_norm", w.max_grad_norm.value);
        out.boolean("local_norm", w.local_norm.value);
        if let Some(per_token) = &w.calculate_per_token_loss {
            out.boolean("calculate_per_token_loss", per_token.value);
        }
    });
}

fn dataset(out: &mut Writer, config: &Config) {
    let d = &config.dataset;
    out.section("train_dataset", |out| {
        out.section("data_loader", |out| match &d.loader {
            DataLoader::TokenBin(bin) => {
                out.raw("type", "TokenBinDataLoader");
                out.string("path", &bin.path);
                out.raw("dtype", if bin.dtype.value == TokenDtype::Uint16 { "uint16" } else { "int32" });
                out.number("stride", bin.stride.as_ref().map_or(config.model.seq_length.value, |s| s.value));
            }
            DataLoader::Megatron(data) => gpt_dataset(out, data),
        });
        out.boolean("drop_remainder", d.drop_remainder.value);
        if let Some(columns) = &d.input_columns {
            let columns: Vec<String> = columns.iter().map(|c| quoted(c)).collect();
            out.raw("input_columns", &format!("[{}]", columns.join(", ")));
        }
        out.number("num_parallel_workers", d.num_parallel_workers.value);
        out.number("prefetch_size", d.prefetch_size.value);
        if let Some(seed) = &d.seed {
            out.number("seed", seed.value);
        }
    });
}

fn gpt_dataset(out: &mut Writer, data: &GptDataset) {
    let paths = |paths: &[DataPath]| {
        let items = paths.iter().flat_map(|p| p.weight.map(float).into_iter().chain([quoted(&p.prefix)]));
        format!("[{}]", items.collect::<Vec<_>>().join(", "))
    };
    out.raw("type", "BlendedMegatronDatasetDataLoader");
    out.raw("datasets_type", "\"GPTDataset\"");
    out.raw("sizes", &format!("{:?}", data.sizes.value));
    out.boolean("shuffle", data.shuffle.value);
    out.section("config", |out| {
        out.number("seq_length", data.seq_length.value);
        out.number("seed", data.seed.value);
        if !data.data_path.is_empty() {
            out.raw("data_path", &paths(&data.data_path));
        }
        for (key, list) in ["train_data_path", "valid_data_path", "test_data_path"].iter().zip(&data.per_split) {
            if !list.is_empty() {
                out.raw(key, &paths(list));
            }
        }
        if let Some(split) = &data.split {
            out.string("split", &split.value.map(float).join(", "));
        }
        if let Some(cache) = &data.path_to_cache {
            out.string("path_to_cache", cache);
        }
        out.number("num_dataset_builder_threads", data.num_dataset_builder_threads.value);
        for (key, on) in [
            ("mmap_bin_files", &data.mmap_bin_files),
            ("reset_position_ids", &data.reset_position_ids),
            ("reset_attention_mask", &data.reset_attention_mask),
            ("eod_mask_loss", &data.eod_mask_loss),
            ("create_attention_mask", &data.create_attention_mask),
            ("create_compressed_eod_mask", &data.create_compressed_eod_mask),
            ("drop_last_partial_validation_sequence", &data.drop_last_partial_validation_sequence),
            ("add_extra_token_to_sequence", &data.add_extra_token_to_sequence),
        ] {
            out.boolean(key, on.value);
        }
        out.number("eod_pad_length", data.eod_pad_length.value);
        out.number("eod", data.eod.value);
        out.number("pad", data.pad.value);
    });
}

fn parallel(out: &mut Writer, config: &Config) {
    let (p, c) = (&config.parallel_config, &config.parallel);
    out.section("parallel_config", |out| {
        for (key, degree) in [
            ("data_parallel", &p.data_parallel),
            ("model_parallel", &p.model_parallel),
            ("pipeline_stage", &p.pipeline_stage),
            ("context_parallel", &p.context_parallel),
            ("expert_parallel", &p.expert_parallel),
            ("micro_batch_num", &p.micro_batch_num),
            ("seq_split_num", &p.seq_split_num),
            ("gradient_aggregation_group", &p.gradient_aggregation_group),
        ] {
            out.number(key, degree.value);
        }
        if let Some((name, _)) =
            ROWS.iter().find(|(_, rows)| *rows == p.expert_exchange.value && p.expert_exchange.is_set())
        {
            out.raw("expert_exchange", name);
        }
        if p.expert_exchange_factor.is_set() {
            out.float("expert_exchange_factor", p.expert_exchange_factor.value);
        }
        out.boolean("use_seq_parallel", p.use_seq_parallel.value);
        out.boolean(
            "vocab_emb_dp",
            if p.vocab_emb_dp.is_set() { p.vocab_emb_dp.value } else { !config.cuts_vocabulary() },
        );
    });
    out.section("parallel", |out| {
        out.number("parallel_mode", c.parallel_mode.value as usize);
        out.boolean("full_batch", c.full_batch.value);
        if let Some(strategy) = &c.dataset_strategy {
            out.raw("dataset_strategy", &format!("{:?}", strategy.value));
        }
        out.boolean("gradients_mean", c.gradients_mean.value);
        out.boolean("enable_parallel_optimizer", c.enable_parallel_optimizer.value);
        out.section("parallel_optimizer_config", |out| {
            out.boolean("gradient_accumulation_shard", c.gradient_accumulation_shard.value);
            out.number("parallel_optimizer_threshold", c.parallel_optimizer_threshold.value);
            out.number("optimizer_weight_shard_size", c.optimizer_weight_shard_size.value);
        });
        let scheduler = super::parallel::SCHEDULERS.iter().find(|(_, s)| *s == c.pipeline_scheduler.value);
        out.section("pipeline_config", |out| {
            out.boolean("pipeline_interleave", c.pipeline_interleave.value);
            out.string("pipeline_scheduler", scheduler.map_or("1f1b", |(name, _)| name));
        });
    });
}

fn recompute(out: &mut Writer, config: &Config) {
    let r = &config.recompute;
    out.section("recompute_config", |out| {
        for (key, what) in [
            ("recompute", &r.recompute),
            ("select_recompute", &r.select_recompute),
            ("select_comm_recompute", &r.select_comm_recompute),
            ("select_recompute_exclude", &r.select_recompute_exclude),
            ("select_comm_recompute_exclude", &r.select_comm_recompute_exclude),
        ] {
            out.raw(key, &selection(what));
        }
        out.boolean("parallel_optimizer_comm_recompute", r.parallel_optimizer_comm_recompute.value);
        out.boolean("mp_comm_recompute", r.mp_comm_recompute.value);
        // `recompute_slice_activation` exists only in the legacy layout, for tensor parallel ranks.
    });
    swap(out, &config.swap);
    // Nothing else depends on it.
    if let (Selection::Auto, Some(memory)) = (&r.recompute.value, config.context.max_device_memory) {
        let gigabytes = memory.value as f64 / (1_u64 << 30) as f64;
        out.section("context", |out| out.string("max_device_memory", &format!("{gigabytes}GB")));
    }
}

fn swap(out: &mut Writer, config: &SwapConfig) {
    if !config.swap.value {
        return;
    }
    let entry = |e: &SwapEntry| {
        let name = e.op_name.as_ref().map_or_else(String::new, |n| format!("op_name: {}, ", quoted(n)));
        let layers = match &e.layers.value {
            Numbers::All(all) => amount(Amount::All(*all)),
            Numbers::Some(list) => format!("{list:?}"),
        };
        format!("{{{name}backward_prefetch: {}, layers: {layers}}}", e.backward_prefetch.value)
    };
    out.section("swap_config", |out| {
        out.boolean("swap", true);
        out.number("default_prefetch", config.default_prefetch.value);
        for (key, entries) in [("layer_swap", &config.layer_swap), ("op_swap", &config.op_swap)] {
            if !entries.is_empty() {
                out.raw(key, &format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(", ")));
            }
        }
    });
}

fn amount(amount: Amount) -> String {
    match amount {
        Amount::All(all) => if all { "True" } else { "False" }.into(),
        Amount::Layers(n) => n.to_string(),
    }
}

fn selection(selection: &Selection) -> String {
    let amounts = |list: &[Amount]| format!("[{}]", list.iter().copied().map(amount).collect::<Vec<_>>().join(", "));
    match selection {
        Selection::All(all) => amount(Amount::All(*all)),
        Selection::Auto => "auto".into(),
        Selection::PerStage(stages) => amounts(stages),
        Selection::PerChunk(chunks) => {
            format!("[{}]", chunks.iter().map(|c| amounts(c)).collect::<Vec<_>>().join(", "))
        }
        Selection::Patterns(patterns) => {
            format!("[{}]", patterns.iter().map(|p| quoted(p)).collect::<Vec<_>>().join(", "))
        }
        Selection::PatternAmounts(patterns) => {
            let items = patterns.iter().map(|(p, a)| format!("{}: {}", quoted(p), amounts(a)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
    }
}

fn callbacks(out: &mut Writer, config: &Config) {
    let c = &config.callbacks;
    out.raw("callbacks", "");
    let _ = writeln!(out.text, "  - type: MFLossMonitor");
    out.depth = 2;
    out.number("per_print_times", c.loss.per_print_times.value);
    out.boolean("check_for_nan_in_loss_and_grad", c.loss.check_for_nan_in_loss_and_grad.value);
    if let Some(checkpoint) = &c.checkpoint {
        let _ = writeln!(out.text, "  - type: CheckpointMonitor");
        out.string("prefix", &checkpoint.prefix);
        if let Some(directory) = &checkpoint.directory {
            out.string("directory", directory);
        }
        out.number("save_checkpoint_steps", checkpoint.save_checkpoint_steps.value);
        out.number("save_checkpoint_seconds", checkpoint.save_checkpoint_seconds.value);
        out.number("keep_checkpoint_max", checkpoint.keep_checkpoint_max.value);
        out.boolean("async_save", checkpoint.async_save.value);
        out.raw("checkpoint_format", format_name(checkpoint.checkpoint_format.value));
        out.boolean("remove_redundancy", checkpoint.remove_redundancy.value);
        out.boolean("save_optimizer", checkpoint.save_optimizer.value);
        out.boolean("save_network_params", checkpoint.save_network_params.value);
    }
    out.depth = 0;
}

#[cfg(test)]
mod tests {
    use super::effective;
    use crate::config::parse;
    use crate::config::testing::{accepted, with};

    #[test]
    fn reading_it_again_changes_nothing() {
        for changes in [
            &[][..],
            &[("model.model_config.rope_scaling", "{type: yarn, factor: 4.0, original_max_position_embeddings: 128}")],
            &[("lr_schedule.type", "ConstantWithCoolDownLR"), ("lr_schedule.decay_steps", "8")],
            &[("output_dir", "a \"b\"\\c"), ("optimizer.eps", "1e-30"), ("resume_training", "step_3")],
            &[
                ("recompute_config.select_recompute", "{'a.b': [1, True]}"),
                ("recompute_config.recompute", "auto"),
                ("context.max_device_memory", "1.5GB"),
                ("model.model_config.param_init_std_rules", "[{target: '.*', init_method_std: 0.1}]"),
            ],
            &[
                ("swap_config.swap", "True"),
                ("swap_config.layer_swap", "[{layers: [0, 1]}, {backward_prefetch: 7, layers: True}]"),
                ("swap_config.op_swap", "{op_name: 'mlp\\.mul', layers: [1]}"),
            ],
            &[("model.model_config.model_type", "gpt2"), ("model.model_config.hidden_act", "gelu_erf")],
        ] {
            let first = effective(&with(changes));
            let second = effective(&accepted(parse("effective.yaml", &first, &[])));
            assert_eq!(first, second);
        }
    }
}
