//! The new body of `micro`: copies where they are needed, and gradients used up as soon as they are there.

use super::program::Program;
use super::split::{Again, Parts, again};
use athanor_ir::collective::CollectiveKind;
use athanor_ir::func::{Func, Node, ValueId};
use athanor_ir::op::Op;
use athanor_ir::recompute::{Recomputed, layer_of};
use std::collections::{HashMap, HashSet, VecDeque};

/// When a node is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// In its turn, as in the function: the forward part.
    InTurn,
    /// As soon as what it reads is there: what depends on a gradient.
    Soon,
    /// Right before its first reader: what depends on none.
    Late,
}

/// The functions of the module with `micro` computing the values `chosen` in its backward part, and what that costs.
pub(super) fn ordered(program: &Program<'_>, chosen: &[bool]) -> (Vec<Func>, Recomputed) {
    let mut order = Order::of(program, chosen);
    order.run();
    let Order { out, parts, mut done, layers, .. } = order;
    done.layers = layers.len();
    done.of_flops = program.all_flops();
    let replaced = |f: &Func| if f.name == out.name { out.clone() } else { f.clone() };
    let funcs = program.module.funcs.iter().map(replaced).chain(parts.into_funcs()).collect();
    (funcs, done)
}

/// The function of `program` with nothing computed again, and everything in the order that it would have beside that.
pub(crate) fn in_order(program: &Program<'_>) -> Func {
    let nothing = vec![false; program.func.types.len()];
    let mut order = Order::of(program, &nothing);
    order.run();
    order.out
}

/// When each node is placed.
///
/// The gradient enters with that of the loss over the vocabulary, or comes from the next position of a pipeline. What depends on it goes as soon as it can; what does not,
/// such as the derivative of an activation, waits for its reader. A function without such a loss keeps its order.
fn when(program: &Program<'_>, chosen: &[bool]) -> Vec<When> {
    let func = program.func;
    let of_loss =
        |i: usize| matches!(func.nodes[i].op, Op::CrossEntropyGrad | Op::PartEntropyGrad) && !program.forward[i];
    let has_loss = (0..func.nodes.len()).any(of_loss);
    let returned = |v: &ValueId| {
        program.defs[v.0 as usize].is_some_and(|d| matches!(func.nodes[d].op, Op::Handover { last: false }))
    };
    let enters = |i: usize| of_loss(i) || !has_loss && !program.forward[i] && func.nodes[i].inputs.iter().any(returned);
    let entered = (0..func.nodes.len()).any(enters);
    let mut when = vec![When::InTurn; func.nodes.len()];
    for (i, node) in func.nodes.iter().enumerate().filter(|(i, _)| !program.forward[*i]) {
        let maker = |v: &ValueId| program.defs[v.0 as usize].filter(|d| !program.forward[*d]);
        let after_gradient = node.inputs.iter().filter_map(maker).any(|d| when[d] != When::Late);
        let of_copies =
            || node.inputs.iter().any(|v| chosen[v.0 as usize] || maker(v).is_some_and(|d| when[d] == When::Late));
        when[i] = match (after_gradient, entered) {
            (true, true) => When::Soon,
            (false, true) => {
                if enters(i) {
                    When::Soon
                } else {
                    When::Late
                }
            }
            (true, false) => When::InTurn,
            (false, false) => {
                if of_copies() {
                    When::Late
                } else {
                    When::InTurn
                }
            }
        };
    }
    when
}

struct Order<'a, 'm> {
    program: &'a Program<'m>,
    chosen: &'a [bool],
    when: Vec<When>,
    out: Func,
    placed: Vec<bool>,
    /// Copy of each value that has one.
    copies: HashMap<ValueId, ValueId>,
    parts: Parts,
    done: Recomputed,
    layers: HashSet<usize>,
}

impl<'a, 'm> Order<'a, 'm> {
    fn of(program: &'a Program<'m>, chosen: &'a [bool]) -> Self {
        Self {
            program,
            chosen,
            when: when(program, chosen),
            out: Func { nodes: vec![], ..program.func.clone() },
            placed: vec![false; program.func.nodes.len()],
            copies: HashMap::new(),
            parts: Parts::beside(program.module),
            done: Recomputed::default(),
            layers: HashSet::new(),
        }
    }

    fn run(&mut self) {
        let func = self.program.func;
        let mut waits = vec![0_usize; func.nodes.len()];
        let mut feeds: Vec<Vec<usize>> = vec![vec![]; func.nodes.len()];
        for i in (0..func.nodes.len()).filter(|i| self.when[*i] == When::Soon) {
            let mut from = HashSet::new();
            self.waits_for(i, &mut from);
            waits[i] = from.len();
            from.iter().for_each(|f| feeds[*f].push(i));
        }
        feeds.iter_mut().for_each(|f| f.sort_unstable());
        let mut ready: VecDeque<usize> =
            (0..func.nodes.len()).filter(|i| self.when[*i] == When::Soon && waits[*i] == 0).collect();
        for i in 0..func.nodes.len() {
            if self.when[i] == When::InTurn {
                ready.push_front(i);
            }
            while let Some(n) = ready.pop_front() {
                self.place(n);
                for f in &feeds[n] {
                    waits[*f] -= 1;
                    if waits[*f] > 0 {
                        continue;
                    }
                    // What goes on to the next rank does so at once, before there is more of it.
                    if self.shifts(*f) { ready.push_front(*f) } else { ready.push_back(*f) }
                }
            }
        }
        for r in &func.results {
            if let Some(d) = self.program.defs[r.value.0 as usize] {
                self.place(d);
            }
        }
    }

    /// Nodes that must be placed before `node` can be: through those that are placed late.
    fn waits_for(&self, node: usize, from: &mut HashSet<usize>) {
        let mut stack = vec![node];
        let mut seen = HashSet::from([node]);
        while let Some(n) = stack.pop() {
            let makers = self.program.func.nodes[n].inputs.iter().filter_map(|v| self.program.defs[v.0 as usize]);
            for d in makers {
                if self.when[d] != When::Late {
                    from.insert(d);
                } else if seen.insert(d) {
                    stack.push(d);
                }
            }
        }
    }

    /// Appends node `n`, and before it the late nodes and copies that it reads.
    fn place(&mut self, n: usize) {
        if std::mem::replace(&mut self.placed[n], true) {
            return;
        }
        let node = &self.program.func.nodes[n];
        let mut inputs = node.inputs.clone();
        if !self.program.forward[n] {
            for v in &mut inputs {
                *v = self.value(*v);
            }
        }
        self.out.nodes.push(Node { inputs, ..node.clone() });
    }

    /// What the backward part reads for `v`: `v` itself or a copy, placed by now.
    fn value(&mut self, v: ValueId) -> ValueId {
        let Some(d) = self.program.defs[v.0 as usize] else { return v };
        if self.chosen[v.0 as usize] {
            return self.copy(v, d);
        }
        if self.when[d] == When::Late {
            self.place(d);
        }
        v
    }

    /// The copy of value `v` of node `d`.
    fn copy(&mut self, v: ValueId, d: usize) -> ValueId {
        if let Some(copy) = self.copies.get(&v) {
            return *copy;
        }
        if let Some(gathered) = self.gathered_again(d) {
            self.place(gathered);
            let copy = self.program.func.nodes[gathered].outputs[0];
            self.copies.insert(v, copy);
            return copy;
        }
        let node = &self.program.func.nodes[d];
        let Again { inputs, outputs, part } = again(self.program, node, self.chosen);
        // What comes from other ranks is asked for when all else is there.
        let shifted = |u: &ValueId| self.program.defs[u.0 as usize].is_some_and(|d| self.shifts(d));
        let (others, rest): (Vec<ValueId>, Vec<ValueId>) = inputs.iter().partition(|u| shifted(u));
        for u in rest.into_iter().chain(others) {
            self.value(u);
        }
        let inputs: Vec<ValueId> = inputs.iter().map(|u| self.value(*u)).collect();
        let op = part.as_ref().map_or_else(|| node.op.clone(), |part| self.parts.op(part));
        let types = outputs.iter().map(|o| self.program.func.ty(*o).clone()).collect();
        self.done.flops += match (&part, &op) {
            (Some(part), _) => part.nodes.iter().map(|n| super::program::flops(part, n)).sum(),
            (None, _) => self.program.flops(node),
        };
        let copies = self.out.push(op, &inputs, types, &node.loc);
        for (of, copy) in outputs.iter().zip(copies).filter(|(of, _)| self.chosen[of.0 as usize]) {
            self.copies.insert(*of, copy);
            self.done.values += 1;
        }
        self.layers.extend(self.program.makers[v.0 as usize].as_ref().and_then(|m| m.layer));
        self.copies[&v]
    }

    /// Whether ranks pass on what they have in node `n`.
    fn shifts(&self, n: usize) -> bool {
        matches!(&self.program.func.nodes[n].op, Op::Collective(c) if c.kind == CollectiveKind::Shift)
    }

    /// The node of the backward part that gathers the weight that node `n` of the forward part does, for the same layer.
    fn gathered_again(&self, n: usize) -> Option<usize> {
        if !self.program.gathers(n) {
            return None;
        }
        let nodes = &self.program.func.nodes;
        let layer = layer_of(&nodes[n].loc.block).map(|l| l.0);
        let same = |m: &usize| {
            let late = self.when[*m] == When::Late;
            let same = nodes[*m].op == nodes[n].op && nodes[*m].inputs == nodes[n].inputs;
            late && same && layer_of(&nodes[*m].loc.block).map(|l| l.0) == layer
        };
        (n + 1..nodes.len()).find(same)
    }
}
