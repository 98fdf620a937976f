//! Random small functions mean the same before and after `simplify` and `fuse`, whose groups are all kernels; and those
//! kernels, on the device, give what the interpreter gives.

mod program;

use athanor_backends::cpu::device::{CpuDevice, DeviceOptions};
use athanor_backends::cpu::features;
use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::run::RunSpec;
use athanor_ir::verify::verify;
use athanor_ir::{Func, Level, Mesh, Module, Op};
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::codegen::loops;
use athanor_passes::plan::{PlanOptions, build};
use athanor_passes::registry;
use program::{Draw, Program, arguments, program};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

fn module(funcs: Vec<Func>) -> Module {
    let run = RunSpec::for_tests();
    Module { name: "random".into(), level: Level::Train, mesh: Mesh::default(), run, funcs }
}

fn apply(module: &Module, pipeline: &str) -> Module {
    registry::build(pipeline).unwrap().iter().fold(module.clone(), |m, p| {
        let next = p.run(&m).unwrap();
        verify(&next).unwrap_or_else(|e| panic!("after {}: {e}\n{m:#?}", p.name()));
        next
    })
}

/// The part of a result's scale that other orders and roundings of the same arithmetic may change.
fn tolerance(narrow: bool) -> f64 {
    if narrow { 0.03 } else { 4e-6 }
}

/// The first result of `p` in `got` that is not what it is in `want`.
fn difference(p: &Program, got: &HashMap<String, Tensor>, want: &HashMap<String, Tensor>) -> Result<(), String> {
    for (r, scale) in p.func.results.iter().zip(&p.scales) {
        let (got, want) = (&got[&r.name], &want[&r.name]);
        assert_eq!(got.ty, want.ty);
        let pairs = got.to_f64().into_iter().zip(want.to_f64());
        let off =
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
        if off > tolerance(p.narrow) * scale.max(1.0) {
            return Err(format!("{} {} is {off:e} off: {got:?} is not {want:?}", r.name, got.ty));
        }
    }
    Ok(())
}

/// Compares `p` with itself after `pipeline`.
fn unchanged(p: &Program, seed: u64, pipeline: &str) -> Result<Module, String> {
    let before = module(vec![p.func.clone()]);
    verify(&before).unwrap();
    let args: HashMap<String, Tensor> = arguments(&p.func, seed).into_iter().collect();
    let want = interpret(&before, "f", &args).unwrap();
    let after = apply(&before, pipeline);
    let got = interpret(&after, "f", &args).map_err(|e| e.to_string())?;
    difference(p, &got, &want)
        .map_err(|e| format!("{pipeline}: {e}\nbefore {:#?}\nafter {:#?}", before.funcs, after.funcs))?;
    Ok(after)
}

fn groups_are_kernels(m: &Module) -> Result<(), String> {
    let called = m.funcs.iter().flat_map(|f| &f.nodes).filter_map(|n| match &n.op {
        Op::Call { callee } => m.func(callee),
        _ => None,
    });
    called.filter(|f| !loops::supported(f)).map(|f| format!("no kernel: {f:#?}")).next().map_or(Ok(()), Err)
}

fn scripts() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..1000u64, 4..90)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn simplify_keeps_the_meaning(script in scripts(), narrow: bool, seed: u64) {
        let p = program("f", &script, narrow);
        if let Err(e) = unchanged(&p, seed, "simplify") {
            prop_assert!(false, "{e}");
        }
    }

    #[test]
    fn fuse_keeps_the_meaning_in_groups_that_are_kernels(script in scripts(), narrow: bool, seed: u64) {
        let p = program("f", &script, narrow);
        for pipeline in ["fuse", "simplify,fuse"] {
            if let Err(e) = unchanged(&p, seed, pipeline).and_then(|m| groups_are_kernels(&m)) {
                prop_assert!(false, "{e}");
            }
        }
    }
}

/// How many random functions the device runs: they share one compilation.
const ON_DEVICE: u64 = 24;

#[test]
fn fused_kernels_on_the_device_agree_with_the_interpreter() {
    on_device(0..ON_DEVICE);
}

/// Many more, for after a change of the passes or the generator.
#[test]
#[ignore = "a minute"]
fn many_fused_kernels_on_the_device_agree_with_the_interpreter() {
    for block in 0..20 {
        on_device(1000 + 40 * block..1000 + 40 * (block + 1));
    }
}

fn on_device(seeds: std::ops::Range<u64>) {
    let programs: Vec<Program> = seeds
        .map(|i| {
            let mut draw = Draw(i);
            let length = 20 + draw.bits() as usize % 70;
            let script: Vec<u64> = (0..length).map(|_| draw.bits() % 1000).collect();
            program(&format!("f{i}"), &script, i % 3 == 0)
        })
        .filter(|p| !p.func.results.is_empty())
        .collect();
    let before = module(programs.iter().map(|p| p.func.clone()).collect());
    let after = apply(&before, "simplify,fuse");
    let level = features::detect();
    let options = PlanOptions { threads: 2, level, config_hash: String::new(), reference: false };
    let compiled = build(&after, &options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let kernels = dir.path().join("k.so");
    build_shared_object(&compiled.texts, level, None, &kernels).unwrap();
    let options = DeviceOptions { kernels: Some(kernels), threads: Some(2), library: false, ..DeviceOptions::default() };
    let mut device = CpuDevice::new(Arc::new(compiled.plan), 0, &options).unwrap();
    for p in &programs {
        let args = arguments(&p.func, 7);
        for (name, t) in &args {
            let i = device.buffer(name).unwrap();
            device.bytes_mut(i).copy_from_slice(&t.bytes);
        }
        let want = interpret(&before, &p.func.name, &args.into_iter().collect::<HashMap<_, _>>()).unwrap();
        device.run_program(&p.func.name).unwrap();
        let results = &device.stage().program(&p.func.name).unwrap().results;
        let tensor = |i: &usize| {
            let b = &device.stage().buffers[*i];
            Tensor { ty: athanor_ir::TensorType::new(b.dtype, b.dims.clone()), bytes: device.bytes(*i).to_vec() }
        };
        let got: HashMap<String, Tensor> = results.iter().map(|(n, i)| (n.clone(), tensor(i))).collect();
        if let Err(e) = difference(p, &got, &want) {
            let groups: Vec<&Func> = after.funcs.iter().filter(|f| f.name.starts_with("fused")).collect();
            panic!("{e}\n{:#?}\n{groups:#?}", after.func(&p.func.name));
        }
    }
}
