//! Parts that a rank holds of what its replicas share: gradients are summed into them, and steps are taken of them.

use super::local::Cutter;
use super::share::Shares;
use super::spread::Axes;
use athanor_ir::{Binary, CollectiveKind, Func, Loc, Node, Op, ReduceKind, TensorType, ValueId};
use std::collections::HashMap;

const SUM: CollectiveKind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };

/// What a rank holds in parts in one function; values are those of the function before it is cut.
#[derive(Default)]
pub(super) struct Held {
    /// Values that exist in parts only, and the replicas that have the others.
    parts: HashMap<ValueId, Axes>,
    /// Gradients of which the rank takes its part as soon as they are made.
    due: HashMap<ValueId, Axes>,
    /// New weights that replicas make together.
    steps: HashMap<ValueId, Axes>,
    /// Gradients of those, of which the rank takes its part for the step.
    stepped: HashMap<ValueId, Axes>,
    /// Parts that were taken, and over which axes they are partial.
    taken: HashMap<ValueId, (ValueId, Axes)>,
}

impl Held {
    /// What `func` holds; `stages` tells whether it will be cut into those of a pipeline.
    pub(super) fn of(func: &Func, shares: &Shares<'_>, stages: bool) -> Self {
        let mut this = Self::default();
        for p in &func.params {
            this.parts.extend(shares.parts(&p.name).map(|replicas| (p.value, replicas)));
        }
        let names: HashMap<ValueId, &str> = func.params.iter().map(|p| (p.value, p.name.as_str())).collect();
        for node in func.nodes.iter().filter(|n| matches!(n.op, Op::AdamW { .. })) {
            if let Some(replicas) = names.get(&node.inputs[0]).and_then(|w| shares.step(w)) {
                this.steps.insert(node.outputs[0], replicas);
                this.stepped.insert(node.inputs[1], replicas);
            }
        }
        let (defs, uses) = (func.defs(), func.use_counts());
        for r in func.results.iter().filter(|r| r.name.starts_with("grad.")) {
            let Some(replicas) = shares.parts(&r.name) else { continue };
            let mut open = vec![r.value];
            while let Some(v) = open.pop() {
                let sum = defs[v.0 as usize].map(|d| &func.nodes[d]).filter(|n| n.op == Op::Binary(Binary::Add));
                // Stages that have the same weight take their parts each for itself.
                let in_parts = |n: &&Node| {
                    n.inputs.iter().any(|x| this.parts.contains_key(x)) || stages && uses[v.0 as usize] == 1
                };
                if let Some(sum) = sum.filter(in_parts) {
                    this.parts.insert(v, replicas);
                    open.extend(sum.inputs.iter().filter(|x| defs[x.0 as usize].is_some()));
                } else if !this.parts.contains_key(&v) {
                    this.due.insert(v, replicas);
                }
            }
        }
        this
    }

    /// The replicas that have the other parts of `value`.
    pub(super) fn replicas(&self, value: ValueId) -> Option<Axes> {
        self.parts.get(&value).copied()
    }

    /// The part of gradient `value` that was taken when it was made, and over which axes it is partial.
    pub(super) fn due(&self, value: ValueId) -> Option<(ValueId, Axes)> {
        self.due.contains_key(&value).then(|| self.taken[&value])
    }
}

impl Cutter<'_> {
    /// Type of what the rank holds of `value`.
    pub(super) fn held_type(&self, value: ValueId) -> TensorType {
        let mut ty = self.local(value);
        if let Some(replicas) = self.held.replicas(value) {
            ty.dims[0] /= replicas.ranks(&self.module.mesh);
        }
        ty
    }

    /// Writes `node` if it adds parts up, or steps one.
    pub(super) fn of_parts(&mut self, node: &Node) -> bool {
        if let Some(replicas) = self.held.steps.get(&node.outputs[0]).copied() {
            self.shared_step(node, replicas);
        } else if self.held.replicas(node.outputs[0]).is_some() {
            self.sum_of_parts(node);
        } else {
            return false;
        }
        true
    }

    /// Takes the own part of the gradients that `node` made.
    pub(super) fn take_due(&mut self, node: &Node) {
        for v in &node.outputs {
            if let Some(replicas) = self.held.due.get(v).copied() {
                self.take_part(*v, replicas, &node.loc);
            }
        }
    }

    /// The own part of whole `value`, summed over `replicas`, and the axes over which it is still partial.
    fn take_part(&mut self, value: ValueId, replicas: Axes, loc: &Loc) -> (ValueId, Axes) {
        if let Some(known) = self.held.taken.get(&value) {
            return *known;
        }
        let partial = self.partial_of(value);
        let (kind, x) = if partial.and(replicas) == replicas {
            (CollectiveKind::ReduceScatter { dim: 0 }, self.whole_but(value, partial, loc))
        } else {
            (CollectiveKind::OwnPart { dim: 0 }, self.whole_but(value, partial.without(replicas), loc))
        };
        let part = (self.collective(kind, replicas, x, loc), partial.without(replicas));
        self.held.taken.insert(value, part);
        part
    }

    /// As [`Self::take_part`], summed over all axes.
    fn whole_part(&mut self, value: ValueId, replicas: Axes, loc: &Loc) -> ValueId {
        let (part, partial) = self.take_part(value, replicas, loc);
        if partial.is_empty() {
            return part;
        }
        let sum = self.collective(SUM, partial, part, loc);
        self.held.taken.insert(value, (sum, Axes::NONE));
        sum
    }

    /// What is squared for the norm of gradient `value`: a part, if the rank holds one or steps one, and over which replicas.
    pub(super) fn squared(&mut self, value: ValueId, loc: &Loc) -> (ValueId, Axes) {
        match (self.held.replicas(value), self.held.stepped.get(&value).copied()) {
            (None, Some(replicas)) => (self.whole_part(value, replicas, loc), replicas),
            (held, _) => (self.whole_but(value, Axes::NONE, loc), held.unwrap_or_default()),
        }
    }

    /// The sum of a part that is there and one that was taken. What earlier micro-batches left is partial as what is added.
    fn sum_of_parts(&mut self, node: &Node) {
        let of = |this: &Self, v: ValueId| match this.held.replicas(v) {
            Some(_) => (this.new[v.0 as usize], this.partial[v.0 as usize]),
            None => this.held.taken.get(&v).map_or((None, None), |(part, axes)| (Some(*part), Some(*axes))),
        };
        let operands: Vec<_> = node.inputs.iter().map(|v| of(self, *v)).collect();
        let keep = operands.iter().filter_map(|(_, partial)| *partial).reduce(Axes::and).unwrap_or_default();
        let mut inputs = vec![];
        for (v, (part, partial)) in node.inputs.iter().zip(operands) {
            let Some(mut part) = part else { unreachable!("operands come before their uses") };
            let missing = partial.unwrap_or(keep).without(keep);
            if !missing.is_empty() {
                part = self.collective(SUM, missing, part, &node.loc);
            }
            self.partial[v.0 as usize].get_or_insert(keep);
            inputs.push(part);
        }
        let ty = self.held_type(node.outputs[0]);
        let sum = self.out.push(node.op.clone(), &inputs, vec![ty], &node.loc)[0];
        self.define(node.outputs[0], sum);
        self.partial[node.outputs[0].0 as usize] = Some(keep);
    }

    /// The step of a part of a weight, which `replicas` share; the parts of all of them are the new weight.
    fn shared_step(&mut self, node: &Node, replicas: Axes) {
        let loc = &node.loc;
        let [weight, gradient, ..] = node.inputs[..] else { unreachable!("a step of AdamW has eight operands") };
        let keeps_part = self.held.replicas(weight).is_some();
        let mut inputs = vec![];
        for v in &node.inputs {
            let whole = *v == weight && !keeps_part;
            inputs.push(if *v == gradient {
                self.squared(*v, loc).0
            } else if whole {
                let x = self.whole_but(*v, Axes::NONE, loc);
                self.collective(CollectiveKind::OwnPart { dim: 0 }, replicas, x, loc)
            } else {
                self.whole_but(*v, Axes::NONE, loc)
            });
        }
        let types = [0, 2, 3].map(|i| self.out.ty(inputs[i]).clone()).to_vec();
        let mut outputs = self.out.push(node.op.clone(), &inputs, types, loc);
        if !keeps_part {
            outputs[0] = self.collective(CollectiveKind::AllGather { dim: 0 }, replicas, outputs[0], loc);
        }
        for (old, new) in node.outputs.iter().zip(outputs) {
            self.define(*old, new);
        }
    }
}
