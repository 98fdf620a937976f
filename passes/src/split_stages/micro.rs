//! The functions of the positions of a pipeline.

use super::place::{Place, places};
use super::shared::Shared;
use super::stage_of;
use athanor_ir::pipeline::{Pipeline, handed, micro_of, stage_func};
use athanor_ir::recompute::number_of_layer;
use athanor_ir::{Func, Loc, Node, Op, Result, Role, ValueId};
use std::collections::{HashMap, HashSet};

/// `micro` cut at the boundaries of `pipeline`'s positions, first to last.
///
/// # Errors
/// [`super::CANNOT_SPLIT`] for a weight of several positions whose gradient is not added to that of earlier micro-batches.
pub(super) fn positions(micro: &Func, pipeline: &Pipeline) -> Result<Vec<Func>> {
    let cut = Cut::of(micro, pipeline)?;
    Ok((0..pipeline.positions()).map(|q| cut.position(q)).collect())
}

/// What crosses which boundary.
struct Cut<'a> {
    micro: &'a Func,
    pipeline: &'a Pipeline,
    places: Vec<Place>,
    /// Values that go from each position to the next.
    up: Vec<Vec<ValueId>>,
    /// Values that come back from the position behind each.
    down: Vec<Vec<ValueId>>,
    /// Position of each result; `None` for the gradient of a weight that several positions have.
    homes: Vec<Option<usize>>,
    /// Gradients of weights that several positions have.
    shared: Vec<Shared>,
}

impl<'a> Cut<'a> {
    fn of(micro: &'a Func, pipeline: &'a Pipeline) -> Result<Self> {
        let places = places(micro, pipeline);
        let last = pipeline.positions() - 1;
        let (shared, summed) = Shared::all(micro, &places, last)?;
        let at = |place: Place| match place {
            Place::Free => None,
            Place::Forward(p) | Place::Backward(p) => Some(p),
            Place::Tail => Some(last),
        };
        let defs = micro.defs();
        let made = |v: &ValueId| defs[v.0 as usize].and_then(|d| Some((places[d], at(places[d])?)));
        // Furthest positions that read each value, forwards and backwards.
        let mut reach: HashMap<ValueId, (usize, usize)> = HashMap::new();
        for (_, (node, place)) in micro.nodes.iter().zip(&places).enumerate().filter(|(i, _)| !summed.contains(i)) {
            let Some(q) = at(*place) else { continue };
            for v in &node.inputs {
                let Some((from, p)) = made(v) else { continue };
                let r = reach.entry(*v).or_insert((p, p));
                if matches!(from, Place::Backward(_)) || q < p {
                    r.1 = r.1.min(q);
                } else {
                    r.0 = r.0.max(q);
                }
            }
        }
        let (mut up, mut down) = (vec![vec![]; last], vec![vec![]; last]);
        for v in micro.nodes.iter().flat_map(|n| &n.outputs) {
            let (Some((_, p)), Some((high, low))) = (made(v), reach.get(v)) else { continue };
            (p..*high).for_each(|b| up[b].push(*v));
            (*low..p).for_each(|b| down[b].push(*v));
        }
        // What no op of a position makes is where its weight's layer is.
        let home = |r: &athanor_ir::FuncResult| {
            let of_name = || number_of_layer(&r.name).map_or(last, |l| pipeline.position_of(l));
            let alone = shared.iter().all(|s| s.name != r.name);
            alone.then(|| made(&r.value).map_or_else(of_name, |(_, p)| p))
        };
        let homes = micro.results.iter().map(home).collect();
        Ok(Self { micro, pipeline, places, up, down, homes, shared })
    }

    /// The function of position `q`.
    fn position(&self, q: usize) -> Func {
        let last = self.pipeline.positions() - 1;
        let (stage, chunk) = self.pipeline.schedule.shape().at(self.pipeline.stages(), q);
        let mut out = Func::new(stage_func(stage, &micro_of(chunk)));
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        for p in &self.micro.params {
            let value = out.param(p.name.clone(), self.micro.ty(p.value).clone(), p.role.clone(), p.loc.clone());
            if let Some(param) = out.params.last_mut() {
                param.sharding = p.sharding.clone();
            }
            map.insert(p.value, value);
        }
        let arriving = q.checked_sub(1).map_or(&[][..], |b| &self.up[b]);
        for (i, v) in arriving.iter().enumerate() {
            map.insert(*v, out.param(handed(i), self.micro.ty(*v).clone(), Role::Handed, here()));
        }
        self.emit(&mut out, &mut map, |p| matches!(p, Place::Free) || p == Place::Forward(q));
        let (going, coming) = if q == last {
            let turning = self.turning(&map);
            (turning.clone(), turning)
        } else {
            (self.up[q].clone(), self.down[q].clone())
        };
        let operands: Vec<ValueId> = going.iter().map(|v| map[v]).collect();
        let types = coming.iter().map(|v| self.micro.ty(*v).clone()).collect();
        let returned = out.push(Op::Handover { last: q == last }, &operands, types, &here());
        map.extend(coming.iter().copied().zip(returned.iter().copied()));
        // By then all slices have come through, and what they share is whole: it is read no sooner.
        let mut shared: HashMap<ValueId, ValueId> = HashMap::new();
        for r in self.micro.results.iter().filter(|r| self.is_cache(&r.name)) {
            let (Some(value), Some(turned)) = (map.get(&r.value).copied(), returned.first()) else { continue };
            let ty = self.micro.ty(r.value).clone();
            shared.insert(r.value, value);
            map.insert(r.value, out.push(Op::Await, &[value, *turned], vec![ty], &here())[0]);
        }
        self.emit(&mut out, &mut map, |p| {
            matches!(p, Place::Free) || p == Place::Backward(q) || (p == Place::Tail && q == last)
        });
        for (r, _) in self.micro.results.iter().zip(&self.homes).filter(|(_, home)| **home == Some(q)) {
            out.result(r.name.clone(), shared.get(&r.value).copied().unwrap_or(map[&r.value]));
        }
        for shared in &self.shared {
            shared.add(&mut out, &map, q);
        }
        let leaving = q.checked_sub(1).map_or(&[][..], |b| &self.down[b]);
        for (i, v) in leaving.iter().enumerate() {
            out.result(format!("grad.{}", handed(i)), map[v]);
        }
        with_used_params(&out.without_dead_nodes())
    }

    /// Whether result `name` is what slices share.
    fn is_cache(&self, name: &str) -> bool {
        self.micro.find_param(name).is_some_and(|p| p.role == Role::Cache)
    }

    /// Appends the nodes whose place `wanted` accepts.
    fn emit(&self, out: &mut Func, map: &mut HashMap<ValueId, ValueId>, wanted: impl Fn(Place) -> bool) {
        for (node, _) in self.micro.nodes.iter().zip(&self.places).filter(|(_, place)| wanted(**place)) {
            // Sums of gradients that several positions have parts of are none of any position.
            let inputs: Option<Vec<ValueId>> = node.inputs.iter().map(|v| map.get(v).copied()).collect();
            let Some(inputs) = inputs else { continue };
            let types = node.outputs.iter().map(|v| self.micro.ty(*v).clone()).collect();
            let outputs = out.push(node.op.clone(), &inputs, types, &node.loc);
            map.extend(node.outputs.iter().copied().zip(outputs));
        }
    }

    /// What the layers of the last position, or those before, hand to what is behind them.
    fn turning(&self, map: &HashMap<ValueId, ValueId>) -> Vec<ValueId> {
        let defs = self.micro.defs();
        let of_layers = |v: &&ValueId| {
            let made = defs[v.0 as usize].map(|d| self.places[d]);
            matches!(made, Some(Place::Forward(_))) && map.contains_key(v)
        };
        let tail = self.micro.nodes.iter().zip(&self.places).filter(|(_, p)| **p == Place::Tail);
        let mut seen = HashSet::new();
        tail.flat_map(|(n, _): (&Node, _)| &n.inputs).filter(of_layers).filter(|v| seen.insert(**v)).copied().collect()
    }
}

fn here() -> Loc {
    Loc { block: "pipeline".into(), ..Loc::default() }
}

/// `func` without parameters that nothing reads.
pub(super) fn with_used_params(func: &Func) -> Func {
    let uses = func.use_counts();
    let mut out = func.clone();
    out.params.retain(|p| uses[p.value.0 as usize] > 0);
    out
}

/// Stages at whose positions parameter `name` is read.
pub(super) fn readers(positions: &[Func], pipeline: &Pipeline, name: &str) -> Vec<usize> {
    let reads = (0..positions.len()).filter(|q| positions[*q].find_param(name).is_some());
    let mut stages: Vec<usize> = reads.map(|q| stage_of(pipeline, q)).collect();
    stages.sort_unstable();
    stages.dedup();
    stages
}
