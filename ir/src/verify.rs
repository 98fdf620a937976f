//! The verifier: what every module must satisfy between passes.

use crate::diag::{Code, Diagnostic, Result};
use crate::func::{Func, ValueId};
use crate::infer::check;
use crate::memory;
use crate::module::{Level, Module};
use crate::op::Op;
use crate::types::{DType, TensorType};
use std::collections::HashSet;

/// A module that breaks a rule of the IR.
pub const INVALID_IR: Code = Code {
    id: "M0001",
    title: "the module breaks a rule of the IR",
    explain: "Between two passes every value is defined once before it is used, operand and result types fit the op, \
              called functions exist with matching types, and a module holds the functions its level promises. A dump \
              that was edited by hand may break these rules; a pass that breaks them is a bug worth reporting.",
};

/// Checks every rule; the first broken one is the error.
pub fn verify(module: &Module) -> Result<()> {
    let mut names = HashSet::new();
    for func in &module.funcs {
        if !names.insert(&func.name) {
            return Diagnostic::error(&INVALID_IR, format!("two functions are called @{}", func.name)).err();
        }
        verify_func(module, func)?;
    }
    let promised: &[&str] = match module.level {
        Level::Model => &["forward"],
        Level::Train | Level::Kernel => &[],
    };
    for name in promised {
        if module.func(name).is_none() {
            let text = format!("a module of level {} needs a function @{name}", module.level.name());
            return Diagnostic::error(&INVALID_IR, text).err();
        }
    }
    Ok(())
}

/// Whether `callee` can be run again and again on operands of types `ins`, summing up values of types `outs`.
fn repeats(module: &Module, callee: &str, ins: &[TensorType], outs: &[TensorType]) -> std::result::Result<(), String> {
    let Some(target) = module.func(callee) else { return Err(format!("repeats unknown @{callee}")) };
    let scalar = TensorType::scalar(DType::I32);
    if ins.first() != Some(&scalar) {
        return Err("wants an i32 that says how often".into());
    }
    let wanted = std::iter::once(&scalar).chain(outs).chain(&ins[1..]);
    let params = || target.params.iter().map(|p| target.ty(p.value));
    if !params().eq(wanted) || !target.results.iter().map(|r| target.ty(r.value)).eq(outs) {
        return Err(format!("does not match the type of @{callee}"));
    }
    let names = target.params[1..].iter().map(|p| &p.name).take(outs.len());
    if names.eq(target.results.iter().map(|r| &r.name)) {
        Ok(())
    } else {
        Err(format!("repeats @{callee}, which does not sum up what it was given"))
    }
}

fn verify_func(module: &Module, func: &Func) -> Result<()> {
    let broken = |text: String| Diagnostic::error(&INVALID_IR, format!("@{}: {text}", func.name)).err();
    let mut defined = vec![false; func.types.len()];
    let mut define = |v: ValueId| {
        let slot = defined.get_mut(v.0 as usize);
        slot.is_some_and(|d| !std::mem::replace(d, true))
    };
    let mut names = HashSet::new();
    for p in &func.params {
        let axes = p.sharding.cutting().chain(p.sharding.partial.iter().map(String::as_str));
        if let Some(axis) = axes.into_iter().find(|a| module.mesh.axis(a).is_none()) {
            return broken(format!("parameter {} is spread over axis {axis:?}, which the mesh does not have", p.name));
        }
        if !define(p.value) {
            return broken(format!("parameter {} defines a value twice", p.name));
        }
        if !names.insert(&p.name) {
            return broken(format!("two parameters are called {}", p.name));
        }
    }
    let mut known: HashSet<ValueId> = func.params.iter().map(|p| p.value).collect();
    for (i, node) in func.nodes.iter().enumerate() {
        let here = format!("op {i} (nn.{} in {:?})", node.op.name(), node.loc.block);
        if let Some(v) = node.inputs.iter().find(|v| !known.contains(v)) {
            return broken(format!("{here} reads value {} before it is defined", v.0));
        }
        if !node.outputs.iter().all(|o| define(*o)) {
            return broken(format!("{here} defines a value twice"));
        }
        known.extend(&node.outputs);
        let types = |vs: &[ValueId]| vs.iter().map(|v| func.ty(*v).clone()).collect::<Vec<TensorType>>();
        let (ins, outs) = (types(&node.inputs), types(&node.outputs));
        if let Op::Call { callee } = &node.op {
            let Some(target) = module.func(callee) else { return broken(format!("{here} calls unknown @{callee}")) };
            let params: Vec<_> = target.params.iter().map(|p| target.ty(p.value).clone()).collect();
            let results: Vec<_> = target.results.iter().map(|r| target.ty(r.value).clone()).collect();
            if params != ins || results != outs {
                return broken(format!("{here} does not match the type of @{callee}"));
            }
        } else if let Op::Repeat { callee } = &node.op {
            repeats(module, callee, &ins, &outs).or_else(|text| broken(format!("{here} {text}")))?;
        } else if let Err(e) = check(&node.op, &ins, &outs) {
            return broken(format!("{here}: {e}"));
        }
        if let Op::Collective(c) = &node.op {
            if let Some(axis) = c.axes().find(|a| module.mesh.axis(a).is_none()) {
                return broken(format!("{here} is over axis {axis:?}, which the mesh does not have"));
            }
            let members = c.members(&module.mesh).unwrap_or(1);
            if members != c.ranks {
                return broken(format!("{here} is of {} ranks, and its axes have {members}", c.ranks));
            }
        }
    }
    let mut names = HashSet::new();
    for r in &func.results {
        if !known.contains(&r.value) {
            return broken(format!("result {} is not defined", r.name));
        }
        if !names.insert(&r.name) {
            return broken(format!("two results are called {}", r.name));
        }
    }
    memory::check(func).or_else(broken)
}
