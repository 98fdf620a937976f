//! `optimizer`: the update rule and its constants.

mod rules;

use athanor_ir::Diagnostic;
use athanor_ir::optimizer::{AdamWSpec, BiasCorrection, CameSpec, MuonSpec, OptimizerSpec, PmaSpec, SgdSpec};

use super::codes;
use super::known;
use super::reader::{Rule, Section};
use super::span::Spanned;
pub use rules::MuonConfig;

/// What `type` computes; the formulas are those of [`OptimizerSpec`].
#[derive(Debug, Clone, PartialEq)]
pub enum UpdateRule {
    /// AdamW and the classes that differ from it in the correction of the moments' bias only: `AdamW`; `AdamWeightDecayX`
    /// (`EpsBeforeCorrection`); MindSpore's `AdamWeightDecay`, which is also what `adamw`, `FP32StateAdamWeightDecay` and
    /// `FusedAdamWeightDecay` mean (`None`).
    AdamW(BiasCorrection),
    /// MindSpore's `Adam`: weight decay is part of the gradient, and eps is added before the correction.
    Adam,
    /// `Lamb`.
    Lamb,
    /// `PmaAdamW`; its constants of AdamW are those of the section.
    PmaAdamW(PmaSpec),
    /// `Muon`.
    Muon(MuonConfig),
    /// `Came`.
    Came(CameSpec),
    /// `SGD` and `Momentum`.
    Sgd(SgdSpec),
}

/// The `optimizer` section.
#[derive(Debug, Clone)]
pub struct OptimizerConfig {
    /// `type` as written.
    pub kind: Spanned<String>,
    /// What `type` computes.
    pub rule: UpdateRule,
    /// β₁ and β₂ (`adamw_betas` of Muon).
    pub betas: Spanned<[f64; 2]>,
    /// Added to the denominator (`adamw_eps` of Muon).
    pub eps: Spanned<f64>,
    /// Weight decay; not applied to biases and other tensors of rank 1 (`SGD` and `Came` apply it to all).
    pub weight_decay: Spanned<f64>,
    /// Weights that decay in any case: parts of names, or patterns with `*`, `?` and `[…]`.
    pub weight_decay_include: Vec<Spanned<String>>,
    /// Weights that do not decay unless they are included.
    pub weight_decay_exclude: Vec<Spanned<String>>,
    /// `learning_rate`, for files without an `lr_schedule`.
    pub learning_rate: Option<Spanned<f64>>,
    /// `swap`: keep the moments on the host.
    pub swap: Spanned<bool>,
}

impl OptimizerConfig {
    /// The rule with its constants; which weights Muon takes is found when the model is built.
    pub fn spec(&self) -> OptimizerSpec {
        let weight_decay = self.weight_decay.value;
        let adamw = |bias_correction| {
            let ([beta1, beta2], eps) = (self.betas.value, self.eps.value);
            AdamWSpec { beta1, beta2, eps, weight_decay, bias_correction }
        };
        match &self.rule {
            UpdateRule::AdamW(correction) => OptimizerSpec::AdamW(adamw(*correction)),
            UpdateRule::Adam => OptimizerSpec::Adam(adamw(BiasCorrection::EpsBeforeCorrection)),
            UpdateRule::Lamb => OptimizerSpec::Lamb(adamw(BiasCorrection::Full)),
            UpdateRule::PmaAdamW(pma) => {
                OptimizerSpec::PmaAdamW(PmaSpec { adamw: adamw(BiasCorrection::Full), ..pma.clone() })
            }
            UpdateRule::Muon(muon) => OptimizerSpec::Muon(MuonSpec {
                momentum: muon.momentum,
                nesterov: muon.nesterov,
                coefficients: muon.coefficients.clone(),
                norm_eps: 1e-7,
                adamw: adamw(BiasCorrection::Full),
                weights: vec![],
            }),
            UpdateRule::Came(came) => OptimizerSpec::Came(CameSpec { weight_decay, ..came.clone() }),
            UpdateRule::Sgd(sgd) => OptimizerSpec::Sgd(SgdSpec { weight_decay, ..sgd.clone() }),
        }
    }
}

/// The classes that can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    AdamW(BiasCorrection),
    Adam,
    Lamb,
    PmaAdamW,
    Muon,
    Came,
    Sgd,
    Momentum,
}

/// Accepted names. `None` is known and not supported.
const KINDS: &[(&str, Option<Class>)] = &[
    ("AdamW", Some(Class::AdamW(BiasCorrection::Full))),
    ("FusedAdamW", Some(Class::AdamW(BiasCorrection::Full))),
    ("adamw", Some(Class::AdamW(BiasCorrection::None))),
    ("AdamWeightDecay", Some(Class::AdamW(BiasCorrection::None))),
    ("FP32StateAdamWeightDecay", Some(Class::AdamW(BiasCorrection::None))),
    ("fp32_adamw", Some(Class::AdamW(BiasCorrection::None))),
    ("FusedAdamWeightDecay", Some(Class::AdamW(BiasCorrection::None))),
    ("fused_adamw", Some(Class::AdamW(BiasCorrection::None))),
    ("AdamWeightDecayX", Some(Class::AdamW(BiasCorrection::EpsBeforeCorrection))),
    ("PmaAdamW", Some(Class::PmaAdamW)),
    ("FusedPmaAdamW", Some(Class::PmaAdamW)),
    ("Muon", Some(Class::Muon)),
    ("Came", Some(Class::Came)),
    ("SGD", Some(Class::Sgd)),
    ("sgd", Some(Class::Sgd)),
    ("Momentum", Some(Class::Momentum)),
    ("Adam", Some(Class::Adam)),
    ("adam", Some(Class::Adam)),
    ("Lamb", Some(Class::Lamb)),
    ("AdaFactor", None),
    ("adafactor", None),
    ("Adagrad", None),
    ("adagrad", None),
    ("LARS", None),
    ("RMSProp", None),
    ("AdaMax", None),
    ("Adadelta", None),
    ("LazyAdam", None),
    ("AdamOffload", None),
    ("FTRL", None),
    ("ProximalAdagrad", None),
    ("ASGD", None),
    ("Rprop", None),
];

pub(super) fn read(mut s: Section<'_>) -> OptimizerConfig {
    let (kind, class) = read_kind(&mut s);
    let muon = class == Some(Class::Muon);
    let uncorrected = class == Some(Class::AdamW(BiasCorrection::None));
    // Defaults of the classes: AdamW has eps 1e-8 since 2.0, AdamWeightDecay and Lamb of MindSpore 1e-6.
    let small = if uncorrected || class == Some(Class::Lamb) { 1e-6 } else { 1e-8 };
    let positive = |v: &f64| *v > 0.0;
    let (betas, eps) = match class {
        Some(Class::Muon) => {
            let betas = s.checked("adamw_betas", [0.95, 0.95], BETA_RULE, |b| b.iter().all(IS_BETA));
            (betas, s.checked("adamw_eps", small, "must be above 0", positive))
        }
        // Their own constants go by these names.
        Some(Class::Came | Class::Sgd | Class::Momentum) => (Spanned::default([0.9, 0.999]), Spanned::default(small)),
        _ => (betas(&mut s), s.checked("eps", small, "must be above 0", positive)),
    };
    let usual_decay = if muon { 0.1 } else { 0.0 };
    let config = OptimizerConfig {
        kind,
        rule: match class {
            None => UpdateRule::AdamW(BiasCorrection::Full),
            Some(Class::AdamW(correction)) => {
                rules::fused(&mut s);
                UpdateRule::AdamW(correction)
            }
            Some(Class::Adam) => {
                rules::plain_adam(&mut s);
                UpdateRule::Adam
            }
            Some(Class::Lamb) => UpdateRule::Lamb,
            Some(Class::PmaAdamW) => UpdateRule::PmaAdamW(rules::pma(&mut s)),
            Some(Class::Muon) => UpdateRule::Muon(rules::muon(&mut s)),
            Some(Class::Came) => UpdateRule::Came(rules::came(&mut s)),
            Some(Class::Sgd) => UpdateRule::Sgd(rules::sgd(&mut s)),
            Some(Class::Momentum) => UpdateRule::Sgd(rules::momentum(&mut s)),
        },
        betas,
        eps,
        weight_decay: s.checked("weight_decay", usual_decay, "must not be negative", |v| *v >= 0.0),
        weight_decay_include: rules::patterns(&mut s, "weight_decay_include"),
        weight_decay_exclude: rules::patterns(&mut s, "weight_decay_exclude"),
        learning_rate: s.opt_checked("learning_rate", "must not be negative", |v| *v >= 0.0),
        swap: s.get("swap", false),
    };
    // The constants of a class that cannot be used need not be understood either.
    if class.is_some() || config.kind.span.is_none() {
        s.finish(Rule::Strict);
    }
    config
}

fn read_kind(s: &mut Section<'_>) -> (Spanned<String>, Option<Class>) {
    let Some(kind) = s.opt::<String>("type") else {
        if s.peek("type").is_none() {
            s.missing("type", "add an `optimizer` section with `type: AdamW`");
        }
        return (Spanned::default("AdamW".to_owned()), Some(Class::AdamW(BiasCorrection::Full)));
    };
    match KINDS.iter().find(|(name, _)| *name == kind.value) {
        Some((_, Some(class))) => {
            if *class == Class::AdamW(BiasCorrection::None) {
                let message = format!("`{}` is Adam without bias correction, as in MindFormers", kind.value);
                let found = Diagnostic::note(&codes::COMPATIBILITY, message)
                    .help("write `type: AdamW` for the bias-corrected form");
                s.error_at(found, kind.span, "");
            }
            (kind, Some(*class))
        }
        Some((name, None)) => {
            s.not_supported(kind.span, &format!("the optimizer `{name}`"), "use `type: AdamW`");
            (kind, None)
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
            (kind, None)
        }
    }
}

const BETA_RULE: &str = "must be at least 0 and below 1";

const IS_BETA: fn(&f64) -> bool = |v| (0.0..1.0).contains(v);

/// `betas: [β₁, β₂]`, or `beta1` and `beta2` on their own.
fn betas(s: &mut Section<'_>) -> Spanned<[f64; 2]> {
    let both = s.opt_checked::<[f64; 2]>("betas", BETA_RULE, |b| b.iter().all(IS_BETA));
    let singles = ["beta1", "beta2"].map(|key| s.opt_checked::<f64>(key, BETA_RULE, IS_BETA));
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
    use super::{BiasCorrection, UpdateRule};
    use crate::config::testing::{complaints, with};

    #[test]
    fn names_select_the_formula_and_its_defaults() {
        for (name, variant, eps) in [
            ("AdamW", BiasCorrection::Full, 1e-8),
            ("FusedAdamW", BiasCorrection::Full, 1e-8),
            ("adamw", BiasCorrection::None, 1e-6),
            ("FP32StateAdamWeightDecay", BiasCorrection::None, 1e-6),
            ("FusedAdamWeightDecay", BiasCorrection::None, 1e-6),
            ("AdamWeightDecayX", BiasCorrection::EpsBeforeCorrection, 1e-8),
        ] {
            let optimizer = with(&[("optimizer.type", name)]).optimizer;
            assert_eq!((optimizer.rule, optimizer.eps.value), (UpdateRule::AdamW(variant), eps), "{name}");
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
