//! The output layer and the loss.

use athanor_ir::{Binary, DType, Op, ReduceKind, TensorType, Unary, ValueId};

use super::Net;

/// What layers leave for the end: f32 scalars that are added to the loss, and the load of experts.
#[derive(Debug, Default)]
pub struct Side {
    /// Balance losses of the layers with experts, coefficients included.
    pub balance: Vec<ValueId>,
    /// Router z-losses, coefficient included.
    pub z: Vec<ValueId>,
    /// Block and tokens per expert `[e]` f32 of each layer with experts.
    pub load: Vec<(String, ValueId)>,
    /// Counts that are kept from one micro-batch of a step to the next, by name.
    pub state: Vec<(String, ValueId)>,
}

impl Net<'_> {
    /// The weight of the output layer in the compute dtype: `lm_head`, or the embedding `table` again; with `norm_head`
    /// its rows are divided by their length.
    pub fn output_layer(&mut self, table: ValueId) -> ValueId {
        let m = self.m;
        self.scope("lm_head", m.tie_word_embeddings.span.or(m.vocab_size.span), |n| {
            let w = if m.tie_word_embeddings.value {
                table
            } else {
                let init = n.normal();
                n.weight("weight", &[m.vocab_size.value, m.hidden_size.value], init)
            };
            let w = if m.norm_head.value { n.unit_rows(w) } else { w };
            n.to_compute(w)
        })
    }

    /// w / max(‖row‖, 1e-12).
    fn unit_rows(&mut self, w: ValueId) -> ValueId {
        let ty = self.b.ty(w);
        let squares = self.b.unary(Unary::Square, w);
        let sums = self.b.reduce(ReduceKind::Sum, squares, &[1]);
        let small = self.b.constant(1e-24, self.b.ty(sums));
        let sums = self.b.binary(Binary::Max, sums, small);
        let inverse = self.b.unary(Unary::Rsqrt, sums);
        let inverse = self.b.broadcast(inverse, &[0], &ty.dims);
        self.b.mul(w, inverse)
    }

    /// Scores of every token of the vocabulary, `[b, s, v]` in the compute dtype.
    pub fn logits(&mut self, x: ValueId, output: ValueId) -> ValueId {
        let x = self.to_compute(x);
        let m = self.m;
        self.scope("lm_head", m.tie_word_embeddings.span.or(m.vocab_size.span), |n| {
            n.b.einsum("bsh,vh->bsv", x, output)
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
    pub fn mean(&mut self, loss: Loss) -> ValueId {
        self.scope("loss", None, |n| {
            let small = n.b.constant(1e-8, TensorType::scalar(DType::F32));
            let count = n.b.add(loss.count, small);
            n.b.binary(Binary::Div, loss.sum, count)
        })
    }

    /// The sum of scalars; `None` of none.
    pub fn total(&mut self, parts: &[ValueId]) -> Option<ValueId> {
        let (first, rest) = parts.split_first()?;
        Some(self.scope("loss", None, |n| rest.iter().fold(*first, |sum, part| n.b.add(sum, *part))))
    }

    /// `x` times a number.
    pub fn times(&mut self, x: ValueId, factor: f64) -> ValueId {
        let factor = self.b.constant(factor, self.b.ty(x));
        self.b.mul(x, factor)
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
