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

pub use athanor_ir::pipeline::{Kind, Part, Shape, Task};

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
        self.shape.position(self.stages.len(), stage, chunk)
    }

    /// Stage and chunk at a position of the model.
    pub fn at(&self, position: usize) -> (usize, usize) {
        self.shape.at(self.stages.len(), position)
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
