//! Sequences in parts: what ranks along `tp` share where they share neither heads nor widths.

use super::cannot;
use super::local::Cutter;
use super::spread::{Axes, Linear, labels, linear, together};
use athanor_ir::run::Joined;
use athanor_ir::{CollectiveKind, Func, Loc, Module, Node, Op, ReduceKind, Result, Role, TensorType, ValueId};
use std::collections::{HashMap, HashSet};

/// The values of a function of which each rank has the part of some tokens, beside all of it or instead.
#[derive(Default)]
pub(super) struct Parts {
    /// The axis that cuts sequences; none if they stay whole.
    tp: Axes,
    /// Whether each node is part of the forward pass.
    forward: Vec<bool>,
    /// Node that makes each value.
    defs: Vec<Option<usize>>,
    /// Whether the node in work is part of the backward pass and brings together again what the forward pass has had.
    again: bool,
    /// What logits are made of. Their backward pass follows at once, block by block of one and the same value.
    by_logits: HashSet<ValueId>,
    /// The own part of old values.
    own: HashMap<ValueId, ValueId>,
    /// Old values of which there is no more than parts: all of them together, for each pass.
    joined: HashMap<(ValueId, bool), ValueId>,
    /// Own parts and joined values with sums over some other axes taken, by what they are the sum of.
    summed: HashMap<(ValueId, Axes), ValueId>,
}

impl Parts {
    /// Those of `func`, which has none yet. Only a function that reads sequences has any.
    pub(super) fn of(module: &Module, func: &Func) -> Self {
        let reads = func.params.iter().any(|p| p.role == Role::Input && func.ty(p.value).rank() > 1);
        if module.run.cut_sequence.is_none() || !reads {
            return Self::default();
        }
        let (tp, forward, defs) =
            (Axes::named(&module.mesh, &["tp"]), func.needed_for(func.forward_results()), func.defs());
        let losses = func.nodes.iter().filter(|n| n.op == Op::CrossEntropy);
        let logits = losses.filter_map(|n| defs[n.inputs[0].0 as usize]).map(|d| &func.nodes[d]);
        let by_logits = logits.flat_map(|n| n.inputs.iter().copied()).collect();
        Self { tp, forward, defs, by_logits, ..Self::default() }
    }

    /// Node `index` is the next one.
    pub(super) fn at(&mut self, index: usize, joined: Option<Joined>) {
        self.again = joined == Some(Joined::Again) && self.forward.get(index) == Some(&false);
    }

    /// Whether the own part of `value` is known.
    pub(super) fn have(&self, value: ValueId) -> bool {
        self.own.contains_key(&value)
    }

    /// Whether sequences are cut.
    pub(super) fn any(&self) -> bool {
        !self.tp.is_empty()
    }
}

impl Cutter<'_> {
    /// The dim of `value` that is the sequence, if it has one.
    fn sequence_dim(&self, value: ValueId) -> Option<usize> {
        (0..self.type_of(value).rank()).find(|d| self.is_sequence(value, *d))
    }

    /// Type of the own part of `value`, which is all of it without a sequence.
    fn type_of_part(&self, value: ValueId) -> TensorType {
        let mut ty = self.local(value);
        if let Some(dim) = self.sequence_dim(value) {
            ty.dims[dim] /= self.ranks(self.parts.tp);
        }
        ty
    }

    /// Whether each rank computes `node` for its part of the sequence.
    ///
    /// It can where no op needs all of the sequence and `tp` cuts nothing else of the node. It does where the rank has no more
    /// than parts of an operand, or all of one as a sum that is not taken yet and may not stay so. Sums of which none has a part
    /// yet are added up first, to be taken as one. Rows of a whole table are read in parts too.
    pub(super) fn in_parts(&self, node: &Node) -> bool {
        let tp = self.parts.tp;
        let over_tp = |axes: Axes| !axes.and(tp).is_empty();
        let kept = over_tp(self.kept(node)) && !node.inputs.iter().any(|v| self.parts.have(*v));
        if tp.is_empty() || together(&node.op) || node.op == Op::SumSquares || kept {
            return false;
        }
        let types = |vs: &[ValueId]| vs.iter().map(|v| self.type_of(*v).clone()).collect::<Vec<_>>();
        let Some(s) = labels(&node.op, &types(&node.inputs), &types(&node.outputs)) else { return false };
        let mut along = None;
        let sides = node.inputs.iter().zip(&s.operands).chain(node.outputs.iter().zip(&s.results));
        for (value, labels) in sides {
            let local = self.local(*value);
            for (d, label) in labels.iter().enumerate() {
                if over_tp(self.cut_of(*value, d)) {
                    return false;
                }
                if self.is_sequence(*value, d) {
                    let fits = local.dims[d].is_multiple_of(self.ranks(tp)) && !s.whole.contains(label);
                    if !fits || *along.get_or_insert(*label) != *label {
                        return false;
                    }
                }
            }
        }
        let wanted = |v: &ValueId| {
            let unsummed = over_tp(self.partial_of(*v)) && !self.summed_over(*v, tp);
            self.sequence_dim(*v).is_some() && (unsummed || self.parts.have(*v) && !self.has_all(*v))
        };
        along.is_some() && (node.op == Op::Embed || node.inputs.iter().any(wanted))
    }

    /// Writes `node` for the own part of the sequence. What it sums over tokens is partial.
    pub(super) fn node_in_parts(&mut self, node: &Node) -> Result<()> {
        let (lost, tp) = (self.lost(node), self.parts.tp);
        let keep = self.kept(node).without(tp);
        if lost.iter().any(|l| !l.and(keep).is_empty()) {
            return cannot(format!(
                "nn.{} in {:?} sums over an axis that it is partial over",
                node.op.name(),
                node.loc.block
            ));
        }
        let mut inputs = vec![];
        for (i, v) in node.inputs.iter().enumerate() {
            let keep = if i > 0 && linear(&node.op) == Linear::One { Axes::NONE } else { keep };
            inputs.push(match self.sequence_dim(*v) {
                Some(dim) => self.own_part(*v, dim, keep, &node.loc),
                None => self.whole_but(*v, keep, &node.loc),
            });
        }
        let types = node.outputs.iter().map(|v| self.type_of_part(*v)).collect();
        let outputs = self.out.push(node.op.clone(), &inputs, types, &node.loc);
        for ((old, new), lost) in node.outputs.iter().zip(outputs).zip(lost) {
            if self.sequence_dim(*old).is_some() {
                self.parts.own.insert(*old, new);
                self.set_partial(*old, keep.or(lost));
            } else {
                self.define(*old, new);
                self.set_partial(*old, keep.or(lost).or(tp));
            }
        }
        Ok(())
    }

    /// The own part along `dim` of `value`, summed over the axes over which it is partial but for `keep`.
    fn own_part(&mut self, value: ValueId, dim: usize, keep: Axes, loc: &Loc) -> ValueId {
        let own = match self.parts.own.get(&value) {
            Some(known) => *known,
            None => self.cut_part(value, dim, loc),
        };
        self.parts.own.insert(value, own);
        let missing = self.partial_of(value).without(self.parts.tp).without(keep);
        self.with_sums(own, missing, loc)
    }

    /// The own part along `dim` of `value`, of which there is no part yet.
    fn cut_part(&mut self, value: ValueId, dim: usize, loc: &Loc) -> ValueId {
        let (tp, partial) = (self.parts.tp, self.partial_of(value));
        // It belongs to what makes the value: no more than the part is kept for another layer or sent to another stage.
        let loc = self.parts.defs[value.0 as usize].map_or(loc, |d| &self.node_of(d).loc);
        if !partial.and(tp).is_empty() && !self.summed_over(value, tp) {
            let all = self.whole_but(value, partial, loc);
            return self.collective(CollectiveKind::ReduceScatter { dim }, tp, all, loc);
        }
        if let Some(made) = self.made_part(value, loc) {
            return made;
        }
        let all = self.whole_but(value, partial.without(tp), loc);
        self.collective(CollectiveKind::OwnPart { dim }, tp, all, loc)
    }

    /// The part of a constant or a broadcast, which costs nothing to make.
    fn made_part(&mut self, value: ValueId, loc: &Loc) -> Option<ValueId> {
        let node = self.node_of(self.parts.defs[value.0 as usize]?);
        let inputs = match node.op {
            Op::Constant { .. } => vec![],
            Op::Broadcast { .. } => vec![match self.sequence_dim(node.inputs[0]) {
                Some(dim) => self.own_part(node.inputs[0], dim, Axes::NONE, loc),
                None => self.whole_but(node.inputs[0], Axes::NONE, loc),
            }],
            _ => return None,
        };
        let ty = self.type_of_part(value);
        Some(self.out.push(node.op.clone(), &inputs, vec![ty], &node.loc)[0])
    }

    /// All of `value`, summed over the axes over which it is partial but for `keep`, if that takes bringing parts together.
    pub(super) fn joined(&mut self, value: ValueId, keep: Axes, loc: &Loc) -> Option<ValueId> {
        let (tp, partial) = (self.parts.tp, self.partial_of(value));
        let own = *self.parts.own.get(&value)?;
        let unsummed = !partial.without(keep).and(tp).is_empty() && !self.summed_over(value, tp);
        if self.has_all(value) && !unsummed {
            return None;
        }
        let key = (value, self.parts.again && !self.parts.by_logits.contains(&value));
        let all = if let Some(known) = self.parts.joined.get(&key) {
            *known
        } else {
            let dim = self.sequence_dim(value)?;
            self.collective(CollectiveKind::AllGather { dim }, tp, own, loc)
        };
        self.parts.joined.insert(key, all);
        Some(self.with_sums(all, partial.without(tp).without(keep), loc))
    }

    /// The new value `x` with the sums over `axes` taken.
    fn with_sums(&mut self, x: ValueId, axes: Axes, loc: &Loc) -> ValueId {
        if axes.is_empty() {
            return x;
        }
        if let Some(known) = self.parts.summed.get(&(x, axes)) {
            return *known;
        }
        let sum = self.collective(CollectiveKind::AllReduce { reduce: ReduceKind::Sum }, axes, x, loc);
        self.parts.summed.insert((x, axes), sum);
        sum
    }
}
