//! What lies in the host's memory while the device does not need it.
//!
//! The choice travels with the module ([`crate::run::RunSpec::offload`]) and is carried out by the pass `offload`.

use crate::recompute::Operators;
use serde::{Deserialize, Serialize};

/// Values that the backward part of a micro-batch reads, and how early they come back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// Ops before the first that reads a value.
    pub prefetch: usize,
    /// Layers of which every value that their backward part reads goes, by their blocks: `model.layers.3`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Operators whose results go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<Operators>,
}

/// What a module keeps on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offload {
    /// Values between the forward and the backward part; of entries that choose the same value the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Swap>,
    /// The optimizer's state, between steps.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub moments: bool,
    /// What came of it; set by the pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Offloaded>,
}

/// What a pass `offload` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offloaded {
    /// Values of a micro-batch that go to the host.
    pub values: usize,
    /// Their bytes.
    pub bytes: u64,
    /// States of the optimizer that lie there.
    pub moments: usize,
    /// Their bytes.
    pub moment_bytes: u64,
}

impl Offload {
    /// True if nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_choice_is_not_written() {
        assert_eq!(serde_json::to_string(&Offload::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<Offload>("{}").unwrap().is_none());
    }
}
