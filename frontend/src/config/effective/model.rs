//! The model in canonical names.

use std::fmt::Write as _;

use super::writer::{Writer, float, quoted};
use crate::config::{
    Activation, AuxLoss, DropPolicy, GroupMask, LatentAttention, LoadCounts, ModelConfig, Moe, Normalization,
    PositionEmbedding, RopeScaling, Router, ScoreFunction,
};

pub(super) fn write(out: &mut Writer, m: &ModelConfig) {
    out.section("model", |out| {
        out.section("model_config", |out| {
            out.string("model_type", m.family.model_type());
            out.raw("architectures", &format!("[{}]", m.family.architecture()));
            for (key, size) in [
                ("vocab_size", &m.vocab_size),
                ("hidden_size", &m.hidden_size),
                ("num_layers", &m.num_layers),
                ("num_attention_heads", &m.num_attention_heads),
                ("num_query_groups", &m.num_query_groups),
                ("ffn_hidden_size", &m.ffn_hidden_size),
                ("kv_channels", &m.kv_channels),
                ("seq_length", &m.seq_length),
                ("max_position_embeddings", &m.max_position_embeddings),
                ("chunk_loss_num", &m.chunk_loss_num),
            ] {
                out.number(key, size.value);
            }
            if m.use_ring_attention.is_set() {
                out.boolean("use_ring_attention", m.use_ring_attention.value);
            }
            if m.offset.is_set() {
                out.raw("offset", &m.offset.value.text());
            }
            if m.chunks.is_set() {
                out.number("pp_interleave_num", m.chunks.value);
            }
            out.raw(
                "normalization",
                if m.normalization.value == Normalization::RmsNorm { "RMSNorm" } else { "LayerNorm" },
            );
            out.float("layernorm_epsilon", m.layernorm_epsilon.value);
            for (key, on) in [
                ("add_bias_linear", false),
                ("add_qkv_bias", m.add_qkv_bias.value),
                ("attn_proj_has_bias", m.attention_output_bias.value),
                ("add_mlp_fc1_bias_linear", m.mlp_bias.value),
                ("add_mlp_fc2_bias_linear", m.mlp_down_bias.value),
                ("gated_linear_unit", m.gated_linear_unit.value),
                ("qk_layernorm", m.qk_layernorm.value),
                ("sandwich_norm", m.sandwich_norm.value),
                ("norm_head", m.norm_head.value),
                ("tie_word_embeddings", m.tie_word_embeddings.value),
                ("fp32_residual_connection", m.fp32_residual_connection.value),
                ("calculate_per_token_loss", m.calculate_per_token_loss.value),
                ("input_sliced_sig", m.input_sliced_sig.value),
                ("use_contiguous_weight_layout_attention", m.layouts.contiguous_attention),
                ("use_interleaved_weight_layout_mlp", m.layouts.interleaved_mlp),
                ("mla_qkv_concat", m.layouts.mla_qkv_concat),
            ] {
                out.boolean(key, on);
            }
            out.raw("hidden_act", activation(m.hidden_act.value));
            if let Some(limit) = &m.activation_func_clamp_value {
                out.float("activation_func_clamp_value", limit.value);
            }
            positions(out, &m.position_embedding.value);
            if let Some(scale) = m.latent.as_ref().map(|l| &l.softmax_scale).or(m.softmax_scale.as_ref()) {
                out.float("softmax_scale", scale.value);
            }
            latent(out, m.latent.as_ref());
            experts(out, m.moe.as_ref());
            out.number("mtp_num_layers", m.mtp.as_ref().map_or(0, |mtp| mtp.num_layers.value));
            if let Some(mtp) = &m.mtp {
                out.float("mtp_loss_scaling_factor", mtp.loss_scaling_factor.value);
            }
            for (key, p) in [
                ("hidden_dropout", &m.hidden_dropout),
                ("attention_dropout", &m.attention_dropout),
                ("embedding_dropout", &m.embedding_dropout),
                ("init_method_std", &m.init_method_std),
            ] {
                out.float(key, p.value);
            }
            if !m.param_init_std_rules.is_empty() {
                out.raw("param_init_std_rules", "");
                for rule in &m.param_init_std_rules {
                    let (target, std) = (quoted(&rule.target), float(rule.init_method_std.value));
                    let _ = writeln!(out.text, "    - {{target: {target}, init_method_std: {std}}}");
                }
            }
            for (key, dtype) in [
                ("params_dtype", &m.params_dtype),
                ("embedding_params_dtype", &m.embedding_params_dtype),
                ("compute_dtype", &m.compute_dtype),
                ("layernorm_compute_dtype", &m.layernorm_compute_dtype),
                ("softmax_compute_dtype", &m.softmax_compute_dtype),
                ("rotary_dtype", &m.rotary_dtype),
            ] {
                out.string(key, dtype.name());
            }
            out.number("ignore_token_id", m.ignore_token_id.value);
            out.number("pad_token_id", m.pad_token_id.value);
        });
    });
}

fn activation(act: Activation) -> &'static str {
    match act {
        Activation::Gelu => "gelu_erf",
        Activation::GeluTanh => "gelu_new",
        Activation::QuickGelu => "quick_gelu",
        Activation::Silu => "silu",
        Activation::Relu => "relu",
    }
}

fn positions(out: &mut Writer, positions: &PositionEmbedding) {
    let rope = match positions {
        PositionEmbedding::LearnedAbsolute => return out.raw("position_embedding_type", "learned_absolute"),
        PositionEmbedding::None => return out.raw("position_embedding_type", "none"),
        PositionEmbedding::Alibi => return out.boolean("use_alibi_mask", true),
        PositionEmbedding::Rope(rope) => rope,
    };
    out.raw("position_embedding_type", "rope");
    out.float("rotary_base", rope.theta.value);
    out.float("partial_rotary_factor", rope.partial_rotary_factor.value);
    out.boolean("rotary_interleaved", rope.interleaved.value);
    out.section("rope_scaling", |out| match rope.scaling.value {
        RopeScaling::Default => out.raw("rope_type", "default"),
        RopeScaling::Linear { factor } => {
            out.raw("rope_type", "linear");
            out.float("factor", factor);
        }
        RopeScaling::Dynamic { factor, original_max_position_embeddings } => {
            out.raw("rope_type", "dynamic");
            out.float("factor", factor);
            out.number("original_max_position_embeddings", original_max_position_embeddings);
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            out.raw("rope_type", "llama3");
            out.float("factor", factor);
            out.float("low_freq_factor", low_freq_factor);
            out.float("high_freq_factor", high_freq_factor);
            out.number("original_max_position_embeddings", original_max_position_embeddings);
        }
        RopeScaling::Yarn(yarn) => {
            out.raw("rope_type", "yarn");
            out.float("factor", yarn.factor);
            out.number("original_max_position_embeddings", yarn.original_max_position_embeddings);
            out.float("beta_fast", yarn.beta_fast);
            out.float("beta_slow", yarn.beta_slow);
            out.float("attention_factor", yarn.attention_factor);
            out.boolean("truncate", yarn.truncate);
        }
    });
}

fn latent(out: &mut Writer, latent: Option<&LatentAttention>) {
    out.boolean("multi_latent_attention", latent.is_some());
    let Some(l) = latent else { return };
    match &l.q_lora_rank {
        Some(rank) => out.number("q_lora_rank", rank.value),
        None => out.raw("q_lora_rank", "null"),
    }
    out.number("kv_lora_rank", l.kv_lora_rank.value);
    out.number("qk_head_dim", l.qk_head_dim.value);
    out.number("qk_pos_emb_head_dim", l.qk_pos_emb_head_dim.value);
    out.number("v_head_dim", l.v_head_dim.value);
}

fn experts(out: &mut Writer, moe: Option<&Moe>) {
    let Some(moe) = moe else { return out.number("num_moe_experts", 0) };
    out.number("num_moe_experts", moe.num_experts.value);
    out.number("moe_ffn_hidden_size", moe.ffn_hidden_size.value);
    let layers: Vec<&str> = moe.layers.value.iter().map(|on| if *on { "1" } else { "0" }).collect();
    out.number("first_k_dense_replace", 0);
    out.raw("moe_layer_freq", &format!("[{}]", layers.join(", ")));
    router(out, &moe.router);
    if let Some(capacity) = &moe.capacity {
        out.float("moe_expert_capacity_factor", capacity.factor.value);
        let position = capacity.policy.value == DropPolicy::Position;
        out.raw("moe_token_drop_policy", if position { "position" } else { "probs" });
    }
    let shared = moe.shared.as_ref();
    out.number("moe_shared_expert_intermediate_size", shared.map_or(0, |s| s.ffn_hidden_size.value));
    out.boolean("use_shared_expert_gating", shared.is_some_and(|s| s.gated.value));
    let kind = match moe.balance.kind.value {
        AuxLoss::Sequence => "seq_aux_loss",
        AuxLoss::SubSequence => "sub_seq_aux_loss",
        AuxLoss::GlobalBatch => "gbs_aux_loss",
    };
    out.raw("moe_router_load_balancing_type", kind);
    out.float("moe_aux_loss_coeff", moe.balance.coeff.value);
    let selected = moe.balance.counts.value == LoadCounts::Selected;
    out.raw("moe_aux_loss_counts", if selected { "selected" } else { "unbiased" });
    out.float("moe_z_loss_coeff", moe.z_loss_coeff.value);
}

fn router(out: &mut Writer, r: &Router) {
    out.number("moe_router_topk", r.topk.value);
    let score = match r.score.value {
        ScoreFunction::Softmax => "softmax",
        ScoreFunction::Sigmoid => "sigmoid",
        ScoreFunction::SqrtSoftplus => "sqrtsoftplus",
    };
    out.raw("moe_router_score_function", score);
    // Mcore asks for it of a router that chooses one expert by a softmax; it is what is done here.
    out.boolean("moe_router_pre_softmax", true);
    out.boolean("norm_topk_prob", r.normalize.value);
    out.float("moe_router_topk_scaling_factor", r.scaling.value);
    out.number("moe_router_num_groups", r.groups.as_ref().map_or(0, |g| g.num.value));
    if let Some(groups) = &r.groups {
        out.number("moe_router_group_topk", groups.topk.value);
        out.number("moe_router_group_best", groups.best.value);
        let zero = groups.mask.value == GroupMask::Zero;
        out.raw("moe_router_group_mask", if zero { "zero" } else { "neg_inf" });
    }
    out.boolean("moe_router_enable_expert_bias", r.bias_rate.is_some());
    if let Some(rate) = &r.bias_rate {
        out.float("moe_router_bias_update_rate", rate.value);
    }
    out.string("moe_router_dtype", r.dtype.value.name());
}
