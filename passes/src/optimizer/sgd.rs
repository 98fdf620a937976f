//! Stochastic gradient descent with momentum: MindSpore's `SGD` and `Momentum`.

use super::Weight;
use super::site::{Site, Step};
use athanor_ir::optimizer::SgdSpec;
use athanor_ir::{DType, TensorType};

/// The velocity, under the name that MindSpore's class gives it; none without momentum.
pub(super) fn states(spec: &SgdSpec, w: &Weight<'_>) -> Vec<(&'static str, TensorType)> {
    let name = if spec.decay_all { "accum." } else { "moments." };
    if spec.momentum == 0.0 { vec![] } else { vec![(name, w.ty.with_dtype(DType::F32))] }
}

/// `v ← u·v + enters·g; p ← p − lr·v`, or with Nesterov `p − lr·(g + u·v)`; `enters` is 1 or 1 − dampening.
pub(super) fn step(spec: &SgdSpec, s: &mut Site<'_, '_>) -> Step {
    let decays = s.decays || spec.decay_all;
    let g = s.decayed_gradient(if decays { spec.weight_decay } else { 0.0 });
    let (along, states) = if spec.momentum == 0.0 {
        (g, vec![])
    } else {
        let enters = s.input("enters");
        let old = s.times(s.states[0], spec.momentum);
        let new = if spec.dampening == 0.0 { g } else { s.scaled(g, enters) };
        let v = s.b.add(old, new);
        let ahead = if spec.nesterov {
            let more = s.times(v, spec.momentum);
            s.b.add(g, more)
        } else {
            v
        };
        (ahead, vec![v])
    };
    let lr = s.input("lr");
    let move_by = s.scaled(along, lr);
    let p = s.weight();
    let p = s.sub(p, move_by);
    s.step(p, states)
}
