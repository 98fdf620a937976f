//! `optimizer`: adds `update`, the AdamW step, and accumulation of gradients over micro-batches.

mod balance;

use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::{
    Binary, Builder, Code, DType, Diagnostic, F64, Func, Level, Loc, Module, Op, Result, Role, TensorType, Unary,
    ValueId,
};

/// Adds `update`, the AdamW step, and makes `micro` add to the gradients of earlier micro-batches.
///
/// `update` takes every weight with its moments `adam_m.w` and `adam_v.w` and its gradient `grad.w`, and the f32 scalars
/// `lr`, `step_size` = lr/(1−β₁ᵗ) and `v_scale` = 1/(1−β₂ᵗ) (t counts from 1; [`athanor_ir::run::RunSpec::step_scalars`]
/// has them for every rule of bias correction), with `token_count` when losses are summed over the tokens of a step. It returns the new weights and moments under their own names, and `grad_norm`: the norm of
/// all gradients together before clipping. Gradients are scaled by `max_norm / max(norm, max_norm)`.
///
/// With more than one micro-batch in a step `micro` takes every `grad.w` and returns its sum with the new gradient.
///
/// A router's bias ([`Role::ExpertBias`]) is moved by its own rule, from the tokens of each expert over the whole step.
#[derive(Debug, Default)]
pub struct Optimizer;

/// The row of `optimizer` in the registry.
pub const ENTRY: Entry = Entry {
    name: "optimizer",
    summary: "Adds `update`, the AdamW step, and makes `micro` add to the gradients of earlier micro-batches.",
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

/// Codes of this pass.
pub const CODES: &[&Code] = &[&NO_GRADIENTS];

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
    let balances = balance::balances(micro)?;
    let mut update = update(module, &weights);
    balance::steps(&mut update, &balances);
    let funcs = module.funcs.iter().filter(|f| f.name != "update").flat_map(|f| {
        let is_micro = f.name == "micro";
        let first =
            if is_micro && module.run.accumulation > 1 { accumulating(f, &weights, &balances) } else { f.clone() };
        std::iter::once(first).chain(is_micro.then(|| update.clone()))
    });
    Ok(Module { level: Level::Train, funcs: funcs.collect(), ..module.clone() })
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

/// The optimizer step.
fn update(module: &Module, weights: &[Weight<'_>]) -> Func {
    let (run, spec) = (&module.run, &module.run.optimizer);
    let mut func = Func::new("update");
    let here = Loc { block: "optimizer".into(), ..Loc::default() };
    let scalar = TensorType::scalar(DType::F32);
    let state: Vec<[ValueId; 4]> = weights
        .iter()
        .map(|w| {
            let mut param =
                |prefix: &str, role: Role| func.param(format!("{prefix}{}", w.name), w.ty.clone(), role, w.loc.clone());
            [
                param("", w.role.clone()),
                param("grad.", Role::Grad),
                param("adam_m.", Role::Moment),
                param("adam_v.", Role::Moment),
            ]
        })
        .collect();
    let mut input = |name: &str| func.param(name, scalar.clone(), Role::Input, here.clone());
    let rates = ["lr", "step_size", "v_scale"].map(&mut input);
    let tokens = run.per_token_loss.then(|| input("token_count"));

    let mut b = Builder::new(&mut func, here);
    // Summed losses become a mean over the tokens of the whole step; the small number is that of the masked mean.
    let per_token = tokens.map(|count| {
        let small = b.constant(1e-8, scalar.clone());
        let count = b.add(count, small);
        b.unary(Unary::Recip, count)
    });
    let norm = (!state.is_empty()).then(|| {
        let grads: Vec<ValueId> = state.iter().map(|s| s[1]).collect();
        let squares = b.many(Op::SumSquares, &grads)[0];
        let norm = b.unary(Unary::Sqrt, squares);
        let norm = b.cast(norm, DType::F32);
        per_token.map_or(norm, |factor| b.mul(norm, factor))
    });
    let clip = norm.zip(run.max_grad_norm).map(|(norm, max)| {
        let max = b.constant(max, scalar.clone());
        let larger = b.binary(Binary::Max, norm, max);
        b.binary(Binary::Div, max, larger)
    });
    let scale = match (clip, per_token) {
        (Some(clip), Some(factor)) => b.mul(clip, factor),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => b.constant(1.0, scalar.clone()),
    };
    for (w, [p, g, m, v]) in weights.iter().zip(state) {
        b.loc = w.loc.clone();
        let decay = if matches!(w.role, Role::Weight { decay: true, .. }) { spec.weight_decay } else { 0.0 };
        let op = Op::AdamW { beta1: F64(spec.beta1), beta2: F64(spec.beta2), eps: F64(spec.eps), decay: F64(decay) };
        let new = b.many(op, &[p, g, m, v, rates[0], rates[1], rates[2], scale]);
        for (prefix, value) in ["", "adam_m.", "adam_v."].into_iter().zip(new) {
            b.func.result(format!("{prefix}{}", w.name), value);
        }
    }
    if let Some(norm) = norm {
        b.func.result("grad_norm", norm);
    }
    func
}
