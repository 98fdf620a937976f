//! The selection biases of routers: moved toward an even load of the experts, without a gradient.

use athanor_ir::{Binary, Builder, Diagnostic, Func, Loc, ReduceKind, Result, Role, TensorType, Unary, ValueId};

use super::NO_GRADIENTS;

/// A bias with the count of tokens that moves it.
pub(super) struct Balance<'a> {
    name: &'a str,
    pub(super) ty: TensorType,
    role: &'a Role,
    pub(super) loc: &'a Loc,
    /// Name of the count, and its value in `micro`.
    pub(super) load: &'a str,
    pub(super) value: ValueId,
    rate: f64,
}

/// The biases of `micro`.
///
/// # Errors
/// [`NO_GRADIENTS`] if `micro` does not return a bias's load.
pub(super) fn balances(micro: &Func) -> Result<Vec<Balance<'_>>> {
    let mut found = vec![];
    for p in &micro.params {
        let Role::ExpertBias { load, rate } = &p.role else { continue };
        let ty = micro.ty(p.value).clone();
        let value = micro.find_result(load).map(|r| r.value);
        let Some(value) = value.filter(|v| *micro.ty(*v) == ty) else {
            let text = format!("@micro has no result {load} of type {ty}, which moves {}", p.name);
            return Diagnostic::error(&NO_GRADIENTS, text).help("return the tokens of each expert from @forward").err();
        };
        found.push(Balance { name: &p.name, ty, role: &p.role, loc: &p.loc, load, value, rate: *rate });
    }
    Ok(found)
}

/// b + rate·sign(mean(load) − load) for each bias, as results of `update`. (arXiv 2408.15664, algorithm 1.)
pub(super) fn steps(func: &mut Func, balances: &[Balance<'_>]) {
    for m in balances {
        let bias = func.param(m.name, m.ty.clone(), m.role.clone(), m.loc.clone());
        let load = func.param(m.load, m.ty.clone(), Role::Grad, m.loc.clone());
        let mut b = Builder::new(func, m.loc.clone());
        let total = b.reduce(ReduceKind::Sum, load, &[0]);
        // Divided, not multiplied by 1/e: an expert with just the mean must not move.
        let experts = b.constant(m.ty.dims[0] as f64, m.ty.with_dims([]));
        let mean = b.binary(Binary::Div, total, experts);
        let mean = b.broadcast(mean, &[], &m.ty.dims);
        let short = b.binary(Binary::Sub, mean, load);
        let direction = b.unary(Unary::Sign, short);
        let rate = b.constant(m.rate, m.ty.clone());
        let step = b.mul(rate, direction);
        let moved = b.add(bias, step);
        func.result(m.name, moved);
    }
}
