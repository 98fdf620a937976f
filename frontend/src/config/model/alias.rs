//! The names under which one setting of a model is known, and how they come together.

use std::collections::BTreeMap;

use athanor_ir::Diagnostic;

use crate::config::codes;
use crate::config::node::Node;
use crate::config::reader::Field;
use crate::config::report::Report;

/// Canonical name (Megatron's) and the other spellings: Hugging Face's and those of both `MindFormers` generations.
const ALIASES: &[(&str, &[&str])] = &[
    ("num_layers", &["num_hidden_layers", "n_layer"]),
    ("num_attention_heads", &["num_heads", "n_head"]),
    ("num_query_groups", &["n_kv_heads", "num_key_value_heads"]),
    ("hidden_size", &["n_embd"]),
    ("ffn_hidden_size", &["intermediate_size", "n_inner"]),
    ("kv_channels", &["head_dim"]),
    ("layernorm_epsilon", &["rms_norm_eps", "layer_norm_epsilon"]),
    ("add_qkv_bias", &["qkv_has_bias", "attention_bias"]),
    ("max_position_embeddings", &["max_position_embedding", "n_positions"]),
    ("vocab_size", &["padded_vocab_size"]),
    ("rotary_interleaved", &["rope_interleave"]),
    ("hidden_act", &["activation_function"]),
    ("hidden_dropout", &["hidden_dropout_rate", "hidden_dropout_prob", "resid_pdrop"]),
    ("attention_dropout", &["attention_dropout_rate", "attention_dropout_prob", "attn_pdrop"]),
    ("embedding_dropout", &["emb_dropout_prob", "embed_dropout_prob", "embedding_dropout_prob", "embd_pdrop"]),
    ("qk_layernorm", &["use_qk_norm"]),
    ("position_embedding_type", &["extend_method"]),
    ("init_method_std", &["initializer_range"]),
    ("rotary_base", &["theta", "rope_theta", "rotary_emb_base"]),
    ("rope_scaling", &["rope_parameters"]),
    ("rotary_scaling_factor", &["factor"]),
    ("partial_rotary_factor", &["rotary_percent", "rotary_pct"]),
    ("params_dtype", &["param_init_type"]),
    ("embedding_params_dtype", &["embedding_init_type"]),
    ("layernorm_compute_dtype", &["layernorm_compute_type"]),
    ("softmax_compute_dtype", &["softmax_compute_type"]),
    ("apply_residual_connection_post_layernorm", &["post_layernorm_residual"]),
    ("num_moe_experts", &["expert_num", "n_routed_experts", "num_experts", "num_local_experts"]),
    ("moe_ffn_hidden_size", &["moe_intermediate_size"]),
    ("moe_router_topk", &["num_experts_chosen", "num_experts_per_tok"]),
    ("moe_router_num_groups", &["n_group"]),
    ("moe_router_group_topk", &["topk_group"]),
    ("moe_router_topk_scaling_factor", &["routed_scaling_factor"]),
    ("moe_router_score_function", &["use_gating_sigmoid", "scoring_func"]),
    ("moe_router_dtype", &["router_dense_type"]),
    ("moe_router_enable_expert_bias", &["balance_via_topk_bias"]),
    ("moe_router_bias_update_rate", &["topk_bias_update_rate"]),
    ("moe_grouped_gemm", &["use_gmm"]),
    ("moe_z_loss_coeff", &["z_loss_factor"]),
    ("moe_expert_capacity_factor", &["capacity_factor"]),
    ("moe_token_drop_policy", &["enable_sdrop"]),
    ("use_pad_tokens", &["enable_gmm_safe_tokens"]),
    ("shared_expert_num", &["n_shared_experts"]),
    ("moe_shared_expert_intermediate_size", &["shared_expert_intermediate_size"]),
    ("mtp_num_layers", &["mtp_depth", "num_nextn_predict_layers"]),
    ("mtp_loss_scaling_factor", &["mtp_loss_factor"]),
    ("qk_head_dim", &["qk_nope_head_dim"]),
    ("qk_pos_emb_head_dim", &["qk_rope_head_dim"]),
    ("virtual_pipeline_model_parallel_size", &["pp_interleave_num"]),
];

/// The canonical name of `key`.
pub(super) fn canonical(key: &str) -> &str {
    ALIASES.iter().find(|(_, names)| names.contains(&key)).map_or(key, |(name, _)| name)
}

/// Every name in the table.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALIASES.iter().flat_map(|(name, aliases)| std::iter::once(*name).chain(aliases.iter().copied()))
}

/// The entries of `layer` (`hf`: a config.json) by canonical name. Two names of one setting with different values are reported.
pub(super) fn resolve<'a>(report: &Report, layer: &'a Node, hf: bool) -> BTreeMap<&'a str, Field<'a>> {
    let mut fields: BTreeMap<&str, Field> = BTreeMap::new();
    for entry in layer.entries() {
        let field = Field::from(entry);
        let name = match (hf, entry.key.as_str()) {
            // In a config.json this is a sum of two others, not the setting that MindFormers calls so.
            (true, "qk_head_dim") => continue,
            // And these are ChatGLM's longest sequence, and InternLM2's biases of attention.
            (true, "seq_length") => "max_position_embeddings",
            (true, "bias") => "has_bias",
            (_, key) => canonical(key),
        };
        let Some(first) = fields.get(name).copied() else {
            fields.insert(name, field);
            continue;
        };
        // A null says nothing; the other name does.
        if first.node.is_null() {
            fields.insert(name, field);
        } else if !field.node.is_null() && !first.node.same_value(field.node) {
            let message = format!(
                "`{}` and `{}` are two names of one setting with different values",
                first.written, field.written
            );
            let found = Diagnostic::error(&codes::ALIAS_CONFLICT, message)
                .help(format!("keep one of them; both mean `{name}`"));
            let found = report.mark(found, Some(first.key_span), format!("{} here", first.node.describe()));
            report.push(report.mark(found, Some(field.key_span), format!("{} here", field.node.describe())));
        }
    }
    fields
}
