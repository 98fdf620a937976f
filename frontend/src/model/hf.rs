//! The `config.json` that Hugging Face `transformers` reads for a model.

use serde_json::{Map, Value, json};

use crate::config::{
    Activation, Family, LatentAttention, ModelConfig, Moe, PositionEmbedding, Rope, RopeScaling, ScoreFunction,
};

/// `config.json` of `m`, in the dialect that every version of `transformers` reads (`rope_theta` and `rope_scaling`).
pub fn config_json(m: &ModelConfig) -> Value {
    let mut out = match m.family {
        Family::Gpt2 => gpt2(m),
        _ => llama(m),
    };
    out.insert("model_type".into(), json!(m.family.model_type()));
    out.insert("architectures".into(), json!([m.family.architecture()]));
    out.insert("vocab_size".into(), json!(m.vocab_size.value));
    out.insert("tie_word_embeddings".into(), json!(m.tie_word_embeddings.value));
    out.insert("initializer_range".into(), json!(m.init_method_std.value));
    out.insert("torch_dtype".into(), json!("float32"));
    out.insert("use_cache".into(), json!(true));
    // Written even where there is none: the classes of some families have a default beyond a small vocabulary.
    let pad = m.pad_token_id;
    let known = pad.is_set() && (0..m.vocab_size.value as i64).contains(&pad.value);
    out.insert("pad_token_id".into(), json!(known.then_some(pad.value)));
    Value::Object(out)
}

fn activation(m: &ModelConfig) -> &'static str {
    match m.hidden_act.value {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::QuickGelu => "quick_gelu",
        Activation::Silu => "silu",
        Activation::Relu => "relu",
    }
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

fn gpt2(m: &ModelConfig) -> Map<String, Value> {
    object(json!({
        "n_embd": m.hidden_size.value,
        "n_layer": m.num_layers.value,
        "n_head": m.num_attention_heads.value,
        "n_inner": m.ffn_hidden_size.value,
        "n_positions": m.max_position_embeddings.value,
        "activation_function": activation(m),
        "layer_norm_epsilon": m.layernorm_epsilon.value,
        "embd_pdrop": m.embedding_dropout.value,
        "attn_pdrop": m.attention_dropout.value,
        "resid_pdrop": m.hidden_dropout.value,
    }))
}

fn llama(m: &ModelConfig) -> Map<String, Value> {
    let mut out = object(json!({
        "hidden_size": m.hidden_size.value,
        "intermediate_size": m.ffn_hidden_size.value,
        "num_hidden_layers": m.num_layers.value,
        "num_attention_heads": m.num_attention_heads.value,
        "num_key_value_heads": m.num_query_groups.value,
        "head_dim": m.kv_channels.value,
        "hidden_act": activation(m),
        "max_position_embeddings": m.max_position_embeddings.value,
        "rms_norm_eps": m.layernorm_epsilon.value,
        "attention_bias": m.add_qkv_bias.value,
        "attention_dropout": m.attention_dropout.value,
    }));
    if m.family == Family::Llama {
        out.insert("mlp_bias".into(), json!(m.mlp_bias.value));
    }
    if let PositionEmbedding::Rope(rope) = &m.position_embedding.value {
        out.insert("rope_theta".into(), json!(rope.theta.value));
        out.insert("rope_scaling".into(), scaling(&rope.scaling.value));
        if rope.partial_rotary_factor.value < 1.0 {
            out.insert("partial_rotary_factor".into(), json!(rope.partial_rotary_factor.value));
        }
        if let Some(latent) = &m.latent {
            out.extend(latent_attention(latent, rope));
        }
    }
    if m.position_embedding.value == PositionEmbedding::Alibi {
        // Baichuan's 13B models have no key for their positions: the other length is what tells them.
        out.remove("max_position_embeddings");
        out.insert("model_max_length".into(), json!(m.max_position_embeddings.value));
    }
    if let Some(moe) = &m.moe {
        out.extend(experts(m, moe));
    }
    if let Some(mtp) = &m.mtp {
        out.insert("num_nextn_predict_layers".into(), json!(mtp.num_layers.value));
    }
    if m.family == Family::Glm4Moe {
        out.insert("use_qk_norm".into(), json!(m.qk_layernorm.value));
    }
    out
}

fn latent_attention(l: &LatentAttention, rope: &Rope) -> Map<String, Value> {
    let mut out = object(json!({
        "q_lora_rank": l.q_lora_rank.as_ref().map(|r| r.value),
        "kv_lora_rank": l.kv_lora_rank.value,
        "qk_nope_head_dim": l.qk_head_dim.value,
        "qk_rope_head_dim": l.qk_pos_emb_head_dim.value,
        "qk_head_dim": l.head_dim(),
        "head_dim": l.qk_pos_emb_head_dim.value,
        "v_head_dim": l.v_head_dim.value,
        "rope_interleave": rope.interleaved.value,
    }));
    // There the factor on q·k follows from `mscale_all_dim`: m²/√d with m = 0.1·mscale_all_dim·ln(factor) + 1.
    if let RopeScaling::Yarn(yarn) = &rope.scaling.value
        && yarn.factor > 1.0
    {
        let m = (l.softmax_scale.value * (l.head_dim() as f64).sqrt()).sqrt();
        let mut map = object(scaling(&rope.scaling.value));
        map.insert("mscale_all_dim".into(), json!((m - 1.0) / (0.1 * yarn.factor.ln())));
        out.insert("rope_scaling".into(), Value::Object(map));
    }
    out
}

/// Experts under the names of the family's class.
fn experts(m: &ModelConfig, moe: &Moe) -> Map<String, Value> {
    let (experts, topk, width) = (moe.num_experts.value, moe.router.topk.value, moe.ffn_hidden_size.value);
    let shared = moe.shared.as_ref().map_or(0, |s| s.ffn_hidden_size.value);
    let dense: Vec<usize> =
        moe.layers.value.iter().enumerate().filter(|(_, sparse)| !**sparse).map(|(i, _)| i).collect();
    match m.family {
        Family::Mixtral => object(json!({
            "num_local_experts": experts,
            "num_experts_per_tok": topk,
            "intermediate_size": width,
            "sliding_window": null,
        })),
        Family::Qwen2Moe | Family::Qwen3Moe => {
            let mut out = object(json!({
                "num_experts": experts,
                "num_experts_per_tok": topk,
                "moe_intermediate_size": width,
                "norm_topk_prob": moe.router.normalize.value,
                "decoder_sparse_step": 1,
                "mlp_only_layers": dense,
            }));
            if m.family == Family::Qwen2Moe {
                out.insert("shared_expert_intermediate_size".into(), json!(shared));
            }
            out
        }
        _ => {
            let (groups, kept) = moe.router.groups.as_ref().map_or((1, 1), |g| (g.num.value, g.topk.value));
            let score = match moe.router.score.value {
                ScoreFunction::Softmax => "softmax",
                ScoreFunction::Sigmoid => "sigmoid",
                ScoreFunction::SqrtSoftplus => "sqrtsoftplus",
            };
            let method = match (moe.router.bias_rate.is_some(), groups > 1) {
                (true, _) => "noaux_tc",
                (false, true) => "group_limited_greedy",
                (false, false) => "greedy",
            };
            object(json!({
                "n_routed_experts": experts,
                "num_experts_per_tok": topk,
                "moe_intermediate_size": width,
                "n_shared_experts": shared / width.max(1),
                "n_group": groups,
                "topk_group": kept,
                "scoring_func": score,
                "topk_method": method,
                "norm_topk_prob": moe.router.normalize.value,
                "routed_scaling_factor": moe.router.scaling.value,
                "first_k_dense_replace": dense.len(),
                "moe_layer_freq": 1,
            }))
        }
    }
}

fn scaling(s: &RopeScaling) -> Value {
    match s {
        RopeScaling::Default => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::Yarn(y) => json!({
            "rope_type": "yarn",
            "factor": y.factor,
            "original_max_position_embeddings": y.original_max_position_embeddings,
            "beta_fast": y.beta_fast,
            "beta_slow": y.beta_slow,
            "attention_factor": y.attention_factor,
            "truncate": y.truncate,
        }),
        RopeScaling::Dynamic { factor, original_max_position_embeddings } => json!({
            "rope_type": "dynamic",
            "factor": factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    }
}
