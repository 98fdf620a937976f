//! Llama and the families that differ from it in switches only.
//!
//! x ← x + Attention(norm(x)); x ← x + MLP(norm(x)); and at the end logits = W·norm(x). `RMSNorm`, rotary positions,
//! `SwiGLU`, no biases, weights `[out, in]`. (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288.)
//!
//! | family | switches |
//! |---|---|
//! | Llama 2, Yi, `CodeLlama`, `DeepSeek`-Coder | grouped key/value heads in the large ones, rope theta and linear scaling |
//! | Llama 3, 3.1, 3.2 | grouped heads, `llama3` rope scaling, small ones tied |
//! | Qwen1.5, Qwen2, Qwen2.5 | `add_qkv_bias`, small ones tied |
//! | Qwen3 | `qk_layernorm`, `kv_channels` apart from the hidden size, small ones tied |

use athanor_ir::ValueId;

use crate::block::Net;
use crate::block::rope::Tables;

/// Scores of `tokens [b, s]`.
pub(super) fn logits(n: &mut Net<'_>, tokens: ValueId) -> ValueId {
    let m = n.m;
    let (x, table) = n.scope("model", None, |n| {
        let (x, table) = n.scope("embed_tokens", m.vocab_size.span, |n| n.embedding(tokens));
        let rope = n.rope_tables();
        let mut x = n.b.cast(x, n.residual);
        for i in 0..m.num_layers.value {
            x = n.scope(&format!("layers.{i}"), m.num_layers.span, |n| layer(n, x, rope));
        }
        (n.scope("norm", m.layernorm_epsilon.span, |n| n.input_norm(x)), table)
    });
    n.logits(x, table)
}

fn layer(n: &mut Net<'_>, x: ValueId, rope: Option<Tables>) -> ValueId {
    let m = n.m;
    let y = n.scope("input_layernorm", m.layernorm_epsilon.span, |n| n.input_norm(x));
    let y = n.scope("self_attn", m.num_attention_heads.span, |n| n.attention(y, rope));
    let x = n.residual_add(x, y);
    let y = n.scope("post_attention_layernorm", m.layernorm_epsilon.span, |n| n.input_norm(x));
    let y = n.scope("mlp", m.ffn_hidden_size.span, |n| n.mlp(y));
    n.residual_add(x, y)
}
