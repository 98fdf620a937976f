//! Models with latent attention, experts and a further token on a mesh: losses, norms, the load of every expert, saved files.

use super::{Changes, OptLevel, Resume, SAVES, SHARED, agree, compile, files_agree, parity};
use crate::support::mesh::DEEPSEEK;

const MIXTRAL: [(&str, &str); 5] = [
    ("pretrained_model_dir", "tests/golden/models/mixtral"),
    ("load_checkpoint", ""),
    ("model.model_config.model_type", "mixtral"),
    ("model.model_config.architectures", "[MixtralForCausalLM]"),
    ("model.model_config.vocab_size", "512"),
];

const QWEN: [(&str, &str); 7] = [
    ("pretrained_model_dir", "tests/golden/models/qwen3_moe"),
    ("load_checkpoint", ""),
    ("model.model_config.model_type", "qwen3_moe"),
    ("model.model_config.architectures", "[Qwen3MoeForCausalLM]"),
    ("model.model_config.vocab_size", "512"),
    ("model.model_config.moe_aux_loss_coeff", "0.01"),
    ("model.model_config.moe_router_load_balancing_type", "gbs_aux_loss"),
];

const BY_TWO: (&str, &str) = ("parallel_config.expert_parallel", "2");
const BY_FOUR: (&str, &str) = ("parallel_config.expert_parallel", "4");

fn with<'a>(model: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [model, more].concat()
}

#[test]
fn latent_attention_and_experts_on_replicas_and_tensor_parallel_ranks() {
    parity(OptLevel::O0, 1, &DEEPSEEK, &[[2, 1], [1, 2], [2, 2]]);
    parity(OptLevel::O1, 2, &DEEPSEEK, &[[2, 1], [2, 2]]);
}

#[test]
fn experts_are_shared_by_replicas() {
    parity(OptLevel::O0, 1, &with(&DEEPSEEK, &[BY_TWO]), &[[2, 1], [4, 1], [2, 2]]);
    parity(OptLevel::O1, 2, &with(&DEEPSEEK, &[BY_TWO]), &[[2, 2]]);
    parity(OptLevel::O1, 1, &with(&DEEPSEEK, &[BY_FOUR]), &[[4, 1]]);
}

/// Ranks of a tensor-parallel group have other experts, those of one replica or of two.
#[test]
fn experts_are_shared_by_tensor_parallel_ranks() {
    parity(OptLevel::O0, 1, &with(&QWEN, &[BY_TWO]), &[[1, 2]]);
    parity(OptLevel::O1, 1, &with(&DEEPSEEK, &[BY_FOUR]), &[[2, 2]]);
}

#[test]
fn balance_over_the_batch_counts_the_tokens_of_all_ranks() {
    let z = ("model.model_config.moe_z_loss_coeff", "0.01");
    parity(OptLevel::O0, 1, &with(&QWEN, &[z]), &[[2, 2]]);
    parity(OptLevel::O1, 2, &with(&QWEN, &[z, BY_TWO]), &[[2, 1], [2, 2]]);
}

#[test]
fn experts_without_a_shared_one() {
    parity(OptLevel::O0, 1, &with(&MIXTRAL, &[BY_TWO]), &[[2, 2]]);
    parity(OptLevel::O1, 1, &with(&MIXTRAL, &[BY_FOUR]), &[[4, 1]]);
}

#[test]
fn a_further_token_on_a_mesh() {
    let further = [("load_checkpoint", ""), ("model.model_config.mtp_num_layers", "1")];
    parity(OptLevel::O0, 1, &with(&DEEPSEEK, &further), &[[2, 2]]);
    let rows = ("parallel_config.vocab_emb_dp", "False");
    parity(OptLevel::O1, 2, &with(&DEEPSEEK, &[&further[..], &[BY_TWO, rows]].concat()), &[[2, 2]]);
}

#[test]
fn files_of_shared_experts_are_those_of_one_device() {
    let serial = compile([1, 1, 1], OptLevel::O1, &with(&DEEPSEEK, &[SAVES]));
    let straight = serial.train(6, Resume::No);
    let changes: Changes<'_> = &with(&DEEPSEEK, &[&SHARED[..], &[SAVES, BY_TWO]].concat());
    let mesh = compile([4, 1, 1], OptLevel::O1, changes);
    agree("shared experts and optimizer", &mesh.train(3, Resume::No), &straight[..3]);
    let (ours, theirs) = (mesh.saved(3), serial.saved(3));
    let compared = files_agree(&ours, &theirs).iter().filter(|name| name.contains(".experts.7.")).count();
    // Three projections of the last expert of two layers, in the checkpoint and in the exported model.
    assert_eq!(compared, 3 * 2 * 2);
    agree("on the mesh from one device", &mesh.train(6, Resume::From(theirs)), &straight[3..]);
    agree("on one device from the mesh", &serial.train(6, Resume::From(ours)), &straight[3..]);
}
