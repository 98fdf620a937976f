//! `callbacks`: what happens beside the training, above all checkpoints and the log line.

use athanor_ir::Diagnostic;

use super::codes;
use super::general::{CHECKPOINT_FORMATS, CheckpointFormat};
use super::known;
use super::node::Kind;
use super::reader::{Field, Rule, Section};
use super::report::Report;
use super::span::{Span, Spanned};

/// `MFLossMonitor`: the line printed per step.
#[derive(Debug, Clone)]
pub struct LossMonitor {
    /// Steps from one line to the next.
    pub per_print_times: Spanned<usize>,
    /// Stop on a loss or gradient that is not a number.
    pub check_for_nan_in_loss_and_grad: Spanned<bool>,
}

/// `CheckpointMonitor`: when and how checkpoints are saved.
#[derive(Debug, Clone)]
pub struct CheckpointMonitor {
    /// Where the entry stands.
    pub span: Option<Span>,
    /// First part of file names.
    pub prefix: Spanned<String>,
    /// Folder; `None` is `output_dir/checkpoint`.
    pub directory: Option<Spanned<String>>,
    /// Steps from one checkpoint to the next; 0 is only by time.
    pub save_checkpoint_steps: Spanned<u64>,
    /// Seconds from one checkpoint to the next; 0 is only by steps.
    pub save_checkpoint_seconds: Spanned<u64>,
    /// Checkpoints kept; older ones are deleted.
    pub keep_checkpoint_max: Spanned<u64>,
    /// Save while training goes on.
    pub async_save: Spanned<bool>,
    /// File format.
    pub checkpoint_format: Spanned<CheckpointFormat>,
    /// Do not save what another rank saves.
    pub remove_redundancy: Spanned<bool>,
    /// Also save the moments and the step.
    pub save_optimizer: Spanned<bool>,
    /// Also save the weights alone.
    pub save_network_params: Spanned<bool>,
}

/// The `callbacks` section. A loss monitor is always there.
#[derive(Debug, Clone)]
pub struct Callbacks {
    /// The log line.
    pub loss: LossMonitor,
    /// Checkpoints; `None` saves nothing.
    pub checkpoint: Option<CheckpointMonitor>,
}

/// Callbacks that are accepted without an effect: they watch services, devices or experts that do not exist here.
const IDLE: &[&str] = &[
    "ObsMonitor",
    "ProfileMonitor",
    "SummaryMonitor",
    "EvalCallBack",
    "ColdHotExpertMonitor",
    "TopkBiasBalanceCallback",
    "MoEDropRateCallback",
    "MaxLogitsMonitor",
    "TrainingStateMonitor",
    "StressDetectCallBack",
    "StressTestModelMonitor",
    "SDCMonitor",
    "ExpertMigrateCallback",
    "TrainCallBack",
    "TrainFaultTolerance",
    "OnRequestExit",
    "MFTrainOneStepMonitor",
];

pub(super) fn read(report: &Report, top: &mut Section<'_>) -> Callbacks {
    let mut loss = None;
    let mut checkpoint = None;
    if let Some(field) = top.field("callbacks") {
        match &field.node.kind {
            Kind::Seq(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("callbacks[{i}]");
                    let field = Field { written: "callbacks", key_span: item.span, node: item };
                    one(Section::new(report, path, Some(field)), &mut loss, &mut checkpoint);
                }
            }
            _ => super::reader::wrong_type(report, "callbacks", field, "a list of mappings, each with a `type`"),
        }
    }
    let loss = loss.unwrap_or(LossMonitor {
        per_print_times: Spanned::default(1),
        check_for_nan_in_loss_and_grad: Spanned::default(false),
    });
    Callbacks { loss, checkpoint }
}

fn one(mut s: Section<'_>, loss: &mut Option<LossMonitor>, checkpoint: &mut Option<CheckpointMonitor>) {
    let Some(kind) = s.opt::<String>("type") else {
        if s.peek("type").is_none() {
            s.missing("type", "name the callback, such as `type: CheckpointMonitor`");
        }
        return;
    };
    match kind.value.as_str() {
        "MFLossMonitor" => {
            *loss = Some(LossMonitor {
                per_print_times: s.positive("per_print_times", 1),
                check_for_nan_in_loss_and_grad: s.get("check_for_nan_in_loss_and_grad", false),
            });
            s.finish_with(Rule::Strict, &known::keys("callbacks.MFLossMonitor"));
        }
        // The class was misspelt in releases 1.0 and 1.1, and so in the files written for them.
        "CheckpointMonitor" | "CheckpointMointor" => {
            *checkpoint = Some(checkpoint_monitor(&mut s));
            s.finish_with(Rule::Strict, &known::keys("callbacks.CheckpointMonitor"));
        }
        name if IDLE.contains(&name) => {
            if let Some(span) = kind.span {
                s.report.idle("callbacks", name, span);
            }
        }
        name => {
            let message = format!("`{name}` is not a callback");
            let all = IDLE.iter().copied().chain(["MFLossMonitor", "CheckpointMonitor"]);
            let help = match known::nearest(name, all) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "remove it, or use MFLossMonitor or CheckpointMonitor".into(),
            };
            let found = Diagnostic::error(&codes::UNKNOWN_TYPE, message).help(help);
            s.error_at(found, kind.span, "unknown class");
        }
    }
}

fn checkpoint_monitor(s: &mut Section<'_>) -> CheckpointMonitor {
    CheckpointMonitor {
        span: s.span,
        prefix: s.get("prefix", "CKP".to_owned()),
        directory: s.opt("directory").filter(|d: &Spanned<String>| !d.value.is_empty()),
        save_checkpoint_steps: s.get("save_checkpoint_steps", 1),
        save_checkpoint_seconds: s.get("save_checkpoint_seconds", 0),
        keep_checkpoint_max: s.get("keep_checkpoint_max", 5),
        async_save: async_save(s),
        checkpoint_format: s.one_of("checkpoint_format", CHECKPOINT_FORMATS, CheckpointFormat::Ckpt),
        remove_redundancy: s.get("remove_redundancy", false),
        save_optimizer: s.get("save_optimizer", true),
        save_network_params: s.get("save_network_params", false),
    }
}

/// A boolean, or the words for how: `thread` and `process` are both asynchronous.
fn async_save(s: &mut Section<'_>) -> Spanned<bool> {
    let how = s.field("async_save").and_then(|f| Some((f.node.text()?.to_owned(), f.node.span)));
    match how {
        Some((word, span)) if word == "thread" || word == "process" => Spanned::at(true, span),
        _ => s.get("async_save", false),
    }
}

#[cfg(test)]
mod tests {
    use super::CheckpointFormat;
    use crate::config::testing::{complaints, with};

    #[test]
    fn monitors_and_the_misspelt_class() {
        let value = "[{type: CheckpointMointor, prefix: p, keep_checkpoint_max: 2, async_save: thread, \
                     checkpoint_format: safetensors}, {type: MFLossMonitor, per_print_times: 5}, {type: ObsMonitor}]";
        let callbacks = with(&[("callbacks", value)]).callbacks;
        let checkpoint = callbacks.checkpoint.unwrap();
        assert_eq!((checkpoint.prefix.as_str(), checkpoint.keep_checkpoint_max.value), ("p", 2));
        assert!(checkpoint.async_save.value && checkpoint.checkpoint_format.value == CheckpointFormat::Safetensors);
        assert_eq!(callbacks.loss.per_print_times.value, 5);
        let wrong = complaints(&[("callbacks", "[{type: MFLossMonitor, per_print_time: 5}]")]);
        assert_eq!(wrong, ["C0003 unknown key: `per_print_time` in `callbacks[0]`"]);
    }
}
