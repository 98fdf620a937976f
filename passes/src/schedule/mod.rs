//! Pipeline schedules as data: for every stage a list of (forward, backward or weight part, chunk, micro-batch).
//!
//! A schedule says nothing of layers or tensors. One generator per kind makes the lists ([`generate`]), one validator says
//! whether they can run ([`validate::validate`]), one routine finds the messages between stages ([`messages::lower`]) and
//! one simulator prices them ([`simulate::simulate`]). A new schedule is a new generator and nothing else.

pub mod generate;
mod interleaved;
pub mod messages;
pub mod simulate;
pub mod validate;
mod vshape;

use std::fmt;

/// Part of the work on one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Forward.
    F,
    /// Backward: gradients of activations; those of weights too if the schedule does not split them off.
    B,
    /// Gradients of weights, where they are split off.
    W,
}

/// One entry of a stage's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Task {
    /// Which part.
    pub part: Part,
    /// Chunk of layers on this stage, from 0.
    pub chunk: usize,
    /// Micro-batch, or slice of one: slice j of micro-batch i is number `i · slices + j`.
    pub micro: usize,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}.{}", self.part, self.micro, self.chunk)
    }
}

/// Kinds of schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// All forward passes, then all backward passes.
    Gpipe,
    /// One forward, one backward.
    OneFOneB,
    /// One forward, one backward over several chunks of layers per stage (`pp_interleave_num`).
    Interleaved,
    /// One forward, one backward over slices of sequences (`seq_split_num`).
    Seqpipe,
    /// Two chunks per stage in the shape of a V, weight gradients split off to fill the gaps.
    ZeroBubbleV,
    /// Two chunks per stage in the shape of a V, forward and backward of different micro-batches overlapped.
    DualpipeV,
}

/// How the chunks of a model lie on the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Chunk 0 over stages 0, 1, …, then chunk 1 over stages 0, 1, ….
    Loop,
    /// Odd chunks run over the stages in reverse order.
    V,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// How chunks follow one another.
    pub shape: Shape,
    /// Chunks of layers per stage.
    pub chunks: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Slices that each sequence is cut into; 1 if it is not.
    pub slices: usize,
    /// Whether weight gradients are tasks of their own.
    pub split: bool,
    /// The tasks of each stage in order.
    pub stages: Vec<Vec<Task>>,
}

impl Schedule {
    /// Position of chunk `chunk` of stage `stage` in the model, from 0 at the embedding.
    pub fn position(&self, stage: usize, chunk: usize) -> usize {
        let p = self.stages.len();
        let along = if self.shape == Shape::V && chunk % 2 == 1 { p - 1 - stage } else { stage };
        chunk * p + along
    }

    /// Stage and chunk at a position of the model.
    pub fn at(&self, position: usize) -> (usize, usize) {
        let p = self.stages.len();
        let (chunk, along) = (position / p, position % p);
        (if self.shape == Shape::V && chunk % 2 == 1 { p - 1 - along } else { along }, chunk)
    }

    /// Positions of the whole model.
    pub fn positions(&self) -> usize {
        self.stages.len() * self.chunks
    }

    /// Micro-batches times slices.
    pub fn units(&self) -> usize {
        self.micro_batches * self.slices
    }

    /// The tasks, each with its stage, that must be done before `task` of `stage` may start.
    ///
    /// A forward pass needs that of the chunk before it, and with slices that of the slice before it (whose keys and
    /// values it reads). A backward pass needs its own forward pass, that of the chunk after it, and of the slice after it.
    pub fn needs(&self, stage: usize, task: Task) -> Vec<(usize, Task)> {
        let here = self.position(stage, task.chunk);
        let at = |position: usize, part: Part| {
            let (stage, chunk) = self.at(position);
            (stage, Task { part, chunk, ..task })
        };
        let slice = task.micro % self.slices.max(1);
        match task.part {
            Part::F => {
                let before = (here > 0).then(|| at(here - 1, Part::F));
                let earlier = (slice > 0).then(|| (stage, Task { micro: task.micro - 1, ..task }));
                before.into_iter().chain(earlier).collect()
            }
            Part::B => {
                let own = (stage, Task { part: Part::F, ..task });
                let after = (here + 1 < self.positions()).then(|| at(here + 1, Part::B));
                let later = (slice + 1 < self.slices).then(|| (stage, Task { micro: task.micro + 1, ..task }));
                std::iter::once(own).chain(after).chain(later).collect()
            }
            Part::W => vec![(stage, Task { part: Part::B, ..task })],
        }
    }
}

#[cfg(test)]
mod tests;
