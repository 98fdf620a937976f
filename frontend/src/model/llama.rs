//! Llama and the decoders that differ from it in switches only.
//!
//! x ← x + Attention(norm(x)); x ← x + FeedForward(norm(x)); and at the end logits = W·norm(x). `RMSNorm`, rotary
//! positions, `SwiGLU`, no biases, weights `[out, in]`. (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288.)
//!
//! | family | switches |
//! |---|---|
//! | Llama 2, Yi, `CodeLlama`, `DeepSeek`-Coder | grouped key/value heads in the large ones, rope theta and linear scaling |
//! | Llama 3, 3.1, 3.2 | grouped heads, `llama3` rope scaling, small ones tied |
//! | Qwen1.5, Qwen2, Qwen2.5 | `add_qkv_bias`, small ones tied |
//! | Qwen3 | `qk_layernorm`, `kv_channels` apart from the hidden size, small ones tied |
//! | Mixtral | experts in all layers: softmax over all, best two, weights renormalised |
//! | Qwen2-MoE | `add_qkv_bias`; experts as in Mixtral without the renormalisation; a shared one with a sigmoid gate |
//! | Qwen3-MoE | as Qwen3, with experts |
//! | `TeleChat` 1 and 2 | biases on `o_proj` and `down_proj` |
//! | `TeleChat3` | theta, `YaRN` with a `coeff` of its own |
//! | Baichuan 1 and 2 | `norm_head`, ALiBi in the 13B models |
//! | `InternLM` 1 and 2 | biases in attention (1), dynamic rope scaling (2) |

use athanor_ir::ValueId;

use crate::block::Net;
use crate::block::rope::Tables;

/// Layer `i`.
pub(super) fn layer(n: &mut Net<'_>, i: usize, x: ValueId, rope: Option<Tables>) -> ValueId {
    let eps = n.m.layernorm_epsilon.span;
    let y = n.scope("input_layernorm", eps, |n| n.input_norm(x));
    let y = n.self_attention(y, rope);
    let x = n.residual_add(x, y);
    let y = n.scope("post_attention_layernorm", eps, |n| n.input_norm(x));
    let y = n.feed_forward(i, y);
    n.residual_add(x, y)
}
