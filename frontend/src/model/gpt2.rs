//! GPT-2: learned positions, `LayerNorm`, ungated GELU, a bias on every linear layer, tied embeddings.
//!
//! x ← x + Attention(norm(x)); x ← x + MLP(norm(x)); and at the end logits = E·norm(x). Weights are `[in, out]`, q, k and
//! v one matrix. (Radford et al. 2019.)

use athanor_ir::ValueId;

use crate::block::decoder::Decoded;
use crate::block::{Layout, Net};

/// The decoder over `tokens [b, s]`.
pub(super) fn decode(n: &mut Net<'_>, tokens: ValueId) -> Decoded {
    let m = n.m;
    n.scope("transformer", None, |n| {
        let (words, table) = n.scope("wte", m.vocab_size.span, |n| n.embedding(tokens));
        let positions = n.scope("wpe", m.max_position_embeddings.span, Net::positions);
        let x = n.b.add(words, positions);
        let mut x = n.b.cast(x, n.residual);
        for i in 0..m.num_layers.value {
            x = n.scope(&format!("h.{i}"), m.num_layers.span, |n| layer(n, x));
        }
        let hidden = n.scope("ln_f", m.layernorm_epsilon.span, |n| n.input_norm(x));
        Decoded { hidden, table, rope: None }
    })
}

fn layer(n: &mut Net<'_>, x: ValueId) -> ValueId {
    let m = n.m;
    let y = n.scope("ln_1", m.layernorm_epsilon.span, |n| n.input_norm(x));
    let y = n.scope("attn", m.num_attention_heads.span, |n| attention(n, y));
    let x = n.residual_add(x, y);
    let y = n.scope("ln_2", m.layernorm_epsilon.span, |n| n.input_norm(x));
    let y = n.scope("mlp", m.ffn_hidden_size.span, |n| mlp(n, y));
    n.residual_add(x, y)
}

fn attention(n: &mut Net<'_>, x: ValueId) -> ValueId {
    let (width, hidden) = (n.m.num_attention_heads.value * n.m.kv_channels.value, n.m.hidden_size.value);
    let init = n.normal();
    let qkv = n.scope("c_attn", None, |n| n.linear(x, 3 * width, true, Layout::InOut, init));
    let [q, k, v] = [0, 1, 2].map(|i| n.b.slice(qkv, 2, i * width, width));
    let out = n.attend(q, k, v, None);
    let init = n.normal_before_residual();
    n.scope("c_proj", None, |n| n.linear(out, hidden, true, Layout::InOut, init))
}

fn mlp(n: &mut Net<'_>, x: ValueId) -> ValueId {
    let (inner, hidden) = (n.m.ffn_hidden_size.value, n.m.hidden_size.value);
    let init = n.normal();
    let y = n.scope("c_fc", None, |n| n.linear(x, inner, true, Layout::InOut, init));
    let y = n.activate(y);
    let init = n.normal_before_residual();
    n.scope("c_proj", None, |n| n.linear(y, hidden, true, Layout::InOut, init))
}
