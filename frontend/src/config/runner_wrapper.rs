//! `runner_wrapper`: loss scaling and gradient clipping.

use athanor_ir::Diagnostic;

use super::codes;
use super::node::Kind;
use super::reader::{Rule, Section};
use super::span::Spanned;

/// Factor on the loss before the backward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossScale {
    /// The same for every step; 1 means none.
    Static(f64),
    /// Halved on overflow, raised after `window` steps without one.
    Dynamic {
        /// `loss_scale_value`: factor at the start.
        initial: f64,
        /// `scale_factor`: by which it changes.
        factor: f64,
        /// `scale_window`: steps without overflow before it grows.
        window: u64,
    },
}

/// The `runner_wrapper` section.
#[derive(Debug, Clone)]
pub struct RunnerWrapper {
    /// `type` as written; the pipeline decides which wrapper is really used.
    pub kind: Spanned<String>,
    /// `scale_sense`.
    pub scale_sense: Spanned<LossScale>,
    /// `use_clip_grad`: clip gradients by their global norm.
    pub use_clip_grad: Spanned<bool>,
    /// `max_grad_norm`.
    pub max_grad_norm: Spanned<f64>,
    /// `local_norm`: also report the norm of each parameter's gradient.
    pub local_norm: Spanned<bool>,
    /// `calculate_per_token_loss`: one mean over all tokens of the step.
    pub calculate_per_token_loss: Option<Spanned<bool>>,
}

pub(super) const WRAPPERS: &[&str] = &[
    "MFTrainOneStepCell",
    "MFPipelineWithLossScaleCell",
    "TrainOneStepCell",
    "TrainOneStepWithLossScaleCell",
    "DataOrderWrapperCell",
];

pub(super) fn read(mut s: Section<'_>) -> RunnerWrapper {
    let table: Vec<(&str, &str)> = WRAPPERS.iter().map(|w| (*w, *w)).collect();
    if !s.is_empty() && s.peek("type").is_none() {
        s.missing("type", "add `type: MFTrainOneStepCell`");
    }
    let config = RunnerWrapper {
        kind: s.one_of("type", &table, "MFTrainOneStepCell").map(str::to_owned),
        scale_sense: scale_sense(&mut s),
        use_clip_grad: s.get("use_clip_grad", false),
        max_grad_norm: s.checked("max_grad_norm", 1.0, "must be above 0", |v| *v > 0.0),
        local_norm: s.get("local_norm", false),
        calculate_per_token_loss: s.opt("calculate_per_token_loss"),
    };
    s.finish(Rule::Strict);
    config
}

#[derive(Clone, Copy, PartialEq)]
enum Scaler {
    Fixed,
    Dynamic,
    Adaptive,
}

const SCALERS: &[(&str, Scaler)] = &[
    ("DynamicLossScaleUpdateCell", Scaler::Dynamic),
    ("FixedLossScaleUpdateCell", Scaler::Fixed),
    ("AdaptiveLossScaleUpdateCell", Scaler::Adaptive),
];

fn scale_sense(s: &mut Section<'_>) -> Spanned<LossScale> {
    // `sens` is what the plain TrainOneStepCell of MindSpore calls it.
    let key = if s.peek("scale_sense").is_none() && s.peek("sens").is_some() { "sens" } else { "scale_sense" };
    let Some(field) = s.field(key) else { return Spanned::default(LossScale::Static(1.0)) };
    if !matches!(field.node.kind, Kind::Map(_)) {
        return s.checked(key, 1.0, "must be above 0", |v: &f64| *v > 0.0).map(LossScale::Static);
    }
    let mut scale = s.section("scale_sense");
    let kind = scale.one_of("type", SCALERS, Scaler::Dynamic);
    let initial = scale.checked("loss_scale_value", 65536.0, "must be above 0", |v| *v > 0.0).value;
    let factor = scale.checked("scale_factor", 2.0, "must be above 1", |v| *v > 1.0).value;
    let window = scale.positive("scale_window", 1000).value as u64;
    if kind.value == Scaler::Adaptive {
        scale.not_supported(kind.span, "adaptive loss scaling", "use `type: DynamicLossScaleUpdateCell`");
    }
    if scale.peek("type").is_none() {
        let found = Diagnostic::error(&codes::MISSING_KEY, "`runner_wrapper.scale_sense.type` is missing")
            .help("add `type: DynamicLossScaleUpdateCell`, or give a number");
        scale.error_at(found, Some(field.key_span), "in this section");
    }
    scale.finish(Rule::Strict);
    let value = match kind.value {
        Scaler::Fixed => LossScale::Static(initial),
        Scaler::Dynamic | Scaler::Adaptive => LossScale::Dynamic { initial, factor, window },
    };
    Spanned::at(value, field.node.span)
}

#[cfg(test)]
mod tests {
    use super::LossScale;
    use crate::config::testing::{complaints, with};

    #[test]
    fn loss_scale_is_a_number_or_a_mapping() {
        let wrapper = |value| {
            with(&[("runner_wrapper.type", "MFTrainOneStepCell"), ("runner_wrapper.scale_sense", value)]).wrapper
        };
        assert_eq!(wrapper("1").scale_sense.value, LossScale::Static(1.0));
        let dynamic = wrapper("{type: DynamicLossScaleUpdateCell, loss_scale_value: 4096}");
        let want = LossScale::Dynamic { initial: 4096.0, factor: 2.0, window: 1000 };
        assert_eq!(dynamic.scale_sense.value, want);
        assert!(!dynamic.use_clip_grad.value);
        let missing = complaints(&[("runner_wrapper.use_clip_grad", "True")]);
        assert_eq!(missing, ["C0008 `runner_wrapper.type` is missing"]);
    }
}
