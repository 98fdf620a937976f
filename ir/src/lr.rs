//! Learning-rate schedules, as MindFormers defines them: the rate of a 0-based optimizer step.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Rate after warm-up. `lr` is the peak rate of the schedule, steps are absolute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Shape {
    /// `ConstantWarmUpLR`
    Constant,
    /// `LinearWithWarmUpLR`: to zero at `total_steps`.
    Linear {
        /// Last step of the schedule.
        total_steps: u64,
    },
    /// `CosineWithWarmUpLR`, and with `restarts` `CosineWithRestartsAndWarmUpLR`.
    Cosine {
        /// Waves (½: one fall).
        num_cycles: f64,
        /// Start anew each cycle.
        restarts: bool,
        /// Last step of the schedule.
        total_steps: u64,
        /// From here on the rate is `lr_end`.
        decay_steps: u64,
        /// Final rate.
        lr_end: f64,
    },
    /// `PolynomialWithWarmUpLR`
    Polynomial {
        /// Exponent.
        power: f64,
        /// Last step of the schedule.
        total_steps: u64,
        /// Length of the fall.
        decay_steps: u64,
        /// Final rate.
        lr_end: f64,
    },
    /// `WarmUpStableDecayLR`: constant, then linear.
    WarmUpStableDecay {
        /// First step of the fall.
        decay_start_steps: u64,
        /// Last step of the schedule.
        total_steps: u64,
        /// Final rate.
        lr_end: f64,
    },
    /// `ConstantWithCoolDownLR`: constant, cosine to `lr_end1`, constant, then `lr_end2`.
    ConstantWithCoolDown {
        /// Constant steps after warm-up.
        keep_steps: u64,
        /// Steps of the cosine fall.
        decay_steps: u64,
        /// Rate after the fall.
        lr_end1: f64,
        /// Steps at `lr_end1`.
        final_steps: u64,
        /// Rate for the rest.
        lr_end2: f64,
        /// Waves of the fall (½: one fall).
        num_cycles: f64,
    },
    /// `CosineAnnealingLR`: half a wave every `t_max` steps, up and down.
    CosineAnnealing {
        /// Half period.
        t_max: u64,
        /// Lowest rate.
        eta_min: f64,
    },
    /// `CosineAnnealingWarmRestarts`: falls of length `t_0`, `t_0·t_mult`, …
    CosineAnnealingWarmRestarts {
        /// Length of the first fall.
        t_0: u64,
        /// Growth of the length.
        t_mult: u64,
        /// Lowest rate.
        eta_min: f64,
    },
}

/// A learning-rate schedule with linear warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrSchedule {
    /// Peak rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Rate at step 0 of the warm-up.
    pub warmup_lr_init: f64,
    /// Rate after warm-up.
    pub shape: Shape,
}

impl LrSchedule {
    /// Rate of the step that follows `step` finished steps.
    pub fn at(&self, step: u64) -> f64 {
        let (lr, w) = (self.learning_rate, self.warmup_steps);
        if step < w {
            return self.warmup_lr_init + (lr - self.warmup_lr_init) * step as f64 / w as f64;
        }
        let after = (step - w) as f64;
        let span = |total: u64| total.saturating_sub(w).max(1) as f64;
        match self.shape {
            Shape::Constant => lr,
            Shape::Linear { total_steps } => lr * (total_steps as f64 - step as f64).max(0.0) / span(total_steps),
            Shape::Cosine { num_cycles, restarts, total_steps, decay_steps, lr_end } => {
                let progress = after / span(total_steps);
                if step >= decay_steps || (restarts && progress >= 1.0) {
                    return lr_end;
                }
                let phase =
                    if restarts { PI * (num_cycles * progress).fract() } else { 2.0 * PI * num_cycles * progress };
                lr_end + (lr - lr_end) * (0.5 * (1.0 + phase.cos())).max(0.0)
            }
            Shape::Polynomial { power, total_steps, decay_steps, lr_end } => {
                if step > total_steps {
                    return lr_end;
                }
                let left = (1.0 - after / decay_steps.max(1) as f64).max(0.0);
                lr_end + (lr - lr_end) * left.powf(power)
            }
            Shape::WarmUpStableDecay { decay_start_steps, total_steps, lr_end } => {
                if step < decay_start_steps {
                    return lr;
                }
                let length = total_steps.saturating_sub(decay_start_steps).max(1) as f64;
                let left = 1.0 - (step - decay_start_steps) as f64 / length;
                if left <= 0.0 { lr_end } else { lr_end + (lr - lr_end) * left }
            }
            Shape::ConstantWithCoolDown { keep_steps, decay_steps, lr_end1, final_steps, lr_end2, num_cycles } => {
                let (keep, fall, last) = (keep_steps as f64, decay_steps as f64, final_steps as f64);
                if after < keep {
                    lr
                } else if after < keep + fall {
                    lr_end1 + (lr - lr_end1) * 0.5 * (1.0 + (2.0 * PI * num_cycles * (after - keep) / fall).cos())
                } else if after < keep + fall + last {
                    lr_end1
                } else {
                    lr_end2
                }
            }
            Shape::CosineAnnealing { t_max, eta_min } => {
                eta_min + (lr - eta_min) * 0.5 * (1.0 + (PI * after / t_max.max(1) as f64).cos())
            }
            Shape::CosineAnnealingWarmRestarts { t_0, t_mult, eta_min } => {
                let (mut at, mut length) = (step - w, t_0.max(1));
                while at >= length {
                    at -= length;
                    length = length.saturating_mul(t_mult.max(1));
                }
                eta_min + (lr - eta_min) * 0.5 * (1.0 + (PI * at as f64 / length as f64).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape) -> LrSchedule {
        LrSchedule { learning_rate: 1.0, warmup_steps: 10, warmup_lr_init: 0.0, shape }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} != {b}");
    }

    #[test]
    fn warm_up_starts_at_its_initial_rate() {
        let s = schedule(Shape::Constant);
        close(s.at(0), 0.0);
        close(s.at(5), 0.5);
        close(s.at(10), 1.0);
        close(s.at(1000), 1.0);
    }

    #[test]
    fn cosine_falls_by_half_midway_and_ends_at_lr_end() {
        let shape = Shape::Cosine { num_cycles: 0.5, restarts: false, total_steps: 110, decay_steps: 110, lr_end: 0.2 };
        let s = schedule(shape);
        close(s.at(60), 0.6);
        close(s.at(110), 0.2);
        close(s.at(500), 0.2);
    }

    #[test]
    fn linear_and_polynomial_reach_their_ends() {
        close(schedule(Shape::Linear { total_steps: 110 }).at(60), 0.5);
        close(schedule(Shape::Linear { total_steps: 110 }).at(200), 0.0);
        let shape = Shape::Polynomial { power: 2.0, total_steps: 110, decay_steps: 100, lr_end: 0.0 };
        close(schedule(shape).at(60), 0.25);
    }

    #[test]
    fn stable_decay_and_cool_down_hold_then_fall() {
        let s = schedule(Shape::WarmUpStableDecay { decay_start_steps: 50, total_steps: 100, lr_end: 0.5 });
        close(s.at(49), 1.0);
        close(s.at(75), 0.75);
        close(s.at(100), 0.5);
        let shape = Shape::ConstantWithCoolDown {
            keep_steps: 40,
            decay_steps: 20,
            lr_end1: 0.5,
            final_steps: 10,
            lr_end2: 0.1,
            num_cycles: 0.5,
        };
        let s = schedule(shape);
        close(s.at(49), 1.0);
        close(s.at(60), 0.75);
        close(s.at(75), 0.5);
        close(s.at(80), 0.1);
    }

    #[test]
    fn warm_restarts_grow_by_t_mult() {
        let s = schedule(Shape::CosineAnnealingWarmRestarts { t_0: 10, t_mult: 2, eta_min: 0.0 });
        close(s.at(10), 1.0);
        close(s.at(15), 0.5);
        close(s.at(20), 1.0);
        close(s.at(30), 0.5);
        close(s.at(40), 1.0);
    }
}
