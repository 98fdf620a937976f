//! Whether every partial sum of a module is made whole before something reads it, derived from its parameters alone.

use super::PARTIAL;
use super::blocks::Block;
use super::experts::{Experts, tokens};
use super::spread::{Axes, Linear, form, is_summed, labels, linear, together};
use athanor_ir::experts::GroupedForm;
use athanor_ir::{
    Binary, Collective, CollectiveKind, Diagnostic, F64, Func, Mesh, Module, Node, Op, ReduceKind, Result, Role,
    Sharding, TensorType, Unary, ValueId,
};
use std::collections::{BTreeMap, HashMap};

/// How a value is spread, as far as it can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spread {
    /// Axes that cut each dim; `None` where the value is the same whatever part of the dim it is: constants, tables.
    pub(super) dims: Vec<Option<Axes>>,
    /// Axes over which it is a sum.
    pub(super) partial: Axes,
    /// A sum over a dim of which it is not known what cuts it.
    pub(super) vague: bool,
    /// What it has to do with rows of experts.
    pub(super) experts: Experts,
    /// Whose part it is, if it is not the own one, and which terms of what there is over all parts.
    pub(super) block: Block,
    /// It is ids or a position, counted from the first of the part that these axes cut out of a vocabulary or a sequence.
    pub(super) ids: Axes,
    /// It is the logarithm of a part of a sum over these axes: its exponential is partial.
    pub(super) log: Axes,
}

/// Checks that no function of `module` reads a partial sum as if it were whole, sums up what is whole, or hands on something
/// else than the next one takes.
///
/// # Errors
/// [`PARTIAL`], naming the function and the op.
pub fn check(module: &Module) -> Result<()> {
    let mut handed: HashMap<&str, Spread> = HashMap::new();
    // What is repeated is checked where it is, with what it is given.
    let repeated = module.repeated();
    for func in module.funcs.iter().filter(|f| !repeated.contains(&f.name.as_str())) {
        Checker { module, func, spread: vec![Spread::default(); func.types.len()] }
            .run(&mut handed)
            .or_else(|text| Diagnostic::error(&PARTIAL, format!("@{}: {text}", func.name)).err())?;
    }
    Ok(())
}

pub(super) struct Checker<'a> {
    pub(super) module: &'a Module,
    pub(super) func: &'a Func,
    pub(super) spread: Vec<Spread>,
}

pub(super) type Checked<T> = std::result::Result<T, String>;

impl<'a> Checker<'a> {
    fn run(mut self, handed: &mut HashMap<&'a str, Spread>) -> Checked<()> {
        for p in &self.func.params {
            let spread = self.declared(&p.sharding, self.func.ty(p.value).rank())?;
            if p.role != Role::Grad && !spread.partial.is_empty() {
                return Err(format!("parameter {} is partial and no gradient", p.name));
            }
            match handed.get(p.name.as_str()) {
                Some(before) if !agree(before, &spread) => {
                    return Err(format!("{} is taken otherwise than it was left", p.name));
                }
                _ => {}
            }
            handed.insert(&p.name, spread.clone());
            self.spread[p.value.0 as usize] = spread;
        }
        self.nodes()?;
        let is_gradient = |name: &str| {
            self.module.funcs.iter().flat_map(|f| &f.params).any(|p| p.role == Role::Grad && p.name == name)
        };
        for r in &self.func.results {
            let spread = self.of(r.value).clone();
            if spread.experts != Experts::default() {
                return Err(format!("result {} has the rows of some experts", r.name));
            }
            if !spread.block.is_own() {
                return Err(format!("result {} is of another rank, or not of all parts of the sequence", r.name));
            }
            if !spread.ids.or(spread.log).is_empty() {
                return Err(format!("result {} is of a part of the vocabulary", r.name));
            }
            if !spread.partial.is_empty() && !is_gradient(&r.name) {
                return Err(format!("result {} is partial", r.name));
            }
            let cut_otherwise =
                |before: &Spread| !agree(&Spread { partial: spread.partial, ..before.clone() }, &spread);
            if handed.get(r.name.as_str()).is_some_and(cut_otherwise) {
                return Err(format!("result {} is cut otherwise than what it replaces", r.name));
            }
            handed.insert(&r.name, spread);
        }
        Ok(())
    }

    /// Follows the nodes of the function, one after the other.
    pub(super) fn nodes(&mut self) -> Checked<()> {
        for (i, node) in self.func.nodes.iter().enumerate() {
            let results =
                self.node(node).map_err(|e| format!("op {i} (nn.{} in {:?}) {e}", node.op.name(), node.loc.block))?;
            for (value, spread) in node.outputs.iter().zip(results) {
                self.spread[value.0 as usize] = spread;
            }
        }
        Ok(())
    }

    pub(super) fn of(&self, value: ValueId) -> &Spread {
        &self.spread[value.0 as usize]
    }

    pub(super) fn type_of(&self, value: ValueId) -> &TensorType {
        self.func.ty(value)
    }

    pub(super) fn mesh(&self) -> &Mesh {
        &self.module.mesh
    }

    /// The node that makes `value`.
    pub(super) fn made(&self, value: ValueId) -> Option<&Node> {
        self.func.nodes.iter().find(|n| n.outputs.contains(&value))
    }

    pub(super) fn axes<'n>(&self, names: impl Iterator<Item = &'n str>) -> Checked<Axes> {
        let axis =
            |n: &str| self.module.mesh.axis(n).ok_or_else(|| format!("names axis {n:?}, which the mesh does not have"));
        names.map(axis).try_fold(Axes::NONE, |all, a| Ok(all.or(Axes::one(a?))))
    }

    pub(super) fn declared(&self, s: &Sharding, rank: usize) -> Checked<Spread> {
        let dim = |d: usize| self.axes(s.dims.get(d).into_iter().flatten().map(String::as_str)).map(Some);
        let dims = (0..rank).map(dim).collect::<Checked<_>>()?;
        Ok(Spread { dims, partial: self.axes(s.partial.iter().map(String::as_str))?, ..Spread::default() })
    }

    /// How the results of `node` are spread.
    fn node(&self, node: &Node) -> Checked<Vec<Spread>> {
        if let Op::Collective(c) = &node.op {
            return Ok(vec![self.collective(c, self.of(node.inputs[0]))?]);
        }
        if node.op == Op::SumSquares {
            return Ok(vec![self.squares(node)?]);
        }
        if let Some(results) = self.in_rounds(node)? {
            return Ok(results);
        }
        let ring = self.ring(node)?;
        let block = if ring.is_some() { Block::default() } else { self.block(node)? };
        let partial = self.kept(node)?;
        if node.op == Op::Reshape {
            return Ok(vec![self.reshaped(node.inputs[0], node.outputs[0])?]);
        }
        let types = |vs: &[ValueId]| vs.iter().map(|v| self.func.ty(*v).clone()).collect::<Vec<_>>();
        let s = labels(&node.op, &types(&node.inputs), &types(&node.outputs)).ok_or("calls a function")?;
        let mut cut: BTreeMap<char, Option<Axes>> = BTreeMap::new();
        for (value, labels) in node.inputs.iter().zip(&s.operands) {
            for (label, axes) in labels.iter().zip(&self.of(*value).dims) {
                // A step of a ring looks at all of the keys that it has.
                let axes = if ring.is_some() && *label == 't' { &Some(Axes::NONE) } else { axes };
                let known = cut.entry(*label).or_insert(*axes);
                match (*known, axes) {
                    (Some(a), Some(b)) if a != *b => return Err(format!("has dim {label} cut in two ways")),
                    _ => *known = known.or(*axes),
                }
            }
        }
        if let Some(label) = s.whole.iter().find(|l| cut.get(l).copied().flatten().is_some_and(|a| !a.is_empty())) {
            return Err(format!("needs all of dim {label}, which is cut"));
        }
        // Rows that were sent to where their experts are are all of these.
        let sent = if form(&node.op).is_some() { self.of(node.inputs[0]).experts.sent() } else { Axes::NONE };
        // Rows of experts are cut as their tokens are.
        let of_tokens = |label: &char| *label == 'r' && together(&node.op);
        let own = |label: &char| if *label == 'r' { sent } else { Axes::NONE };
        let cuts = |label: &char| {
            let axes = cut.get(label).copied().flatten().filter(|_| !of_tokens(label)).unwrap_or_default();
            axes.without(own(label))
        };
        let mut labels = cut.keys().enumerate();
        let twice = |(i, a): (usize, &char)| {
            cut.keys().skip(i + 1).find(|b| !cuts(a).and(cuts(b)).is_empty()).map(|b| (*a, *b))
        };
        if let Some((a, b)) = labels.find_map(twice) {
            return Err(format!("has dims {a} and {b} cut by one axis"));
        }
        if together(&node.op) && !matches!(node.op, Op::Assign { .. }) {
            let rows = tokens(self.of(node.inputs[1]));
            if cut.insert('r', Some(rows)).flatten().is_some_and(|known| known != rows) {
                return Err("reads rows of other tokens".into());
            }
        }
        let vague = node.inputs.iter().any(|v| self.of(*v).vague);
        let operands: Vec<&Spread> = node.inputs.iter().map(|v| self.of(*v)).collect();
        let (experts, windows) = Experts::of(&node.op, &operands)?;
        if !windows.and(partial).is_empty() {
            return Err("adds up rows of experts that are partial sums already".into());
        }
        let (own, logs) = vocabulary(node, &operands)?;
        if ring.is_none() {
            self.begins(node)?;
        }
        let partial = partial.or(windows).or(if let Op::Unary(_) = node.op { logs } else { Axes::NONE });
        // Every row belongs to one expert: a rank with some of them has their rows, whole.
        if form(&node.op) == Some(GroupedForm::Rows) {
            cut.entry('e').and_modify(|axes| *axes = Some(Axes::NONE));
        }
        let result = |labels: &Vec<char>| {
            let sums = |label: char| !together(&node.op) || is_summed(label);
            let gone = || cut.iter().filter(|(label, _)| sums(**label) && !labels.contains(label));
            let lost = gone().fold(Axes::NONE, |all, (_, axes)| all.or(axes.unwrap_or_default())).without(sent);
            if !lost.and(partial).is_empty() {
                return Err("sums over an axis that it is partial over already".to_owned());
            }
            Ok(Spread {
                dims: labels.iter().map(|l| cut.get(l).copied().flatten()).collect(),
                partial: partial.or(lost),
                vague: vague || gone().any(|(_, axes)| axes.is_none()),
                experts,
                block,
                ..Spread::default()
            })
        };
        let mut results = s.results.iter().map(result).collect::<Checked<Vec<Spread>>>()?;
        if let Some(step) = ring {
            self.mark(step, node, &mut results)?;
        }
        match node.op {
            Op::Assign { .. } => results[1].dims.fill(Some(Axes::NONE)),
            // Rows are positions, of which the first is 0.
            Op::RopeTable { .. } => results.iter_mut().for_each(|r| r.dims[0] = Some(Axes::NONE)),
            Op::EmbedGrad { .. } => results[0].dims[0] = Some(own),
            Op::PartEntropy => (results[1].log, results[1].partial) = (own, results[1].partial.without(own)),
            Op::Binary(_) => results[0].log = logs,
            _ => {}
        }
        Ok(results)
    }

    /// Whether attention that has some of the queries knows which they are: the operand counts the first key from the first of
    /// the rank's own part, and there are as many queries in a part.
    fn begins(&self, node: &Node) -> Checked<()> {
        let Some(attend) = node.op.attend() else { return Ok(()) };
        let (queries, given) = (node.inputs[0], node.inputs.get(attend.first()));
        let Some(axes) = self.of(queries).dims[1].filter(|axes| !axes.is_empty()) else { return Ok(()) };
        let counts = |n: &Node| match &n.op {
            Op::Collective(Collective { kind: CollectiveKind::OwnIds { size }, .. }) => {
                let of_zero = self.made(n.inputs[0]).is_some_and(|z| z.op == Op::Constant { value: F64(0.0) });
                of_zero && *size == self.func.ty(queries).dims[1] && self.of(n.outputs[0]).ids == axes
            }
            _ => false,
        };
        if given.and_then(|v| self.made(*v)).is_some_and(counts) {
            Ok(())
        } else {
            Err("has some of the queries and is not told where they are".into())
        }
    }

    /// A reshape of a rank's part.
    ///
    /// Dims of one are not told apart by their extents as they are in the whole: of the dims that as many elements are outside
    /// of, those on one side become those on the other in their order. That is where heads come from or go to, batch and sequence.
    fn reshaped(&self, from: ValueId, to: ValueId) -> Checked<Spread> {
        let (x, dims, out) = (self.of(from), &self.func.ty(from).dims, &self.func.ty(to).dims);
        let known = x.dims.iter().any(Option::is_some) || x.dims.is_empty();
        let mut cut = vec![known.then_some(Axes::NONE); out.len()];
        for (i, axes) in x.dims.iter().enumerate() {
            let Some(axes) = axes.filter(|a| !a.is_empty()) else { continue };
            let outside: usize = dims[..i].iter().product();
            let alike =
                |dims: &[usize], to| (0..to).filter(|j| dims[..*j].iter().product::<usize>() == outside).collect();
            let (before, places): (Vec<usize>, Vec<usize>) = (alike(dims, i), alike(out, out.len()));
            let place = places.get(before.len()).or(places.last());
            let Some(&j) = place else { return Err(format!("tears dim {i} apart, which is cut")) };
            cut[j] = Some(cut[j].unwrap_or_default().or(axes));
        }
        Ok(Spread { dims: cut, ..x.clone() })
    }

    /// Axes over which the results are partial because operands are.
    fn kept(&self, node: &Node) -> Checked<Axes> {
        let mut all = node.inputs.iter().map(|v| self.of(*v).partial);
        match linear(&node.op) {
            Linear::No if all.all(Axes::is_empty) => Ok(Axes::NONE),
            Linear::No => Err("reads a partial sum".into()),
            Linear::One => {
                let first = all.next().unwrap_or_default();
                if all.all(Axes::is_empty) { Ok(first) } else { Err("reads a partial sum".into()) }
            }
            Linear::Same => {
                let first = all.next().unwrap_or_default();
                if all.all(|a| a == first) { Ok(first) } else { Err("adds partial sums to other values".into()) }
            }
        }
    }

    /// Whether parts of a sequence over `axes` would have parts over `outer`, which stay, between them.
    fn torn(&self, outer: Axes, axes: Axes) -> bool {
        let within = Axes::named(&self.module.mesh, &Mesh::SEQUENCE);
        let least = axes.and(within).iter().min();
        least.is_some_and(|least| outer.and(within).iter().any(|o| o > least))
    }

    fn squares(&self, node: &Node) -> Checked<Spread> {
        let cut = |v: &ValueId| self.of(*v).dims.iter().fold(Axes::NONE, |all, d| all.or(d.unwrap_or_default()));
        let axes: Vec<Axes> = node.inputs.iter().map(cut).collect();
        if node.inputs.iter().any(|v| !self.of(*v).partial.is_empty() || !self.of(*v).block.is_own()) {
            return Err("reads a partial sum".into());
        }
        if axes.iter().any(|a| *a != axes[0]) {
            return Err("adds squares of values that are cut in different ways".into());
        }
        Ok(Spread { partial: axes[0], ..Spread::default() })
    }

    fn collective(&self, c: &Collective, x: &Spread) -> Checked<Spread> {
        let axes = self.axes(c.axes())?;
        let mut out = x.clone();
        if !x.experts.may(c.kind) {
            return Err("brings together rows of experts, which are in other places on every rank".into());
        }
        if c.kind != CollectiveKind::Shift && !x.block.is_own() {
            return Err("brings together what is of another rank, or not of all parts".into());
        }
        let largest = CollectiveKind::AllReduce { reduce: ReduceKind::Max };
        if !x.ids.is_empty() || !x.log.is_empty() && (c.kind != largest || axes != x.log) {
            return Err("brings together what is of a part of the vocabulary".into());
        }
        let outer = |dim: usize| x.dims[dim].unwrap_or_default().without(axes);
        if !matches!(c.kind, CollectiveKind::SumEnds) && c.moved().any(|dim| self.torn(outer(dim), axes)) {
            return Err(format!("moves parts over {} that do not lie side by side", c.axes));
        }
        let summed = |out: &mut Spread| {
            if x.vague || axes.without(x.partial).is_empty() {
                out.partial = x.partial.without(axes);
                out.vague = false;
                return Ok(());
            }
            Err(format!("sums over {} what is not partial over it", c.axes))
        };
        match c.kind {
            CollectiveKind::AllReduce { reduce: ReduceKind::Sum } => summed(&mut out)?,
            CollectiveKind::AllReduce { reduce: ReduceKind::Max } if x.partial.is_empty() => {
                out.log = Axes::NONE;
                out.experts = x.experts.agreed_over(axes);
            }
            CollectiveKind::OwnIds { .. } | CollectiveKind::BlockIds { .. } if x.partial.is_empty() => out.ids = axes,
            CollectiveKind::OwnIds { .. } | CollectiveKind::BlockIds { .. } => return Err("reads a partial sum".into()),
            CollectiveKind::AllReduce { reduce: ReduceKind::Max } => return Err("reads a partial sum".into()),
            CollectiveKind::Shift => out.block = x.block.shifted(x, axes, c.ranks)?,
            // Between stages, which this check knows nothing of.
            CollectiveKind::SumEnds => {}
            CollectiveKind::AllGather { dim } => {
                let cut = x.dims[dim].unwrap_or(axes);
                if !axes.without(cut).is_empty() {
                    return Err(format!("gathers dim {dim}, which {} does not cut", c.axes));
                }
                out.dims[dim] = Some(cut.without(axes));
            }
            CollectiveKind::AllToAll { cut: 0, join: 0 } => {
                let cut = x.dims[0].unwrap_or_default();
                if !axes.without(cut).is_empty() || !axes.and(x.partial).is_empty() {
                    return Err(format!("exchanges over {} rows that are not of tokens of its ranks", c.axes));
                }
                out.experts = x.experts.exchanged(axes)?;
            }
            CollectiveKind::AllToAll { cut, join } => {
                let (whole, parts) = (x.dims[cut].unwrap_or_default(), x.dims[join].unwrap_or_default());
                if cut == join || !axes.without(parts).is_empty() || !axes.and(whole.or(x.partial)).is_empty() {
                    return Err(format!("exchanges over {} what is not cut there, or is elsewhere", c.axes));
                }
                out.dims[join] = Some(parts.without(axes));
                out.dims[cut] = Some(whole.or(axes));
            }
            CollectiveKind::OwnPart { dim } => {
                let cut = x.dims[dim].unwrap_or_default();
                if !axes.and(cut.or(x.partial)).is_empty() {
                    return Err(format!("cuts over {} what is not whole there", c.axes));
                }
                out.dims[dim] = Some(cut.or(axes));
            }
            CollectiveKind::ReduceScatter { dim } => {
                summed(&mut out)?;
                out.dims[dim] = Some(axes.or(x.dims[dim].unwrap_or_default()));
            }
        }
        Ok(out)
    }
}

/// The axes that cut what ids of `node` are counted in, its vocabulary or its queries, if there are ids, and those over which its result is the logarithm of a part of a
/// sum, or partial as the exponential of one.
fn vocabulary(node: &Node, operands: &[&Spread]) -> Checked<(Axes, Axes)> {
    let cut = |i: usize, d: usize| operands[i].dims.get(d).copied().flatten().unwrap_or_default();
    let (reads, own) = match node.op {
        Op::Embed => (Some(0), cut(1, 0)),
        Op::EmbedGrad { .. } => (Some(0), operands[0].ids),
        Op::PartEntropy | Op::PartEntropyGrad => (Some(1), cut(0, operands[0].dims.len() - 1)),
        ref op => op.attend().map_or((None, Axes::NONE), |attend| (Some(attend.first()), cut(0, 1))),
    };
    let fits = |(i, s): (usize, &&Spread)| s.ids == if reads == Some(i) { own } else { Axes::NONE };
    if !operands.iter().enumerate().all(fits) {
        return Err("reads ids that are counted from another part".into());
    }
    let log = |i: usize| operands.get(i).map_or(Axes::NONE, |s| s.log);
    let logs = operands.iter().fold(Axes::NONE, |all, s| all.or(s.log));
    match node.op {
        _ if logs.is_empty() => Ok((own, logs)),
        Op::Binary(Binary::Sub) if log(1).is_empty() => Ok((own, logs)),
        Op::Unary(Unary::Exp) => Ok((own, logs)),
        _ => Err("reads the logarithm of a part of a sum".into()),
    }
}

/// Whether two accounts of one value say the same where both say something.
pub(super) fn agree(a: &Spread, b: &Spread) -> bool {
    let same = |(x, y): (&Option<Axes>, &Option<Axes>)| x.is_none() || y.is_none() || x == y;
    a.partial == b.partial && a.dims.len() == b.dims.len() && a.dims.iter().zip(&b.dims).all(same)
}
