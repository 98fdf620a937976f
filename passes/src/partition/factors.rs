//! Dims that are one index throughout a module, and which axes of the mesh cut them.

use super::cannot;
use super::spread::{Axes, form, labels};
use athanor_ir::experts::GroupedForm;
use athanor_ir::signature::Signature;
use athanor_ir::{Func, Mesh, Module, Op, Result, Role, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Every dim of every value of a module, in sets of those that are one index.
pub(super) struct Factors {
    /// First dim of each value, by function.
    first: Vec<Vec<usize>>,
    parent: Vec<usize>,
    /// Axes that cut the factor with this root.
    cut: HashMap<usize, Axes>,
    /// Roots of the batch.
    batch: BTreeSet<usize>,
    /// Roots of the sequence.
    sequence: BTreeSet<usize>,
    /// Roots of rows sorted by expert.
    rows: BTreeSet<usize>,
    /// Axes along which ranks with other tokens share experts.
    experts: Axes,
    /// Axes that cut experts.
    holders: Axes,
}

/// What a dim of an op with experts stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Rows sorted by expert.
    Row,
    /// Experts whose matrices a rank has.
    Expert,
}

impl Factors {
    /// The factors of `module`, with the axes that cut them.
    pub(super) fn of(module: &Module) -> Result<Self> {
        let mut count = 0;
        let mut number = |t: &TensorType| {
            count += t.rank();
            count - t.rank()
        };
        let first: Vec<Vec<usize>> = module.funcs.iter().map(|f| f.types.iter().map(&mut number).collect()).collect();
        let experts = Axes::named(&module.mesh, &["ep"]);
        let over_tp = if module.run.experts_over_tp { Axes::named(&module.mesh, &["tp"]) } else { Axes::NONE };
        let (cut, batch, holders) = (HashMap::new(), BTreeSet::new(), experts.or(over_tp));
        let (sequence, rows) = (BTreeSet::new(), BTreeSet::new());
        let mut this = Self { first, parent: (0..count).collect(), cut, batch, sequence, rows, experts, holders };
        let (mut whole, mut shifted) = (vec![], vec![]);
        for (f, func) in module.funcs.iter().enumerate() {
            this.join_func(f, func, module.run.cut_vocabulary, (&mut whole, &mut shifted))?;
        }
        this.join_names(module);
        this.sequence = this.second_dims(module);
        let roots = |dims: Vec<usize>| dims.into_iter().map(|d| this.root(d)).collect::<BTreeSet<usize>>();
        let (whole, shifted) = (roots(whole), roots(shifted));
        this.choose_sequence(module, &whole)?;
        this.choose(module, &whole.union(&shifted).copied().collect())?;
        Ok(this)
    }

    fn root(&self, mut dim: usize) -> usize {
        while self.parent[dim] != dim {
            dim = self.parent[dim];
        }
        dim
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // Every root is the first of its set, which keeps chains short for values that follow one another.
        let (low, high) = (a.min(b), a.max(b));
        self.parent[high] = low;
    }

    /// Joins the dims of equal labels of each node; those that an op needs whole are added to `whole`, those along which it
    /// shifts values to `shifted`.
    fn join_func(
        &mut self,
        f: usize,
        func: &Func,
        cut_vocabulary: bool,
        (whole, shifted): (&mut Vec<usize>, &mut Vec<usize>),
    ) -> Result<()> {
        let types = |vs: &[ValueId]| vs.iter().map(|v| func.ty(*v).clone()).collect::<Vec<_>>();
        for node in &func.nodes {
            if node.op == Op::SumSquares {
                continue;
            }
            let Some(mut s) = labels(&node.op, &types(&node.inputs), &types(&node.outputs)) else {
                return cannot(format!("@{} calls a function; cut the module before it is fused", func.name));
            };
            set_apart(&node.op, &mut s, cut_vocabulary);
            if let Op::Slice { dim, .. } | Op::Concat { dim } | Op::KeepSlice { dim } | Op::OwnSlice { dim, .. } =
                node.op
            {
                let values = node.inputs.iter().chain(&node.outputs).filter(|v| func.ty(**v).rank() > 0);
                shifted.extend(values.map(|v| self.first[f][v.0 as usize] + dim));
            }
            let mut seen: BTreeMap<char, usize> = BTreeMap::new();
            let sides = node.inputs.iter().zip(&s.operands).chain(node.outputs.iter().zip(&s.results));
            for (value, labels) in sides {
                for (d, label) in labels.iter().enumerate() {
                    let dim = self.first[f][value.0 as usize] + d;
                    match seen.get(label) {
                        Some(other) => self.join(*other, dim),
                        None => {
                            seen.insert(*label, dim);
                        }
                    }
                }
            }
            whole.extend(s.whole.iter().filter_map(|l| seen.get(l)));
        }
        Ok(())
    }

    /// A name means one value in all functions.
    fn join_names(&mut self, module: &Module) {
        let mut known: HashMap<&str, (usize, ValueId)> = HashMap::new();
        for (f, func) in module.funcs.iter().enumerate() {
            let params = func.params.iter().map(|p| (p.name.as_str(), p.value));
            for (name, value) in params.chain(func.results.iter().map(|r| (r.name.as_str(), r.value))) {
                let (of, other) = *known.entry(name).or_insert((f, value));
                let rank = func.ty(value).rank();
                if module.funcs[of].ty(other).rank() == rank {
                    let (a, b) = (self.first[of][other.0 as usize], self.first[f][value.0 as usize]);
                    (0..rank).for_each(|d| self.join(a + d, b + d));
                }
            }
        }
    }

    /// The second dims of inputs `[batch, sequence]`, and those of slices that are taken along a sequence.
    fn second_dims(&self, module: &Module) -> BTreeSet<usize> {
        let params =
            module.funcs.iter().enumerate().flat_map(|(f, func)| func.params.iter().map(move |p| (f, func, p)));
        let inputs = params.filter(|(_, func, p)| p.role == Role::Input && func.ty(p.value).rank() > 1);
        let whole = inputs.map(|(f, _, p)| self.root(self.first[f][p.value.0 as usize] + 1));
        let nodes = module.funcs.iter().enumerate().flat_map(|(f, func)| func.nodes.iter().map(move |n| (f, n)));
        let slices = nodes.filter_map(|(f, n)| match n.op {
            Op::OwnSlice { dim, .. } => Some(self.root(self.first[f][n.outputs[0].0 as usize] + dim)),
            _ => None,
        });
        whole.chain(slices).collect()
    }

    /// Cuts the second dim of every input, the sequence.
    fn choose_sequence(&mut self, module: &Module, whole: &BTreeSet<usize>) -> Result<()> {
        let axes = Axes::named(&module.mesh, &Mesh::SEQUENCE);
        if axes.is_empty() {
            return Ok(());
        }
        let size = axes.ranks(&module.mesh);
        let extents = self.extents(module);
        for (f, func) in module.funcs.iter().enumerate() {
            for p in func.params.iter().filter(|p| p.role == Role::Input && func.ty(p.value).rank() > 1) {
                let root = self.root(self.first[f][p.value.0 as usize] + 1);
                if whole.contains(&root) || !extents[&root].iter().all(|e| e.is_multiple_of(size)) {
                    return cannot(format!(
                        "the sequence of {} cannot be cut in {size}: an op needs all of it",
                        p.name
                    ));
                }
                self.cut.insert(root, axes);
            }
        }
        if self.cut.is_empty() {
            return cannot(format!("axis {} has nothing to cut: no input has a sequence", axes.names(&module.mesh)));
        }
        Ok(())
    }

    /// The extents of the dims of each factor.
    fn extents(&self, module: &Module) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut extents: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (f, func) in module.funcs.iter().enumerate() {
            for (value, ty) in func.types.iter().enumerate() {
                for (d, size) in ty.dims.iter().enumerate() {
                    extents.entry(self.root(self.first[f][value] + d)).or_default().insert(*size);
                }
            }
        }
        extents
    }

    /// Decides what each axis cuts but for the sequence.
    fn choose(&mut self, module: &Module, whole: &BTreeSet<usize>) -> Result<()> {
        let extents = self.extents(module);
        let roots = |this: &Self, wanted: fn(&Role) -> bool| -> BTreeSet<usize> {
            let params =
                module.funcs.iter().enumerate().flat_map(|(f, func)| func.params.iter().map(move |p| (f, func, p)));
            let dims = params.filter(|(_, _, p)| wanted(&p.role)).flat_map(|(f, func, p)| {
                let first = this.first[f][p.value.0 as usize];
                first..first + func.ty(p.value).rank()
            });
            dims.map(|d| this.root(d)).collect()
        };
        let inputs = roots(self, |r| *r == Role::Input);
        let divides = |root: usize, size: usize| extents[&root].iter().all(|e| e.is_multiple_of(size));
        let mesh = &module.mesh;
        let batch = Axes::named(mesh, &Mesh::BATCH);
        if !batch.is_empty() {
            let size = batch.ranks(mesh);
            for (f, func) in module.funcs.iter().enumerate() {
                for p in func.params.iter().filter(|p| p.role == Role::Input && func.ty(p.value).rank() > 0) {
                    let root = self.root(self.first[f][p.value.0 as usize]);
                    if whole.contains(&root) || !divides(root, size) {
                        return cannot(format!(
                            "the batch of {} cannot be cut in {size}: an op needs all of it",
                            p.name
                        ));
                    }
                    self.cut.insert(root, batch);
                    self.batch.insert(root);
                }
            }
            if self.batch.is_empty() {
                return cannot(format!("axis {} has nothing to cut: no input has a batch", batch.names(mesh)));
            }
        }
        let (rows, experts) = (self.of_experts(module, Kind::Row), self.of_experts(module, Kind::Expert));
        self.rows.clone_from(&rows);
        // Ranks that share experts have each other's rows.
        let apart = batch.without(self.experts).or(Axes::named(mesh, &Mesh::SEQUENCE));
        if !apart.is_empty() {
            self.cut.extend(rows.iter().map(|r| (*r, apart)));
        }
        if !self.holders.is_empty() {
            let (size, names) = (self.holders.ranks(mesh), self.holders.names(mesh));
            if experts.is_empty() || experts.iter().any(|r| !divides(*r, size)) {
                return cannot(format!("axis {names} of {size} does not divide the experts, or there are none"));
            }
            self.cut.extend(experts.iter().map(|r| (*r, self.holders)));
        }
        if let Some(tp) = mesh.axis("tp") {
            let (size, tp) = (mesh.axes[tp].size, Axes::one(tp));
            let weights = roots(self, |r| matches!(r, Role::Weight { .. }));
            let beside = self.beside(module);
            let cut_by_tp = |axes: Option<&Axes>| axes.is_some_and(|axes| !axes.and(tp).is_empty());
            let able = |r: &&usize| !whole.contains(r) && !experts.contains(r) && divides(**r, size);
            for root in weights.difference(&inputs).filter(able).copied().collect::<Vec<_>>() {
                // Two factors of one op that one axis cuts would leave a rank without most pairs of their indices.
                let free = beside.get(&root).is_none_or(|other| other.iter().all(|o| !cut_by_tp(self.cut.get(o))));
                if free {
                    self.cut.insert(root, tp);
                }
            }
            if !self.cut.values().any(|axes| !axes.and(tp).is_empty()) {
                return cannot(format!(
                    "axis tp of {size} has nothing to cut: no heads and no inner width that it divides"
                ));
            }
        }
        Ok(())
    }

    /// Factors that are rows of experts, or experts.
    fn of_experts(&self, module: &Module, kind: Kind) -> BTreeSet<usize> {
        let mut out = BTreeSet::new();
        for (f, func) in module.funcs.iter().enumerate() {
            for node in &func.nodes {
                let (value, dim) = match (&node.op, kind) {
                    (Op::Dispatch { .. }, Kind::Row) => (node.outputs[0], 0),
                    (Op::Combine | Op::CombineDot, Kind::Row) => (node.inputs[0], 0),
                    (Op::GroupedEinsum { .. }, Kind::Expert) => match form(&node.op) {
                        Some(GroupedForm::Rows) => (node.inputs[1], 0),
                        Some(GroupedForm::Sums) => (node.outputs[0], 0),
                        None => continue,
                    },
                    _ => continue,
                };
                out.insert(self.root(self.first[f][value.0 as usize] + dim));
            }
        }
        out
    }

    /// The factors that some op has beside each factor.
    fn beside(&self, module: &Module) -> HashMap<usize, BTreeSet<usize>> {
        let mut out: HashMap<usize, BTreeSet<usize>> = HashMap::new();
        for (f, func) in module.funcs.iter().enumerate() {
            for node in func.nodes.iter().filter(|n| n.op != Op::SumSquares) {
                let dims = node.inputs.iter().chain(&node.outputs).flat_map(|v| {
                    let first = self.first[f][v.0 as usize];
                    first..first + func.ty(*v).rank()
                });
                let roots: BTreeSet<usize> = dims.map(|d| self.root(d)).collect();
                for root in &roots {
                    out.entry(*root).or_default().extend(roots.iter().filter(|r| *r != root));
                }
            }
        }
        out
    }

    /// Axes that cut dim `dim` of `value` of function `f`.
    pub(super) fn axes_of(&self, f: usize, value: ValueId, dim: usize) -> Axes {
        self.cut.get(&self.root(self.first[f][value.0 as usize] + dim)).copied().unwrap_or_default()
    }

    /// As [`Self::axes_of`], where ranks that share experts have the sequences of all of them.
    pub(super) fn axes_together(&self, f: usize, value: ValueId, dim: usize) -> Axes {
        let axes = self.axes_of(f, value, dim);
        let root = self.root(self.first[f][value.0 as usize] + dim);
        if self.batch.contains(&root) { axes.without(self.experts) } else { axes }
    }

    /// Whether dim `dim` of `value` of function `f` is the sequence.
    pub(super) fn is_sequence(&self, f: usize, value: ValueId, dim: usize) -> bool {
        self.sequence.contains(&self.root(self.first[f][value.0 as usize] + dim))
    }

    /// Whether dim `dim` of `value` of function `f` is rows sorted by expert, and if so which: those of one layer are one factor.
    pub(super) fn rows(&self, f: usize, value: ValueId, dim: usize) -> Option<usize> {
        Some(self.root(self.first[f][value.0 as usize] + dim)).filter(|root| self.rows.contains(root))
    }

    /// Axes along which ranks with other tokens share experts.
    pub(super) fn experts(&self) -> Axes {
        self.experts
    }

    /// Axes that cut experts.
    pub(super) fn holders(&self) -> Axes {
        self.holders
    }

    /// Axes that cut dims of `value`.
    pub(super) fn axes(&self, f: usize, func: &Func, value: ValueId) -> Axes {
        (0..func.ty(value).rank()).fold(Axes::NONE, |all, d| all.or(self.axes_of(f, value, d)))
    }
}

/// Labels of dims that are cut in another way at each end: experts whose rows are known are all, whoever multiplies them, and
/// what is moved along a dim is another index there. A vocabulary is whole unless it shall be cut. Keys that a query looks at are
/// all, however they come to it.
fn set_apart(op: &Op, s: &mut Signature, cut_vocabulary: bool) {
    match op {
        Op::Embed | Op::EmbedGrad { .. } if !cut_vocabulary => s.whole.push('v'),
        Op::CrossEntropy | Op::CrossEntropyGrad if cut_vocabulary => s.whole.clear(),
        Op::GroupedEinsum { .. } => s.operands[2][0] = 'E',
        Op::Attention { .. } | Op::AttentionGrad { .. } => s.whole.retain(|l| *l != 't'),
        Op::KeepSlice { dim } => {
            s.whole.clear();
            s.operands[1][*dim] = 'A';
        }
        Op::OwnSlice { dim, .. } => {
            s.whole.clear();
            s.results[0][*dim] = 'A';
        }
        Op::Slice { dim, .. } | Op::Concat { dim } => {
            s.whole.clear();
            let sides = s.operands.iter_mut().chain(&mut s.results);
            sides.zip('A'..).for_each(|(labels, own)| labels[*dim] = own);
        }
        _ => {}
    }
}
