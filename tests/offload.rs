//! What lies on the host changes where memory is needed, never a bit: losses, norms and weights of tiny models.

mod support;

use athanor_backends::cpu::features;
use athanor_ir::offload::{Offload, Offloaded, Swap};
use athanor_ir::plan::{BufferRole, Stage};
use athanor_ir::recompute::{Operators, Recompute};
use athanor_ir::run::RunSpec;
use athanor_ir::{Memory, Module};
use athanor_passes::compile::OptLevel;
use athanor_runtime::checkpoint::Resume;
use athanor_runtime::metrics::json::Line;
use support::bits::{BF16, F32, How, REFERENCE, compiled, generated, layers, tiny, trained};
use support::device::Compiled;
use support::mesh::{self, Changes, DEEPSEEK, SHARED, Spread, files_agree};

fn with(m: &Module, offload: &Offload) -> Module {
    let mut m = m.clone();
    m.run.offload = offload.clone();
    m
}

fn fused() -> How {
    generated(features::detect())
}

/// Values of all layers, back `prefetch` ops before they are read.
fn all_layers(m: &Module, prefetch: usize) -> Offload {
    let swap = Swap { prefetch, layers: layers(m), operators: vec![] };
    Offload { values: vec![swap], ..Offload::default() }
}

fn stage(plan: &Compiled) -> &Stage {
    &plan.plan().stages[0]
}

fn done(plan: &Compiled) -> Offloaded {
    plan.plan().run.offload.done.unwrap_or_default()
}

/// Bytes on the host that are no state of the optimizer.
fn values_on_host(stage: &Stage) -> usize {
    let moments = stage.buffers.iter().filter(|b| b.memory == Memory::Host && b.role == BufferRole::Moment);
    stage.host_bytes - moments.map(|b| b.bytes.next_multiple_of(64)).sum::<usize>()
}

/// `folder`'s model with each of `choices` leaves the bits that `m` leaves, with less memory of the device, and has on the host
/// what the pass says; the plans, that of `m` first.
fn same_bits(folder: &str, m: &Module, choices: &[Module], how: How, steps: usize) -> Vec<Compiled> {
    let plain = compiled(m, how);
    let want = trained(folder, m, &plain, how, steps);
    assert_eq!(stage(&plain).host_bytes, 0);
    let mut plans = vec![plain];
    for (i, choice) in choices.iter().enumerate() {
        let plan = compiled(choice, how);
        let (bytes, without) = (stage(&plan).arena_bytes, stage(&plans[0]).arena_bytes);
        assert!(bytes < without, "{i}: {bytes} bytes are no less than {without}");
        // Every value is there when the forward part ends.
        let on_host = values_on_host(stage(&plan));
        let aligned = on_host - done(&plan).bytes as usize;
        assert!(aligned < 64 * done(&plan).values.max(1), "{i}: {on_host} bytes on the host, {:?}", done(&plan));
        let got = trained(folder, choice, &plan, how, steps);
        assert_eq!(got.losses, want.losses, "{i}");
        assert!(got == want, "{i}: other weights");
        plans.push(plan);
    }
    plans
}

fn moments() -> Offload {
    Offload { moments: true, ..Offload::default() }
}

/// The state of the optimizer left the device, but for what one weight's step needs.
fn state_left(plain: &Compiled, swapped: &Compiled) {
    let states = || stage(plain).buffers.iter().filter(|b| b.role == BufferRole::Moment).map(|b| b.bytes);
    let all: usize = states().map(|n| n.next_multiple_of(64)).sum();
    assert!(stage(swapped).buffers.iter().all(|b| b.role != BufferRole::Moment || b.memory == Memory::Host));
    assert_eq!(stage(swapped).host_bytes, all);
    let fell = stage(plain).arena_bytes - stage(swapped).arena_bytes;
    assert!(fell + 2 * states().max().unwrap() >= all && fell <= all, "{fell} of {all} bytes");
}

#[test]
fn reference_ops_give_the_same_bits() {
    let m = tiny("w1-tiny", F32);
    let plans = same_bits("w1-tiny", &m, &[with(&m, &all_layers(&m, 1)), with(&m, &moments())], REFERENCE, 2);
    state_left(&plans[0], &plans[2]);
}

#[test]
fn fused_kernels_give_the_same_bits_whatever_is_chosen() {
    let m = tiny("w1-tiny", F32);
    let all = layers(&m);
    let of = |values: &[&Swap]| {
        with(&m, &Offload { values: values.iter().copied().cloned().collect(), ..Offload::default() })
    };
    let one = Swap { prefetch: 2, layers: vec![all[1].clone()], operators: vec![] };
    let paths = vec!["self_attn.attention".to_owned()];
    let attention = Swap { operators: vec![Operators { layers: all.clone(), paths }], ..Swap::default() };
    let recompute = Recompute { layers: all[1..].to_vec(), ..Recompute::default() };
    let again = Module { run: RunSpec { recompute, ..m.run.clone() }, ..m.clone() };
    let choices = [
        with(&m, &all_layers(&m, 0)),
        with(&m, &all_layers(&m, 1000)),
        of(&[&one]),
        of(&[&attention]),
        of(&[&attention, &one]),
        with(&again, &Offload { moments: true, ..all_layers(&m, 1) }),
        with(&m, &moments()),
    ];
    let plans = same_bits("w1-tiny", &m, &choices, fused(), 2);
    let values: Vec<usize> = plans.iter().map(|p| done(p).values).collect();
    // At least the input, the two norms, queries, keys, values, attention and the feed-forward block of each layer.
    assert!(values[1] >= 8 * all.len() && values[2] == values[1], "{values:?}");
    // What comes back early is on the device for longer.
    assert!(stage(&plans[1]).arena_bytes < stage(&plans[2]).arena_bytes);
    // The result of attention and the sums of each row's exponentials; what both entries choose goes once.
    assert_eq!((values[4], values[5]), (2 * all.len(), values[3] + values[4] - 2));
    // Of recomputed layers what they read is left to go.
    assert!(values[6] > all.len() && values[6] < values[1], "{values:?}");
    state_left(&plans[0], &plans[7]);
}

#[test]
fn narrow_activations_give_the_same_bits() {
    let m = tiny("w1-tiny", BF16);
    same_bits("w1-tiny", &m, &[with(&m, &all_layers(&m, 3))], fused(), 3);
}

#[test]
fn experts_give_the_same_bits() {
    let m = tiny("w2-tiny", F32);
    same_bits("w2-tiny", &m, &[with(&m, &Offload { moments: true, ..all_layers(&m, 1) })], fused(), 3);
}

#[test]
fn a_budget_counts_the_device_alone() {
    let m = with(&tiny("w1-tiny", F32), &moments());
    let fits = stage(&compiled(&m, REFERENCE)).arena_bytes;
    let recompute = Recompute { budget: Some(fits as u64), ..Recompute::default() };
    let auto = compiled(&Module { run: RunSpec { recompute, ..m.run.clone() }, ..m.clone() }, REFERENCE);
    assert_eq!(auto.plan().run.recompute.done.unwrap().values, 0);
    assert_eq!(stage(&auto).arena_bytes, fits);
}

const LAYERS: Changes<'_> = &[("model.model_config.num_layers", "4"), ("load_checkpoint", "")];
const SWAP: Changes<'_> = &[("swap_config.swap", "True"), ("optimizer.swap", "True")];

/// Losses and norms, as bits.
fn bits(lines: &[Line]) -> Vec<[u64; 2]> {
    lines.iter().map(|l| [l.loss.to_bits(), l.grad_norm.to_bits()]).collect()
}

/// A small Llama of four layers on stages, with its two plans: without and with everything swapped.
fn on_stages(opt: OptLevel, on: Spread, changes: Changes<'_>) -> [mesh::Compiled; 2] {
    let plans = [&[][..], SWAP].map(|swap| mesh::Compiled::new(on, opt, &[LAYERS, changes, swap].concat()));
    let [without, with] = plans.each_ref().map(|c| bits(&c.train(3, Resume::No)));
    assert_eq!(without, with, "{on:?} {changes:?}");
    plans
}

const STAGES: Spread = Spread { pp: 2, dp: 1, tp: 1, micro: 4, sequences: 8 };

#[test]
fn stages_keep_what_is_in_flight_on_the_host() {
    for opt in [OptLevel::O0, OptLevel::O1] {
        let [plain, swapped] = on_stages(opt, STAGES, &[]);
        for (a, b) in plain.plan.stages.iter().zip(&swapped.plan.stages) {
            let (of_a, of_b) = (a.pipeline.as_ref().unwrap(), b.pipeline.as_ref().unwrap());
            assert!(2 * of_b.slot_bytes < of_a.slot_bytes, "{} of {}", of_b.slot_bytes, of_a.slot_bytes);
            assert!(of_b.host_slot_bytes > 0 && of_a.host_slot_bytes == 0);
            // A slot for each micro-batch in flight, as on the device.
            let end = of_b.host_slots_at + of_b.slots * of_b.host_slot_bytes;
            assert!(of_b.slots == of_a.slots && b.host_bytes >= end && b.arena_bytes < a.arena_bytes);
        }
    }
}

#[test]
fn other_schedules_and_meshes_keep_their_bits() {
    const CHUNKS: (&str, &str) = ("model.model_config.pp_interleave_num", "2");
    const SCHEDULER: &str = "parallel.pipeline_config.pipeline_scheduler";
    on_stages(OptLevel::O0, STAGES, &[CHUNKS, (SCHEDULER, "zero_bubble_v")]);
    on_stages(OptLevel::O0, STAGES, &[CHUNKS]);
    let more = [&SHARED[..], &[("recompute_config.recompute", "[0]")]].concat();
    on_stages(OptLevel::O0, Spread { dp: 2, ..STAGES }, &more);
    on_stages(OptLevel::O0, Spread { pp: 1, tp: 2, ..STAGES }, &[]);
}

#[test]
fn experts_on_stages_keep_their_bits() {
    let further = ("model.model_config.mtp_num_layers", "1");
    let changes = [&DEEPSEEK[..], LAYERS, &[further]].concat();
    on_stages(OptLevel::O1, STAGES, &changes);
}

#[test]
fn a_resumed_run_takes_its_state_to_the_host() {
    let saves = ("callbacks", "[{type: CheckpointMonitor, save_checkpoint_steps: 2}]");
    let on = Spread { pp: 1, dp: 1, tp: 1, micro: 2, sequences: 4 };
    let compile = |swap: Changes<'_>| mesh::Compiled::new(on, OptLevel::O1, &[swap, &[saves]].concat());
    let (plain, swapped) = (compile(&[]), compile(SWAP));
    let straight = plain.train(4, Resume::No);
    let first = swapped.train(2, Resume::No);
    let then = swapped.train(4, Resume::From(swapped.saved(2)));
    assert_eq!(bits(&[first, then].concat()), bits(&straight));
    // What is saved does not say where it was.
    files_agree(&swapped.saved(2), &plain.saved(2));
    assert_eq!(bits(&plain.train(4, Resume::From(swapped.saved(2)))), bits(&straight[2..]));
}
