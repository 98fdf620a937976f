//! Ranks that share experts exchange rows: each sorts its own tokens, and sends the others the rows of their experts.
//!
//! Room is planned for so many rows between two ranks, and what does not fit goes in another round (`rounds.rs`): normally there
//! is one. What a rank has room for does not grow with the number of ranks then, as it does where all bring their tokens together.

use super::factors::Factors;
use super::local::Cutter;
use super::spread::Axes;
use athanor_ir::run::ExpertRows;
use athanor_ir::{Builder, CollectiveKind, Func, Module, Op, Result, ValueId};
use std::collections::{BTreeMap, HashMap};

/// Room for rows is a multiple of so many.
const STEP: usize = 8;

/// The experts of a layer in a function.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The node that sorts.
    sort: usize,
    /// Rows that go from a rank to another in a round.
    pub(super) capacity: usize,
    /// Nodes with rows, of the forward and of the backward pass.
    pub(super) passes: [Vec<usize>; 2],
}

/// What a node is to its layer.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// It sorts.
    Sort,
    /// It is the first one of a pass.
    First(usize),
    /// It is within a pass.
    Within,
}

/// A rank's own tokens, sorted: values of the new function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sorted {
    /// Row of each slot.
    pub(super) rows: ValueId,
    /// Spans `[p, e, 2]` of the experts of those whom the rank sends rows.
    pub(super) spans: ValueId,
    /// Rounds that it takes to send them.
    pub(super) rounds: ValueId,
}

/// The layers of one function whose rows ranks exchange.
#[derive(Default)]
pub(super) struct Exchange {
    pub(super) layers: Vec<Layer>,
    turns: HashMap<usize, (usize, Turn)>,
    pub(super) sorted: HashMap<usize, Sorted>,
}

impl Exchange {
    /// Those of function `f` of `module`, whose passes are [`side_by_side`].
    pub(super) fn of(module: &Module, factors: &Factors, f: usize) -> Self {
        let layers = layers(module, factors, f);
        let mut turns = HashMap::new();
        for (l, layer) in layers.iter().enumerate() {
            turns.insert(layer.sort, (l, Turn::Sort));
            for (p, nodes) in layer.passes.iter().enumerate() {
                for (i, node) in nodes.iter().enumerate() {
                    turns.insert(*node, (l, if i == 0 { Turn::First(p) } else { Turn::Within }));
                }
            }
        }
        Self { layers, turns, sorted: HashMap::new() }
    }
}

/// The layers of function `f` whose rows ranks exchange.
fn layers(module: &Module, factors: &Factors, f: usize) -> Vec<Layer> {
    let func = &module.funcs[f];
    if factors.experts().is_empty() || module.run.expert_exchange.rows == ExpertRows::Gathered {
        return vec![];
    }
    let of_value = |v: &ValueId| (0..func.ty(*v).rank()).find_map(|d| factors.rows(f, *v, d));
    let mut nodes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, node) in func.nodes.iter().enumerate().filter(|(_, n)| n.op != Op::SumSquares) {
        if let Some(rows) = node.inputs.iter().chain(&node.outputs).find_map(of_value) {
            nodes.entry(rows).or_default().push(i);
        }
    }
    let (defs, forward) = (func.defs(), func.needed_for(func.forward_results()));
    let layer = |nodes: Vec<usize>| {
        let places = |n: &&usize| matches!(func.nodes[**n].op, Op::Dispatch { .. } | Op::Combine | Op::CombineDot);
        let mut sorts = nodes.iter().filter(places).map(|n| defs[func.nodes[*n].inputs[1].0 as usize]);
        let sort = sorts.next()??;
        let capacity = room(module, factors, (f, func), sort).filter(|_| sorts.all(|other| other == Some(sort)))?;
        let (first, second) = nodes.into_iter().partition(|n| forward[*n]);
        Some(Layer { sort, capacity, passes: [first, second] })
    };
    nodes.into_values().filter_map(layer).collect()
}

/// Rows that a rank sends another in a round, if the layer that node `sort` sorts for is one that exchanges them.
///
/// A multiple of what goes if all experts get as much, and never more than one rank can have for another: a token goes to an
/// expert once. Left to itself, a layer exchanges rows if that at least halves those that a rank has room for.
fn room(module: &Module, factors: &Factors, (f, func): (usize, &Func), sort: usize) -> Option<usize> {
    let node = &func.nodes[sort];
    let Op::Assign { experts, capacity: 0 } = node.op else { return None };
    let (slots, mesh) = (node.outputs[0], &module.mesh);
    let dims = &func.ty(slots).dims;
    let own = |d: usize| dims[d] / factors.axes_of(f, slots, d).ranks(mesh);
    let k = *dims.last()?;
    let tokens: usize = (0..dims.len() - 1).map(own).product();
    let holders = factors.holders().ranks(mesh);
    let exchange = &module.run.expert_exchange;
    let planned = (tokens * k) as f64 / holders as f64 * exchange.factor;
    let planned = (planned.ceil() as usize).max(1).next_multiple_of(STEP);
    let room = planned.min(tokens * k.min(experts / holders));
    let halves = 2 * room <= tokens * k;
    (room > 0 && (exchange.rows == ExpertRows::Exchanged || halves)).then_some(room)
}

/// `module` with the nodes of every pass of a layer that exchanges rows one after the other: what its results are read by comes
/// behind all of them.
pub(super) fn side_by_side(module: &Module, factors: &Factors) -> Module {
    let order = |(f, func): (usize, &Func)| {
        let units: Vec<Vec<usize>> = layers(module, factors, f).into_iter().flat_map(|l| l.passes).collect();
        if units.is_empty() {
            return func.clone();
        }
        let mut unit = vec![None; func.nodes.len()];
        for (u, nodes) in units.iter().enumerate() {
            nodes.iter().for_each(|n| unit[*n] = Some(u));
        }
        let mut order =
            Order { func, defs: func.defs(), units: &units, unit, placed: vec![false; func.nodes.len()], out: vec![] };
        (0..func.nodes.len()).for_each(|n| order.place(n));
        Func { nodes: order.out.iter().map(|n| func.nodes[*n].clone()).collect(), ..func.clone() }
    };
    Module { funcs: module.funcs.iter().enumerate().map(order).collect(), ..module.clone() }
}

/// Nodes being put in another order.
struct Order<'a> {
    func: &'a Func,
    defs: Vec<Option<usize>>,
    units: &'a [Vec<usize>],
    /// The unit of each node.
    unit: Vec<Option<usize>>,
    placed: Vec<bool>,
    out: Vec<usize>,
}

impl Order<'_> {
    /// Appends node `n` with its unit, and before them what they read.
    fn place(&mut self, n: usize) {
        if self.placed[n] {
            return;
        }
        let members = self.unit[n].map_or(vec![n], |u| self.units[u].clone());
        members.iter().for_each(|m| self.placed[*m] = true);
        for m in &members {
            for v in &self.func.nodes[*m].inputs {
                if let Some(d) = self.defs[v.0 as usize] {
                    self.place(d);
                }
            }
        }
        self.out.extend(members);
    }
}

impl Cutter<'_> {
    /// Writes node `i` if it is of a layer that exchanges rows: a pass as a whole with its first node. Functions that are repeated
    /// go to `bodies`.
    pub(super) fn exchanged(&mut self, i: usize, bodies: &mut Vec<Func>) -> Result<bool> {
        let Some((layer, turn)) = self.exchange.turns.get(&i).copied() else { return Ok(false) };
        match turn {
            Turn::Sort => self.sort_own(layer),
            Turn::First(pass) => self.in_rounds(layer, pass, bodies)?,
            Turn::Within => {}
        }
        Ok(true)
    }

    /// Sorts the rank's own tokens. Ranks along other axes that cut experts have the same tokens, and send rows each to those of
    /// its own column.
    fn sort_own(&mut self, layer: usize) {
        let Layer { sort, capacity, .. } = self.exchange.layers[layer];
        let node = self.node_of(sort);
        let ids = self.whole_but(node.inputs[0], Axes::NONE, &node.loc);
        let types = node.outputs.iter().map(|v| self.local(*v)).collect();
        let sorted = self.out.push(node.op.clone(), &[ids], types, &node.loc);
        for (old, new) in node.outputs.iter().zip(&sorted) {
            self.define(*old, *new);
        }
        let (experts, columns) = (self.factors.experts(), self.columns());
        let (ranks, all) = (self.ranks(experts), self.out.ty(sorted[1]).dims[0]);
        let mut spans = Builder::new(&mut self.out, node.loc.clone()).reshape(sorted[1], &[ranks, all / ranks, 2]);
        if !columns.is_empty() {
            spans = self.collective(CollectiveKind::OwnPart { dim: 1 }, columns, spans, &node.loc);
        }
        let rounds = Builder::new(&mut self.out, node.loc.clone()).many(Op::Rounds { capacity }, &[spans])[0];
        self.exchange.sorted.insert(layer, Sorted { rows: sorted[0], spans, rounds });
    }

    /// Axes along which ranks with the same tokens have other experts.
    pub(super) fn columns(&self) -> Axes {
        self.factors.holders().without(self.factors.experts())
    }
}
