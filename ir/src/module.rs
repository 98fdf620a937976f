//! A module in decoded form: everything a dump carries, so that any dump is a complete program.

use crate::func::{Func, Node};
use crate::op::Op;
use crate::run::RunSpec;
use serde::{Deserialize, Serialize};

/// How far a module has come through the passes; the verifier checks what each level promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// `forward` alone: the model and its loss, as the frontend built it.
    Model,
    /// `micro` (loss and gradients of one micro-batch) and `update` (optimizer step).
    Train,
    /// Fused groups are functions of their own; what is left is one kernel call per node.
    Kernel,
}

impl Level {
    /// The spelling in IR.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Train => "train",
            Self::Kernel => "kernel",
        }
    }
}

/// One axis of the device mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// `dp`, `dp_shard`, `ep`, `cp`, `up`, `tp` or `pp`.
    pub name: String,
    /// Number of ranks along it.
    pub size: usize,
}

/// The device mesh: its axes from slowest to fastest varying rank.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mesh {
    /// Axes; empty for a single rank.
    pub axes: Vec<Axis>,
}

impl Mesh {
    /// The axes along which ranks have other sequences, slowest first: replicas, those of them that share weights or what
    /// belongs to weights, and those that share experts.
    pub const BATCH: [&str; 3] = ["dp", "dp_shard", "ep"];

    /// The axes along which ranks have other parts of the same sequences, slowest first. For attention ranks along `cp` gather
    /// each other's keys and values; those along `up` exchange parts of the sequence for heads.
    pub const SEQUENCE: [&str; 2] = ["cp", "up"];

    /// Number of parts that the batch is cut in.
    pub fn replicas(&self) -> usize {
        Self::BATCH.iter().map(|axis| self.size(axis)).product()
    }

    /// Which part of the batch is that of `rank`.
    pub fn replica(&self, rank: usize) -> usize {
        Self::BATCH.iter().fold(0, |at, axis| at * self.size(axis) + self.position(axis, rank))
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.axes.iter().fold(1, |n, a| n.saturating_mul(a.size))
    }

    /// Index of the axis called `name`.
    pub fn axis(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|a| a.name == name)
    }

    /// Number of ranks along the axis called `name`: 1 if there is none.
    pub fn size(&self, name: &str) -> usize {
        self.axis(name).map_or(1, |i| self.axes[i].size)
    }

    /// Where `rank` is along each axis: the last one varies fastest.
    pub fn coordinates(&self, rank: usize) -> Vec<usize> {
        let mut rest = rank;
        let mut at: Vec<usize> = self
            .axes
            .iter()
            .rev()
            .map(|a| {
                let i = rest % a.size.max(1);
                rest /= a.size.max(1);
                i
            })
            .collect();
        at.reverse();
        at
    }

    /// The first rank whose position along the axis called `name` is `position`.
    pub fn first_at(&self, name: &str, position: usize) -> usize {
        self.axis(name).map_or(0, |i| position * self.axes[i + 1..].iter().map(|a| a.size).product::<usize>())
    }

    /// Where `rank` is along the axis called `name`: 0 if there is none.
    pub fn position(&self, name: &str, rank: usize) -> usize {
        self.axis(name).map_or(0, |i| self.coordinates(rank)[i])
    }

    /// The ranks whose coordinates are those of `rank` but for `axes`, in their order.
    pub fn group(&self, axes: &[&str], rank: usize) -> Vec<usize> {
        let own = self.coordinates(rank);
        let mut members = vec![0];
        for (axis, at) in self.axes.iter().zip(own) {
            let here = if axes.contains(&axis.name.as_str()) { 0..axis.size } else { at..at + 1 };
            members = members.iter().flat_map(|m| here.clone().map(move |i| m * axis.size + i)).collect();
        }
        members
    }
}

/// A whole program between two passes.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Model family, for people.
    pub name: String,
    /// How far it has come.
    pub level: Level,
    /// Device mesh.
    pub mesh: Mesh,
    /// What training needs beside the functions.
    pub run: RunSpec,
    /// Functions in the order they are printed.
    pub funcs: Vec<Func>,
}

impl Module {
    /// The function called `name`.
    pub fn func(&self, name: &str) -> Option<&Func> {
        self.funcs.iter().find(|f| f.name == name)
    }

    /// Names of the functions that others repeat.
    pub fn repeated(&self) -> Vec<&str> {
        fn callee(node: &Node) -> Option<&str> {
            if let Op::Repeat { callee } = &node.op { Some(callee) } else { None }
        }
        self.funcs.iter().flat_map(|f| &f.nodes).filter_map(callee).collect()
    }
}
