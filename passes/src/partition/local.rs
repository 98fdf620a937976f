//! Functions with the shapes of one rank, and the collective operations that make partial values whole.

use super::cannot;
use super::exchange::Exchange;
use super::factors::Factors;
use super::fetch::Fetch;
use super::held::Held;
use super::sequence::Parts;
use super::share::Shares;
use super::spread::{Axes, Linear, form, is_summed, labels, linear, together};
use athanor_ir::{Binary, Builder, TensorType, ValueId};
use athanor_ir::{Collective, CollectiveKind, Func, Loc, Module, Node, Op, ReduceKind, Result, Role, Sharding};
use std::collections::{BTreeMap, HashMap, HashSet};

/// `module` cut as `factors` says.
pub(super) fn cut(module: &Module, factors: &Factors) -> Result<Module> {
    // What functions hand on is partial or not as the one that ran before left it.
    let mut partial: HashMap<String, Axes> = HashMap::new();
    let mut funcs = vec![];
    // Counts of tokens, which are kept from one micro-batch to the next too, are few: they are summed where they are made.
    let params = || module.funcs.iter().flat_map(|f| &f.params);
    let weights: HashSet<&str> =
        params().filter(|p| matches!(p.role, Role::Weight { .. })).map(|p| p.name.as_str()).collect();
    let of_weight = |name: &str| name.strip_prefix("grad.").is_some_and(|w| weights.contains(w));
    let gradients = params().filter(|p| p.role == Role::Grad && of_weight(&p.name)).map(|p| p.name.as_str()).collect();
    let shares = Shares::of(module, factors);
    let mut rounds = vec![];
    for (f, func) in module.funcs.iter().enumerate() {
        funcs.push(Cutter::new(module, factors, &shares, f, func).run(&gradients, &mut partial, &mut rounds)?);
    }
    funcs.extend(rounds);
    Ok(Module { funcs, ..module.clone() })
}

/// One function on its way to that of a rank.
pub(super) struct Cutter<'a> {
    pub(super) module: &'a Module,
    pub(super) factors: &'a Factors,
    shares: &'a Shares<'a>,
    pub(super) index: usize,
    pub(super) func: &'a Func,
    pub(super) out: Func,
    /// The new value of each old one.
    pub(super) new: Vec<Option<ValueId>>,
    /// Axes over which each old value is partial; `None` for gradients of earlier micro-batches until it is known what is
    /// added to them.
    pub(super) partial: Vec<Option<Axes>>,
    /// Axes over which each old value has the rows of some experts only, and zeros where those of others would be.
    pub(super) window: Vec<Axes>,
    /// Values with sums over some axes taken.
    summed: BTreeMap<(ValueId, Axes), ValueId>,
    /// Values with the sequences of all ranks that share experts.
    pub(super) gathered: HashMap<ValueId, ValueId>,
    /// Spans of the own experts.
    pub(super) spans: HashMap<ValueId, ValueId>,
    /// Ids counted from the first of the own part of a vocabulary, whose size it is.
    pub(super) ids: HashMap<(ValueId, usize), ValueId>,
    /// What attention reads of values, and what it makes: some heads, and tokens of other ranks.
    pub(super) attended: HashMap<ValueId, ValueId>,
    /// Keys and values of all ranks, for attention or for its gradient.
    pub(super) keys: HashMap<(ValueId, bool), ValueId>,
    /// Parts of what replicas share.
    pub(super) held: Held,
    /// Weights that are gathered where they are read.
    pub(super) fetch: Fetch,
    /// Parts of sequences.
    pub(super) parts: Parts,
    /// Layers whose rows ranks exchange.
    pub(super) exchange: Exchange,
}

impl<'a> Cutter<'a> {
    fn new(module: &'a Module, factors: &'a Factors, shares: &'a Shares<'a>, index: usize, func: &'a Func) -> Self {
        let count = func.types.len();
        let (out, summed) = (Func::new(func.name.clone()), BTreeMap::new());
        let (new, partial) = (vec![None; count], vec![None; count]);
        let (window, gathered, spans) = (vec![Axes::NONE; count], HashMap::new(), HashMap::new());
        let (ids, attended, held) =
            (HashMap::new(), HashMap::new(), Held::of(func, shares, module.mesh.size("pp") > 1));
        let (keys, fetch, parts) = (HashMap::new(), Fetch::of(func, shares), Parts::of(module, func));
        let exchange = Exchange::of(module, factors, index);
        Self {
            module,
            factors,
            shares,
            index,
            func,
            out,
            new,
            partial,
            window,
            summed,
            gathered,
            spans,
            ids,
            attended,
            keys,
            held,
            fetch,
            parts,
            exchange,
        }
    }

    /// `gradients` are the names of what functions hand on and may be partial, `handed` says over which axes it is; `rounds` are
    /// the functions that are repeated.
    fn run(
        mut self,
        gradients: &HashSet<&str>,
        handed: &mut HashMap<String, Axes>,
        rounds: &mut Vec<Func>,
    ) -> Result<Func> {
        for p in &self.func.params {
            let value = self.out.param(p.name.clone(), self.held_type(p.value), p.role.clone(), p.loc.clone());
            self.new[p.value.0 as usize] = Some(value);
            let known =
                if gradients.contains(p.name.as_str()) { handed.get(&p.name).copied() } else { Some(Axes::NONE) };
            self.partial[p.value.0 as usize] = known;
        }
        for (i, node) in self.func.nodes.iter().enumerate() {
            self.parts.at(i, self.module.run.cut_sequence);
            self.fetch.at(node);
            if !self.exchanged(i, rounds)? {
                self.node(node)?;
            }
            self.take_due(node);
        }
        let left = self.summed_gradients();
        let defs = self.func.defs();
        for r in &self.func.results {
            if let Some((part, partial)) = self.shares.parts(&r.name).and_then(|_| self.held.due(r.value)) {
                self.out.result(r.name.clone(), part);
                handed.insert(r.name.clone(), partial);
                continue;
            }
            let keep = if gradients.contains(r.name.as_str()) { self.partial_of(r.value) } else { Axes::NONE };
            let loc = defs[r.value.0 as usize].map(|n| &self.func.nodes[n].loc);
            let value = self.whole_but(r.value, keep, loc.unwrap_or(&Loc::default()));
            self.out.result(r.name.clone(), value);
            handed.insert(r.name.clone(), keep);
        }
        for (name, value) in left {
            handed.insert(name.clone(), Axes::NONE);
            self.out.result(name, value);
        }
        for (old, new) in self.func.params.iter().zip(0..) {
            self.out.params[new].sharding = self.sharding(old.value);
        }
        // All of what only parts are read of is made for nothing.
        Ok(if self.parts.any() { self.out.without_dead_nodes() } else { self.out })
    }

    /// Gradients that this function summed over ranks: they are left whole where they were, under their names.
    fn summed_gradients(&self) -> Vec<(String, ValueId)> {
        let grads =
            self.func.params.iter().filter(|p| p.role == Role::Grad && self.func.find_result(&p.name).is_none());
        grads.filter_map(|p| self.summed.get(&(p.value, Axes::NONE)).map(|v| (p.name.clone(), *v))).collect()
    }

    /// Type of one rank's part of `value`.
    pub(super) fn local(&self, value: ValueId) -> TensorType {
        let mut ty = self.func.ty(value).clone();
        for (d, size) in ty.dims.iter_mut().enumerate() {
            *size /= self.factors.axes_of(self.index, value, d).ranks(&self.module.mesh);
        }
        ty
    }

    pub(super) fn sharding(&self, value: ValueId) -> Sharding {
        let name = |a: usize| self.module.mesh.axes[a].name.clone();
        let axes = |d| self.factors.axes_of(self.index, value, d).iter().map(name).collect();
        let mut dims: Vec<Vec<String>> = (0..self.func.ty(value).rank()).map(axes).collect();
        if let Some(replicas) = self.held.replicas(value) {
            dims[0].extend(replicas.iter().map(name));
        }
        let dims = if dims.iter().all(Vec::is_empty) { vec![] } else { dims };
        Sharding { dims, partial: self.partial_of(value).iter().map(name).collect() }
    }

    pub(super) fn partial_of(&self, value: ValueId) -> Axes {
        self.partial[value.0 as usize].unwrap_or_default()
    }

    pub(super) fn set_partial(&mut self, value: ValueId, axes: Axes) {
        self.partial[value.0 as usize] = Some(axes);
    }

    /// Whether there is a new value that is all of `value`, or a sum over axes that gives it.
    pub(super) fn has_all(&self, value: ValueId) -> bool {
        self.new[value.0 as usize].is_some()
    }

    /// Whether the sum over `axes` of `value` is there already.
    pub(super) fn summed_over(&self, value: ValueId, axes: Axes) -> bool {
        self.summed.contains_key(&(value, self.partial_of(value).without(axes)))
    }

    pub(super) fn type_of(&self, value: ValueId) -> &TensorType {
        self.func.ty(value)
    }

    pub(super) fn node_of(&self, index: usize) -> &'a Node {
        &self.func.nodes[index]
    }

    /// Ranks along `axes`.
    pub(super) fn ranks(&self, axes: Axes) -> usize {
        axes.ranks(&self.module.mesh)
    }

    /// The new value of `value`, summed over the axes over which it is partial but for `keep`.
    pub(super) fn whole_but(&mut self, value: ValueId, keep: Axes, loc: &Loc) -> ValueId {
        if let Some(all) = self.fetched(value, loc).or_else(|| self.joined(value, keep, loc)) {
            return all;
        }
        let partial = self.partial_of(value);
        let missing = partial.without(keep);
        let new = self.new[value.0 as usize].unwrap_or_else(|| self.own_logarithms(value, loc));
        if missing.is_empty() {
            return new;
        }
        let left = partial.and(keep);
        if let Some(known) = self.summed.get(&(value, left)) {
            return *known;
        }
        let sum = self.collective(CollectiveKind::AllReduce { reduce: ReduceKind::Sum }, missing, new, loc);
        self.summed.insert((value, left), sum);
        sum
    }

    /// What ranks along `axes` make of `x` together.
    pub(super) fn collective(&mut self, kind: CollectiveKind, axes: Axes, x: ValueId, loc: &Loc) -> ValueId {
        let mesh = &self.module.mesh;
        let c = Collective { kind, axes: axes.names(mesh), ranks: axes.ranks(mesh) };
        let ty = self.out.ty(x).clone();
        let Ok(dims) = c.dims(&ty.dims) else { unreachable!("what is cut is divided") };
        let ty = ty.with_dims(dims);
        self.out.push(Op::Collective(c), &[x], vec![ty], loc)[0]
    }

    /// Axes that cut dim `dim` of `value`.
    pub(super) fn cut_of(&self, value: ValueId, dim: usize) -> Axes {
        self.factors.axes_of(self.index, value, dim)
    }

    /// Whether dim `dim` of `value` is the sequence.
    pub(super) fn is_sequence(&self, value: ValueId, dim: usize) -> bool {
        self.factors.is_sequence(self.index, value, dim)
    }

    /// Those of the axes `names` that the mesh has.
    pub(super) fn named(&self, names: &[&str]) -> Axes {
        Axes::named(&self.module.mesh, names)
    }

    /// Gives `old` its new value, which is whole.
    pub(super) fn define(&mut self, old: ValueId, new: ValueId) {
        self.define_partial(old, new, Axes::NONE);
    }

    /// Gives `old` its new value, which is partial over `axes`.
    pub(super) fn define_partial(&mut self, old: ValueId, new: ValueId, axes: Axes) {
        self.new[old.0 as usize] = Some(new);
        self.partial[old.0 as usize] = Some(axes);
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if node.op == Op::SumSquares {
            self.sum_squares(node);
            return Ok(());
        }
        if self.of_parts(node) || self.put_off(node) || self.part_loss(node) || self.along_sequence(node)? {
            return Ok(());
        }
        if self.in_parts(node) {
            return self.node_in_parts(node);
        }
        self.learn_gradients(node);
        let keep = self.kept(node);
        let together = together(&node.op);
        let mut inputs = vec![];
        for (i, v) in node.inputs.iter().enumerate() {
            let input = match self.gathered.get(v) {
                // Where a token's rows are is known to those who sorted together.
                Some(known) if !self.has_all(*v) && !self.parts.have(*v) => {
                    if !together {
                        return cannot(format!("nn.{} in {:?} reads rows of experts", node.op.name(), node.loc.block));
                    }
                    *known
                }
                _ => {
                    let keep = if i > 0 && linear(&node.op) == Linear::One { Axes::NONE } else { keep };
                    let whole = self.whole_but(*v, keep, &node.loc);
                    if together { self.gathered(*v, whole, &node.loc) } else { whole }
                }
            };
            inputs.push(match (&node.op, i) {
                (Op::GroupedEinsum { .. }, 2) => self.own_spans(*v, input, &node.loc),
                (Op::Embed, 0) => self.own_ids(*v, input, (node.inputs[1], 0), &node.loc),
                (Op::EmbedGrad { .. }, 0) => self.own_ids(*v, input, (node.outputs[0], 0), &node.loc),
                _ => input,
            });
        }
        let lost = self.lost(node);
        if !keep.is_empty() && lost.iter().any(|l| !l.and(keep).is_empty()) {
            return cannot(format!(
                "nn.{} in {:?} sums over an axis that it is partial over",
                node.op.name(),
                node.loc.block
            ));
        }
        let local = |v: &ValueId| if together { self.local_together(*v) } else { self.local(*v) };
        let types: Vec<TensorType> = node.outputs.iter().map(local).collect();
        let op = match &node.op {
            Op::Dispatch { .. } => Op::Dispatch { rows: types[0].dims[0] },
            Op::EmbedGrad { .. } => Op::EmbedGrad { vocab: types[0].dims[0] },
            op => op.clone(),
        };
        let outputs = self.out.push(op, &inputs, types, &node.loc);
        let window = self.window_of(node);
        for ((old, new), lost) in node.outputs.iter().zip(outputs).zip(lost) {
            self.window[old.0 as usize] = window.0;
            self.partial[old.0 as usize] = Some(keep.or(lost).or(window.1));
            if together {
                self.apart(*old, new, &node.loc);
            } else {
                self.new[old.0 as usize] = Some(new);
            }
        }
        Ok(())
    }

    /// The sum of earlier gradients and a new one is partial as the new one is.
    fn learn_gradients(&mut self, node: &Node) {
        let ([a, b], Op::Binary(Binary::Add)) = (&node.inputs[..], &node.op) else { return };
        for (before, new) in [(a, b), (b, a)] {
            if self.partial[before.0 as usize].is_none() {
                self.partial[before.0 as usize] = self.partial[new.0 as usize];
            }
        }
    }

    /// Axes over which the operands of `node` may stay partial.
    pub(super) fn kept(&self, node: &Node) -> Axes {
        let of = |v: &ValueId| self.partial_of(*v);
        match linear(&node.op) {
            Linear::No => Axes::NONE,
            Linear::One => of(&node.inputs[0]),
            Linear::Same => node.inputs.iter().map(of).reduce(Axes::and).unwrap_or_default(),
        }
    }

    /// Axes that cut operands of `node` and not its results, one by one: those are sums over them.
    pub(super) fn lost(&self, node: &Node) -> Vec<Axes> {
        let types = |vs: &[ValueId]| vs.iter().map(|v| self.func.ty(*v).clone()).collect::<Vec<_>>();
        let Some(s) = labels(&node.op, &types(&node.inputs), &types(&node.outputs)) else { return vec![] };
        let together = together(&node.op);
        let mut cut: BTreeMap<char, Axes> = BTreeMap::new();
        for (value, labels) in node.inputs.iter().zip(&s.operands) {
            for (d, label) in labels.iter().enumerate() {
                let axes = if together {
                    self.factors.axes_together(self.index, *value, d)
                } else {
                    self.factors.axes_of(self.index, *value, d)
                };
                let all = cut.entry(*label).or_default();
                *all = all.or(axes);
            }
        }
        // Every row belongs to one expert: a rank with some of them has their rows, whole.
        if form(&node.op).is_some() {
            cut.remove(&'e');
        }
        if together {
            cut.retain(|label, _| is_summed(*label));
        }
        let lost = |labels: &Vec<char>| {
            let gone = cut.iter().filter(|(label, _)| !labels.contains(label));
            gone.fold(Axes::NONE, |all, (_, axes)| all.or(*axes))
        };
        s.results.iter().map(lost).collect()
    }

    /// Squares of whole values are summed on every rank, those of values that an axis cuts are partial over it.
    fn sum_squares(&mut self, node: &Node) {
        let mut groups: BTreeMap<Axes, Vec<ValueId>> = BTreeMap::new();
        for v in &node.inputs {
            let (value, replicas) = self.squared(*v, &node.loc);
            let cut = self.factors.axes(self.index, self.func, *v).or(replicas);
            groups.entry(cut).or_default().push(value);
        }
        let mut total = None;
        for (axes, values) in groups {
            let ty = self.func.ty(node.outputs[0]).clone();
            let mut sum = self.out.push(Op::SumSquares, &values, vec![ty], &node.loc)[0];
            if !axes.is_empty() {
                sum = self.collective(CollectiveKind::AllReduce { reduce: ReduceKind::Sum }, axes, sum, &node.loc);
            }
            let mut b = Builder::new(&mut self.out, node.loc.clone());
            total = Some(total.map_or(sum, |t| b.add(t, sum)));
        }
        self.new[node.outputs[0].0 as usize] = total;
        self.partial[node.outputs[0].0 as usize] = Some(Axes::NONE);
    }
}
