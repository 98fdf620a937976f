//! The pipeline of a plan: its order of work, its bubble, and what each stage needs.

use crate::text::{bytes, count, table};
use athanor_ir::pipeline::{Act, UnitTime};
use athanor_ir::plan::{BufferRole, Plan, Stage};
use serde::Serialize;
use std::fmt::Write as _;

/// What there is to say about a pipeline.
#[derive(Serialize)]
pub struct PipelineSummary {
    schedule: &'static str,
    micro_batches: usize,
    /// Parts in which each sequence comes through.
    slices: usize,
    /// Forward pass, gradients of activations and of weights of a chunk take a unit each.
    units: u64,
    bubble_units: u64,
    stages: Vec<StageMemory>,
}

/// What a stage has and needs, in bytes.
#[derive(Serialize)]
struct StageMemory {
    /// By chunk.
    layers: Vec<usize>,
    weights: usize,
    gradients: usize,
    optimizer: usize,
    /// Activations of a micro-batch that is in flight.
    slot: usize,
    /// Micro-batches in flight.
    slots: usize,
    /// Keys and values that slices share, and their gradients.
    caches: usize,
    /// Inputs, tables, and what lives within programs.
    buffers: usize,
    arena: usize,
    /// On the host.
    host: usize,
}

impl PipelineSummary {
    /// The pipeline of `plan`, if it has one.
    pub fn of(plan: &Plan) -> Option<Self> {
        let pipeline = plan.run.pipeline.as_ref()?;
        let acts: Vec<&[Act]> =
            plan.stages.iter().map(|s| s.pipeline.as_ref().map_or(&[][..], |p| &p.acts[..])).collect();
        let time = UnitTime::of(&acts, pipeline.schedule.splits());
        let stage = |(i, stage): (usize, &Stage)| {
            let layers = pipeline.layers.iter().map(|chunk| chunk.get(i).copied().unwrap_or(0)).collect();
            memory(stage, layers)
        };
        Some(Self {
            schedule: pipeline.schedule.name(),
            micro_batches: plan.run.accumulation,
            slices: pipeline.slices,
            units: time.makespan,
            bubble_units: time.bubble,
            stages: plan.stages.iter().enumerate().map(stage).collect(),
        })
    }

    /// The order of work and its bubble.
    pub fn line(&self) -> String {
        let slices = if self.slices > 1 { format!(" in {} slices each", self.slices) } else { String::new() };
        format!(
            "{} over {}, {}{slices}, bubble {} of {} units ({:.1} %)",
            self.schedule,
            count(self.stages.len() as u64, "stage"),
            count(self.micro_batches as u64, "micro-batch").replace("batchs", "batches"),
            self.bubble_units,
            self.units,
            100.0 * self.bubble_units as f64 / self.units.max(1) as f64
        )
    }

    /// All of it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "\nPipeline: {}", self.line());
        let mut head =
            vec!["stage", "layers", "weights", "gradients", "optimizer", "in flight", "", "buffers", "arena"];
        let swaps = self.stages.iter().any(|s| s.host > 0);
        head.extend(swaps.then_some("host"));
        let caches = self.slices > 1;
        if caches {
            head.insert(7, "caches");
        }
        let row = |(i, s): (usize, &StageMemory)| {
            let layers: Vec<String> = s.layers.iter().map(usize::to_string).collect();
            let size = |n: usize| bytes(n as u64);
            let mut cells = vec![i.to_string(), layers.join(" + ")];
            cells.extend([s.weights, s.gradients, s.optimizer, s.slot * s.slots].map(size));
            cells.push(format!("{} × {}", s.slots, size(s.slot)));
            cells.extend(caches.then(|| size(s.caches)));
            cells.extend([s.buffers, s.arena].map(size));
            cells.extend(swaps.then(|| size(s.host)));
            cells
        };
        let rows = std::iter::once(head.into_iter().map(String::from).collect())
            .chain(self.stages.iter().enumerate().map(row));
        out.push_str(&table(&rows.collect::<Vec<_>>(), &[]));
        out
    }
}

fn memory(stage: &Stage, layers: Vec<usize>) -> StageMemory {
    let sum = |wanted: fn(&BufferRole) -> bool| -> usize {
        stage
            .buffers
            .iter()
            .filter(|b| b.memory.is_device() && wanted(&b.role))
            .map(|b| b.bytes.next_multiple_of(64))
            .sum()
    };
    let weights = sum(|r| matches!(r, BufferRole::Weight { .. }));
    let (gradients, optimizer) = (sum(|r| *r == BufferRole::Grad), sum(|r| *r == BufferRole::Moment));
    let (slots, slot) = stage.pipeline.as_ref().map_or((0, 0), |p| (p.slots, p.slot_bytes));
    let caches = stage.pipeline.as_ref().map_or(0, |p| p.caches.saturating_mul(p.cache_bytes));
    let known = weights + gradients + optimizer + slots.saturating_mul(slot) + caches;
    let (arena, buffers) = (stage.arena_bytes, stage.arena_bytes.saturating_sub(known));
    StageMemory { layers, weights, gradients, optimizer, slot, slots, caches, buffers, arena, host: stage.host_bytes }
}
