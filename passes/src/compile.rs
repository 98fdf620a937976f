//! The pipelines that `athanor compile` runs.

use athanor_ir::Module;
use athanor_ir::target::CpuLevel;

/// How much the compiler does beyond what is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptLevel {
    /// `-O0`: every op by the reference implementation. Slow, and what everything else is compared with.
    O0,
    /// Fused generated kernels and library products.
    O1,
}

/// The pipeline text for `module` at `level`: what `athanor opt --passes` would be given to do the same by hand.
///
/// A module that holds only `forward` without a loss to train is compiled for evaluation when `train` is false. The plan
/// will be made for `target`, workers and their instructions, which matters when it has to fit a budget.
pub fn pipeline(
    module: &Module,
    level: OptLevel,
    train: bool,
    loss_blocks: usize,
    target: (usize, CpuLevel),
) -> String {
    let mut passes: Vec<String> = vec![];
    if level != OptLevel::O0 {
        passes.push("simplify".into());
    }
    if train && module.func("micro").is_none() {
        passes.extend(["autodiff".into(), "optimizer".into()]);
    }
    if module.mesh.size("pp") > 1 && module.run.pipeline.as_ref().is_some_and(|p| p.slices > 1) {
        passes.push("slice-sequences".into());
    }
    if module.mesh.ranks() > 1 {
        passes.push("partition".into());
    }
    if module.mesh.size("pp") > 1 {
        passes.push("split-stages".into());
    }
    if level != OptLevel::O0 && module.mesh.ranks() > 1 && train {
        passes.push("bucket".into());
    }
    if level != OptLevel::O0 {
        passes.push(format!("fuse{{loss-blocks={loss_blocks}}}"));
    }
    let recompute = &module.run.recompute;
    if train && recompute.budget.is_some() {
        let (threads, cpu) = (target.0, target.1.name());
        let reference = level == OptLevel::O0;
        passes.push(format!("recompute{{threads={threads},cpu={cpu},reference={reference}}}"));
    } else if train && !recompute.is_none() {
        passes.push("recompute".into());
    }
    if train && !module.run.offload.is_none() {
        passes.push("offload".into());
    }
    if level != OptLevel::O0 && module.mesh.ranks() > 1 {
        passes.push("overlap".into());
    }
    passes.join(",")
}
