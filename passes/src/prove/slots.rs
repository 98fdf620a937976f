//! Who has which slot of a stage, and whether every part of every micro-batch runs once and in time.

use athanor_ir::pipeline::{Act, Part, Task};
use athanor_ir::plan::{Plan, StagePipeline};
use std::collections::{HashMap, HashSet};

/// How far a micro-batch of a chunk has come.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that happens once")]
struct Progress {
    slot: usize,
    arrived: bool,
    forward: bool,
    left: bool,
    returned: bool,
    backward: bool,
    gone_back: bool,
    weights: bool,
}

/// Follows the acts of every stage of `plan`.
///
/// # Errors
/// The first act that finds a slot taken, reads what is not there or comes twice, and parts that never run.
pub(super) fn kept(plan: &Plan) -> Result<(), String> {
    let splits = plan.run.pipeline.as_ref().is_some_and(|p| p.schedule.splits());
    for (s, stage) in plan.stages.iter().enumerate() {
        let Some(pipeline) = &stage.pipeline else { continue };
        let mut stage = Follower { pipeline, splits, at: HashMap::new(), done: HashSet::new(), last: None };
        for (i, act) in pipeline.acts.iter().enumerate() {
            stage.act(act).map_err(|e| format!("stage {s}, act {i}: {e}"))?;
        }
        if let Some(((chunk, micro), _)) = stage.at.iter().min_by_key(|(key, _)| **key) {
            return Err(format!("stage {s} never ends micro-batch {micro} of chunk {chunk}"));
        }
        let all = plan.run.accumulation * pipeline.chunks.len();
        if stage.done.len() != all {
            return Err(format!("stage {s} does {} of {all} micro-batches of its chunks", stage.done.len()));
        }
    }
    Ok(())
}

struct Follower<'a> {
    pipeline: &'a StagePipeline,
    splits: bool,
    /// Micro-batches in flight by chunk and number.
    at: HashMap<(usize, usize), Progress>,
    done: HashSet<(usize, usize)>,
    /// The task that ran last, and its slot: what it left outside of slots is there until another one runs.
    last: Option<(Task, usize)>,
}

impl Follower<'_> {
    fn act(&mut self, act: &Act) -> Result<(), String> {
        match *act {
            Act::Run { task, slot } => self.run(task, slot),
            Act::Send { task, slot, .. } => self.leave(task, slot),
            Act::Receive { task, chunk, slot, .. } => self.arrive(task, chunk, slot),
            Act::Pass { task, slot, chunk, to } => {
                // The copy is made before the slot that it comes from is anyone else's.
                self.arrive(task, chunk, to)?;
                self.leave(task, slot)
            }
        }
    }

    /// The micro-batch `key`, which begins in slot `slot` if `begins` and nobody else is there.
    fn of(&mut self, key: (usize, usize), slot: usize, begins: bool) -> Result<&mut Progress, String> {
        let (chunk, micro) = key;
        if self.done.contains(&key) {
            return Err(format!("micro-batch {micro} of chunk {chunk} has ended"));
        }
        if !self.at.contains_key(&key) {
            if !begins {
                return Err(format!("micro-batch {micro} of chunk {chunk} has not begun"));
            }
            if let Some(((c, m), _)) = self.at.iter().find(|(_, p)| p.slot == slot) {
                return Err(format!("slot {slot} has micro-batch {m} of chunk {c}, not {micro} of chunk {chunk}"));
            }
        }
        let progress = self.at.entry(key).or_insert(Progress { slot, ..Progress::default() });
        if progress.slot == slot {
            Ok(progress)
        } else {
            Err(format!("micro-batch {micro} of chunk {chunk} is in slot {}, not {slot}", progress.slot))
        }
    }

    fn run(&mut self, task: Task, slot: usize) -> Result<(), String> {
        let chunk = self.pipeline.chunks.get(task.chunk).ok_or_else(|| format!("{task} is of no chunk"))?;
        let (fed, answered) = (chunk.arrives.is_empty(), chunk.returns.is_empty());
        let (leaves, splits) = (!chunk.leaves.is_empty(), self.splits);
        let key = (task.chunk, task.micro);
        let begins = task.part == Part::F && fed;
        let p = self.of(key, slot, begins)?;
        let ready = match task.part {
            Part::F => (p.arrived || fed) && !p.forward,
            Part::B => p.forward && (p.left || !leaves) && (p.returned || answered) && !p.backward,
            Part::W => splits && p.backward && !p.weights,
        };
        if !ready {
            return Err(format!("{task} runs before what it needs, or twice"));
        }
        match task.part {
            Part::F => p.forward = true,
            Part::B => p.backward = true,
            Part::W => p.weights = true,
        }
        self.last = Some((task, slot));
        self.end(key);
        Ok(())
    }

    /// What a task left goes away.
    fn leave(&mut self, task: Task, slot: usize) -> Result<(), String> {
        if self.last != Some((task, slot)) {
            return Err(format!("what {task} left in slot {slot} is sent after another program has run"));
        }
        let key = (task.chunk, task.micro);
        let p = self.of(key, slot, false)?;
        let gone = if task.part == Part::F { &mut p.left } else { &mut p.gone_back };
        if std::mem::replace(gone, true) {
            return Err(format!("what {task} left is sent twice"));
        }
        self.end(key);
        Ok(())
    }

    /// What a task of another position left comes to chunk `chunk`.
    fn arrive(&mut self, task: Task, chunk: usize, slot: usize) -> Result<(), String> {
        let p = self.of((chunk, task.micro), slot, task.part == Part::F)?;
        let (there, early) = if task.part == Part::F { (&mut p.arrived, false) } else { (&mut p.returned, !p.forward) };
        if early || std::mem::replace(there, true) {
            return Err(format!("what {task} left arrives too early, or twice"));
        }
        Ok(())
    }

    /// Frees the slot of `key` if all is done.
    fn end(&mut self, key: (usize, usize)) {
        let goes_back = !self.pipeline.chunks[key.0].goes_back.is_empty();
        let ended = |p: &Progress| p.backward && (p.weights || !self.splits) && (p.gone_back || !goes_back);
        if self.at.get(&key).is_some_and(ended) {
            self.at.remove(&key);
            self.done.insert(key);
        }
    }
}
