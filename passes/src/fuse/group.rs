//! Which nodes join which group, and the function that results.

use crate::blocks::relative;
use crate::codegen::loops;
use athanor_ir::func::{Func, Loc, Node, Role, ValueId};
use athanor_ir::op::Op;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

/// A kernel takes at most this many buffers, and a group has at most this many ops: beyond, registers spill and code
/// grows for little gain.
const MAX_BUFFERS: usize = 24;
const MAX_OPS: usize = 32;

/// Bodies of groups, one per structure.
#[derive(Default)]
pub(super) struct Bodies {
    by_key: HashMap<String, usize>,
    funcs: Vec<Func>,
}

impl Bodies {
    /// Name of the function for `body`.
    ///
    /// Layers share one, so that its ops say where they are relative to `from`, the block of the call.
    fn intern(&mut self, mut body: Func, from: &str) -> String {
        for node in &mut body.nodes {
            node.loc.block = relative(&node.loc.block, from).into();
        }
        let nodes: Vec<_> = body.nodes.iter().map(|n| (&n.op, &n.inputs, &n.outputs, &n.loc.block)).collect();
        let params: Vec<_> = body.params.iter().map(|p| p.value).collect();
        let key = format!("{nodes:?} {:?} {params:?} {:?}", body.types, body.results);
        if let Some(i) = self.by_key.get(&key) {
            return self.funcs[*i].name.clone();
        }
        let mut names: Vec<&str> = body.nodes.iter().map(|n| n.op.name()).collect();
        names.retain(|n| !matches!(*n, "constant" | "broadcast" | "reshape" | "cast"));
        names.dedup();
        names.truncate(4);
        let name = format!("fused_{}_{}", self.funcs.len(), names.join("_"));
        body.name.clone_from(&name);
        self.by_key.insert(key, self.funcs.len());
        self.funcs.push(body);
        name
    }

    pub(super) fn into_funcs(self) -> Vec<Func> {
        self.funcs
    }
}

/// Values of fewer elements are computed by the reference ops; a group of them would only delay what waits for one.
const SMALL: usize = 64;

/// Whether `node` can be part of a group at all.
fn fusible(func: &Func, node: &Node) -> bool {
    if node.outputs.iter().chain(&node.inputs).all(|v| func.ty(*v).elements() < SMALL) {
        return false;
    }
    matches!(
        node.op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Cast
            | Op::Reduce { .. }
            | Op::RmsNorm { .. }
            | Op::RmsNormGrad { .. }
            | Op::LayerNorm { .. }
            | Op::LayerNormGrad { .. }
    )
}

/// Ops that cost nothing inside a group: each group that reads one has its own copy.
fn free(op: &Op) -> bool {
    matches!(op, Op::Constant { .. } | Op::Broadcast { .. } | Op::Reshape)
}

struct Grouping<'a> {
    func: &'a Func,
    defs: Vec<Option<usize>>,
    /// Group of each node.
    of: Vec<Option<usize>>,
    /// Members of each group, increasing; empty when merged into another.
    groups: Vec<Vec<usize>>,
    users: Vec<Vec<usize>>,
    is_result: Vec<bool>,
}

impl Grouping<'_> {
    fn def(&self, v: ValueId) -> Option<usize> {
        self.defs[v.0 as usize]
    }

    /// Fusible producers of `node`'s operands, seen through free ops.
    fn producers(&self, node: usize) -> BTreeSet<usize> {
        let mut out = BTreeSet::new();
        let mut stack: Vec<ValueId> = self.func.nodes[node].inputs.clone();
        while let Some(v) = stack.pop() {
            let Some(d) = self.def(v) else { continue };
            if self.of[d].is_some() {
                out.insert(d);
            } else if free(&self.func.nodes[d].op) {
                stack.extend(&self.func.nodes[d].inputs);
            }
        }
        out
    }

    /// The group of `members` as a function of its external operands, with the values it gives to others.
    fn body(&self, members: &[usize]) -> (Func, Vec<ValueId>, Vec<ValueId>) {
        let mut body = Func::new("group");
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        let mut externals = vec![];
        for m in members {
            let node = &self.func.nodes[*m];
            let loc = Loc { block: Arc::clone(&node.loc.block), ..Loc::default() };
            let ins: Vec<ValueId> =
                node.inputs.iter().map(|v| self.take(*v, members, &mut body, &mut map, &mut externals, &loc)).collect();
            let types = node.outputs.iter().map(|o| self.func.ty(*o).clone()).collect();
            let outs = body.push(node.op.clone(), &ins, types, &loc);
            map.extend(node.outputs.iter().copied().zip(outs));
        }
        let outside = |v: &ValueId| {
            let copied = |u: &usize| free(&self.func.nodes[*u].op) && self.only_for(*u, members);
            self.is_result[v.0 as usize] || self.users[v.0 as usize].iter().any(|u| !members.contains(u) && !copied(u))
        };
        let given: Vec<ValueId> =
            members.iter().flat_map(|m| &self.func.nodes[*m].outputs).copied().filter(|v| outside(v)).collect();
        for (i, v) in given.iter().enumerate() {
            body.result(format!("r{i}"), map[v]);
        }
        (body, externals, given)
    }

    /// Whether every use of free node `u`'s result, through other free nodes, is in `members`.
    fn only_for(&self, u: usize, members: &[usize]) -> bool {
        let out = self.func.nodes[u].outputs[0];
        !self.is_result[out.0 as usize]
            && self.users[out.0 as usize]
                .iter()
                .all(|w| members.contains(w) || free(&self.func.nodes[*w].op) && self.only_for(*w, members))
    }

    /// Value `v` inside `body`: made there already, a copy of a free op at `loc`, or a new parameter.
    fn take(
        &self,
        v: ValueId,
        members: &[usize],
        body: &mut Func,
        map: &mut HashMap<ValueId, ValueId>,
        externals: &mut Vec<ValueId>,
        loc: &Loc,
    ) -> ValueId {
        if let Some(inner) = map.get(&v) {
            return *inner;
        }
        let copy = self.def(v).map(|d| &self.func.nodes[d]).filter(|n| free(&n.op) && self.worth_copying(n, members));
        let inner = if let Some(node) = copy {
            let ins: Vec<ValueId> =
                node.inputs.iter().map(|u| self.take(*u, members, body, map, externals, loc)).collect();
            body.push(node.op.clone(), &ins, vec![self.func.ty(v).clone()], loc)[0]
        } else {
            externals.push(v);
            let name = format!("p{}", externals.len() - 1);
            body.param(name, self.func.ty(v).clone(), Role::Input, Loc::default())
        };
        map.insert(v, inner);
        inner
    }

    /// Constants and broadcasts are never stored; a reshape joins when what it reshapes is in the group.
    fn worth_copying(&self, node: &Node, members: &[usize]) -> bool {
        !matches!(node.op, Op::Reshape)
            || self.def(node.inputs[0]).is_some_and(|d| {
                members.contains(&d) || free(&self.func.nodes[d].op) && self.worth_copying(&self.func.nodes[d], members)
            })
    }

    /// A place in the function, at most `first`, before which nothing depends on anything after: no group but those of
    /// `members` has ops on both sides of it.
    fn settled_before(&self, first: usize, members: &[usize]) -> usize {
        let mut bound = first;
        loop {
            let across = |g: &&Vec<usize>| {
                let (Some(low), Some(high)) = (g.first(), g.last()) else { return false };
                *low < bound && bound <= *high && !members.contains(low)
            };
            let Some(low) = self.groups.iter().filter(across).map(|g| g[0]).min() else { return bound };
            bound = low;
        }
    }

    /// Whether some op outside `members` both depends on one of them and feeds one, groups taken as one op each.
    fn cyclic(&self, members: &[usize]) -> bool {
        let bound = self.settled_before(members[0], members);
        let mut seen: HashSet<usize> = HashSet::new();
        let mut stack: Vec<usize> = vec![];
        let feed = |n: usize, stack: &mut Vec<usize>| {
            stack.extend(self.func.nodes[n].inputs.iter().filter_map(|v| self.def(*v)));
        };
        for m in members {
            feed(*m, &mut stack);
        }
        stack.retain(|n| !members.contains(n));
        while let Some(n) = stack.pop() {
            if members.contains(&n) {
                return true;
            }
            let alone = [n];
            let mates: &[usize] = self.of[n].map_or(&alone, |g| &self.groups[g]);
            if mates.iter().all(|m| *m < bound) || !seen.insert(mates[0]) {
                continue;
            }
            mates.iter().filter(|m| !members.contains(m)).for_each(|m| feed(*m, &mut stack));
        }
        false
    }

    fn valid(&self, members: &[usize]) -> bool {
        if members.len() > MAX_OPS || self.cyclic(members) {
            return false;
        }
        let (body, externals, given) = self.body(members);
        externals.len() + given.len() <= MAX_BUFFERS && loops::supported(&body)
    }

    fn grow(&mut self, node: usize) {
        if !fusible(self.func, &self.func.nodes[node]) || !self.valid(&[node]) {
            return;
        }
        let near: BTreeSet<usize> = self.producers(node).iter().filter_map(|p| self.of[*p]).collect();
        let joined = |groups: &[usize], this: &Self| {
            let mut all: Vec<usize> = groups.iter().flat_map(|g| this.groups[*g].clone()).chain([node]).collect();
            all.sort_unstable();
            all
        };
        let all: Vec<usize> = near.iter().copied().collect();
        // All neighbours at once, else the latest one that will have it.
        let mut choices = vec![all.clone()];
        choices.extend(all.iter().rev().map(|g| vec![*g]));
        for choice in choices.iter().filter(|c| !c.is_empty()) {
            let members = joined(choice, self);
            if self.valid(&members) {
                let target = choice[0];
                for g in &choice[1..] {
                    self.groups[*g].clear();
                }
                members.iter().for_each(|m| self.of[*m] = Some(target));
                self.groups[target] = members;
                return;
            }
        }
        self.of[node] = Some(self.groups.len());
        self.groups.push(vec![node]);
    }
}

/// `func` with its groups as calls; their bodies go to `bodies`.
pub(super) fn fuse(func: &Func, bodies: &mut Bodies) -> Func {
    let mut users = vec![vec![]; func.types.len()];
    for (i, n) in func.nodes.iter().enumerate() {
        n.inputs.iter().for_each(|v| users[v.0 as usize].push(i));
    }
    let mut is_result = vec![false; func.types.len()];
    func.results.iter().for_each(|r| is_result[r.value.0 as usize] = true);
    let mut g =
        Grouping { func, defs: func.defs(), of: vec![None; func.nodes.len()], groups: vec![], users, is_result };
    (0..func.nodes.len()).for_each(|n| g.grow(n));
    // Unit of emission for each node: its group, or itself.
    let mut units: Vec<(Vec<usize>, Node)> = vec![];
    for (i, node) in func.nodes.iter().enumerate() {
        match g.of[i] {
            None => units.push((vec![i], node.clone())),
            Some(k) if g.groups[k].last() == Some(&i) => {
                let members = &g.groups[k];
                let (body, inputs, outputs) = g.body(members);
                let alone = members.len() == 1 && body.nodes.len() == 1;
                let call = if alone {
                    node.clone()
                } else {
                    let callee = bodies.intern(body, &node.loc.block);
                    Node { op: Op::Call { callee }, inputs, outputs, loc: node.loc.clone() }
                };
                units.push((members.clone(), call));
            }
            Some(_) => {}
        }
    }
    let mut out = func.clone();
    out.nodes = in_order(func, units);
    out.without_dead_nodes()
}

/// Units in an order where operands come first, otherwise by the place of their last op.
fn in_order(func: &Func, units: Vec<(Vec<usize>, Node)>) -> Vec<Node> {
    let mut maker: HashMap<ValueId, usize> = HashMap::new();
    for (u, (_, node)) in units.iter().enumerate() {
        node.outputs.iter().for_each(|o| _ = maker.insert(*o, u));
    }
    let mut waits = vec![0usize; units.len()];
    let mut feeds: Vec<Vec<usize>> = vec![vec![]; units.len()];
    for (u, (_, node)) in units.iter().enumerate() {
        let from: BTreeSet<usize> = node.inputs.iter().filter_map(|v| maker.get(v)).copied().collect();
        waits[u] = from.len();
        from.iter().for_each(|f| feeds[*f].push(u));
    }
    let key = |u: usize| std::cmp::Reverse((units[u].0.last().copied().unwrap_or(0), u));
    let mut ready: BinaryHeap<_> = (0..units.len()).filter(|u| waits[*u] == 0).map(key).collect();
    let mut order = vec![];
    while let Some(std::cmp::Reverse((_, u))) = ready.pop() {
        order.push(u);
        for f in &feeds[u] {
            waits[*f] -= 1;
            if waits[*f] == 0 {
                ready.push(key(*f));
            }
        }
    }
    debug_assert_eq!(order.len(), units.len(), "groups of @{} form a cycle", func.name);
    let mut nodes: Vec<Option<Node>> = units.into_iter().map(|u| Some(u.1)).collect();
    order.into_iter().filter_map(|u| nodes[u].take()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::{Binary, Builder, DType, TensorType, Unary};

    /// u → a → (m + a) and m → e → (u + e): joining both sums to what they read would make each group wait for the other.
    #[test]
    fn two_groups_never_wait_for_each_other() {
        let mut func = Func::new("f");
        let ty = TensorType::new(DType::F32, [8, 16]);
        let param =
            |f: &mut Func, name: &str, dims: &[usize]| f.param(name, ty.with_dims(dims), Role::Input, Loc::default());
        let (x, z, w) =
            (param(&mut func, "x", &[8, 16]), param(&mut func, "z", &[8, 16]), param(&mut func, "w", &[16, 16]));
        let mut b = Builder::new(&mut func, Loc::default());
        let u = b.unary(Unary::Tanh, x);
        let a = b.einsum("ab,cb->ac", u, w);
        let m = b.unary(Unary::Sigmoid, z);
        let e = b.einsum("ab,cb->ac", m, w);
        let first = b.binary(Binary::Sub, u, e);
        let second = b.binary(Binary::Sub, m, a);
        func.result("first", first);
        func.result("second", second);
        let mut bodies = Bodies::default();
        let out = fuse(&func, &mut bodies);
        let names: Vec<&str> = out.nodes.iter().map(|n| n.op.name()).collect();
        assert_eq!(names.iter().filter(|n| **n == "call").count(), 1, "{names:?}");
        assert_eq!(names.len(), 5, "{names:?}");
    }
}
