//! Element-wise functions are computed where they are read instead of being kept from forward to backward.

use athanor_ir::func::{Func, Node, ValueId};
use athanor_ir::op::Op;
use std::collections::HashMap;

/// Gives each element-wise reader of a `Unary` result or of a widening cast a copy of its own, if all readers are
/// element-wise: what the function reads is then kept, which for an activation or a bf16 value it is anyway.
pub(super) fn cheap(func: &Func) -> Func {
    let mut readers = vec![0usize; func.types.len()];
    let mut pointwise_only = vec![true; func.types.len()];
    for node in &func.nodes {
        for v in &node.inputs {
            readers[v.0 as usize] += 1;
            pointwise_only[v.0 as usize] &= pointwise(&node.op);
        }
    }
    func.results.iter().for_each(|r| pointwise_only[r.value.0 as usize] = false);
    let defs = func.defs();
    let copied = |v: ValueId| {
        let node = defs[v.0 as usize].map(|i| &func.nodes[i])?;
        let many = readers[v.0 as usize] > 1 && pointwise_only[v.0 as usize];
        // What it reads must be kept for another reader anyway.
        let kept = readers[node.inputs.first()?.0 as usize] > 1;
        (many && kept && matches!(node.op, Op::Unary(_) | Op::Cast)).then_some(node)
    };
    let mut out = func.clone();
    out.nodes.clear();
    for node in &func.nodes {
        let mut own: HashMap<ValueId, ValueId> = HashMap::new();
        for v in &node.inputs {
            if let (Some(source), false) = (copied(*v), own.contains_key(v)) {
                let fresh = out.new_value(func.ty(*v).clone());
                out.nodes.push(Node { outputs: vec![fresh], ..source.clone() });
                own.insert(*v, fresh);
            }
        }
        let inputs = node.inputs.iter().map(|v| *own.get(v).unwrap_or(v)).collect();
        out.nodes.push(Node { inputs, ..node.clone() });
    }
    out.without_dead_nodes()
}

fn pointwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Cast)
}
