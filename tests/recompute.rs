//! What is computed again in the backward pass changes memory, never a bit: losses, norms and weights of tiny models.

mod support;

use athanor_backends::cpu::features;
use athanor_ir::Module;
use athanor_ir::recompute::{Recompute, Recomputed};
use athanor_ir::target::CpuLevel;
use support::bits::{BF16, F32, How, REFERENCE, compiled, generated, layers, tiny, trained};
use support::device::Compiled;

fn with(m: &Module, recompute: Recompute) -> Module {
    let mut m = m.clone();
    m.run.recompute = recompute;
    m
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
    Recompute { layers: layers(m), ..Recompute::default() }
}

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
