//! The output layer and the loss.

use athanor_ir::{Binary, DType, Op, ReduceKind, TensorType, ValueId};

use super::{Layout, Net};

impl Net<'_> {
    /// Scores of every token of the vocabulary, `[b, s, v]` in the compute dtype: `lm_head`, or the embedding again.
    pub fn logits(&mut self, x: ValueId, table: ValueId) -> ValueId {
        let m = self.m;
        let x = self.to_compute(x);
        self.scope("lm_head", m.tie_word_embeddings.span.or(m.vocab_size.span), |n| {
            if m.tie_word_embeddings.value {
                let table = n.to_compute(table);
                return n.b.einsum("bsh,vh->bsv", x, table);
            }
            let init = n.normal();
            n.linear(x, m.vocab_size.value, false, Layout::OutIn, init)
        })
    }

    /// Cross entropy of `logits` with `labels [b, s]`, weighed by `mask [b, s]` f32; returned as f32 scalars.
    pub fn loss(&mut self, logits: ValueId, labels: ValueId, mask: ValueId) -> Loss {
        self.scope("loss", None, |n| {
            let loss = n.b.many(Op::CrossEntropy, &[logits, labels])[0];
            let kept = n.b.mul(loss, mask);
            let sum = n.b.reduce(ReduceKind::Sum, kept, &[0, 1]);
            let count = n.b.reduce(ReduceKind::Sum, mask, &[0, 1]);
            Loss { sum, count }
        })
    }

    /// The mean over counted tokens: sum / (count + 1e-8).
    pub fn mean(&mut self, loss: &Loss) -> ValueId {
        self.scope("loss", None, |n| {
            let small = n.b.constant(1e-8, TensorType::scalar(DType::F32));
            let count = n.b.add(loss.count, small);
            n.b.binary(Binary::Div, loss.sum, count)
        })
    }
}

/// The parts of a loss.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// Σ loss·mask
    pub sum: ValueId,
    /// Σ mask
    pub count: ValueId,
}
