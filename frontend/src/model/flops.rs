//! Model FLOPs, as `MindFormers` counts them for its throughput line.

use crate::config::{Activation, LatentAttention, ModelConfig};

/// Floating-point operations of one training step on one sequence, forward and backward.
///
/// The formula of `num_floating_point_operations` (models.md 3.9): six per weight of a product and token, and attention
/// over half of the square of the sequence. Embedding rows, norms, routers and the loss are not counted. A module for
/// the further token counts as a layer with experts, its projection and one more output layer.
pub fn per_sequence(m: &ModelConfig) -> f64 {
    let [s, h, layers] = [&m.seq_length, &m.hidden_size, &m.num_layers].map(|v| v.value as f64);
    let further = m.mtp.as_ref().map_or(0.0, |mtp| mtp.num_layers.value as f64);
    // The original counts three matrices by the activation's name; SiLU is used gated.
    let matrices = if m.hidden_act.value == Activation::Silu { 3.0 } else { 2.0 };
    let mut feed_forward = m.ffn_hidden_size.value as f64 * layers;
    if let Some(moe) = &m.moe {
        let sparse = moe.layers.value.iter().filter(|on| **on).count() as f64;
        let shared = moe.shared.as_ref().map_or(0, |s| s.ffn_hidden_size.value);
        let width = moe.ffn_hidden_size.value * moe.router.topk.value + shared;
        feed_forward = m.ffn_hidden_size.value as f64 * (layers - sparse) + width as f64 * (sparse + further);
    } else {
        feed_forward += m.ffn_hidden_size.value as f64 * further;
    }
    let attention = m.latent.as_ref().map_or_else(|| ordinary(m), |l| latent(m, l));
    let per_token = 6.0 * h * matrices * feed_forward
        + attention * (layers + further)
        + 6.0 * further * (3.0 * h + 2.0 * h * h)
        + 6.0 * h * m.vocab_size.value as f64 * (1.0 + further);
    s * per_token
}

/// Of a layer and token: projections and half the square.
fn ordinary(m: &ModelConfig) -> f64 {
    let [s, h] = [&m.seq_length, &m.hidden_size].map(|v| v.value as f64);
    let [heads, groups, width] = [&m.num_attention_heads, &m.num_query_groups, &m.kv_channels].map(|v| v.value as f64);
    let (q, kv) = (heads * width, groups * width);
    6.0 * (h * (q + 2.0 * kv) + q * s / 2.0 * 2.0 + q * h)
}

/// The same with latents; the ones are their norms.
fn latent(m: &ModelConfig, l: &LatentAttention) -> f64 {
    let [s, h, n] = [&m.seq_length, &m.hidden_size, &m.num_attention_heads].map(|v| v.value as f64);
    let [kv, nope, rotated, v] =
        [&l.kv_lora_rank, &l.qk_head_dim, &l.qk_pos_emb_head_dim, &l.v_head_dim].map(|v| v.value as f64);
    let query =
        l.q_lora_rank.as_ref().map_or(h * n * (nope + rotated), |r| r.value as f64 * (h + n * (nope + rotated) + 1.0));
    let square = s * n * (nope + rotated) / 2.0 + s * n * v / 2.0;
    6.0 * (query + kv * (h + n * (nope + v) + 1.0) + h * rotated + n * v * h + square)
}
