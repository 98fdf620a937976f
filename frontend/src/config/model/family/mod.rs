//! Model families: how a file names them, and what each takes for granted.

mod defaults;
mod names;

pub(super) use defaults::{Defaults, Experts};

use athanor_ir::Diagnostic;

use names::{ARCHITECTURES, LEGACY_ARCHITECTURES, LEGACY_PAIRS, LEGACY_TYPES, MODEL_TYPES, Table};

use crate::config::codes;
use crate::config::known;
use crate::config::reader::Section;
use crate::config::span::{Span, Spanned};

/// A family of decoders that share their structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `LayerNorm`, learned positions, biases, ungated GELU, tied embeddings.
    Gpt2,
    /// `RMSNorm`, rotary positions, `SwiGLU`. Llama 1 to 3.2, `CodeLlama`, Yi, `DeepSeek`-Coder.
    Llama,
    /// Llama with biases on q, k and v. Qwen1.5, Qwen2, Qwen2.5.
    Qwen2,
    /// Llama with `RMSNorm` over each head of q and k.
    Qwen3,
    /// Llama with experts, chosen and weighed by a softmax.
    Mixtral,
    /// Qwen2 with experts and a gated shared expert.
    Qwen2Moe,
    /// Qwen3 with experts.
    Qwen3Moe,
    /// Latent attention, experts chosen by a softmax within groups, shared experts. `DeepSeek`-V2, Moonlight.
    DeepseekV2,
    /// Latent attention, experts chosen by sigmoid and bias within groups, a module for the token after the next.
    DeepseekV3,
    /// Not complete: what sets it apart from V3 is refused by name.
    DeepseekV4,
    /// Llama with biases on q, k and v, of whose heads half is rotated in neighbouring pairs. GLM2, GLM3, GLM4-9b-chat.
    Glm,
    /// GLM with norms before and after each sub-layer. GLM4-0414.
    Glm4,
    /// GLM4.5: partial rotation, experts as in DeepSeek-V3.
    Glm4Moe,
    /// Llama with biases on the last projection of each sub-layer. `TeleChat`, `TeleChat2`.
    Telechat2,
    /// Llama. TeleChat3-36B.
    Telechat3,
    /// As DeepSeek-V3 without groups.
    Telechat3Moe,
    /// Llama; Baichuan2 normalises the rows of the output layer, and the 13B ones have `ALiBi` for positions.
    Baichuan,
    /// Llama with biases in attention. The first `InternLM`.
    InternLm,
    /// Llama with other names in its checkpoints.
    InternLm2,
}

/// Whose defaults and formulas hold where the file says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// The configuration classes of `MindFormers` before 1.6 (G1).
    Legacy,
    /// Its Mcore models (G2).
    Mcore,
    /// Hugging Face: the model comes from a config.json.
    HuggingFace,
}

impl Family {
    /// The Hugging Face name of the family.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Mixtral => "mixtral",
            Self::Qwen2Moe => "qwen2_moe",
            Self::Qwen3Moe => "qwen3_moe",
            Self::DeepseekV2 => "deepseek_v2",
            Self::DeepseekV3 => "deepseek_v3",
            Self::DeepseekV4 => "deepseek_v4",
            Self::Glm => "glm",
            Self::Glm4 => "glm4",
            Self::Glm4Moe => "glm4_moe",
            Self::Telechat2 => "telechat",
            Self::Telechat3 => "telechat3",
            Self::Telechat3Moe => "telechat3_moe",
            Self::Baichuan => "baichuan",
            Self::InternLm => "internlm",
            Self::InternLm2 => "internlm2",
        }
    }

    /// The Hugging Face class of the family.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Mixtral => "MixtralForCausalLM",
            Self::Qwen2Moe => "Qwen2MoeForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
            Self::DeepseekV2 => "DeepseekV2ForCausalLM",
            Self::DeepseekV3 => "DeepseekV3ForCausalLM",
            Self::DeepseekV4 => "DeepseekV4ForCausalLM",
            Self::Glm => "GlmForCausalLM",
            Self::Glm4 => "Glm4ForCausalLM",
            Self::Glm4Moe => "Glm4MoeForCausalLM",
            Self::Telechat2 => "TelechatForCausalLM",
            Self::Telechat3 => "TeleChat3ForCausalLM",
            Self::Telechat3Moe => "TeleChat3MoeForCausalLM",
            Self::Baichuan => "BaichuanForCausalLM",
            Self::InternLm => "InternLMForCausalLM",
            Self::InternLm2 => "InternLM2ForCausalLM",
        }
    }
}

const SUPPORTED: &str = "supported: GPT-2, Llama 2 to 3.2 (CodeLlama, Yi, DeepSeek-Coder), Qwen1.5/2/2.5, Qwen3, \
                         Qwen2-MoE, Qwen3-MoE, Mixtral, DeepSeek-V2 and V3, GLM2 to 4.5, TeleChat2 and 3, Baichuan 1 and 2, \
                         InternLM 1 and 2";

/// The family that the section names; `None` after a diagnostic.
pub(super) fn read(s: &mut Section<'_>, arch: Option<Spanned<String>>, legacy: bool) -> Option<Family> {
    let (key, types, architectures) =
        if legacy { ("type", LEGACY_TYPES, LEGACY_ARCHITECTURES) } else { ("model_type", MODEL_TYPES, ARCHITECTURES) };
    let kind = s.opt::<String>(key);
    if kind.is_none() && arch.is_none() {
        if s.peek(key).is_none() {
            let help = if legacy {
                "add `use_legacy: False` if this is a Mcore model with `model_type`, or name a class such as \
                 `type: LlamaConfig`"
            } else {
                "add `model_type: llama` (or deepseek_v3, qwen3, …), or name a folder with a config.json in \
                 `pretrained_model_dir`"
            };
            s.missing(key, help);
        }
        return None;
    }
    let by_type = kind.as_ref().map(|k| lookup(s, k, types, "model type"));
    // An architecture refines a type that is known; it need not be repeated.
    if by_type == Some(None) {
        return None;
    }
    let by_arch = arch.as_ref().map(|a| lookup(s, a, architectures, "architecture"));
    if by_arch == Some(None) {
        return None;
    }
    match (by_type.flatten(), by_arch.flatten()) {
        (Some(a), Some(b)) if LEGACY_PAIRS.contains(&(a, b)) => Some(b),
        (Some(a), Some(b)) if a != b => {
            let (kind, arch) = (kind?, arch?);
            let message = format!("`{}` is not a model of type `{}`", arch.value, kind.value);
            let found = Diagnostic::error(&codes::CONTRADICTION, message).help(format!(
                "`{}` goes with `{}`",
                kind.value,
                if legacy { kind.value.clone() } else { a.architecture().into() }
            ));
            let found = s.report.mark(found, kind.span, "the type");
            s.report.push(s.report.mark(found, arch.span, "another model"));
            None
        }
        (a, b) => a.or(b),
    }
}

fn lookup(s: &Section<'_>, name: &Spanned<String>, table: Table, what: &str) -> Option<Family> {
    match table.iter().find(|(n, _)| *n == name.value) {
        Some((_, Some(family))) => Some(*family),
        Some((_, None)) => refuse(s, name.span, &format!("the {what} `{}`", name.value)),
        None => match known::nearest(&name.value, table.iter().map(|(n, _)| *n)) {
            Some(near) => {
                let message = format!("`{}` is not a known {what}", name.value);
                let found = Diagnostic::error(&codes::UNKNOWN_TYPE, message).help(format!("did you mean `{near}`?"));
                s.error_at(found, name.span, "unknown");
                None
            }
            None if s.peek("auto_register").is_some() => {
                let message = format!("the {what} `{}` is Python code outside of the configuration", name.value);
                let found = Diagnostic::error(&codes::CLASS_ELSEWHERE, message).help(SUPPORTED);
                s.error_at(found, name.span, "a class of its own");
                None
            }
            None => refuse(s, name.span, &format!("the {what} `{}`", name.value)),
        },
    }
}

fn refuse(s: &Section<'_>, span: Option<Span>, what: &str) -> Option<Family> {
    s.not_supported(span, what, SUPPORTED);
    None
}
