//! `runner_config`: how long and in which batches.

use super::reader::{Rule, Section};
use super::span::Spanned;

/// The `runner_config` section.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Passes over the data set.
    pub epochs: Spanned<usize>,
    /// Samples per replica and micro batch.
    pub batch_size: Spanned<usize>,
    /// `sink_mode`: whether the original fetches data from the device side; steps per epoch follow from it.
    pub sink_mode: Spanned<bool>,
    /// `sink_size`: steps per host call in the original.
    pub sink_size: Spanned<i64>,
    /// Micro batches whose gradients are summed before one optimizer step.
    pub gradient_accumulation_steps: Spanned<usize>,
    /// Stop after this many optimizer steps; 0 is never.
    pub stop_step: Spanned<u64>,
}

pub(super) fn read(mut s: Section<'_>) -> RunnerConfig {
    let config = RunnerConfig {
        epochs: s.positive("epochs", 1),
        batch_size: s.positive("batch_size", 1),
        sink_mode: s.get("sink_mode", true),
        sink_size: s.checked("sink_size", 1, "must be -1 or at least 1", |v| *v == -1 || *v >= 1),
        gradient_accumulation_steps: s.positive("gradient_accumulation_steps", 1),
        stop_step: s.get("stop_step", 0),
    };
    s.finish(Rule::Strict);
    config
}
