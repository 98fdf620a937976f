//! What a run of a tiny model leaves behind, bit by bit.

use super::device::{Compilation, Compiled};
use super::{config, golden, module, run_spec, stacked, tensors};
use athanor_ir::target::CpuLevel;
use athanor_ir::{Module, Role};
use athanor_passes::compile::OptLevel;

const SEQ: usize = 32;
const BATCH: usize = 2;

/// A tiny model of `tests/golden/curves` with more lines in its configuration.
pub fn tiny(folder: &str, extra: &[&str]) -> Module {
    let config = config(&golden("curves").join(folder), SEQ, extra);
    module(&config, run_spec(&config), false)
}

/// How a module is compiled and run.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Optimisation.
    pub opt: OptLevel,
    /// Instructions of generated kernels.
    pub level: CpuLevel,
    /// Whether the library may be used.
    pub library: bool,
}

/// The oracle.
pub const REFERENCE: How = How { opt: OptLevel::O0, level: CpuLevel::Portable, library: false };

/// Fused kernels of `level`.
pub fn generated(level: CpuLevel) -> How {
    How { opt: OptLevel::O1, level, library: false }
}

/// What a run leaves behind, bit by bit.
#[derive(Debug, PartialEq)]
pub struct Left {
    /// Loss and norm of each step.
    pub losses: Vec<[u64; 2]>,
    /// Last weights, by name.
    pub weights: Vec<(String, Vec<u8>)>,
}

/// `m` compiled for training.
pub fn compiled(m: &Module, how: How) -> Compiled {
    Compiled::new(m, Compilation { opt: how.opt, level: how.level, train: true, threads: 2 })
}

/// Trains on the first tokens in `folder`.
pub fn trained(folder: &str, m: &Module, plan: &Compiled, how: How, steps: usize) -> Left {
    let dir = golden("curves").join(folder);
    let mut device = plan.start(2, how.library, &stacked(tensors(&dir.join("init.safetensors"))));
    let bytes = std::fs::read(dir.join("tokens.bin")).unwrap();
    let tokens: Vec<i32> = bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let mut losses = vec![];
    for step in 0..steps {
        let rows = step * BATCH..(step + 1) * BATCH;
        for (name, by) in [("tokens", 0), ("labels", 1)] {
            let part = |r: usize| tokens[r * (SEQ + 1) + by..r * (SEQ + 1) + by + SEQ].to_vec();
            device.put(name, bytemuck::cast_slice(&rows.clone().flat_map(part).collect::<Vec<i32>>()));
        }
        device.put("loss_mask", bytemuck::cast_slice(&vec![1.0f32; BATCH * SEQ]));
        for (name, value) in m.run.step_scalars(step as u64) {
            device.put_scalar(&name, value);
        }
        device.program("micro");
        let loss = device.scalar("micro", "loss");
        device.program("update");
        losses.push([loss, device.scalar("update", "grad_norm")].map(f64::to_bits));
    }
    let params = m.funcs.iter().flat_map(|f| &f.params);
    let trained = params.filter(|p| matches!(p.role, Role::Weight { .. } | Role::ExpertBias { .. }));
    let weights = trained.map(|p| (p.name.clone(), device.buffer(&p.name).bytes)).collect();
    Left { losses, weights }
}

/// With products in f32.
pub const F32: &[&str] = &["compute_dtype: float32"];
/// With products in bf16.
pub const BF16: &[&str] = &["compute_dtype: bfloat16"];

/// The blocks of the layers of `m`.
pub fn layers(m: &Module) -> Vec<String> {
    let block = |i: usize| format!("model.layers.{i}");
    let there = |i: &usize| m.funcs[0].nodes.iter().any(|n| n.loc.block.starts_with(&block(*i)));
    (0..9).take_while(there).map(block).collect()
}
