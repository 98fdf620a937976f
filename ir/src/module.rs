//! A module in decoded form: everything a dump carries, so that any dump is a complete program.

use crate::func::Func;
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
    /// `dp`, `tp`, `pp`, `cp` or `ep`.
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
    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
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
}
