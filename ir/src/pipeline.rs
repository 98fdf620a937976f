//! A pipeline of stages: how layers lie on them, in which order they work, and what a stage does in a step.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// Part of the work on one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// Forward.
    F,
    /// Backward: gradients of activations; those of weights too if the schedule does not split them off.
    B,
    /// Gradients of weights, where they are split off.
    W,
}

impl Part {
    /// Name of the program of a stage that does this part of a chunk: `forward.0`.
    pub fn program(self, chunk: usize) -> String {
        let stem = match self {
            Self::F => "forward",
            Self::B => "backward",
            Self::W => "weights",
        };
        format!("{stem}.{chunk}")
    }
}

/// One entry of a stage's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// All forward passes, then all backward passes.
    Gpipe,
    /// One forward, one backward.
    #[serde(rename = "1f1b")]
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

impl Kind {
    /// The spelling in configurations and plans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpipe => "gpipe",
            Self::OneFOneB => "1f1b",
            Self::Interleaved => "interleaved",
            Self::Seqpipe => "seqpipe",
            Self::ZeroBubbleV => "zero_bubble_v",
            Self::DualpipeV => "dualpipe_v",
        }
    }

    /// How the chunks of a model lie on the stages.
    pub const fn shape(self) -> Shape {
        match self {
            Self::ZeroBubbleV | Self::DualpipeV => Shape::V,
            Self::Gpipe | Self::OneFOneB | Self::Interleaved | Self::Seqpipe => Shape::Loop,
        }
    }

    /// Whether gradients of weights are tasks of their own.
    pub const fn splits(self) -> bool {
        matches!(self, Self::ZeroBubbleV | Self::DualpipeV)
    }
}

/// How the chunks of a model lie on the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Chunk 0 over stages 0, 1, …, then chunk 1 over stages 0, 1, ….
    Loop,
    /// Odd chunks run over the stages in reverse order.
    V,
}

impl Shape {
    /// Position in the model of chunk `chunk` of stage `stage` among `stages`, from 0 at the embedding.
    pub const fn position(self, stages: usize, stage: usize, chunk: usize) -> usize {
        let back = matches!(self, Self::V) && chunk % 2 == 1;
        chunk * stages + if back { stages - 1 - stage } else { stage }
    }

    /// Stage and chunk at a position of the model.
    pub const fn at(self, stages: usize, position: usize) -> (usize, usize) {
        let (chunk, along) = (position / stages, position % stages);
        let back = matches!(self, Self::V) && chunk % 2 == 1;
        (if back { stages - 1 - along } else { along }, chunk)
    }
}

/// How a model is cut into the stages of a pipeline, and in which order they work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Order of the work.
    pub schedule: Kind,
    /// Layers by chunk and stage.
    pub layers: Vec<Vec<usize>>,
    /// Slices that each sequence is cut into, which come through one after the other.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub slices: usize,
}

const fn whole() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_whole(slices: &usize) -> bool {
    *slices == 1
}

impl Pipeline {
    /// Micro-batch and slice of the unit that a task is of.
    pub fn unit(&self, task: Task) -> (usize, usize) {
        let slices = self.slices.max(1);
        (task.micro / slices, task.micro % slices)
    }

    /// Number of stages.
    pub fn stages(&self) -> usize {
        self.layers.first().map_or(0, Vec::len)
    }

    /// Whether every chunk says something of every stage, and there is a chunk.
    pub fn even(&self) -> bool {
        !self.layers.is_empty() && self.layers.iter().all(|chunk| chunk.len() == self.stages())
    }

    /// Number of positions: stages times chunks.
    pub fn positions(&self) -> usize {
        self.stages() * self.layers.len()
    }

    /// Position of layer `layer`; layers beyond the last are at the last position.
    pub fn position_of(&self, layer: usize) -> usize {
        let (stages, shape) = (self.stages(), self.schedule.shape());
        let mut end = 0;
        for position in 0..self.positions() {
            let (stage, chunk) = shape.at(stages, position);
            end += self.layers[chunk].get(stage).copied().unwrap_or(0);
            if layer < end {
                return position;
            }
        }
        self.positions().saturating_sub(1)
    }

    /// Layers of the whole model.
    pub fn all_layers(&self) -> usize {
        self.layers.iter().flatten().sum()
    }
}

/// Name of the input that says where a slice is: where the first token of a sequence is, counted from the first of the slice.
pub const FIRST: &str = "slice.first";

/// What a stage does next in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Run the program of a task on a slot.
    Run {
        /// The task.
        task: Task,
        /// Its slot.
        slot: usize,
    },
    /// Copy what a task left to where the next position, or the one before, wants it: another chunk of the stage.
    Pass {
        /// The task that made it.
        task: Task,
        /// The slot of that task.
        slot: usize,
        /// Chunk that reads it.
        chunk: usize,
        /// The slot that it goes to.
        to: usize,
    },
    /// Send what a task left to the stage of the next position, or of the one before.
    Send {
        /// The receiving stage.
        to: usize,
        /// The task that made it.
        task: Task,
        /// The slot of that task.
        slot: usize,
    },
    /// Receive what a task of another stage made.
    Receive {
        /// The sending stage.
        from: usize,
        /// The task, of that stage.
        task: Task,
        /// Chunk of this stage that reads it.
        chunk: usize,
        /// The slot that it goes to.
        slot: usize,
    },
}

/// A step of a pipeline in virtual time, where messages take none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnitTime {
    /// From the first start to the last end; forward pass, gradients of activations and gradients of weights of a chunk take
    /// one unit each.
    pub makespan: u64,
    /// Time that the busiest stage does not work.
    pub bubble: u64,
}

impl UnitTime {
    /// The time of what `stages` do; `splits` if gradients of weights are tasks of their own. What waits for ever is left out.
    pub fn of(stages: &[&[Act]], splits: bool) -> Self {
        let mut sent: HashMap<(usize, Task), u64> = HashMap::new();
        let (mut at, mut now, mut busy) = (vec![0; stages.len()], vec![0_u64; stages.len()], vec![0_u64; stages.len()]);
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for (s, acts) in stages.iter().enumerate() {
                while let Some(act) = acts.get(at[s]) {
                    match act {
                        Act::Run { task, .. } => {
                            let units = if task.part == Part::B && !splits { 2 } else { 1 };
                            now[s] += units;
                            busy[s] += units;
                        }
                        Act::Send { task, .. } => _ = sent.insert((s, *task), now[s]),
                        Act::Pass { .. } => {}
                        Act::Receive { from, task, .. } => {
                            let Some(there) = sent.get(&(*from, *task)) else { break };
                            now[s] = now[s].max(*there);
                        }
                    }
                    at[s] += 1;
                    moved = true;
                }
            }
        }
        let makespan = now.into_iter().max().unwrap_or(0);
        Self { makespan, bubble: makespan - busy.into_iter().max().unwrap_or(0) }
    }
}

/// Name of function `name` of stage `stage` of a pipeline: `stage1.update`.
pub fn stage_func(stage: usize, name: &str) -> String {
    format!("stage{stage}.{name}")
}

/// Stage and plain name of a function that belongs to a stage of a pipeline.
pub fn func_of_stage(name: &str) -> Option<(usize, &str)> {
    let (stage, rest) = name.strip_prefix("stage")?.split_once('.')?;
    Some((stage.parse().ok()?, rest))
}

/// Name of the function of chunk `chunk` of a stage: what `micro` is on one device.
pub fn micro_of(chunk: usize) -> String {
    format!("micro{chunk}")
}

/// Whether `name` is the function of a micro-batch: `micro`, or a chunk of a stage; with the chunk.
pub fn is_micro(name: &str) -> Option<usize> {
    if name == "micro" {
        return Some(0);
    }
    func_of_stage(name)?.1.strip_prefix("micro")?.parse().ok()
}

/// Names of the values that arrive from the position before, and with `grad.` of those that go back.
pub fn handed(index: usize) -> String {
    format!("handed.{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_follow_the_shape() {
        let even = Pipeline { schedule: Kind::Interleaved, layers: vec![vec![2, 1], vec![1, 1]], slices: 1 };
        assert_eq!((0..6).map(|l| even.position_of(l)).collect::<Vec<_>>(), [0, 0, 1, 2, 3, 3]);
        let v = Pipeline { schedule: Kind::ZeroBubbleV, layers: vec![vec![1, 1], vec![0, 2]], slices: 1 };
        // Stage 1 has positions 1 and 2, stage 0 the first and the last.
        assert_eq!((0..5).map(|l| v.position_of(l)).collect::<Vec<_>>(), [0, 1, 2, 2, 3]);
        assert_eq!(v.schedule.shape().at(2, 2), (1, 1));
        assert_eq!((v.stages(), v.positions(), v.all_layers()), (2, 4, 4));
    }

    #[test]
    fn functions_know_their_stage() {
        assert_eq!(func_of_stage(&stage_func(3, "update")), Some((3, "update")));
        assert_eq!((is_micro("micro"), is_micro("stage0.micro2"), is_micro("stage0.update")), (Some(0), Some(2), None));
        assert_eq!(func_of_stage("update"), None);
    }
}
