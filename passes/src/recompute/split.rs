//! What has to run to make values again: the node that made them, or the part of its kernel behind values that are kept.

use super::program::Program;
use crate::codegen::loops;
use athanor_ir::func::{Func, Node, Role, ValueId};
use athanor_ir::module::Module;
use athanor_ir::op::{Binary, Op};
use athanor_ir::types::DType;
use std::collections::HashMap;

/// How a node is run again.
#[derive(Debug, Clone)]
pub(super) struct Again {
    /// Values of `micro` that it reads.
    pub inputs: Vec<ValueId>,
    /// Values of `micro` that it makes.
    pub outputs: Vec<ValueId>,
    /// The part of the kernel that runs; `None` for all of the node.
    pub part: Option<Func>,
}

/// How node `node` is run again for those of its results that `again` chooses.
///
/// A kernel that also made a value that is kept need not make that again: a residual sum and its norm are one kernel, and
/// with the sum there, the norm is left. That holds for sums in f32 only: inside of a kernel narrower values may have more
/// digits than what was stored, and so may products, which can be part of a fused multiply-add.
pub(super) fn again(program: &Program<'_>, node: &Node, again: &[bool]) -> Again {
    let whole = || Again { inputs: node.inputs.clone(), outputs: node.outputs.clone(), part: None };
    let Some(callee) = program.callee(node) else { return whole() };
    let chosen = |v: &ValueId| again[v.0 as usize];
    let there = |inner: ValueId, made: ValueId| {
        let maker = callee.nodes.iter().find(|n| n.outputs.contains(&inner)).map(|n| &n.op);
        let sum = matches!(maker, Some(Op::Binary(Binary::Add | Binary::Sub)));
        sum && !chosen(&made) && program.func.ty(made).dtype == DType::F32
    };
    let pairs = callee.results.iter().map(|r| r.value).zip(node.outputs.iter().copied());
    let given: HashMap<ValueId, ValueId> = pairs.filter(|(inner, made)| there(*inner, *made)).collect();
    if given.is_empty() {
        return whole();
    }
    let wanted: Vec<usize> = (0..node.outputs.len()).filter(|i| chosen(&node.outputs[*i])).collect();
    let (part, inputs) = cut(callee, node, &given, &wanted);
    let shorter = part.nodes.len() < callee.nodes.len() && inputs.iter().any(|v| node.outputs.contains(v));
    if !shorter || !loops::supported(&part) {
        return whole();
    }
    let outputs = wanted.iter().map(|i| node.outputs[*i]).collect();
    // A single op is run as it is, on its operands in their order.
    let inputs = alone(&part).map_or(inputs.clone(), |only| {
        let position = |v: &ValueId| part.params.iter().position(|p| p.value == *v);
        only.inputs.iter().filter_map(position).map(|i| inputs[i]).collect()
    });
    Again { inputs, outputs, part: Some(part) }
}

/// The only op of `part`, if there is one and it has one result.
fn alone(part: &Func) -> Option<&Node> {
    match &part.nodes[..] {
        [only] if only.outputs.len() == 1 => Some(only),
        _ => None,
    }
}

/// The part of `callee` that makes its results `wanted` of values that are `given` (callee's value to caller's), and what
/// it reads.
fn cut(callee: &Func, node: &Node, given: &HashMap<ValueId, ValueId>, wanted: &[usize]) -> (Func, Vec<ValueId>) {
    let defs = callee.defs();
    let mut needed = vec![false; callee.nodes.len()];
    let mut read: Vec<ValueId> = vec![];
    let mut stack: Vec<ValueId> = wanted.iter().map(|i| callee.results[*i].value).collect();
    while let Some(v) = stack.pop() {
        match defs[v.0 as usize].filter(|_| !given.contains_key(&v)) {
            Some(d) if !needed[d] => {
                needed[d] = true;
                stack.extend(&callee.nodes[d].inputs);
            }
            Some(_) => {}
            None if read.contains(&v) => {}
            None => read.push(v),
        }
    }
    let mut part = Func::new(callee.name.clone());
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    let mut inputs = vec![];
    // Parameters in their order, then what is given.
    let outside = callee.params.iter().map(|p| p.value).zip(node.inputs.iter().copied());
    let results = callee.results.iter().map(|r| r.value).filter(|v| given.contains_key(v)).map(|v| (v, given[&v]));
    for (inner, outer) in outside.chain(results) {
        if read.contains(&inner) && !map.contains_key(&inner) {
            let name = format!("p{}", inputs.len());
            map.insert(inner, part.param(name, callee.ty(inner).clone(), Role::Input, node.loc.clone()));
            inputs.push(outer);
        }
    }
    for (_, inner) in callee.nodes.iter().enumerate().filter(|(i, _)| needed[*i]) {
        let ins: Vec<ValueId> = inner.inputs.iter().map(|v| map[v]).collect();
        let types = inner.outputs.iter().map(|o| callee.ty(*o).clone()).collect();
        let outs = part.push(inner.op.clone(), &ins, types, &inner.loc);
        map.extend(inner.outputs.iter().copied().zip(outs));
    }
    for (i, w) in wanted.iter().enumerate() {
        part.result(format!("r{i}"), map[&callee.results[*w].value]);
    }
    (part, inputs)
}

/// Functions for parts of kernels, one per structure.
#[derive(Default)]
pub(super) struct Parts {
    by_key: HashMap<String, usize>,
    funcs: Vec<Func>,
    /// Parts that the module has already.
    earlier: usize,
}

impl Parts {
    /// Parts beside those that `module` has.
    pub fn beside(module: &Module) -> Self {
        let earlier = module.funcs.iter().filter(|f| f.name.contains("_part_")).count();
        Self { earlier, ..Self::default() }
    }

    /// What runs `part`: its only op, or a call.
    pub fn op(&mut self, part: &Func) -> Op {
        if let Some(only) = alone(part) {
            return only.op.clone();
        }
        let key = format!("{} {:?} {:?} {:?}", part.name, part.nodes, part.types, part.results);
        let next = self.funcs.len();
        let index = *self.by_key.entry(key).or_insert(next);
        if index == next {
            self.funcs.push(Func { name: format!("{}_part_{}", part.name, self.earlier + next), ..part.clone() });
        }
        Op::Call { callee: self.funcs[index].name.clone() }
    }

    pub fn into_funcs(self) -> Vec<Func> {
        self.funcs
    }
}
