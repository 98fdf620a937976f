//! GLM4-0414: each sub-layer stands between two norms.
//!
//! x ← x + norm(Attention(norm(x))); x ← x + norm(MLP(norm(x))). Biases on q, k and v, two key/value heads, half of each
//! head rotated in neighbouring pairs. GLM2, GLM3 and GLM4-9b-chat are the same without the second norms, GLM4.5 with
//! experts like DeepSeek-V3's and pairs of halves: those are Llama's layers with switches. (GLM Team 2024, arXiv 2406.12793.)

use athanor_ir::ValueId;

use crate::block::Net;
use crate::block::rope::Tables;

/// Layer `i`.
pub(super) fn layer(n: &mut Net<'_>, i: usize, x: ValueId, rope: Option<Tables>) -> ValueId {
    let (eps, sandwich) = (n.m.layernorm_epsilon.span, n.m.sandwich_norm.span);
    let y = n.scope("input_layernorm", eps, |n| n.input_norm(x));
    let y = n.self_attention(y, rope);
    let y = n.scope("post_self_attn_layernorm", sandwich.or(eps), |n| n.norm(y));
    let x = n.residual_add(x, y);
    let y = n.scope("post_attention_layernorm", eps, |n| n.input_norm(x));
    let y = n.feed_forward(i, y);
    let y = n.scope("post_mlp_layernorm", sandwich.or(eps), |n| n.norm(y));
    n.residual_add(x, y)
}
