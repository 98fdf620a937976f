//! The optimizer's state on the host between steps.

use athanor_ir::func::{Func, Node, Role, ValueId};
use athanor_ir::memory::Memory;
use athanor_ir::offload::Offloaded;
use athanor_ir::op::Op;
use std::collections::HashMap;

/// `func` with the states that it has as parameters on the host.
///
/// Each comes before the first op that reads it, and what replaces it goes back behind the op that makes it, so that the
/// device has what one weight's step needs at a time.
pub(super) fn on_host(func: Func, done: &mut Offloaded) -> Func {
    let states: Vec<usize> = (0..func.params.len()).filter(|i| func.params[*i].role == Role::Moment).collect();
    if states.is_empty() {
        return func;
    }
    let defs = func.defs();
    let mut out = Func { nodes: vec![], ..func.clone() };
    // Nodes to add before each node of the function.
    let mut comes: Vec<Vec<Node>> = vec![vec![]; func.nodes.len() + 1];
    let mut goes = comes.clone();
    let mut here: HashMap<ValueId, ValueId> = HashMap::new();
    for param in states.iter().map(|i| &func.params[*i]) {
        let ty = func.ty(param.value).clone();
        done.moments += 1;
        done.moment_bytes += ty.bytes() as u64;
        let copy = |op: Op, from: ValueId, to: ValueId, at: Option<usize>| {
            let loc = at.map_or_else(|| param.loc.clone(), |d| func.nodes[d].loc.clone());
            Node { op, inputs: vec![from], outputs: vec![to], loc }
        };
        let first = func.nodes.iter().position(|n| n.inputs.contains(&param.value));
        if let Some(first) = first {
            let device = out.new_value(ty.clone());
            comes[first].push(copy(Op::FromHost, param.value, device, Some(first)));
            here.insert(param.value, device);
        }
        for r in out.results.iter_mut().filter(|r| r.name == param.name && r.value != param.value) {
            let def = defs[r.value.0 as usize];
            // The old state is read before the new one takes its place.
            let behind = def.max(first).map_or(0, |i| i + 1);
            out.types.push(ty.clone());
            let host = ValueId(out.types.len() as u32 - 1);
            goes[behind].push(copy(Op::ToHost, r.value, host, def));
            r.value = host;
        }
    }
    for i in states {
        out.params[i].memory = Memory::Host;
    }
    for (i, (goes, comes)) in goes.into_iter().zip(comes).enumerate() {
        out.nodes.extend(goes.into_iter().chain(comes));
        let Some(node) = func.nodes.get(i) else { continue };
        let inputs = node.inputs.iter().map(|v| here.get(v).copied().unwrap_or(*v)).collect();
        out.nodes.push(Node { inputs, ..node.clone() });
    }
    out
}
