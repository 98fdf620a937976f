//! Who has which slot and which caches of a stage, and whether every part of every micro-batch, or slice of one, runs once and in time.

use athanor_ir::pipeline::{Act, Part, Pipeline, Task};
use athanor_ir::plan::{Plan, StagePipeline};
use std::collections::{HashMap, HashSet};

/// How far a micro-batch, or a slice of one, of a chunk has come.
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
    let Some(run) = &plan.run.pipeline else { return Ok(()) };
    let splits = run.schedule.splits();
    for (s, stage) in plan.stages.iter().enumerate() {
        let Some(pipeline) = &stage.pipeline else { continue };
        let (at, done, caches, last) = (HashMap::new(), HashSet::new(), HashMap::new(), None);
        let mut stage = Follower { run, pipeline, splits, at, done, caches, last };
        for (i, act) in pipeline.acts.iter().enumerate() {
            stage.act(act).map_err(|e| format!("stage {s}, act {i}: {e}"))?;
        }
        if let Some((key, _)) = stage.at.iter().min_by_key(|(key, _)| **key) {
            return Err(format!("stage {s} never ends {}", stage.what(*key)));
        }
        let all = plan.run.accumulation * run.slices * pipeline.chunks.len();
        if stage.done.len() != all {
            return Err(format!("stage {s} does {} of {all} micro-batches of its chunks", stage.done.len()));
        }
    }
    Ok(())
}

struct Follower<'a> {
    run: &'a Pipeline,
    pipeline: &'a StagePipeline,
    splits: bool,
    /// Micro-batches in flight, or slices of them, by chunk and number.
    at: HashMap<(usize, usize), Progress>,
    done: HashSet<(usize, usize)>,
    /// The micro-batch whose slices are under way by chunk and caches.
    caches: HashMap<(usize, usize), usize>,
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

    /// What `key` is, for people.
    fn what(&self, (chunk, number): (usize, usize)) -> String {
        let (micro, slice) = self.unit(number);
        let of_slice = if self.run.slices > 1 { format!("slice {slice} of ") } else { String::new() };
        format!("{of_slice}micro-batch {micro} of chunk {chunk}")
    }

    /// Micro-batch and slice with this number.
    fn unit(&self, number: usize) -> (usize, usize) {
        self.run.unit(Task { part: Part::F, chunk: 0, micro: number })
    }

    /// The micro-batch `key`, which begins in slot `slot` if `begins` and nobody else is there.
    fn of(&mut self, key: (usize, usize), slot: usize, begins: bool) -> Result<&mut Progress, String> {
        let what = self.what(key);
        if self.done.contains(&key) {
            return Err(format!("{what} has ended"));
        }
        if !self.at.contains_key(&key) {
            if !begins {
                return Err(format!("{what} has not begun"));
            }
            if let Some((other, _)) = self.at.iter().find(|(_, p)| p.slot == slot) {
                return Err(format!("slot {slot} has {}, not {what}", self.what(*other)));
            }
        }
        let progress = self.at.entry(key).or_insert(Progress { slot, ..Progress::default() });
        if progress.slot == slot {
            Ok(progress)
        } else {
            Err(format!("{what} is in slot {}, not {slot}", progress.slot))
        }
    }

    fn run(&mut self, task: Task, slot: usize) -> Result<(), String> {
        let chunk = self.pipeline.chunks.get(task.chunk).ok_or_else(|| format!("{task} is of no chunk"))?;
        let (fed, answered) = (chunk.arrives.is_empty(), chunk.returns.is_empty());
        let (leaves, splits) = (!chunk.leaves.is_empty(), self.splits);
        let key = (task.chunk, task.micro);
        let begins = task.part == Part::F && fed;
        if self.run.slices > 1 {
            self.slice(task)?;
        }
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

    /// Whether `task` of a slice may run: forward after the slice before it, whose keys it reads, backward after the one behind it,
    /// which adds to the gradients of its keys; and no other micro-batch of the chunk has its caches.
    fn slice(&mut self, task: Task) -> Result<(), String> {
        let ((micro, slice), cache) =
            (self.unit(task.micro), (task.chunk, self.pipeline.cache(self.unit(task.micro).0)));
        let after = |number: usize, done: fn(&Progress) -> bool| {
            let key = (task.chunk, number);
            self.at.get(&key).map_or(self.done.contains(&key), done)
        };
        let in_turn = match task.part {
            Part::F => slice == 0 || after(task.micro - 1, |p| p.forward),
            Part::B | Part::W => slice + 1 == self.run.slices || after(task.micro + 1, |p| p.backward),
        };
        if !in_turn {
            return Err(format!("{task} runs out of the order of slices"));
        }
        let begins = task.part == Part::F && slice == 0;
        match self.caches.get(&cache) {
            Some(other) if begins || *other != micro => {
                let chunk = task.chunk;
                return Err(format!("{task} finds its caches taken by micro-batch {other} of chunk {chunk}"));
            }
            None if !begins => return Err(format!("{task} finds nothing in its caches")),
            _ => {}
        }
        if task.part == Part::B && slice == 0 {
            self.caches.remove(&cache);
        } else {
            self.caches.insert(cache, micro);
        }
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
