//! Whether the lists of a schedule can run, and do all of the work once.

use super::messages::{Step, lower};
use super::simulate::{Costs, Stuck, simulate};
use super::{Part, Schedule, Task};
use std::collections::HashMap;
use std::fmt;

/// Why a schedule is no good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A task of a stage is not there.
    Missing(usize, Task),
    /// A task is there twice, or is of a chunk or micro-batch that does not exist, or is a weight part of its own where
    /// the schedule has none.
    Foreign(usize, Task),
    /// A task stands before one of its own stage that it needs.
    Order(usize, Task, Task),
    /// Stages wait for one another.
    Deadlock(Vec<Stuck>),
    /// Messages cannot be matched when nothing is buffered: the stages that are left waiting.
    Rendezvous(Vec<usize>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(stage, task) => write!(f, "stage {stage} never does {task}"),
            Self::Foreign(stage, task) => write!(f, "stage {stage} does {task} twice, or has no such task"),
            Self::Order(stage, task, needed) => write!(f, "stage {stage} does {task} before {needed}, which it needs"),
            Self::Deadlock(stuck) => {
                let one = |s: &Stuck| {
                    format!("stage {} waits with {} for {} of stage {}", s.stage, s.task, s.waits_for.1, s.waits_for.0)
                };
                write!(f, "deadlock: {}", stuck.iter().map(one).collect::<Vec<_>>().join("; "))
            }
            Self::Rendezvous(stages) => write!(f, "without buffers the messages of stages {stages:?} never match"),
        }
    }
}

/// Checks that every stage does each of its tasks once, in an order in which what a task needs comes first, that no stage
/// waits for ever, and that the messages between stages match even if none is buffered.
///
/// # Errors
/// The first [`Fault`].
pub fn validate(schedule: &Schedule) -> Result<(), Fault> {
    let parts: &[Part] = if schedule.split { &[Part::F, Part::B, Part::W] } else { &[Part::F, Part::B] };
    for (stage, tasks) in schedule.stages.iter().enumerate() {
        let mut place: HashMap<Task, usize> = HashMap::new();
        for (i, task) in tasks.iter().enumerate() {
            let known = task.chunk < schedule.chunks && task.micro < schedule.units() && parts.contains(&task.part);
            if !known || place.insert(*task, i).is_some() {
                return Err(Fault::Foreign(stage, *task));
            }
        }
        for chunk in 0..schedule.chunks {
            for micro in 0..schedule.units() {
                for part in parts {
                    let task = Task { part: *part, chunk, micro };
                    let Some(at) = place.get(&task) else { return Err(Fault::Missing(stage, task)) };
                    for (other, needed) in schedule.needs(stage, task) {
                        if other == stage && place.get(&needed).is_some_and(|n| n > at) {
                            return Err(Fault::Order(stage, task, needed));
                        }
                    }
                }
            }
        }
    }
    simulate(schedule, Costs::UNIT).map_err(Fault::Deadlock)?;
    let programs = lower(schedule).map_err(Fault::Deadlock)?;
    rendezvous(&programs).map_err(Fault::Rendezvous)
}

/// Runs the programs of all stages where a send ends only together with its receive.
///
/// # Errors
/// The stages that never finish.
pub fn rendezvous(programs: &[Vec<Step>]) -> Result<(), Vec<usize>> {
    let mut at = vec![0; programs.len()];
    let step = |at: &[usize], stage: usize| programs.get(stage).and_then(|p| p.get(at[stage])).copied();
    loop {
        let mut moved = false;
        for stage in 0..programs.len() {
            while let Some(now) = step(&at, stage) {
                match now {
                    Step::Run(_) => at[stage] += 1,
                    Step::Send { to, what } => {
                        let met = to < programs.len() && step(&at, to) == Some(Step::Receive { from: stage, what });
                        if !met {
                            break;
                        }
                        at[stage] += 1;
                        at[to] += 1;
                    }
                    // The sender moves both.
                    Step::Receive { .. } => break,
                }
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let left: Vec<usize> = (0..programs.len()).filter(|s| at[*s] < programs[*s].len()).collect();
    if left.is_empty() { Ok(()) } else { Err(left) }
}
