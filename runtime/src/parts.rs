//! What a step says beside its loss: the losses that it is the sum of, and the tokens that each expert got.

use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::DType;
use athanor_ir::pipeline::Act;
use athanor_ir::plan::{Plan, Stage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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

/// Reads the parts of each step from the results of a plan's programs of micro-batches.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Program and name.
    losses: Vec<(String, String)>,
    /// Buffers with f32 counts.
    loads: Vec<usize>,
    parts: Parts,
}

impl Gather {
    /// What the plan on `device` has to tell.
    pub(crate) fn new(device: &CpuDevice) -> Self {
        let stage = device.stage();
        let programs = stage.programs.iter().filter(|p| of_micro_batches(stage, &p.name));
        let results = programs.flat_map(|p| p.results.iter().map(move |(name, i)| (&p.name, name, *i)));
        let scalar = |program: &str, name: &str| name.ends_with("_loss") && device.scalar(program, name).is_some();
        let own = results.clone().filter(|(program, name, _)| scalar(program, name));
        let losses = own.map(|(program, name, _)| (program.clone(), name.clone())).collect();
        let loads = loads_of(stage).into_iter().map(|(_, i)| i).collect();
        Self { losses, loads, parts: Parts::default() }
    }

    /// Begins a step.
    pub(crate) fn begin(&mut self) {
        self.parts = Parts::default();
    }

    /// Adds a micro-batch, whose program `program` has just run in slot `slot`; a step has `of` of them.
    pub(crate) fn add(&mut self, device: &CpuDevice, (program, slot): (&str, usize), of: usize) {
        for (_, name) in self.losses.iter().filter(|(p, _)| p == program) {
            let share = device.scalar_in_slot(program, name, slot).unwrap_or(f64::NAN) / of as f64;
            *self.parts.losses.entry(name.clone()).or_default() += share;
        }
    }

    /// The parts of the step whose micro-batches have all run: counts are summed over them on the device.
    pub(crate) fn finish(&mut self, device: &CpuDevice) {
        let count = |bytes: &[u8; 4]| f32::from_ne_bytes(*bytes).round() as u64;
        let layer = |i: &usize| device.bytes(*i).as_chunks().0.iter().map(count).collect();
        self.parts.expert_load = self.loads.iter().map(layer).collect();
    }

    /// The parts of the step, for those who know more of them than this rank.
    pub(crate) fn parts_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }

    /// The parts of the last step.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// The counts of experts' tokens that `stage` has: names and buffers.
pub(crate) fn loads_of(stage: &Stage) -> Vec<(String, usize)> {
    let counts = |i: usize| stage.buffers.get(i).is_some_and(|b| b.dtype == DType::F32);
    let programs = stage.programs.iter().filter(|p| of_micro_batches(stage, &p.name));
    let found = programs.flat_map(|p| &p.results).filter(|(name, i)| name.starts_with(LOAD) && counts(*i));
    found.cloned().collect()
}

/// Names of the losses that the programs of micro-batches of any stage of `plan` have, in order.
pub(crate) fn losses_of(plan: &Plan) -> Vec<String> {
    let programs = plan.stages.iter().flat_map(|s| s.programs.iter().filter(|p| of_micro_batches(s, &p.name)));
    let names = programs.flat_map(|p| &p.results).map(|(name, _)| name).filter(|n| n.ends_with("_loss"));
    names.cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether program `name` of `stage` runs once for each micro-batch.
fn of_micro_batches(stage: &Stage, name: &str) -> bool {
    let runs = |act: &Act| matches!(act, Act::Run { task, .. } if task.part.program(task.chunk) == name);
    stage.pipeline.as_ref().map_or(name == "micro", |p| p.acts.iter().any(runs))
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
