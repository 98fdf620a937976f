//! What is computed again in the backward pass changes memory, never a bit: losses, norms and weights of tiny models.

mod support;

use athanor_backends::cpu::features;
use athanor_ir::recompute::{Recompute, Recomputed};
use athanor_ir::target::CpuLevel;
use athanor_ir::{Module, Role};
use athanor_passes::compile::OptLevel;
use support::device::{Compilation, Compiled};
use support::{config, golden, module, run_spec, stacked, tensors};

const SEQ: usize = 32;
const BATCH: usize = 2;

/// A tiny model of `tests/golden/curves` with more lines in its configuration.
fn tiny(folder: &str, extra: &[&str]) -> Module {
    let config = config(&golden("curves").join(folder), SEQ, extra);
    module(&config, run_spec(&config), false)
}

fn with(m: &Module, recompute: Recompute) -> Module {
    let mut m = m.clone();
    m.run.recompute = recompute;
    m
}

/// How a module is compiled and run.
#[derive(Clone, Copy)]
struct How {
    opt: OptLevel,
    level: CpuLevel,
    library: bool,
}

const REFERENCE: How = How { opt: OptLevel::O0, level: CpuLevel::Portable, library: false };

fn generated(level: CpuLevel) -> How {
    How { opt: OptLevel::O1, level, library: false }
}

/// What a run leaves behind, bit by bit.
#[derive(Debug, PartialEq)]
struct Left {
    losses: Vec<[u64; 2]>,
    /// Last weights, by name.
    weights: Vec<(String, Vec<u8>)>,
}

fn compiled(m: &Module, how: How) -> Compiled {
    Compiled::new(m, Compilation { opt: how.opt, level: how.level, train: true, threads: 2 })
}

/// Trains on the first tokens in `folder`.
fn trained(folder: &str, m: &Module, plan: &Compiled, how: How, steps: usize) -> Left {
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

/// What the plan of `m` recomputes, and the bytes of its arena.
fn planned(plan: &Compiled) -> (Recomputed, usize) {
    (plan.plan().run.recompute.done.unwrap_or_default(), plan.plan().stages[0].arena_bytes)
}

/// `folder`'s model with `recompute` leaves the bits that it leaves without, in less memory.
fn same_bits(folder: &str, m: &Module, recompute: &Recompute, how: How, steps: usize) {
    let plain = compiled(m, how);
    let other = with(m, recompute.clone());
    let plan = compiled(&other, how);
    let ((done, bytes), (none, without)) = (planned(&plan), planned(&plain));
    assert!(done.values > 0 && done.flops > 0 && none.values == 0, "{done:?}");
    assert!(bytes < without, "{bytes} bytes are no less than {without}");
    let (a, b) = (trained(folder, &other, &plan, how, steps), trained(folder, m, &plain, how, steps));
    assert_eq!(a.losses, b.losses);
    assert!(a == b, "other weights");
}

fn all_layers(m: &Module) -> Recompute {
    let block = |i: usize| format!("model.layers.{i}");
    let there = |i: &usize| m.funcs[0].nodes.iter().any(|n| n.loc.block.starts_with(&block(*i)));
    Recompute { layers: (0..9).take_while(there).map(block).collect(), ..Recompute::default() }
}

const F32: &[&str] = &["compute_dtype: float32"];
const BF16: &[&str] = &["compute_dtype: bfloat16"];

#[test]
fn a_plan_of_reference_ops_gives_the_same_bits() {
    let m = tiny("w1-tiny", F32);
    same_bits("w1-tiny", &m, &all_layers(&m), REFERENCE, 3);
}

#[test]
fn fused_kernels_give_the_same_bits_at_every_cpu_level() {
    let m = tiny("w1-tiny", F32);
    for level in CpuLevel::ALL.into_iter().filter(|l| *l <= features::detect()) {
        same_bits("w1-tiny", &m, &all_layers(&m), generated(level), 5);
    }
}

#[test]
fn narrow_activations_give_the_same_bits() {
    for residual in ["fp32_residual_connection: True", "fp32_residual_connection: False"] {
        let m = tiny("w1-tiny", &[BF16[0], residual]);
        same_bits("w1-tiny", &m, &all_layers(&m), generated(features::detect()), 5);
    }
}

#[test]
fn experts_give_the_same_bits() {
    let m = tiny("w2-tiny", F32);
    same_bits("w2-tiny", &m, &all_layers(&m), REFERENCE, 2);
    same_bits("w2-tiny", &m, &all_layers(&m), generated(features::detect()), 5);
}

#[test]
#[ignore = "as long as all others; `make test-long` runs it"]
fn experts_give_the_same_bits_in_bf16() {
    let m = tiny("w2-tiny", BF16);
    same_bits("w2-tiny", &m, &all_layers(&m), generated(features::detect()), 5);
}

#[test]
fn a_budget_is_met_at_less_cost_than_by_everything() {
    let m = tiny("w1-tiny", F32);
    let plan = |recompute: Recompute| planned(&compiled(&with(&m, recompute), REFERENCE));
    let ((_, most), (all, least)) = (plan(Recompute::default()), plan(all_layers(&m)));
    let budget = usize::midpoint(most, least);
    let (done, bytes) = plan(Recompute { budget: Some(budget as u64), ..Recompute::default() });
    assert!(bytes <= budget, "{bytes} of {budget} bytes");
    assert!(done.flops > 0 && done.flops < all.flops, "{done:?} is no less than {all:?}");
    let (done, _) = plan(Recompute { budget: Some(most as u64), ..Recompute::default() });
    assert_eq!(done.values, 0, "it fits as it is");
}
