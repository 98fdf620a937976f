//! The model in canonical names.

use std::fmt::Write as _;

use super::writer::{Writer, float, quoted};
use crate::config::{Activation, ModelConfig, Normalization, PositionEmbedding, RopeScaling};

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
            out.raw(
                "normalization",
                if m.normalization.value == Normalization::RmsNorm { "RMSNorm" } else { "LayerNorm" },
            );
            out.float("layernorm_epsilon", m.layernorm_epsilon.value);
            for (key, on) in [
                ("add_bias_linear", false),
                ("add_qkv_bias", m.add_qkv_bias.value),
                ("attn_proj_has_bias", m.attention_output_bias.value),
                ("mlp_bias", m.mlp_bias.value),
                ("gated_linear_unit", m.gated_linear_unit.value),
                ("qk_layernorm", m.qk_layernorm.value),
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
            positions(out, &m.position_embedding.value);
            if let Some(scale) = &m.softmax_scale {
                out.float("softmax_scale", scale.value);
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
