//! What an op does to values that are spread over ranks: the facts that cutting and checking share.

use athanor_ir::experts::{GroupedForm, parse_grouped};
use athanor_ir::signature::Signature;
use athanor_ir::{Binary, Mesh, Op, ReduceKind, TensorType, Unary};

/// A set of axes of the mesh, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub(super) struct Axes(u32);

impl Axes {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn one(axis: usize) -> Self {
        Self(1 << axis)
    }

    /// Those of `names` that `mesh` has.
    pub(super) fn named(mesh: &Mesh, names: &[&str]) -> Self {
        names.iter().filter_map(|n| mesh.axis(n)).fold(Self::NONE, |all, a| all.or(Self::one(a)))
    }

    /// Number of ranks along them.
    pub(super) fn ranks(self, mesh: &Mesh) -> usize {
        self.iter().map(|a| mesh.axes[a].size).product()
    }

    /// Their names for an op, slowest first.
    pub(super) fn names(self, mesh: &Mesh) -> String {
        self.iter().map(|a| mesh.axes[a].name.as_str()).collect::<Vec<_>>().join(",")
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..32).filter(move |i| self.0 & (1 << i) != 0)
    }
}

/// How an op takes operands that are partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Linear {
    /// Of the first operand: if it is partial, the result is partial in the same way; the others must be whole.
    One,
    /// Of several: if all are partial in the same way, so is the result.
    Same,
    /// It needs whole values.
    No,
}

/// Whether partial values may stay partial through `op`.
pub(super) fn linear(op: &Op) -> Linear {
    match op {
        Op::Cast | Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Unary(Unary::Neg) => Linear::One,
        Op::Reduce { kind: ReduceKind::Sum, .. } | Op::Combine | Op::CombineDot => Linear::One,
        Op::Binary(Binary::Add | Binary::Sub) | Op::Concat { .. } => Linear::Same,
        _ => Linear::No,
    }
}

/// Whether `op` knows which row is which token's: ranks that share experts do it with the tokens of all of them.
pub(crate) fn together(op: &Op) -> bool {
    matches!(op, Op::Assign { .. } | Op::Dispatch { .. } | Op::Combine | Op::CombineDot)
}

/// Whether an op for which [`together`] holds sums over the dim `label`: not over tokens and their rows, though results may lack
/// them, since every part of the tokens has rows of its own.
pub(crate) fn is_summed(label: char) -> bool {
    label == 'h'
}

/// Labels of the op's dims with those joined that are cut together, and those that must stay whole; `None` for a call.
///
/// Query heads and key heads of attention are cut together: a block of key heads has the query heads that read it. The
/// loss is a function of all logits; that of a part of the vocabulary is another op. Each operand of
/// `nn.sum_squares` is summed for itself, so that its labels mean nothing.
///
/// Some of the tokens can be sorted by expert among themselves, unless a capacity makes them compete. Their rows are those of
/// that part: rows are cut as batch and sequence are together.
pub(crate) fn labels(op: &Op, ins: &[TensorType], outs: &[TensorType]) -> Option<Signature> {
    let mut s = op.signature(ins, outs)?;
    match op {
        _ if op.attend().is_some() => {
            s.operands.iter_mut().chain(&mut s.results).flatten().filter(|l| **l == 'g').for_each(|l| *l = 'n');
            if s.whole.contains(&'g') {
                s.whole.push('n');
            }
        }
        Op::CrossEntropy | Op::CrossEntropyGrad => s.whole.extend(s.operands[0].last()),
        Op::Assign { capacity: 0, .. } => s.whole.retain(|l| ['k', 'e', 'z'].contains(l)),
        Op::Dispatch { .. } | Op::Combine | Op::CombineDot => s.whole.retain(|l| *l == 'k'),
        Op::GroupedEinsum { .. } => s.whole.retain(|l| *l != 'r'),
        Op::Reduce { kind: ReduceKind::Max, dims } => s.whole.extend(dims.iter().map(|d| s.operands[0][*d])),
        _ => {}
    }
    Some(s)
}

/// What a product of experts does with their rows; `None` of another op.
pub(super) fn form(op: &Op) -> Option<GroupedForm> {
    match op {
        Op::GroupedEinsum { spec } => parse_grouped(spec).ok().map(|(form, _)| form),
        _ => None,
    }
}
