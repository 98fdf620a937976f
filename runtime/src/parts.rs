//! What a step says beside its loss: the losses that it is the sum of, and the tokens that each expert got.

use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Results of `micro` that begin with this are the tokens of each expert, one result per layer with experts.
const LOAD: &str = "expert_load.";

/// The parts of one step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Scalar results `*_loss` of `micro`, each the mean over the micro-batches.
    #[serde(flatten)]
    pub losses: BTreeMap<String, f64>,
    /// Tokens of each expert in the step, layer by layer; layers without experts are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expert_load: Vec<Vec<u64>>,
}

impl Parts {
    /// `MaxVio`: how far the busiest expert of any layer is above an even load, as a share of it (arXiv 2408.15664, 4.1).
    /// `None` without experts or without tokens.
    pub fn max_violation(&self) -> Option<f64> {
        let of_layer = |load: &Vec<u64>| {
            let mean = load.iter().sum::<u64>() as f64 / load.len().max(1) as f64;
            let most = load.iter().copied().max().unwrap_or(0);
            (mean > 0.0).then(|| most as f64 / mean - 1.0)
        };
        self.expert_load.iter().filter_map(of_layer).max_by(f64::total_cmp)
    }
}

/// Reads the parts of each step from the results of a plan's program `micro`.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    losses: Vec<String>,
    /// Buffers with f32 counts.
    loads: Vec<usize>,
    parts: Parts,
}

impl Gather {
    /// What the plan on `device` has to tell.
    pub(crate) fn new(device: &CpuDevice) -> Self {
        let stage = device.stage();
        let results = stage.program("micro").map_or(&[][..], |p| &p.results[..]);
        let scalar = |name: &str| device.scalar("micro", name).is_some();
        let losses =
            results.iter().map(|(n, _)| n).filter(|n| n.ends_with("_loss") && scalar(n.as_str())).cloned().collect();
        let counts = |i: usize| stage.buffers.get(i).is_some_and(|b| b.dtype == DType::F32);
        let loads = results.iter().filter(|(n, i)| n.starts_with(LOAD) && counts(*i)).map(|(_, i)| *i).collect();
        Self { losses, loads, parts: Parts::default() }
    }

    /// Begins a step.
    pub(crate) fn begin(&mut self) {
        self.parts = Parts::default();
    }

    /// Adds a micro-batch, whose program has just run; a step has `of` of them.
    pub(crate) fn add(&mut self, device: &CpuDevice, of: usize) {
        for name in &self.losses {
            let share = device.scalar("micro", name).unwrap_or(f64::NAN) / of as f64;
            *self.parts.losses.entry(name.clone()).or_default() += share;
        }
    }

    /// The parts of the step whose micro-batches have all run: counts are summed over them on the device.
    pub(crate) fn finish(&mut self, device: &CpuDevice) {
        let count = |bytes: &[u8; 4]| f32::from_ne_bytes(*bytes).round() as u64;
        let layer = |i: &usize| device.bytes(*i).as_chunks().0.iter().map(count).collect();
        self.parts.expert_load = self.loads.iter().map(layer).collect();
    }

    /// The parts of the last step.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_violation_is_that_of_the_busiest_expert() {
        let violation = |load: &[&[u64]]| {
            Parts { expert_load: load.iter().map(|l| l.to_vec()).collect(), ..Parts::default() }.max_violation()
        };
        assert_eq!(violation(&[]), None);
        assert_eq!(violation(&[&[0, 0]]), None);
        assert_eq!(violation(&[&[4, 4, 4, 4], &[1, 7, 4, 4]]), Some(0.75));
    }
}
