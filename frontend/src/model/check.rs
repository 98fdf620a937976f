//! What a description may ask for that no block does.

use std::sync::Arc;

use athanor_ir::diag::SourceFile;
use athanor_ir::{Code, Diagnostic, Result};

use crate::config::{Family, ModelConfig, PositionEmbedding, Spanned};

/// The description asks for something that no block does.
pub const UNSUPPORTED_MODEL: Code = Code {
    id: "C0110",
    title: "the model asks for something that cannot be built",
    explain: "The setting is understood and changes what the model computes, but there is no implementation of it: \
              dropout above 0, or a setting that the family does not have. Training without it would be another \
              model, so it is refused.",
};

/// Codes of the model builders.
pub const CODES: &[&Code] = &[
    &UNSUPPORTED_MODEL,
    &crate::block::BAD_PATTERN,
    &super::params::BAD_PARAMETER_RULE,
    &super::recompute::BAD_OPERATOR_PATTERN,
    &super::recompute::NO_OPERATOR,
];

/// Refuses what cannot be built.
pub(super) fn check(m: &ModelConfig, sources: &[Arc<SourceFile>]) -> Result<()> {
    let refuse = |span: Option<crate::config::Span>, what: &str, help: &str| {
        let found = Diagnostic::error(&UNSUPPORTED_MODEL, format!("{what} is not supported")).help(help);
        let source = span.and_then(|s| sources.get(s.file as usize).map(|f| (s, f)));
        match source {
            Some((s, file)) => found.at(file, s.start as usize..s.end as usize, "asked for here").err(),
            None => found.err(),
        }
    };
    // A dropout that nobody wrote is a default of the original's class; reading the configuration says so.
    let asked = |d: &Spanned<f64>| d.is_set() && d.value > 0.0;
    for (name, d) in [
        ("hidden_dropout", &m.hidden_dropout),
        ("attention_dropout", &m.attention_dropout),
        ("embedding_dropout", &m.embedding_dropout),
    ] {
        if asked(d) {
            return refuse(d.span, &format!("`{name}` {}", d.value), &format!("write `{name}: 0.0`"));
        }
    }
    if m.position_embedding.value == PositionEmbedding::Alibi && m.latent.is_some() {
        let help = "latent attention has rotary positions of its own";
        return refuse(m.position_embedding.span, "ALiBi with latent attention", help);
    }
    let learned = m.position_embedding.value == PositionEmbedding::LearnedAbsolute;
    match m.family {
        Family::Gpt2 => {
            if !learned {
                let help = "GPT-2 learns its positions; use `model_type: llama` for rotary ones";
                return refuse(m.position_embedding.span, "GPT-2 without learned positions", help);
            }
            let [q, o, f] = [&m.add_qkv_bias, &m.attention_output_bias, &m.mlp_bias];
            if let Some(off) = [q, o, f].into_iter().find(|b| !b.value) {
                return refuse(off.span, "GPT-2 without biases", "every linear layer of GPT-2 has a bias");
            }
            if m.gated_linear_unit.value {
                return refuse(
                    m.gated_linear_unit.span,
                    "GPT-2 with a gated feed-forward layer",
                    "use `model_type: llama`",
                );
            }
            if m.num_query_groups.value != m.num_attention_heads.value {
                let help = "use `model_type: llama` for grouped queries";
                return refuse(m.num_query_groups.span, "GPT-2 with fewer key and value heads", help);
            }
        }
        _ => {
            if learned {
                let help = "use `position_embedding_type: rope`, or `model_type: gpt2`";
                return refuse(m.position_embedding.span, "this family with learned positions", help);
            }
        }
    }
    Ok(())
}
