//! Ranks that share experts bring their tokens together, sort all of them, and each has the rows of its own experts.

use super::local::Cutter;
use super::spread::{Axes, form};
use athanor_ir::experts::GroupedForm;
use athanor_ir::{CollectiveKind, Loc, Node, Op, TensorType, ValueId};

impl Cutter<'_> {
    /// As [`Self::local`], with the sequences of all ranks that share experts.
    pub(super) fn local_together(&self, value: ValueId) -> TensorType {
        let mut ty = self.func.ty(value).clone();
        for (d, size) in ty.dims.iter_mut().enumerate() {
            *size /= self.factors.axes_together(self.index, value, d).ranks(&self.module.mesh);
        }
        ty
    }

    /// The dim of `value` that ranks which share experts bring together for sorting, if it has one.
    fn shared_dim(&self, value: ValueId) -> Option<usize> {
        let at = |d: &usize| {
            self.factors.axes_of(self.index, value, *d) != self.factors.axes_together(self.index, value, *d)
        };
        (0..self.func.ty(value).rank()).find(at)
    }

    /// `x`, the new value of `value`, with the sequences of all ranks that share experts.
    pub(super) fn gathered(&mut self, value: ValueId, x: ValueId, loc: &Loc) -> ValueId {
        let Some(dim) = self.shared_dim(value) else { return x };
        if let Some(known) = self.gathered.get(&value) {
            return *known;
        }
        let all = self.collective(CollectiveKind::AllGather { dim }, self.factors.experts(), x, loc);
        self.gathered.insert(value, all);
        all
    }

    /// The spans of the own experts among `x`, the new value of the spans `value` of all.
    pub(super) fn own_spans(&mut self, value: ValueId, x: ValueId, loc: &Loc) -> ValueId {
        if self.factors.holders().is_empty() {
            return x;
        }
        if let Some(known) = self.spans.get(&value) {
            return *known;
        }
        let own = self.collective(CollectiveKind::OwnPart { dim: 0 }, self.factors.holders(), x, loc);
        self.spans.insert(value, own);
        own
    }

    /// Gives `old` its new value: each rank's part of `new`, which ranks that share experts have made together.
    pub(super) fn apart(&mut self, old: ValueId, new: ValueId, loc: &Loc) {
        let Some(dim) = self.shared_dim(old) else {
            self.new[old.0 as usize] = Some(new);
            return;
        };
        let (experts, partial) = (self.factors.experts(), self.partial_of(old));
        if !self.func.ty(old).dtype.is_float() {
            self.gathered.insert(old, new);
            return;
        }
        let summed = !experts.and(partial).is_empty();
        let kind = if summed { CollectiveKind::ReduceScatter { dim } } else { CollectiveKind::OwnPart { dim } };
        self.new[old.0 as usize] = Some(self.collective(kind, experts, new, loc));
        self.partial[old.0 as usize] = Some(partial.without(experts));
    }

    /// Over which axes the results of `node` have the rows of some experts only, and over which they are partial because
    /// operands have.
    pub(super) fn window_of(&self, node: &Node) -> (Axes, Axes) {
        let all = node.inputs.iter().fold(Axes::NONE, |all, v| all.or(self.window[v.0 as usize]));
        match (&node.op, form(&node.op)) {
            (_, Some(GroupedForm::Rows)) => (self.factors.holders(), Axes::NONE),
            // Of the rows of an expert the rank that has it has all.
            (_, Some(GroupedForm::Sums)) => (Axes::NONE, Axes::NONE),
            (Op::Combine | Op::CombineDot, _) => (Axes::NONE, all),
            _ => (all, Axes::NONE),
        }
    }
}
