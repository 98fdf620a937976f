//! What a run tells: MindFormers' log lines, a progress bar, one JSON object per step, and a plot of the loss.

mod axes;
pub mod json;
pub mod load_plot;
pub mod log_line;
pub mod memory;
pub mod plot;
pub mod reporter;

/// Everything about one finished step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// Finished steps, this one included: the first is 1.
    pub step: u64,
    /// Pass over the data, from 1.
    pub epoch: u64,
    /// Loss.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Factor on the loss in the backward pass.
    pub loss_scale: f64,
    /// A gradient overflowed and the step was left out.
    pub overflow: bool,
    /// Wall time of the step in seconds, without saving.
    pub seconds: f64,
    /// Sequences of the step.
    pub samples: u64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Sequences since the first step of the run.
    pub consumed_samples: u64,
    /// Model floating-point operations of the step.
    pub flops: f64,
}
