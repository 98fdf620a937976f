//! Multi-head latent attention: its sizes, and the factor on q·k, of which there are three rules.

use athanor_ir::Diagnostic;

use super::family::{Convention, Defaults};
use crate::config::codes;
use crate::config::node::Kind;
use crate::config::reader::{FromNode, Section};
use crate::config::span::{Span, Spanned};

/// Attention whose keys and values (and queries, if ranked) are projections of a narrow latent (DeepSeek-V2, arXiv
/// 2405.04434). A head's query and key are a part without and a part with rotation, its value may be narrower.
#[derive(Debug, Clone)]
pub struct LatentAttention {
    /// Width of the latent of the queries; `None` projects them from the hidden state.
    pub q_lora_rank: Option<Spanned<usize>>,
    /// Width of the latent of keys and values.
    pub kv_lora_rank: Spanned<usize>,
    /// Elements of a head's query and key that are not rotated.
    pub qk_head_dim: Spanned<usize>,
    /// Elements that are rotated; the key's are shared by all heads.
    pub qk_pos_emb_head_dim: Spanned<usize>,
    /// Elements of a head's value.
    pub v_head_dim: Spanned<usize>,
    /// Normalise the latents.
    pub norm: Spanned<bool>,
    /// Added to the variance of a latent.
    pub norm_epsilon: f64,
    /// Factor on q·k.
    pub softmax_scale: Spanned<f64>,
}

impl LatentAttention {
    /// Elements of a head's query and key.
    pub fn head_dim(&self) -> usize {
        self.qk_head_dim.value + self.qk_pos_emb_head_dim.value
    }
}

/// How the factor follows from the extension of the context: m²/√d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// m = 1: the paper's pretraining.
    Plain,
    /// m of `mscale_all_dim`, if the positions are extended: Hugging Face, legacy `MindFormers`.
    Extended,
    /// m of `mscale` and `rotary_scaling_factor` (40 by default) whatever the positions: Mcore `MindFormers`.
    Always,
}

/// Our switch between the rules; `MindFormers` has no key for it.
const RULES: &[(&str, Rule)] = &[("plain", Rule::Plain), ("yarn", Rule::Extended), ("mindformers", Rule::Always)];

/// Reads the sizes if the model has latent attention.
pub(super) fn read(
    s: &mut Section<'_>,
    convention: Convention,
    d: &Defaults,
    layernorm_epsilon: f64,
) -> Option<LatentAttention> {
    let on = s.get("multi_latent_attention", d.latent);
    if !on.value {
        return None;
    }
    let sizes = d.latent_sizes;
    // Null is a value here: no latent for the queries.
    let q_lora_rank = if s.peek("q_lora_rank").is_some_and(|f| f.node.is_null()) {
        s.take(&["q_lora_rank"]);
        None
    } else {
        s.opt_checked("q_lora_rank", "must be at least 1", |v| *v >= 1)
            .or(sizes.q_lora_rank.map(|n| Spanned { value: n, span: on.span }))
    };
    let qk_head_dim = s.positive("qk_head_dim", sizes.qk_head_dim);
    let qk_pos_emb_head_dim = s.positive("qk_pos_emb_head_dim", sizes.qk_pos_emb_head_dim);
    // A config.json gives the width of the rotated part here.
    s.take(&["kv_channels"]);
    let norm = s.get("qk_layernorm", d.qk_layernorm);
    let hub = convention == Convention::HuggingFace;
    Some(LatentAttention {
        q_lora_rank,
        kv_lora_rank: s.positive("kv_lora_rank", sizes.kv_lora_rank),
        qk_head_dim,
        qk_pos_emb_head_dim,
        v_head_dim: s.positive("v_head_dim", sizes.v_head_dim),
        norm,
        // Hugging Face's norms of the latents do not take the model's.
        norm_epsilon: if hub { 1e-6 } else { layernorm_epsilon },
        softmax_scale: softmax_scale(s, convention, qk_head_dim.value + qk_pos_emb_head_dim.value),
    })
}

fn softmax_scale(s: &mut Section<'_>, convention: Convention, head_dim: usize) -> Spanned<f64> {
    let plain = (head_dim as f64).sqrt().recip();
    let given = s.opt_checked::<f64>("softmax_scale", "must be above 0", |v| *v > 0.0);
    let rule = s.opt_one_of("mla_softmax_scale", RULES);
    if let Some(given) = given {
        return given;
    }
    let default = if convention == Convention::Mcore { Rule::Always } else { Rule::Extended };
    let rule_span = rule.and_then(|r| r.span);
    let coeff = number(s, "coeff").map_or(0.1, |c| c.value);
    let m = |factor: f64, mscale: f64| if factor > 1.0 { coeff * mscale * factor.ln() + 1.0 } else { 1.0 };
    let extended = extended(s, convention);
    let (m, span) = match rule.map_or(default, |r| r.value) {
        Rule::Plain => (1.0, rule_span),
        Rule::Extended => {
            let all_dim = number(s, "mscale_all_dim").filter(|_| extended);
            let factor = number(s, "rotary_scaling_factor").filter(|_| extended);
            (all_dim.zip(factor).map_or(1.0, |(a, f)| m(f.value, a.value)), all_dim.and_then(|a| a.span))
        }
        Rule::Always => {
            let (factor, mscale) = (number(s, "rotary_scaling_factor"), number(s, "mscale"));
            let m = m(factor.map_or(40.0, |f| f.value), mscale.map_or(0.707, |v| v.value));
            (m, mscale.or(factor).and_then(|v| v.span))
        }
    };
    if rule.is_none() && default == Rule::Always && !extended && m != 1.0 {
        let message = format!(
            "attention is scaled by {:.5}, {:.3} times 1/√{head_dim}, though the context is not extended; MindSpore \
             Transformers does the same",
            m * m * plain,
            m * m
        );
        let found = Diagnostic::note(&codes::COMPATIBILITY, message)
            .help("write `mla_softmax_scale: plain` for 1/√d, as the paper pretrains, or `mindformers` to keep it");
        s.error_at(found, s.peek("multi_latent_attention").map(|f| f.key_span), "");
    }
    Spanned { value: m * m * plain, span: rule_span.or(span) }
}

/// True if the positions are made for a longer context.
fn extended(s: &Section<'_>, convention: Convention) -> bool {
    if let Some(map) = s.peek("rope_scaling").filter(|f| matches!(f.node.kind, Kind::Map(_))) {
        let kind = map.node.get("rope_type").or(map.node.get("type"));
        return kind.and_then(|k| k.value.text()).is_some_and(|k| k != "default");
    }
    if convention == Convention::Legacy {
        return s.peek("scaling_factor").is_some_and(|f| matches!(f.node.kind, Kind::Map(_)));
    }
    let kind = s.peek("position_embedding_type").and_then(|f| f.node.text());
    kind.is_some_and(|k| !matches!(k, "rope" | "default" | "none"))
}

/// The number under `key` in the section, or in `rope_scaling` (legacy: `scaling_factor`) under its name there.
fn number<'a>(s: &mut Section<'a>, key: &'a str) -> Option<Spanned<f64>> {
    if let Some(own) = s.opt::<f64>(key) {
        return Some(own);
    }
    let inner = if key == "rotary_scaling_factor" { "factor" } else { key };
    let map = ["rope_scaling", "scaling_factor"].into_iter().find_map(|m| s.peek(m)?.node.get(inner))?;
    let span: Span = map.value.span;
    f64::from_node(&map.value).map(|v| Spanned::at(v, span))
}
