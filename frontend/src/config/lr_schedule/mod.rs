//! `lr_schedule`: the learning rate at each step, as data.
//!
//! Formulas: with `s` the step counted from 0, `w` the warm-up steps, `T` the total steps and `lr` the peak rate,
//! every type is `init + (lr − init)·s/w` for `s < w`, and what its [`LrShape`] says after that.

mod shape;

use athanor_ir::Diagnostic;

use super::codes;
use super::known;
use super::node::Kind as NodeKind;
use super::reader::{Field, Rule, Section, wrong_type};
use super::span::Spanned;
pub use shape::LrShape;
use shape::{Kind, ratio, shape};

/// A number of steps that may be given in steps, as a part of all steps, or in epochs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Steps {
    /// So many steps.
    Count(u64),
    /// `int(total_steps · ratio)`.
    Ratio(f64),
    /// So many epochs.
    Epochs(u64),
}

impl Steps {
    /// Steps, given the total and the steps of one epoch.
    pub fn resolve(self, total_steps: u64, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Count(steps) => steps,
            Self::Ratio(ratio) => (total_steps as f64 * ratio) as u64,
            Self::Epochs(epochs) => epochs.saturating_mul(steps_per_epoch),
        }
    }
}

/// A schedule of its own for some weights: an entry of `grouped_lr_schedule.grouped`.
#[derive(Debug, Clone)]
pub struct LrGroupConfig {
    /// `params`: parts of names, or patterns with `*`, `?` and `[…]`.
    pub params: Spanned<Vec<String>>,
    /// Their rates.
    pub schedule: LrScheduleConfig,
}

/// The `lr_schedule` section.
#[derive(Debug, Clone)]
pub struct LrScheduleConfig {
    /// `type` as written.
    pub kind: Spanned<String>,
    /// Rate after the warm-up (`learning_rate` or `base_lr`).
    pub learning_rate: Spanned<f64>,
    /// `total_steps`; `None` (written -1) is the steps that the data set gives.
    pub total_steps: Option<Spanned<u64>>,
    /// Length of the warm-up.
    pub warmup: Spanned<Steps>,
    /// Rate at step 0.
    pub warmup_lr_init: Spanned<f64>,
    /// What comes after the warm-up.
    pub shape: LrShape,
}

const KINDS: &[(&str, Kind)] = &[
    ("ConstantWarmUpLR", Kind::Constant),
    ("constant_with_warmup", Kind::Constant),
    ("LinearWithWarmUpLR", Kind::Linear),
    ("linear", Kind::Linear),
    ("CosineWithWarmUpLR", Kind::Cosine),
    ("cosine", Kind::Cosine),
    ("CosineWithRestartsAndWarmUpLR", Kind::CosineWithRestarts),
    ("cosine_with_restarts", Kind::CosineWithRestarts),
    ("PolynomialWithWarmUpLR", Kind::Polynomial),
    ("polynomial", Kind::Polynomial),
    ("WarmUpStableDecayLR", Kind::WarmUpStableDecay),
    ("ConstantWithCoolDownLR", Kind::ConstantWithCoolDown),
    ("CosineAnnealingLR", Kind::CosineAnnealing),
    ("cosine_annealing", Kind::CosineAnnealing),
    ("CosineAnnealingWarmRestarts", Kind::CosineAnnealingWarmRestarts),
    ("cosine_annealing_warm_restarts", Kind::CosineAnnealingWarmRestarts),
    ("LearningRateWiseLayer", Kind::WiseLayer),
];

/// Reads `lr_schedule`, or `grouped_lr_schedule`, which counts instead of it, and its groups.
pub(super) fn read_all(
    top: &mut Section<'_>,
    fallback: Option<&Spanned<f64>>,
) -> (LrScheduleConfig, Vec<LrGroupConfig>) {
    let mut grouped = top.section("grouped_lr_schedule");
    if grouped.is_empty() {
        return (read(top.section("lr_schedule"), fallback), vec![]);
    }
    if let Some(plain) = top.field("lr_schedule") {
        let found =
            Diagnostic::warning(&codes::CONTRADICTION, "`lr_schedule` does not count beside `grouped_lr_schedule`")
                .help("its place is taken by `grouped_lr_schedule.default`");
        top.error_at(found, Some(plain.key_span), "without an effect");
    }
    let default = read(grouped.section("default"), fallback);
    let mut groups = vec![];
    if let Some(list) = grouped.field("grouped") {
        let NodeKind::Seq(items) = &list.node.kind else {
            wrong_type(grouped.report, &grouped.path_of("grouped"), list, "a list of schedules");
            return (default, vec![]);
        };
        for (i, item) in items.iter().enumerate() {
            let path = format!("grouped_lr_schedule.grouped[{i}]");
            let field = Field { written: "", key_span: item.span, node: item };
            let mut s = Section::new(grouped.report, path, Some(field));
            let params = s.opt_checked::<Vec<String>>("params", "must name a weight at least", |p| !p.is_empty());
            if params.is_none() && s.peek("params").is_none() {
                s.missing("params", "add the names of the weights, such as `params: ['embedding.*']`");
            }
            let schedule = read(s, fallback);
            groups.extend(params.map(|params| LrGroupConfig { params, schedule }));
        }
    }
    grouped.finish(Rule::Strict);
    (default, groups)
}

/// Reads the section; `fallback` is the optimizer's own `learning_rate`, which stands for a constant schedule.
fn read(mut s: Section<'_>, fallback: Option<&Spanned<f64>>) -> LrScheduleConfig {
    if s.is_empty() {
        if fallback.is_none() {
            let found =
                Diagnostic::error(&codes::MISSING_KEY, "there is no `lr_schedule` and no `optimizer.learning_rate`")
                    .help("add `lr_schedule: {type: ConstantWarmUpLR, learning_rate: 3.e-4, warmup_steps: 0}`");
            s.error_at(found, None, "empty");
        }
        return LrScheduleConfig {
            kind: Spanned::default("ConstantWarmUpLR".into()),
            learning_rate: fallback.copied().unwrap_or(Spanned::default(0.0)),
            total_steps: None,
            warmup: Spanned::default(Steps::Count(0)),
            warmup_lr_init: Spanned::default(0.0),
            shape: LrShape::Constant,
        };
    }
    let (name, kind) = read_kind(&mut s);
    let annealing = matches!(kind, Some(Kind::CosineAnnealing | Kind::CosineAnnealingWarmRestarts));
    let rate = |v: &f64| *v >= 0.0;
    let peak_key = if annealing && s.peek("base_lr").is_some() { "base_lr" } else { "learning_rate" };
    let peak = s.opt_checked::<f64>(peak_key, "must not be negative", rate);
    if peak.is_none() && s.peek(peak_key).is_none() && fallback.is_none() {
        s.missing(peak_key, "add the rate to reach after the warm-up, such as `learning_rate: 3.e-4`");
    }
    let learning_rate = peak.or(fallback.copied()).unwrap_or(Spanned::default(0.0));
    let total =
        s.checked("total_steps", -1i64, "must be -1 (from the data set) or at least 1", |v| *v == -1 || *v >= 1);
    let total_steps = u64::try_from(total.value).ok().map(|value| Spanned { value, span: total.span });
    let warmup_lr_init = s.checked("warmup_lr_init", 0.0, "must not be negative", rate);
    let warmup = warmup(&mut s);
    if let (Some(total), Steps::Count(steps)) = (&total_steps, warmup.value)
        && steps > total.value
    {
        let message = format!("a warm-up of {steps} steps does not end in a run of {}", total.value);
        let found = Diagnostic::warning(&codes::CONTRADICTION, message).help("the peak rate is never reached");
        let found = s.report.mark(found, warmup.span, "warm-up");
        s.report.push(s.report.mark(found, total.span, "all steps"));
    }
    let shape = shape(&mut s, kind.unwrap_or(Kind::Constant), learning_rate);
    if kind.is_some() {
        s.finish_with(Rule::Strict, &known::keys("lr_schedule"));
    }
    LrScheduleConfig { kind: name, learning_rate, total_steps, warmup, warmup_lr_init, shape }
}

fn read_kind(s: &mut Section<'_>) -> (Spanned<String>, Option<Kind>) {
    let Some(name) = s.opt::<String>("type") else {
        if s.peek("type").is_none() {
            s.missing("type", "add `type: ConstantWarmUpLR` or another schedule");
        }
        return (Spanned::default("ConstantWarmUpLR".into()), None);
    };
    if let Some(class) = s.peek("auto_register") {
        let message = format!("the schedule `{}` is Python code outside of the configuration", name.value);
        let found = Diagnostic::error(&codes::CLASS_ELSEWHERE, message)
            .help("use one of the built-in schedules, such as CosineWithWarmUpLR");
        s.error_at(found, Some(class.node.span), "loaded from here");
        return (name, None);
    }
    match KINDS.iter().find(|(n, _)| *n == name.value) {
        Some((_, Kind::WiseLayer)) => {
            s.not_supported(
                name.span,
                "a rate that is a multiple of another (`LearningRateWiseLayer`)",
                "write the rate out",
            );
            (name, None)
        }
        Some((_, kind)) => (name, Some(*kind)),
        None => {
            let message = format!("`{}` is not a learning rate schedule", name.value);
            let classes = KINDS.iter().map(|(n, _)| *n).filter(|n| n.starts_with(char::is_uppercase));
            let help = match known::nearest(&name.value, KINDS.iter().map(|(n, _)| *n)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("accepted: {}", classes.collect::<Vec<_>>().join(", ")),
            };
            let found = Diagnostic::error(&codes::UNKNOWN_TYPE, message).help(help);
            s.error_at(found, name.span, "unknown class");
            (name, None)
        }
    }
}

/// `warmup_ratio` wins over `warmup_epochs` over `warmup_steps`, as in the original.
fn warmup(s: &mut Section<'_>) -> Spanned<Steps> {
    let ratio = ratio(s, "warmup_ratio");
    let epochs = s.opt::<u64>("warmup_epochs").map(|v| v.map(Steps::Epochs));
    let steps = s.opt::<u64>("warmup_steps").map(|v| v.map(Steps::Count));
    let given: Vec<_> = [ratio, epochs, steps].into_iter().flatten().collect();
    if let [first, second, ..] = given[..] {
        let found = Diagnostic::warning(&codes::CONTRADICTION, "the length of the warm-up is given twice")
            .help("`warmup_ratio` counts before `warmup_epochs`, which counts before `warmup_steps`");
        let found = s.report.mark(found, first.span, "counts");
        s.report.push(s.report.mark(found, second.span, "does not count"));
    }
    given.first().copied().unwrap_or(Spanned::default(Steps::Count(0)))
}

#[cfg(test)]
mod tests {
    use super::{LrShape, Steps};
    use crate::config::testing::{complaints, with};

    #[test]
    fn every_type_is_read_with_its_parameters() {
        let shape = |kind: &str, more: &[(&str, &str)]| {
            let keys: Vec<String> = more.iter().map(|(k, _)| format!("lr_schedule.{k}")).collect();
            let mut changes = vec![("lr_schedule.type", kind)];
            changes.extend(keys.iter().map(String::as_str).zip(more.iter().map(|(_, v)| *v)));
            with(&changes).lr_schedule.shape
        };
        assert_eq!(shape("ConstantWarmUpLR", &[]), LrShape::Constant);
        assert_eq!(shape("linear", &[]), LrShape::Linear);
        assert_eq!(
            shape("CosineWithWarmUpLR", &[("lr_end", "1e-5"), ("decay_ratio", "0.9")]),
            LrShape::Cosine { num_cycles: 0.5, lr_end: 1e-5, decay_steps: Some(Steps::Ratio(0.9)) }
        );
        assert_eq!(
            shape("cosine_with_restarts", &[("num_cycles", "3")]),
            LrShape::CosineWithRestarts { num_cycles: 3.0, lr_end: 0.0, decay_steps: None }
        );
        assert_eq!(
            shape("polynomial", &[("power", "2"), ("decay_steps", "10")]),
            LrShape::Polynomial { power: 2.0, lr_end: 1e-7, decay_steps: Some(Steps::Count(10)) }
        );
        assert_eq!(
            shape("WarmUpStableDecayLR", &[("decay_start_ratio", "0.8"), ("total_steps", "100")]),
            LrShape::WarmUpStableDecay { decay_start: Steps::Ratio(0.8), lr_end: 1e-7 }
        );
        assert_eq!(
            shape("ConstantWithCoolDownLR", &[("keep_steps", "5"), ("final_steps", "2"), ("lr_end2", "0")]),
            LrShape::ConstantWithCoolDown {
                keep_steps: 5,
                decay_steps: None,
                lr_end1: 0.0,
                final_steps: 2,
                lr_end2: None,
                num_cycles: 0.5
            }
        );
        assert_eq!(shape("CosineAnnealingLR", &[("t_max", "7")]), LrShape::CosineAnnealing { t_max: 7, eta_min: 0.0 });
        assert_eq!(
            shape("CosineAnnealingWarmRestarts", &[("t_0", "7"), ("t_mult", "2")]),
            LrShape::CosineAnnealingWarmRestarts { t_0: 7, t_mult: 2, eta_min: 0.0 }
        );
    }

    #[test]
    fn groups_count_instead_of_the_plain_schedule() {
        let group =
            "[{type: CosineWithWarmUpLR, learning_rate: 1.e-4, params: ['embedding.*', 'output_layer.weight']}]";
        let changes = [
            ("lr_schedule", "null"),
            ("grouped_lr_schedule.default", "{type: ConstantWarmUpLR, learning_rate: 2.e-4}"),
            ("grouped_lr_schedule.grouped", group),
        ];
        let config = with(&changes);
        assert_eq!(config.lr_schedule.learning_rate.value, 2e-4);
        let [group] = &config.lr_groups[..] else { panic!("{:?}", config.lr_groups) };
        assert_eq!(group.params.value, ["embedding.*", "output_layer.weight"]);
        assert!(matches!(group.schedule.shape, LrShape::Cosine { .. }));
        assert_eq!(complaints(&changes[1..]), ["C0016 `lr_schedule` does not count beside `grouped_lr_schedule`"]);
        let nameless = complaints(&[
            changes[0],
            changes[1],
            ("grouped_lr_schedule.grouped", "[{type: linear, learning_rate: 1}]"),
        ]);
        assert_eq!(nameless, ["C0008 `grouped_lr_schedule.grouped[0].params` is missing"]);
    }

    #[test]
    fn warm_up_and_total() {
        let schedule = with(&[("lr_schedule.warmup_ratio", "0.02"), ("lr_schedule.total_steps", "1e3")]).lr_schedule;
        assert_eq!(schedule.warmup.value, Steps::Ratio(0.02));
        assert_eq!(schedule.total_steps.map(|t| t.value), Some(1000));
        assert_eq!(schedule.warmup.value.resolve(1000, 10), 20);
        assert!(with(&[("lr_schedule.total_steps", "-1")]).lr_schedule.total_steps.is_none());
        let long = complaints(&[("lr_schedule.warmup_steps", "11"), ("lr_schedule.total_steps", "10")]);
        assert_eq!(long, ["C0016 a warm-up of 11 steps does not end in a run of 10"]);
        let wrong = complaints(&[("lr_schedule.warmup_step", "10")]);
        assert_eq!(wrong, ["C0003 unknown key: `warmup_step` in `lr_schedule`"]);
        let missing = complaints(&[("lr_schedule.type", "CosineAnnealingLR")]);
        assert_eq!(missing, ["C0008 `lr_schedule.t_max` is missing"]);
    }
}
