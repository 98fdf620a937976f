//! From a checked configuration to what the run needs beside the model: steps, rates, data, saving.

use std::path::Path;

use athanor_ir::diag::{Code, Diagnostic, Result};
use athanor_ir::lr::{LrSchedule, Shape};
use athanor_ir::offload::Offload;
use athanor_ir::recompute::Recompute;
use athanor_ir::run::{ExpertExchange, Joined, Keys, LossScale, LrGroup, RunSpec};
use serde_json::{Value, json};

use crate::config::{
    Config, DataLoader, DataPath, Dtype, GptDataset, LossScale as ScaleSense, LrScheduleConfig, LrShape, Steps,
    TokenBin, TokenDtype,
};
use crate::model::{flops, hf, names};

/// The number of training steps cannot be told.
pub const NO_STEPS: Code = Code {
    id: "C0101",
    title: "the number of training steps is not known",
    explain: "Steps are epochs × samples / global batch size. Samples are `sizes[0]` of a Megatron data set, or what a \
              token file holds, so that the file must exist when the plan is compiled; `lr_schedule.total_steps` or \
              `runner_config.stop_step` say how many steps to run when it does not. A run needs at least one step.",
};

/// Codes of this module.
pub const CODES: &[&Code] = &[&NO_STEPS];

/// The run that `config` describes.
///
/// # Errors
/// [`NO_STEPS`].
pub fn spec(config: &Config) -> Result<RunSpec> {
    let m = &config.model;
    let per_epoch = steps_per_epoch(config);
    let epochs = config.runner.epochs.value as u64;
    let all = per_epoch.map(|s| s.saturating_mul(epochs));
    let stop = Some(config.runner.stop_step.value).filter(|s| *s > 0);
    let scheduled = config.lr_schedule.total_steps.as_ref().map(|s| s.value);
    let steps = match (all, stop, scheduled) {
        (Some(all), Some(stop), _) => all.min(stop),
        (Some(all), None, _) => all,
        (None, Some(stop), _) => stop,
        (None, None, Some(total)) => total,
        (None, None, None) => return no_steps(config, "the data file is not there to be counted"),
    };
    if steps == 0 {
        return no_steps(config, "the data set has fewer samples than one global batch");
    }
    let total = all.unwrap_or(steps);
    let per_epoch = per_epoch.unwrap_or(total);
    let save = config.callbacks.checkpoint.as_ref();
    let hf_config = hf::config_json(m);
    Ok(RunSpec {
        seed: config.general.seed.value,
        steps,
        epochs,
        batch_size: config.runner.batch_size.value,
        accumulation: config.micro_batches(),
        seq_length: m.seq_length.value,
        vocab_size: m.vocab_size.value,
        optimizer: config.optimizer.spec(),
        sharing: config.sharing(),
        cut_vocabulary: config.cuts_vocabulary(),
        cut_sequence: (config.parallel_config.use_seq_parallel.value && config.mesh().size("tp") > 1)
            .then_some(if config.recompute.joins_again() { Joined::Again } else { Joined::Kept }),
        keys: if m.use_ring_attention.value && config.mesh().size("cp") > 1 { Keys::Ring } else { Keys::Gathered },
        experts_over_tp: config.expert_ranks().is_some_and(|(_, over_tp)| over_tp),
        expert_exchange: ExpertExchange {
            rows: config.parallel_config.expert_exchange.value,
            factor: config.parallel_config.expert_exchange_factor.value,
        },
        max_grad_norm: config.wrapper.use_clip_grad.value.then_some(config.wrapper.max_grad_norm.value),
        per_token_loss: config.wrapper.calculate_per_token_loss.unwrap_or(m.calculate_per_token_loss).value,
        lr: schedule(&config.lr_schedule, total, per_epoch),
        lr_groups: config
            .lr_groups
            .iter()
            .map(|g| LrGroup { lr: schedule(&g.schedule, total, per_epoch), weights: vec![] })
            .collect(),
        loss_scale: loss_scale(config),
        flops_per_sequence: flops::per_sequence(m),
        data: Some(data(config)),
        load_checkpoint: config
            .general
            .load_checkpoint
            .as_ref()
            .filter(|p| !p.value.is_empty())
            .map(|p| text(&config.resolve_path(&p.value)))
            .unwrap_or_default(),
        output_dir: config.general.output_dir.value.clone(),
        save_steps: save.map_or(0, |c| c.save_checkpoint_steps.value),
        keep_checkpoint_max: save.map_or(1, |c| c.keep_checkpoint_max.value as usize),
        checkpoint_prefix: save.map_or_else(|| "CKP".into(), |c| c.prefix.value.clone()),
        log_steps: config.callbacks.loss.per_print_times.value as u64,
        weights: names::tables(&hf_config, m.layouts),
        // Operators are known when the model is built.
        recompute: Recompute::default(),
        offload: Offload::default(),
        pipeline: config.pipeline(),
        hf_config,
    })
}

/// Scaling of the loss. A fixed scale of 1 in wider types than f16 is none: a gradient that is not finite then ends the run
/// instead of being left out.
fn loss_scale(config: &Config) -> Option<LossScale> {
    match config.wrapper.scale_sense.value {
        ScaleSense::Static(value) if value == 1.0 && config.model.compute_dtype.value != Dtype::F16 => None,
        ScaleSense::Static(value) => Some(LossScale::Fixed { value }),
        ScaleSense::Dynamic { initial, factor, window } => Some(LossScale::Dynamic { value: initial, factor, window }),
    }
}

fn no_steps<T>(config: &Config, why: &str) -> Result<T> {
    let mut d = Diagnostic::error(&NO_STEPS, format!("no number of training steps: {why}"))
        .help("give `lr_schedule.total_steps` or `runner_config.stop_step`, or build the data set first");
    let file = match &config.dataset.loader {
        DataLoader::TokenBin(d) => d.path.span,
        DataLoader::Megatron(_) => None,
    };
    if let Some(span) = file.or(config.dataset.span)
        && let Some(source) = config.sources.get(span.file as usize)
    {
        d = d.at(source, span.start as usize..span.end as usize, "the data set is named here");
    }
    d.err()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Optimizer steps in one pass over the data; `None` when the file to count is not there.
fn steps_per_epoch(config: &Config) -> Option<u64> {
    let batch = config.global_batch_size() as u64;
    let samples = match &config.dataset.loader {
        DataLoader::Megatron(d) => Some(d.sizes.value[0]),
        DataLoader::TokenBin(d) => {
            let path = config.resolve_path(&d.path.value);
            std::fs::metadata(path).ok().map(|file| {
                let tokens = file.len() / d.dtype.value.bytes();
                let (seq, stride) = (config.model.seq_length.value as u64, stride(config, d));
                tokens.checked_sub(seq + 1).map_or(0, |rest| rest / stride.max(1) + 1)
            })
        }
    };
    samples.map(|s| s / batch.max(1))
}

fn stride(config: &Config, d: &TokenBin) -> u64 {
    d.stride.as_ref().map_or(config.model.seq_length.value, |s| s.value) as u64
}

impl TokenDtype {
    /// Size of a token in bytes.
    fn bytes(self) -> u64 {
        match self {
            Self::Uint16 => 2,
            Self::Int32 => 4,
        }
    }
}

/// The rate by step, with every length in steps; `all` is their number unless the schedule has its own.
fn schedule(c: &LrScheduleConfig, all: u64, per_epoch: u64) -> LrSchedule {
    let total = c.total_steps.as_ref().map_or(all, |s| s.value);
    let steps = |s: &Steps| s.resolve(total, per_epoch);
    let or_total = |s: &Option<Steps>| s.as_ref().map_or(total, steps);
    let warmup = steps(&c.warmup.value);
    let shape = match &c.shape {
        LrShape::Constant => Shape::Constant,
        LrShape::Linear => Shape::Linear { total_steps: total },
        LrShape::Cosine { num_cycles, lr_end, decay_steps } => Shape::Cosine {
            num_cycles: *num_cycles,
            restarts: false,
            total_steps: total,
            decay_steps: or_total(decay_steps),
            lr_end: *lr_end,
        },
        LrShape::CosineWithRestarts { num_cycles, lr_end, decay_steps } => Shape::Cosine {
            num_cycles: *num_cycles,
            restarts: true,
            total_steps: total,
            decay_steps: or_total(decay_steps),
            lr_end: *lr_end,
        },
        LrShape::Polynomial { power, lr_end, decay_steps } => Shape::Polynomial {
            power: *power,
            total_steps: total,
            decay_steps: decay_steps.as_ref().map_or(total.saturating_sub(warmup), steps),
            lr_end: *lr_end,
        },
        LrShape::WarmUpStableDecay { decay_start, lr_end } => {
            Shape::WarmUpStableDecay { decay_start_steps: steps(decay_start), total_steps: total, lr_end: *lr_end }
        }
        LrShape::ConstantWithCoolDown { keep_steps, decay_steps, lr_end1, final_steps, lr_end2, num_cycles } => {
            Shape::ConstantWithCoolDown {
                keep_steps: *keep_steps,
                decay_steps: or_total(decay_steps),
                lr_end1: *lr_end1,
                final_steps: *final_steps,
                lr_end2: lr_end2.unwrap_or(*lr_end1),
                num_cycles: *num_cycles,
            }
        }
        LrShape::CosineAnnealing { t_max, eta_min } => Shape::CosineAnnealing { t_max: *t_max, eta_min: *eta_min },
        LrShape::CosineAnnealingWarmRestarts { t_0, t_mult, eta_min } => {
            Shape::CosineAnnealingWarmRestarts { t_0: *t_0, t_mult: *t_mult, eta_min: *eta_min }
        }
    };
    LrSchedule {
        learning_rate: c.learning_rate.value,
        warmup_steps: warmup,
        warmup_lr_init: c.warmup_lr_init.value,
        shape,
    }
}

/// The data set, with paths as the runtime opens them.
fn data(config: &Config) -> Value {
    match &config.dataset.loader {
        DataLoader::TokenBin(d) => json!({
            "type": "TokenBinDataLoader",
            "path": text(&config.resolve_path(&d.path.value)),
            "dtype": match d.dtype.value { TokenDtype::Uint16 => "uint16", TokenDtype::Int32 => "int32" },
            "stride": stride(config, d),
            "seq_length": config.model.seq_length.value,
        }),
        DataLoader::Megatron(d) => megatron(config, d),
    }
}

fn megatron(config: &Config, d: &GptDataset) -> Value {
    let paths = |list: &[DataPath]| -> Option<Vec<String>> {
        let one = |p: &DataPath| {
            let weight = p.weight.map(|w| w.to_string());
            // A prefix is not a file; its index is.
            let index = text(&config.resolve_path(&format!("{}.idx", p.prefix)));
            let prefix = index.strip_suffix(".idx").unwrap_or(&p.prefix).to_owned();
            weight.into_iter().chain([prefix]).collect::<Vec<_>>()
        };
        (!list.is_empty()).then(|| list.iter().flat_map(one).collect())
    };
    let [train, valid, test] = &d.per_split;
    let split = d.split.as_ref().map(|s| s.value.map(|x| x.to_string()).join(", "));
    json!({
        "type": "BlendedMegatronDatasetDataLoader",
        "sizes": d.sizes.value,
        "seq_length": d.seq_length.value,
        "seed": d.seed.value,
        "data_path": paths(&d.data_path),
        "train_data_path": paths(train),
        "valid_data_path": paths(valid),
        "test_data_path": paths(test),
        "split": split,
        "path_to_cache": d.path_to_cache.as_ref().map(|p| text(&config.resolve_path(&p.value))),
        "mmap_bin_files": d.mmap_bin_files.value,
        "reset_position_ids": d.reset_position_ids.value,
        "reset_attention_mask": d.reset_attention_mask.value,
        "eod_mask_loss": d.eod_mask_loss.value,
        "create_compressed_eod_mask": d.create_compressed_eod_mask.value,
        "eod_pad_length": d.eod_pad_length.value,
        "eod": d.eod.value,
        "pad": d.pad.value,
        "drop_last_partial_validation_sequence": d.drop_last_partial_validation_sequence.value,
        "add_extra_token_to_sequence": d.add_extra_token_to_sequence.value,
    })
}
