//! Which values go to the host.

use crate::plan::arena::ALIGN;
use crate::plan::layout::contiguous_slice;
use crate::recompute::program::Program;
use athanor_ir::func::{Func, Role, ValueId};
use athanor_ir::offload::{Offload, Swap};
use athanor_ir::op::Op;
use std::collections::BTreeMap;

/// Values of fewer bytes stay: a place takes that much anyway.
const SMALL: usize = ALIGN;

/// The value whose bytes `v` has under another shape; `v` itself if it has its own.
pub(super) fn origin(func: &Func, defs: &[Option<usize>], v: ValueId) -> ValueId {
    let mut v = v;
    while let Some(d) = defs[v.0 as usize].filter(|d| func.nodes[*d].op == Op::Reshape) {
        v = func.nodes[d].inputs[0];
    }
    v
}

/// The values that `choice` sends to the host, each with the ops by which it comes back before it is read.
///
/// A value that another has the bytes of goes once, as the one that was made. What nobody frees stays: results, weights and
/// inputs, tables, and parts of these. So do weights that replicas share and gather, what comes back from the next position
/// of a pipeline, and what is too small to be worth the way.
pub(super) fn chosen(program: &Program<'_>, choice: &Offload) -> BTreeMap<ValueId, usize> {
    let func = program.func;
    // By value, the first entry of the choice that names it.
    let mut entries: BTreeMap<ValueId, usize> = BTreeMap::new();
    for v in (0..func.types.len()).map(|v| ValueId(v as u32)).filter(|v| program.kept[v.0 as usize]) {
        let of = origin(func, &program.defs, v);
        let named = |swap: &Swap| by_layer(program, swap, v) || by_operator(program, swap, v, of);
        if let Some(entry) = choice.values.iter().position(named).filter(|_| freed(program, of)) {
            entries.entry(of).and_modify(|e| *e = entry.min(*e)).or_insert(entry);
        }
    }
    entries.into_iter().map(|(v, entry)| (v, choice.values[entry].prefetch)).collect()
}

/// Whether the backward part of a layer of `swap` reads `v`.
fn by_layer(program: &Program<'_>, swap: &Swap, v: ValueId) -> bool {
    program.kept_for[v.0 as usize].iter().flatten().any(|l| swap.layers.contains(&program.layers[*l]))
}

/// Whether an operator of `swap` made `v`, or the value that it has the bytes of.
fn by_operator(program: &Program<'_>, swap: &Swap, v: ValueId, of: ValueId) -> bool {
    [v, of].iter().filter_map(|v| program.makers[v.0 as usize].as_ref()).any(|maker| {
        let layer = maker.layer.map(|l| &program.layers[l]);
        layer.is_some_and(|layer| swap.operators.iter().any(|o| o.has(layer, &maker.path)))
    })
}

/// Whether the memory of `v` is free once it is on the host.
fn freed(program: &Program<'_>, v: ValueId) -> bool {
    let func = program.func;
    if program.is_result[v.0 as usize] || func.ty(v).bytes() < SMALL {
        return false;
    }
    let Some(d) = program.defs[v.0 as usize] else {
        return func.params.iter().any(|p| p.value == v && p.role == Role::Handed);
    };
    if !program.forward[d]
        || program.gathers(d)
        || matches!(func.nodes[d].op, Op::RopeTable { .. } | Op::Handover { .. })
    {
        return false;
    }
    // A part of a weight is the weight's memory.
    let mut from = v;
    while let Some(d) = program.defs[from.0 as usize] {
        if func.nodes[d].op != Op::Reshape && contiguous_slice(func, d).is_none() {
            return true;
        }
        from = func.nodes[d].inputs[0];
    }
    func.params.iter().any(|p| p.value == from && p.role == Role::Handed)
}
