//! The `config.json` that Hugging Face `transformers` reads for a model.

use serde_json::{Map, Value, json};

use crate::config::{Activation, Family, ModelConfig, PositionEmbedding, RopeScaling};

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
    }
    out
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
