//! Which weights' optimizer steps the replicas share, each with the state of its part.

use super::spread::Axes;
use athanor_ir::{Func, Mesh, Module, Op, Role, TensorType, ValueId};
use std::collections::{HashMap, HashSet};

/// Steps of AdamW of which each replica takes a part of dim 0, and the axes along which the replicas are: of weights of
/// experts those that have the same experts.
#[derive(Default)]
pub(super) struct Shares {
    /// First result of each of them: the new weight.
    pub(super) steps: HashMap<ValueId, Axes>,
    /// Their moments, old and new.
    pub(super) states: HashMap<ValueId, Axes>,
    /// Their gradients, which are partial over the replicas until each takes its part of the sum.
    pub(super) gradients: HashMap<ValueId, Axes>,
    /// What each replica took.
    pub(super) scattered: HashMap<ValueId, ValueId>,
}

impl Shares {
    /// The steps of `func` whose weight is large enough, has a first dim that the replicas divide, and a gradient that only the
    /// step and the norm read. `local` gives the type of a rank's part, `handed` over which axes gradients are partial.
    pub(super) fn of(
        module: &Module,
        func: &Func,
        local: impl Fn(ValueId) -> TensorType,
        handed: &HashMap<String, Axes>,
    ) -> Self {
        let mut this = Self::default();
        let Some(least) = module.run.shared_optimizer else { return this };
        let batch = Axes::named(&module.mesh, &Mesh::BATCH).or(Axes::named(&module.mesh, &Mesh::SEQUENCE));
        let gradients: HashMap<ValueId, Axes> = func
            .params
            .iter()
            .filter(|p| p.role == Role::Grad)
            .filter_map(|p| Some((p.value, handed.get(&p.name)?.and(batch))))
            .filter(|(_, replicas)| !replicas.is_empty())
            .collect();
        let moments: HashSet<ValueId> =
            func.params.iter().filter(|p| p.role == Role::Moment).map(|p| p.value).collect();
        let mut readers: HashMap<ValueId, usize> = HashMap::new();
        for v in func.nodes.iter().filter(|n| n.op != Op::SumSquares).flat_map(|n| &n.inputs) {
            *readers.entry(*v).or_default() += 1;
        }
        for node in func.nodes.iter().filter(|n| matches!(n.op, Op::AdamW { .. })) {
            let [_, g, m, v, ..] = node.inputs[..] else { continue };
            let Some(replicas) = gradients.get(&g).copied() else { continue };
            let ty = local(g);
            let large = ty.bytes() as u64 >= least;
            let divides = ty.dims.first().is_some_and(|d| d.is_multiple_of(replicas.ranks(&module.mesh)));
            let alone = [g, m, v].iter().all(|x| readers.get(x) == Some(&1));
            if large && divides && alone && moments.contains(&m) && moments.contains(&v) {
                this.steps.insert(node.outputs[0], replicas);
                this.states.extend([m, v, node.outputs[1], node.outputs[2]].map(|x| (x, replicas)));
                this.gradients.insert(g, replicas);
            }
        }
        this
    }
}
