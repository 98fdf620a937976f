//! `autodiff`: from `forward` to `micro`, which also returns the gradient of every weight.

mod contraction;
mod elementwise;
mod experts;
mod inline;
mod layers;
mod shape;
mod vjp;

use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::{Builder, Code, DType, Diagnostic, Func, Level, Loc, Module, Op, Result, Role, TensorType, ValueId};

/// Replaces `forward` by `micro`, which also returns the gradient of every weight.
///
/// `micro` has the parameters, nodes and results of `forward`, calls inlined, and after them the nodes of the backward
/// pass at the locations of the forward nodes they belong to. For each weight `w` it has a result `grad.w` of `w`'s type;
/// a weight that the loss does not depend on gets zeros.
///
/// What is differentiated is `loss_sum` if the run divides by the tokens of the whole step, otherwise `loss` divided by
/// the number of micro-batches, so that summing over micro-batches gives the gradient of their mean. With a loss scale,
/// gradients are those of the loss times the f32 scalar input `loss_scale`.
#[derive(Debug, Default)]
pub struct Autodiff;

/// The row of `autodiff` in the registry.
pub const ENTRY: Entry = Entry {
    name: "autodiff",
    summary: "Replaces `forward` by `micro`, which also returns the gradient of every weight.",
    options: &[],
    build: |_: &Options| Ok(Box::new(Autodiff)),
};

impl Pass for Autodiff {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        autodiff(module)
    }
}

/// A function that the pass needs is missing or calls itself.
pub const NO_FORWARD: Code = Code {
    id: "P0101",
    title: "there is no function to differentiate",
    explain: "autodiff reads @forward, the model and its loss as the frontend builds them. Functions that it calls must \
              exist and may not call themselves.",
};

/// `forward` has no scalar loss.
pub const NO_LOSS: Code = Code {
    id: "P0102",
    title: "there is no loss to differentiate",
    explain: "autodiff differentiates the result `loss` of @forward, or `loss_sum` if the run divides by the tokens of \
              the whole step (calculate_per_token_loss). It must be a float scalar.",
};

/// An op on the way from a weight to the loss cannot be differentiated.
pub const NO_DERIVATIVE: Code = Code {
    id: "P0103",
    title: "the op cannot be differentiated",
    explain: "Every op of a model has a derivative. Ops that are gradients or optimizer steps themselves have none here: \
              the second derivative is not supported, nor is the gradient through the log-sum-exp of attention.",
};

/// Codes of this pass.
pub const CODES: &[&Code] = &[&NO_FORWARD, &NO_LOSS, &NO_DERIVATIVE];

/// The module with `micro` in place of `forward`; see [`Autodiff`].
pub fn autodiff(module: &Module) -> Result<Module> {
    let (forward, called) = inline::inlined(module, "forward")?;
    let (loss, seed) = if module.run.per_token_loss {
        ("loss_sum", 1.0)
    } else {
        ("loss", 1.0 / module.run.accumulation.max(1) as f64)
    };
    let scale = module.run.loss_scale.map(|_| "loss_scale");
    let micro = Func { name: "micro".into(), ..scaled_gradients(&forward, loss, seed, scale)? };
    let rest = module.funcs.iter().filter(|f| f.name != "forward" && !called.contains(&f.name));
    let funcs = std::iter::once(micro).chain(rest.cloned()).collect();
    Ok(Module { level: Level::Train, funcs, ..module.clone() })
}

/// `func` with a result `grad.w` for each weight `w`: `seed` times the gradient of the scalar result `loss`.
///
/// # Errors
/// [`NO_LOSS`], [`NO_DERIVATIVE`].
pub fn gradients(func: &Func, loss: &str, seed: f64) -> Result<Func> {
    scaled_gradients(func, loss, seed, None)
}

/// As [`gradients`], times the new f32 scalar input `scale` if there is one: narrow gradients keep their small values.
fn scaled_gradients(func: &Func, loss: &str, seed: f64, scale: Option<&str>) -> Result<Func> {
    let Some(target) = func.find_result(loss).map(|r| r.value).filter(|v| is_loss(func, *v)) else {
        let text = format!("@{} has no result {loss} that is a float scalar", func.name);
        return Diagnostic::error(&NO_LOSS, text).help("return the loss from @forward under this name").err();
    };
    let mut out = func.clone();
    let factor = scale.map(|name| out.param(name, TensorType::scalar(DType::F32), Role::Input, Loc::default()));
    let mut back = Backward::new(&mut out);
    let mut seed = back.b.constant(seed, func.ty(target).clone());
    if let Some(factor) = factor {
        let factor = back.b.cast(factor, func.ty(target).dtype);
        seed = back.b.mul(seed, factor);
    }
    back.grads[target.0 as usize] = Some(seed);
    for node in func.nodes.iter().rev() {
        back.b.loc = node.loc.clone();
        vjp::backward(&mut back, node)?;
    }
    for p in func.params.iter().filter(|p| matches!(p.role, Role::Weight { .. })) {
        back.b.loc = p.loc.clone();
        let ty = func.ty(p.value).clone();
        let grad = match back.grads[p.value.0 as usize] {
            Some(g) => back.b.cast(g, ty.dtype),
            None => back.b.constant(0.0, ty),
        };
        back.b.func.result(format!("grad.{}", p.name), grad);
    }
    Ok(out.without_dead_nodes())
}

fn is_loss(func: &Func, value: ValueId) -> bool {
    func.ty(value).rank() == 0 && func.ty(value).dtype.is_float()
}

/// The state of a backward walk over a function.
struct Backward<'a> {
    /// Appends gradient nodes at the location of the node being differentiated.
    b: Builder<'a>,
    /// Gradient of each value of the forward part, summed over the uses met so far.
    grads: Vec<Option<ValueId>>,
    /// Whether the value depends on a weight.
    needed: Vec<bool>,
    /// The float type in which gradients of a value are best kept: a weight's own if the value is a cast of it.
    kept_as: Vec<DType>,
}

impl<'a> Backward<'a> {
    fn new(func: &'a mut Func) -> Self {
        let mut needed = vec![false; func.types.len()];
        let mut kept_as: Vec<DType> = func.types.iter().map(|t| t.dtype).collect();
        for p in &func.params {
            needed[p.value.0 as usize] = matches!(p.role, Role::Weight { .. }) && func.ty(p.value).dtype.is_float();
        }
        for node in &func.nodes {
            let reached = node.inputs.iter().any(|v| needed[v.0 as usize]);
            for o in &node.outputs {
                needed[o.0 as usize] = reached && func.ty(*o).dtype.is_float();
            }
            let of_weight = |v: ValueId| func.params.iter().any(|p| p.value == v && needed[v.0 as usize]);
            if node.op == Op::Cast && of_weight(node.inputs[0]) {
                kept_as[node.outputs[0].0 as usize] = func.ty(node.inputs[0]).dtype;
            }
        }
        let grads = vec![None; func.types.len()];
        Self { b: Builder::new(func, Loc::default()), grads, needed, kept_as }
    }

    fn needs(&self, value: ValueId) -> bool {
        self.needed[value.0 as usize]
    }

    fn grad(&self, value: ValueId) -> Option<ValueId> {
        self.grads[value.0 as usize]
    }

    /// Adds `grad` to the gradient of `value`, in the wider of their dtypes.
    fn add(&mut self, value: ValueId, grad: ValueId) {
        let sum = match self.grad(value) {
            None => grad,
            Some(before) => {
                let (a, b) = (self.b.ty(before).dtype, self.b.ty(grad).dtype);
                let wide = if a.bytes() >= b.bytes() { a } else { b };
                let (before, grad) = (self.b.cast(before, wide), self.b.cast(grad, wide));
                self.b.add(before, grad)
            }
        };
        self.grads[value.0 as usize] = Some(sum);
    }
}
