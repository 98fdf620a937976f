//! The same configuration gives the same numbers on any mesh: losses, gradient norms, saved weights, resumed runs; and a rank
//! that fails ends all.

#[path = "mesh_parity/context.rs"]
mod context;
#[path = "mesh_parity/exchange.rs"]
mod exchange;
#[path = "mesh_parity/experts.rs"]
mod experts;
#[path = "mesh_parity/ring.rs"]
mod ring;
#[path = "mesh_parity/sequence.rs"]
mod sequence;
#[path = "mesh_parity/shared.rs"]
mod shared;
mod support;

use athanor_ir::{Code, Diagnostic, Result};
use athanor_passes::compile::OptLevel;
use athanor_runtime::checkpoint::Resume;
use athanor_runtime::source::{Batch, BatchSource, DataSource};
use athanor_runtime::trainer::{TrainOptions, train_with};
use support::mesh::{Changes, Compiled, SHARED, Spread, agree, files_agree};

/// Sequences of a step in every run here.
const GLOBAL: usize = 4;
/// Steps of a run that is compared, but for those that are resumed.
const STEPS: u64 = 4;

/// w1-tiny on `dp` replicas of `tp` ranks, `micro` micro-batches in a step.
fn compile([dp, tp, micro]: [usize; 3], opt: OptLevel, changes: Changes<'_>) -> Compiled {
    Compiled::new(Spread { pp: 1, dp, tp, micro, sequences: GLOBAL }, opt, changes)
}

const MESHES: [[usize; 2]; 4] = [[2, 1], [1, 2], [2, 2], [4, 1]];

fn parity(opt: OptLevel, micro: usize, changes: Changes<'_>, meshes: &[[usize; 2]]) {
    let one_rank = [
        ("parallel_config.expert_parallel", "1"),
        ("parallel_config.context_parallel", "1"),
        ("parallel_config.use_seq_parallel", "False"),
    ];
    let alone = [changes, &one_rank].concat();
    let serial = compile([1, 1, micro], opt, &alone).train(STEPS, Resume::No);
    for [dp, tp] in meshes {
        let got = compile([*dp, *tp, micro], opt, changes).train(STEPS, Resume::No);
        agree(&format!("dp {dp}, tp {tp}, {micro} micro-batches, {changes:?}"), &got, &serial);
    }
}

#[test]
fn reference_ops_on_a_mesh_follow_one_device() {
    parity(OptLevel::O0, 1, &[], &MESHES);
}

#[test]
fn fused_kernels_on_a_mesh_follow_one_device() {
    parity(OptLevel::O1, 1, &[], &MESHES);
}

#[test]
fn gradients_are_summed_over_micro_batches_and_ranks() {
    for opt in [OptLevel::O0, OptLevel::O1] {
        parity(opt, 2, &[], &[[2, 1], [2, 2]]);
    }
}

#[test]
fn losses_per_token_are_over_the_tokens_of_all_ranks() {
    let per_token = ("model.model_config.calculate_per_token_loss", "True");
    parity(OptLevel::O1, 2, &[per_token], &[[2, 2]]);
}

/// New weights are those of one device, whatever part of them a rank draws.
#[test]
fn a_mesh_starts_from_the_same_weights() {
    parity(OptLevel::O1, 1, &[("load_checkpoint", "")], &[[2, 2]]);
}

#[test]
fn models_with_other_blocks_follow_one_device() {
    let new = ("load_checkpoint", "");
    let variants: [Changes<'_>; 2] = [
        &[new, ("model.model_config.tie_word_embeddings", "True")],
        &[new, ("model.model_config.qk_layernorm", "True"), ("model.model_config.add_qkv_bias", "True")],
    ];
    for changes in variants {
        parity(OptLevel::O0, 1, changes, &[[2, 2]]);
    }
}

#[test]
fn a_vocabulary_in_parts_follows_one_device() {
    let rows = ("parallel_config.vocab_emb_dp", "False");
    parity(OptLevel::O0, 1, &[rows], &[[1, 2]]);
    parity(OptLevel::O1, 2, &[rows], &[[1, 2], [2, 2]]);
    let tied = ("model.model_config.tie_word_embeddings", "True");
    parity(OptLevel::O1, 1, &[rows, tied, ("load_checkpoint", "")], &[[2, 2]]);
}

#[test]
fn the_loss_of_a_vocabulary_in_parts_is_cut_into_blocks_of_tokens() {
    let changes = [("parallel_config.vocab_emb_dp", "False"), ("model.model_config.chunk_loss_num", "4")];
    let on = Spread { pp: 1, dp: 1, tp: 2, micro: 1, sequences: GLOBAL };
    let plan = Compiled::new(on, OptLevel::O1, &changes).plan;
    let tokens = GLOBAL * plan.run.seq_length;
    let logits = |block: usize| {
        let dims = [block, plan.run.vocab_size / 2];
        plan.stages[0].buffers.iter().filter(|b| b.dims == dims).count()
    };
    assert!(logits(tokens / 4) > 0 && logits(tokens) == 0, "{} blocks", logits(tokens / 4));
    parity(OptLevel::O1, 1, &changes, &[[1, 2], [2, 2]]);
}

#[test]
fn a_vocabulary_on_every_rank_follows_one_device() {
    let whole = ("parallel_config.vocab_emb_dp", "True");
    parity(OptLevel::O0, 1, &[whole], &[[1, 2]]);
    parity(OptLevel::O1, 2, &[whole], &[[2, 2]]);
    parity(OptLevel::O1, 1, &[whole, SHARED[0], SHARED[1]], &[[2, 2]]);
}

#[test]
fn a_vocabulary_in_parts_in_a_pipeline_follows_one_device() {
    let rows = [("parallel_config.vocab_emb_dp", "False")];
    let on = Spread { pp: 2, dp: 1, tp: 2, micro: 4, sequences: GLOBAL };
    let train = |on| Compiled::new(on, OptLevel::O1, &rows).train(STEPS, Resume::No);
    agree("stages", &train(on), &train(on.alone()));
}

#[test]
fn every_optimizer_follows_one_device() {
    let kinds: [Changes<'_>; 5] = [
        &[("optimizer.type", "Adam")],
        &[("optimizer.type", "Lamb")],
        &[("optimizer.type", "Came"), ("optimizer.eps", "[1.e-30, 1.e-3, 1.e-16]")],
        &[("optimizer.type", "SGD"), ("optimizer.momentum", "0.9")],
        &[("optimizer.type", "PmaAdamW"), ("optimizer.fused_num", "2"), ("optimizer.interleave_step", "2")],
    ];
    for kind in kinds {
        parity(OptLevel::O0, 1, kind, &[[2, 2]]);
    }
}

#[test]
fn a_scaled_loss_follows_one_device() {
    let scale = ("runner_wrapper.scale_sense", "1024.0");
    let clip = ("runner_wrapper.use_clip_grad", "True");
    parity(OptLevel::O1, 2, &[scale, clip], &[[2, 2]]);
}

#[test]
fn replicas_that_share_the_optimizer_follow_one_device() {
    parity(OptLevel::O0, 1, &SHARED, &[[2, 1], [4, 1]]);
    parity(OptLevel::O1, 1, &SHARED, &[[2, 2]]);
}

const SAVES: (&str, &str) = ("callbacks", "[{type: CheckpointMonitor, save_checkpoint_steps: 3}]");

#[test]
fn saved_files_are_those_of_one_device_and_are_taken_up_on_any_mesh() {
    let serial = compile([1, 1, 1], OptLevel::O1, &[SAVES]);
    let straight = serial.train(6, Resume::No);
    let mesh = compile([2, 2, 1], OptLevel::O1, &[&SHARED[..], &[SAVES]].concat());
    mesh.train(3, Resume::No);
    let (ours, theirs) = (mesh.saved(3), serial.saved(3));
    files_agree(&ours, &theirs);
    agree("on the mesh from one device", &mesh.train(6, Resume::From(theirs)), &straight[3..]);
    agree("on one device from the mesh", &serial.train(6, Resume::From(ours)), &straight[3..]);
}

const SPOILED: Code = Code { id: "T0001", title: "the data is spoiled", explain: "" };

/// Batches that end with an error at step 2.
struct Spoiled(DataSource);

impl BatchSource for Spoiled {
    fn next(&mut self, step: u64, micro: usize) -> Result<Batch> {
        if step == 2 { Diagnostic::error(&SPOILED, "rank 1 cannot read").err() } else { self.0.next(step, micro) }
    }
}

#[test]
fn a_rank_that_fails_ends_all_with_its_own_error() {
    let compiled = compile([2, 1, 1], OptLevel::O0, &[]);
    let options = TrainOptions { quiet: true, signals: false, steps: Some(6), ..TrainOptions::default() };
    let e = train_with(compiled.plan.clone(), Some(compiled.kernels()), &options, |run, start, share| {
        let source = DataSource::open(run, start, share)?;
        Ok((
            if share.index == 1 { Box::new(Spoiled(source)) as Box<dyn BatchSource> } else { Box::new(source) },
            vec![],
        ))
    })
    .unwrap_err();
    assert_eq!((e.code.id, e.message.as_str()), ("T0001", "rank 1 cannot read"));
}
