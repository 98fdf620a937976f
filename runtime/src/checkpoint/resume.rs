//! Where a run stands, and how it is taken up again.

use super::load::{is_weight, load};
use super::tensors::{Tensors, parts};
use super::{COMMON, TRACKER};
use crate::codes::{CKPT_STATE, NO_RESUME};
use crate::loss_scale::Scaling;
use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::plan::BufferRole;
use athanor_ir::{Diagnostic, Result};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Whether a run continues an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Resume {
    /// It starts anew.
    #[default]
    No,
    /// From the newest checkpoint in the run's output directory.
    Latest,
    /// From a checkpoint root (with its tracker file) or one iteration directory.
    From(PathBuf),
}

/// `common.json`: what is not a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Pass over the data of the last step, from 1.
    pub epoch_num: u64,
    /// Last step in its epoch, from 1.
    pub step_num: u64,
    /// Finished optimizer steps.
    pub global_step: u64,
    /// Loss scale, and where its rule stands.
    #[serde(flatten)]
    pub scaling: Scaling,
    /// Sequences per step.
    pub global_batch_size: u64,
    /// Sequences so far.
    pub consumed_samples: u64,
    /// 0 after a normal save.
    pub ckpt_status: u64,
}

fn damaged<T>(path: &Path, why: impl std::fmt::Display) -> Result<T> {
    Diagnostic::error(&CKPT_STATE, format!("{}: {why}", path.display()))
        .help("resume from an older iteration directory, if there is one")
        .err()
}

fn nothing<T>(path: &Path, why: &str) -> Result<T> {
    Diagnostic::error(&NO_RESUME, format!("cannot resume from {}: {why}", path.display()))
        .help("leave out --resume to start a new run; weights alone go to load_checkpoint")
        .err()
}

/// The newest finished iteration under the checkpoint root `root`.
///
/// # Errors
/// [`NO_RESUME`], [`CKPT_STATE`].
pub fn latest(root: &Path) -> Result<PathBuf> {
    let tracker = root.join(TRACKER);
    let mut text = String::new();
    let read = std::fs::File::open(&tracker).and_then(|f| f.take(64).read_to_string(&mut text));
    if read.is_err() && !tracker.is_file() {
        return nothing(root, &format!("it has no {TRACKER}"));
    }
    let Ok(iteration) = text.trim().parse::<u64>() else {
        return damaged(&tracker, format!("{text:?} is no iteration"));
    };
    let dir = root.join(iteration_name(iteration));
    if dir.is_dir() { Ok(dir) } else { nothing(root, &format!("{} is missing", iteration_name(iteration))) }
}

/// Name of the directory of an iteration.
pub fn iteration_name(iteration: u64) -> String {
    format!("iteration_{iteration:08}")
}

/// The iteration directory that `path` means: itself, or the newest one in it.
///
/// # Errors
/// As [`latest`].
pub fn directory(path: &Path) -> Result<PathBuf> {
    if path.join(COMMON).is_file() { Ok(path.to_path_buf()) } else { latest(path) }
}

/// Fills weights and moments, as rank `rank` holds them, from iteration directory `dir`; the state of the run, whose steps
/// have `batch` sequences now.
///
/// With another batch size than before, steps are counted anew from the samples consumed, as MindFormers does.
///
/// # Errors
/// [`NO_RESUME`], [`CKPT_STATE`], and what loading reports.
pub fn restore(device: &mut CpuDevice, rank: usize, dir: &Path, batch: u64) -> Result<State> {
    let common = dir.join(COMMON);
    let mut bytes = vec![];
    let read = std::fs::File::open(&common).and_then(|f| f.take(1 << 20).read_to_end(&mut bytes));
    if let Err(e) = read {
        return nothing(dir, &format!("{COMMON}: {e}"));
    }
    let mut state: State = match serde_json::from_slice(&bytes) {
        Ok(s) => s,
        Err(e) => return damaged(&common, e),
    };
    if !state.consumed_samples.is_multiple_of(batch.max(1)) {
        return damaged(
            &common,
            format!("{} samples consumed are no whole number of steps of {batch}", state.consumed_samples),
        );
    }
    if state.global_batch_size != batch {
        state.global_step = state.consumed_samples / batch.max(1);
        state.global_batch_size = batch;
    }
    let moments = parts(dir, "-opt-");
    if moments.len() != 1 {
        return nothing(dir, &format!("it has {} files of optimizer state, not one", moments.len()));
    }
    let tables = device.plan().run.weights.clone();
    load(device, rank, &Tensors::of(dir)?, dir, &tables, is_weight)?;
    load(device, rank, &Tensors::open(&moments)?, dir, &[], |role| *role == BufferRole::Moment)?;
    Ok(state)
}
