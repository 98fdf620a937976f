//! `model`: one canonical description of a decoder, whatever names and file it was given in.

mod alias;
mod family;
mod hf;
mod latent;
mod layouts;
mod moe;
mod read;
mod refuse;
mod rope;
mod switches;
#[cfg(test)]
mod tests;

use super::pipeline::Offset;
use super::span::{Span, Spanned};
pub use family::{Convention, Family};
pub use latent::LatentAttention;
pub use layouts::Layouts;
pub use moe::{
    AuxLoss, Balance, Capacity, DropPolicy, GroupMask, Groups, LoadCounts, Moe, Router, ScoreFunction, SharedExpert,
};
pub(super) use read::{Inputs, Layers, read};
pub use rope::{PositionEmbedding, Rope, RopeScaling, Yarn, YarnMagnitude};

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// `float32`.
    F32,
    /// `bfloat16`.
    Bf16,
    /// `float16`.
    F16,
}

impl Dtype {
    /// `MindFormers`' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

/// Normalisation layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalization {
    /// Scale by the root mean square.
    RmsNorm,
    /// Centre, scale by the standard deviation, add a bias.
    LayerNorm,
}

/// Activation of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`, exact.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `x·σ(1.702·x)`.
    QuickGelu,
    /// `x·σ(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

/// A standard deviation for the parameters whose name matches.
#[derive(Debug, Clone, PartialEq)]
pub struct InitStdRule {
    /// Regular expression over parameter names.
    pub target: Spanned<String>,
    /// Standard deviation of the normal distribution.
    pub init_method_std: Spanned<f64>,
}

/// Modules that predict the tokens after the next one (DeepSeek-V3, arXiv 2412.19437, 2.2).
#[derive(Debug, Clone)]
pub struct Mtp {
    /// Further tokens; one.
    pub num_layers: Spanned<usize>,
    /// Factor of their mean loss.
    pub loss_scaling_factor: Spanned<f64>,
}

/// A decoder.
///
/// Sizes are in elements. Field names are Megatron's, as in `MindFormers`' `TransformerConfig`.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Where the section (or, without one, the path of the config.json) stands.
    pub span: Option<Span>,
    /// Family.
    pub family: Family,
    /// Whose defaults and formulas hold.
    pub convention: Convention,
    /// Hugging Face name of the model.
    pub model_type: Spanned<String>,
    /// Hugging Face class of the model.
    pub architecture: Spanned<String>,
    /// Rows of the token embedding.
    pub vocab_size: Spanned<usize>,
    /// Width of the residual stream.
    pub hidden_size: Spanned<usize>,
    /// Decoder layers.
    pub num_layers: Spanned<usize>,
    /// Query heads.
    pub num_attention_heads: Spanned<usize>,
    /// Key and value heads.
    pub num_query_groups: Spanned<usize>,
    /// Inner width of the feed-forward layer (of each of gate and up, if gated).
    pub ffn_hidden_size: Spanned<usize>,
    /// Width of one head (of query and key, if they differ from the value's).
    pub kv_channels: Spanned<usize>,
    /// Tokens per sample.
    pub seq_length: Spanned<usize>,
    /// Longest sequence the positions are made for.
    pub max_position_embeddings: Spanned<usize>,
    /// Normalisation.
    pub normalization: Spanned<Normalization>,
    /// Added to the variance.
    pub layernorm_epsilon: Spanned<f64>,
    /// Biases on the projections of q, k and v.
    pub add_qkv_bias: Spanned<bool>,
    /// Bias on the output projection of attention.
    pub attention_output_bias: Spanned<bool>,
    /// Biases on the first projections of the feed-forward layer.
    pub mlp_bias: Spanned<bool>,
    /// Bias on its last one.
    pub mlp_down_bias: Spanned<bool>,
    /// Two projections, one of them through the activation, multiplied.
    pub gated_linear_unit: Spanned<bool>,
    /// Activation.
    pub hidden_act: Spanned<Activation>,
    /// Keeps what enters the gate below this and its other factor within ± this.
    pub activation_func_clamp_value: Option<Spanned<f64>>,
    /// Normalise each head of q and k before the rotation; the latents, if attention has them.
    pub qk_layernorm: Spanned<bool>,
    /// Normalise what attention and the feed-forward layer return, too.
    pub sandwich_norm: Spanned<bool>,
    /// Divide the rows of the output layer by their length.
    pub norm_head: Spanned<bool>,
    /// Latent attention in place of the ordinary one.
    pub latent: Option<LatentAttention>,
    /// Experts in place of the feed-forward layer of some layers.
    pub moe: Option<Moe>,
    /// Prediction of further tokens.
    pub mtp: Option<Mtp>,
    /// Positions.
    pub position_embedding: Spanned<PositionEmbedding>,
    /// Factor on q·k; `None` is `1/√kv_channels`.
    pub softmax_scale: Option<Spanned<f64>>,
    /// The output layer is the token embedding.
    pub tie_word_embeddings: Spanned<bool>,
    /// Dropout after attention and after the feed-forward layer.
    pub hidden_dropout: Spanned<f64>,
    /// Dropout of attention weights.
    pub attention_dropout: Spanned<f64>,
    /// Dropout of the embedding.
    pub embedding_dropout: Spanned<f64>,
    /// Type of the master weights.
    pub params_dtype: Spanned<Dtype>,
    /// Type of the embedding's master weights.
    pub embedding_params_dtype: Spanned<Dtype>,
    /// Type of matrix products.
    pub compute_dtype: Spanned<Dtype>,
    /// Type of normalisation.
    pub layernorm_compute_dtype: Spanned<Dtype>,
    /// Type of the attention softmax.
    pub softmax_compute_dtype: Spanned<Dtype>,
    /// Type of the rotation.
    pub rotary_dtype: Spanned<Dtype>,
    /// Keep the residual stream in f32.
    pub fp32_residual_connection: Spanned<bool>,
    /// Standard deviation of initial weights.
    pub init_method_std: Spanned<f64>,
    /// Exceptions from it.
    pub param_init_std_rules: Vec<InitStdRule>,
    /// One mean over all tokens of the step instead of a mean of means.
    pub calculate_per_token_loss: Spanned<bool>,
    /// Pieces the loss is computed in; 0 is one piece.
    pub chunk_loss_num: Spanned<usize>,
    /// Keys and values go from rank to rank instead of being gathered, where sequences are cut.
    pub use_ring_attention: Spanned<bool>,
    /// Layers that chunks of a pipeline's stages have beyond an even share.
    pub offset: Spanned<Offset>,
    /// Chunks of layers per stage of a pipeline: `pp_interleave_num`.
    pub chunks: Spanned<usize>,
    /// Label without loss.
    pub ignore_token_id: Spanned<i64>,
    /// Padding token.
    pub pad_token_id: Spanned<i64>,
    /// Samples come with `seq_length` tokens and their labels, not with one token more.
    pub input_sliced_sig: Spanned<bool>,
    /// How weights are fused in files of `MindFormers`.
    pub layouts: Layouts,
}
