//! Functions with the shapes of one rank, and the collective operations that make partial values whole.

use super::cannot;
use super::factors::Factors;
use super::share::Shares;
use super::spread::{Axes, Linear, labels, linear};
use athanor_ir::{Binary, Builder, TensorType, ValueId};
use athanor_ir::{Collective, CollectiveKind, Func, Loc, Module, Node, Op, ReduceKind, Result, Role, Sharding};
use std::collections::{BTreeMap, HashMap, HashSet};

/// `module` cut as `factors` says.
pub(super) fn cut(module: &Module, factors: &Factors) -> Result<Module> {
    // What functions hand on is partial or not as the one that ran before left it.
    let mut partial: HashMap<String, Axes> = HashMap::new();
    let mut funcs = vec![];
    let params = module.funcs.iter().flat_map(|f| &f.params);
    let gradients = params.filter(|p| p.role == Role::Grad).map(|p| p.name.as_str()).collect();
    for (f, func) in module.funcs.iter().enumerate() {
        funcs.push(Cutter::new(module, factors, f, func).run(&gradients, &mut partial)?);
    }
    Ok(Module { funcs, ..module.clone() })
}

/// Names of `axes`, for an op.
fn names(module: &Module, axes: Axes) -> String {
    axes.iter().map(|a| module.mesh.axes[a].name.as_str()).collect::<Vec<_>>().join(",")
}

struct Cutter<'a> {
    module: &'a Module,
    factors: &'a Factors,
    index: usize,
    func: &'a Func,
    out: Func,
    /// The new value of each old one.
    new: Vec<Option<ValueId>>,
    /// Axes over which each old value is partial; `None` for gradients of earlier micro-batches until it is known what is
    /// added to them.
    partial: Vec<Option<Axes>>,
    /// Values with sums over some axes taken.
    summed: BTreeMap<(ValueId, Axes), ValueId>,
    /// What replicas share: the optimizer's state and steps of some weights.
    shares: Shares,
}

impl<'a> Cutter<'a> {
    fn new(module: &'a Module, factors: &'a Factors, index: usize, func: &'a Func) -> Self {
        let count = func.types.len();
        let (out, summed) = (Func::new(func.name.clone()), BTreeMap::new());
        let (new, partial, shares) = (vec![None; count], vec![None; count], Shares::default());
        Self { module, factors, index, func, out, new, partial, summed, shares }
    }

    /// `gradients` are the names of what functions hand on and may be partial, `handed` says over which axes it is.
    fn run(mut self, gradients: &HashSet<&str>, handed: &mut HashMap<String, Axes>) -> Result<Func> {
        self.shares = Shares::of(self.module, self.func, |v| self.local(v), handed);
        for p in &self.func.params {
            let value = self.out.param(p.name.clone(), self.local(p.value), p.role.clone(), p.loc.clone());
            self.new[p.value.0 as usize] = Some(value);
            let known = if p.role == Role::Grad { handed.get(&p.name).copied() } else { Some(Axes::NONE) };
            self.partial[p.value.0 as usize] = known;
        }
        for node in &self.func.nodes {
            self.node(node)?;
        }
        let left = self.summed_gradients();
        let defs = self.func.defs();
        for r in &self.func.results {
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
        Ok(self.out)
    }

    /// Gradients that this function summed over ranks: they are left whole where they were, under their names.
    fn summed_gradients(&self) -> Vec<(String, ValueId)> {
        let grads =
            self.func.params.iter().filter(|p| p.role == Role::Grad && self.func.find_result(&p.name).is_none());
        grads.filter_map(|p| self.summed.get(&(p.value, Axes::NONE)).map(|v| (p.name.clone(), *v))).collect()
    }

    /// Type of one rank's part of `value`.
    fn local(&self, value: ValueId) -> TensorType {
        let mut ty = self.func.ty(value).clone();
        for (d, size) in ty.dims.iter_mut().enumerate() {
            if let Some(axis) = self.factors.axis(self.index, value, d) {
                *size /= self.module.mesh.axes[axis].size;
            }
        }
        if self.shares.states.contains(&value) {
            ty.dims[0] /= self.module.mesh.size("dp");
        }
        ty
    }

    fn sharding(&self, value: ValueId) -> Sharding {
        let name = |a: usize| self.module.mesh.axes[a].name.clone();
        let axis = |d| self.factors.axis(self.index, value, d).map(name).into_iter().collect();
        let mut dims: Vec<Vec<String>> = (0..self.func.ty(value).rank()).map(axis).collect();
        if self.shares.states.contains(&value) {
            dims[0].push("dp".into());
        }
        let dims = if dims.iter().all(Vec::is_empty) { vec![] } else { dims };
        Sharding { dims, partial: self.partial_of(value).iter().map(name).collect() }
    }

    fn partial_of(&self, value: ValueId) -> Axes {
        self.partial[value.0 as usize].unwrap_or_default()
    }

    /// The new value of `value`, summed over the axes over which it is partial but for `keep`.
    fn whole_but(&mut self, value: ValueId, keep: Axes, loc: &Loc) -> ValueId {
        let partial = self.partial_of(value);
        let missing = partial.without(keep);
        let Some(new) = self.new[value.0 as usize] else { unreachable!("operands come before their uses") };
        if missing.is_empty() {
            return new;
        }
        let left = partial.and(keep);
        if let Some(known) = self.summed.get(&(value, left)) {
            return *known;
        }
        let axes = names(self.module, missing);
        let ranks = missing.iter().map(|a| self.module.mesh.axes[a].size).product();
        let kind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
        let ty = self.out.ty(new).clone();
        let sum = self.out.push(Op::Collective(Collective { kind, axes, ranks }), &[new], vec![ty], loc)[0];
        self.summed.insert((value, left), sum);
        sum
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if node.op == Op::SumSquares {
            self.sum_squares(node);
            return Ok(());
        }
        if self.shares.steps.contains(&node.outputs[0]) {
            self.shared_step(node);
            return Ok(());
        }
        self.learn_gradients(node);
        let keep = self.kept(node);
        let inputs: Vec<ValueId> = node.inputs.iter().map(|v| self.whole_but(*v, keep, &node.loc)).collect();
        let types = node.outputs.iter().map(|v| self.local(*v)).collect();
        let outputs = self.out.push(node.op.clone(), &inputs, types, &node.loc);
        let lost = self.lost(node);
        if !keep.is_empty() && lost.iter().any(|l| !l.and(keep).is_empty()) {
            return cannot(format!(
                "nn.{} in {:?} sums over an axis that it is partial over",
                node.op.name(),
                node.loc.block
            ));
        }
        for ((old, new), lost) in node.outputs.iter().zip(outputs).zip(lost) {
            self.new[old.0 as usize] = Some(new);
            self.partial[old.0 as usize] = Some(keep.or(lost));
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
    fn kept(&self, node: &Node) -> Axes {
        let of = |v: &ValueId| self.partial_of(*v);
        match linear(&node.op) {
            Linear::No => Axes::NONE,
            Linear::One => of(&node.inputs[0]),
            Linear::Same => node.inputs.iter().map(of).reduce(Axes::and).unwrap_or_default(),
        }
    }

    /// Axes that cut operands of `node` and not its results, one by one: those are sums over them.
    fn lost(&self, node: &Node) -> Vec<Axes> {
        let types = |vs: &[ValueId]| vs.iter().map(|v| self.func.ty(*v).clone()).collect::<Vec<_>>();
        let Some(s) = labels(&node.op, &types(&node.inputs), &types(&node.outputs)) else { return vec![] };
        let mut axis_of: BTreeMap<char, usize> = BTreeMap::new();
        for (value, labels) in node.inputs.iter().zip(&s.operands) {
            for (d, label) in labels.iter().enumerate() {
                axis_of.extend(self.factors.axis(self.index, *value, d).map(|a| (*label, a)));
            }
        }
        let lost = |labels: &Vec<char>| {
            let gone = axis_of.iter().filter(|(label, _)| !labels.contains(label));
            gone.fold(Axes::NONE, |all, (_, axis)| all.or(Axes::one(*axis)))
        };
        s.results.iter().map(lost).collect()
    }

    /// Squares of whole values are summed on every rank, those of values that an axis cuts are partial over it.
    fn sum_squares(&mut self, node: &Node) {
        let mut groups: BTreeMap<Axes, Vec<ValueId>> = BTreeMap::new();
        for v in &node.inputs {
            let cut = self.factors.axes(self.index, self.func, *v);
            let (value, cut) = if self.shares.gradients.contains(v) {
                (self.scattered(*v, &node.loc), cut.or(self.replicas()))
            } else {
                (self.whole_but(*v, Axes::NONE, &node.loc), cut)
            };
            groups.entry(cut).or_default().push(value);
        }
        let mut total = None;
        for (axes, values) in groups {
            let ty = self.func.ty(node.outputs[0]).clone();
            let mut sum = self.out.push(Op::SumSquares, &values, vec![ty.clone()], &node.loc)[0];
            if !axes.is_empty() {
                let ranks = axes.iter().map(|a| self.module.mesh.axes[a].size).product();
                let kind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
                let all = Collective { kind, axes: names(self.module, axes), ranks };
                sum = self.out.push(Op::Collective(all), &[sum], vec![ty], &node.loc)[0];
            }
            let mut b = Builder::new(&mut self.out, node.loc.clone());
            total = Some(total.map_or(sum, |t| b.add(t, sum)));
        }
        self.new[node.outputs[0].0 as usize] = total;
        self.partial[node.outputs[0].0 as usize] = Some(Axes::NONE);
    }

    /// Axis dp.
    fn replicas(&self) -> Axes {
        self.module.mesh.axis("dp").map_or(Axes::NONE, Axes::one)
    }

    /// A collective operation of the replicas along dim 0.
    fn among_replicas(&mut self, kind: CollectiveKind, x: ValueId, loc: &Loc) -> ValueId {
        let all = Collective { kind, axes: "dp".into(), ranks: self.module.mesh.size("dp") };
        let mut ty = self.out.ty(x).clone();
        let dim = &mut ty.dims[0];
        if let CollectiveKind::AllGather { .. } = kind {
            *dim *= all.ranks;
        } else {
            *dim /= all.ranks;
        }
        self.out.push(Op::Collective(all), &[x], vec![ty], loc)[0]
    }

    /// The own part of a gradient, summed over the replicas.
    fn scattered(&mut self, gradient: ValueId, loc: &Loc) -> ValueId {
        if let Some(known) = self.shares.scattered.get(&gradient) {
            return *known;
        }
        let partial = self.whole_but(gradient, self.replicas(), loc);
        let part = self.among_replicas(CollectiveKind::ReduceScatter { dim: 0 }, partial, loc);
        self.shares.scattered.insert(gradient, part);
        part
    }

    /// The step of a part of a weight; the parts of all replicas are the new weight.
    fn shared_step(&mut self, node: &Node) {
        let mut inputs: Vec<ValueId> =
            node.inputs.iter().map(|v| self.whole_but(*v, self.replicas(), &node.loc)).collect();
        inputs[0] = self.among_replicas(CollectiveKind::OwnPart { dim: 0 }, inputs[0], &node.loc);
        inputs[1] = self.scattered(node.inputs[1], &node.loc);
        let types = [0, 2, 3].map(|i| self.out.ty(inputs[i]).clone()).to_vec();
        let mut outputs = self.out.push(node.op.clone(), &inputs, types, &node.loc);
        outputs[0] = self.among_replicas(CollectiveKind::AllGather { dim: 0 }, outputs[0], &node.loc);
        for (old, new) in node.outputs.iter().zip(outputs) {
            self.new[old.0 as usize] = Some(new);
            self.partial[old.0 as usize] = Some(Axes::NONE);
        }
    }
}
