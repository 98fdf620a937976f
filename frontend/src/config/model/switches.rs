//! Switches of a model that several keys have a say in: biases, activation, tied embeddings, dtypes.

use athanor_ir::Diagnostic;

use super::family::{Convention, Defaults, Family};
use super::read::{Body, DTYPES};
use super::{Activation, Dtype};
use crate::config::codes;
use crate::config::reader::Section;
use crate::config::span::Spanned;

/// Biases of q, k, v; of the attention output; of the feed-forward layer's first and last projections.
pub(super) fn biases(s: &mut Section<'_>, b: &Body, d: &Defaults) -> Biases {
    let all = s.get("add_bias_linear", d.bias);
    let qkv = s.opt::<bool>("add_qkv_bias");
    // InternLM's one switch for the whole of attention.
    let attention = s.opt::<bool>("has_bias");
    let or_all = |own: Option<Spanned<bool>>, default: bool| match own {
        Some(own) if own.value || !all.value => own,
        _ if all.value => all,
        _ => Spanned::default(default),
    };
    // Hugging Face's `attention_bias` covers the output projection in most families, MindFormers' alias of it does not.
    let apart = [Family::Qwen2, Family::Qwen2Moe, Family::Glm, Family::Glm4, Family::Glm4Moe];
    let output = qkv.filter(|_| b.convention == Convention::HuggingFace && !apart.contains(&b.family));
    let output = output.filter(|v| v.span.map(|s| s.file) == b.hf_file);
    let legacy_output = s.opt::<bool>("attn_proj_has_bias");
    let mlp = s.opt::<bool>("mlp_bias");
    let [fc1, fc2] = [s.opt::<bool>("add_mlp_fc1_bias_linear"), s.opt::<bool>("add_mlp_fc2_bias_linear")];
    Biases {
        qkv: or_all(qkv.or(attention), d.qkv_bias),
        output: or_all(legacy_output.or(output).or(attention), d.output_bias),
        mlp: or_all(mlp.or(fc1), false),
        mlp_down: or_all(mlp.or(fc2), d.mlp_down_bias),
    }
}

/// Which linear layers have a bias.
pub(super) struct Biases {
    pub qkv: Spanned<bool>,
    pub output: Spanned<bool>,
    pub mlp: Spanned<bool>,
    pub mlp_down: Spanned<bool>,
}

pub(super) fn activation(
    s: &mut Section<'_>,
    convention: Convention,
    d: &Defaults,
) -> (Spanned<Activation>, Spanned<bool>) {
    // MindSpore's GELU is the tanh approximation; Hugging Face's is exact.
    let gelu = if convention == Convention::HuggingFace { Activation::Gelu } else { Activation::GeluTanh };
    let table = [
        ("silu", (Activation::Silu, false)),
        ("swish", (Activation::Silu, false)),
        ("swiglu", (Activation::Silu, true)),
        ("fusedswiglu", (Activation::Silu, true)),
        ("gelu", (gelu, false)),
        // Ours: exact whatever the convention.
        ("gelu_erf", (Activation::Gelu, false)),
        ("gelu_new", (Activation::GeluTanh, false)),
        ("gelu_fast", (Activation::GeluTanh, false)),
        ("gelu_pytorch_tanh", (Activation::GeluTanh, false)),
        ("fast_gelu", (Activation::QuickGelu, false)),
        ("quick_gelu", (Activation::QuickGelu, false)),
        ("relu", (Activation::Relu, false)),
    ];
    let act = s.one_of("hidden_act", &table, (d.hidden_act, false));
    let gated = s.get("gated_linear_unit", d.gated || act.value.1);
    if act.value.1 && !gated.value {
        let found = Diagnostic::error(&codes::CONTRADICTION, "`hidden_act: swiglu` is a gated activation")
            .help("remove `gated_linear_unit: False`, or use `hidden_act: silu`");
        let found = s.report.mark(found, act.span, "gated");
        s.report.push(s.report.mark(found, gated.span, "not gated"));
    }
    (act.map(|a| a.0), gated)
}

pub(super) fn tied(s: &mut Section<'_>, default: bool) -> Spanned<bool> {
    let tie = s.opt::<bool>("tie_word_embeddings");
    let untie = s.opt::<bool>("untie_embeddings_and_output_weights");
    if let (Some(tie), Some(untie)) = (&tie, &untie)
        && tie.value == untie.value
    {
        // The YAML may undo what the config.json says.
        if tie.span.map(|s| s.file) == untie.span.map(|s| s.file) {
            let message = "`tie_word_embeddings` and `untie_embeddings_and_output_weights` contradict each other";
            let found = Diagnostic::error(&codes::CONTRADICTION, message).help("keep `tie_word_embeddings`");
            let found = s.report.mark(found, tie.span, if tie.value { "tied" } else { "not tied" });
            s.report.push(s.report.mark(found, untie.span, if untie.value { "not tied" } else { "tied" }));
        } else if untie.span.map(|s| s.file) < tie.span.map(|s| s.file) {
            return untie.map(|u| !u);
        }
    }
    tie.or(untie.map(|u| u.map(|u| !u))).unwrap_or(Spanned::default(default))
}

/// `softmax_compute_dtype`, or the boolean `attention_softmax_in_fp32`.
pub(super) fn softmax_dtype(s: &mut Section<'_>, compute: Dtype) -> Spanned<Dtype> {
    let in_f32 = s.opt::<bool>("attention_softmax_in_fp32").map(|v| v.map(|on| if on { Dtype::F32 } else { compute }));
    s.opt_one_of("softmax_compute_dtype", DTYPES).or(in_f32).unwrap_or(Spanned::default(Dtype::F32))
}

/// `fp32_residual_connection`, or `residual_dtype: float32`.
pub(super) fn residual(s: &mut Section<'_>) -> Spanned<bool> {
    let dtype = s.opt_one_of("residual_dtype", DTYPES).map(|d| d.map(|d| d == Dtype::F32));
    s.opt("fp32_residual_connection").or(dtype).unwrap_or(Spanned::default(false))
}
