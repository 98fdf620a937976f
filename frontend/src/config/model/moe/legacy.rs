//! Experts of the legacy layout: `moe_config`, a section of its own.

use std::collections::BTreeMap;

use super::read::{COUNTS, MASKS, drop_policy, score};
use super::{
    Around, AuxLoss, Balance, Capacity, GroupMask, Groups, LoadCounts, Moe, Router, ScoreFunction, SharedExpert,
};
use crate::config::known;
use crate::config::model::family::Family;
use crate::config::model::read::DTYPES;
use crate::config::model::{Dtype, alias};
use crate::config::reader::{Field, FromNode, Rule, Section};
use crate::config::span::Spanned;

/// Reads `moe_config`; `None` for a dense model. `extra_loss` says whether the model adds the experts' losses to its own.
pub(in crate::config::model) fn read(top: &mut Section<'_>, around: &Around, extra_loss: Spanned<bool>) -> Option<Moe> {
    let field = top.field("moe_config")?;
    let fields: BTreeMap<&str, Field> = alias::resolve(top.report, field.node, false);
    let mut s = Section::from_fields(top.report, "moe_config", Some(field.key_span), fields);
    let num = s.get("num_moe_experts", 1usize);
    let moe = (num.value > 1).then(|| experts(&mut s, around, num, extra_loss));
    let known = known::keys("moe_config");
    s.finish_with(Rule::Strict, &known);
    moe
}

fn experts(s: &mut Section<'_>, around: &Around, num_experts: Spanned<usize>, extra_loss: Spanned<bool>) -> Moe {
    let deepseek = matches!(around.family, Family::DeepseekV2 | Family::DeepseekV3);
    let policy = s.get("routing_policy", "TopkRouterV1".to_owned());
    if policy.value != "TopkRouterV2" {
        let what = format!("the routing policy `{}`", policy.value);
        s.not_supported(policy.span.or(num_experts.span), &what, "write `routing_policy: TopkRouterV2`");
    }
    // Llama's classes give their experts the width of the dense layer, DeepSeek's one of their own.
    let own = s.positive("moe_ffn_hidden_size", 1407);
    let ffn_hidden_size = if deepseek { own } else { around.ffn_hidden_size };
    let topk = s.positive("moe_router_topk", 1);
    let bias = s.get("moe_router_enable_expert_bias", false);
    let rate = s.checked("moe_router_bias_update_rate", 0.0, "must not be negative", |v| *v >= 0.0);
    let router = Router {
        topk,
        score: score(s, ScoreFunction::Softmax),
        normalize: s.get("norm_topk_prob", true),
        scaling: s.checked("moe_router_topk_scaling_factor", 1.0, "must be above 0", |v| *v > 0.0),
        groups: groups(s),
        bias_rate: bias.value.then_some(Spanned { span: rate.span.or(bias.span), ..rate }),
        dtype: s.one_of("moe_router_dtype", DTYPES, Dtype::F32),
    };
    let shared = s.get("shared_expert_num", 0usize);
    let shared_width = shared.map(|n| n.saturating_mul(ffn_hidden_size.value));
    let gated = s.get("use_shared_expert_gating", false);
    let layers = layers(s, around, deepseek);
    let (coeff, z_loss_coeff) = losses(s, extra_loss);
    Moe {
        num_experts,
        ffn_hidden_size,
        layers,
        router,
        capacity: capacity(s),
        shared: (shared.value > 0).then_some(SharedExpert { ffn_hidden_size: shared_width, gated }),
        balance: Balance {
            kind: Spanned::default(AuxLoss::Sequence),
            coeff,
            counts: s.one_of("moe_aux_loss_counts", COUNTS, LoadCounts::Selected),
        },
        z_loss_coeff,
    }
}

/// Groups count only if `topk_method` says so: by their best expert, or by the best two.
fn groups(s: &mut Section<'_>) -> Option<Groups> {
    let methods = [("greedy", None), ("group_limited_greedy", Some(1)), ("noaux_tc", Some(2))];
    let method = s.one_of("topk_method", &methods, None);
    let num = s.get("moe_router_num_groups", 0usize);
    let kept = s.get("moe_router_group_topk", 0usize);
    let mask = s.one_of("moe_router_group_mask", MASKS, GroupMask::Zero);
    let best = Spanned { value: method.value?, span: method.span };
    (num.value > 1).then_some(Groups { num, topk: kept, best, mask })
}

/// Grouped products drop nothing; without them `capacity_factor` is obeyed if it is above 0.
fn capacity(s: &mut Section<'_>) -> Option<Capacity> {
    let grouped = s.get("moe_grouped_gemm", false);
    let factor = s.get("moe_expert_capacity_factor", 1.1);
    let policy = drop_policy(s);
    (!grouped.value && factor.value > 0.0).then_some(Capacity { factor, policy })
}

/// A number of dense layers at the front, or a boolean that counts as one. Llama's classes have experts everywhere.
fn layers(s: &mut Section<'_>, around: &Around, deepseek: bool) -> Spanned<Vec<bool>> {
    let key = "first_k_dense_replace";
    let boolean = s.peek(key).and_then(|f| bool::from_node(f.node));
    let first = match boolean {
        Some(on) => {
            s.take(&[key]);
            Spanned::default(usize::from(on))
        }
        None => s.get(key, 1usize),
    };
    let dense = if deepseek { first.value } else { 0 };
    Spanned { value: (0..around.num_layers.value).map(|i| i >= dense).collect(), span: first.span }
}

/// α of the loss over experts, and the factor of the z-loss.
fn losses(s: &mut Section<'_>, extra_loss: Spanned<bool>) -> (Spanned<f64>, Spanned<f64>) {
    let types = s.opt::<Vec<String>>("aux_loss_types");
    let factors = s.opt::<Vec<f64>>("aux_loss_factors");
    let z = s.checked("moe_z_loss_coeff", 0.0, "must not be negative", |v| *v >= 0.0);
    let mut alpha = Spanned::default(0.0);
    if let (Some(types), Some(factors)) = (types, factors) {
        for (kind, factor) in types.value.iter().zip(&factors.value).filter(|(_, f)| **f > 0.0) {
            match kind.as_str() {
                "expert" => alpha = Spanned { value: *factor, span: factors.span },
                other => {
                    let what = format!("the `{other}` part of the balance loss");
                    s.not_supported(types.span, &what, "give it the factor 0, or leave it out");
                }
            }
        }
    }
    if !extra_loss.value {
        for (key, loss) in [("aux_loss_factors", alpha), ("z_loss_factor", z)] {
            if let Some(span) = loss.span.filter(|_| loss.value > 0.0) {
                s.report.idle("moe_config", key, span);
            }
        }
        return (Spanned::default(0.0), Spanned::default(0.0));
    }
    (alpha, z)
}
