//! Context parallelism: ranks have parts of every sequence.
//!
//! Most ops look at one token. Those that do not are tables of positions, of which each rank takes the rows of its own tokens;
//! slices and concatenations along the sequence, of which the whole is made on every rank; and attention. Ranks along `up`
//! exchange their parts of the sequence for heads before it (Ulysses): each has all tokens of some heads, and afterwards gets its
//! own tokens of all heads back.

use super::cannot;
use super::local::Cutter;
use super::spread::Axes;
use athanor_ir::infer::infer;
use athanor_ir::{CollectiveKind, Loc, Node, Op, Result, TensorType, ValueId};

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
            inputs.push(match axes.is_empty() {
                true => part,
                false => self.collective(CollectiveKind::AllGather { dim }, axes, part, &node.loc),
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
        let loc = &node.loc;
        let axes = self.cut_of(node.inputs[0], SEQUENCE);
        if axes.is_empty() {
            return Ok(false);
        }
        let (Op::Attention { alibi, .. } | Op::AttentionGrad { alibi, .. }) = node.op else { return Ok(false) };
        let ranks = self.ranks(axes);
        for heads in [0, 1].map(|i| self.local(node.inputs[i]).dims[HEADS]) {
            if alibi || !heads.is_multiple_of(ranks) {
                let what = if alibi {
                    "heads with slopes, which must know which they are,".into()
                } else {
                    format!("{heads} heads")
                };
                return cannot(format!(
                    "{what} cannot be exchanged by {ranks} ranks (nn.{} in {:?})",
                    node.op.name(),
                    loc.block
                ));
            }
        }
        let inputs: Vec<ValueId> = node.inputs.iter().map(|v| self.by_heads(*v, axes, loc)).collect();
        let types: Vec<TensorType> = inputs.iter().map(|v| self.out.ty(*v).clone()).collect();
        let Ok(results) = infer(&node.op, &types) else {
            return cannot(format!("nn.{} in {:?} has no such parts", node.op.name(), loc.block));
        };
        let outputs = self.out.push(node.op.clone(), &inputs, results, loc);
        for (old, new) in node.outputs.iter().zip(outputs) {
            if matches!(node.op, Op::Attention { .. }) {
                self.heads.insert(*old, new);
            }
            // The logarithms of sums are read by the gradient alone, which wants them as they are.
            if self.func.ty(*old).rank() == 4 {
                let own = self.collective(CollectiveKind::AllToAll { cut: SEQUENCE, join: HEADS }, axes, new, loc);
                self.define(*old, own);
            }
        }
        Ok(true)
    }

    /// All tokens of some heads of `value [b, s, n, d]`.
    fn by_heads(&mut self, value: ValueId, axes: Axes, loc: &Loc) -> ValueId {
        if let Some(known) = self.heads.get(&value) {
            return *known;
        }
        let own = self.whole_but(value, Axes::NONE, loc);
        let heads = self.collective(CollectiveKind::AllToAll { cut: HEADS, join: SEQUENCE }, axes, own, loc);
        self.heads.insert(value, heads);
        heads
    }

    /// The own tokens of the logarithms of sums `lse [b, n, s]`, which are known for some heads.
    pub(super) fn from_heads(&mut self, lse: ValueId, loc: &Loc) -> ValueId {
        let Some(heads) = self.heads.get(&lse).copied() else { unreachable!("operands come before their uses") };
        let axes = self.cut_of(lse, 2);
        let own = self.collective(CollectiveKind::AllToAll { cut: 2, join: 1 }, axes, heads, loc);
        self.define(lse, own);
        own
    }
}
