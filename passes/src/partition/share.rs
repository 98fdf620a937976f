//! Which weights replicas share, and what of them: the moments, the gradient, the weight itself.

use super::factors::Factors;
use super::spread::Axes;
use athanor_ir::{Func, Mesh, Module, Node, Op, Param, Role, Shared, Sharing, ValueId};
use std::collections::HashMap;

/// What a module's replicas share, by name. Along the axes of a weight they all have the same part of it, if an axis cuts it:
/// those of experts are the ones that have the same experts.
#[derive(Default)]
pub(super) struct Shares<'m> {
    /// Weights whose steps are shared, and the replicas.
    steps: HashMap<&'m str, Axes>,
    /// What is kept from one function to the next in parts of dim 0, one for each replica.
    parts: HashMap<String, Axes>,
}

impl<'m> Shares<'m> {
    /// What `module` asks for, of weights whose step it can be done for.
    pub(super) fn of(module: &'m Module, factors: &Factors) -> Self {
        let mut this = Self::default();
        let Some(sharing) = &module.run.sharing else { return this };
        for (f, func) in module.funcs.iter().enumerate() {
            let reads = Reads::of(func);
            for node in func.nodes.iter().filter(|n| matches!(n.op, Op::AdamW { .. })) {
                if let Some(step) = reads.step(node) {
                    this.add(module, factors, (f, func), sharing, &step);
                }
            }
        }
        this
    }

    fn add(
        &mut self,
        module: &'m Module,
        factors: &Factors,
        (f, func): (usize, &Func),
        sharing: &Sharing,
        step: &Step<'m>,
    ) {
        let tokens = Mesh::BATCH.into_iter().chain(Mesh::SEQUENCE);
        let names: Vec<&str> = tokens.filter(|a| sharing.over.iter().any(|o| o == a)).collect();
        let w = step.weight;
        let replicas = Axes::named(&module.mesh, &names).without(factors.axes(f, func, w.value));
        let mut ty = func.ty(w.value).clone();
        for (d, size) in ty.dims.iter_mut().enumerate() {
            *size /= factors.axes_of(f, w.value, d).ranks(&module.mesh);
        }
        let divides = ty.dims.first().is_some_and(|d| d.is_multiple_of(replicas.ranks(&module.mesh)));
        if replicas.is_empty() || !divides || (ty.bytes() as u64) < sharing.least {
            return;
        }
        self.steps.insert(&w.name, replicas);
        self.parts.extend(step.moments.map(|m| (m.name.clone(), replicas)));
        if sharing.what >= Shared::Gradients {
            self.parts.insert(format!("grad.{}", w.name), replicas);
        }
        if sharing.what >= Shared::Weights && step.alone {
            self.parts.insert(w.name.clone(), replicas);
        }
    }

    /// The replicas that share the step of weight `name`.
    pub(super) fn step(&self, name: &str) -> Option<Axes> {
        self.steps.get(name).copied()
    }

    /// The replicas each of which keeps a part of `name`.
    pub(super) fn parts(&self, name: &str) -> Option<Axes> {
        self.parts.get(name).copied()
    }
}

/// A step of AdamW whose gradient and moments nothing else reads, but for the norm of all gradients.
struct Step<'m> {
    weight: &'m Param,
    moments: [&'m Param; 2],
    /// Nothing else reads the weight either, and what the step makes of it is the new one.
    alone: bool,
}

/// Who reads what in a function.
struct Reads<'m> {
    params: HashMap<ValueId, &'m Param>,
    results: HashMap<&'m str, ValueId>,
    /// How often each value is read, results included, but for the squares of a norm.
    counts: Vec<usize>,
}

impl<'m> Reads<'m> {
    fn of(func: &'m Func) -> Self {
        let mut counts = func.use_counts();
        for v in func.nodes.iter().filter(|n| n.op == Op::SumSquares).flat_map(|n| &n.inputs) {
            counts[v.0 as usize] -= 1;
        }
        let params = func.params.iter().map(|p| (p.value, p)).collect();
        Self { params, results: func.results.iter().map(|r| (r.name.as_str(), r.value)).collect(), counts }
    }

    /// What `node` steps, if it fits.
    fn step(&self, node: &Node) -> Option<Step<'m>> {
        let param = |i: usize| self.params.get(&node.inputs[i]).copied();
        let (weight, gradient, moments) = (param(0)?, param(1)?, [param(2)?, param(3)?]);
        let once = |v: ValueId| self.counts[v.0 as usize] == 1;
        let own = |i: usize| moments[i].role == Role::Moment && once(moments[i].value) && once(node.outputs[i + 1]);
        let fits = matches!(weight.role, Role::Weight { .. })
            && gradient.role == Role::Grad
            && gradient.name.strip_prefix("grad.") == Some(&weight.name)
            && once(gradient.value)
            && own(0)
            && own(1);
        let new = self.results.get(weight.name.as_str()) == Some(&node.outputs[0]);
        let alone = once(weight.value) && new && once(node.outputs[0]);
        fits.then_some(Step { weight, moments, alone })
    }
}
