//! Experts under Mcore's names, which a config.json's are aliases of.

use super::{
    AuxLoss, Balance, Capacity, DropPolicy, GroupMask, Groups, LoadCounts, Moe, Router, ScoreFunction, SharedExpert,
};
use crate::config::model::Dtype;
use crate::config::model::family::{Convention, Experts, Family};
use crate::config::model::read::DTYPES;
use crate::config::node::Kind;
use crate::config::reader::{FromNode, Section, wrong_type};
use crate::config::scalar;
use crate::config::span::Spanned;

/// What the rest of the model says that experts depend on.
pub(in crate::config::model) struct Around {
    pub family: Family,
    pub convention: Convention,
    pub experts: Option<Experts>,
    pub num_layers: Spanned<usize>,
    pub ffn_hidden_size: Spanned<usize>,
}

const SCORES: &[(&str, ScoreFunction)] = &[
    ("softmax", ScoreFunction::Softmax),
    ("sigmoid", ScoreFunction::Sigmoid),
    ("sqrtsoftplus", ScoreFunction::SqrtSoftplus),
];
const BALANCES: &[(&str, Option<AuxLoss>)] = &[
    ("seq_aux_loss", Some(AuxLoss::Sequence)),
    ("sub_seq_aux_loss", Some(AuxLoss::SubSequence)),
    ("gbs_aux_loss", Some(AuxLoss::GlobalBatch)),
    ("none", None),
];
pub(super) const MASKS: &[(&str, GroupMask)] = &[("zero", GroupMask::Zero), ("neg_inf", GroupMask::NegativeInfinity)];
pub(super) const COUNTS: &[(&str, LoadCounts)] =
    &[("selected", LoadCounts::Selected), ("unbiased", LoadCounts::Unbiased)];
const POLICIES: &[(&str, DropPolicy)] = &[("probs", DropPolicy::Probs), ("position", DropPolicy::Position)];

/// Reads the experts; `None` for a dense model.
pub(in crate::config::model) fn read(s: &mut Section<'_>, around: &Around) -> Option<Moe> {
    let null = s.peek("num_moe_experts").is_some_and(|f| f.node.is_null());
    let given = s.opt::<usize>("num_moe_experts");
    let num_experts = given.or(around.experts.filter(|_| !null).map(|d| Spanned::default(d.num)))?;
    if num_experts.value <= 1 {
        return None;
    }
    let d = around.experts.unwrap_or(Experts { topk: 2, normalize: true, scaling: 1.0, ..Experts::default() });
    let width = if d.ffn == 0 { around.ffn_hidden_size } else { Spanned::default(d.ffn) };
    let ffn_hidden_size = s.opt_checked("moe_ffn_hidden_size", "must be at least 1", |v| *v >= 1).unwrap_or(width);
    let router = router(s, around, &d);
    let coeff = s.checked("moe_aux_loss_coeff", 0.0, "must not be negative", |v| *v >= 0.0);
    let kind = s.one_of("moe_router_load_balancing_type", BALANCES, Some(AuxLoss::SubSequence));
    // Hugging Face's models have no loss of their own; the paper's counts the unbiased choice.
    let hub = around.convention == Convention::HuggingFace;
    let counts = if hub { LoadCounts::Unbiased } else { LoadCounts::Selected };
    let balance = Balance {
        kind: kind.map(|k| k.unwrap_or(AuxLoss::SubSequence)),
        coeff: if kind.value.is_none() { Spanned { value: 0.0, ..coeff } } else { coeff },
        counts: s.one_of("moe_aux_loss_counts", COUNTS, counts),
    };
    Some(Moe {
        num_experts,
        ffn_hidden_size,
        layers: layers(s, around, &d),
        router,
        capacity: capacity(s),
        shared: shared(s, &d, ffn_hidden_size),
        balance,
        z_loss_coeff: s.checked("moe_z_loss_coeff", 0.0, "must not be negative", |v| *v >= 0.0),
    })
}

fn router(s: &mut Section<'_>, around: &Around, d: &Experts) -> Router {
    let topk = s.positive("moe_router_topk", d.topk);
    let default = if d.sigmoid { ScoreFunction::Sigmoid } else { ScoreFunction::Softmax };
    let bias = s.get("moe_router_enable_expert_bias", d.bias);
    let rate = s.checked("moe_router_bias_update_rate", 0.001, "must not be negative", |v| *v >= 0.0);
    Router {
        topk,
        score: score(s, default),
        normalize: s.get("norm_topk_prob", d.normalize),
        scaling: s.checked("moe_router_topk_scaling_factor", d.scaling, "must be above 0", |v| *v > 0.0),
        groups: groups(s, around, d, topk.value),
        bias_rate: bias.value.then_some(Spanned { span: rate.span.or(bias.span), ..rate }),
        dtype: s.one_of("moe_router_dtype", DTYPES, Dtype::F32),
    }
}

/// A name, or the boolean of the alias `use_gating_sigmoid`.
pub(super) fn score(s: &mut Section<'_>, default: ScoreFunction) -> Spanned<ScoreFunction> {
    let key = "moe_router_score_function";
    let boolean = s.peek(key).and_then(|f| Some(Spanned::at(bool::from_node(f.node)?, f.node.span)));
    if let Some(sigmoid) = boolean {
        s.take(&[key]);
        return sigmoid.map(|on| if on { ScoreFunction::Sigmoid } else { ScoreFunction::Softmax });
    }
    s.one_of(key, SCORES, default)
}

fn groups(s: &mut Section<'_>, around: &Around, d: &Experts, topk: usize) -> Option<Groups> {
    let num = s.get("moe_router_num_groups", d.groups);
    let kept = s.get("moe_router_group_topk", d.group_topk);
    let method = s.opt::<String>("topk_method");
    let hub = around.convention == Convention::HuggingFace;
    let limited = match around.family {
        Family::DeepseekV2 if hub => method.is_some_and(|m| m.value == "group_limited_greedy"),
        _ => true,
    };
    let best = match (around.family, hub) {
        (Family::DeepseekV2, true) => 1,
        (_, true) => 2,
        // Mcore's rule: as many as a kept group has to give.
        (_, false) => topk.checked_div(kept.value).unwrap_or(1).max(1),
    };
    let best = s.positive("moe_router_group_best", best);
    let mask = s.one_of("moe_router_group_mask", MASKS, GroupMask::Zero);
    // 0 and 1 group are none.
    (limited && num.value > 1).then_some(Groups { num, topk: kept, best, mask })
}

/// Capacity by factor, none at all if it is not above 0.
fn capacity(s: &mut Section<'_>) -> Option<Capacity> {
    let factor = s.opt::<f64>("moe_expert_capacity_factor");
    let policy = drop_policy(s);
    factor.filter(|f| f.value > 0.0).map(|factor| Capacity { factor, policy })
}

/// A name, or a boolean: true drops by position, false by weight.
pub(super) fn drop_policy(s: &mut Section<'_>) -> Spanned<DropPolicy> {
    let key = "moe_token_drop_policy";
    let boolean = s.peek(key).and_then(|f| Some(Spanned::at(bool::from_node(f.node)?, f.node.span)));
    if let Some(position) = boolean {
        s.take(&[key]);
        return position.map(|on| if on { DropPolicy::Position } else { DropPolicy::Probs });
    }
    s.one_of(key, POLICIES, DropPolicy::Probs)
}

fn shared(s: &mut Section<'_>, d: &Experts, width: Spanned<usize>) -> Option<SharedExpert> {
    let num = s.get("shared_expert_num", d.shared);
    let total = num.value.saturating_mul(d.shared_ffn.unwrap_or(width.value));
    let total = Spanned { value: total, span: num.span.or(width.span) };
    let size = s.opt::<usize>("moe_shared_expert_intermediate_size").unwrap_or(total);
    let gated = s.get("use_shared_expert_gating", d.shared_gate);
    (size.value > 0).then_some(SharedExpert { ffn_hidden_size: size, gated })
}

/// Which layers have experts: `moe_layer_freq` with `first_k_dense_replace`, or Qwen's names for the like.
fn layers(s: &mut Section<'_>, around: &Around, d: &Experts) -> Spanned<Vec<bool>> {
    let count = around.num_layers.value;
    let first = s.get("first_k_dense_replace", d.first_dense);
    let (step, dense) = if around.convention == Convention::HuggingFace {
        (s.positive("decoder_sparse_step", 1), s.get("mlp_only_layers", Vec::<usize>::new()))
    } else {
        (Spanned::default(1), Spanned::default(vec![]))
    };
    if let Some(list) = s.peek("moe_layer_freq").filter(|f| matches!(f.node.kind, Kind::Seq(_))) {
        s.take(&["moe_layer_freq"]);
        let Kind::Seq(items) = &list.node.kind else { return Spanned::default(vec![]) };
        let flag = |text: &str| scalar::integer(text).map(|n| n != 0).or_else(|| scalar::boolean(text));
        let flags: Option<Vec<bool>> = items.iter().map(|i| flag(i.text()?)).collect();
        let Some(flags) = flags else {
            wrong_type(s.report, &s.path_of("moe_layer_freq"), list, "a number or a list of 0 and 1");
            return Spanned::default(vec![true; count]);
        };
        // The first dense layers go before the list, as in MindFormers.
        if first.value == 0 {
            return Spanned::at(flags, list.node.span);
        }
    }
    let is_list = s.peek("moe_layer_freq").is_some_and(|f| matches!(f.node.kind, Kind::Seq(_)));
    let freq = if is_list { Spanned::default(1) } else { s.positive("moe_layer_freq", 1) };
    let sparse = |i: usize| {
        i >= first.value
            && i.is_multiple_of(freq.value)
            && (i + 1).is_multiple_of(step.value)
            && !dense.value.contains(&i)
    };
    let span = first.span.or(freq.span).or(step.span).or(dense.span);
    Spanned { value: (0..count).map(sparse).collect(), span }
}
