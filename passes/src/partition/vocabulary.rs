//! Embedding and loss where ranks have parts of the vocabulary.

use super::local::Cutter;
use super::spread::Axes;
use athanor_ir::{Binary, Builder, CollectiveKind, Loc, Node, Op, ReduceKind, Unary, ValueId};

impl Cutter<'_> {
    /// `x`, the new value of `ids`, counted from the first of the own part of dim `of.1` of `of.0`.
    pub(super) fn own_ids(&mut self, ids: ValueId, x: ValueId, of: (ValueId, usize), loc: &Loc) -> ValueId {
        let axes = self.cut_of(of.0, of.1);
        if axes.is_empty() {
            return x;
        }
        let size = self.local(of.0).dims[of.1];
        if let Some(known) = self.ids.get(&(ids, size)) {
            return *known;
        }
        let own = self.collective(CollectiveKind::OwnIds { size }, axes, x, loc);
        self.ids.insert((ids, size), own);
        own
    }

    /// Writes `node` if it is a loss over logits that are cut, or its gradient.
    ///
    /// With the logarithm l of the sum of exponentials of each part, and m the largest of them, that of all is
    /// m + ln Σ exp(l − m); the one part that has the label gives its logit, the others 0.
    pub(super) fn part_loss(&mut self, node: &Node) -> bool {
        if !matches!(node.op, Op::CrossEntropy | Op::CrossEntropyGrad) {
            return false;
        }
        let (logits, last) = (node.inputs[0], self.local(node.inputs[0]).rank() - 1);
        let axes = self.cut_of(logits, last);
        if axes.is_empty() {
            return false;
        }
        let loc = &node.loc;
        let mut inputs: Vec<ValueId> = node.inputs.iter().map(|v| self.whole_but(*v, Axes::NONE, loc)).collect();
        inputs[1] = self.own_ids(node.inputs[1], inputs[1], (logits, last), loc);
        let ty = self.local(node.outputs[0]);
        if node.op == Op::CrossEntropyGrad {
            let grad = self.out.push(Op::PartEntropyGrad, &inputs, vec![ty], loc)[0];
            self.define(node.outputs[0], grad);
            return true;
        }
        let part = self.out.push(Op::PartEntropy, &inputs, vec![ty.clone(), ty], loc);
        let most = self.collective(CollectiveKind::AllReduce { reduce: ReduceKind::Max }, axes, part[1], loc);
        let mut b = Builder::new(&mut self.out, loc.clone());
        let below = b.binary(Binary::Sub, part[1], most);
        let share = b.unary(Unary::Exp, below);
        let sum = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
        let all = self.collective(sum, axes, share, loc);
        let logit = self.collective(sum, axes, part[0], loc);
        let mut b = Builder::new(&mut self.out, loc.clone());
        let above = b.unary(Unary::Log, all);
        let lse = b.add(most, above);
        let loss = b.binary(Binary::Sub, lse, logit);
        self.define(node.outputs[0], loss);
        self.define(node.outputs[1], lse);
        true
    }
}
