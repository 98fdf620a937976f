//! Initial values by the name of the weight: `param_init_std_rules`.

use std::borrow::Cow;
use std::sync::Arc;

use athanor_ir::diag::SourceFile;
use athanor_ir::{Code, Diagnostic, Init, Result};
use regex::Regex;

use crate::config::ModelConfig;

/// The pattern of a rule cannot be read.
pub const BAD_PATTERN: Code = Code {
    id: "C0111",
    title: "the pattern of an initialisation rule cannot be read",
    explain: "`target` of a rule in `param_init_std_rules` is a regular expression over the names of weights, such as \
              `decoder.layers.0.*`. It may use what regular expressions have in common (https://docs.rs/regex), but \
              neither look-around nor back-references.",
};

/// Standard deviations by pattern.
#[derive(Debug, Default)]
pub struct InitRules(Vec<(Regex, f64)>);

impl InitRules {
    /// The rules of `m`; spans point into `sources`.
    ///
    /// # Errors
    /// [`BAD_PATTERN`].
    pub fn new(m: &ModelConfig, sources: &[Arc<SourceFile>]) -> Result<Self> {
        let rule = |rule: &crate::config::InitStdRule| {
            let target = &rule.target;
            Regex::new(&target.value).map(|r| (r, rule.init_method_std.value)).map_err(|e| {
                // The crate draws the pattern over several lines; the reason is the last.
                let why = e.to_string();
                let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
                let found = Diagnostic::error(&BAD_PATTERN, format!("`{}` is not a pattern: {why}", target.value))
                    .help("write a regular expression over names of weights, such as `decoder.layers.0.*`");
                Box::new(match target.span.and_then(|s| Some((s, sources.get(s.file as usize)?))) {
                    Some((s, file)) => found.at(file, s.start as usize..s.end as usize, "this pattern"),
                    None => found,
                })
            })
        };
        Ok(Self(m.param_init_std_rules.iter().map(rule).collect::<Result<_>>()?))
    }

    /// `init` of the weight called `name`, or what the first rule says whose pattern is found in its name.
    ///
    /// Names are looked at as Hugging Face writes them and as `MindFormers` does; constants (norms, biases) stay.
    pub(super) fn of(&self, name: &str, init: Init) -> Init {
        if !matches!(init, Init::Normal { .. }) || self.0.is_empty() {
            return init;
        }
        let training = training_name(name);
        let hit = self.0.iter().find(|(pattern, _)| pattern.is_match(&training) || pattern.is_match(name));
        hit.map_or(init, |(_, std)| Init::Normal { std: *std })
    }
}

/// What a part of a Hugging Face name is called in `MindFormers`' training models; q, k and v are one matrix there, and
/// so are gate and up; routed experts are stacked.
const PARTS: [(&str, &str); 27] = [
    ("embed_tokens", "embedding.word_embeddings"),
    ("lm_head", "output_layer"),
    ("self_attn.q_proj", "self_attention.linear_qkv"),
    ("self_attn.k_proj", "self_attention.linear_qkv"),
    ("self_attn.v_proj", "self_attention.linear_qkv"),
    ("self_attn.o_proj", "self_attention.linear_proj"),
    ("self_attn.q_norm", "self_attention.q_layernorm"),
    ("self_attn.k_norm", "self_attention.k_layernorm"),
    ("post_attention_layernorm", "pre_mlp_layernorm"),
    ("self_attn.q_a_proj", "self_attention.linear_q_down_proj"),
    ("self_attn.q_b_proj", "self_attention.linear_q_up_proj"),
    ("self_attn.q_a_layernorm", "self_attention.q_layernorm"),
    ("self_attn.kv_a_proj_with_mqa", "self_attention.linear_kv_down_proj"),
    ("self_attn.kv_b_proj", "self_attention.linear_kv_up_proj"),
    ("self_attn.kv_a_layernorm", "self_attention.kv_layernorm"),
    ("mlp.experts.gate_proj", "mlp.experts.weight1"),
    ("mlp.experts.up_proj", "mlp.experts.weight1"),
    ("mlp.experts.down_proj", "mlp.experts.weight2"),
    ("mlp.shared_experts.gate_proj", "mlp.shared_experts.linear_fc1"),
    ("mlp.shared_experts.up_proj", "mlp.shared_experts.linear_fc1"),
    ("mlp.shared_experts.down_proj", "mlp.shared_experts.linear_fc2"),
    ("mlp.gate.weight", "mlp.router.weight"),
    ("mlp.gate.e_score_correction_bias", "mlp.router.expert_bias"),
    ("mlp.gate_proj", "mlp.linear_fc1"),
    ("mlp.up_proj", "mlp.linear_fc1"),
    ("mlp.down_proj", "mlp.linear_fc2"),
    ("norm.weight", "decoder.final_layernorm.weight"),
];

pub(crate) fn training_name(name: &str) -> Cow<'_, str> {
    let short = name.strip_prefix("model.").unwrap_or(name);
    let (layer, part) = match short.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((i, part)) => (format!("decoder.layers.{i}."), part),
        None => (String::new(), short),
    };
    match PARTS.iter().find(|(theirs, _)| part.starts_with(theirs)) {
        Some((theirs, ours)) => format!("{layer}{ours}{}", &part[theirs.len()..]).into(),
        None if layer.is_empty() => name.into(),
        None => (layer + part).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::training_name;

    #[test]
    fn names_are_those_of_the_training_models() {
        for (hf, wanted) in [
            ("model.embed_tokens.weight", "embedding.word_embeddings.weight"),
            ("model.layers.10.self_attn.k_proj.bias", "decoder.layers.10.self_attention.linear_qkv.bias"),
            ("model.layers.0.input_layernorm.weight", "decoder.layers.0.input_layernorm.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "decoder.layers.0.pre_mlp_layernorm.weight"),
            ("model.layers.3.mlp.down_proj.weight", "decoder.layers.3.mlp.linear_fc2.weight"),
            ("model.norm.weight", "decoder.final_layernorm.weight"),
            (
                "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
                "decoder.layers.1.self_attention.linear_kv_down_proj.weight",
            ),
            ("model.layers.1.mlp.experts.gate_proj", "decoder.layers.1.mlp.experts.weight1"),
            ("model.layers.1.mlp.gate.weight", "decoder.layers.1.mlp.router.weight"),
            ("lm_head.weight", "output_layer.weight"),
            ("transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"),
        ] {
            assert_eq!(training_name(hf), wanted);
        }
    }
}
