//! The stages of a pipeline: their programs, what they do in which order, and the slots of micro-batches in flight.

use super::assemble::assemble_with;
use super::layout::Home;
use super::parts::ordered;
use super::{Draft, KernelTable, Named, PlanOptions, called, contents};
use crate::schedule::generate::{Request, generate};
use crate::schedule::messages::{Step, lower, receiver};
use crate::schedule::validate::validate;
use crate::schedule::{Part, Schedule, Task};
use crate::split_stages::CANNOT_SPLIT;
use athanor_ir::diag::{Diagnostic, Result};
use athanor_ir::module::Module;
use athanor_ir::pipeline::{Act, Pipeline, is_micro};
use athanor_ir::plan::{BufferRole, Stage, StagePipeline};
use std::borrow::Cow;
use std::collections::HashMap;

/// The stages of `module`'s plan.
///
/// # Errors
/// What a generator reports; [`crate::schedule::generate::IMPOSSIBLE`]; [`CANNOT_SPLIT`].
pub(super) fn stages(
    module: &Module,
    pipeline: &Pipeline,
    options: &PlanOptions,
    kernels: &mut KernelTable,
) -> Result<Vec<Stage>> {
    let schedule = schedule(module, pipeline)?;
    let acts = acts(&schedule)?;
    let stage = |(stage, acts): (usize, Vec<Act>)| {
        let of_pipeline = |f: Cow<'_, athanor_ir::Func>| {
            if is_micro(&f.name).is_some() { ordered(&f, pipeline) } else { f.into_owned() }
        };
        let programs: Vec<Cow<'_, athanor_ir::Func>> =
            called(module, Some(stage)).into_iter().map(|f| Cow::Owned(of_pipeline(f))).collect();
        let contents = contents(module, &programs, options, kernels)?;
        if let Some(text) = contents.drafts.iter().find_map(|d| torn(d, &contents.named)) {
            return Diagnostic::error(&CANNOT_SPLIT, format!("stage {stage}: {text}"))
                .help("report it with the configuration; another schedule may do")
                .err();
        }
        let slots = slots(&acts);
        let (mut made, chunks, (slots_at, slot_bytes)) = assemble_with(&contents, slots);
        if chunks.len() != schedule.chunks {
            return Diagnostic::error(&CANNOT_SPLIT, format!("stage {stage} has {} chunks", chunks.len()))
                .help("run `split-stages` before the plan is made")
                .err();
        }
        made.pipeline = Some(StagePipeline { slots, slots_at, slot_bytes, chunks, acts });
        Ok(made)
    };
    acts.into_iter().enumerate().map(stage).collect()
}

/// What is wrong if two programs of a micro-batch read and write one sum over micro-batches: programs of others run in between.
fn torn(draft: &Draft<'_>, named: &[Named]) -> Option<String> {
    let mut touched: HashMap<usize, (usize, bool)> = HashMap::new();
    for (i, step) in draft.steps.iter().enumerate() {
        let part = draft.ends.iter().filter(|e| **e <= i).count();
        let sides = step.inputs.iter().map(|p| (p, false)).chain(step.outputs.iter().map(|p| (p, true)));
        for ((place, _), writes) in sides {
            let Home::Named(n) = place.home else { continue };
            if named[n].role != BufferRole::Grad {
                continue;
            }
            let (first, written) = touched.entry(n).or_insert((part, writes));
            *written |= writes;
            if *first != part && *written {
                return Some(format!("{} is summed up in two programs of a micro-batch", named[n].name));
            }
        }
    }
    None
}

/// The schedule of the run of `module`.
///
/// # Errors
/// [`crate::schedule::generate::IMPOSSIBLE`].
pub fn schedule(module: &Module, pipeline: &Pipeline) -> Result<Schedule> {
    generate(&Request {
        kind: pipeline.schedule,
        stages: pipeline.stages(),
        micro_batches: module.run.accumulation,
        chunks: pipeline.layers.len(),
        slices: 1,
    })
}

/// What each stage does in a step of `schedule`.
fn acts(schedule: &Schedule) -> Result<Vec<Vec<Act>>> {
    let refuse = |text: String| {
        Diagnostic::error(&crate::schedule::generate::IMPOSSIBLE, text)
            .help("this is a mistake of the compiler that is worth reporting")
            .err()
    };
    if let Err(fault) = validate(schedule) {
        return refuse(fault.to_string());
    }
    match lower(schedule) {
        Ok(programs) => {
            Ok(programs.iter().enumerate().map(|(stage, steps)| in_slots(schedule, stage, steps)).collect())
        }
        Err(stuck) => refuse(format!("{} stages wait for ever", stuck.len())),
    }
}

/// The slots that `acts` use.
fn slots(acts: &[Act]) -> usize {
    let slot = |act: &Act| match act {
        Act::Pass { slot, to, .. } => slot.max(to) + 1,
        Act::Run { slot, .. } | Act::Send { slot, .. } | Act::Receive { slot, .. } => slot + 1,
    };
    acts.iter().map(slot).max().unwrap_or(0)
}

/// The steps of stage `stage` with a slot for each micro-batch of a chunk, from when something of it is there until its last
/// part is done.
fn in_slots(schedule: &Schedule, stage: usize, steps: &[Step]) -> Vec<Act> {
    let mut taken: HashMap<(usize, usize), usize> = HashMap::new();
    let mut free: Vec<bool> = vec![];
    let mut acts = vec![];
    let last = if schedule.split { Part::W } else { Part::B };
    // The slot of a backward pass that was the last, until its result has been sent.
    let mut sending: Option<(usize, usize)> = None;
    let release = |key: (usize, usize), taken: &mut HashMap<(usize, usize), usize>, free: &mut Vec<bool>| {
        if let Some(slot) = taken.remove(&key) {
            free[slot] = true;
        }
    };
    for step in steps {
        let mut slot_of = |chunk: usize, micro: usize| {
            *taken.entry((chunk, micro)).or_insert_with(|| {
                let slot = free.iter().position(|f| *f).unwrap_or(free.len());
                if slot == free.len() {
                    free.push(false);
                }
                free[slot] = false;
                slot
            })
        };
        match *step {
            Step::Run(task) => {
                let slot = slot_of(task.chunk, task.micro);
                acts.push(Act::Run { task, slot });
                let to = receiver(schedule, stage, task);
                if let Some((_, chunk)) = to.filter(|(to, _)| *to == stage) {
                    acts.push(Act::Pass { task, slot, chunk, to: slot_of(chunk, task.micro) });
                }
                let key = (task.chunk, task.micro);
                if task.part == last {
                    if task.part == Part::B && to.is_some_and(|(to, _)| to != stage) {
                        sending = Some(key);
                    } else {
                        release(key, &mut taken, &mut free);
                    }
                }
            }
            Step::Send { to, what } => {
                let task: Task = what.of;
                acts.push(Act::Send { to, task, slot: slot_of(task.chunk, task.micro) });
                if sending == Some((task.chunk, task.micro)) && task.part == Part::B {
                    release((task.chunk, task.micro), &mut taken, &mut free);
                    sending = None;
                }
            }
            Step::Receive { from, what } => {
                let chunk = receiver(schedule, from, what.of).map_or(0, |(_, chunk)| chunk);
                acts.push(Act::Receive { from, task: what.of, chunk, slot: slot_of(chunk, what.of.micro) });
            }
        }
    }
    acts
}
