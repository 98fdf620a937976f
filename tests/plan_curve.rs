//! Compiled plans on the CPU device follow PyTorch's w1-tiny curve: reference ops, fused kernels, every CPU level.

mod support;

use athanor_backends::cpu::features;
use athanor_ir::Module;
use athanor_ir::target::CpuLevel;
use athanor_passes::compile::OptLevel;
use support::device::{Compilation, Run};
use support::{config, golden, module, run_spec, tensors};

const SEQ: usize = 32;
const BATCH: usize = 2;

/// Loss and gradient norm of `steps` steps of w1-tiny, on two threads.
fn curve(module: &Module, opt: OptLevel, level: CpuLevel, library: bool, steps: usize) -> Vec<[f64; 2]> {
    curve_of(module, Compilation { opt, level, library, train: true, threads: (2, 2) }, steps)
}

/// Loss and gradient norm of `steps` steps of w1-tiny.
fn curve_of(module: &Module, how: Compilation, steps: usize) -> Vec<[f64; 2]> {
    let dir = golden("curves/w1-tiny");
    let init = tensors(&dir.join("init.safetensors"));
    let mut device = Run::new(module, how, &init);
    let bytes = std::fs::read(dir.join("tokens.bin")).unwrap();
    let tokens: Vec<i32> = bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let run = &module.run;
    let mut out = vec![];
    for step in 0..steps {
        let first = step * BATCH;
        let shifted = |by: usize| -> Vec<i32> {
            (first..first + BATCH)
                .flat_map(|r| &tokens[r * (SEQ + 1) + by..r * (SEQ + 1) + by + SEQ])
                .copied()
                .collect()
        };
        device.put("tokens", bytemuck::cast_slice(&shifted(0)));
        device.put("labels", bytemuck::cast_slice(&shifted(1)));
        device.put("loss_mask", bytemuck::cast_slice(&vec![1.0f32; BATCH * SEQ]));
        let (lr, t) = (run.lr.at(step as u64), step as i32 + 1);
        device.put_scalar("lr", lr);
        device.put_scalar("step_size", lr / (1.0 - run.optimizer.beta1.powi(t)));
        device.put_scalar("v_scale", 1.0 / (1.0 - run.optimizer.beta2.powi(t)));
        device.program("micro");
        let loss = device.scalar("micro", "loss");
        device.program("update");
        out.push([loss, device.scalar("update", "grad_norm")]);
    }
    out
}

fn expected() -> Vec<[f64; 2]> {
    let text = std::fs::read_to_string(golden("curves/w1-tiny").join("curve.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let list = |key: &str| json[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    list("loss").into_iter().zip(list("grad_norm")).map(|(l, n)| [l, n]).collect()
}

fn follows(what_ran: &str, curve: &[[f64; 2]], loss: f64, norm: f64) {
    for (step, (got, want)) in curve.iter().zip(expected()).enumerate() {
        for (what, i, tolerance) in [("loss", 0, loss), ("norm", 1, norm)] {
            let off = (got[i] - want[i]).abs() / want[i];
            assert!(off <= tolerance, "{what_ran}, step {step}: {what} {} is {off:.1e} off {}", got[i], want[i]);
        }
    }
}

fn tiny(extra: &[&str]) -> Module {
    let config = config(&golden("curves/w1-tiny"), SEQ, extra);
    module(&config, run_spec(&config), false)
}

#[test]
fn a_plan_of_reference_ops_follows_the_curve() {
    let m = tiny(&["compute_dtype: float32"]);
    follows("reference", &curve(&m, OptLevel::O0, CpuLevel::Portable, false, 20), 2e-6, 1e-5);
}

#[test]
fn fused_kernels_follow_the_curve_at_every_cpu_level() {
    let m = tiny(&["compute_dtype: float32"]);
    for level in CpuLevel::ALL.into_iter().filter(|l| *l <= features::detect()) {
        for library in [false, true] {
            follows(&format!("{level}, library {library}"), &curve(&m, OptLevel::O1, level, library, 20), 2e-6, 1e-5);
        }
    }
}

/// Work is dealt in the shares that the plan was made for: partial sums are the same whoever computes them.
#[test]
fn a_plan_gives_the_same_bits_on_any_number_of_threads() {
    let m = tiny(&["compute_dtype: float32"]);
    let on = |threads| {
        let (opt, level) = (OptLevel::O1, features::detect());
        curve_of(&m, Compilation { opt, level, library: false, train: true, threads: (5, threads) }, 5)
    };
    let all = on(5);
    follows("five threads", &all, 2e-6, 1e-5);
    for threads in [1, 2, 3] {
        assert_eq!(on(threads), all, "{threads} threads");
    }
}

#[test]
fn bf16_compute_follows_the_curve() {
    let m = tiny(&["compute_dtype: bfloat16"]);
    follows("bf16", &curve(&m, OptLevel::O1, features::detect(), true, 20), 2e-3, 1e-1);
}
