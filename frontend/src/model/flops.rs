//! Model FLOPs, as `MindFormers` counts them for its throughput line.

use crate::config::{Activation, ModelConfig};

/// Floating-point operations of one training step on one sequence, forward and backward.
///
/// The formula of `num_floating_point_operations`: six per weight of a product and token, and attention over half of the
/// square of the sequence. Embedding rows, norms and the loss are not counted.
pub fn per_sequence(m: &ModelConfig) -> f64 {
    let [s, h, layers] = [&m.seq_length, &m.hidden_size, &m.num_layers].map(|v| v.value as f64);
    let [heads, groups, width] = [&m.num_attention_heads, &m.num_query_groups, &m.kv_channels].map(|v| v.value as f64);
    let (q, kv) = (heads * width, groups * width);
    // The original counts three matrices by the activation's name; SiLU is used gated.
    let matrices = if m.hidden_act.value == Activation::Silu { 3.0 } else { 2.0 };
    let mlp = 6.0 * h * m.ffn_hidden_size.value as f64 * matrices * layers;
    let attention = 6.0 * (h * (q + 2.0 * kv) + q * s / 2.0 * 2.0 + q * h) * layers;
    let head = 6.0 * h * m.vocab_size.value as f64;
    s * (mlp + attention + head)
}
