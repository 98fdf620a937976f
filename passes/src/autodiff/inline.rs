//! Calls replaced by the bodies they call.

use super::NO_FORWARD;
use athanor_ir::{Diagnostic, Func, Loc, Module, Node, Op, Result, ValueId};
use std::collections::BTreeSet;

/// Function `name` without calls, and the names of the functions it called.
pub(super) fn inlined(module: &Module, name: &str) -> Result<(Func, BTreeSet<String>)> {
    let mut called = BTreeSet::new();
    let mut func = find(module, name)?.clone();
    // Each round replaces the calls of one nesting depth; more rounds than functions means a cycle.
    for _ in 0..=module.funcs.len() {
        if !func.nodes.iter().any(|n| matches!(n.op, Op::Call { .. })) {
            return Ok((func, called));
        }
        let nodes = std::mem::take(&mut func.nodes);
        for node in nodes {
            let Op::Call { callee } = &node.op else {
                func.nodes.push(node);
                continue;
            };
            called.insert(callee.clone());
            paste(&mut func, find(module, callee)?, &node.inputs, &node.outputs, &node.loc);
        }
    }
    fail(format!("@{name} calls a function that calls itself"))
}

fn find<'a>(module: &'a Module, name: &str) -> Result<&'a Func> {
    module.func(name).map_or_else(|| fail(format!("the module has no function @{name}")), Ok)
}

fn fail<T>(text: String) -> Result<T> {
    Diagnostic::error(&NO_FORWARD, text).help("run autodiff on a module of level model").err()
}

/// Appends the body of `callee` on `args`; the values `results` become its results.
fn paste(func: &mut Func, callee: &Func, args: &[ValueId], results: &[ValueId], loc: &Loc) {
    let mut map: Vec<Option<ValueId>> = vec![None; callee.types.len()];
    for (p, arg) in callee.params.iter().zip(args) {
        map[p.value.0 as usize] = Some(*arg);
    }
    // A node result that is a function result takes the caller's value, the first time it is returned.
    let mut copies = vec![];
    for (r, to) in callee.results.iter().zip(results) {
        match map[r.value.0 as usize] {
            None => map[r.value.0 as usize] = Some(*to),
            Some(from) => copies.push((from, *to)),
        }
    }
    for node in &callee.nodes {
        let mut node = node.clone();
        for v in node.inputs.iter_mut().chain(&mut node.outputs) {
            let new = map[v.0 as usize].unwrap_or_else(|| func.new_value(callee.ty(*v).clone()));
            map[v.0 as usize] = Some(new);
            *v = new;
        }
        func.nodes.push(node);
    }
    // What is returned a second time, or is a parameter, is copied: a reshape to the same dims moves nothing.
    for (from, to) in copies {
        func.nodes.push(Node { op: Op::Reshape, inputs: vec![from], outputs: vec![to], loc: loc.clone() });
    }
}
