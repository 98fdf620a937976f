//! `recompute`: computes values of the forward part again in the backward part instead of keeping them.
//!
//! It comes after `fuse`: what is computed again are the very kernels of the forward part, so that a copy gives the same
//! bits and needs no kernel of its own. Before `fuse` a copy would join other groups, and with them round otherwise.

mod auto;
pub(crate) mod order;
pub(crate) mod program;
mod select;
mod split;

use crate::options::{Kind, Options, Spec};
use crate::pass::Pass;
use crate::plan::PlanOptions;
use crate::registry::Entry;
use athanor_ir::pipeline::{func_of_stage, is_micro};
use athanor_ir::recompute::Recompute as Choice;
use athanor_ir::run::RunSpec;
use athanor_ir::target::CpuLevel;
use athanor_ir::{Code, Module, Result};
use program::Program;
use std::collections::BTreeMap;

/// Computes values of the forward part again in the backward part instead of keeping them, as the run chooses.
///
/// In `micro`, and in each position of a pipeline, what the backward part reads of a chosen layer is computed again from what the layer reads (its residual
/// stream and weights); of a chosen operator, from the operator's operands. A value that another layer reads too is kept.
/// A copy stands right before its first reader. The backward part is put in an order that uses every gradient up as
/// soon as it is there.
///
/// Losses and gradients keep their bits. With a budget, as little is computed again as lets the plan's arena fit, on each
/// stage of a pipeline for itself; that depends on what the plan is made for, which the options say.
#[derive(Debug)]
pub struct Recompute {
    /// What the plan will be made for; its arena is compared with the budget.
    pub plan: PlanOptions,
}

/// The row of `recompute` in the registry.
pub const ENTRY: Entry = Entry {
    name: "recompute",
    summary: "Computes values of the forward part again in the backward part instead of keeping them.",
    options: &[
        Spec { name: "threads", kind: Kind::Int, default: "1", doc: "Workers of the plan that must fit a budget." },
        Spec {
            name: "cpu",
            kind: Kind::Choice(&["portable", "avx2", "avx512", "amx"]),
            default: "portable",
            doc: "Instruction sets of the plan that must fit a budget.",
        },
        Spec {
            name: "reference",
            kind: Kind::Bool,
            default: "false",
            doc: "Whether the plan that must fit a budget runs the reference ops.",
        },
    ],
    build: |options: &Options| {
        let level = CpuLevel::ALL.into_iter().find(|l| l.name() == options.text("cpu"));
        let plan = PlanOptions {
            threads: usize::try_from(options.int("threads")).unwrap_or(1).max(1),
            level: level.unwrap_or(CpuLevel::Portable),
            config_hash: String::new(),
            reference: options.bool("reference"),
        };
        Ok(Box::new(Recompute { plan }))
    },
};

/// A budget that cannot be met.
pub const TOO_LARGE: Code = Code {
    id: "P0401",
    title: "the run does not fit its memory even if every layer is computed again",
    explain: "`recompute: auto` computes as little again as lets the plan fit into `max_device_memory`. Weights, their \
              gradients, the optimizer's state, what each layer reads and the loss remain. Smaller micro-batches \
              (`batch_size` down, `gradient_accumulation_steps` up), shorter sequences or more pieces of the loss \
              (`chunk_loss_num`) need less.",
};

impl Pass for Recompute {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        let choice = &module.run.recompute;
        let mut stages: BTreeMap<Option<usize>, Vec<String>> = BTreeMap::new();
        for func in module.funcs.iter().filter(|f| is_micro(&f.name).is_some()) {
            stages.entry(func_of_stage(&func.name).map(|(stage, _)| stage)).or_default().push(func.name.clone());
        }
        if choice.done.is_some() || choice.is_none() || stages.is_empty() {
            return Ok(module.clone());
        }
        if let Some(budget) = choice.budget {
            let fit = |module: Module, (stage, micros): (&Option<usize>, &Vec<String>)| {
                auto::fitted(&module, *stage, micros, budget, &self.plan)
            };
            return stages.iter().try_fold(module.clone(), fit);
        }
        let micros = stages.values().flatten();
        Ok(micros.fold(module.clone(), |module, micro| match module.func(micro) {
            Some(func) => {
                let program = Program::of(&module, func);
                carried_out(&program, &select::chosen(&program, choice))
            }
            None => module,
        }))
    }
}

/// The module whose backward part computes the values `again` (a flag for each) itself.
///
/// Weights that replicas share are gathered for copies: none is kept from the forward part.
fn carried_out(program: &Program<'_>, again: &[bool]) -> Module {
    let mut again = again.to_vec();
    for n in (0..program.func.nodes.len()).filter(|n| program.gathers(*n)) {
        again[program.func.nodes[n].outputs[0].0 as usize] = true;
    }
    let (funcs, done) = order::ordered(program, &again);
    let module = program.module;
    let before = module.run.recompute.done.unwrap_or_default();
    let recompute = Choice { done: Some(before.and(done)), ..module.run.recompute.clone() };
    Module { funcs, run: RunSpec { recompute, ..module.run.clone() }, ..module.clone() }
}
