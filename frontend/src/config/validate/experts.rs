//! The rules of experts.

use athanor_ir::Diagnostic;

use super::pair;
use crate::config::model::{Convention, Groups, ModelConfig, Moe, ScoreFunction};
use crate::config::report::Report;
use crate::config::{PositionEmbedding, codes};

pub(super) fn check(report: &Report, m: &ModelConfig, moe: &Moe) {
    let (experts, topk) = (moe.num_experts, moe.router.topk);
    if topk.value > experts.value {
        let message = format!("a token cannot go to {} of {} experts", topk.value, experts.value);
        let help = "lower `num_experts_per_tok`, or raise the number of experts";
        pair(report, &message, topk.span, "of them", experts.span, "experts", help);
    }
    if let Some(groups) = &moe.router.groups {
        check_groups(report, m, moe, groups);
    }
    let layers = m.num_layers.value;
    if moe.layers.value.len() != layers {
        let message = format!("`moe_layer_freq` has {} entries for {layers} layers", moe.layers.value.len());
        let help = "give one 0 or 1 for each layer, or one number: experts in every so many layers";
        pair(report, &message, moe.layers.span, "entries", m.num_layers.span, "layers", help);
    } else if moe.layers.value.iter().all(|sparse| !sparse) {
        let message = format!("there are {} experts and no layer has them", experts.value);
        let help = "lower `first_k_dense_replace`, or leave the experts out";
        pair(report, &message, experts.span, "experts", moe.layers.span.or(m.num_layers.span), "no layer", help);
    }
    let score = moe.router.score;
    // A rule of Mcore models; the legacy ones have such a router.
    let mcore = m.convention == Convention::Mcore;
    if mcore && moe.router.bias_rate.is_some() && score.value == ScoreFunction::Softmax {
        let message = "a bias on the scores of experts needs scores that do not depend on each other";
        let help = "use `moe_router_score_function: sigmoid`, or `moe_router_enable_expert_bias: False`";
        let bias = moe.router.bias_rate.and_then(|b| b.span);
        pair(report, message, bias, "a bias", score.span.or(experts.span), "softmax", help);
    }
    let biases = [&m.mlp_bias, &m.mlp_down_bias];
    if let Some(bias) = biases.into_iter().find(|b| b.value) {
        let help = "write `add_bias_linear: False`; biases of attention have keys of their own";
        pair(report, "experts have no biases", bias.span, "biases", experts.span, "experts", help);
    }
    if !m.gated_linear_unit.value {
        let help = "write `gated_linear_unit: True`";
        let message = "experts without a gate are not supported";
        pair(report, message, m.gated_linear_unit.span, "no gate", experts.span, "experts", help);
    }
    if m.position_embedding.value == PositionEmbedding::LearnedAbsolute {
        let help = "use `position_embedding_type: rope`";
        let message = "experts beside learned positions are not supported";
        pair(report, message, m.position_embedding.span, "learned", experts.span, "experts", help);
    }
    if moe.balance.coeff.value > 0.0 && m.convention != Convention::HuggingFace && moe.router.chooses_otherwise() {
        let key = "moe_aux_loss_counts";
        if !moe.balance.counts.is_set() {
            let message = "the balance loss counts the experts that were chosen with bias and groups, as MindSpore \
                           Transformers does; the paper counts the best by score";
            let found = Diagnostic::note(&codes::COMPATIBILITY, message)
                .help(format!("write `{key}: unbiased` for the paper's, `selected` to keep this"));
            report.push(report.mark(found, moe.balance.coeff.span, ""));
        }
    }
}

fn check_groups(report: &Report, m: &ModelConfig, moe: &Moe, groups: &Groups) {
    let (experts, topk) = (moe.num_experts, moe.router.topk);
    let (num, kept) = (groups.num, groups.topk);
    if !experts.value.is_multiple_of(num.value) {
        let message = format!("{} experts cannot be cut into {} groups of one size", experts.value, num.value);
        let help = "the number of experts must be a multiple of `n_group`";
        pair(report, &message, experts.span, "experts", num.span, "groups", help);
        return;
    }
    if kept.value == 0 || kept.value > num.value {
        let message = format!("{} of {} groups of experts cannot be kept", kept.value, num.value);
        let help = "`topk_group` is from 1 to `n_group`";
        pair(report, &message, kept.span, "kept", num.span, "groups", help);
        return;
    }
    let size = experts.value / num.value;
    if topk.value > kept.value.saturating_mul(size) {
        let message =
            format!("{} groups of {size} experts have fewer than the {} that a token goes to", kept.value, topk.value);
        let help = "raise `topk_group`, or lower `num_experts_per_tok`";
        pair(report, &message, kept.span, "groups", topk.span, "experts of a token", help);
    }
    if m.convention == Convention::Mcore && !groups.best.is_set() && !topk.value.is_multiple_of(kept.value) {
        let message = format!("{} experts of a token are not a multiple of {} groups", topk.value, kept.value);
        let help = "in Mcore models a group counts by its best `num_experts_per_tok` / `topk_group` experts";
        pair(report, &message, topk.span, "experts of a token", kept.span, "groups", help);
    }
    if groups.best.value > size {
        let message = format!("a group of {size} experts cannot count by its best {}", groups.best.value);
        let help = "use fewer groups, or lower `moe_router_group_best`";
        pair(report, &message, groups.best.span.or(topk.span), "best", num.span, "groups", help);
    }
}
