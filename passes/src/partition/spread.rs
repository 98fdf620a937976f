//! What an op does to values that are spread over ranks: the facts that cutting and checking share.

use athanor_ir::signature::Signature;
use athanor_ir::{Binary, Op, ReduceKind, TensorType, Unary};

/// A set of axes of the mesh, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub(super) struct Axes(u32);

impl Axes {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn one(axis: usize) -> Self {
        Self(1 << axis)
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
    /// Of one operand: the result of a partial operand is partial in the same way.
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
        Op::Reduce { kind: ReduceKind::Sum, .. } => Linear::One,
        Op::Binary(Binary::Add | Binary::Sub) | Op::Concat { .. } => Linear::Same,
        _ => Linear::No,
    }
}

/// Labels of the op's dims with those joined that are cut together, and those that must stay whole; `None` for a call.
///
/// Query heads and key heads of attention are cut together: a block of key heads has the query heads that read it. A
/// vocabulary is whole: ids are rows of all of it, and the loss is a function of all logits. Each operand of
/// `nn.sum_squares` is summed for itself, so that its labels mean nothing.
pub(super) fn labels(op: &Op, ins: &[TensorType], outs: &[TensorType]) -> Option<Signature> {
    let mut s = op.signature(ins, outs)?;
    match op {
        Op::Attention { .. } | Op::AttentionGrad { .. } => {
            s.operands.iter_mut().chain(&mut s.results).flatten().filter(|l| **l == 'g').for_each(|l| *l = 'n');
            if s.whole.contains(&'g') {
                s.whole.push('n');
            }
        }
        Op::CrossEntropy | Op::CrossEntropyGrad => s.whole.extend(s.operands[0].last()),
        Op::Embed | Op::EmbedGrad { .. } => s.whole.push('v'),
        Op::Reduce { kind: ReduceKind::Max, dims } => s.whole.extend(dims.iter().map(|d| s.operands[0][*d])),
        _ => {}
    }
    Some(s)
}
