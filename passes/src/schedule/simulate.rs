//! A schedule in virtual time: how long it takes, where it waits, how many activations it keeps.

use super::{Part, Schedule, Task};
use std::collections::HashMap;

/// Duration of the parts of one chunk and one micro-batch or slice, in any unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// Forward.
    pub f: u64,
    /// Gradients of activations.
    pub b: u64,
    /// Gradients of weights; part of the backward task where the schedule does not split it.
    pub w: u64,
}

impl Costs {
    /// Every part takes one unit, so that a whole backward pass takes two.
    pub const UNIT: Self = Self { f: 1, b: 1, w: 1 };

    /// Duration of `part`.
    pub fn of(self, part: Part, split: bool) -> u64 {
        match part {
            Part::F => self.f,
            Part::B if split => self.b,
            Part::B => self.b + self.w,
            Part::W => self.w,
        }
    }
}

/// When one task ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// Its stage.
    pub stage: usize,
    /// The task.
    pub task: Task,
    /// Start.
    pub start: u64,
    /// End.
    pub end: u64,
}

/// What a schedule costs when messages take no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Time from the first start to the last end.
    pub makespan: u64,
    /// Time that the busiest stage does not work.
    pub bubble: u64,
    /// Idle time of the worst stage between its own first start and last end: the bubble that is left where the
    /// optimizer step of a stage need not wait for the others.
    pub gaps: u64,
    /// Most activations in flight on each stage, in chunks of micro-batches (or slices): from the forward pass to the end
    /// of the backward pass of activations.
    pub activations: Vec<usize>,
    /// Every task, by start and then stage.
    pub ran: Vec<Ran>,
}

/// A stage whose next task never becomes ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The stage.
    pub stage: usize,
    /// Its next task.
    pub task: Task,
    /// What it waits for.
    pub waits_for: (usize, Task),
}

/// Runs the lists: each stage does its tasks in order, each as soon as what it needs is done.
///
/// # Errors
/// Every stage that waits for something that never comes.
pub fn simulate(schedule: &Schedule, costs: Costs) -> Result<Report, Vec<Stuck>> {
    let stages = schedule.stages.len();
    let mut end: HashMap<(usize, Task), u64> = HashMap::new();
    let (mut next, mut free) = (vec![0; stages], vec![0; stages]);
    let mut ran: Vec<Ran> = vec![];
    loop {
        let mut moved = false;
        for stage in 0..stages {
            while let Some(task) = schedule.stages[stage].get(next[stage]).copied() {
                let ready = schedule.needs(stage, task).iter().map(|n| end.get(n).copied()).collect::<Option<Vec<_>>>();
                let Some(ready) = ready else { break };
                let start = ready.into_iter().fold(free[stage], u64::max);
                let done = start + costs.of(task.part, schedule.split);
                end.insert((stage, task), done);
                ran.push(Ran { stage, task, start, end: done });
                free[stage] = done;
                next[stage] += 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let stuck: Vec<Stuck> = (0..stages)
        .filter_map(|stage| {
            let task = *schedule.stages[stage].get(next[stage])?;
            let waits_for = schedule.needs(stage, task).into_iter().find(|n| !end.contains_key(n))?;
            Some(Stuck { stage, task, waits_for })
        })
        .collect();
    if !stuck.is_empty() {
        return Err(stuck);
    }
    let of = |stage: usize| ran.iter().filter(move |r| r.stage == stage);
    let busy = |stage: usize| of(stage).map(|r| r.end - r.start).sum::<u64>();
    let makespan = free.iter().copied().max().unwrap_or(0);
    let first = |stage: usize| of(stage).map(|r| r.start).min().unwrap_or(0);
    let gaps = (0..stages).map(|s| free[s] - first(s) - busy(s)).max().unwrap_or(0);
    let bubble = makespan - (0..stages).map(busy).max().unwrap_or(0);
    let activations = (0..stages).map(|s| in_flight(&schedule.stages[s])).collect();
    ran.sort_by_key(|r| (r.start, r.end, r.stage));
    Ok(Report { makespan, bubble, gaps, activations, ran })
}

/// Most forward passes whose backward pass is not done yet, over the tasks of a stage.
fn in_flight(tasks: &[Task]) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for t in tasks {
        match t.part {
            Part::F => now += 1,
            // The gradient is computed from the activations: they are there until the task ends.
            Part::B => now = now.saturating_sub(1),
            Part::W => {}
        }
        most = most.max(now);
    }
    most
}
