//! What a rate does after its warm-up, and the keys that say so.

use athanor_ir::Diagnostic;

use super::super::codes;
use super::super::reader::{FromNode, Section};
use super::super::span::Spanned;
use super::Steps;

/// What the rate does after the warm-up.
#[derive(Debug, Clone, PartialEq)]
pub enum LrShape {
    /// Stays.
    Constant,
    /// `lr·max(0, (T−s)/max(1, T−w))`.
    Linear,
    /// `lr_end + (lr−lr_end)·max(0, ½(1+cos(2π·num_cycles·(s−w)/max(1, T−w))))`, and `lr_end` from `decay_steps` on.
    Cosine {
        /// Half a cycle falls from the peak to the end.
        num_cycles: f64,
        /// `lr_end`.
        lr_end: f64,
        /// `decay_steps` or `decay_ratio`; `None` is all steps.
        decay_steps: Option<Steps>,
    },
    /// As `Cosine` with `(num_cycles·progress mod 1)` for the progress.
    CosineWithRestarts {
        /// Number of falls.
        num_cycles: f64,
        /// `lr_end`.
        lr_end: f64,
        /// `None` is all steps.
        decay_steps: Option<Steps>,
    },
    /// `(lr−lr_end)·(1−(s−w)/decay_steps)^power + lr_end`, and `lr_end` after `T`.
    Polynomial {
        /// Exponent.
        power: f64,
        /// `lr_end`.
        lr_end: f64,
        /// `None` is `T − w`.
        decay_steps: Option<Steps>,
    },
    /// `lr` until `decay_start`, then linearly to `lr_end` at `T`.
    WarmUpStableDecay {
        /// `decay_start_steps` or `decay_start_ratio`.
        decay_start: Steps,
        /// `lr_end`.
        lr_end: f64,
    },
    /// Constant for `keep_steps`, a cosine to `lr_end1` over `decay_steps`, `lr_end1` for `final_steps`, then `lr_end2`.
    ConstantWithCoolDown {
        /// Steps at the peak.
        keep_steps: u64,
        /// Steps of the fall; `None` is all steps.
        decay_steps: Option<Steps>,
        /// Rate after the fall.
        lr_end1: f64,
        /// Steps at `lr_end1`.
        final_steps: u64,
        /// Rate of the rest; `None` is `lr_end1`.
        lr_end2: Option<f64>,
        /// Cycles of the cosine; one half falls once.
        num_cycles: f64,
    },
    /// `eta_min + ½(lr−eta_min)(1+cos(π·s/t_max))`, without warm-up.
    CosineAnnealing {
        /// Half period in steps.
        t_max: u64,
        /// Lowest rate.
        eta_min: f64,
    },
    /// The same, started again after `t_0`, `t_0·t_mult`, `t_0·t_mult²`, … steps.
    CosineAnnealingWarmRestarts {
        /// Steps of the first period.
        t_0: u64,
        /// Factor from one period to the next.
        t_mult: u64,
        /// Lowest rate.
        eta_min: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Constant,
    Linear,
    Cosine,
    CosineWithRestarts,
    Polynomial,
    WarmUpStableDecay,
    ConstantWithCoolDown,
    CosineAnnealing,
    CosineAnnealingWarmRestarts,
    WiseLayer,
}

/// Reads the keys of `kind`; `peak` is the rate after the warm-up.
pub(super) fn shape(s: &mut Section<'_>, kind: Kind, peak: Spanned<f64>) -> LrShape {
    let rate = |v: &f64| *v >= 0.0;
    let end = |s: &mut Section<'_>, default| s.checked("lr_end", default, "must not be negative", rate);
    let cycles =
        |s: &mut Section<'_>, default| s.checked("num_cycles", default, "must be above 0", |v: &f64| *v > 0.0).value;
    let decay = |s: &mut Section<'_>| {
        let ratio = ratio(s, "decay_ratio");
        let steps = s.opt_checked::<u64>("decay_steps", "must be at least 1", |v| *v >= 1);
        ratio.or(steps.map(|v| v.map(Steps::Count))).map(|v| v.value)
    };
    match kind {
        Kind::Constant | Kind::WiseLayer => LrShape::Constant,
        Kind::Linear => LrShape::Linear,
        Kind::Cosine => {
            LrShape::Cosine { num_cycles: cycles(s, 0.5), lr_end: end(s, 0.0).value, decay_steps: decay(s) }
        }
        Kind::CosineWithRestarts => {
            LrShape::CosineWithRestarts { num_cycles: cycles(s, 1.0), lr_end: end(s, 0.0).value, decay_steps: decay(s) }
        }
        Kind::Polynomial => {
            let lr_end = end(s, 1e-7);
            falls(s, peak, lr_end);
            let power = s.checked("power", 1.0, "must be above 0", |v: &f64| *v > 0.0).value;
            LrShape::Polynomial { power, lr_end: lr_end.value, decay_steps: decay(s) }
        }
        Kind::WarmUpStableDecay => {
            let lr_end = end(s, 1e-7);
            falls(s, peak, lr_end);
            let ratio = ratio(s, "decay_start_ratio").map(|v| v.value);
            let steps = s.opt::<u64>("decay_start_steps").map(|v| Steps::Count(v.value));
            if ratio.is_none() && steps.is_none() {
                s.missing("decay_start_steps", "add `decay_start_steps` or `decay_start_ratio`");
            }
            LrShape::WarmUpStableDecay { decay_start: ratio.or(steps).unwrap_or(Steps::Count(0)), lr_end: lr_end.value }
        }
        Kind::ConstantWithCoolDown => LrShape::ConstantWithCoolDown {
            keep_steps: s.get("keep_steps", 0).value,
            decay_steps: decay(s),
            lr_end1: s.checked("lr_end1", 0.0, "must not be negative", rate).value,
            final_steps: s.get("final_steps", 0).value,
            // The original reads 0 as "not given".
            lr_end2: s
                .opt_checked::<f64>("lr_end2", "must not be negative", rate)
                .map(|v| v.value)
                .filter(|v| *v != 0.0),
            num_cycles: cycles(s, 0.5),
        },
        Kind::CosineAnnealing => LrShape::CosineAnnealing {
            t_max: required(s, "t_max"),
            eta_min: s.checked("eta_min", 0.0, "must not be negative", rate).value,
        },
        Kind::CosineAnnealingWarmRestarts => LrShape::CosineAnnealingWarmRestarts {
            t_0: required(s, "t_0"),
            t_mult: s.positive("t_mult", 1).value as u64,
            eta_min: s.checked("eta_min", 0.0, "must not be negative", rate).value,
        },
    }
}

fn required<'a>(s: &mut Section<'a>, key: &'a str) -> u64 {
    let value = s.opt_checked::<u64>(key, "must be at least 1", |v| *v >= 1);
    if value.is_none() && s.peek(key).is_none_or(|f| u64::from_node(f.node).is_none() && f.node.is_null()) {
        s.missing(key, "this schedule needs it");
    }
    value.map_or(1, |v| v.value)
}

/// Reports an end rate that is not below the peak, which the original refuses for these types.
fn falls(s: &Section<'_>, peak: Spanned<f64>, end: Spanned<f64>) {
    if peak.is_set() && end.value >= peak.value {
        let message = format!("`lr_end` ({:e}) must be below `learning_rate` ({:e})", end.value, peak.value);
        let found = Diagnostic::error(&codes::CONTRADICTION, message)
            .help("set `lr_end` to the rate to fall to; it is 1e-7 if it is not given");
        let found = s.report.mark(found, peak.span, "the peak");
        s.report.push(s.report.mark(found, end.span, "the end"));
    }
}

/// A part of all steps.
pub(super) fn ratio<'a>(s: &mut Section<'a>, key: &'a str) -> Option<Spanned<Steps>> {
    let ratio = s.opt_checked::<f64>(key, "must be between 0 and 1", |v| (0.0..=1.0).contains(v));
    ratio.map(|v| v.map(Steps::Ratio))
}
