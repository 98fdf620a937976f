//! One round of a layer's experts, as a function that is repeated until no row is left.
//!
//! A round takes the next rows of the rank's own tokens, sends them to where their experts are, sorts those that arrive, and does
//! with them what the layer does. What comes back is added up for the tokens, weights' gradients for the experts. The backward
//! pass makes what it reads of the forward one again, from the tokens: values of a round are not kept.

use super::cannot;
use super::exchange::Layer;
use super::local::Cutter;
use super::spread::{Axes, Linear, form, linear};
use athanor_ir::experts::GroupedForm;
use athanor_ir::{
    Binary, Collective, CollectiveKind, DType, Func, Loc, Node, Op, ReduceKind, Result, Role, TensorType, ValueId,
};
use std::collections::{BTreeSet, HashMap, HashSet};

impl Cutter<'_> {
    /// Writes pass `pass` of layer `layer` as rounds, of as many as the rank that needs most. The round goes to `bodies` unless
    /// another layer has the same one.
    pub(super) fn in_rounds(&mut self, layer: usize, pass: usize, bodies: &mut Vec<Func>) -> Result<()> {
        let Layer { capacity, passes, .. } = self.exchange.layers[layer].clone();
        let nodes = needed(self.func, &passes, pass);
        let loc = self.node_of(passes[pass][0]).loc.clone();
        let sums: Vec<ValueId> =
            passes[pass].iter().map(|n| self.node_of(*n)).filter(|n| sums_up(n)).map(|n| n.outputs[0]).collect();
        let sorted = self.exchange.sorted[&layer];
        let mut round = Round::new(self, capacity, &sums, (sorted.rows, sorted.spans), &loc);
        for n in nodes {
            round.node(n)?;
        }
        let (mut func, captured, axes) = round.done(&sums);
        for (p, sum) in func.params[1..].iter_mut().zip(&sums) {
            p.sharding = self.sharding(*sum);
        }
        let same = |known: &&Func| Func { name: known.name.clone(), ..func.clone() } == **known;
        let callee = bodies.iter().find(same).map_or_else(|| format!("experts_{}", bodies.len()), |f| f.name.clone());
        if bodies.iter().all(|known| known.name != callee) {
            bodies.push(Func { name: callee.clone(), ..func });
        }
        let most = CollectiveKind::AllReduce { reduce: ReduceKind::Max };
        let rounds = self.collective(most, axes, sorted.rounds, &loc);
        let operands: Vec<ValueId> = std::iter::once(rounds).chain(captured).collect();
        let types = sums.iter().map(|v| self.local(*v)).collect();
        let made = self.out.push(Op::Repeat { callee }, &operands, types, &loc);
        for (old, new) in sums.into_iter().zip(made) {
            self.define_partial(old, new, self.partial_of(old));
        }
        Ok(())
    }
}

/// Whether the result of `node`, which has rows, is summed up over rounds: it has none.
fn sums_up(node: &Node) -> bool {
    matches!(node.op, Op::Combine | Op::CombineDot) || form(&node.op) == Some(GroupedForm::Sums)
}

/// The nodes of a round of pass `pass`, in order: its own, and those of the forward pass whose rows they read.
fn needed(func: &Func, passes: &[Vec<usize>; 2], pass: usize) -> BTreeSet<usize> {
    let defs = func.defs();
    let before: HashSet<usize> = if pass > 0 { passes[0].iter().copied().collect() } else { HashSet::new() };
    let mut nodes: BTreeSet<usize> = passes[pass].iter().copied().collect();
    let mut open: Vec<usize> = passes[pass].clone();
    while let Some(n) = open.pop() {
        let makers = func.nodes[n].inputs.iter().filter_map(|v| defs[v.0 as usize]);
        for d in makers.filter(|d| before.contains(d) && !sums_up(&func.nodes[*d])) {
            if nodes.insert(d) {
                open.push(d);
            }
        }
    }
    nodes
}

/// A round being written.
struct Round<'c, 'a> {
    cutter: &'c mut Cutter<'a>,
    loc: &'c Loc,
    func: Func,
    /// Rows that are sent, and that arrive.
    rows: usize,
    /// Place of each slot among the rows that are sent.
    places: ValueId,
    /// Place of each row that arrived when they are sorted by expert.
    sorted: ValueId,
    /// Spans of the own experts among those.
    spans: ValueId,
    /// Axes over which ranks do something together.
    axes: Axes,
    /// Values outside that it reads, and the parameters that they are.
    captured: Vec<ValueId>,
    params: HashMap<ValueId, ValueId>,
    /// Sorted rows, by the old value of them.
    known: HashMap<ValueId, ValueId>,
    /// The same where their tokens are.
    returned: HashMap<ValueId, ValueId>,
    /// What is summed up, by old value: so far, and with this round.
    sums: HashMap<ValueId, (ValueId, Option<ValueId>)>,
}

impl<'c, 'a> Round<'c, 'a> {
    /// A round for rows and spans of sorted tokens, with `capacity` rows between two ranks, in which the old values `sums` are
    /// summed up.
    fn new(
        cutter: &'c mut Cutter<'a>,
        capacity: usize,
        sums: &[ValueId],
        (rows, spans): (ValueId, ValueId),
        loc: &'c Loc,
    ) -> Self {
        let mut func = Func::new("round");
        let number = func.param("round", TensorType::scalar(DType::I32), Role::Input, Loc::default());
        let mut of = HashMap::new();
        for (i, sum) in sums.iter().enumerate() {
            // As gradients of earlier micro-batches are: products are added where they lie.
            let so_far = func.param(format!("sum{i}"), cutter.local(*sum), Role::Grad, Loc::default());
            of.insert(*sum, (so_far, None));
        }
        let ranks = cutter.ranks(cutter.factors.experts());
        let mut this = Self {
            axes: cutter.factors.experts(),
            cutter,
            loc,
            func,
            rows: ranks * capacity,
            places: number,
            sorted: number,
            spans: number,
            captured: vec![],
            params: HashMap::new(),
            known: HashMap::new(),
            returned: HashMap::new(),
            sums: of,
        };
        let own = this.cutter.out.ty(spans).dims[1];
        let [rows, spans] = [rows, spans].map(|outer| this.take(outer));
        let i32s = |dims: &[usize]| TensorType::new(DType::I32, dims);
        let types = vec![this.func.ty(rows).clone(), i32s(&[this.rows, 1])];
        let going = this.func.push(Op::Portion { capacity }, &[rows, spans, number], types, &Loc::default());
        this.places = going[0];
        // Where no row is the expert is one more than there are: such rows are sorted behind all others.
        let experts = this.send(going[1]);
        let types = vec![i32s(&[this.rows, 1]), i32s(&[own + 1, 2])];
        let op = Op::Assign { experts: own + 1, capacity: 0 };
        let arrived = this.func.push(op, &[experts], types, &Loc::default());
        this.sorted = arrived[0];
        this.spans = this.push(Op::Slice { dim: 0, start: 0, len: own }, &[arrived[1]], i32s(&[own, 2]));
        this
    }

    fn push(&mut self, op: Op, operands: &[ValueId], ty: TensorType) -> ValueId {
        self.func.push(op, operands, vec![ty], &Loc::default())[0]
    }

    /// The parameter that is `outer`, a value of the function around.
    fn take(&mut self, outer: ValueId) -> ValueId {
        if let Some(known) = self.params.get(&outer) {
            return *known;
        }
        let (name, ty) = (format!("x{}", self.captured.len()), self.cutter.out.ty(outer).clone());
        let param = self.func.param(name, ty, Role::Input, Loc::default());
        self.captured.push(outer);
        self.params.insert(outer, param);
        param
    }

    /// What the old value `old` is in the round, summed over the axes over which it is partial but for `keep`.
    fn operand(&mut self, old: ValueId, keep: Axes) -> ValueId {
        let Some(rows) = self.known.get(&old).copied() else {
            let outer = self.cutter.whole_but(old, keep, self.loc);
            return self.take(outer);
        };
        let missing = self.cutter.partial_of(old).without(keep);
        if missing.is_empty() {
            return rows;
        }
        self.together(CollectiveKind::AllReduce { reduce: ReduceKind::Sum }, missing, rows)
    }

    /// What ranks along `axes` make of `x` together, which keeps its size.
    fn together(&mut self, kind: CollectiveKind, axes: Axes, x: ValueId) -> ValueId {
        let mesh = &self.cutter.module.mesh;
        let op = Op::Collective(Collective { kind, axes: axes.names(mesh), ranks: axes.ranks(mesh) });
        self.axes = self.axes.or(axes);
        let ty = self.func.ty(x).clone();
        self.push(op, &[x], ty)
    }

    /// Rows by the rank that they go to become rows by the rank that they come from.
    fn send(&mut self, rows: ValueId) -> ValueId {
        let experts = self.cutter.factors.experts();
        self.together(CollectiveKind::AllToAll { cut: 0, join: 0 }, experts, rows)
    }

    /// The sorted rows of the old value `old`, back where their tokens are.
    fn back(&mut self, old: ValueId, keep: Axes) -> ValueId {
        if let Some(known) = self.returned.get(&old) {
            return *known;
        }
        let rows = self.operand(old, keep);
        let ty = self.func.ty(rows).clone();
        let arrived = self.push(Op::Combine, &[rows, self.sorted], ty);
        let back = self.send(arrived);
        self.returned.insert(old, back);
        back
    }

    /// Type of the old value `old` in a round.
    fn local(&self, old: ValueId) -> TensorType {
        let mut ty = self.cutter.local(old);
        for d in 0..ty.rank() {
            if self.cutter.factors.rows(self.cutter.index, old, d).is_some() {
                ty.dims[d] = self.rows;
            }
        }
        ty
    }

    /// Writes node `n` of the old function.
    fn node(&mut self, n: usize) -> Result<()> {
        let node = self.cutter.node_of(n);
        let (kept, lost) = (self.cutter.kept(node), self.cutter.lost(node));
        let lost = lost.first().copied().unwrap_or_default();
        let (out, ty) = (node.outputs[0], self.local(node.outputs[0]));
        if !kept.and(lost).is_empty() || node.outputs.len() > 1 {
            return unable(node);
        }
        let mut partial = kept.or(lost);
        match (&node.op, form(&node.op)) {
            (Op::Dispatch { .. }, _) => {
                let mut operands = vec![self.operand(node.inputs[0], Axes::NONE), self.places];
                operands.extend(node.inputs.get(2).map(|w| self.operand(*w, Axes::NONE)));
                let op = Op::Dispatch { rows: self.rows };
                let going = self.push(op.clone(), &operands, ty.clone());
                let arrived = self.send(going);
                let rows = self.push(op, &[arrived, self.sorted], ty);
                self.known.insert(out, rows);
            }
            (Op::Combine | Op::CombineDot, _) => {
                let back = self.back(node.inputs[0], kept);
                let mut operands = vec![back, self.places];
                operands.extend(node.inputs.get(2).map(|w| self.operand(*w, Axes::NONE)));
                let new = self.push(node.op.clone(), &operands, ty.clone());
                let so_far = self.sums[&out].0;
                let sum = self.push(Op::Binary(Binary::Add), &[so_far, new], ty);
                self.sums.insert(out, (so_far, Some(sum)));
                partial = partial.or(self.cutter.columns());
            }
            (_, Some(GroupedForm::Sums)) if node.inputs.len() == 3 => {
                let so_far = self.sums[&out].0;
                let [a, b] = [0, 1].map(|i| self.operand(node.inputs[i], Axes::NONE));
                let new = self.push(node.op.clone(), &[a, b, self.spans], ty.clone());
                let sum = self.push(Op::Binary(Binary::Add), &[so_far, new], ty);
                self.sums.insert(out, (so_far, Some(sum)));
            }
            (_, Some(GroupedForm::Sums)) => return unable(node),
            (_, Some(GroupedForm::Rows)) => {
                let [a, b] = [0, 1].map(|i| self.operand(node.inputs[i], Axes::NONE));
                let mut operands = vec![a, b, self.spans];
                operands.extend(node.inputs.get(3).map(|acc| self.operand(*acc, Axes::NONE)));
                let rows = self.push(node.op.clone(), &operands, ty);
                self.known.insert(out, rows);
            }
            (op, None) => {
                if ty.dims.first() != Some(&self.rows) {
                    return unable(node);
                }
                let first_alone = linear(op) == Linear::One;
                let mut operands = vec![];
                for (i, v) in node.inputs.iter().enumerate() {
                    operands.push(self.operand(*v, if i > 0 && first_alone { Axes::NONE } else { kept }));
                }
                let rows = self.push(op.clone(), &operands, ty);
                self.known.insert(out, rows);
            }
        }
        self.cutter.set_partial(out, partial);
        Ok(())
    }

    /// The function, what it reads of values outside, and the axes over which ranks do something together in it.
    fn done(mut self, sums: &[ValueId]) -> (Func, Vec<ValueId>, Axes) {
        for (i, sum) in sums.iter().enumerate() {
            let (so_far, new) = self.sums[sum];
            self.func.result(format!("sum{i}"), new.unwrap_or(so_far));
        }
        (self.func, self.captured, self.axes)
    }
}

fn unable<T>(node: &Node) -> Result<T> {
    cannot(format!("nn.{} in {:?} cannot be done in rounds with the rows of experts", node.op.name(), node.loc.block))
}
