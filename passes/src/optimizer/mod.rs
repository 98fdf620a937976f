//! `optimizer`: adds `update`, the step of the run's optimizer, and accumulation of gradients over micro-batches.
//!
//! One file per family of rules: [`adam`] (AdamW, Adam, Lamb, averaged AdamW), [`sgd`], [`came`], [`muon`], and
//! [`balance`] for the biases of routers. Rules are written
//! with ordinary ops, so that fusing, memory planning and every backend treat them like the rest of the program; only AdamW
//! is an op of its own.

mod adam;
mod balance;
mod came;
mod muon;
mod norm;
mod sgd;
mod site;

use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::optimizer::OptimizerSpec;
use athanor_ir::run::group_scalar;
use athanor_ir::{Builder, Code, DType, Diagnostic, Func, Level, Loc, Module, Result, Role, TensorType, ValueId};
use site::{Site, Step};
use std::collections::HashMap;

/// Adds `update`, the step of the run's optimizer, and makes `micro` add to the gradients of earlier micro-batches.
///
/// `update` takes every weight with its gradient `grad.w` and the states of its rule (`adam_m.w` and `adam_v.w` of AdamW),
/// the f32 scalars that [`athanor_ir::optimizer::OptimizerSpec::scalars`] lists (`lr`, …; `lr.k` for group k of learning
/// rates), and `token_count` when losses are summed over the tokens of a step. It returns the new weights and states under
/// their own names, and `grad_norm`: the norm of all gradients together before clipping. Gradients are scaled by
/// `max_norm / max(norm, max_norm)`.
///
/// With a loss scale, gradients are divided by the scalar `loss_scale`, and the norm is the result of a function `grad_norm`
/// of its own, which `update` takes: a step whose norm is not finite can be left out.
///
/// With more than one micro-batch in a step `micro` takes every `grad.w` and returns its sum with the new gradient.
///
/// A router's bias ([`Role::ExpertBias`]) is moved by its own rule, from the tokens of each expert over the whole step.
#[derive(Debug, Default)]
pub struct Optimizer;

/// The row of `optimizer` in the registry.
pub const ENTRY: Entry = Entry {
    name: "optimizer",
    summary: "Adds `update`, the optimizer's step, and makes `micro` add to the gradients of earlier micro-batches.",
    options: &[],
    build: |_: &Options| Ok(Box::new(Optimizer)),
};

impl Pass for Optimizer {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        optimizer(module)
    }
}

/// `micro` or one of its gradients is missing.
pub const NO_GRADIENTS: Code = Code {
    id: "P0201",
    title: "there are no gradients to step along",
    explain: "The optimizer reads @micro as autodiff leaves it: with a result grad.w for every weight w, of w's type. \
              Run autodiff before it.",
};

/// The rule cannot step a weight as the run says.
pub const BAD_RULE: Code = Code {
    id: "P0202",
    title: "the optimizer's rule does not fit a weight",
    explain: "Muon orthogonalises matrices: a weight it takes has two dims at least, and its rows are a whole number of \
              periods of the parts that the run names. Every weight named in a group of learning rates or by Muon is a \
              weight of @micro.",
};

/// Codes of this pass.
pub const CODES: &[&Code] = &[&NO_GRADIENTS, &BAD_RULE];

/// A trained weight with what its step needs to know.
struct Weight<'a> {
    name: &'a str,
    ty: TensorType,
    role: &'a Role,
    loc: &'a Loc,
    grad: ValueId,
}

/// The module with `update`, and with a `micro` that accumulates; see [`Optimizer`].
pub fn optimizer(module: &Module) -> Result<Module> {
    let help = "run `autodiff` before `optimizer`";
    let Some(micro) = module.func("micro") else {
        return Diagnostic::error(&NO_GRADIENTS, "the module has no function @micro").help(help).err();
    };
    let mut weights = vec![];
    for p in micro.params.iter().filter(|p| matches!(p.role, Role::Weight { .. })) {
        let ty = micro.ty(p.value).clone();
        let grad = micro.find_result(&format!("grad.{}", p.name)).map(|r| r.value);
        let Some(grad) = grad.filter(|g| *micro.ty(*g) == ty) else {
            let text = format!("@micro has no result grad.{} of type {ty}", p.name);
            return Diagnostic::error(&NO_GRADIENTS, text).help(help).err();
        };
        weights.push(Weight { name: &p.name, ty, role: &p.role, loc: &p.loc, grad });
    }
    known(module, &weights)?;
    let balances = balance::balances(micro)?;
    let mut update = update(module, &weights)?;
    balance::steps(&mut update, &balances);
    let mut added = vec![update];
    if module.run.loss_scale.is_some() {
        added.insert(0, norm::program(module, &weights));
    }
    let replaced = |f: &&Func| added.iter().all(|a| a.name != f.name);
    let funcs = module.funcs.iter().filter(replaced).flat_map(|f| {
        let is_micro = f.name == "micro";
        let first =
            if is_micro && module.run.accumulation > 1 { accumulating(f, &weights, &balances) } else { f.clone() };
        std::iter::once(first).chain(added.iter().filter(move |_| is_micro).cloned())
    });
    Ok(Module { level: Level::Train, funcs: funcs.collect(), ..module.clone() })
}

/// Refuses names that no weight has.
fn known(module: &Module, weights: &[Weight<'_>]) -> Result<()> {
    let grouped = module.run.lr_groups.iter().flat_map(|g| &g.weights);
    let muon = match &module.run.optimizer {
        OptimizerSpec::Muon(spec) => spec.weights.as_slice(),
        _ => &[],
    };
    match grouped.chain(muon.iter().map(|w| &w.name)).find(|n| weights.iter().all(|w| w.name != **n)) {
        None => Ok(()),
        Some(name) => {
            let text = format!("the run names {name:?}, which is no weight of @micro");
            Diagnostic::error(&BAD_RULE, text).help("name weights as the parameters of @micro are called").err()
        }
    }
}

/// `micro` with every gradient, and every count of tokens, added to what earlier micro-batches left.
fn accumulating(micro: &Func, weights: &[Weight<'_>], balances: &[balance::Balance<'_>]) -> Func {
    let mut out = micro.clone();
    let mut accumulate = |name: String, value: ValueId, ty: &TensorType, loc: &Loc| {
        let before = out.param(name.clone(), ty.clone(), Role::Grad, loc.clone());
        let sum = Builder::new(&mut out, loc.clone()).add(before, value);
        out.results.iter_mut().filter(|r| r.name == name).for_each(|r| r.value = sum);
    };
    for w in weights {
        accumulate(format!("grad.{}", w.name), w.grad, &w.ty, w.loc);
    }
    for m in balances {
        accumulate(m.load.to_owned(), m.value, &m.ty, m.loc);
    }
    out
}

/// States that the rule keeps for `w`: prefix of the name and type.
fn states(spec: &OptimizerSpec, w: &Weight<'_>) -> Vec<(&'static str, TensorType)> {
    match spec {
        OptimizerSpec::AdamW(_) => adam::moments("adam_m.", "adam_v.", w),
        OptimizerSpec::Adam(_) => adam::moments("moment1.", "moment2.", w),
        OptimizerSpec::Lamb(_) => adam::moments("lamb_m.", "lamb_v.", w),
        OptimizerSpec::PmaAdamW(spec) => adam::averaged_states(spec, w),
        OptimizerSpec::Muon(spec) => muon::states(spec, w),
        OptimizerSpec::Came(_) => came::states(w),
        OptimizerSpec::Sgd(spec) => sgd::states(spec, w),
    }
}

/// The step of one weight by the rule.
fn step(spec: &OptimizerSpec, site: &mut Site<'_, '_>) -> Result<Step> {
    Ok(match spec {
        OptimizerSpec::AdamW(spec) => adam::adamw(spec, site),
        OptimizerSpec::Adam(spec) => adam::adam(spec, site),
        OptimizerSpec::Lamb(spec) => adam::lamb(spec, site),
        OptimizerSpec::PmaAdamW(spec) => adam::averaged(spec, site),
        OptimizerSpec::Muon(spec) => muon::step(spec, site)?,
        OptimizerSpec::Came(spec) => came::step(spec, site),
        OptimizerSpec::Sgd(spec) => sgd::step(spec, site),
    })
}

/// The optimizer step.
fn update(module: &Module, weights: &[Weight<'_>]) -> Result<Func> {
    let run = &module.run;
    let mut func = Func::new("update");
    let here = Loc { block: "optimizer".into(), ..Loc::default() };
    let scalar = TensorType::scalar(DType::F32);
    let mut params = vec![];
    for w in weights {
        let mut param = |name: String, ty: &TensorType, role: Role| func.param(name, ty.clone(), role, w.loc.clone());
        let p = param(w.name.to_owned(), &w.ty, w.role.clone());
        let g = param(format!("grad.{}", w.name), &w.ty, Role::Grad);
        let kept = states(&run.optimizer, w);
        let names: Vec<String> = kept.iter().map(|(prefix, _)| format!("{prefix}{}", w.name)).collect();
        let values = names.iter().zip(&kept).map(|(n, (_, ty))| param(n.clone(), ty, Role::Moment)).collect();
        params.push((p, g, names, values));
    }
    let mut scalars: HashMap<String, ValueId> = HashMap::new();
    for (name, _) in run.step_scalars(0) {
        let value = func.param(name.clone(), scalar.clone(), Role::Input, here.clone());
        scalars.insert(name, value);
    }
    let grads: Vec<ValueId> = params.iter().map(|p| p.1).collect();
    let scaling = norm::scaling(run, &mut func, &grads);
    let mut b = Builder::new(&mut func, here);
    for (w, (p, g, names, values)) in weights.iter().zip(params) {
        b.loc = w.loc.clone();
        let group = run.lr_group(w.name);
        let decays = matches!(w.role, Role::Weight { decay: true, .. });
        let own = |name: &str| scalars.get(&group_scalar(name, group)).or_else(|| scalars.get(name)).copied();
        let mut site =
            Site { b: &mut b, name: w.name, p, g, g_scale: scaling.factor, states: values, decays, scalar: &own };
        let new = step(&run.optimizer, &mut site)?;
        b.func.result(w.name, new.weight);
        for (name, value) in names.into_iter().zip(new.states) {
            b.func.result(name, value);
        }
    }
    if let Some(norm) = scaling.norm {
        func.result("grad_norm", norm);
    }
    Ok(func)
}
