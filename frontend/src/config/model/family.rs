//! Model families: how a file names them, and what each takes for granted.

use athanor_ir::Diagnostic;

use super::{Activation, Dtype, Normalization};
use crate::config::codes;
use crate::config::known;
use crate::config::reader::Section;
use crate::config::span::{Span, Spanned};

/// A family of dense decoders that share their structure.
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

/// What a family takes for granted.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of the model under its own name.
pub(super) struct Defaults {
    pub normalization: Normalization,
    pub layernorm_epsilon: f64,
    pub bias: bool,
    pub qkv_bias: bool,
    pub gated: bool,
    pub hidden_act: Activation,
    pub qk_layernorm: bool,
    pub head_dim: Option<usize>,
    pub learned_positions: bool,
    pub tie: bool,
    pub hidden_dropout: f64,
    pub attention_dropout: f64,
    pub embedding_dropout: f64,
    pub seq_length: usize,
    pub max_position_embeddings: Option<usize>,
    pub params_dtype: Dtype,
    pub compute_dtype: Dtype,
    pub init_method_std: f64,
    pub pad_token_id: i64,
}

impl Family {
    pub(super) fn defaults(self, convention: Convention) -> Defaults {
        let legacy = convention == Convention::Legacy;
        let common = Defaults {
            normalization: Normalization::RmsNorm,
            layernorm_epsilon: if legacy { 1e-5 } else { 1e-6 },
            bias: false,
            qkv_bias: false,
            gated: true,
            hidden_act: Activation::Silu,
            qk_layernorm: false,
            head_dim: None,
            learned_positions: false,
            tie: false,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            embedding_dropout: 0.0,
            seq_length: if legacy { 2048 } else { 4096 },
            // The legacy class takes the sequence length.
            max_position_embeddings: if legacy { None } else { Some(2048) },
            params_dtype: if legacy { Dtype::F16 } else { Dtype::F32 },
            compute_dtype: if legacy { Dtype::F16 } else { Dtype::Bf16 },
            init_method_std: if legacy { 0.01 } else { 0.02 },
            pad_token_id: 0,
        };
        match self {
            Self::Llama => common,
            Self::Qwen2 => Defaults {
                qkv_bias: true,
                max_position_embeddings: common.max_position_embeddings.map(|_| 32768),
                ..common
            },
            Self::Qwen3 => Defaults {
                qk_layernorm: true,
                head_dim: Some(128),
                max_position_embeddings: Some(32768),
                // The Mcore class leaves this to the transformer's own default.
                hidden_dropout: if convention == Convention::Mcore { 0.1 } else { 0.0 },
                pad_token_id: 151_643,
                ..common
            },
            Self::Gpt2 => Defaults {
                normalization: Normalization::LayerNorm,
                layernorm_epsilon: 1e-5,
                bias: true,
                gated: false,
                hidden_act: Activation::GeluTanh,
                learned_positions: true,
                tie: true,
                hidden_dropout: 0.1,
                attention_dropout: 0.1,
                embedding_dropout: 0.1,
                seq_length: 1024,
                max_position_embeddings: if legacy { None } else { Some(1024) },
                params_dtype: Dtype::F32,
                init_method_std: 0.02,
                pad_token_id: if legacy { 50256 } else { 0 },
                ..common
            },
        }
    }

    /// The Hugging Face name of the family.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The Hugging Face class of the family.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

type Table = &'static [(&'static str, Option<Family>)];

/// `model_type`. `None` is known and not supported.
const MODEL_TYPES: Table = &[
    ("gpt2", Some(Family::Gpt2)),
    ("llama", Some(Family::Llama)),
    ("qwen2", Some(Family::Qwen2)),
    ("qwen3", Some(Family::Qwen3)),
    ("mistral", None),
    ("mixtral", None),
    ("qwen2_moe", None),
    ("qwen3_moe", None),
    ("deepseek_v2", None),
    ("deepseek_v3", None),
    ("deepseek_v4", None),
    ("glm4", None),
    ("glm4_moe", None),
    ("telechat2", None),
    ("telechat3", None),
    ("telechat3_moe", None),
];

/// `architectures`.
const ARCHITECTURES: Table = &[
    ("GPT2LMHeadModel", Some(Family::Gpt2)),
    ("LlamaForCausalLM", Some(Family::Llama)),
    ("Qwen2ForCausalLM", Some(Family::Qwen2)),
    ("Qwen3ForCausalLM", Some(Family::Qwen3)),
    ("MistralForCausalLM", None),
    ("MixtralForCausalLM", None),
    ("Qwen2MoeForCausalLM", None),
    ("Qwen3MoeForCausalLM", None),
    ("DeepseekV2ForCausalLM", None),
    ("DeepseekV3ForCausalLM", None),
    ("DeepseekV4ForCausalLM", None),
    ("Glm4ForCausalLM", None),
    ("Glm4MoeForCausalLM", None),
    ("TeleChat2ForCausalLM", None),
    ("TeleChat3ForCausalLM", None),
    ("TeleChat3MoeForCausalLM", None),
    ("TelechatForCausalLM", None),
    ("Telechat3ForCausalLM", None),
    ("Telechat3MoeForCausalLM", None),
];

/// Legacy `model.model_config.type`.
const LEGACY_TYPES: Table = &[
    ("LlamaConfig", Some(Family::Llama)),
    ("GPT2Config", Some(Family::Gpt2)),
    ("QwenConfig", Some(Family::Qwen2)),
    ("DeepseekV2Config", None),
    ("DeepseekV3Config", None),
    ("DeepseekConfig", None),
    ("ChatGLM2Config", None),
    ("ChatGLM3Config", None),
    ("GLMConfig", None),
    ("BloomConfig", None),
    ("PanguAlphaConfig", None),
    ("BaichuanConfig", None),
    ("InternLMConfig", None),
    ("InternLM2Config", None),
    ("TelechatConfig", None),
    ("SkyworkConfig", None),
    ("YiZhaoConfig", None),
    ("IFlytekSparkConfig", None),
    ("MixtralConfig", None),
    ("CodeGeex2Config", None),
    ("CogVLM2Config", None),
    ("CLIPConfig", None),
    ("BertConfig", None),
    ("T5Config", None),
    ("ViTConfig", None),
    ("SwinConfig", None),
    ("ViTMAEConfig", None),
    ("MaeConfig", None),
    ("SamConfig", None),
    ("Blip2Config", None),
    ("VisualGLMConfig", None),
    ("QwenVLConfig", None),
    ("WizardCoderConfig", None),
    ("WhisperConfig", None),
];

/// Legacy `model.arch.type`.
const LEGACY_ARCHITECTURES: Table = &[
    ("LlamaForCausalLM", Some(Family::Llama)),
    ("GPT2LMHeadModel", Some(Family::Gpt2)),
    ("QwenForCausalLM", Some(Family::Qwen2)),
    ("GPT2ForSequenceClassification", None),
    ("LlamaForCausalLMWithLora", None),
    ("MixtralForCausalLM", None),
    ("Baichuan7BV2ForCausalLM", None),
    ("Baichuan13BV2ForCausalLM", None),
    ("Baichuan13BForCausalLM", None),
    ("InternLMForCausalLM", None),
    ("InternLM2ForCausalLM", None),
    ("TelechatForCausalLM", None),
    ("DeepseekV2ForCausalLM", None),
    ("DeepseekV3ForCausalLM", None),
    ("ChatGLM2ForConditionalGeneration", None),
    ("ChatGLM2WithPtuning2", None),
];

const SUPPORTED: &str = "supported: GPT-2, Llama 2 to 3.2 (CodeLlama, Yi, DeepSeek-Coder), Qwen1.5/2/2.5, Qwen3";

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
                "add `model_type: llama` (or qwen2, qwen3, gpt2), or name a folder with a config.json in \
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
