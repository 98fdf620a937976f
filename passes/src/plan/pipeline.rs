//! The stages of a pipeline: their programs, what they do in which order, and the slots and caches of micro-batches in flight.

use super::assemble::{Room, assemble_with};
use super::layout::Home;
use super::parts::ordered;
use super::{Draft, KernelTable, Named, PlanOptions, called, contents};
use crate::schedule::generate::{Request, generate};
use crate::schedule::messages::{Step, lower, receiver};
use crate::schedule::validate::validate;
use crate::schedule::{Part, Schedule, Task};
use crate::split_stages::CANNOT_SPLIT;
use athanor_ir::diag::{Diagnostic, Result};
use athanor_ir::func::Func;
use athanor_ir::module::Module;
use athanor_ir::pipeline::{Act, Pipeline, is_micro};
use athanor_ir::plan::{BufferRole, Stage, StagePipeline};
use std::borrow::Cow;
use std::collections::HashMap;

/// What the stages of a pipeline do in a step, and in which order.
pub(super) struct Order<'a> {
    pipeline: &'a Pipeline,
    chunks: usize,
    /// By stage.
    acts: Vec<Vec<Act>>,
}

impl<'a> Order<'a> {
    /// That of the pipeline of `module`.
    ///
    /// # Errors
    /// [`crate::schedule::generate::IMPOSSIBLE`].
    pub(super) fn of(module: &Module, pipeline: &'a Pipeline) -> Result<Self> {
        let schedule = schedule(module, pipeline)?;
        Ok(Self { pipeline, chunks: schedule.chunks, acts: acts(&schedule)? })
    }

    /// Stage `stage` of the plan of `module`.
    ///
    /// # Errors
    /// What a generator reports; [`CANNOT_SPLIT`].
    pub(super) fn stage(
        &self,
        module: &Module,
        stage: usize,
        options: &PlanOptions,
        kernels: &mut KernelTable,
    ) -> Result<Stage> {
        let cannot = |text: String, help: &str| Diagnostic::error(&CANNOT_SPLIT, text).help(help).err();
        let of_pipeline = |f: Cow<'_, Func>| {
            if is_micro(&f.name).is_some() { ordered(&f, self.pipeline) } else { f.into_owned() }
        };
        let programs: Vec<Cow<'_, Func>> =
            called(module, Some(stage)).into_iter().map(|f| Cow::Owned(of_pipeline(f))).collect();
        let contents = contents(module, &programs, options, kernels)?;
        if let Some(text) = contents.drafts.iter().find_map(|d| torn(d, &contents.named)) {
            let help = "report it with the configuration; another schedule may do";
            return cannot(format!("stage {stage}: {text}"), help);
        }
        let acts = self.acts[stage].clone();
        let slots = slots(&acts);
        let caches = if self.pipeline.slices > 1 { under_way(&acts, self.pipeline) } else { 0 };
        let (mut made, chunks, [device, host]) = assemble_with(&contents, Room { slots, caches });
        if chunks.len() != self.chunks {
            let help = "run `split-stages` before the plan is made";
            return cannot(format!("stage {stage} has {} chunks", chunks.len()), help);
        }
        let (slots_at, slot_bytes) = (device.slots_at, device.slot_bytes);
        let (host_slots_at, host_slot_bytes) = (host.slots_at, host.slot_bytes);
        let (caches_at, cache_bytes) = if caches > 0 { (device.caches_at, device.cache_bytes) } else { (0, 0) };
        made.pipeline = Some(StagePipeline {
            slots,
            slots_at,
            slot_bytes,
            host_slots_at,
            host_slot_bytes,
            caches,
            caches_at,
            cache_bytes,
            chunks,
            acts,
        });
        Ok(made)
    }
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
        slices: pipeline.slices,
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

/// The distance at most between micro-batches whose slices are under way at one time, from the first forward to the last backward
/// part of a chunk: as many caches give each of them its own.
fn under_way(acts: &[Act], pipeline: &Pipeline) -> usize {
    let mut spans: HashMap<(usize, usize), (usize, usize)> = HashMap::new();
    for (i, act) in acts.iter().enumerate() {
        if let Act::Run { task, .. } = act {
            let (micro, _) = pipeline.unit(*task);
            spans.entry((task.chunk, micro)).or_insert((i, i)).1 = i;
        }
    }
    let spans: Vec<(usize, (usize, usize))> = spans.into_iter().map(|((_, micro), span)| (micro, span)).collect();
    let meets = |a: (usize, usize), b: (usize, usize)| a.0 <= b.1 && b.0 <= a.1;
    let later = |(m, a): &(usize, (usize, usize))| {
        spans.iter().filter(|(_, b)| meets(*a, *b)).map(|(n, _)| n.abs_diff(*m) + 1).max().unwrap_or(1)
    };
    spans.iter().map(later).max().unwrap_or(1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::build;
    use crate::schedule::simulate::{Costs, simulate};
    use crate::split_stages::split_stages;
    use crate::split_stages::tests::{module, pipeline};
    use athanor_ir::pipeline::{Kind, UnitTime};
    use athanor_ir::target::CpuLevel;

    fn all() -> Vec<(Kind, usize, usize, usize)> {
        use Kind::{DualpipeV, Gpipe, Interleaved, OneFOneB, ZeroBubbleV};
        let loops = [(Gpipe, 3, 5, 1), (OneFOneB, 4, 6, 1), (OneFOneB, 4, 2, 1), (Interleaved, 2, 4, 3)];
        let vs = [(ZeroBubbleV, 2, 6, 2), (ZeroBubbleV, 4, 9, 2), (DualpipeV, 3, 7, 2)];
        loops.into_iter().chain(vs).collect()
    }

    #[test]
    fn what_stages_do_takes_as_long_as_the_schedule() {
        for (kind, stages, micro_batches, chunks) in all() {
            let schedule = generate(&Request { kind, stages, micro_batches, chunks, slices: 1 }).unwrap();
            let report = simulate(&schedule, Costs::UNIT).unwrap();
            let acts = acts(&schedule).unwrap();
            let acts: Vec<&[Act]> = acts.iter().map(Vec::as_slice).collect();
            let time = UnitTime::of(&acts, kind.splits());
            assert_eq!(
                (time.makespan, time.bubble),
                (report.makespan, report.bubble),
                "{kind:?} {stages} {micro_batches}"
            );
        }
    }

    /// (p − 1) slices through all three parts, whatever the number of slices.
    #[test]
    fn slices_leave_the_bubble_of_one_slice() {
        for (stages, micro_batches, slices) in [(2, 4, 2), (4, 4, 4), (3, 5, 3)] {
            let schedule =
                generate(&Request { kind: Kind::Seqpipe, stages, micro_batches, chunks: 1, slices }).unwrap();
            let acts = acts(&schedule).unwrap();
            let acts: Vec<&[Act]> = acts.iter().map(Vec::as_slice).collect();
            let time = UnitTime::of(&acts, false);
            let work = 3 * (micro_batches * slices) as u64;
            assert_eq!((time.makespan, time.bubble), (work + time.bubble, 3 * (stages as u64 - 1)));
            let pipeline = Pipeline { slices, ..pipeline(Kind::Seqpipe, &[&vec![1; stages]]) };
            let caches: Vec<usize> = acts.iter().map(|a| under_way(a, &pipeline)).collect();
            // Those of a micro-batch that ends, and of as many as the stages behind fill.
            let most = 1 + (stages + slices - 1).div_ceil(slices);
            assert!(caches.iter().all(|c| (1..=most).contains(c)), "{caches:?} of {most}");
        }
    }

    #[test]
    fn there_are_as_many_slots_as_micro_batches_in_flight() {
        let slots_of = |kind, stages, micro_batches| -> Vec<usize> {
            let schedule = generate(&Request { kind, stages, micro_batches, chunks: 1, slices: 1 }).unwrap();
            acts(&schedule).unwrap().iter().map(|a| slots(a)).collect()
        };
        assert_eq!(slots_of(Kind::Gpipe, 3, 5), [5, 5, 5]);
        // One activation may arrive while the stage still works on the one before.
        let one = slots_of(Kind::OneFOneB, 4, 8);
        assert!(one.iter().zip([4, 3, 2, 1]).all(|(got, most)| *got == most || *got == most + 1), "{one:?}");
    }

    #[test]
    fn a_slot_has_what_crosses_programs_and_nothing_else() {
        let module = split_stages(&module(&pipeline(Kind::OneFOneB, &[&[1, 1]]), 4)).unwrap();
        let options =
            PlanOptions { threads: 1, level: CpuLevel::Portable, config_hash: String::new(), reference: true };
        let plan = build(&module, &options).unwrap().plan;
        let s = &plan.stages[0];
        let p = s.pipeline.as_ref().unwrap();
        let stash: Vec<_> = s.buffers.iter().filter(|b| matches!(b.role, BufferRole::Stash { .. })).collect();
        let used = |name: &str| -> Vec<usize> {
            let steps = &s.program(name).unwrap().steps;
            steps.iter().flat_map(|s| s.inputs.iter().chain(&s.outputs)).copied().collect()
        };
        let (forward, backward) = (used("forward.0"), used("backward.0"));
        // What both programs touch is in the slot, and what arrives is.
        for (i, b) in s.buffers.iter().enumerate().filter(|(_, b)| b.live.is_some()) {
            let both = forward.contains(&i) && backward.contains(&i);
            let inside = matches!(b.role, BufferRole::Stash { .. });
            assert!(!both || inside, "{}", b.name);
        }
        assert_eq!(p.chunks[0].returns.len(), 1);
        assert!(stash.iter().all(|b| b.offset + b.bytes <= p.slots_at + p.slot_bytes && b.offset >= p.slots_at));
        assert_eq!(
            s.programs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
            ["forward.0", "backward.0", "update"]
        );
    }
}
