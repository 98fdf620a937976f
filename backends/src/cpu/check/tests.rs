//! Every rule is broken once in a plan that is otherwise good.

use super::*;
use athanor_ir::func::Init;
use athanor_ir::plan::{GemmSpec, Kernel, MatRef, Target, VERSION};
use athanor_ir::run::RunSpec;
use athanor_ir::target::CpuLevel;
use athanor_ir::{Binary, DType, Loc, Memory, Mesh, Sharding};

fn named(name: &str, offset: usize, dims: &[usize], role: BufferRole, live: Option<(usize, usize)>) -> Buffer {
    let bytes = dims.iter().product::<usize>() * 4;
    Buffer {
        name: name.into(),
        dtype: DType::F32,
        dims: dims.into(),
        memory: Memory::Device,
        offset,
        bytes,
        role,
        sharding: Sharding::default(),
        live,
    }
}

/// y = x·w + x: a product, and an addition in its place.
pub(crate) fn plan() -> Plan {
    let r = |row_stride| MatRef { dtype: DType::F32, row_stride, col_stride: 1 };
    let spec = GemmSpec { m: 4, n: 4, k: 4, a: r(4), b: r(4), c: r(4), accumulate: false };
    let gemm = KernelKind::Gemm { spec, fallback: Some(1) };
    let generated = KernelKind::Generated { symbol: "gemm_1".into(), grid: 4 };
    let kernel = |name: &str, kind| Kernel { name: name.into(), kind, flops: 128, bytes: 192 };
    let step =
        |action, inputs: &[usize], outputs: &[usize]| Step::new(action, inputs.into(), outputs.into(), Loc::default());
    let stage = Stage {
        arena_bytes: 256,
        host_bytes: 0,
        buffers: vec![
            named("x", 0, &[4, 4], BufferRole::Input, None),
            named("w", 64, &[4, 4], BufferRole::Weight { init: Init::Constant { value: 1.0 } }, None),
            named("product", 128, &[4, 4], BufferRole::Activation, Some((0, 1))),
            named("y", 128, &[4, 4], BufferRole::Activation, Some((1, 2))),
            named("flat x", 0, &[16], BufferRole::Activation, None),
        ],
        programs: vec![Program {
            name: "forward".into(),
            steps: vec![
                step(Action::Kernel(0), &[0, 1], &[2]),
                step(Action::Op(Op::Binary(Binary::Add)), &[2, 0], &[3]),
            ],
            results: vec![("y".into(), 3)],
        }],
        pipeline: None,
    };
    Plan {
        version: VERSION,
        config_hash: String::new(),
        compiler: String::new(),
        model: String::new(),
        target: Target { device: "cpu".into(), cpu: CpuLevel::Portable, threads: 1 },
        mesh: Mesh::default(),
        stages: vec![stage],
        kernels: vec![kernel("gemm", gemm), kernel("own gemm", generated)],
        run: RunSpec::for_tests(),
    }
}

fn refused(change: impl FnOnce(&mut Plan), says: &str) {
    let mut p = plan();
    change(&mut p);
    let e = check(&p, 0).expect_err(says);
    assert_eq!(e.code.id, "B0201");
    assert!(e.message.contains(says), "{e} should say {says:?}");
}

fn spec(p: &mut Plan) -> &mut GemmSpec {
    match &mut p.kernels[0].kind {
        KernelKind::Gemm { spec, .. } => spec,
        KernelKind::Generated { .. } => unreachable!("kernel 0 is the product"),
    }
}

#[test]
fn a_good_plan_passes() {
    check(&plan(), 0).unwrap();
    assert!(check(&plan(), 1).unwrap_err().message.contains("stage 1 of 1"));
}

#[test]
fn buffers_stay_inside_the_arena() {
    refused(|p| p.stages[0].buffers[3].offset = 256, "outside the arena");
    refused(|p| p.stages[0].buffers[3].offset = usize::MAX - 3, "outside the arena");
    refused(|p| p.stages[0].arena_bytes = 191, "outside the arena");
    refused(|p| p.stages[0].buffers[0].bytes = 60, "do not hold");
    refused(|p| p.stages[0].buffers[0].dims = vec![usize::MAX, 2], "do not hold");
    refused(|p| p.stages[0].buffers[0].dims = vec![], "do not hold");
    refused(|p| p.stages[0].buffers[0].dims = vec![4, 0], "no elements");
    refused(|p| p.stages[0].buffers[2].offset = 130, "not aligned");
}

#[test]
fn steps_name_things_that_exist() {
    refused(|p| p.stages[0].programs[0].steps[0].inputs[0] = 5, "buffer 5 does not exist");
    refused(|p| p.stages[0].programs[0].steps[0].action = Action::Kernel(9), "kernel 9 does not exist");
    refused(|p| p.stages[0].programs[0].results[0].1 = 77, "buffer 77 does not exist");
    refused(|p| p.stages[0].programs[0].steps[1].action = Action::Op(Op::Embed), "nn.embed");
    refused(|p| p.stages[0].programs[0].steps[1].action = Action::Op(Op::Call { callee: "f".into() }), "@f");
    refused(|p| p.stages[0].buffers[1].name = "x".into(), "same name");
}

#[test]
fn products_stay_inside_their_operands() {
    refused(|p| spec(p).m = 5, "reaches beyond");
    refused(|p| spec(p).b.row_stride = usize::MAX, "reaches beyond");
    refused(|p| spec(p).k = 0, "product of");
    refused(|p| spec(p).c.dtype = DType::BF16, "c is bf16");
    refused(|p| spec(p).c.row_stride = 1, "coincide");
    refused(|p| p.stages[0].programs[0].steps[0].inputs.truncate(1), "wants buffers");
    refused(|p| p.stages[0].programs[0].steps[0].outputs = vec![1], "c overlaps `w`");
    let fallback = |p: &mut Plan, to| p.kernels[0].kind = KernelKind::Gemm { spec: *spec(p), fallback: Some(to) };
    refused(|p| fallback(p, 2), "fallback 2 does not exist");
    refused(|p| fallback(p, 0), "fallback 0 is not a generated kernel");
}

#[test]
fn a_kernel_gets_the_same_sizes_everywhere() {
    let again = |p: &mut Plan| {
        p.stages[0].buffers.push(named("small", 192, &[2], BufferRole::Activation, Some((2, 2))));
        let step = Step::new(Action::Kernel(1), vec![0, 1], vec![5], Loc::default());
        p.stages[0].programs[0].steps.push(step);
    };
    refused(again, "bytes here and");
    refused(|p| p.kernels[1].kind = KernelKind::Generated { symbol: "a\0".into(), grid: 1 }, "no symbol");
    refused(|p| p.kernels[1].kind = KernelKind::Generated { symbol: "a".into(), grid: usize::MAX }, "grid");
}

#[test]
fn what_lives_together_does_not_overlap() {
    refused(|p| p.stages[0].buffers[1].offset = 60, "kept between programs, overlap");
    refused(|p| p.stages[0].buffers[3].offset = 64, "which is kept");
    refused(|p| p.stages[0].buffers[3].offset = 160, "live at the same time");
    refused(|p| p.stages[0].buffers[4].offset = 32, "no view of a kept");
    refused(|p| p.stages[0].buffers[2].live = Some((1, 1)), "lives from step 1 to step 1 only");
    refused(|p| p.stages[0].buffers[2].live = Some((2, 1)), "lives from step 2");
    refused(|p| p.stages[0].buffers[0].live = Some((0, 1)), "life within one");
    let both = |p: &mut Plan| {
        p.stages[0].buffers[3].live = Some((0, 2));
        p.stages[0].programs[0].steps[0].outputs = vec![2, 3];
    };
    refused(both, "which overlap");
}

/// The good plan with `w` on the host, from where a copy brings it before the product.
fn swapped() -> Plan {
    let mut p = plan();
    let s = &mut p.stages[0];
    (s.arena_bytes, s.host_bytes) = (256, 64);
    (s.buffers[1].memory, s.buffers[1].offset) = (Memory::Host, 0);
    for b in &mut s.buffers[2..4] {
        b.live = b.live.map(|(first, last)| (first + 1, last + 1));
    }
    s.buffers.push(named("w here", 64, &[4, 4], BufferRole::Activation, Some((0, 1))));
    let steps = &mut s.programs[0].steps;
    steps[0].inputs[1] = 5;
    let copy = Step::new(Action::Op(Op::FromHost), vec![1], vec![5], Loc::default());
    steps.insert(0, copy);
    p
}

#[test]
fn the_host_is_reached_by_copies_alone() {
    check(&swapped(), 0).unwrap();
    let refused = |change: fn(&mut Stage), says: &str| {
        let mut p = swapped();
        change(&mut p.stages[0]);
        let e = check(&p, 0).expect_err(says);
        assert!(e.code.id == "B0201" && e.message.contains(says), "{e} should say {says:?}");
    };
    let not_there = "not in the memory of the";
    refused(|s| s.programs[0].steps[1].inputs[1] = 1, "reads `w`, which is not in the memory of the device");
    refused(|s| s.buffers[1].memory = Memory::Device, "reads `w`, which is not in the memory of the host");
    refused(|s| s.programs[0].steps[0].action = Action::Op(Op::ToHost), not_there);
    refused(|s| s.programs[0].steps[0].action = Action::Op(Op::Reshape), not_there);
    refused(|s| s.programs[0].steps[0].outputs = vec![1], "writes `w`");
    refused(|s| s.buffers[2].memory = Memory::Host, "outside the arena of 64 bytes");
    // Both memories have lives and places of their own.
    refused(|s| s.host_bytes = 63, "outside the arena of 63 bytes");
    let beside = |s: &mut Stage, offset: usize| {
        s.host_bytes = 128;
        let role = s.buffers[1].role.clone();
        s.buffers.push(Buffer { memory: Memory::Host, ..named("v", offset, &[4, 4], role, None) });
    };
    let mut p = swapped();
    beside(&mut p.stages[0], 64);
    check(&p, 0).unwrap();
    let mut p = swapped();
    beside(&mut p.stages[0], 32);
    assert!(check(&p, 0).unwrap_err().message.contains("kept between programs, overlap"));
}

/// The good plan as the stage of a pipeline: its product lies in one of two slots.
fn staged() -> Plan {
    use athanor_ir::pipeline::{Act, Part, Task};
    use athanor_ir::plan::{Chunk, StagePipeline};
    let mut p = plan();
    let s = &mut p.stages[0];
    s.arena_bytes = 320;
    s.programs[0].name = "forward.0".into();
    for b in &mut s.buffers[2..4] {
        b.role = BufferRole::Stash { chunk: 0, stride: 64 };
    }
    let task = |micro| Task { part: Part::F, chunk: 0, micro };
    s.pipeline = Some(StagePipeline {
        slots: 3,
        slots_at: 128,
        slot_bytes: 64,
        host_slots_at: 0,
        host_slot_bytes: 0,
        caches: 0,
        caches_at: 0,
        cache_bytes: 0,
        chunks: vec![Chunk { arrives: vec![2], ..Chunk::default() }],
        acts: vec![
            Act::Receive { from: 1, task: task(0), chunk: 0, slot: 2 },
            Act::Run { task: task(0), slot: 2 },
            Act::Send { to: 1, task: task(0), slot: 2 },
        ],
    });
    p
}

#[test]
fn slots_are_inside_the_arena_and_apart_from_all_else() {
    use athanor_ir::pipeline::Act;
    check(&staged(), 0).unwrap();
    let refused = |change: &dyn Fn(&mut Plan), says: &str| {
        let mut p = staged();
        change(&mut p);
        let e = check(&p, 0).expect_err(says);
        assert!(e.code.id == "B0201" && e.message.contains(says), "{e} should say {says:?}");
    };
    let stage = |change: fn(&mut athanor_ir::plan::StagePipeline)| {
        move |p: &mut Plan| change(p.stages[0].pipeline.as_mut().unwrap())
    };
    refused(&stage(|s| s.slots = 4), "lie outside the arena");
    refused(&stage(|s| s.slots = usize::MAX), "lie outside the arena");
    refused(&stage(|s| s.slots_at = 64), "a slot overlaps `w`, which is kept");
    refused(&stage(|s| s.slot_bytes = 32), "outside of its slot");
    refused(&stage(|s| s.slots = 2), "in slot 2");
    refused(&stage(|s| s.chunks.clear()), "of no chunk");
    refused(&stage(|s| s.chunks[0].arrives = vec![0]), "`x` arrives and lies in no slot");
    refused(&stage(|s| s.chunks[0].leaves = vec![9]), "buffer 9 does not exist");
    let other = |act: Act| move |p: &mut Plan| p.stages[0].pipeline.as_mut().unwrap().acts[1] = act;
    let Act::Run { mut task, slot } = staged().stages[0].pipeline.as_ref().unwrap().acts[1] else { unreachable!() };
    task.part = athanor_ir::pipeline::Part::B;
    refused(&other(Act::Run { task, slot }), "no such program");
    refused(&other(Act::Pass { task, slot: 7, chunk: 0, to: 0 }), "slot 7");
    let on_host = |p: &mut Plan| {
        let s = &mut p.stages[0];
        s.host_bytes = 192;
        (s.buffers[2].memory, s.buffers[2].offset) = (Memory::Host, 0);
        let p = s.pipeline.as_mut().unwrap();
        p.host_slot_bytes = 64;
        s.programs.clear();
    };
    refused(&on_host, "passes between stages and is on the host");
    refused(&|p| (on_host(p), p.stages[0].host_bytes = 191).1, "3 slots of 64 bytes lie outside the arena");
    refused(&|p| p.stages[0].pipeline = None, "the stage has none");
    refused(&|p| p.stages[0].buffers[2].live = None, "has no life");
    refused(&|p| p.stages[0].buffers[3].offset = 160, "outside of its slot");
    // Two values of a micro-batch that live at the same time.
    let half = |p: &mut Plan| {
        let s = &mut p.stages[0];
        let mut b = s.buffers[3].clone();
        (b.name, b.dims, b.bytes, b.offset, b.live) = ("other".into(), vec![8], 32, 144, Some((0, 2)));
        s.buffers[2].dims = vec![8];
        (s.buffers[2].bytes, s.buffers[2].live) = (32, Some((0, 2)));
        s.buffers.push(b);
        s.programs.clear();
    };
    refused(&half, "live at the same time");
}

#[test]
fn caches_are_inside_the_arena_and_apart_from_all_else() {
    /// The staged plan with caches of 64 bytes for two micro-batches behind its slots.
    fn cached() -> Plan {
        let mut plan = staged();
        let s = &mut plan.stages[0];
        s.arena_bytes = 448;
        s.buffers.push(named("keys", 320, &[4, 4], BufferRole::Cache { stride: 64 }, None));
        let p = s.pipeline.as_mut().unwrap();
        (p.caches, p.caches_at, p.cache_bytes) = (2, 320, 64);
        plan
    }
    check(&cached(), 0).unwrap();
    let refused = |change: &dyn Fn(&mut Stage), says: &str| {
        let mut p = cached();
        change(&mut p.stages[0]);
        let e = check(&p, 0).expect_err(says);
        assert!(e.code.id == "B0201" && e.message.contains(says), "{e} should say {says:?}");
    };
    let of_stage =
        |change: fn(&mut athanor_ir::plan::StagePipeline)| move |s: &mut Stage| change(s.pipeline.as_mut().unwrap());
    refused(&of_stage(|p| p.caches = 3), "caches of 3 micro-batches of 64 bytes lie outside the arena");
    refused(&of_stage(|p| p.cache_bytes = usize::MAX), "lie outside the arena");
    refused(&of_stage(|p| p.caches_at = 256), "caches and slots overlap");
    refused(&of_stage(|p| p.caches = 0), "`keys` lies outside of the caches");
    refused(&|s| s.buffers.last_mut().unwrap().offset = 384, "`keys` lies outside of the caches");
    refused(&|s| s.buffers.last_mut().unwrap().role = BufferRole::Cache { stride: 32 }, "outside of the caches");
    refused(&|s| s.buffers.last_mut().unwrap().role = BufferRole::Persistent, "a cache overlaps `keys`");
    refused(&|s| s.pipeline = None, "lies in a slot or cache, and the stage has none");
}
