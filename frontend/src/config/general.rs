//! The scalars at the top level, and `trainer`.

use super::reader::{Rule, Section};
use super::span::Spanned;

/// What the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// Train from initial or loaded weights.
    Train,
    /// The same, by another name: the weights are expected to come from `load_checkpoint`.
    Finetune,
}

/// What `resume_training` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Start at step 0.
    Off,
    /// Continue from the newest complete checkpoint.
    Auto,
    /// Continue from the checkpoint of this name.
    From(String),
}

/// File format of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// `MindSpore`'s protobuf.
    Ckpt,
    /// safetensors.
    Safetensors,
}

pub(super) const CHECKPOINT_FORMATS: &[(&str, CheckpointFormat)] =
    &[("ckpt", CheckpointFormat::Ckpt), ("safetensors", CheckpointFormat::Safetensors)];

/// The settings at the top level that are not sections.
#[derive(Debug, Clone)]
pub struct General {
    /// `run_mode`.
    pub run_mode: Spanned<RunMode>,
    /// `seed` of weights, dropout and everything else that is drawn; 1 by default.
    pub seed: Spanned<u64>,
    /// `output_dir`: root of checkpoints and logs.
    pub output_dir: Spanned<String>,
    /// `use_parallel`: false means one device whatever `parallel_config` says.
    pub use_parallel: Spanned<bool>,
    /// `resume_training`.
    pub resume_training: Spanned<Resume>,
    /// `load_checkpoint`: a file or folder of weights, if any.
    pub load_checkpoint: Option<Spanned<String>>,
    /// `load_ckpt_format`.
    pub load_ckpt_format: Spanned<CheckpointFormat>,
    /// `auto_trans_ckpt`: reshard while loading.
    pub auto_trans_ckpt: Spanned<bool>,
    /// `remove_redundancy`: the loaded checkpoint was saved without duplicates.
    pub remove_redundancy: Spanned<bool>,
    /// `pretrained_model_dir`: folder with a Hugging Face config.json, if any.
    pub pretrained_model_dir: Option<Spanned<String>>,
    /// `micro_batch_interleave_num`.
    pub micro_batch_interleave_num: Spanned<usize>,
    /// `ignore_data_skip`: on resume, read the data from its start.
    pub ignore_data_skip: Spanned<bool>,
    /// `data_skip_steps`: on resume, skip this many steps of data.
    pub data_skip_steps: Option<Spanned<u64>>,
    /// `print_separate_loss`.
    pub print_separate_loss: Spanned<bool>,
    /// `trainer.model_name`.
    pub model_name: Option<Spanned<String>>,
}

const RUN_MODES: &[(&str, Option<RunMode>)] = &[
    ("train", Some(RunMode::Train)),
    ("finetune", Some(RunMode::Finetune)),
    ("predict", None),
    ("eval", None),
    ("predict_with_train_model", None),
];

pub(super) fn read(top: &mut Section<'_>) -> General {
    let run_mode = run_mode(top);
    let mut trainer = top.section("trainer");
    trainer.take(&["type"]);
    let model_name = trainer.opt("model_name");
    trainer.finish(Rule::Open);
    // Its value has chosen the generation; here only its type is checked.
    top.get("use_legacy", true);
    top.take(&["base_config"]);
    refuse_switches(top);
    let not_empty = |s: &Spanned<String>| !s.value.is_empty();
    General {
        run_mode,
        seed: top.get("seed", 1),
        output_dir: top.get("output_dir", "./output".to_owned()),
        use_parallel: top.get("use_parallel", false),
        resume_training: resume(top),
        load_checkpoint: top.opt("load_checkpoint").filter(not_empty),
        load_ckpt_format: top.one_of("load_ckpt_format", CHECKPOINT_FORMATS, CheckpointFormat::Ckpt),
        auto_trans_ckpt: top.get("auto_trans_ckpt", false),
        remove_redundancy: top.get("remove_redundancy", false),
        pretrained_model_dir: top.opt("pretrained_model_dir").filter(not_empty),
        micro_batch_interleave_num: top.positive("micro_batch_interleave_num", 1),
        ignore_data_skip: top.get("ignore_data_skip", false),
        data_skip_steps: top.opt("data_skip_steps"),
        print_separate_loss: top.get("print_separate_loss", true),
        model_name,
    }
}

fn run_mode(top: &mut Section<'_>) -> Spanned<RunMode> {
    let Some(mode) = top.opt_one_of("run_mode", RUN_MODES) else {
        if top.peek("run_mode").is_none() {
            top.missing("run_mode", "add `run_mode: train`");
        }
        return Spanned::default(RunMode::Train);
    };
    if mode.value.is_none() {
        top.not_supported(mode.span, "a `run_mode` other than training", "write `run_mode: train`");
    }
    mode.map(|m| m.unwrap_or(RunMode::Train))
}

fn resume(top: &mut Section<'_>) -> Spanned<Resume> {
    let Some(field) = top.field("resume_training") else { return Spanned::default(Resume::Off) };
    match field.node.text().and_then(super::scalar::boolean) {
        Some(on) => Spanned::at(if on { Resume::Auto } else { Resume::Off }, field.node.span),
        None => match top.opt::<String>("resume_training") {
            Some(name) if name.value.is_empty() => name.map(|_| Resume::Off),
            Some(name) => name.map(Resume::From),
            None => Spanned::default(Resume::Off),
        },
    }
}

/// Switches at the top level that change the training itself.
fn refuse_switches(top: &mut Section<'_>) {
    for (key, what) in [
        ("use_skip_data_by_global_norm", "skipping steps with a large gradient norm"),
        ("layer_scale", "layer-wise learning rates (`layer_scale`)"),
        ("lr_scale", "scaling the learning rate by the device count (`lr_scale`)"),
        ("do_eval", "evaluation during training"),
    ] {
        if let Some(on) = top.opt::<bool>(key).filter(|v| v.value) {
            top.not_supported(on.span, what, &format!("write `{key}: False`"));
        }
    }
    if let Some(field) = top.field("checkpoint") {
        let help = "use load_checkpoint, resume_training and the CheckpointMonitor callback";
        top.not_supported(Some(field.key_span), "the `checkpoint` section", help);
    }
}
