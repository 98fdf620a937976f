//! Sequences in parts: losses, norms, loads of experts and saved files are those of one device.

use super::{Changes, GLOBAL, OptLevel, Resume, SAVES, SHARED, STEPS, Spread, agree, compile, files_agree, parity};
use crate::support::mesh::{Compiled, DEEPSEEK};

const BY_TWO: (&str, &str) = ("parallel_config.context_parallel", "2");
const BY_FOUR: (&str, &str) = ("parallel_config.context_parallel", "4");
const ULYSSES: (&str, &str) = ("parallel_config.context_parallel_algo", "ulysses_cp");
const HYBRID: [(&str, &str); 2] =
    [("parallel_config.context_parallel_algo", "hybrid_cp"), ("parallel_config.ulysses_degree_in_cp", "2")];
/// A key head for each of the four query heads.
const HEADS: [(&str, &str); 2] = [("load_checkpoint", ""), ("model.model_config.num_query_groups", "4")];
const FURTHER: [(&str, &str); 2] = [("load_checkpoint", ""), ("model.model_config.mtp_num_layers", "1")];
const SHARED_EXPERTS: (&str, &str) = ("parallel_config.expert_parallel", "2");
const RECOMPUTE: (&str, &str) = ("recompute_config.recompute", "True");

fn with<'a>(model: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [model, more].concat()
}

#[test]
fn tokens_exchanged_for_heads() {
    parity(OptLevel::O0, 1, &[BY_TWO, ULYSSES], &[[1, 1], [2, 1]]);
    let heads = with(&HEADS, &[BY_TWO, ULYSSES]);
    parity(OptLevel::O0, 1, &heads, &[[1, 2]]);
    parity(OptLevel::O1, 2, &heads, &[[1, 1], [2, 2]]);
}

#[test]
fn tokens_exchanged_for_heads_of_latent_attention_with_experts() {
    let further = with(&DEEPSEEK, &FURTHER);
    parity(OptLevel::O0, 1, &with(&further, &[BY_TWO, ULYSSES]), &[[1, 1]]);
    parity(OptLevel::O1, 2, &with(&further, &[BY_TWO, ULYSSES]), &[[2, 1]]);
}

#[test]
fn keys_and_values_gathered() {
    parity(OptLevel::O0, 1, &[BY_TWO], &[[1, 1], [2, 1], [1, 2]]);
    parity(OptLevel::O1, 2, &[BY_FOUR], &[[1, 1], [2, 1]]);
}

#[test]
fn keys_and_values_of_latent_attention_gathered() {
    let further = with(&DEEPSEEK, &FURTHER);
    parity(OptLevel::O0, 1, &with(&further, &[BY_TWO, SHARED_EXPERTS]), &[[2, 1]]);
    parity(OptLevel::O1, 2, &with(&further, &[BY_FOUR]), &[[1, 2]]);
}

#[test]
fn tokens_exchanged_and_keys_gathered() {
    parity(OptLevel::O0, 1, &with(&HEADS, &with(&HYBRID, &[BY_FOUR])), &[[1, 1]]);
    let further = with(&DEEPSEEK, &FURTHER);
    parity(OptLevel::O1, 2, &with(&further, &with(&HYBRID, &[BY_FOUR])), &[[2, 1]]);
}

/// Layers that are computed again gather and exchange again.
#[test]
fn parts_of_sequences_computed_again() {
    parity(OptLevel::O1, 1, &[BY_TWO, RECOMPUTE], &[[2, 1]]);
    parity(OptLevel::O1, 1, &with(&DEEPSEEK, &[BY_TWO, ULYSSES, RECOMPUTE]), &[[1, 1]]);
}

/// Positions that are a learned table, and slopes by head in their place.
#[test]
fn positions_of_other_kinds() {
    let model = |name, class, more: Changes<'static>| {
        let dir = [("pretrained_model_dir", name), ("load_checkpoint", ""), ("model.model_config.vocab_size", "512")];
        with(&with(&dir, &[("model.model_config.architectures", class)]), more)
    };
    let gpt2 =
        model("tests/golden/models/gpt2", "[GPT2LMHeadModel]", &[BY_TWO, ("model.model_config.model_type", "gpt2")]);
    parity(OptLevel::O0, 1, &gpt2, &[[2, 1]]);
    parity(OptLevel::O1, 1, &with(&gpt2, &[ULYSSES]), &[[1, 1]]);
    let slopes = [("load_checkpoint", ""), ("model.model_config.use_alibi_mask", "True"), BY_TWO];
    parity(OptLevel::O0, 1, &slopes, &[[1, 1]]);
    parity(OptLevel::O1, 1, &slopes, &[[1, 1]]);
}

#[test]
fn parts_of_sequences_in_a_pipeline() {
    let further = with(&DEEPSEEK, &with(&FURTHER, &[("model.model_config.num_layers", "4")]));
    let on = Spread { pp: 2, dp: 1, tp: 1, micro: 4, sequences: GLOBAL };
    let runs: [(&str, OptLevel, Changes<'_>); 2] =
        [("exchanged", OptLevel::O1, &[BY_TWO, ULYSSES]), ("gathered", OptLevel::O0, &[BY_TWO])];
    for (what, opt, by) in runs {
        let train = |on, changes: Changes<'_>| Compiled::new(on, opt, changes).train(STEPS, Resume::No);
        agree(what, &train(on, &with(&further, by)), &train(on.alone(), &further));
    }
}

#[test]
fn files_of_ranks_with_parts_of_sequences_are_those_of_one_device() {
    let serial = compile([1, 1, 1], OptLevel::O1, &with(&DEEPSEEK, &[SAVES]));
    let straight = serial.train(6, Resume::No);
    let changes = with(&DEEPSEEK, &with(&SHARED, &[SAVES, BY_TWO, SHARED_EXPERTS]));
    let mesh = compile([2, 1, 1], OptLevel::O1, &changes);
    agree("shared optimizer", &mesh.train(3, Resume::No), &straight[..3]);
    let (ours, theirs) = (mesh.saved(3), serial.saved(3));
    files_agree(&ours, &theirs);
    agree("on the mesh from one device", &mesh.train(6, Resume::From(theirs)), &straight[3..]);
    agree("on one device from the mesh", &serial.train(6, Resume::From(ours)), &straight[3..]);
}
