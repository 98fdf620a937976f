//! Sequences in parts: losses, norms, loads of experts and saved files are those of one device.

use super::{Changes, OptLevel, parity};
use crate::support::mesh::DEEPSEEK;

const BY_TWO: (&str, &str) = ("parallel_config.context_parallel", "2");
const ULYSSES: (&str, &str) = ("parallel_config.context_parallel_algo", "ulysses_cp");
/// A key head for each of the four query heads.
const HEADS: [(&str, &str); 2] = [("load_checkpoint", ""), ("model.model_config.num_query_groups", "4")];
const FURTHER: [(&str, &str); 2] = [("load_checkpoint", ""), ("model.model_config.mtp_num_layers", "1")];

fn with<'a>(model: Changes<'a>, more: Changes<'a>) -> Vec<(&'a str, &'a str)> {
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
