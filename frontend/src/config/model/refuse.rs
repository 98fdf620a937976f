//! Settings of a model that change what it computes and cannot be done yet.

use super::Family;
use crate::config::node::Node;
use crate::config::reader::{FromNode, Section};
use crate::config::scalar;

/// When a setting asks for something.
#[derive(Clone, Copy)]
enum Asks {
    /// It is true.
    IfTrue,
    /// It is false.
    IfFalse,
    /// It is given and not null.
    IfSet,
    /// It is a number above this.
    Above(f64),
}

use Asks::{Above, IfFalse, IfSet, IfTrue};

/// Key, when it asks for something, what it asks for.
const SWITCHES: &[(&str, Asks, &str)] = &[
    ("experimental_attention_variant", IfSet, "this variant of attention"),
    ("enable_hyper_connections", IfTrue, "a residual stream of several hyper-connections"),
    ("o_groups", Above(1.0), "an output projection of low rank by groups of heads"),
    ("compress_ratios", IfSet, "attention over compressed keys and values"),
    ("csa_compress_ratios", IfSet, "attention over compressed keys and values"),
    ("dsa_indexer_topk", IfSet, "attention over the keys that an indexer chooses"),
    ("index_topk", IfSet, "attention over the keys that an indexer chooses"),
    ("moe_n_hash_layers", Above(0.0), "routing by a hash of the token"),
    ("n_hash_layers", Above(0.0), "routing by a hash of the token"),
    ("num_hash_layers", Above(0.0), "routing by a hash of the token"),
    ("moe_router_force_expert_balance", IfTrue, "routing in turn, whatever the router says,"),
    ("moe_apply_probs_on_input", IfTrue, "weighing of what enters an expert"),
    ("output_router_logits", IfTrue, "Hugging Face's loss on uneven load, over all layers at once,"),
    ("pre_seq_len", Above(0.0), "parameter-efficient tuning"),
    ("apply_residual_connection_post_layernorm", IfTrue, "the residual connection after the normalisation"),
    ("post_layer_norm", IfFalse, "a decoder without its last normalisation"),
    ("scale_attn_by_inverse_layer_idx", IfTrue, "scaling of attention by the layer's number"),
    ("scale_attn_weights", IfFalse, "attention without a scale"),
    ("use_sliding_window", IfTrue, "a sliding attention window"),
    ("window_size", IfSet, "a sliding attention window"),
    ("window_attn_skip_freq", IfSet, "a sliding attention window"),
    ("nope_layer_interval", IfSet, "layers without positions"),
    ("use_eod_attn_mask_compression", IfTrue, "packed attention by document ends"),
    ("use_eod_reset", IfTrue, "packed attention by document ends"),
    ("fp16_lm_cross_entropy", IfTrue, "the loss in float16"),
    ("pet_config", IfSet, "parameter-efficient tuning"),
    ("num_encoder_layers", IfSet, "an encoder"),
    ("is_reward_model", IfTrue, "a reward model"),
    ("add_cross_attention", IfTrue, "cross attention"),
];

/// Keys that belong to what a model has or has not, and without effect where it has it not.
const KNOWN: &str = "\
    moe_ffn_hidden_size moe_router_topk moe_router_num_groups moe_router_group_topk moe_router_topk_scaling_factor \
    moe_router_score_function moe_router_dtype moe_router_enable_expert_bias moe_router_bias_update_rate \
    moe_grouped_gemm moe_z_loss_coeff moe_expert_capacity_factor moe_token_drop_policy use_pad_tokens \
    shared_expert_num mtp_loss_scaling_factor moe_intermediate_size num_experts_chosen num_experts_per_tok n_group \
    topk_group routed_scaling_factor use_gating_sigmoid scoring_func router_dense_type balance_via_topk_bias \
    topk_bias_update_rate use_gmm z_loss_factor capacity_factor enable_sdrop enable_gmm_safe_tokens n_shared_experts \
    mtp_loss_factor moe_router_load_balancing_type moe_aux_loss_coeff moe_layer_freq first_k_dense_replace \
    moe_shared_expert_overlap moe_shared_expert_intermediate_size shared_expert_intermediate_size \
    moe_router_pre_softmax moe_token_dispatcher_type group_wise_a2a comp_comm_parallel comp_comm_parallel_degree \
    norm_topk_prob use_shared_expert_gating topk_method callback_moe_droprate moe_router_fusion print_expert_load \
    enable_expert_relocation expert_relocation_initial_iteration expert_relocation_freq q_lora_rank kv_lora_rank \
    qk_head_dim qk_nope_head_dim qk_pos_emb_head_dim qk_rope_head_dim v_head_dim beta_fast beta_slow mscale \
    mscale_all_dim rotary_scaling_factor factor scaling_factor original_max_position_embeddings \
    coeff rope_scaling rope_parameters sliding_window \
    activation_func layer_types ep_size aux_loss_alpha seq_aux apply_query_key_layer_scaling decoder_sparse_step \
    mlp_only_layers router_jitter_noise output_router_logits quantization_bit prefix_projection pre_seq_len rope_ratio \
    multi_query_attention multi_query_group_num rmsnorm original_rope classifier_dropout base_seqlen training_seqlen \
    embed_layernorm logn model_max_length z_loss_weight no_recompute_layers use_kv_channels mla_softmax_scale \
    moe_router_group_best moe_router_group_mask moe_aux_loss_counts norm_head has_bias o_lora_rank \
    csa_window_size csa_dense_mode csa_compress_rotary_base apply_dsa_kernel_fusion num_residual_streams";

/// The keys in [`KNOWN`].
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.split_whitespace()
}

/// Reports every switch that is on, and returns true if there is one.
pub(super) fn needs_more(s: &mut Section<'_>) -> bool {
    let mut refused = false;
    for (key, asks, what) in SWITCHES {
        let Some(field) = s.field(key).filter(|f| asked(f.node, *asks)) else { continue };
        s.not_supported(Some(field.key_span), what, &format!("`{}` asks for it", field.written));
        refused = true;
    }
    if let Some(types) = s.field("layer_types")
        && let Some(other) = Vec::<String>::from_node(types.node)
        && other.iter().any(|t| t != "full_attention")
    {
        s.not_supported(Some(types.key_span), "a kind of attention other than full", "`layer_types` asks for it");
        refused = true;
    }
    refused
}

/// Reports what changes in attention when sequences of `seq_length` are longer than a setting says.
pub(super) fn beyond_its_length(s: &mut Section<'_>, family: Family, seq_length: usize) {
    let (key, what) = match family {
        Family::Mixtral => ("sliding_window", "a sliding attention window"),
        Family::Telechat2 => ("base_seqlen", "TeleChat's rotation beyond its base length"),
        _ => return,
    };
    if let Some(length) = s.opt::<usize>(key).filter(|length| length.value < seq_length) {
        let help = format!("shorten `seq_length` to {}", length.value);
        s.not_supported(length.span, what, &help);
    }
}

fn asked(node: &Node, asks: Asks) -> bool {
    let boolean = node.text().and_then(scalar::boolean);
    match asks {
        IfTrue => boolean == Some(true),
        IfFalse => boolean == Some(false),
        IfSet => !node.is_null(),
        Above(limit) => f64::from_node(node).is_some_and(|v| v > limit),
    }
}
