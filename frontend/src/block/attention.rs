//! Causal self-attention.

use athanor_ir::{F64, Op, ValueId};

use super::rope::Tables;
use super::{Layout, Net};
use crate::config::PositionEmbedding;

impl Net<'_> {
    /// Attention of `x [b, s, h]` with projections `q_proj`, `k_proj`, `v_proj` and `o_proj`.
    ///
    /// With `qk_layernorm` each head of q and k is normalised (`q_norm`, `k_norm`) before the rotation. With `ALiBi` there is
    /// none, and scores fall with the distance.
    pub fn attention(&mut self, x: ValueId, rope: Option<Tables>) -> ValueId {
        let m = self.m;
        let (heads, groups, width) = (m.num_attention_heads.value, m.num_query_groups.value, m.kv_channels.value);
        let mut project = |name: &str, heads: usize| {
            let (init, bias) = (self.normal(), &m.add_qkv_bias);
            let span = bias.span.or(m.num_attention_heads.span);
            self.scope(name, span, |n| n.linear(x, heads * width, bias.value, Layout::OutIn, init))
        };
        let [q, k, v] = [project("q_proj", heads), project("k_proj", groups), project("v_proj", groups)];
        let out = self.attend(q, k, v, rope);
        let init = self.normal_before_residual();
        let bias = &m.attention_output_bias;
        self.scope("o_proj", bias.span, |n| n.linear(out, m.hidden_size.value, bias.value, Layout::OutIn, init))
    }

    /// Softmax attention of projected `q [b, s, n·d]`, `k` and `v [b, s, g·d]`, heads joined again.
    pub fn attend(&mut self, q: ValueId, k: ValueId, v: ValueId, rope: Option<Tables>) -> ValueId {
        let m = self.m;
        let (heads, groups, width) = (m.num_attention_heads.value, m.num_query_groups.value, m.kv_channels.value);
        let [b, s, _] = self.activation(0);
        let q = self.b.reshape(q, &[b, s, heads, width]);
        let k = self.b.reshape(k, &[b, s, groups, width]);
        let v = self.b.reshape(v, &[b, s, groups, width]);
        let (q, k) = if m.qk_layernorm.value {
            let span = m.qk_layernorm.span;
            (self.scope("q_norm", span, |n| n.input_norm(q)), self.scope("k_norm", span, |n| n.input_norm(k)))
        } else {
            (q, k)
        };
        let (q, k) = (self.rotate(q, rope), self.rotate(k, rope));
        let scale = m.softmax_scale.map_or_else(|| (width as f64).sqrt().recip(), |s| s.value);
        let alibi = m.position_embedding.value == PositionEmbedding::Alibi;
        let out = self.b.many(Op::Attention { scale: F64(scale), causal: true, alibi }, &[q, k, v])[0];
        self.b.reshape(out, &[b, s, heads * width])
    }
}
