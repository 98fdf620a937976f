//! Attention in a ring: keys and values go from rank to rank, so that none has all of them.
//!
//! Each rank has its own queries. At step j it has the keys and values of the rank j before (`shift`), which its queries see all
//! or nothing of but for its own, and goes on from what the keys before gave: `nn.attention_step` takes out and logarithms of
//! sums of other keys. Backward the keys go round again. The gradient of queries is added up where they are; that of keys and
//! values goes with them, and is home after one step more. What is added up over steps is in f32.
//!
//! The next keys are asked for before those at hand are used, so that they can be on their way meanwhile. The order of blocks is
//! another on each rank, and the same in every run.

use super::context::Own;
use super::local::Cutter;
use athanor_ir::attention::wide;
use athanor_ir::{Binary, Builder, CollectiveKind, DType, Node, Op, TensorType, ValueId};

/// Operands of a gradient: queries, keys, values, out, logarithms of sums, gradient of out.
const OPERANDS: usize = 6;
/// The dim of keys and values that is a head's width.
const WIDTH: usize = 3;

impl Cutter<'_> {
    /// Attention of the own queries to the keys of all ranks along `own.gathered`; `inputs` are the operands with what other ranks
    /// along `own.heads` have. The results are out and the logarithms of sums.
    pub(super) fn attend_in_ring(&mut self, node: &Node, inputs: &[ValueId], own: Own<'_>) -> Vec<ValueId> {
        let &[q, mut k, mut v] = inputs else { unreachable!("attention has three operands") };
        let (ranks, values) = (self.ranks(own.gathered), self.out.ty(v).dims[3]);
        let mut out = self.out.ty(q).clone();
        out.dims[3] = values;
        let lse = self.local_rows(q);
        let mut results: Vec<ValueId> = vec![];
        for back in 0..ranks {
            let (keys, next) = (self.block(q, back, own), (back + 1 < ranks).then(|| self.shift_both(k, v, own)));
            let operands: Vec<ValueId> = [q, k, v].into_iter().chain(keys).chain(results).collect();
            let out = if next.is_some() { wide(&out) } else { out.clone() };
            results = self.out.push(step(node, back), &operands, vec![out, lse.clone()], own.loc);
            (k, v) = next.unwrap_or((k, v));
        }
        results
    }

    /// The gradients of queries, and of the own keys and values by all queries.
    pub(super) fn attend_back_in_ring(&mut self, node: &Node, inputs: &[ValueId], own: Own<'_>) -> Vec<ValueId> {
        let &[q, mut k, mut v, ..] = inputs else { unreachable!("a gradient has more operands") };
        let ranks = self.ranks(own.gathered);
        let types = [q, k, v].map(|x| self.out.ty(x).clone());
        let mut dq = None;
        let mut carried = None;
        for back in 0..ranks {
            let (keys, next) = (self.block(q, back, own), (back + 1 < ranks).then(|| self.shift_both(k, v, own)));
            let mut operands = inputs[..OPERANDS].to_vec();
            (operands[1], operands[2]) = (k, v);
            operands.extend(keys.into_iter().chain(dq));
            let of_queries = if next.is_some() { wide(&types[0]) } else { types[0].clone() };
            let results = vec![of_queries, types[1].clone(), types[2].clone()];
            let gradients = self.out.push(step(node, back), &operands, results, own.loc);
            dq = Some(gradients[0]);
            carried = Some(self.carry(carried, &gradients[1..], own));
            (k, v) = next.unwrap_or((k, v));
        }
        let mut results: Vec<ValueId> = dq.into_iter().collect();
        let (mut b, mut start) = (Builder::new(&mut self.out, own.loc.clone()), 0);
        for ty in &types[1..] {
            let all = carried.map(|sum| b.slice(sum, WIDTH, start, ty.dims[WIDTH]));
            results.extend(all.map(|sum| b.cast(sum, ty.dtype)));
            start += ty.dims[WIDTH];
        }
        results
    }

    /// `sum`, which has been carried here, and the `gradients` of keys and values, on their way to the next rank: side by side,
    /// so that they are one message.
    fn carry(&mut self, sum: Option<ValueId>, gradients: &[ValueId], own: Own<'_>) -> ValueId {
        let dtype = wide(self.out.ty(gradients[0])).dtype;
        let mut b = Builder::new(&mut self.out, own.loc.clone());
        let gradients: Vec<ValueId> = gradients.iter().map(|g| b.cast(*g, dtype)).collect();
        let both = b.many(Op::Concat { dim: WIDTH }, &gradients)[0];
        let all = sum.map_or(both, |sum| b.binary(Binary::Add, sum, both));
        self.collective(CollectiveKind::Shift, own.gathered, all, own.loc)
    }

    /// The keys and values of the rank before. Where they are one value they are sent once.
    fn shift_both(&mut self, k: ValueId, v: ValueId, own: Own<'_>) -> (ValueId, ValueId) {
        let mut shift = |x| self.collective(CollectiveKind::Shift, own.gathered, x, own.loc);
        let next = shift(k);
        (next, if v == k { next } else { shift(v) })
    }

    /// Where the first key of the rank `back` before is, counted from the first query of `q`; none for the own keys, which begin
    /// together with the queries.
    fn block(&mut self, q: ValueId, back: usize, own: Own<'_>) -> Option<ValueId> {
        let size = self.out.ty(q).dims[1];
        (back > 0).then(|| {
            let mut b = Builder::new(&mut self.out, own.loc.clone());
            let zero = b.constant(0.0, TensorType::scalar(DType::I32));
            self.collective(CollectiveKind::BlockIds { size, back }, own.gathered, zero, own.loc)
        })
    }

    /// Type of a number for each query and head of `q [b, s, n, d]`: `[b, n, s]`.
    fn local_rows(&self, q: ValueId) -> TensorType {
        let ty = self.out.ty(q);
        wide(&ty.with_dims([ty.dims[0], ty.dims[2], ty.dims[1]]))
    }
}

/// The op of a step of causal attention, or of its gradient, with the keys of the rank `back` before: the first is that of the
/// whole.
fn step(node: &Node, back: usize) -> Op {
    match node.op {
        Op::Attention { scale, alibi, .. } if back > 0 => Op::AttentionStep { scale, alibi },
        Op::AttentionGrad { scale, alibi, .. } if back > 0 => Op::AttentionStepGrad { scale, alibi },
        ref op => op.clone(),
    }
}
