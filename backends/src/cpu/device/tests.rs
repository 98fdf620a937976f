//! A hand-written plan through reference ops, products and a C kernel.

use super::*;
use crate::cpu::check::tests::plan;
use athanor_ir::plan::Action;

fn device(plan: Plan, options: &DeviceOptions) -> Result<CpuDevice> {
    CpuDevice::new(Arc::new(plan), 0, options)
}

fn set(d: &mut CpuDevice, name: &str, values: &[f32]) {
    let i = d.buffer(name).unwrap();
    d.bytes_mut(i).copy_from_slice(bytemuck::cast_slice(values));
}

fn get(d: &CpuDevice, name: &str) -> Vec<f32> {
    d.bytes(d.buffer(name).unwrap()).chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
}

/// x·w + x for x[i,j] = i − j and w = 2·1.
fn run(mut d: CpuDevice) -> CpuDevice {
    let x: Vec<f32> = (0..16).map(|i| (i / 4) as f32 - (i % 4) as f32).collect();
    set(&mut d, "x", &x);
    set(&mut d, "w", &[2.0; 16]);
    d.run_program("forward").unwrap();
    let want: Vec<f32> = (0..16).map(|i| 2.0 * (4.0 * (i / 4) as f32 - 6.0) + x[i]).collect();
    assert_eq!(get(&d, "y"), want);
    d
}

fn without_kernels() -> Plan {
    let mut p = plan();
    if let KernelKind::Gemm { fallback, .. } = &mut p.kernels[0].kind {
        *fallback = None;
    }
    p.kernels.truncate(1);
    p
}

#[test]
fn products_and_reference_ops_run() {
    for library in [false, true] {
        let options = DeviceOptions { library, profile: true, ..DeviceOptions::default() };
        let d = run(device(without_kernels(), &options).unwrap());
        let names: Vec<String> = d.profile().unwrap().rows().iter().map(|r| r.name.clone()).collect();
        let how = if d.uses_library() { "gemm (onednn)" } else { "gemm (plain)" };
        assert!(names.iter().any(|n| n == how) && names.iter().any(|n| n == "add (reference)"), "{names:?}");
    }
}

#[test]
fn what_lies_on_the_host_is_brought_before_it_is_read() {
    use athanor_ir::{Loc, Memory};
    let mut p = without_kernels();
    let s = &mut p.stages[0];
    s.host_bytes = 64;
    (s.buffers[1].memory, s.buffers[1].offset) = (Memory::Host, 0);
    let here = athanor_ir::plan::Buffer {
        name: "w here".into(),
        memory: Memory::Device,
        offset: 64,
        role: BufferRole::Activation,
        live: Some((0, 1)),
        ..s.buffers[1].clone()
    };
    s.buffers.push(here);
    s.buffers[2..4].iter_mut().for_each(|b| b.live = b.live.map(|(first, last)| (first + 1, last + 1)));
    let steps = &mut s.programs[0].steps;
    steps[0].inputs[1] = 5;
    let copy = athanor_ir::plan::Step::new(Action::Op(Op::FromHost), vec![1], vec![5], Loc::default());
    steps.insert(0, copy);
    run(device(p, &DeviceOptions::default()).unwrap());
}

#[test]
fn a_missing_program_is_named() {
    let mut d = device(without_kernels(), &DeviceOptions::default()).unwrap();
    let e = d.run_program("update").unwrap_err();
    assert_eq!((e.code.id, e.message.contains("`update`")), ("B0206", true));
}

#[test]
fn scalars_and_threads() {
    let d = device(without_kernels(), &DeviceOptions::default()).unwrap();
    assert_eq!(d.scalar("forward", "y"), None, "a matrix is no scalar");
    for threads in [0, 2] {
        let options = DeviceOptions { threads: Some(threads), ..DeviceOptions::default() };
        assert_eq!(device(without_kernels(), &options).unwrap_err().code.id, "B0205");
    }
    let mut p = without_kernels();
    p.target.threads = usize::MAX;
    assert_eq!(device(p, &DeviceOptions::default()).unwrap_err().code.id, "B0205");
}

#[test]
fn an_arena_beyond_memory_is_refused() {
    let mut p = without_kernels();
    p.stages[0].arena_bytes = usize::MAX / 2;
    assert_eq!(device(p, &DeviceOptions::default()).unwrap_err().code.id, "B0203");
}

#[test]
fn a_missing_object_or_symbol_is_refused() {
    assert_eq!(device(plan(), &DeviceOptions::default()).unwrap_err().code.id, "B0202");
    let dir = std::env::temp_dir().join(format!("athanor-device-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let options =
        |name: &str| DeviceOptions { kernels: Some(dir.join(name)), library: false, ..DeviceOptions::default() };
    assert_eq!(device(plan(), &options("none.so")).unwrap_err().code.id, "B0202");
    let source = dir.join("k.c");
    // Row `lo..hi` of c = a·b, 4×4.
    let text = "void NAME(float **p, long lo, long hi, long w) { (void)w; \
                for (long i = lo; i < hi; i++) for (int j = 0; j < 4; j++) { float s = 0; \
                for (int l = 0; l < 4; l++) s += p[0][4*i+l] * p[1][4*l+j]; p[2][4*i+j] = s; } }";
    let build = |name: &str, object: &str| {
        std::fs::write(&source, text.replace("NAME", name)).unwrap();
        let args = ["-shared", "-fPIC", "-O1", "-o"];
        std::process::Command::new("cc")
            .args(args)
            .arg(dir.join(object))
            .arg(&source)
            .status()
            .is_ok_and(|s| s.success())
    };
    if build("gemm_1", "good.so") && build("other", "bad.so") {
        run(device(plan(), &options("good.so")).unwrap());
        let e = device(plan(), &options("bad.so")).unwrap_err();
        assert!(e.code.id == "B0202" && e.message.contains("gemm_1"));
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_step_that_refuses_its_data_says_where() {
    use athanor_ir::DType;
    let mut p = without_kernels();
    let s = &mut p.stages[0];
    // Counts of ids that are read from x.
    s.buffers[0].dtype = DType::I32;
    s.buffers[0].dims = vec![4, 4];
    s.buffers[2].dims = vec![4, 4];
    s.buffers.truncate(3);
    s.programs[0].steps.truncate(1);
    s.programs[0].steps[0].action = Action::Op(Op::Histogram { bins: 4 });
    s.programs[0].steps[0].inputs = vec![0];
    s.programs[0].steps[0].loc.block = "model.layers.0.mlp".into();
    s.programs[0].results.clear();
    let mut d = device(p, &DeviceOptions::default()).unwrap();
    let i = d.buffer("x").unwrap();
    d.bytes_mut(i).fill(0x7f);
    let e = d.run_program("forward").unwrap_err();
    assert_eq!(e.code.id, "B0204");
    assert!(e.message.contains("model.layers.0.mlp"), "{e}");
}
