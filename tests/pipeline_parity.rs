//! The same configuration gives the same numbers on any pipeline: losses, gradient norms, saved weights, resumed runs.

mod support;

use athanor_passes::compile::OptLevel;
use athanor_runtime::checkpoint::Resume;
use athanor_runtime::metrics::json::Line;
use support::mesh::{Changes, Compiled, DEEPSEEK, SHARED, Spread, agree, files_agree};

/// A small Llama of four layers on `pp` stages of `dp` replicas of `tp` ranks, four micro-batches in a step.
fn compile([pp, dp, tp]: [usize; 3], opt: OptLevel, changes: Changes<'_>) -> Compiled {
    let layers = [("model.model_config.num_layers", "4"), ("load_checkpoint", "")];
    Compiled::new(Spread { pp, dp, tp, micro: 4, sequences: 8 }, opt, &[&layers, changes].concat())
}

const STEPS: u64 = 4;

const fn scheduler(name: &str) -> (&str, &str) {
    ("parallel.pipeline_config.pipeline_scheduler", name)
}

const CHUNKS: (&str, &str) = ("model.model_config.pp_interleave_num", "2");
const GPIPE: Changes<'_> = &[scheduler("gpipe")];
const ONE: Changes<'_> = &[scheduler("1f1b")];
const INTERLEAVED: Changes<'_> = &[scheduler("1f1b"), CHUNKS];
const ZERO_BUBBLE: Changes<'_> = &[scheduler("zero_bubble_v"), CHUNKS];
const DUALPIPE: Changes<'_> = &[scheduler("dualpipe_v"), CHUNKS];

/// Losses of `mesh` with each of `schedules`, which must be those of one device; those of all schedules.
fn parity(opt: OptLevel, mesh: [usize; 3], schedules: &[Changes<'_>], more: Changes<'_>) -> Vec<Vec<Line>> {
    let serial = compile([1, 1, 1], opt, more).train(STEPS, Resume::No);
    let train = |schedule: &Changes<'_>| {
        let got = compile(mesh, opt, &[*schedule, more].concat()).train(STEPS, Resume::No);
        agree(&format!("{mesh:?} {schedule:?} {more:?}"), &got, &serial);
        got
    };
    schedules.iter().map(train).collect()
}

/// Losses and norms, as bits.
fn bits(lines: &[Line]) -> Vec<[u64; 2]> {
    lines.iter().map(|l| [l.loss.to_bits(), l.grad_norm.to_bits()]).collect()
}

#[test]
fn reference_ops_on_stages_follow_one_device_whatever_the_schedule() {
    let runs = parity(OptLevel::O0, [2, 1, 1], &[GPIPE, ONE, INTERLEAVED, ZERO_BUBBLE], &[]);
    for run in &runs[1..] {
        assert_eq!(bits(run), bits(&runs[0]));
    }
}

#[test]
fn fused_kernels_on_stages_follow_one_device_whatever_the_schedule() {
    let runs = parity(OptLevel::O1, [2, 1, 1], &[GPIPE, ONE, INTERLEAVED, ZERO_BUBBLE], &[]);
    assert_eq!(bits(&runs[0]), bits(&runs[1]));
}

#[test]
fn stages_beside_replicas_and_tensor_parallel_ranks_follow_one_device() {
    parity(OptLevel::O0, [4, 1, 1], &[GPIPE, ONE], &[]);
    parity(OptLevel::O0, [2, 2, 1], &[ONE, ZERO_BUBBLE], &[]);
    parity(OptLevel::O0, [2, 1, 2], &[INTERLEAVED, DUALPIPE], &[]);
    parity(OptLevel::O1, [2, 2, 2], &[ONE], &[]);
}

#[test]
fn layers_that_are_computed_again_keep_their_bits() {
    for (opt, schedules) in [(OptLevel::O0, &[ONE, ZERO_BUBBLE][..]), (OptLevel::O1, &[ONE])] {
        let kept = parity(opt, [2, 1, 1], schedules, &[]);
        let again = parity(opt, [2, 1, 1], schedules, &[("recompute_config.recompute", "True")]);
        for (kept, again) in kept.iter().zip(&again) {
            assert_eq!(bits(kept), bits(again));
        }
    }
}

#[test]
fn a_budget_is_met_on_every_stage_and_changes_no_bit() {
    let arenas = |c: &Compiled| -> Vec<usize> { c.plan.stages.iter().map(|s| s.arena_bytes).collect() };
    let kept = compile([2, 1, 1], OptLevel::O0, ONE);
    let least = arenas(&compile([2, 1, 1], OptLevel::O0, &[ONE, &[("recompute_config.recompute", "True")]].concat()));
    // What the larger stage needs at least, and a little: it computes almost all again, the other one less.
    let budget = least.iter().max().unwrap() * 21 / 20;
    assert!(arenas(&kept).iter().any(|a| *a > budget), "{:?} fit {budget} as they are", arenas(&kept));
    let memory = format!("{:.4}GB", budget as f64 / f64::from(1 << 30));
    let auto = [("recompute_config.recompute", "auto"), ("context.max_device_memory", &memory)];
    let fitted = compile([2, 1, 1], OptLevel::O0, &[ONE, &auto].concat());
    assert!(arenas(&fitted).iter().all(|a| *a <= budget), "{:?} of {budget}", arenas(&fitted));
    let done = fitted.plan.run.recompute.done.unwrap();
    assert!(done.values > 0 && done.flops < done.of_flops / 3, "{done:?}");
    assert_eq!(bits(&fitted.train(STEPS, Resume::No)), bits(&kept.train(STEPS, Resume::No)));
}

#[test]
fn stages_of_uneven_sizes_follow_one_device() {
    let first_has_none = ("model.model_config.offset", "[-2, 2]");
    parity(OptLevel::O0, [2, 1, 1], &[ONE], &[first_has_none]);
    let last_has_none = ("model.model_config.offset", "[2, -2]");
    parity(OptLevel::O0, [2, 1, 1], &[ONE], &[last_has_none]);
}

#[test]
fn losses_per_token_and_scaled_losses_are_those_of_one_device() {
    let per_token = ("model.model_config.calculate_per_token_loss", "True");
    let scale = ("runner_wrapper.scale_sense", "1024.0");
    parity(OptLevel::O0, [2, 2, 1], &[ONE], &[per_token, scale]);
}

/// The first and the last stage have the embedding both, unless they are one.
#[test]
fn tied_embeddings_take_the_same_step_on_both_stages() {
    let tied = ("model.model_config.tie_word_embeddings", "True");
    parity(OptLevel::O0, [2, 1, 1], &[ONE, INTERLEAVED, ZERO_BUBBLE], &[tied]);
    parity(OptLevel::O0, [4, 1, 1], &[ONE], &[tied, ("runner_wrapper.scale_sense", "1024.0")]);
    parity(OptLevel::O1, [2, 2, 1], &[ONE], &[tied]);
}

/// Latent attention, routers with biases and balance losses: scalars of every stage reach the loss, loads reach rank 0.
#[test]
fn experts_on_stages_follow_one_device() {
    let deepseek = [&DEEPSEEK[..], &[("load_checkpoint", "")]].concat();
    let serial = compile([1, 1, 1], OptLevel::O0, &deepseek).train(STEPS, Resume::No);
    for schedule in [ONE, INTERLEAVED] {
        let got = compile([2, 2, 1], OptLevel::O0, &[schedule, &deepseek].concat()).train(STEPS, Resume::No);
        agree(&format!("{schedule:?}"), &got, &serial);
    }
}

/// Sequences of 32 tokens in `n` slices.
fn slices(n: &str) -> [(&str, &str); 2] {
    [scheduler("seqpipe"), ("parallel_config.seq_split_num", n)]
}

#[test]
fn slices_of_sequences_follow_one_device() {
    for opt in [OptLevel::O0, OptLevel::O1] {
        parity(opt, [2, 1, 1], &[&slices("2"), &slices("4")], &[]);
    }
    parity(OptLevel::O1, [4, 1, 1], &[&slices("2"), &slices("4")], &[]);
}

#[test]
fn slices_beside_replicas_and_tensor_parallel_ranks_follow_one_device() {
    let per_token = ("model.model_config.calculate_per_token_loss", "True");
    let scale = ("runner_wrapper.scale_sense", "1024.0");
    parity(OptLevel::O0, [2, 2, 1], &[&slices("2")], &[per_token, scale]);
    let cut = ("parallel_config.use_seq_parallel", "True");
    parity(OptLevel::O1, [2, 1, 2], &[&slices("2"), &[&slices("4")[..], &[cut]].concat()], &[]);
    parity(OptLevel::O0, [2, 2, 1], &[&slices("4")], &[("model.model_config.tie_word_embeddings", "True")]);
}

#[test]
fn layers_of_slices_that_are_computed_again_keep_their_bits() {
    let kept = parity(OptLevel::O1, [2, 1, 1], &[&slices("4")], &[]);
    let again = parity(OptLevel::O1, [2, 1, 1], &[&slices("4")], &[("recompute_config.recompute", "True")]);
    assert_eq!(bits(&kept[0]), bits(&again[0]));
}

/// The balance loss is made of the loads of whole sequences, the further token's layer looks at the keys of all slices.
#[test]
fn experts_and_further_tokens_of_slices_follow_one_device() {
    let further = ("model.model_config.mtp_num_layers", "1");
    let deepseek = [&DEEPSEEK[..], &[("load_checkpoint", ""), further]].concat();
    for (opt, mesh, n) in [(OptLevel::O0, [2, 2, 1], "2"), (OptLevel::O1, [2, 1, 1], "4")] {
        parity(opt, mesh, &[&slices(n)], &deepseek);
    }
}

/// A stage keeps values of fewer tokens, and keys and values of all.
#[test]
fn slices_need_less_memory_than_whole_sequences() {
    let arenas = |changes: Changes<'_>| -> Vec<usize> {
        let plan = compile([4, 1, 1], OptLevel::O1, changes).plan;
        plan.stages.iter().map(|s| s.arena_bytes).collect()
    };
    let (whole, cut) = (arenas(ONE), arenas(&slices("4")));
    assert!(whole.iter().zip(&cut).all(|(whole, cut)| cut < whole), "{cut:?} against {whole:?}");
}

const SAVES: (&str, &str) = ("callbacks", "[{type: CheckpointMonitor, save_checkpoint_steps: 2}]");

#[test]
fn saved_files_are_those_of_one_device_and_are_taken_up_on_any_pipeline() {
    let serial = compile([1, 1, 1], OptLevel::O1, &[SAVES]);
    let straight = serial.train(4, Resume::No);
    let stages = compile([2, 2, 1], OptLevel::O1, &[&SHARED[..], &[SAVES], INTERLEAVED].concat());
    stages.train(2, Resume::No);
    let (ours, theirs) = (stages.saved(2), serial.saved(2));
    files_agree(&ours, &theirs);
    agree("in the pipeline from one device", &stages.train(4, Resume::From(theirs)), &straight[2..]);
    agree("on one device from the pipeline", &serial.train(4, Resume::From(ours)), &straight[2..]);
}
