//! Which weights' optimizer steps the replicas share, each with the state of its part.

use super::spread::Axes;
use athanor_ir::{Func, Module, Op, Role, TensorType, ValueId};
use std::collections::{HashMap, HashSet};

/// Steps of AdamW of which each replica takes a part of dim 0.
#[derive(Default)]
pub(super) struct Shares {
    /// First result of each of them: the new weight.
    pub(super) steps: HashSet<ValueId>,
    /// Their moments, old and new.
    pub(super) states: HashSet<ValueId>,
    /// Their gradients, which are partial over dp until each replica takes its part of the sum.
    pub(super) gradients: HashSet<ValueId>,
    /// What each replica took.
    pub(super) scattered: HashMap<ValueId, ValueId>,
}

impl Shares {
    /// The steps of `func` whose weight is large enough, has a first dim that dp divides, and a gradient that only the step and
    /// the norm read. `local` gives the type of a rank's part, `handed` over which axes gradients are partial.
    pub(super) fn of(
        module: &Module,
        func: &Func,
        local: impl Fn(ValueId) -> TensorType,
        handed: &HashMap<String, Axes>,
    ) -> Self {
        let mut this = Self::default();
        let (Some(least), Some(dp)) = (module.run.shared_optimizer, module.mesh.axis("dp")) else { return this };
        let gradients: HashSet<ValueId> = func
            .params
            .iter()
            .filter(|p| p.role == Role::Grad)
            .filter(|p| handed.get(&p.name).is_some_and(|axes| !axes.and(Axes::one(dp)).is_empty()))
            .map(|p| p.value)
            .collect();
        let moments: HashSet<ValueId> =
            func.params.iter().filter(|p| p.role == Role::Moment).map(|p| p.value).collect();
        let mut readers: HashMap<ValueId, usize> = HashMap::new();
        for v in func.nodes.iter().filter(|n| n.op != Op::SumSquares).flat_map(|n| &n.inputs) {
            *readers.entry(*v).or_default() += 1;
        }
        for node in func.nodes.iter().filter(|n| matches!(n.op, Op::AdamW { .. })) {
            let [_, g, m, v, ..] = node.inputs[..] else { continue };
            let ty = local(g);
            let large = ty.bytes() as u64 >= least;
            let divides = ty.dims.first().is_some_and(|d| d.is_multiple_of(module.mesh.axes[dp].size));
            let alone = [g, m, v].iter().all(|x| readers.get(x) == Some(&1));
            if large && divides && alone && gradients.contains(&g) && moments.contains(&m) && moments.contains(&v) {
                this.steps.insert(node.outputs[0]);
                this.states.extend([m, v, node.outputs[1], node.outputs[2]]);
                this.gradients.insert(g);
            }
        }
        this
    }
}
