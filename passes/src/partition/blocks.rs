//! Whose part of a sequence a value is, and what of attention to all parts it has: what [`super::check`] knows of rings.
//!
//! A value that was shifted j times is that of the rank j before. Attention to the keys of the rank j before is term j of the
//! attention to all keys; so is the gradient of queries by them, and the gradient by own queries of keys of the rank j before is
//! term j of the gradient of those. Terms are put together in their order, and are the whole when all are there; a gradient of
//! keys must also be home.

use super::check::{Checked, Checker, Spread};
use super::spread::Axes;
use athanor_ir::{Binary, Collective, CollectiveKind, F64, Node, Op, ValueId};

/// Whose part a value is. The default is the own one, or that of nobody, whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Axes of the ring; none of a value that is none of this.
    ring: Axes,
    /// So many ranks before has it as its own.
    back: usize,
    /// It is a part of what there is over all blocks.
    terms: Option<Terms>,
}

/// Which terms are put together: those from `first` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    first: usize,
    end: usize,
    /// As attention puts them together, not as a sum.
    weighted: bool,
}

impl Block {
    /// Whether the value is the own part, or all of what it is.
    pub(super) fn is_own(self) -> bool {
        self == Self::default()
    }

    /// `self`, or none of this if all `ranks` terms are there and it is the own part.
    fn settled(self, ranks: usize) -> Self {
        let all = self.terms.is_none_or(|t| (t.first, t.end) == (0, ranks));
        if all && self.back == 0 { Self::default() } else { self }
    }

    /// Terms of `self` and those of `next` that follow them.
    fn and(self, next: Self, ranks: usize) -> Checked<Self> {
        match (self.terms, next.terms) {
            (Some(a), Some(b))
                if a.end == b.first && a.weighted == b.weighted && (self.ring, self.back) == (next.ring, next.back) =>
            {
                Ok(Self { terms: Some(Terms { end: b.end, ..a }), ..self }.settled(ranks))
            }
            _ => Err("puts together parts of attention that do not follow one another".into()),
        }
    }

    /// The value as the next rank has it.
    pub(super) fn shifted(self, x: &Spread, axes: Axes, ranks: usize) -> Checked<Self> {
        let cut = x.dims.iter().flatten().any(|d| *d == axes);
        if !self.is_own() && self.ring != axes || self.is_own() && !cut || !x.partial.and(axes).is_empty() {
            return Err("shifts over axes that do not cut it, or other than before".into());
        }
        Ok(Self { ring: axes, back: (self.back + 1) % ranks, ..self }.settled(ranks))
    }
}

/// A step of attention in a ring.
#[derive(Clone, Copy)]
pub(super) struct Step {
    ring: Axes,
    back: usize,
}

impl Checker<'_> {
    /// Whether `node` is attention to a block of the keys, with queries of the same part of the mesh, and which block it is.
    pub(super) fn ring(&self, node: &Node) -> Checked<Option<Step>> {
        let Some(attend) = node.op.attend() else { return Ok(None) };
        let [q, k, v] = [0, 1, 2].map(|i| self.of(node.inputs[i]));
        let ring = k.dims[1].unwrap_or_default();
        if ring.is_empty() {
            return if attend.step { Err("goes on from other keys without a ring".into()) } else { Ok(None) };
        }
        let block = k.block;
        let fits = q.dims[1] == Some(ring) && v.dims[1] == Some(ring) && v.block == block;
        if !fits || block.terms.is_some() || !block.is_own() && block.ring != ring {
            return Err("reads keys and values of other parts than its queries are of".into());
        }
        // Queries, and for a gradient what came of all keys.
        let mut whole = node.inputs[..1].iter().chain(if attend.back { &node.inputs[3..6] } else { &[] });
        if whole.any(|v| !self.of(*v).block.is_own()) {
            return Err("reads the part of another rank, or some terms of a sum over parts".into());
        }
        let given = node.inputs.get(attend.first()).copied();
        if given.is_some() || block.back > 0 {
            let first =
                given.and_then(|v| self.made(v)).is_some_and(|made| self.begins_block(made, node, ring, block.back));
            if !first {
                return Err("has keys of another rank and is not told where they are".into());
            }
        }
        Ok(Some(Step { ring, back: block.back }))
    }

    /// Whether `made` says where the first key of the rank `back` before is.
    fn begins_block(&self, made: &Node, node: &Node, ring: Axes, back: usize) -> bool {
        let Op::Collective(Collective { kind: CollectiveKind::BlockIds { size, back: of }, .. }) = made.op else {
            return false;
        };
        let of_zero = self.made(made.inputs[0]).is_some_and(|z| z.op == Op::Constant { value: F64(0.0) });
        let counted = self.of(made.outputs[0]).ids == ring && size == self.type_of(node.inputs[0]).dims[1];
        of_zero && counted && of == back
    }

    /// Writes into the results of a step of attention which terms they are.
    pub(super) fn mark(&self, step: Step, node: &Node, results: &mut [Spread]) -> Checked<()> {
        let Step { ring, back } = step;
        let ranks = ring.ranks(self.mesh());
        let of = |back, weighted| {
            let terms = Some(Terms { first: back, end: back + 1, weighted });
            Block { ring, terms, ..Block::default() }
        };
        let onto = |own: Block, others: &[ValueId]| {
            let joined = |other: &ValueId| self.of(*other).block.and(own, ranks);
            let mut all = others.iter().map(joined).collect::<Checked<Vec<Block>>>()?;
            let block = all.pop().unwrap_or_else(|| own.settled(ranks));
            if all.iter().any(|other| *other != block) {
                return Err("goes on from two different parts of attention".to_owned());
            }
            Ok(block)
        };
        if node.op.attend().is_some_and(|attend| !attend.back) {
            let block = onto(of(back, true), node.inputs.get(4..).unwrap_or_default())?;
            results.iter_mut().for_each(|r| r.block = block);
            return Ok(());
        }
        results[0].block = onto(of(back, false), node.inputs.get(7..).unwrap_or_default())?;
        for gradient in &mut results[1..] {
            gradient.dims[1] = Some(ring);
            gradient.partial = gradient.partial.without(ring);
            gradient.block = Block { back, ..of(back, false) }.settled(ranks);
        }
        Ok(())
    }

    /// Whose part the results of `node` are, which is no step of attention.
    pub(super) fn block(&self, node: &Node) -> Checked<Block> {
        let mut blocks = node.inputs.iter().map(|v| self.of(*v).block);
        let first = blocks.next().unwrap_or_default();
        match node.op {
            _ if first.is_own() && blocks.clone().all(Block::is_own) => Ok(first),
            Op::Cast | Op::Reshape | Op::Transpose { .. } => Ok(first),
            Op::Concat { .. } if blocks.clone().all(|block| block == first) => Ok(first),
            Op::Binary(Binary::Add) => {
                let next = blocks.next().unwrap_or_default();
                if first.terms.is_some_and(|t| t.weighted) {
                    return Err("adds up parts of attention, which have weights".into());
                }
                let ring = first.ring.ranks(self.mesh());
                first.and(next, ring)
            }
            _ => Err("reads the part of another rank, or some terms of a sum over parts".into()),
        }
    }
}
