//! Which values are computed again.

use super::program::Program;
use super::split::again;
use athanor_ir::func::ValueId;
use athanor_ir::recompute::Recompute;

/// The values that `choice` has the backward part compute itself: a flag for each.
///
/// Values that another layer or something outside of the layers reads are kept whatever is chosen: a layer's copy starts
/// from them.
pub(super) fn chosen(program: &Program<'_>, choice: &Recompute) -> Vec<bool> {
    let by = |layer: &str, path: &str| choice.has(layer, path);
    let mut flags = within_layers(program, by);
    let whole: Vec<bool> = program.layers.iter().map(|l| choice.layers.contains(l)).collect();
    for v in 0..flags.len() {
        let layer = program.makers[v].as_ref().and_then(|m| m.layer);
        if flags[v] && layer.is_some_and(|l| !whole[l]) && !worth_it(program, &flags, v) {
            flags[v] = false;
        }
    }
    flags
}

/// Values made by the operators for which `by(layer, path)` holds and read in their layer only.
pub(super) fn within_layers(program: &Program<'_>, by: impl Fn(&str, &str) -> bool) -> Vec<bool> {
    let mut flags: Vec<bool> = (0..program.func.types.len())
        .map(|v| {
            let Some(maker) = &program.makers[v] else { return false };
            let Some(layer) = maker.layer else { return false };
            let own = program.readers[v].iter().all(|l| *l == Some(layer));
            own && !program.is_result[v] && by(&program.layers[layer], &maker.path)
        })
        .collect();
    // What can be made only of another layer's values that are not kept either is kept itself: else a copy of that layer
    // would be made, and one of the layer before.
    for (i, node) in program.func.nodes.iter().enumerate() {
        for v in node.outputs.iter().filter(|v| program.forward[i] && flags[v.0 as usize]).copied().collect::<Vec<_>>()
        {
            let layer = |v: ValueId| program.makers[v.0 as usize].as_ref().and_then(|m| m.layer);
            let run = again(program, node, &flags);
            if run.inputs.iter().any(|u| flags[u.0 as usize] && layer(*u) != layer(v)) {
                flags[v.0 as usize] = false;
            }
        }
    }
    flags
}

/// Whether computing `v` again needs less memory than keeping it: what it is made of may have to be kept instead.
fn worth_it(program: &Program<'_>, flags: &[bool], v: usize) -> bool {
    if !program.kept[v] {
        // It is an intermediate value of others.
        return true;
    }
    let bytes = |v: usize| program.func.types[v].bytes();
    let mut instead = 0;
    let mut seen = vec![false; flags.len()];
    let mut stack = vec![v];
    while let Some(v) = stack.pop() {
        let Some(node) = program.defs[v].map(|d| &program.func.nodes[d]) else { continue };
        for u in again(program, node, flags).inputs {
            let u = u.0 as usize;
            if std::mem::replace(&mut seen[u], true) {
                continue;
            }
            if flags[u] {
                stack.push(u);
            } else if !program.kept[u] && program.defs[u].is_some() {
                instead += bytes(u);
            }
        }
    }
    instead < bytes(v)
}
