//! What each family takes for granted: the values of its configuration classes.
//!
//! Sources: Hugging Face's configuration classes, `MindFormers`' for both of its generations.

use super::super::{Activation, Dtype, Normalization};
use super::{Convention, Family};

/// What a family takes for granted.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of the model under its own name.
pub(in crate::config::model) struct Defaults {
    pub sizes: Option<Sizes>,
    pub num_query_groups: Option<usize>,
    pub normalization: Normalization,
    pub layernorm_epsilon: f64,
    pub bias: bool,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_down_bias: bool,
    pub gated: bool,
    pub hidden_act: Activation,
    pub qk_layernorm: bool,
    pub sandwich_norm: bool,
    pub head_dim: Option<usize>,
    pub learned_positions: bool,
    pub rotary_base: f64,
    pub partial_rotary_factor: f64,
    pub rotary_interleaved: bool,
    pub latent: bool,
    pub latent_sizes: LatentSizes,
    pub experts: Option<Experts>,
    pub mtp_layers: usize,
    pub tie: bool,
    pub hidden_dropout: f64,
    pub attention_dropout: f64,
    pub embedding_dropout: f64,
    pub seq_length: usize,
    pub max_position_embeddings: Option<usize>,
    pub params_dtype: Dtype,
    pub compute_dtype: Dtype,
    pub init_method_std: f64,
    pub pad_token_id: i64,
}

/// Sizes of a whole model, for classes that have them as defaults.
#[derive(Debug, Clone, Copy)]
pub(in crate::config::model) struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn: usize,
}

/// Sizes of latent attention.
#[derive(Debug, Clone, Copy)]
pub(in crate::config::model) struct LatentSizes {
    pub q_lora_rank: Option<usize>,
    pub kv_lora_rank: usize,
    pub qk_head_dim: usize,
    pub qk_pos_emb_head_dim: usize,
    pub v_head_dim: usize,
}

/// Experts of a family that has them by default.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)]
pub(in crate::config::model) struct Experts {
    pub num: usize,
    pub topk: usize,
    /// Width of an expert; 0 is that of a dense layer.
    pub ffn: usize,
    pub shared: usize,
    pub shared_ffn: Option<usize>,
    pub shared_gate: bool,
    pub sigmoid: bool,
    pub bias: bool,
    pub normalize: bool,
    pub scaling: f64,
    pub groups: usize,
    pub group_topk: usize,
    pub first_dense: usize,
}

/// Of `MindFormers`' class for latent attention in general.
const MCORE_LATENT: LatentSizes = LatentSizes {
    q_lora_rank: Some(512),
    kv_lora_rank: 512,
    qk_head_dim: 128,
    qk_pos_emb_head_dim: 64,
    v_head_dim: 128,
};
/// Of DeepSeek-V2, V3 and TeleChat3-MoE.
const DEEPSEEK_LATENT: LatentSizes = LatentSizes { q_lora_rank: Some(1536), ..MCORE_LATENT };

impl Family {
    pub(in crate::config::model) fn defaults(self, convention: Convention) -> Defaults {
        let legacy = convention == Convention::Legacy;
        let mcore = convention == Convention::Mcore;
        let hub = convention == Convention::HuggingFace;
        let common = Defaults {
            sizes: None,
            num_query_groups: None,
            normalization: Normalization::RmsNorm,
            layernorm_epsilon: if legacy { 1e-5 } else { 1e-6 },
            bias: false,
            qkv_bias: false,
            output_bias: false,
            mlp_down_bias: false,
            gated: true,
            hidden_act: Activation::Silu,
            qk_layernorm: false,
            sandwich_norm: false,
            head_dim: None,
            learned_positions: false,
            rotary_base: 10_000.0,
            partial_rotary_factor: 1.0,
            rotary_interleaved: false,
            latent: false,
            latent_sizes: MCORE_LATENT,
            experts: None,
            mtp_layers: 0,
            tie: false,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            embedding_dropout: 0.0,
            seq_length: if legacy { 2048 } else { 4096 },
            // The legacy class takes the sequence length.
            max_position_embeddings: if legacy { None } else { Some(2048) },
            params_dtype: if legacy { Dtype::F16 } else { Dtype::F32 },
            compute_dtype: if legacy { Dtype::F16 } else { Dtype::Bf16 },
            init_method_std: if legacy { 0.01 } else { 0.02 },
            pad_token_id: 0,
        };
        let long = |n: usize| common.max_position_embeddings.map(|_| n);
        match self {
            Self::Llama => common,
            Self::Qwen2 => Defaults { qkv_bias: true, max_position_embeddings: long(32768), ..common },
            Self::Qwen3 => Defaults {
                qk_layernorm: true,
                head_dim: Some(128),
                max_position_embeddings: Some(32768),
                // The Mcore class leaves this to the transformer's own default.
                hidden_dropout: if mcore { 0.1 } else { 0.0 },
                pad_token_id: 151_643,
                ..common
            },
            Self::Mixtral => Defaults {
                layernorm_epsilon: 1e-5,
                rotary_base: if hub { 1e6 } else { common.rotary_base },
                num_query_groups: hub.then_some(8),
                max_position_embeddings: long(131_072),
                experts: (!legacy).then_some(Experts {
                    num: 8,
                    topk: 2,
                    normalize: true,
                    scaling: 1.0,
                    ..Experts::default()
                }),
                ..common
            },
            Self::Qwen2Moe => Defaults {
                qkv_bias: true,
                max_position_embeddings: long(32768),
                experts: (!legacy).then_some(Experts {
                    num: 60,
                    topk: 4,
                    ffn: 1408,
                    shared: 1,
                    shared_ffn: Some(5632),
                    shared_gate: true,
                    scaling: 1.0,
                    ..Experts::default()
                }),
                ..common
            },
            Self::Qwen3Moe => Defaults {
                qk_layernorm: true,
                head_dim: Some(128),
                max_position_embeddings: Some(32768),
                hidden_dropout: if mcore { 0.1 } else { 0.0 },
                pad_token_id: 151_643,
                experts: Some(Experts { num: 128, topk: 8, ffn: 768, scaling: 1.0, ..Experts::default() }),
                ..common
            },
            Self::DeepseekV2 => deepseek_v2(&common, legacy),
            Self::DeepseekV3 | Self::DeepseekV4 => deepseek_v3(&common, convention),
            Self::Telechat3Moe => Defaults {
                latent: true,
                latent_sizes: DEEPSEEK_LATENT,
                qk_layernorm: !mcore,
                layernorm_epsilon: 1e-5,
                experts: Some(Experts {
                    num: 192,
                    topk: 4,
                    ffn: 1536,
                    shared: 1,
                    sigmoid: true,
                    bias: true,
                    normalize: true,
                    scaling: 2.8,
                    first_dense: 1,
                    ..Experts::default()
                }),
                ..common
            },
            Self::Glm => Defaults {
                layernorm_epsilon: 1e-5,
                qkv_bias: true,
                num_query_groups: Some(2),
                partial_rotary_factor: 0.5,
                rotary_interleaved: true,
                max_position_embeddings: long(131_072),
                compute_dtype: if legacy { Dtype::F16 } else { Dtype::Bf16 },
                ..common
            },
            Self::Glm4 => Defaults {
                layernorm_epsilon: 1e-5,
                qkv_bias: true,
                num_query_groups: Some(2),
                partial_rotary_factor: 0.5,
                rotary_interleaved: true,
                sandwich_norm: true,
                max_position_embeddings: long(131_072),
                ..common
            },
            Self::Glm4Moe => Defaults {
                layernorm_epsilon: 1e-5,
                qkv_bias: true,
                num_query_groups: Some(8),
                head_dim: Some(128),
                partial_rotary_factor: 0.5,
                max_position_embeddings: long(131_072),
                mtp_layers: usize::from(mcore),
                experts: Some(Experts {
                    num: 128,
                    topk: 8,
                    ffn: 1408,
                    shared: 1,
                    sigmoid: true,
                    bias: true,
                    normalize: true,
                    scaling: 1.0,
                    first_dense: 1,
                    ..Experts::default()
                }),
                ..common
            },
            Self::Telechat2 => Defaults { layernorm_epsilon: 1e-5, output_bias: true, mlp_down_bias: true, ..common },
            Self::Telechat3 => Defaults { layernorm_epsilon: 1e-5, ..common },
            Self::Baichuan => Defaults { max_position_embeddings: long(4096), ..common },
            Self::InternLm => Defaults { qkv_bias: true, output_bias: true, ..common },
            Self::InternLm2 => Defaults {
                rotary_base: if legacy { 10_000.0 } else { 1e6 },
                max_position_embeddings: long(32768),
                ..common
            },
            Self::Gpt2 => Defaults {
                normalization: Normalization::LayerNorm,
                layernorm_epsilon: 1e-5,
                bias: true,
                gated: false,
                hidden_act: Activation::GeluTanh,
                learned_positions: true,
                tie: true,
                hidden_dropout: 0.1,
                attention_dropout: 0.1,
                embedding_dropout: 0.1,
                seq_length: 1024,
                max_position_embeddings: if legacy { None } else { Some(1024) },
                params_dtype: Dtype::F32,
                init_method_std: 0.02,
                pad_token_id: if legacy { 50256 } else { 0 },
                ..common
            },
        }
    }
}

fn deepseek_v2(common: &Defaults, legacy: bool) -> Defaults {
    Defaults {
        latent: true,
        latent_sizes: DEEPSEEK_LATENT,
        qk_layernorm: true,
        layernorm_epsilon: 1e-6,
        compute_dtype: Dtype::Bf16,
        experts: (!legacy).then_some(Experts {
            num: 64,
            topk: 6,
            ffn: 1407,
            shared: 2,
            scaling: 1.0,
            ..Experts::default()
        }),
        ..*common
    }
}

fn deepseek_v3(common: &Defaults, convention: Convention) -> Defaults {
    let legacy = convention == Convention::Legacy;
    Defaults {
        sizes: (!legacy).then_some(Sizes { vocab: 129_280, hidden: 7168, layers: 61, heads: 128, ffn: 18432 }),
        latent: true,
        latent_sizes: DEEPSEEK_LATENT,
        // The Mcore class leaves the norms of the latents to the switch.
        qk_layernorm: convention != Convention::Mcore,
        layernorm_epsilon: 1e-6,
        max_position_embeddings: Some(if legacy { 32768 } else { 4096 }),
        params_dtype: if legacy { Dtype::Bf16 } else { Dtype::F32 },
        compute_dtype: Dtype::Bf16,
        init_method_std: if legacy { 0.006 } else { 0.02 },
        mtp_layers: usize::from(convention == Convention::Mcore),
        experts: (!legacy).then_some(Experts {
            num: 256,
            topk: 8,
            ffn: 2048,
            shared: 1,
            sigmoid: true,
            bias: true,
            normalize: true,
            scaling: 2.5,
            groups: 8,
            group_topk: 4,
            first_dense: 3,
            ..Experts::default()
        }),
        ..*common
    }
}
