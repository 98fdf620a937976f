//! From tasks to programs with messages: where each stage sends and receives.

use super::simulate::{Costs, Stuck, simulate};
use super::{Part, Schedule, Task};

/// What travels between two stages: the result of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// The task whose result it is: activations of a forward pass, gradients of activations of a backward pass.
    pub of: Task,
}

/// One step of a stage's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Do a task.
    Run(Task),
    /// Send to a stage.
    Send {
        /// The receiver.
        to: usize,
        /// What.
        what: Message,
    },
    /// Receive from a stage.
    Receive {
        /// The sender.
        from: usize,
        /// What.
        what: Message,
    },
}

/// The program of every stage.
///
/// Tasks and messages are put into one order of all stages, tasks at their start in unit-cost time and messages at the end
/// of the task they come from; each stage does its part of that order. Since all stages agree on it, messages match even
/// where a send waits for its receive. An engine that sends in the background loses no time by it: a receive stands where
/// the message has just been made.
///
/// # Errors
/// The stages that wait for ever.
pub fn lower(schedule: &Schedule) -> Result<Vec<Vec<Step>>, Vec<Stuck>> {
    let report = simulate(schedule, Costs::UNIT)?;
    // At one instant messages come before tasks, which may need them.
    let mut events: Vec<((u64, u8, usize), usize, Step)> = vec![];
    for (i, r) in report.ran.iter().enumerate() {
        events.push(((r.start, 1, i), r.stage, Step::Run(r.task)));
        if let Some((to, _)) = receiver(schedule, r.stage, r.task).filter(|(to, _)| *to != r.stage) {
            let what = Message { of: r.task };
            events.push(((r.end, 0, 2 * i), r.stage, Step::Send { to, what }));
            events.push(((r.end, 0, 2 * i + 1), to, Step::Receive { from: r.stage, what }));
        }
    }
    events.sort_by_key(|e| e.0);
    let mut programs = vec![vec![]; schedule.stages.len()];
    for (_, stage, step) in events {
        programs[stage].push(step);
    }
    Ok(programs)
}

/// Stage and chunk that read the result of `task` of `stage`, if another chunk does.
pub fn receiver(schedule: &Schedule, stage: usize, task: Task) -> Option<(usize, usize)> {
    let here = schedule.position(stage, task.chunk);
    match task.part {
        Part::F => (here + 1 < schedule.positions()).then(|| schedule.at(here + 1)),
        Part::B => here.checked_sub(1).map(|before| schedule.at(before)),
        Part::W => None,
    }
}
