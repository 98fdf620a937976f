//! `offload`: keeps values in the host's memory while the device does not need them.
//!
//! It comes last before the plan is made: what is left to keep after `recompute` is what can go, and no later pass may move
//! an op away from the copies that stand around it.

mod choose;
mod moments;
mod values;

use crate::options::Options;
use crate::pass::Pass;
use crate::recompute::order::in_order;
use crate::recompute::program::Program;
use crate::registry::Entry;
use athanor_ir::func::Func;
use athanor_ir::offload::{Offload as Choice, Offloaded};
use athanor_ir::pipeline::{func_of_stage, is_micro};
use athanor_ir::run::RunSpec;
use athanor_ir::{Module, Result};

/// Keeps values in the host's memory while the device does not need them, as the run chooses.
///
/// In `micro`, and in each position of a pipeline, what the backward part reads of a chosen layer or operator goes to the host
/// right behind the op that made it. It comes back so many ops before the first of the backward part that reads it, and all
/// that read it there read what came back. The optimizer's state lies on the host between steps; `update` brings what a
/// weight's step needs and sends it back right behind.
///
/// Copies change no bit.
#[derive(Debug)]
pub struct Offload;

/// The row of `offload` in the registry.
pub const ENTRY: Entry = Entry {
    name: "offload",
    summary: "Keeps values in the host's memory while the device does not need them.",
    options: &[],
    build: |_: &Options| Ok(Box::new(Offload)),
};

impl Pass for Offload {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        Ok(offloaded(module, None))
    }
}

/// `module` with what its run chooses on the host; of a pipeline in stage `stage` alone, if that is given.
pub(crate) fn offloaded(module: &Module, stage: Option<usize>) -> Module {
    let choice = &module.run.offload;
    if choice.done.is_some() || choice.is_none() {
        return module.clone();
    }
    let mut done = Offloaded::default();
    let wanted = |func: &Func| {
        let of = func_of_stage(&func.name).map(|(of, _)| of);
        stage.is_none() || of.is_none() || of == stage
    };
    let funcs: Vec<Func> = module
        .funcs
        .iter()
        .map(|func| {
            if !wanted(func) {
                return func.clone();
            }
            let swapped = (is_micro(&func.name).is_some() && !choice.values.is_empty())
                .then(|| swapped(module, func, choice, &mut done));
            let func = swapped.unwrap_or_else(|| func.clone());
            if choice.moments { moments::on_host(func, &mut done) } else { func }
        })
        .collect();
    let offload = Choice { done: Some(done), ..choice.clone() };
    Module { funcs, run: RunSpec { offload, ..module.run.clone() }, ..module.clone() }
}

/// `func` of `module` with its chosen values on the host between the forward and the backward part.
fn swapped(module: &Module, func: &Func, choice: &Choice, done: &mut Offloaded) -> Func {
    // What reads a value of the forward part without waiting for a gradient would have it brought back at once; it is put
    // off until its own result is read, as `recompute` does.
    let program = Program::of(module, func);
    let func = in_order(&program);
    let program = Program::of(module, &func);
    values::moved(&program, &choose::chosen(&program, choice), done)
}
