//! Sequences cut over tensor-parallel ranks: numbers of one device, the bits of whole sequences where sums are the same ones, and
//! less memory and shorter messages.

use super::{Changes, GLOBAL, OptLevel, Resume, SAVES, SHARED, STEPS, agree, compile, files_agree, parity};
use crate::support::mesh::{Compiled, DEEPSEEK, Spread, zero};
use athanor_ir::plan::Stage;
use athanor_runtime::metrics::json::Line;

const CUT: (&str, &str) = ("parallel_config.use_seq_parallel", "True");
const ROWS: (&str, &str) = ("parallel_config.vocab_emb_dp", "False");
const WHOLE: (&str, &str) = ("parallel_config.vocab_emb_dp", "True");
const NEW: (&str, &str) = ("load_checkpoint", "");
const RECOMPUTE: (&str, &str) = ("recompute_config.recompute", "True");

fn cut<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[CUT], more].concat()
}

fn bits(lines: &[Line]) -> Vec<[u64; 2]> {
    lines.iter().map(|l| [l.loss.to_bits(), l.grad_norm.to_bits()]).collect()
}

#[test]
fn parts_of_sequences_follow_one_device() {
    parity(OptLevel::O0, 1, &cut(&[]), &[[1, 2]]);
    parity(OptLevel::O1, 2, &cut(&[]), &[[1, 2], [2, 2]]);
    let four = [NEW, ("model.model_config.num_query_groups", "4")];
    parity(OptLevel::O1, 1, &cut(&four), &[[1, 4]]);
}

#[test]
fn parts_of_sequences_beside_a_whole_vocabulary_follow_one_device() {
    parity(OptLevel::O0, 2, &cut(&[WHOLE]), &[[1, 2]]);
    let tied = ("model.model_config.tie_word_embeddings", "True");
    parity(OptLevel::O1, 1, &cut(&[WHOLE, tied, NEW]), &[[2, 2]]);
    parity(OptLevel::O1, 1, &cut(&[ROWS, tied, NEW]), &[[1, 2]]);
}

/// Logits of all tokens are never there, of all of a sequence or of a part.
#[test]
fn the_loss_of_parts_of_sequences_is_cut_into_blocks_of_tokens() {
    let blocks = ("model.model_config.chunk_loss_num", "4");
    for (vocabulary, shares) in [(ROWS, [1, 2]), (WHOLE, [2, 1])] {
        let changes = cut(&[blocks, vocabulary]);
        let plan = compile([1, 2, 1], OptLevel::O1, &changes).plan;
        let [tokens, words] = [GLOBAL * plan.run.seq_length / shares[0], plan.run.vocab_size / shares[1]];
        let of = |dims: [usize; 2]| plan.stages[0].buffers.iter().any(|b| b.dims == dims);
        assert!(of([tokens / 4, words]) && !of([tokens, words]), "{changes:?}");
        parity(OptLevel::O1, 1, &changes, &[[1, 2]]);
    }
}

#[test]
fn parts_of_sequences_in_models_with_other_blocks_follow_one_device() {
    let biases = [NEW, ("model.model_config.qk_layernorm", "True"), ("model.model_config.add_qkv_bias", "True")];
    parity(OptLevel::O0, 1, &cut(&biases), &[[1, 2]]);
    let scale = ("runner_wrapper.scale_sense", "1024.0");
    let per_token = ("model.model_config.calculate_per_token_loss", "True");
    parity(OptLevel::O1, 2, &cut(&[scale, per_token]), &[[1, 2]]);
}

#[test]
fn latent_attention_and_experts_on_parts_of_sequences() {
    let by_two = ("parallel_config.expert_parallel", "2");
    let by_four = ("parallel_config.expert_parallel", "4");
    parity(OptLevel::O0, 1, &cut(&DEEPSEEK), &[[1, 2]]);
    parity(OptLevel::O1, 2, &cut(&[&DEEPSEEK[..], &[by_two]].concat()), &[[2, 2]]);
    // Ranks of a tensor-parallel group have other experts.
    parity(OptLevel::O1, 1, &cut(&[&DEEPSEEK[..], &[by_four]].concat()), &[[2, 2]]);
    let further = [NEW, ("model.model_config.mtp_num_layers", "1"), ROWS];
    parity(OptLevel::O1, 1, &cut(&[&DEEPSEEK[..], &further].concat()), &[[1, 2]]);
    parity(OptLevel::O0, 1, &cut(&[&DEEPSEEK[..], &further[..2]].concat()), &[[1, 2]]);
}

#[test]
fn a_balance_over_the_batch_counts_parts_of_sequences() {
    let changes = [
        ("model.model_config.moe_aux_loss_coeff", "0.01"),
        ("model.model_config.moe_router_load_balancing_type", "gbs_aux_loss"),
        ("model.model_config.moe_z_loss_coeff", "0.01"),
    ];
    parity(OptLevel::O0, 2, &cut(&[&DEEPSEEK[..], &changes].concat()), &[[1, 2]]);
}

/// What the backward pass computes or brings together again is what it was.
#[test]
fn the_bits_do_not_depend_on_what_is_kept() {
    let kept = ("recompute_config.mp_comm_recompute", "False");
    for (opt, model) in [(OptLevel::O0, &[][..]), (OptLevel::O1, &[]), (OptLevel::O1, &DEEPSEEK)] {
        let train =
            |more: Changes<'_>| bits(&compile([1, 2, 2], opt, &[model, &[CUT], more].concat()).train(3, Resume::No));
        let first = train(&[]);
        assert_eq!(train(&[kept]), first, "{opt:?} {model:?}");
        assert_eq!(train(&[RECOMPUTE]), first, "{opt:?} {model:?}");
    }
}

#[test]
fn files_of_ranks_with_parts_of_sequences_are_those_of_one_device() {
    let serial = compile([1, 1, 1], OptLevel::O1, &[SAVES]);
    let straight = serial.train(6, Resume::No);
    let mesh = compile([2, 2, 1], OptLevel::O1, &cut(&[&SHARED[..], &[SAVES]].concat()));
    agree("parts of sequences, shared optimizer", &mesh.train(3, Resume::No), &straight[..3]);
    let (ours, theirs) = (mesh.saved(3), serial.saved(3));
    files_agree(&ours, &theirs);
    agree("on the mesh from one device", &mesh.train(6, Resume::From(theirs)), &straight[3..]);
    agree("on one device from the mesh", &serial.train(6, Resume::From(ours)), &straight[3..]);
}

/// Parts that context parallel ranks cut are cut further; weights that replicas share are gathered beside.
#[test]
fn parts_of_sequences_beside_parts_of_context_and_shared_weights_follow_one_device() {
    let context = ("parallel_config.context_parallel", "2");
    let further = [NEW, ("model.model_config.mtp_num_layers", "1")];
    parity(OptLevel::O0, 1, &cut(&[&DEEPSEEK[..], &further, &[context]].concat()), &[[1, 2]]);
    let exchanged = ("parallel_config.context_parallel_algo", "ulysses_cp");
    let heads = ("model.model_config.num_query_groups", "4");
    parity(OptLevel::O1, 1, &cut(&[NEW, heads, context, exchanged, RECOMPUTE]), &[[1, 2]]);
    parity(OptLevel::O1, 2, &cut(&zero(3)), &[[2, 2]]);
}

const STAGES: Spread = Spread { pp: 2, dp: 1, tp: 2, micro: 4, sequences: GLOBAL };

/// Stages hand parts on.
#[test]
fn parts_of_sequences_in_a_pipeline_follow_one_device() {
    let further = [NEW, ("model.model_config.num_layers", "4"), ("model.model_config.mtp_num_layers", "1"), ROWS];
    let deepseek = [&DEEPSEEK[..], &further].concat();
    for model in [&[][..], &deepseek] {
        let serial = Compiled::new(STAGES.alone(), OptLevel::O1, model).train(STEPS, Resume::No);
        let on = |more: Changes<'_>| Compiled::new(STAGES, OptLevel::O1, &[model, more].concat());
        let parts = on(&[CUT]);
        agree("stages", &parts.train(STEPS, Resume::No), &serial);
        agree("stages, layers again", &on(&[CUT, RECOMPUTE]).train(STEPS, Resume::No), &serial);
        let messages = |c: &Compiled| -> usize {
            let stage = &c.plan.stages[0];
            let chunk = &stage.pipeline.as_ref().unwrap().chunks[0];
            // Beside values of tokens there are the parts of the loss.
            let bytes = chunk.leaves.iter().chain(&chunk.returns).map(|b| stage.buffers[*b].bytes);
            bytes.filter(|b| *b > 64).sum()
        };
        assert_eq!(messages(&parts) * 2, messages(&on(&[])));
    }
}

#[test]
fn parts_of_sequences_take_less_memory() {
    let long = [NEW, ("model.model_config.num_layers", "8"), ("model.model_config.num_query_groups", "4")];
    let kept = ("recompute_config.mp_comm_recompute", "False");
    let of = |more: Changes<'_>| {
        let on = Spread { tp: 4, ..STAGES };
        Compiled::new(on, OptLevel::O1, &[&long, more].concat()).plan.stages.swap_remove(0)
    };
    // What lives from the forward to the backward program of a micro-batch.
    let slot = |s: &Stage| s.pipeline.as_ref().unwrap().slot_bytes;
    let (whole, parts) = (of(&[]), of(&[CUT]));
    let again = of(&[CUT, kept, ("recompute_config.select_comm_recompute", "True")]);
    let kept = of(&[CUT, kept]);
    assert_eq!(slot(&again), slot(&parts));
    // A quarter of the residual stream, before and behind the norms of four layers, and of what the last one hands on; and
    // where sequences are kept joined, all of what products read behind the norms.
    let saved = 3 * 32 * 64 * size_of::<f32>() / 4;
    assert_eq!([slot(&whole), slot(&kept)], [17, 8].map(|values| slot(&parts) + values * saved));
    assert!(parts.arena_bytes < kept.arena_bytes && kept.arena_bytes < whole.arena_bytes);
    // Layers that are computed again start from parts.
    let (whole, parts) = (of(&[RECOMPUTE]), of(&[RECOMPUTE, CUT]));
    assert!(slot(&parts) * 3 < slot(&whole), "{} of {}", slot(&parts), slot(&whole));
}
