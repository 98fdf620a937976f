//! Adam and its relatives: AdamW, Adam with L2 in the gradient, Lamb, and AdamW with averaged weights.

use super::Weight;
use super::site::{Site, Step};
use athanor_ir::optimizer::{AdamWSpec, Averaging, PmaSpec};
use athanor_ir::{DType, F64, Op, TensorType, ValueId};

/// Two moments of the weight's type under the given prefixes.
pub(super) fn moments(first: &'static str, second: &'static str, w: &Weight<'_>) -> Vec<(&'static str, TensorType)> {
    vec![(first, w.ty.clone()), (second, w.ty.clone())]
}

/// The moments and the average.
pub(super) fn averaged_states(spec: &PmaSpec, w: &Weight<'_>) -> Vec<(&'static str, TensorType)> {
    let average = match spec.averaging {
        Averaging::Ema { .. } => "pma_weight_ema.",
        Averaging::Sma => "pma_weight_sma.",
    };
    let mut states = moments("adam_m.", "adam_v.", w);
    states.push((average, w.ty.with_dtype(DType::F32)));
    states
}

/// One [`Op::AdamW`]: `g` is multiplied by `g_scale`, and the weight decays by `decay`.
fn op(spec: &AdamWSpec, s: &mut Site<'_, '_>, g: ValueId, g_scale: ValueId, decay: f64) -> Step {
    let rates = ["lr", "step_size", "v_scale"].map(|name| s.input(name));
    let op = Op::AdamW { beta1: F64(spec.beta1), beta2: F64(spec.beta2), eps: F64(spec.eps), decay: F64(decay) };
    let new = s.b.many(op, &[s.p, g, s.states[0], s.states[1], rates[0], rates[1], rates[2], g_scale]);
    Step { weight: new[0], states: new[1..].to_vec() }
}

/// See [`Op::AdamW`].
pub(super) fn adamw(spec: &AdamWSpec, s: &mut Site<'_, '_>) -> Step {
    let decay = if s.decays { spec.weight_decay } else { 0.0 };
    op(spec, s, s.g, s.g_scale, decay)
}

/// The AdamW step without decay along g + decay·p.
pub(super) fn adam(spec: &AdamWSpec, s: &mut Site<'_, '_>) -> Step {
    let decay = if s.decays { spec.weight_decay } else { 0.0 };
    if decay == 0.0 {
        return op(spec, s, s.g, s.g_scale, 0.0);
    }
    let g = s.decayed_gradient(decay);
    let dtype = s.b.ty(s.p).dtype;
    let g = s.b.cast(g, dtype);
    let one = s.b.constant(1.0, TensorType::scalar(DType::F32));
    op(spec, s, g, one, 0.0)
}

/// `r = m·m_scale/(√(v·v_scale) + eps) + decay·p; p ← p − lr·(‖p‖/‖r‖)·r`.
pub(super) fn lamb(spec: &AdamWSpec, s: &mut Site<'_, '_>) -> Step {
    let g = s.gradient();
    let (m, v) = (s.f32(s.states[0]), s.f32(s.states[1]));
    let square = s.b.mul(g, g);
    let (m, v) = (s.average(m, g, spec.beta1), s.average(v, square, spec.beta2));
    let (m_scale, v_scale) = (s.input("m_scale"), s.input("v_scale"));
    let (up, below) = (s.scaled(m, m_scale), s.scaled(v, v_scale));
    let below = s.sqrt(below);
    let below = s.plus(below, spec.eps);
    let mut r = s.div(up, below);
    let p = s.weight();
    if s.decays && spec.weight_decay != 0.0 {
        let pull = s.times(p, spec.weight_decay);
        r = s.b.add(r, pull);
    }
    let ratio = trust(s, p, r);
    let lr = s.input("lr");
    let rate = s.b.mul(lr, ratio);
    let move_by = s.scaled(r, rate);
    let p = s.sub(p, move_by);
    let dtype = s.b.ty(s.states[0]).dtype;
    let states = vec![s.b.cast(m, dtype), s.b.cast(v, dtype)];
    s.step(p, states)
}

/// ‖p‖/‖r‖, and 1 where one of them is 0.
fn trust(s: &mut Site<'_, '_>, p: ValueId, r: ValueId) -> ValueId {
    /// Below every norm that is not 0: the root of a sum of squares of normal numbers.
    const TINY: f64 = 1e-37;
    let (above, below) = (s.norm(p), s.norm(r));
    // 1 if both norms are above 0, else 0.
    let sign = |s: &mut Site<'_, '_>, x: ValueId| {
        let ty = s.b.ty(x);
        let tiny = s.b.constant(TINY, ty);
        let larger = s.b.binary(athanor_ir::Binary::Max, x, tiny);
        s.div(x, larger)
    };
    let (a, b) = (sign(s, above), sign(s, below));
    let both = s.b.mul(a, b);
    let negated = s.times(both, -1.0);
    let neither = s.plus(negated, 1.0);
    let up = s.b.mul(both, above);
    let below = s.b.add(below, neither);
    let ratio = s.div(up, below);
    s.b.add(ratio, neither)
}

/// The AdamW step to p'; `a ← keep·a + take·p'`, and where the average replaces the weight it starts anew from zero.
///
/// The three factors are 0 or 1 unless α is involved, so that steps between two entries change nothing.
pub(super) fn averaged(spec: &PmaSpec, s: &mut Site<'_, '_>) -> Step {
    let Step { weight, mut states } = adamw(&spec.adamw, s);
    let (old, new) = (s.states[2], s.f32(weight));
    let (keep, take, replace) = (s.input("average_keep"), s.input("average_take"), s.input("replace"));
    let (kept, taken) = (s.scaled(old, keep), s.scaled(new, take));
    let average = s.b.add(kept, taken);
    let ready = match spec.averaging {
        Averaging::Ema { .. } => average,
        Averaging::Sma => s.times(average, 1.0 / spec.fused_num as f64),
    };
    let negated = s.times(replace, -1.0);
    let stay = s.plus(negated, 1.0);
    let (mine, theirs) = (s.scaled(new, stay), s.scaled(ready, replace));
    let p = s.b.add(mine, theirs);
    let average = s.scaled(average, stay);
    states.push(average);
    s.step(p, states)
}
