//! The pipelines that `athanor compile` runs.

use athanor_ir::Module;

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
/// A module that holds only `forward` without a loss to train is compiled for evaluation when `train` is false.
pub fn pipeline(module: &Module, level: OptLevel, train: bool, loss_blocks: usize) -> String {
    let mut passes: Vec<String> = vec![];
    if level != OptLevel::O0 {
        passes.push("simplify".into());
    }
    if train && module.func("micro").is_none() {
        passes.extend(["autodiff".into(), "optimizer".into()]);
    }
    if module.mesh.ranks() > 1 {
        passes.push("partition".into());
    }
    if level != OptLevel::O0 {
        passes.push(format!("fuse{{loss-blocks={loss_blocks}}}"));
    }
    passes.join(",")
}
