//! The global norm of the gradients, and the factor that clipping, token counts and the loss scale make together.

use super::Weight;
use athanor_ir::run::RunSpec;
use athanor_ir::{Binary, Builder, DType, Func, Loc, Module, Op, Role, TensorType, Unary, ValueId};

/// What gradients are multiplied by.
pub(super) struct Scaling {
    /// The norm before clipping, if `update` computes it.
    pub(super) norm: Option<ValueId>,
    /// An f32 scalar.
    pub(super) factor: ValueId,
}

fn here() -> Loc {
    Loc { block: "optimizer".into(), ..Loc::default() }
}

/// The function `grad_norm`, which tells whether a scaled gradient overflowed before anything is changed.
pub(super) fn program(module: &Module, weights: &[Weight<'_>]) -> Func {
    let mut func = Func::new("grad_norm");
    let grad = |w: &Weight<'_>| func.param(format!("grad.{}", w.name), w.ty.clone(), Role::Grad, w.loc.clone());
    let grads: Vec<ValueId> = weights.iter().map(grad).collect();
    let unit = unit(&module.run, &mut func);
    let mut b = Builder::new(&mut func, here());
    if let Some(norm) = norm(&mut b, &grads, unit) {
        func.result("grad_norm", norm);
    }
    func
}

/// Appends norm and factor to `update`, with the inputs they need.
pub(super) fn scaling(run: &RunSpec, func: &mut Func, grads: &[ValueId]) -> Scaling {
    let scalar = TensorType::scalar(DType::F32);
    let unit = unit(run, func);
    let given = run.loss_scale.is_some() && !grads.is_empty();
    let mut b = Builder::new(func, here());
    let (norm, result) = if given {
        (Some(b.func.param("grad_norm", scalar.clone(), Role::Grad, here())), None)
    } else {
        let norm = norm(&mut b, grads, unit);
        (norm, norm)
    };
    let clip = norm.zip(run.max_grad_norm).map(|(norm, max)| {
        let max = b.constant(max, scalar.clone());
        let larger = b.binary(Binary::Max, norm, max);
        b.binary(Binary::Div, max, larger)
    });
    let factor = match (clip, unit) {
        (Some(clip), Some(unit)) => b.mul(clip, unit),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => b.constant(1.0, scalar),
    };
    Scaling { norm: result, factor }
}

/// What one unit of gradient is as `micro` leaves it: one over the tokens of the step, if losses are summed, and over the
/// loss scale.
fn unit(run: &RunSpec, func: &mut Func) -> Option<ValueId> {
    let scalar = TensorType::scalar(DType::F32);
    let mut input = |name: &str| func.param(name, scalar.clone(), Role::Input, here());
    let tokens = run.per_token_loss.then(|| input("token_count"));
    let scale = run.loss_scale.map(|_| input("loss_scale"));
    let mut b = Builder::new(func, here());
    // Summed losses become a mean over the tokens of the whole step; the small number is that of the masked mean.
    let per_token = tokens.map(|count| {
        let small = b.constant(1e-8, scalar.clone());
        let count = b.add(count, small);
        b.unary(Unary::Recip, count)
    });
    let unscaled = scale.map(|s| b.unary(Unary::Recip, s));
    match (per_token, unscaled) {
        (Some(a), Some(c)) => Some(b.mul(a, c)),
        (one, None) | (None, one) => one,
    }
}

/// ‖g₀, g₁, …‖ · unit in f32, summed in f64; `None` without gradients.
fn norm(b: &mut Builder<'_>, grads: &[ValueId], unit: Option<ValueId>) -> Option<ValueId> {
    if grads.is_empty() {
        return None;
    }
    let squares = b.many(Op::SumSquares, grads)[0];
    let norm = b.unary(Unary::Sqrt, squares);
    let norm = b.cast(norm, DType::F32);
    Some(unit.map_or(norm, |factor| b.mul(norm, factor)))
}
