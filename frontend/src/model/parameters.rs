//! The number of a model's parameters, by formula.

use crate::config::{LatentAttention, ModelConfig, Moe, Normalization, PositionEmbedding};

/// Numbers of parameters. Biases that no gradient moves (of routers) are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Of the model without the module for the further token.
    pub model: u64,
    /// Of that module; it shares embedding and output layer.
    pub further: u64,
    /// Of the model, those that one token meets: all but the experts that it does not go to.
    pub active: u64,
}

impl Parameters {
    /// Counts the parameters of `m`.
    pub fn of(m: &ModelConfig) -> Self {
        let [vocab, h, layers] = [&m.vocab_size, &m.hidden_size, &m.num_layers].map(|v| v.value as u64);
        let norm = norm(m, h);
        let heads = if m.tie_word_embeddings.value { 1 } else { 2 };
        let positions = if m.position_embedding.value == PositionEmbedding::LearnedAbsolute {
            m.max_position_embeddings.value as u64 * h
        } else {
            0
        };
        let sparse = m.moe.as_ref().map_or(0, |moe| moe.layers.value.iter().filter(|on| **on).count() as u64);
        let dense_layer = layer(m) + feed_forward(m, m.ffn_hidden_size.value as u64);
        let experts = m.moe.as_ref().map_or(0, |moe| experts(m, moe));
        let sparse_layer = layer(m) + experts;
        let model =
            vocab * h * heads + positions + norm + dense_layer * (layers - sparse.min(layers)) + sparse_layer * sparse;
        let last = m.moe.as_ref().and_then(|moe| moe.layers.value.last().copied()).unwrap_or(false);
        let further = m.mtp.as_ref().map_or(0, |mtp| {
            let layer = if last { sparse_layer } else { dense_layer };
            mtp.num_layers.value as u64 * (3 * norm + 2 * h * h + layer)
        });
        let idle = m.moe.as_ref().map_or(0, |moe| {
            let unused = moe.num_experts.value.saturating_sub(moe.router.topk.value) as u64;
            sparse * unused * expert(m, moe)
        });
        Self { model, further, active: model - idle }
    }
}

/// Gain, and for `LayerNorm` bias.
fn norm(m: &ModelConfig, width: u64) -> u64 {
    if m.normalization.value == Normalization::LayerNorm { 2 * width } else { width }
}

/// Attention and norms of a layer.
fn layer(m: &ModelConfig) -> u64 {
    let norms = if m.sandwich_norm.value { 4 } else { 2 };
    let attention = m.latent.as_ref().map_or_else(|| attention(m), |l| latent(m, l));
    attention + norms * norm(m, m.hidden_size.value as u64)
}

fn attention(m: &ModelConfig) -> u64 {
    let h = m.hidden_size.value as u64;
    let [n, g, d] = [&m.num_attention_heads, &m.num_query_groups, &m.kv_channels].map(|v| v.value as u64);
    let qkv = (n + 2 * g) * d;
    let mut count = h * qkv + n * d * h;
    if m.add_qkv_bias.value {
        count += qkv;
    }
    if m.attention_output_bias.value {
        count += h;
    }
    if m.qk_layernorm.value {
        count += 2 * norm(m, d);
    }
    count
}

fn latent(m: &ModelConfig, l: &LatentAttention) -> u64 {
    let [h, n] = [&m.hidden_size, &m.num_attention_heads].map(|v| v.value as u64);
    let [rank, nope, rotated, v] =
        [&l.kv_lora_rank, &l.qk_head_dim, &l.qk_pos_emb_head_dim, &l.v_head_dim].map(|v| v.value as u64);
    let of_latent = |width: u64| if l.norm.value { norm(m, width) } else { 0 };
    let bias = u64::from(m.add_qkv_bias.value);
    let queries = l.q_lora_rank.as_ref().map_or(h * n * (nope + rotated), |r| {
        let r = r.value as u64;
        h * r + bias * r + of_latent(r) + r * n * (nope + rotated)
    });
    let down = h * (rank + rotated) + bias * (rank + rotated) + of_latent(rank);
    let out = n * v * h + if m.attention_output_bias.value { h } else { 0 };
    queries + down + rank * n * (nope + v) + out
}

/// The dense layer, or a shared expert, of inner width `f`.
fn feed_forward(m: &ModelConfig, f: u64) -> u64 {
    let h = m.hidden_size.value as u64;
    let first = if m.gated_linear_unit.value { 2 } else { 1 };
    let biases = u64::from(m.mlp_bias.value) * first * f + u64::from(m.mlp_down_bias.value) * h;
    (first + 1) * h * f + biases
}

fn expert(m: &ModelConfig, moe: &Moe) -> u64 {
    3 * m.hidden_size.value as u64 * moe.ffn_hidden_size.value as u64
}

/// Router, experts and the shared one of a layer.
fn experts(m: &ModelConfig, moe: &Moe) -> u64 {
    let (h, e) = (m.hidden_size.value as u64, moe.num_experts.value as u64);
    let shared = moe
        .shared
        .as_ref()
        .map_or(0, |s| feed_forward(m, s.ffn_hidden_size.value as u64) + if s.gated.value { h } else { 0 });
    e * h + e * expert(m, moe) + shared
}
