//! As little computed again as lets the plan fit into a budget.

use super::program::Program;
use super::select::within_layers;
use super::split::again;
use super::{TOO_LARGE, carried_out};
use crate::offload::offloaded;
use crate::overlap::Overlap;
use crate::plan::{PlanOptions, Sizes};
use athanor_ir::func::ValueId;
use athanor_ir::recompute::Recomputed;
use athanor_ir::{Diagnostic, Module, Result};

/// A value of the forward part that the backward part reads, and what has to be computed to have it again if every other
/// such value is kept.
struct Candidate {
    /// Index of its function.
    micro: usize,
    /// The value and those that are made on the way.
    values: Vec<ValueId>,
    /// Bytes that need not be kept.
    bytes: usize,
    /// Floating-point operations it takes.
    flops: u64,
    layer: usize,
}

/// The module whose plan, made as `plan` says, takes at most `budget` bytes on stage `stage` of its pipeline, or without one
/// if it is `None`; `micros` are the functions of the stage's micro-batches.
///
/// Values that save the most bytes for an operation go first, of equal ones those of the first layers, which live longest.
/// The number of them is found by halving: the arena of each trial is laid out as in the plan. What fits stays as it is.
///
/// # Errors
/// [`TOO_LARGE`].
pub(super) fn fitted(
    module: &Module,
    stage: Option<usize>,
    micros: &[String],
    budget: u64,
    plan: &PlanOptions,
) -> Result<Module> {
    let candidates = candidates(module, micros);
    let mut sizes = Sizes::new(plan);
    let mut with = |n: usize| -> Result<(Module, u64)> {
        let module = without(module, micros, &candidates[..n]);
        // What lies on the host does not count; what comes early does.
        let bytes = sizes.arena(&to_be(&module, stage, plan), stage)? as u64;
        Ok((module, bytes))
    };
    let (kept, all) = with(0)?;
    if all <= budget {
        return Ok(kept);
    }
    let (mut best, least) = with(candidates.len())?;
    if least > budget {
        let text = format!(
            "{} needs {} with every layer computed again, of {} that the budget has",
            stage.map_or_else(|| "the plan".to_owned(), |s| format!("stage {s} of the pipeline")),
            mebibytes(least),
            mebibytes(budget)
        );
        let help = "lower `batch_size` or `seq_length`, raise `chunk_loss_num`, or raise `max_device_memory`";
        return Diagnostic::error(&TOO_LARGE, text).help(help).err();
    }
    let (mut low, mut high) = (0, candidates.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        let (module, bytes) = with(middle)?;
        if bytes <= budget {
            (best, high) = (module, middle);
        } else {
            low = middle + 1;
        }
    }
    Ok(best)
}

/// `module` after the passes that are still to come, as far as its memory is concerned, for stage `stage` of a pipeline.
fn to_be(module: &Module, stage: Option<usize>, plan: &PlanOptions) -> Module {
    let module = offloaded(module, stage);
    let spread = !plan.reference && module.mesh.ranks() > 1;
    if spread { Overlap::default().spread(&module, stage) } else { module }
}

/// `module` with the values of `candidates` computed again, each in its function of `micros`.
fn without(module: &Module, micros: &[String], candidates: &[Candidate]) -> Module {
    let one = |module: Module, (i, micro): (usize, &String)| {
        let Some(func) = module.func(micro) else { return module };
        let mut chosen = vec![false; func.types.len()];
        let own = candidates.iter().filter(|c| c.micro == i);
        own.flat_map(|c| &c.values).for_each(|v| chosen[v.0 as usize] = true);
        if chosen.contains(&true) {
            carried_out(&Program::of(&module, func), &chosen)
        } else {
            kept(&Program::of(&module, func))
        }
    };
    micros.iter().enumerate().fold(module.clone(), one)
}

/// The module of `program`, which stays as it is: so many operations, and none again.
fn kept(program: &Program<'_>) -> Module {
    let mut module = program.module.clone();
    let recompute = &mut module.run.recompute;
    let none = Recomputed { of_flops: program.all_flops(), ..Recomputed::default() };
    recompute.done = Some(recompute.done.unwrap_or_default().and(none));
    module
}

fn mebibytes(n: u64) -> String {
    format!("{:.1} MiB", n as f64 / f64::from(1 << 20))
}

/// Everything in the functions `micros` that can be computed again, the cheapest for its size first.
fn candidates(module: &Module, micros: &[String]) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = vec![];
    for (i, func) in micros.iter().enumerate().filter_map(|(i, m)| Some((i, module.func(m)?))) {
        let program = Program::of(module, func);
        let choice = &module.run.recompute;
        let possible = within_layers(&program, |layer, path| !choice.keeps(layer, path));
        let values = (0..possible.len()).filter(|v| possible[*v] && program.kept[*v]);
        found.extend(values.filter_map(|v| candidate(&program, i, &possible, ValueId(v as u32))));
    }
    let price = |c: &Candidate| c.flops as f64 / c.bytes.max(1) as f64;
    found.sort_by(|a, b| price(a).total_cmp(&price(b)).then(a.layer.cmp(&b.layer)));
    found
}

fn candidate(program: &Program<'_>, micro: usize, possible: &[bool], v: ValueId) -> Option<Candidate> {
    let layer = program.makers[v.0 as usize].as_ref()?.layer?;
    let mut values = vec![v];
    let mut flops = 0;
    let mut nodes: Vec<usize> = vec![];
    let mut next = 0;
    while next < values.len() {
        let d = program.defs[values[next].0 as usize]?;
        next += 1;
        if nodes.contains(&d) {
            continue;
        }
        nodes.push(d);
        let node = &program.func.nodes[d];
        flops += program.flops(node);
        for u in again(program, node, possible).inputs {
            if possible[u.0 as usize] && !program.kept[u.0 as usize] && !values.contains(&u) {
                values.push(u);
            }
        }
    }
    Some(Candidate { micro, values, bytes: program.func.ty(v).bytes(), flops, layer })
}
