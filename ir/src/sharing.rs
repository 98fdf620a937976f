//! What replicas share of a weight, instead of each having all of it.

use serde::{Deserialize, Serialize};

/// How much of what belongs to a weight replicas have parts of; each form has those before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// The state of the optimizer (ZeRO-1).
    Moments,
    /// The gradient: each micro-batch's is summed into parts as soon as it is there (ZeRO-2).
    Gradients,
    /// The weight itself: it is gathered where it is read, forward and again backward (ZeRO-3).
    Weights,
}

/// Which weights replicas share, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    /// What they have parts of.
    pub what: Shared,
    /// Weights with so many bytes at least, of a rank that shares nothing.
    pub least: u64,
    /// Axes along which the replicas are that share; along the other axes of the batch they all have the same parts.
    pub over: Vec<String>,
}
