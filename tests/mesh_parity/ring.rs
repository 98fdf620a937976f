//! Keys and values that go from rank to rank: the numbers are those of one device, and no rank has all keys.

use super::{Changes, GLOBAL, OptLevel, Resume, STEPS, Spread, agree, parity};
use crate::support::mesh::{Compiled, DEEPSEEK};
use athanor_ir::plan::{Action, Step};
use athanor_ir::{CollectiveKind, Op};

const RING: (&str, &str) = ("model.model_config.use_ring_attention", "True");
const BY_TWO: (&str, &str) = ("parallel_config.context_parallel", "2");
const BY_FOUR: (&str, &str) = ("parallel_config.context_parallel", "4");
const HYBRID: [(&str, &str); 2] =
    [("parallel_config.context_parallel_algo", "hybrid_cp"), ("parallel_config.ulysses_degree_in_cp", "2")];
const NEW: (&str, &str) = ("load_checkpoint", "");
const FURTHER: (&str, &str) = ("model.model_config.mtp_num_layers", "1");
const RECOMPUTE: (&str, &str) = ("recompute_config.recompute", "True");
const PARTS: (&str, &str) = ("parallel_config.use_seq_parallel", "True");

fn with<'a>(model: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [model, more].concat()
}

#[test]
fn keys_and_values_go_round() {
    parity(OptLevel::O0, 1, &[BY_TWO, RING], &[[1, 1], [1, 2]]);
    parity(OptLevel::O1, 2, &[BY_FOUR, RING], &[[1, 1], [2, 1]]);
}

#[test]
fn keys_and_values_of_latent_attention_go_round() {
    let further = with(&DEEPSEEK, &[NEW, FURTHER, ("parallel_config.expert_parallel", "2")]);
    parity(OptLevel::O0, 1, &with(&further, &[BY_TWO, RING]), &[[2, 1]]);
    parity(OptLevel::O1, 2, &with(&DEEPSEEK, &[BY_FOUR, RING]), &[[1, 2]]);
}

#[test]
fn tokens_are_exchanged_and_keys_go_round() {
    let heads = [NEW, ("model.model_config.num_query_groups", "4"), BY_FOUR, RING];
    parity(OptLevel::O1, 1, &with(&heads, &HYBRID), &[[1, 1]]);
}

/// Parts of tensor parallel ranks are cut further, and layers that are computed again send keys round again.
#[test]
fn keys_go_round_beside_parts_of_sequences_and_recomputation() {
    parity(OptLevel::O0, 1, &[BY_TWO, RING, PARTS], &[[1, 2]]);
    parity(OptLevel::O1, 2, &[BY_TWO, RING, PARTS, RECOMPUTE], &[[1, 2]]);
}

#[test]
fn keys_with_slopes_go_round() {
    let slopes = [NEW, ("model.model_config.use_alibi_mask", "True"), BY_TWO, RING];
    parity(OptLevel::O1, 1, &slopes, &[[1, 1]]);
}

#[test]
fn keys_go_round_in_a_pipeline() {
    let model = [NEW, ("model.model_config.num_layers", "4")];
    let on = Spread { pp: 2, dp: 1, tp: 1, micro: 4, sequences: GLOBAL };
    let train = |on, changes: Changes<'_>| Compiled::new(on, OptLevel::O1, changes).train(STEPS, Resume::No);
    agree("stages", &train(on, &with(&model, &[BY_TWO, RING])), &train(on.alone(), &model));
}

/// How many parts that came from other ranks live at each step of `micro`.
fn shifted(plan: &athanor_ir::Plan) -> Vec<usize> {
    let stage = &plan.stages[0];
    let micro = stage.programs.iter().find(|p| p.name == "micro").unwrap();
    let shift = |s: &Step| matches!(&s.action, Action::Op(Op::Collective(c)) if c.kind == CollectiveKind::Shift);
    let results: Vec<_> =
        micro.steps.iter().filter(|s| shift(s)).filter_map(|s| stage.buffers[s.outputs[0]].live).collect();
    assert!(!results.is_empty());
    (0..micro.steps.len()).map(|i| results.iter().filter(|(from, to)| (*from..=*to).contains(&i)).count()).collect()
}

/// With gathered keys a rank has all of them, of which it needs a part at a time.
#[test]
fn no_rank_has_room_for_all_keys() {
    let long = [
        NEW,
        ("model.model_config.seq_length", "1024"),
        ("model.model_config.max_position_embeddings", "1024"),
        ("model.model_config.num_query_groups", "4"),
        ("parallel_config.context_parallel", "8"),
        RECOMPUTE,
    ];
    let on = Spread { pp: 1, dp: 1, tp: 1, micro: 1, sequences: 1 };
    let of = |more: Changes<'_>| Compiled::new(on, OptLevel::O1, &with(&long, more)).plan;
    let (gathered, ring) = (of(&[]), of(&[RING]));
    let all_keys = |plan: &athanor_ir::Plan| {
        plan.stages[0].buffers.iter().filter(|b| b.dims.len() == 4 && b.dims[1] == 1024).count()
    };
    assert!(all_keys(&gathered) > 0);
    assert_eq!(all_keys(&ring), 0);
    // The parts of keys and values at hand and the next ones, and the sum of their gradients that has come and the next one.
    let most = shifted(&ring).into_iter().max();
    assert!(most <= Some(6), "{most:?} parts of others at once");
    let bytes = [&gathered, &ring].map(|plan| plan.stages[0].arena_bytes);
    assert!(bytes[1] < bytes[0], "{bytes:?}");
}
