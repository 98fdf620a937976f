//! What most decoders have in common: embedding, layers, last norm; and the choice between a sub-layer's variants.

use athanor_ir::ValueId;

use super::Net;
use super::rope::Tables;

/// What comes out of a decoder's layers.
#[derive(Debug, Clone, Copy)]
pub struct Decoded {
    /// `[b, s, h]` after the last norm, in the compute dtype.
    pub hidden: ValueId,
    /// The token embedding `[v, h]`, f32.
    pub table: ValueId,
    /// Rotary tables of the layers.
    pub rope: Option<Tables>,
}

impl Net<'_> {
    /// Embeds `tokens [b, s]`, runs every layer (`layer(net, index, x, rope)`) and normalises once more.
    ///
    /// Names are Llama's: `model.embed_tokens`, `model.layers.N`, `model.norm`.
    pub fn decoder(
        &mut self,
        tokens: ValueId,
        layer: impl Fn(&mut Self, usize, ValueId, Option<Tables>) -> ValueId,
    ) -> Decoded {
        let m = self.m;
        self.scope("model", None, |n| {
            let (x, table) = n.scope("embed_tokens", m.vocab_size.span, |n| n.embedding(tokens));
            let rope = n.rope_tables();
            let mut x = n.b.cast(x, n.residual);
            for i in 0..m.num_layers.value {
                x = n.scope(&format!("layers.{i}"), m.num_layers.span, |n| layer(n, i, x, rope));
            }
            let hidden = n.scope("norm", m.layernorm_epsilon.span, |n| n.input_norm(x));
            Decoded { hidden, table, rope }
        })
    }

    /// `self_attn`: latent attention or the ordinary one.
    pub fn self_attention(&mut self, x: ValueId, rope: Option<Tables>) -> ValueId {
        let m = self.m;
        self.scope("self_attn", m.num_attention_heads.span, |n| match &m.latent {
            Some(latent) => n.latent_attention(x, latent, rope),
            None => n.attention(x, rope),
        })
    }

    /// `mlp` of layer `i`: experts, or the dense feed-forward layer. A layer beyond the last is as the last.
    pub fn feed_forward(&mut self, i: usize, x: ValueId) -> ValueId {
        let m = self.m;
        let sparse = |moe: &&crate::config::Moe| {
            let layers = &moe.layers.value;
            layers.get(i).or(layers.last()).copied().unwrap_or(true)
        };
        match m.moe.as_ref().filter(sparse) {
            Some(moe) => self.scope("mlp", moe.num_experts.span, |n| n.experts(x, moe)),
            None => self.scope("mlp", m.ffn_hidden_size.span, |n| n.mlp(x)),
        }
    }
}
