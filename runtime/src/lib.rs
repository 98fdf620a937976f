//! Plan to training: data, execution, checkpoints, metrics.
//!
//! [`trainer::train_with`] runs a plan from its first step, or from a checkpoint, to its last.

pub mod checkpoint;
pub mod codes;
pub mod company;
pub mod data;
pub mod executor;
pub mod init;
pub mod loss_scale;
pub mod metrics;
mod partial;
pub mod parts;
mod pipeline;
pub mod plan_dir;
pub mod signals;
pub mod source;
pub mod team;
pub mod trainer;

#[cfg(test)]
mod toy;
