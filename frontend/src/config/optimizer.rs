//! `optimizer`: the update rule and its constants.

use athanor_ir::Diagnostic;

use super::codes;
use super::known;
use super::reader::{Rule, Section};
use super::span::Spanned;

/// The members of the Adam family that configurations name. They differ in more than the name.
///
/// With `m`, `v` the running moments, `t` the step counted from 1, `wd` the weight decay:
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdamVariant {
    /// `p ← p·(1−lr·wd) − lr/(1−β₁ᵗ) · m / (√(v/(1−β₂ᵗ)) + eps)`. `AdamW` and its fused and averaging forms.
    AdamW,
    /// `p ← p·(1−lr·wd) − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + eps)`: eps is added before the bias correction.
    /// `AdamWeightDecayX`.
    EpsBeforeCorrection,
    /// `p ← p − lr·(m / (√v + eps) + wd·p)`: no bias correction. `MindSpore`'s `AdamWeightDecay`, which is
    /// also what `adamw`, `FP32StateAdamWeightDecay` and `FusedAdamWeightDecay` mean.
    NoBiasCorrection,
}

/// The `optimizer` section.
#[derive(Debug, Clone)]
pub struct OptimizerConfig {
    /// `type` as written.
    pub kind: Spanned<String>,
    /// What `type` computes.
    pub variant: AdamVariant,
    /// β₁ and β₂.
    pub betas: Spanned<[f64; 2]>,
    /// Added to the denominator.
    pub eps: Spanned<f64>,
    /// Decoupled weight decay; not applied to biases and other tensors of rank 1.
    pub weight_decay: Spanned<f64>,
    /// `learning_rate`, for files without an `lr_schedule`.
    pub learning_rate: Option<Spanned<f64>>,
    /// `swap`: keep the moments on the host.
    pub swap: Spanned<bool>,
}

/// Accepted names. `None` is known and not supported.
const KINDS: &[(&str, Option<AdamVariant>)] = &[
    ("AdamW", Some(AdamVariant::AdamW)),
    ("FusedAdamW", Some(AdamVariant::AdamW)),
    ("adamw", Some(AdamVariant::NoBiasCorrection)),
    ("AdamWeightDecay", Some(AdamVariant::NoBiasCorrection)),
    ("FP32StateAdamWeightDecay", Some(AdamVariant::NoBiasCorrection)),
    ("fp32_adamw", Some(AdamVariant::NoBiasCorrection)),
    ("FusedAdamWeightDecay", Some(AdamVariant::NoBiasCorrection)),
    ("fused_adamw", Some(AdamVariant::NoBiasCorrection)),
    ("AdamWeightDecayX", Some(AdamVariant::EpsBeforeCorrection)),
    ("PmaAdamW", None),
    ("FusedPmaAdamW", None),
    ("Muon", None),
    ("Came", None),
    ("SGD", None),
    ("sgd", None),
    ("Adam", None),
    ("adam", None),
    ("AdaFactor", None),
    ("adafactor", None),
    ("Adagrad", None),
    ("adagrad", None),
    ("Lamb", None),
    ("Momentum", None),
];

pub(super) fn read(mut s: Section<'_>) -> OptimizerConfig {
    let (kind, variant) = read_kind(&mut s);
    // Defaults of the classes: AdamW has eps 1e-8 since 2.0, AdamWeightDecay of MindSpore 1e-6.
    let eps = if variant == AdamVariant::NoBiasCorrection { 1e-6 } else { 1e-8 };
    let config = OptimizerConfig {
        kind,
        variant,
        betas: betas(&mut s),
        eps: s.checked("eps", eps, "must be above 0", |v| *v > 0.0),
        weight_decay: s.checked("weight_decay", 0.0, "must not be negative", |v| *v >= 0.0),
        learning_rate: s.opt_checked("learning_rate", "must not be negative", |v| *v >= 0.0),
        swap: s.get("swap", false),
    };
    // The constants of a class that cannot be used need not be understood either.
    let other = config.kind.span.is_some() && !KINDS.iter().any(|(n, v)| *n == config.kind.value && v.is_some());
    if !other {
        s.finish(Rule::Strict);
    }
    config
}

fn read_kind(s: &mut Section<'_>) -> (Spanned<String>, AdamVariant) {
    let fallback = (Spanned::default("AdamW".to_owned()), AdamVariant::AdamW);
    let Some(kind) = s.opt::<String>("type") else {
        if s.peek("type").is_none() {
            s.missing("type", "add an `optimizer` section with `type: AdamW`");
        }
        return fallback;
    };
    match KINDS.iter().find(|(name, _)| *name == kind.value) {
        Some((_, Some(variant))) => {
            if *variant == AdamVariant::NoBiasCorrection {
                let message = format!("`{}` is Adam without bias correction, as in MindFormers", kind.value);
                let found = Diagnostic::note(&codes::COMPATIBILITY, message)
                    .help("write `type: AdamW` for the bias-corrected form");
                s.error_at(found, kind.span, "");
            }
            (kind, *variant)
        }
        Some((name, None)) => {
            s.not_supported(kind.span, &format!("the optimizer `{name}`"), "use `type: AdamW`");
            (kind, AdamVariant::AdamW)
        }
        None => {
            let message = format!("`{}` is not an optimizer", kind.value);
            let names = KINDS.iter().filter(|(_, v)| v.is_some()).map(|(n, _)| *n);
            let help = match known::nearest(&kind.value, KINDS.iter().map(|(n, _)| *n)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("accepted: {}", names.collect::<Vec<_>>().join(", ")),
            };
            let found = Diagnostic::error(&codes::UNKNOWN_TYPE, message).help(help);
            s.error_at(found, kind.span, "unknown class");
            (kind, AdamVariant::AdamW)
        }
    }
}

/// `betas: [β₁, β₂]`, or `beta1` and `beta2` on their own.
fn betas(s: &mut Section<'_>) -> Spanned<[f64; 2]> {
    const RULE: &str = "must be at least 0 and below 1";
    let allowed = |v: &f64| (0.0..1.0).contains(v);
    let both = s.opt_checked::<[f64; 2]>("betas", RULE, |b| b.iter().all(allowed));
    let singles = [s.opt_checked::<f64>("beta1", RULE, allowed), s.opt_checked::<f64>("beta2", RULE, allowed)];
    let merged = [0, 1].map(|i| singles[i].map_or([0.9, 0.999][i], |v| v.value));
    let single_span = singles[0].or(singles[1]).and_then(|v| v.span);
    match both {
        Some(both) => {
            for (i, single) in singles.iter().enumerate() {
                if let Some(single) = single.filter(|v| v.value != both.value[i]) {
                    let message = format!("`betas` and `beta{}` have different values", i + 1);
                    let found = Diagnostic::error(&codes::ALIAS_CONFLICT, message).help("keep `betas`");
                    let found = s.report.mark(found, both.span, "one");
                    s.error_at(found, single.span, "the other");
                }
            }
            both
        }
        None => Spanned { value: merged, span: single_span },
    }
}

#[cfg(test)]
mod tests {
    use super::AdamVariant;
    use crate::config::testing::{complaints, with};

    #[test]
    fn names_select_the_formula_and_its_defaults() {
        for (name, variant, eps) in [
            ("AdamW", AdamVariant::AdamW, 1e-8),
            ("FusedAdamW", AdamVariant::AdamW, 1e-8),
            ("adamw", AdamVariant::NoBiasCorrection, 1e-6),
            ("FP32StateAdamWeightDecay", AdamVariant::NoBiasCorrection, 1e-6),
            ("FusedAdamWeightDecay", AdamVariant::NoBiasCorrection, 1e-6),
            ("AdamWeightDecayX", AdamVariant::EpsBeforeCorrection, 1e-8),
        ] {
            let optimizer = with(&[("optimizer.type", name)]).optimizer;
            assert_eq!((optimizer.variant, optimizer.eps.value), (variant, eps), "{name}");
            assert_eq!(optimizer.betas.value, [0.9, 0.999]);
        }
    }

    #[test]
    fn betas_in_both_spellings() {
        let one = with(&[("optimizer.betas", "[0.9, 0.95]")]).optimizer;
        let two = with(&[("optimizer.beta2", "0.95"), ("optimizer.eps", "1e-5")]).optimizer;
        assert_eq!(one.betas.value, two.betas.value);
        assert_eq!(two.eps.value, 1e-5);
        let both = complaints(&[("optimizer.betas", "[0.9, 0.95]"), ("optimizer.beta1", "0.8")]);
        assert_eq!(both, ["C0009 `betas` and `beta1` have different values"]);
        let range = complaints(&[("optimizer.betas", "[0.9, 1.0]")]);
        assert_eq!(range, ["C0007 `optimizer.betas` must be at least 0 and below 1, found a list of 2"]);
    }
}
