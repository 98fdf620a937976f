//! Copies to the host behind what makes values, and back before what reads them in the backward part.

use super::choose::origin;
use crate::recompute::program::Program;
use athanor_ir::func::{Func, Loc, Node, ValueId};
use athanor_ir::offload::Offloaded;
use athanor_ir::op::Op;
use std::collections::{BTreeMap, HashMap};

/// The function of `program` with the values `chosen` on the host until so many ops before the backward part reads them.
pub(super) fn moved(program: &Program<'_>, chosen: &BTreeMap<ValueId, usize>, done: &mut Offloaded) -> Func {
    let func = program.func;
    let mut out = Func { nodes: vec![], ..func.clone() };
    let trips = trips(program, chosen);
    // Nodes to add before each node of the function, first those that go.
    let mut goes: Vec<Vec<Node>> = vec![vec![]; func.nodes.len() + 1];
    let mut comes = goes.clone();
    let mut back: HashMap<ValueId, ValueId> = HashMap::new();
    for trip in &trips {
        let ty = func.ty(trip.value).clone();
        done.values += 1;
        done.bytes += ty.bytes() as u64;
        let mut copy = |op: Op, from: ValueId, ty| {
            let to = out.new_value(ty);
            (to, Node { op, inputs: vec![from], outputs: vec![to], loc: trip.loc.clone() })
        };
        let (host, node) = copy(Op::ToHost, trip.value, ty.clone());
        goes[trip.made].push(node);
        let (device, node) = copy(Op::FromHost, host, ty);
        comes[trip.read].push(node);
        back.insert(trip.value, device);
        for view in &trip.views {
            let (again, node) = copy(Op::Reshape, device, func.ty(*view).clone());
            comes[trip.read].push(node);
            back.insert(*view, again);
        }
    }
    let mut added = goes.into_iter().zip(comes);
    for (i, node) in func.nodes.iter().enumerate() {
        out.nodes.extend(added.next().into_iter().flat_map(|(goes, comes)| goes.into_iter().chain(comes)));
        let mut node = node.clone();
        if !program.forward[i] {
            node.inputs.iter_mut().for_each(|v| *v = back.get(v).copied().unwrap_or(*v));
        }
        out.nodes.push(node);
    }
    out
}

/// One value's way to the host and back.
struct Trip {
    value: ValueId,
    /// Node before which it goes.
    made: usize,
    /// Node before which it comes back, which is behind.
    read: usize,
    /// Values with its bytes that the backward part reads.
    views: Vec<ValueId>,
    loc: Loc,
}

/// The ways of the values `chosen`, in the order in which the backward part reads them.
fn trips(program: &Program<'_>, chosen: &BTreeMap<ValueId, usize>) -> Vec<Trip> {
    let func = program.func;
    let backward = || (0..func.nodes.len()).filter(|i| !program.forward[*i]);
    // Nothing comes back while the forward part has not ended, however early it is wanted.
    let begin = backward().next().unwrap_or_default();
    let mut reads: BTreeMap<ValueId, (usize, Vec<ValueId>)> = BTreeMap::new();
    for i in backward() {
        for v in &func.nodes[i].inputs {
            let of = origin(func, &program.defs, *v);
            let made_forward = program.defs[v.0 as usize].is_none_or(|d| program.forward[d]);
            if !chosen.contains_key(&of) || !made_forward {
                continue;
            }
            let (_, views) = reads.entry(of).or_insert((i, vec![]));
            if *v != of && !views.contains(v) {
                views.push(*v);
            }
        }
    }
    let mut trips: Vec<(usize, Trip)> = reads
        .into_iter()
        .map(|(value, (first, views))| {
            let def = program.defs[value.0 as usize];
            let made = def.map_or(0, |d| d + 1);
            let read = first.saturating_sub(chosen[&value]).max(begin).max(made);
            let param = || func.params.iter().find(|p| p.value == value).map(|p| p.loc.clone());
            let loc = def.map(|d| func.nodes[d].loc.clone()).or_else(param).unwrap_or_default();
            (first, Trip { value, made, read, views, loc })
        })
        .collect();
    trips.sort_by_key(|(first, trip)| (*first, trip.value));
    trips.into_iter().map(|(_, trip)| trip).collect()
}
