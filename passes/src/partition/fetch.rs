//! Weights that replicas share are gathered where they are read, forward and again backward, so that none is kept in between.

use super::local::Cutter;
use super::share::Shares;
use super::spread::Axes;
use athanor_ir::{CollectiveKind, Func, Loc, Node, Op, Role, ValueId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The gathered weights of one function.
#[derive(Default)]
pub(super) struct Fetch {
    /// Weights in parts, and what is made of nothing else: it is made anew of what is gathered, wherever it is read.
    weights: HashSet<ValueId>,
    /// The nodes that make the latter.
    makers: HashMap<ValueId, usize>,
    /// First results of the nodes that read weights gathered again.
    backward: HashSet<ValueId>,
    /// Whether the node in work is one of them.
    again: bool,
    /// What was gathered, by block and whether again.
    known: HashMap<(ValueId, Arc<str>, bool), ValueId>,
}

impl Fetch {
    /// What `func` has to gather.
    ///
    /// The backward part is what gradients alone need. The product of the logits' gradient and the output layer follows the
    /// forward one at once: it reads the same gathered weight.
    pub(super) fn of(func: &Func, shares: &Shares<'_>) -> Self {
        let shared =
            func.params.iter().filter(|p| matches!(p.role, Role::Weight { .. }) && shares.parts(&p.name).is_some());
        let mut weights: HashSet<ValueId> = shared.map(|p| p.value).collect();
        if weights.is_empty() {
            return Self::default();
        }
        let results: HashSet<ValueId> = func.results.iter().map(|r| r.value).collect();
        let mut makers = HashMap::new();
        for (i, node) in func.nodes.iter().enumerate() {
            let of_weights = !node.inputs.is_empty() && node.inputs.iter().all(|v| weights.contains(v));
            if of_weights && moves(&node.op) && !results.contains(&node.outputs[0]) {
                weights.insert(node.outputs[0]);
                makers.insert(node.outputs[0], i);
            }
        }
        let mut of_logits: HashSet<ValueId> = HashSet::new();
        let mut backward = HashSet::new();
        for (node, forward) in func.nodes.iter().zip(func.needed_for(func.forward_results())) {
            let reads_them = node.inputs.iter().any(|v| of_logits.contains(v));
            if node.op == Op::CrossEntropyGrad || reads_them && moves(&node.op) {
                of_logits.insert(node.outputs[0]);
            }
            if !forward && !reads_them {
                backward.insert(node.outputs[0]);
            }
        }
        Self { weights, makers, backward, again: false, known: HashMap::new() }
    }

    /// `node` is the next one.
    pub(super) fn at(&mut self, node: &Node) {
        self.again = self.backward.contains(&node.outputs[0]);
    }
}

/// Whether `op` does no more than to convert or to place what it reads.
fn moves(op: &Op) -> bool {
    matches!(op, Op::Cast | Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. })
}

impl<'a> Cutter<'a> {
    /// Whether `node` is written when its result is read.
    pub(super) fn put_off(&mut self, node: &Node) -> bool {
        let off = self.fetch.weights.contains(&node.outputs[0]);
        if off {
            self.partial[node.outputs[0].0 as usize] = Some(Axes::NONE);
        }
        off
    }

    /// `value` with the parts of all replicas, if it is a weight in parts or made of such.
    pub(super) fn fetched(&mut self, value: ValueId, loc: &Loc) -> Option<ValueId> {
        if !self.fetch.weights.contains(&value) {
            return None;
        }
        let key = (value, Arc::clone(&loc.block), self.fetch.again);
        if let Some(known) = self.fetch.known.get(&key) {
            return Some(*known);
        }
        let whole = if let Some((part, replicas)) = self.own_part_of(value, loc) {
            self.collective(CollectiveKind::AllGather { dim: 0 }, replicas, part, loc)
        } else {
            let node = self.made_by(value);
            let inputs = node.inputs.iter().map(|v| self.fetched(*v, loc)).collect::<Option<Vec<_>>>()?;
            let ty = self.local(value);
            self.out.push(node.op.clone(), &inputs, vec![ty], loc)[0]
        };
        self.fetch.known.insert(key, whole);
        Some(whole)
    }

    /// The rank's part of a weight, or of one that is converted: what is narrower then is less to send.
    fn own_part_of(&mut self, value: ValueId, loc: &Loc) -> Option<(ValueId, Axes)> {
        if let Some(replicas) = self.held.replicas(value) {
            return Some((self.new[value.0 as usize]?, replicas));
        }
        let node = self.made_by(value);
        let (Op::Cast, [x]) = (&node.op, &node.inputs[..]) else { return None };
        let (part, replicas) = self.own_part_of(*x, loc)?;
        let ty = self.out.ty(part).with_dtype(self.func.ty(value).dtype);
        Some((self.out.push(Op::Cast, &[part], vec![ty], loc)[0], replicas))
    }

    /// The node that makes what is put off.
    fn made_by(&self, value: ValueId) -> &'a Node {
        &self.func.nodes[self.fetch.makers[&value]]
    }
}
