//! The optimizer's step of each stage.

use super::micro::{readers, with_used_params};
use super::{cannot, stage_of};
use athanor_ir::pipeline::{Pipeline, stage_func};
use athanor_ir::recompute::number_of_layer;
use athanor_ir::{Collective, CollectiveKind, F64, Func, Module, Node, Op, Param, ReduceKind, Result, Role, ValueId};
use std::collections::HashMap;

/// Which stages have each weight: one, or the first and the last.
pub(super) struct Owners(HashMap<String, Vec<usize>>);

impl Owners {
    /// The stages of the weights of `module`, whose `micro` was cut into `positions`.
    ///
    /// # Errors
    /// [`super::CANNOT_SPLIT`] for a weight that other stages than the first and the last share.
    pub(super) fn of(module: &Module, micro: &Func, pipeline: &Pipeline, positions: &[Func]) -> Result<Self> {
        let mut stages = HashMap::new();
        let params = module.funcs.iter().flat_map(|f| &f.params);
        for p in params.filter(|p| matches!(p.role, Role::Weight { .. } | Role::ExpertBias { .. })) {
            let gradient = format!("grad.{}", p.name);
            let stepped = (0..positions.len()).find(|q| positions[*q].find_result(&gradient).is_some());
            let own = readers(positions, pipeline, &p.name);
            let own = match own[..] {
                [_] => own,
                [0, last] if last + 1 == pipeline.stages() => own,
                [] => {
                    let by_name = || number_of_layer(&p.name).map_or(positions.len() - 1, |l| pipeline.position_of(l));
                    vec![stage_of(pipeline, stepped.unwrap_or_else(by_name))]
                }
                [first, .., last] => {
                    return cannot(format!("stages {first} to {last} share {}", p.name));
                }
            };
            stages.insert(p.name.clone(), own);
        }
        debug_assert!(micro.results.iter().all(|r| positions.iter().any(|f| f.find_result(&r.name).is_some())));
        Ok(Self(stages))
    }

    /// The stages of a state: a weight, or what is called after one, as `grad.w` and `adam_m.w` are.
    fn stages(&self, name: &str) -> Option<&[usize]> {
        let mut rest = name;
        loop {
            if let Some(stages) = self.0.get(rest) {
                return Some(stages);
            }
            rest = rest.split_once('.')?.1;
        }
    }
}

/// `func` with the steps of the weights of stage `stage`, of `stages`. Gradients that are `fresh` here are summed over the stages
/// that have parts of them; the first of them counts their squares.
pub(super) fn of_stage(
    func: &Func,
    stage: usize,
    stages: usize,
    owners: &Owners,
    fresh: &dyn Fn(&str) -> bool,
) -> Func {
    let mut out = Func { name: stage_func(stage, &func.name), nodes: vec![], ..func.clone() };
    let gradients = gradients(func);
    let of = |v: &ValueId| gradients[v.0 as usize].as_deref().and_then(|g| owners.stages(g));
    let own = |v: &ValueId| of(v).is_some_and(|s| s[0] == stage);
    let mut whole: HashMap<ValueId, ValueId> = HashMap::new();
    let shared = |p: &&Param| {
        let stages = owners.stages(&p.name).unwrap_or_default();
        p.role == Role::Grad && fresh(&p.name) && stages.len() > 1 && stages.contains(&stage)
    };
    for p in func.params.iter().filter(shared) {
        let op = Op::Collective(Collective { kind: CollectiveKind::SumEnds, axes: "pp".into(), ranks: 2 });
        let sum = out.push(op, &[p.value], vec![func.ty(p.value).clone()], &p.loc)[0];
        whole.insert(p.value, sum);
        if func.find_result(&p.name).is_none() {
            out.result(p.name.clone(), sum);
        }
    }
    let read = |v: ValueId| whole.get(&v).copied().unwrap_or(v);
    for node in &func.nodes {
        if node.op == Op::SumSquares {
            let inputs: Vec<ValueId> = node.inputs.iter().copied().filter(own).map(read).collect();
            squares(&mut out, node, &inputs, stages);
        } else {
            out.nodes.push(Node { inputs: node.inputs.iter().copied().map(read).collect(), ..node.clone() });
        }
    }
    out.results.retain(|r| owners.stages(&r.name).is_none_or(|s| s.contains(&stage)));
    with_used_params(&out.without_dead_nodes())
}

/// The sum of the squares of `own`, and of those of the other stages.
fn squares(out: &mut Func, node: &Node, own: &[ValueId], stages: usize) {
    let ty = out.ty(node.outputs[0]).clone();
    let sum = if own.is_empty() {
        out.push(Op::Constant { value: F64(0.0) }, &[], vec![ty], &node.loc)[0]
    } else {
        out.push(Op::SumSquares, own, vec![ty], &node.loc)[0]
    };
    let kind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
    let op = Op::Collective(Collective { kind, axes: "pp".into(), ranks: stages });
    out.nodes.push(Node { op, inputs: vec![sum], outputs: node.outputs.clone(), loc: node.loc.clone() });
}

/// The gradient that each value is made of, by name, if there is one only.
fn gradients(func: &Func) -> Vec<Option<String>> {
    let mut of: Vec<Option<String>> = vec![None; func.types.len()];
    for p in func.params.iter().filter(|p| p.role == Role::Grad) {
        of[p.value.0 as usize] = Some(p.name.clone());
    }
    for node in &func.nodes {
        let mut found = node.inputs.iter().filter_map(|v| of[v.0 as usize].clone());
        let first = found.next().filter(|f| found.all(|o| o == *f));
        node.outputs.iter().for_each(|v| of[v.0 as usize].clone_from(&first));
    }
    of
}
