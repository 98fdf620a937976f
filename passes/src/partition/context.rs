//! Context parallelism: ranks have parts of every sequence.
//!
//! Most ops look at one token. Those that do not are tables of positions, of which each rank takes the rows of its own tokens;
//! slices and concatenations along the sequence, of which the whole is made on every rank; and attention. Ranks along `up`
//! exchange their parts of the sequence for heads before it (Ulysses): each has all tokens of some heads, and afterwards gets its
//! own tokens of all heads back. Ranks along `cp` gather keys and values, and each has its own queries: where they are among the
//! keys is an operand, made of the position of the rank (`own_ids`), since all ranks run one program. Or keys and values go from
//! rank to rank (`ring.rs`). Where both are, tokens are exchanged first.

use super::cannot;
use super::local::Cutter;
use super::spread::Axes;
use athanor_ir::infer::infer;
use athanor_ir::run::Keys;
use athanor_ir::{Builder, CollectiveKind, DType, Loc, Node, Op, Result, TensorType, ValueId};

/// Dims of queries, keys, values and what attention makes of them.
const SEQUENCE: usize = 1;
const HEADS: usize = 2;

impl Cutter<'_> {
    /// Writes `node` if it looks along a sequence that is cut.
    ///
    /// # Errors
    /// [`super::CANNOT_CUT`] if there are too few heads.
    pub(super) fn along_sequence(&mut self, node: &Node) -> Result<bool> {
        match node.op {
            Op::RopeTable { .. } => Ok(self.positions(node)),
            Op::Slice { dim, .. } | Op::Concat { dim } => Ok(self.shifted(node, dim)),
            Op::Attention { .. } | Op::AttentionGrad { .. } => self.attend(node),
            _ => Ok(false),
        }
    }

    /// Each rank takes its own rows of a table of all positions.
    fn positions(&mut self, node: &Node) -> bool {
        let axes = self.cut_of(node.outputs[0], 0);
        if axes.is_empty() {
            return false;
        }
        let types = node.outputs.iter().map(|v| self.func.ty(*v).clone()).collect();
        let whole = self.out.push(node.op.clone(), &[], types, &node.loc);
        for (old, table) in node.outputs.iter().zip(whole) {
            let own = self.collective(CollectiveKind::OwnPart { dim: 0 }, axes, table, &node.loc);
            self.define(*old, own);
        }
        true
    }

    /// A slice or concatenation along `dim` of what is cut there: made whole, of which each rank takes its part.
    fn shifted(&mut self, node: &Node, dim: usize) -> bool {
        let out = node.outputs[0];
        let own = self.cut_of(out, dim);
        if own.is_empty() && node.inputs.iter().all(|v| self.cut_of(*v, dim).is_empty()) {
            return false;
        }
        let keep = self.kept(node);
        let mut inputs = vec![];
        for v in &node.inputs {
            let (part, axes) = (self.whole_but(*v, keep, &node.loc), self.cut_of(*v, dim));
            inputs.push(if axes.is_empty() {
                part
            } else {
                self.collective(CollectiveKind::AllGather { dim }, axes, part, &node.loc)
            });
        }
        let mut ty = self.local(out);
        ty.dims[dim] = self.func.ty(out).dims[dim];
        let mut value = self.out.push(node.op.clone(), &inputs, vec![ty], &node.loc)[0];
        if !own.is_empty() {
            value = self.collective(CollectiveKind::OwnPart { dim }, own, value, &node.loc);
        }
        self.define_partial(out, value, keep);
        true
    }

    /// Attention, or its gradient, of parts of a sequence.
    fn attend(&mut self, node: &Node) -> Result<bool> {
        let axes = self.cut_of(node.inputs[0], SEQUENCE);
        if axes.is_empty() {
            return Ok(false);
        }
        let here = || format!("(nn.{} in {:?})", node.op.name(), node.loc.block);
        let (Op::Attention { alibi, causal, .. } | Op::AttentionGrad { alibi, causal, .. }) = node.op else {
            return Ok(false);
        };
        let own = Own { heads: axes.and(self.named(&["up"])), gathered: axes.and(self.named(&["cp"])), loc: &node.loc };
        let ranks = self.ranks(own.heads);
        if alibi && ranks > 1 {
            return cannot(format!(
                "heads with slopes must know which they are: ranks cannot exchange them {}",
                here()
            ));
        }
        for heads in [0, 1].map(|i| self.local(node.inputs[i]).dims[HEADS]) {
            if !heads.is_multiple_of(ranks) {
                return cannot(format!("{heads} heads cannot be exchanged by {ranks} ranks {}", here()));
            }
        }
        if !own.gathered.is_empty() && !causal {
            return cannot(format!("keys are gathered for causal attention only {}", here()));
        }
        let forward = matches!(node.op, Op::Attention { .. });
        let outputs = if self.module.run.keys == Keys::Ring && !own.gathered.is_empty() {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|v| self.attended(*v, own)).collect();
            if forward { self.attend_in_ring(node, &inputs, own) } else { self.attend_back_in_ring(node, &inputs, own) }
        } else {
            let Some(outputs) = self.attend_to_all(node, forward, own) else {
                return cannot(format!("attention has no such parts {}", here()));
            };
            outputs
        };
        for (old, new) in node.outputs.iter().zip(outputs) {
            if forward {
                self.attended.insert(*old, new);
            }
            // The logarithms of sums are read by the gradient alone, which wants them as they are.
            if self.func.ty(*old).rank() == 4 {
                let part = self.given_back(new, own);
                self.define(*old, part);
            }
        }
        Ok(true)
    }

    /// Attention, or its gradient, with all keys that there are along `own.gathered`. All queries add to gradients of keys and
    /// values, of which each rank gets the own part of the sum. None if the op takes no such parts.
    fn attend_to_all(&mut self, node: &Node, forward: bool, own: Own<'_>) -> Option<Vec<ValueId>> {
        let mut inputs = vec![];
        for (i, v) in node.inputs.iter().enumerate() {
            let keys = i == 1 || i == 2;
            let read =
                if keys && !own.gathered.is_empty() { self.keys(*v, forward, own) } else { self.attended(*v, own) };
            inputs.push(read);
        }
        if !own.gathered.is_empty() {
            let size = self.out.ty(inputs[0]).dims[SEQUENCE];
            let mut b = Builder::new(&mut self.out, node.loc.clone());
            let zero = b.constant(0.0, TensorType::scalar(DType::I32));
            inputs.push(self.collective(CollectiveKind::OwnIds { size }, own.gathered, zero, &node.loc));
        }
        let types: Vec<TensorType> = inputs.iter().map(|v| self.out.ty(*v).clone()).collect();
        let results = infer(&node.op, &types).ok()?;
        let mut outputs = self.out.push(node.op.clone(), &inputs, results, &node.loc);
        if !forward && !own.gathered.is_empty() {
            for x in &mut outputs[1..] {
                *x = self.collective(CollectiveKind::ReduceScatter { dim: SEQUENCE }, own.gathered, *x, own.loc);
            }
        }
        Some(outputs)
    }

    /// What attention wants of `value [b, s, n, d]`: some of the heads with the tokens of all ranks along `up`.
    fn attended(&mut self, value: ValueId, own: Own<'_>) -> ValueId {
        if let Some(known) = self.attended.get(&value) {
            return *known;
        }
        let mut x = self.whole_but(value, Axes::NONE, own.loc);
        if !own.heads.is_empty() {
            x = self.collective(CollectiveKind::AllToAll { cut: HEADS, join: SEQUENCE }, own.heads, x, own.loc);
        }
        self.attended.insert(value, x);
        x
    }

    /// Keys or values of all ranks along `cp`. The gradient gathers them again: they are too large to be kept.
    fn keys(&mut self, value: ValueId, forward: bool, own: Own<'_>) -> ValueId {
        if let Some(known) = self.keys.get(&(value, forward)) {
            return *known;
        }
        let part = self.attended(value, own);
        let all = self.collective(CollectiveKind::AllGather { dim: SEQUENCE }, own.gathered, part, own.loc);
        self.keys.insert((value, forward), all);
        all
    }

    /// The own tokens of all heads of a result of attention.
    fn given_back(&mut self, x: ValueId, own: Own<'_>) -> ValueId {
        if own.heads.is_empty() {
            return x;
        }
        self.collective(CollectiveKind::AllToAll { cut: SEQUENCE, join: HEADS }, own.heads, x, own.loc)
    }

    /// The own tokens of the logarithms of sums `lse [b, n, s]`, which are known for some heads.
    pub(super) fn own_logarithms(&mut self, lse: ValueId, loc: &Loc) -> ValueId {
        let Some(known) = self.attended.get(&lse).copied() else { unreachable!("operands come before their uses") };
        let heads = self.cut_of(lse, 2).and(self.named(&["up"]));
        let own = if heads.is_empty() {
            known
        } else {
            self.collective(CollectiveKind::AllToAll { cut: 2, join: 1 }, heads, known, loc)
        };
        self.define(lse, own);
        own
    }
}

/// Which axes cut the sequence of an attention, and how ranks along them come to what they need.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// They exchange tokens for heads.
    pub heads: Axes,
    /// They gather keys and values, or pass them on.
    pub gathered: Axes,
    pub loc: &'a Loc,
}
