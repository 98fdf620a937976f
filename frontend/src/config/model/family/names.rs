//! What families are called in each generation.

use super::Family;

/// A name and the family it means; `None` is known and not supported.
pub(super) type Table = &'static [(&'static str, Option<Family>)];

/// `model_type` of a Mcore configuration or a config.json.
pub(super) const MODEL_TYPES: Table = &[
    ("gpt2", Some(Family::Gpt2)),
    ("llama", Some(Family::Llama)),
    ("qwen2", Some(Family::Qwen2)),
    ("qwen3", Some(Family::Qwen3)),
    ("mixtral", Some(Family::Mixtral)),
    ("qwen2_moe", Some(Family::Qwen2Moe)),
    ("qwen3_moe", Some(Family::Qwen3Moe)),
    ("deepseek_v2", Some(Family::DeepseekV2)),
    ("deepseek_v3", Some(Family::DeepseekV3)),
    ("glm", Some(Family::Glm)),
    ("chatglm", Some(Family::Glm)),
    ("glm4", Some(Family::Glm4)),
    ("glm4_moe", Some(Family::Glm4Moe)),
    ("telechat", Some(Family::Telechat2)),
    ("telechat2", Some(Family::Telechat2)),
    ("telechat3", Some(Family::Telechat3)),
    ("telechat3_moe", Some(Family::Telechat3Moe)),
    ("baichuan", Some(Family::Baichuan)),
    ("internlm", Some(Family::InternLm)),
    ("internlm2", Some(Family::InternLm2)),
    ("deepseek_v4", Some(Family::DeepseekV4)),
    ("mistral", None),
];

/// `architectures` of a Mcore configuration or a config.json.
pub(super) const ARCHITECTURES: Table = &[
    ("GPT2LMHeadModel", Some(Family::Gpt2)),
    ("LlamaForCausalLM", Some(Family::Llama)),
    ("Qwen2ForCausalLM", Some(Family::Qwen2)),
    ("Qwen3ForCausalLM", Some(Family::Qwen3)),
    ("MixtralForCausalLM", Some(Family::Mixtral)),
    ("Qwen2MoeForCausalLM", Some(Family::Qwen2Moe)),
    ("Qwen3MoeForCausalLM", Some(Family::Qwen3Moe)),
    ("DeepseekV2ForCausalLM", Some(Family::DeepseekV2)),
    ("DeepseekV3ForCausalLM", Some(Family::DeepseekV3)),
    ("GlmForCausalLM", Some(Family::Glm)),
    ("ChatGLMModel", Some(Family::Glm)),
    ("ChatGLMForConditionalGeneration", Some(Family::Glm)),
    ("Glm4ForCausalLM", Some(Family::Glm4)),
    ("Glm4MoeForCausalLM", Some(Family::Glm4Moe)),
    ("TelechatForCausalLM", Some(Family::Telechat2)),
    ("TeleChat2ForCausalLM", Some(Family::Telechat2)),
    ("TeleChat3ForCausalLM", Some(Family::Telechat3)),
    ("Telechat3ForCausalLM", Some(Family::Telechat3)),
    ("TeleChat3MoeForCausalLM", Some(Family::Telechat3Moe)),
    ("Telechat3MoeForCausalLM", Some(Family::Telechat3Moe)),
    ("BaichuanForCausalLM", Some(Family::Baichuan)),
    ("BaiChuanForCausalLM", Some(Family::Baichuan)),
    ("InternLMForCausalLM", Some(Family::InternLm)),
    ("InternLM2ForCausalLM", Some(Family::InternLm2)),
    ("DeepseekV4ForCausalLM", Some(Family::DeepseekV4)),
    ("MistralForCausalLM", None),
];

/// Legacy `model.model_config.type`.
pub(super) const LEGACY_TYPES: Table = &[
    ("LlamaConfig", Some(Family::Llama)),
    ("GPT2Config", Some(Family::Gpt2)),
    ("QwenConfig", Some(Family::Qwen2)),
    ("MixtralConfig", Some(Family::Mixtral)),
    ("DeepseekV2Config", Some(Family::DeepseekV2)),
    ("DeepseekV3Config", Some(Family::DeepseekV3)),
    ("ChatGLM2Config", Some(Family::Glm)),
    ("ChatGLM3Config", Some(Family::Glm)),
    ("TelechatConfig", Some(Family::Telechat2)),
    ("InternLMConfig", Some(Family::InternLm)),
    ("InternLM2Config", Some(Family::InternLm2)),
    ("BaichuanConfig", Some(Family::Baichuan)),
    ("DeepseekConfig", None),
    ("GLMConfig", None),
    ("BloomConfig", None),
    ("PanguAlphaConfig", None),
    ("SkyworkConfig", None),
    ("YiZhaoConfig", None),
    ("IFlytekSparkConfig", None),
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
pub(super) const LEGACY_ARCHITECTURES: Table = &[
    ("LlamaForCausalLM", Some(Family::Llama)),
    ("GPT2LMHeadModel", Some(Family::Gpt2)),
    ("QwenForCausalLM", Some(Family::Qwen2)),
    ("MixtralForCausalLM", Some(Family::Mixtral)),
    ("DeepseekV2ForCausalLM", Some(Family::DeepseekV2)),
    ("DeepseekV3ForCausalLM", Some(Family::DeepseekV3)),
    ("ChatGLM2ForConditionalGeneration", Some(Family::Glm)),
    ("TelechatForCausalLM", Some(Family::Telechat2)),
    ("InternLMForCausalLM", Some(Family::InternLm)),
    ("InternLM2ForCausalLM", Some(Family::InternLm2)),
    ("Baichuan7BV2ForCausalLM", Some(Family::Baichuan)),
    ("Baichuan13BV2ForCausalLM", Some(Family::Baichuan)),
    ("Baichuan13BForCausalLM", Some(Family::Baichuan)),
    ("GPT2ForSequenceClassification", None),
    ("LlamaForCausalLMWithLora", None),
    ("ChatGLM2WithPtuning2", None),
];

/// Legacy classes whose architecture is another family's than the type that describes them: type, architecture.
pub(super) const LEGACY_PAIRS: &[(Family, Family)] =
    &[(Family::Llama, Family::Mixtral), (Family::Llama, Family::Baichuan)];
