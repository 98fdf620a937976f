//! Multi-head latent attention.

use athanor_ir::{F64, Op, ValueId};

use super::rope::Tables;
use super::{Layout, Net};
use crate::config::LatentAttention;

impl Net<'_> {
    /// Latent attention of `x [b, s, h]` (DeepSeek-V2, arXiv 2405.04434, 2.1; models.md 3.3).
    ///
    /// `c_q` = norm(x·`q_a_proj`), q = `c_q`·`q_b_proj`, or q = x·`q_proj` without a latent for the queries;
    /// \[`c_kv`, `k_r`\] = x·`kv_a_proj_with_mqa`, \[`k_c`, v\] = `norm(c_kv)`·`kv_b_proj` for each head. The last part of each
    /// query and `k_r`, which all heads share, are rotated. MindFormers' one matrix for both down-projections
    /// (`mla_qkv_concat`) holds the same rows.
    pub fn latent_attention(&mut self, x: ValueId, l: &LatentAttention, rope: Option<Tables>) -> ValueId {
        let m = self.m;
        let heads = m.num_attention_heads.value;
        let (nope, rotated, v_dim) = (l.qk_head_dim.value, l.qk_pos_emb_head_dim.value, l.v_head_dim.value);
        let [b, s, _] = self.activation(0);
        let q = self.queries(x, l);
        let q = self.b.reshape(q, &[b, s, heads, nope + rotated]);
        let (plain, turned) = (self.b.slice(q, 3, 0, nope), self.b.slice(q, 3, nope, rotated));
        let turned = self.rotate(turned, rope);
        let q = self.b.many(Op::Concat { dim: 3 }, &[plain, turned])[0];

        let rank = l.kv_lora_rank.value;
        let init = self.normal();
        let bias = m.add_qkv_bias.value;
        let span = l.kv_lora_rank.span;
        let down =
            self.scope("kv_a_proj_with_mqa", span, |n| n.linear(x, rank + rotated, bias, Layout::OutIn, init.clone()));
        let (latent, key) = (self.b.slice(down, 2, 0, rank), self.b.slice(down, 2, rank, rotated));
        let latent = self.latent_norm("kv_a_layernorm", latent, l);
        let up = heads * (nope + v_dim);
        let kv = self.scope("kv_b_proj", span, |n| n.linear(latent, up, false, Layout::OutIn, init));
        let kv = self.b.reshape(kv, &[b, s, heads, nope + v_dim]);
        let (plain, v) = (self.b.slice(kv, 3, 0, nope), self.b.slice(kv, 3, nope, v_dim));
        let key = self.b.reshape(key, &[b, s, 1, rotated]);
        let key = self.rotate(key, rope);
        let key = self.b.reshape(key, &[b, s, rotated]);
        let key = self.b.broadcast(key, &[0, 1, 3], &[b, s, heads, rotated]);
        let k = self.b.many(Op::Concat { dim: 3 }, &[plain, key])[0];

        let op = Op::Attention { scale: F64(l.softmax_scale.value), causal: true, alibi: false };
        let out = self.b.many(op, &[q, k, v])[0];
        let out = self.b.reshape(out, &[b, s, heads * v_dim]);
        let init = self.normal_before_residual();
        let bias = &m.attention_output_bias;
        self.scope("o_proj", bias.span, |n| n.linear(out, m.hidden_size.value, bias.value, Layout::OutIn, init))
    }

    fn queries(&mut self, x: ValueId, l: &LatentAttention) -> ValueId {
        let m = self.m;
        let (width, init) = (m.num_attention_heads.value * l.head_dim(), self.normal());
        let Some(rank) = &l.q_lora_rank else {
            return self
                .scope("q_proj", m.num_attention_heads.span, |n| n.linear(x, width, false, Layout::OutIn, init));
        };
        let bias = m.add_qkv_bias.value;
        let latent = self.scope("q_a_proj", rank.span, |n| n.linear(x, rank.value, bias, Layout::OutIn, init.clone()));
        let latent = self.latent_norm("q_a_layernorm", latent, l);
        self.scope("q_b_proj", rank.span, |n| n.linear(latent, width, false, Layout::OutIn, init))
    }

    fn latent_norm(&mut self, name: &str, x: ValueId, l: &LatentAttention) -> ValueId {
        if !l.norm.value {
            return x;
        }
        self.scope(name, l.norm.span, |n| {
            let y = n.norm_with(x, l.norm_epsilon);
            n.to_compute(y)
        })
    }
}
