//! The loss scale of a run: what it is, when it changes, and how many steps were left out because a gradient overflowed.

use crate::codes::NOT_FINITE;
use athanor_ir::run::LossScale;
use athanor_ir::{Diagnostic, Result};
use serde::{Deserialize, Serialize};

/// A run whose scale cannot fall any further stops after this many steps in a row that overflow.
const MOST_IN_A_ROW: u64 = 32;

/// Where the scaling of a run stands; saved with checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Factor of the next step.
    pub loss_scale: f64,
    /// Steps without overflow since the factor changed last, or since the last overflow.
    #[serde(default)]
    pub good_steps: u64,
    /// Steps left out so far: the optimizer has made that many fewer than the run.
    #[serde(default)]
    pub skipped_steps: u64,
}

/// Applies a run's [`LossScale`], by the rule of MindSpore's `DynamicLossScaleUpdateCell`.
#[derive(Debug, Clone)]
pub struct Scaler {
    rule: Option<LossScale>,
    now: Scaling,
    in_a_row: u64,
}

impl Scaler {
    /// At the start of a run.
    pub fn new(rule: Option<LossScale>) -> Self {
        let loss_scale = rule.map_or(1.0, LossScale::initial);
        Self { rule, now: Scaling { loss_scale, good_steps: 0, skipped_steps: 0 }, in_a_row: 0 }
    }

    /// Where it stands.
    pub fn now(&self) -> Scaling {
        self.now
    }

    /// Takes up an earlier run; a scale that is fixed, or absent, is the one that the plan says.
    pub fn resume(&mut self, from: Scaling) {
        let dynamic = matches!(self.rule, Some(LossScale::Dynamic { .. }));
        let loss_scale = if dynamic { from.loss_scale } else { self.now.loss_scale };
        self.now = Scaling { loss_scale, ..from };
    }

    /// Whether gradients are scaled, and a step that overflows is left out.
    pub fn is_on(&self) -> bool {
        self.rule.is_some()
    }

    /// Takes note of a finished step (0-based `step`), and changes the scale as the rule says.
    ///
    /// # Errors
    /// [`NOT_FINITE`] when steps overflow one after the other and no smaller scale is left to try.
    pub fn finish(&mut self, step: u64, overflow: bool) -> Result<()> {
        let now = &mut self.now;
        if overflow {
            now.skipped_steps += 1;
            now.good_steps = 0;
            self.in_a_row += 1;
        } else {
            now.good_steps += 1;
            self.in_a_row = 0;
        }
        let mut stuck = true;
        if let Some(LossScale::Dynamic { factor, window, .. }) = self.rule {
            stuck = now.loss_scale <= 1.0;
            if overflow {
                now.loss_scale = (now.loss_scale / factor).max(1.0);
            } else if now.good_steps >= window {
                now.loss_scale *= factor;
                now.good_steps = 0;
            }
        }
        if stuck && self.in_a_row >= MOST_IN_A_ROW {
            let text = format!("step {}: {} steps in a row have overflowed", step + 1, self.in_a_row);
            return Diagnostic::error(&NOT_FINITE, text)
                .help("lower the learning rate or the loss scale; resume from the last checkpoint")
                .err();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dynamic() -> Scaler {
        Scaler::new(Some(LossScale::Dynamic { value: 8.0, factor: 2.0, window: 3 }))
    }

    fn run(s: &mut Scaler, steps: &[bool]) -> Vec<f64> {
        let scale = |(i, overflow): (usize, &bool)| {
            s.finish(i as u64, *overflow).unwrap();
            s.now().loss_scale
        };
        steps.iter().enumerate().map(scale).collect()
    }

    #[test]
    fn the_scale_falls_at_once_and_rises_after_a_window() {
        let mut s = dynamic();
        let scales = run(&mut s, &[false, true, false, false, false, false, false, false]);
        assert_eq!(scales, [8.0, 4.0, 4.0, 4.0, 8.0, 8.0, 8.0, 16.0]);
        assert_eq!(s.now().skipped_steps, 1);
    }

    #[test]
    fn it_does_not_fall_below_one_and_a_run_that_is_stuck_ends() {
        let mut s = dynamic();
        assert_eq!(run(&mut s, &[true; 5]), [4.0, 2.0, 1.0, 1.0, 1.0]);
        let failed = (5..99).find_map(|i| s.finish(i, true).err()).unwrap();
        assert_eq!(failed.code.id, "R0007");
        assert!(failed.message.contains("32 steps in a row"), "{failed}");
    }

    #[test]
    fn a_resumed_scaler_goes_on_where_it_was() {
        let (mut whole, mut first) = (dynamic(), dynamic());
        let all = run(&mut whole, &[true, false, false, false, true, false]);
        run(&mut first, &[true, false]);
        let mut second = dynamic();
        second.resume(first.now());
        assert_eq!(run(&mut second, &[false, false, true, false]), all[2..]);
        assert_eq!(second.now(), whole.now());
    }

    #[test]
    fn a_fixed_scale_stays() {
        let mut s = Scaler::new(Some(LossScale::Fixed { value: 128.0 }));
        assert_eq!(run(&mut s, &[false, true, true]), [128.0; 3]);
        s.resume(Scaling { loss_scale: 1.0, good_steps: 0, skipped_steps: 4 });
        assert_eq!((s.now().loss_scale, s.now().skipped_steps), (128.0, 4));
        assert!(!Scaler::new(None).is_on());
    }
}
