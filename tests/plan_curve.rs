//! Compiled plans on the CPU device follow PyTorch's w1-tiny curve: reference ops, fused kernels, every CPU level.

mod support;

use athanor_backends::cpu::device::{CpuDevice, DeviceOptions};
use athanor_backends::cpu::features;
use athanor_ir::Module;
use athanor_ir::plan::BufferRole;
use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::plan::{PlanOptions, build};
use athanor_passes::registry;
use std::sync::Arc;
use support::{config, golden, module, run_spec, tensors};

const SEQ: usize = 32;
const BATCH: usize = 2;

/// The module that the plan is made of.
fn compiled(module: &Module, level: OptLevel, blocks: usize) -> Module {
    let passes = registry::build(&pipeline(module, level, true, blocks)).unwrap();
    passes.iter().fold(module.clone(), |m, p| {
        let next = p.run(&m).unwrap_or_else(|e| panic!("{}: {e}", p.name()));
        athanor_ir::verify::verify(&next).unwrap_or_else(|e| panic!("after {}: {e}", p.name()));
        next
    })
}

/// Loss and gradient norm of `steps` steps of w1-tiny, on two threads.
fn curve(module: &Module, opt: OptLevel, level: CpuLevel, library: bool, steps: usize) -> Vec<[f64; 2]> {
    curve_on(module, (opt, level, library), (2, 2), steps)
}

/// As [`curve`], compiled for `planned` threads and run by `threads`.
fn curve_on(
    module: &Module,
    (opt, level, library): (OptLevel, CpuLevel, bool),
    (planned, threads): (usize, usize),
    steps: usize,
) -> Vec<[f64; 2]> {
    let module = compiled(module, opt, 4);
    let options = PlanOptions { threads: planned, level, config_hash: String::new(), reference: opt == OptLevel::O0 };
    let compiled = build(&module, &options).unwrap_or_else(|e| panic!("{e}"));
    let dir = tempfile::tempdir().unwrap();
    let kernels = dir.path().join("kernels.so");
    if !compiled.texts.is_empty() {
        build_shared_object(&compiled.texts, level, &kernels).unwrap_or_else(|e| panic!("{e}: {:?}", e.help));
    }
    let device = DeviceOptions { kernels: Some(kernels), threads: Some(threads), library, profile: false };
    let mut device = CpuDevice::new(Arc::new(compiled.plan), 0, &device).unwrap_or_else(|e| panic!("{e}"));
    let dir = golden("curves/w1-tiny");
    let bytes = std::fs::read(dir.join("tokens.bin")).unwrap();
    let tokens: Vec<i32> = bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let init = tensors(&dir.join("init.safetensors"));
    for i in 0..device.stage().buffers.len() {
        let b = &device.stage().buffers[i];
        if let BufferRole::Weight { .. } = b.role {
            let name = b.name.clone();
            device.bytes_mut(i).copy_from_slice(&init[&name].bytes);
        }
    }
    let mut put = |d: &mut CpuDevice, name: &str, bytes: &[u8]| {
        let i = d.buffer(name).unwrap_or_else(|| panic!("{name}"));
        d.bytes_mut(i).copy_from_slice(bytes);
    };
    let run = module.run.clone();
    if device.stage().program("setup").is_some() {
        device.run_program("setup").unwrap();
    }
    let mut out = vec![];
    for step in 0..steps {
        let first = step * BATCH;
        let shifted = |by: usize| -> Vec<i32> {
            (first..first + BATCH)
                .flat_map(|r| &tokens[r * (SEQ + 1) + by..r * (SEQ + 1) + by + SEQ])
                .copied()
                .collect()
        };
        put(&mut device, "tokens", bytemuck::cast_slice(&shifted(0)));
        put(&mut device, "labels", bytemuck::cast_slice(&shifted(1)));
        put(&mut device, "loss_mask", bytemuck::cast_slice(&vec![1.0f32; BATCH * SEQ]));
        let (lr, t) = (run.lr.at(step as u64), step as i32 + 1);
        let scalars = [
            ("lr", lr),
            ("step_size", lr / (1.0 - run.optimizer.beta1.powi(t))),
            ("v_scale", 1.0 / (1.0 - run.optimizer.beta2.powi(t))),
        ];
        for (name, x) in scalars {
            put(&mut device, name, &(x as f32).to_le_bytes());
        }
        device.run_program("micro").unwrap_or_else(|e| panic!("{e}"));
        let loss = device.scalar("micro", "loss").unwrap();
        device.run_program("update").unwrap_or_else(|e| panic!("{e}"));
        out.push([loss, device.scalar("update", "grad_norm").unwrap()]);
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
    let on = |threads| curve_on(&m, (OptLevel::O1, features::detect(), false), (5, threads), 5);
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
