//! What `DeepSeek`-V3 has beside its layers: a module that predicts the token after the next.
//!
//! The layers of `DeepSeek`-V2 and V3 and of the models built like them (Moonlight, `TeleChat3`-MoE) are Llama's with other
//! parts: latent attention in all of them, experts in all but the first ones.
//!
//! | | scores of experts | choice | shared | further token |
//! |---|---|---|---|---|
//! | V2 | softmax | best groups by their best expert, best experts in them | 2 | no |
//! | V3, R1, V3.1 | sigmoid | with a bias; best groups by the sum of their best two | 1 | yes |
//! | `TeleChat3`-MoE | sigmoid | with a bias | 1 | yes |
//!
//! (`DeepSeek`-AI 2024, arXiv 2405.04434 and 2412.19437; models.md 3.5.)

use athanor_ir::{DType, Op, TensorType, ValueId};

use super::Layer;
use crate::block::Net;
use crate::block::decoder::Decoded;
use crate::block::loss::Loss;

/// What the module works on.
pub(super) struct Further<'a> {
    pub decoded: &'a Decoded,
    /// The weight of the output layer, which it shares, and so it does the embedding.
    pub output: ValueId,
    pub tokens: ValueId,
    pub labels: ValueId,
    pub mask: ValueId,
}

/// Loss of the token after the next: one more layer over \[norm(embedding of the next token), norm(h)\]·`eh_proj`.
///
/// h is the decoder's output after its last norm. The next token of the last one is unknown: there tokens, labels and
/// mask are 0. Names are Hugging Face's, which count the module as a layer behind the last.
pub(super) fn further_token(n: &mut Net<'_>, f: &Further<'_>, layer: Layer) -> Loss {
    let m = n.m;
    let (index, eps) = (m.num_layers.value, m.layernorm_epsilon.span);
    let span = m.mtp.as_ref().and_then(|mtp| mtp.num_layers.span);
    let [tokens, labels, mask] = [f.tokens, f.labels, f.mask].map(|x| next(n, x));
    n.scope("model", None, |n| {
        n.scope(&format!("layers.{index}"), span, |n| {
            let e = n.b.many(Op::Embed, &[tokens, f.decoded.table])[0];
            let e = n.scope("enorm", eps, |n| n.input_norm(e));
            let h = n.scope("hnorm", eps, |n| n.input_norm(f.decoded.hidden));
            let both = n.b.many(Op::Concat { dim: 2 }, &[e, h])[0];
            let init = n.normal();
            let out = crate::block::Layout::OutIn;
            let x = n.scope("eh_proj", None, |n| n.linear(both, m.hidden_size.value, false, out, init));
            let x = n.b.cast(x, n.residual);
            let x = layer(n, index, x, f.decoded.rope);
            n.scope("shared_head", None, |n| {
                let x = n.scope("norm", eps, |n| n.input_norm(x));
                let logits = n.logits(x, f.output);
                n.loss(logits, labels, mask)
            })
        })
    })
}

/// `x [b, s]` one place to the left, with 0 at the end.
fn next(n: &mut Net<'_>, x: ValueId) -> ValueId {
    let ty = n.b.ty(x);
    let [b, s] = ty.dims[..] else { return x };
    let end = n.b.constant(0.0, TensorType::new(ty.dtype, [b, 1]));
    if s == 1 {
        return end;
    }
    let rest = n.b.slice(x, 1, 1, s - 1);
    debug_assert!(ty.dtype == DType::I32 || ty.dtype.is_float());
    n.b.many(Op::Concat { dim: 1 }, &[rest, end])[0]
}
