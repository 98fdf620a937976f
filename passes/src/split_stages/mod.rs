//! `split-stages`: from the program of one rank to those of the stages of a pipeline.

mod micro;
mod place;
mod shared;
mod update;

use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::pipeline::Pipeline;
use athanor_ir::{Code, Diagnostic, Module, Result};

/// Cuts the program of a rank into the stages of the run's pipeline.
///
/// The model is a row of *positions*: a chunk of layers on a stage each, in the order in which a micro-batch comes through.
/// `micro` becomes a function for each position, `stage1.micro0` for chunk 0 of stage 1. Ops are where the layer of their
/// location is; what comes before the first layer is at the first position, what comes after the last one (and layers that
/// predict further tokens) at the last. Gradients are where the op that they belong to is. What depends on inputs and constants
/// alone is computed wherever it is read.
///
/// Values that other positions read pass from one to the next: as parameters `handed.N`, through the operands of
/// `nn.handover` and back through its results, and as results `grad.handed.N`.
///
/// `update` and `grad_norm` become a function for each stage, which steps the weights of its positions. The squares of all
/// gradients are summed over axis pp.
///
/// A weight that several positions read, such as tied embeddings, is with each of them, and each sums up its own part of the
/// gradient; the first and the last stage add theirs up and take the same step.
#[derive(Debug, Default)]
pub struct SplitStages;

/// The row of `split-stages` in the registry.
pub const ENTRY: Entry = Entry {
    name: "split-stages",
    summary: "Cuts the program of a rank into the stages of the run's pipeline.",
    options: &[],
    build: |_: &Options| Ok(Box::new(SplitStages)),
};

impl Pass for SplitStages {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        split_stages(module)
    }
}

/// The module cannot be cut into the stages of its pipeline.
pub const CANNOT_SPLIT: Code = Code {
    id: "P0701",
    title: "the module cannot be cut into the stages of its pipeline",
    explain: "`split-stages` runs on a module with `micro` and `update`, whose run says how many layers each chunk of each stage \
              has, for as many stages as axis pp of the mesh has ranks. A weight is of one stage, or of the first and the last: one \
              that layers of other stages share is not supported.",
};

/// Codes of this pass.
pub const CODES: &[&Code] = &[&CANNOT_SPLIT];

fn cannot<T>(text: String) -> Result<T> {
    Diagnostic::error(&CANNOT_SPLIT, text).help("change the pipeline; `athanor explain P0701` says more").err()
}

/// The module of a pipeline; see [`SplitStages`]. A module without axis pp stays as it is.
///
/// # Errors
/// [`CANNOT_SPLIT`].
pub fn split_stages(module: &Module) -> Result<Module> {
    let stages = module.mesh.size("pp");
    if stages == 1 {
        return Ok(module.clone());
    }
    let Some(pipeline) = module.run.pipeline.as_ref().filter(|p| p.stages() == stages && p.even()) else {
        return cannot(format!("axis pp has {stages} ranks, and the run says nothing of so many stages"));
    };
    let Some(micro) = module.func("micro") else {
        return cannot("there is no function @micro; only training runs in a pipeline".into());
    };
    let positions = micro::positions(micro, pipeline)?;
    let owners = update::Owners::of(module, micro, pipeline, &positions)?;
    let repeated = module.repeated();
    let plain: Vec<_> =
        module.funcs.iter().filter(|f| f.name != "micro" && !repeated.contains(&f.name.as_str())).collect();
    let mut funcs = vec![];
    for stage in 0..stages {
        for chunk in 0..pipeline.layers.len() {
            let position = pipeline.schedule.shape().position(stages, stage, chunk);
            funcs.push(positions[position].clone());
        }
        for (i, func) in plain.iter().enumerate() {
            // Gradients are summed over stages by the first function that reads them.
            let fresh = |name: &str| plain[..i].iter().all(|earlier| earlier.find_param(name).is_none());
            funcs.push(update::of_stage(func, stage, stages, &owners, &fresh));
        }
    }
    funcs.extend(module.funcs.iter().filter(|f| repeated.contains(&f.name.as_str())).cloned());
    Ok(Module { funcs, ..module.clone() })
}

/// Stage that has `position`.
fn stage_of(pipeline: &Pipeline, position: usize) -> usize {
    pipeline.schedule.shape().at(pipeline.stages(), position).0
}

#[cfg(test)]
pub(crate) mod tests;
