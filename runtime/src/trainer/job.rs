//! Steps one by one, with what is due behind each: the record, a checkpoint, an end.

use super::{Summary, batch};
use crate::checkpoint::{Saver, State};
use crate::executor::Executor;
use crate::metrics::StepRecord;
use crate::metrics::log_line::Progress;
use crate::metrics::reporter::Reporter;
use crate::source::BatchSource;
use athanor_ir::Result;
use athanor_ir::run::RunSpec;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A run in progress.
pub(super) struct Job<'a> {
    pub(super) executor: &'a mut Executor,
    pub(super) run: &'a RunSpec,
    pub(super) saver: Saver,
    pub(super) progress: Progress,
    pub(super) stop: &'a AtomicBool,
    pub(super) summary: Summary,
}

impl Job<'_> {
    /// Trains until `total` steps are done, of which `finished` are already, and saves what is due.
    ///
    /// # Errors
    /// What a step, saving and reporting report; a run that was asked to stop is none.
    pub(super) fn steps(
        &mut self,
        finished: u64,
        total: u64,
        source: &mut dyn BatchSource,
        reporter: &mut Reporter,
    ) -> Result<()> {
        let samples = batch(self.executor);
        let tokens = samples * self.run.seq_length as u64;
        let mut saved = finished;
        for step in finished..total {
            let start = Instant::now();
            let out = self.executor.step(step, source)?;
            let seconds = start.elapsed().as_secs_f64();
            let s = &mut self.summary;
            s.steps = step + 1;
            s.steps_here += 1;
            if out.loss.is_finite() {
                s.first_loss.get_or_insert(out.loss);
                s.last_loss = Some(out.loss);
            }
            s.seconds += seconds;
            s.tokens_per_s = (s.steps_here * tokens) as f64 / s.seconds.max(1e-9);
            let record = StepRecord {
                step: step + 1,
                epoch: step / self.progress.steps_per_epoch + 1,
                loss: out.loss,
                grad_norm: out.grad_norm,
                lr: out.lr,
                loss_scale: out.loss_scale,
                overflow: out.overflow,
                seconds,
                samples,
                tokens,
                consumed_samples: (step + 1) * samples,
                flops: self.run.flops_per_sequence * samples as f64,
            };
            reporter.step(&record, self.executor.parts())?;
            // The first step compiles products and touches memory: it would hide where time goes.
            if s.steps_here == 1
                && total > step + 1
                && let Some(profile) = self.executor.device_mut().profile_mut()
            {
                profile.clear();
            }
            let due = self.run.save_steps > 0 && (step + 1).is_multiple_of(self.run.save_steps);
            if due {
                self.save(reporter)?;
                saved = step + 1;
            }
            // All ranks stop after the same step.
            let stop = self.stop.load(Ordering::Relaxed);
            if self.executor.team().any(stop)? {
                self.summary.interrupted = true;
                break;
            }
        }
        let unsaved = self.summary.steps > saved;
        if unsaved && (self.run.save_steps > 0 || self.summary.interrupted) {
            self.save(reporter)?;
        }
        Ok(())
    }

    /// Saves the state after the last finished step.
    fn save(&mut self, reporter: &mut Reporter) -> Result<()> {
        let (done, per_epoch) = (self.summary.steps, self.progress.steps_per_epoch);
        let (epoch, step) = ((done - 1) / per_epoch + 1, (done - 1) % per_epoch + 1);
        let sequences = batch(self.executor);
        let state = State {
            epoch_num: epoch,
            step_num: step,
            global_step: done,
            scaling: self.executor.scaling(),
            global_batch_size: sequences,
            consumed_samples: done * sequences,
            ckpt_status: 0,
        };
        reporter.say("......Saving ckpt......")?;
        let start = Instant::now();
        let gathered = self.executor.gather()?;
        if self.executor.team().leads() {
            self.summary.checkpoint = Some(self.saver.save(self.executor.device(), &gathered, &state)?);
        }
        let seconds = start.elapsed().as_secs_f64();
        reporter.say(&format!("Finish saving ckpt of epoch {epoch} step {step} using {seconds:.3} seconds"))
    }
}
