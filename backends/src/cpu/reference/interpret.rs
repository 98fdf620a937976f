//! Whole functions, node by node.

use super::run_op;
use super::tensor::{Tensor, ViewMut};
use athanor_ir::{Code, DType, Diagnostic, Func, Module, Op, Result, TensorType};
use std::collections::HashMap;
use std::hash::BuildHasher;

/// A function that cannot be interpreted with the given arguments.
pub const INTERPRET: Code = Code {
    id: "B0207",
    title: "the function cannot be interpreted",
    explain: "The reference interpreter runs a function of a module on given tensors. It needs one argument of the \
              declared type for each parameter, and token ids and labels below the size of their table.",
};

/// Codes of the reference interpreter.
pub const CODES: &[&Code] = &[&INTERPRET];

/// Calls deeper than this are taken for a recursion, which modules cannot end.
const DEEPEST: usize = 64;

fn fail<T>(func: &Func, text: &str) -> Result<T> {
    Diagnostic::error(&INTERPRET, format!("@{}: {text}", func.name)).err()
}

/// Results by name of function `func` of `module`, given its arguments by parameter name.
///
/// Arguments that the function does not take are ignored, so that one map serves several functions.
pub fn interpret<S: BuildHasher>(
    module: &Module,
    func: &str,
    args: &HashMap<String, Tensor, S>,
) -> Result<HashMap<String, Tensor>> {
    let Some(f) = module.func(func) else {
        return Diagnostic::error(&INTERPRET, format!("the module has no function @{func}")).err();
    };
    let mut values = Vec::with_capacity(f.params.len());
    for p in &f.params {
        match args.get(&p.name) {
            Some(t) => values.push(t.clone()),
            None => return fail(f, &format!("no argument for parameter {}", p.name)),
        }
    }
    let results = call(module, f, values, 0)?;
    Ok(f.results.iter().map(|r| r.name.clone()).zip(results).collect())
}

/// Runs `func` as often as the first of `operands` says, on the others and the `sums` so far.
fn repeat(
    module: &Module,
    func: &Func,
    operands: &[&Tensor],
    mut sums: Vec<Tensor>,
    depth: usize,
) -> Result<Vec<Tensor>> {
    let rounds = operands.first().and_then(|t| t.to_f64().first().copied()).unwrap_or(0.0) as u32;
    for round in 0..rounds.max(1) {
        let number = Tensor { ty: TensorType::scalar(DType::I32), bytes: round.to_ne_bytes().to_vec() };
        let given = operands.iter().skip(1).map(|t| (*t).clone());
        let args = std::iter::once(number).chain(sums).chain(given).collect::<Vec<_>>();
        if args.len() != func.params.len() {
            return fail(func, &format!("takes {} operands", func.params.len()));
        }
        sums = call(module, func, args, depth)?;
    }
    Ok(sums)
}

fn call(module: &Module, func: &Func, args: Vec<Tensor>, depth: usize) -> Result<Vec<Tensor>> {
    if depth > DEEPEST {
        return fail(func, "calls itself");
    }
    let mut uses = func.use_counts();
    let mut values: Vec<Option<Tensor>> = vec![None; func.types.len()];
    for (p, arg) in func.params.iter().zip(args) {
        let ty = func.ty(p.value);
        if arg.ty != *ty || arg.bytes.len() != ty.bytes() {
            return fail(func, &format!("argument {} is {}, not {ty}", p.name, arg.ty));
        }
        values[p.value.0 as usize] = Some(arg);
    }
    for node in &func.nodes {
        let here = |e: &str| format!("{e} (block {:?})", node.loc.block);
        let mut ins = Vec::with_capacity(node.inputs.len());
        for v in &node.inputs {
            match &values[v.0 as usize] {
                Some(t) => ins.push(t),
                None => return fail(func, &here(&format!("value {} is read before it is defined", v.0))),
            }
        }
        let results = if let Op::Call { callee } = &node.op {
            let Some(target) = module.func(callee) else { return fail(func, &here(&format!("no function @{callee}"))) };
            if target.params.len() != ins.len() {
                return fail(func, &here(&format!("@{callee} takes {} operands", target.params.len())));
            }
            call(module, target, ins.into_iter().cloned().collect(), depth + 1)?
        } else if let Op::Repeat { callee } = &node.op {
            let Some(target) = module.func(callee) else { return fail(func, &here(&format!("no function @{callee}"))) };
            let zeros = node.outputs.iter().map(|o| Tensor::zeros(func.ty(*o).clone())).collect();
            repeat(module, target, &ins, zeros, depth + 1)?
        } else {
            let mut outs: Vec<Tensor> = node.outputs.iter().map(|o| Tensor::zeros(func.ty(*o).clone())).collect();
            let ins: Vec<_> = ins.into_iter().map(Tensor::view).collect();
            let mut views: Vec<_> = outs.iter_mut().map(|Tensor { ty, bytes }| ViewMut { ty, bytes }).collect();
            if let Err(e) = run_op(&node.op, &ins, &mut views) {
                return fail(func, &here(&e));
            }
            outs
        };
        for (o, t) in node.outputs.iter().zip(results) {
            values[o.0 as usize] = Some(t);
        }
        // What nobody reads any more is given back.
        for v in &node.inputs {
            let left = &mut uses[v.0 as usize];
            *left -= 1;
            if *left == 0 {
                values[v.0 as usize] = None;
            }
        }
    }
    let take = |v: usize| match &values[v] {
        Some(t) => Ok(t.clone()),
        None => fail(func, &format!("result value {v} is not defined")),
    };
    func.results.iter().map(|r| take(r.value.0 as usize)).collect()
}
