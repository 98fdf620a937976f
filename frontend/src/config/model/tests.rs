use super::{
    Activation, AuxLoss, Convention, DropPolicy, Dtype, Family, GroupMask, LoadCounts, PositionEmbedding, Rope,
    RopeScaling, ScoreFunction, YarnMagnitude,
};
use crate::config::testing::{LLAMA, accepted, complaints, load_with, with};
use crate::config::{Config, codes, load};

const LEGACY: &str = "\
run_mode: train
runner_config: {epochs: 1, batch_size: 2}
model:
  model_config:
    type: LlamaConfig
    hidden_size: 8192
    num_layers: 80
    num_heads: 64
    vocab_size: 32000
    seq_length: 4096
  arch: {type: LlamaForCausalLM}
optimizer: {type: AdamW}
lr_schedule: {type: ConstantWarmUpLR, learning_rate: 3.e-4}
train_dataset:
  data_loader: {type: TokenBinDataLoader, path: tokens.bin, dtype: uint16}
";

fn model_keys<'a>(changes: &[(&str, &'a str)]) -> Vec<(String, &'a str)> {
    changes.iter().map(|(k, v)| (format!("model.model_config.{k}"), *v)).collect()
}

fn llama(changes: &[(&str, &str)]) -> super::ModelConfig {
    let keys = model_keys(changes);
    with(&keys.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>()).model
}

fn legacy(changes: &[(&str, &str)]) -> super::ModelConfig {
    let keys = model_keys(changes);
    let changes: Vec<_> = keys.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    accepted(load_with(LEGACY, &changes)).model
}

fn rope(model: &super::ModelConfig) -> &Rope {
    match &model.position_embedding.value {
        PositionEmbedding::Rope(rope) => rope,
        other => panic!("{other:?}"),
    }
}

/// A configuration whose model is the config.json `json`, with `yaml` under `model.model_config`.
fn from_hf(json: &str, yaml: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("hub")).unwrap();
    std::fs::write(dir.path().join("hub/config.json"), json).unwrap();
    let (head, tail) = (LLAMA.split("model:").next().unwrap(), LLAMA.split("optimizer:").nth(1).unwrap());
    let text = format!("{head}pretrained_model_dir: hub\nmodel:\n  model_config: {yaml}\noptimizer:{tail}");
    std::fs::write(dir.path().join("run.yaml"), text).unwrap();
    accepted(load(&dir.path().join("run.yaml"), &[]))
}

const HUB: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96,
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-05, "max_position_embeddings": 64,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "pad_token_id": null, "use_cache": true"#;

fn hub(more: &str) -> String {
    format!("{HUB}{more}}}")
}

#[test]
fn every_name_of_a_setting_is_the_setting() {
    let model = llama(&[("head_dim", "32"), ("rms_norm_eps", "1e-5"), ("initializer_range", "0.01"), ("theta", "5e5")]);
    assert_eq!((model.kv_channels.value, model.layernorm_epsilon.value, model.init_method_std.value), (32, 1e-5, 0.01));
    assert_eq!(rope(&model).theta.value, 5e5);
    assert!(complaints(&[("model.model_config.num_hidden_layers", "8")]).is_empty(), "the same value twice is fine");
    let conflict = complaints(&[("model.model_config.n_layer", "9")]);
    assert_eq!(conflict, ["C0009 `num_layers` and `n_layer` are two names of one setting with different values"]);
}

#[test]
fn families_have_their_defaults() {
    let model = llama(&[]);
    assert_eq!((model.family, model.convention), (Family::Llama, Convention::Mcore));
    assert!(model.gated_linear_unit.value && !model.add_qkv_bias.value && !model.tie_word_embeddings.value);
    assert_eq!(model.compute_dtype.value, Dtype::Bf16);
    let qwen2 = llama(&[("model_type", "qwen2")]);
    assert!(qwen2.add_qkv_bias.value && !qwen2.attention_output_bias.value);
    let qwen3 = llama(&[("model_type", "qwen3")]);
    assert!(qwen3.qk_layernorm.value && !qwen3.add_qkv_bias.value);
    assert_eq!((qwen3.kv_channels.value, qwen3.hidden_dropout.value), (128, 0.0), "a default dropout counts as none");
    let gpt2 = llama(&[("model_type", "gpt2"), ("num_query_groups", "8")]);
    assert!(gpt2.add_qkv_bias.value && gpt2.attention_output_bias.value && gpt2.mlp_bias.value);
    assert!(gpt2.tie_word_embeddings.value && !gpt2.gated_linear_unit.value);
    assert_eq!(gpt2.position_embedding.value, PositionEmbedding::LearnedAbsolute);
    assert_eq!(gpt2.hidden_act.value, Activation::GeluTanh);
}

#[test]
fn legacy_llama_widths() {
    // The published widths of Llama 2 7B, 13B and 70B.
    assert_eq!(legacy(&[("hidden_size", "4096"), ("num_heads", "32")]).ffn_hidden_size.value, 11008);
    assert_eq!(legacy(&[("hidden_size", "5120"), ("num_heads", "40")]).ffn_hidden_size.value, 13824);
    let big = legacy(&[("multiple_of", "256"), ("ffn_dim_multiplier", "1.3"), ("n_kv_heads", "8")]);
    assert_eq!((big.ffn_hidden_size.value, big.num_query_groups.value, big.kv_channels.value), (28672, 8, 128));
    assert_eq!(
        (big.params_dtype.value, big.init_method_std.value, big.max_position_embeddings.value),
        (Dtype::F16, 0.01, 4096)
    );
    assert_eq!(legacy(&[("intermediate_size", "100")]).ffn_hidden_size.value, 100);
}

#[test]
fn legacy_context_extension() {
    let linear = legacy(&[("extend_method", "PI"), ("scaling_factor", "4")]);
    assert_eq!(rope(&linear).scaling.value, RopeScaling::Linear { factor: 4.0 });
    let ntk = legacy(&[("extend_method", "NTK"), ("scaling_factor", "2.0")]);
    assert_eq!((rope(&ntk).theta.value, rope(&ntk).scaling.value), (20000.0, RopeScaling::Default));
    let none = legacy(&[("extend_method", "None"), ("scaling_factor", "1.0")]);
    assert_eq!(rope(&none).scaling.value, RopeScaling::Default);
    let factors = "{factor: 8.0, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192}";
    let llama3 = legacy(&[("extend_method", "LLAMA3"), ("scaling_factor", factors)]);
    let want = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(rope(&llama3).scaling.value, want);
}

#[test]
fn both_dialects_of_a_config_json() {
    let old = from_hf(
        &hub(
            r#", "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16}"#,
        ),
        "",
    );
    let new = from_hf(
        &hub(r#", "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}"#),
        "",
    );
    let (a, b) = (rope(&old.model), rope(&new.model));
    assert_eq!((a.theta.value, a.scaling.value), (b.theta.value, b.scaling.value));
    assert_eq!(a.theta.value, 500_000.0);
    assert_eq!(old.model.convention, Convention::HuggingFace);
    assert_eq!((old.model.hidden_size.value, old.model.num_query_groups.value), (32, 2));
    assert!(old.place(old.model.hidden_size.span).unwrap().ends_with("hub/config.json:2"));
}

#[test]
fn json_as_other_programs_write_it() {
    let json =
        hub(r#", "rope_theta": 1E+4, "auto_map": {"AutoModel": "a\/b--\u00e9.\ud83d\ude00"}, "x": [1, [2.5e-3], {}]"#);
    let model = from_hf(&json.replace("\n    ", "\n\t\t"), "").model;
    assert_eq!(rope(&model).theta.value, 1e4);
}

#[test]
fn the_yaml_goes_before_the_config_json() {
    let json = hub(r#", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "attention_bias": true"#);
    let config = from_hf(&json, "{num_layers: 1, rope_theta: 1e4, tie_word_embeddings: True, seq_length: 16}");
    assert_eq!((config.model.num_layers.value, config.model.seq_length.value), (1, 16));
    assert_eq!(rope(&config.model).theta.value, 1e4);
    assert!(config.model.tie_word_embeddings.value);
    // In a config.json this bias covers the output projection too.
    assert!(config.model.add_qkv_bias.value && config.model.attention_output_bias.value);
    assert_eq!(config.model.params_dtype.value, Dtype::F32, "torch_dtype is the type of the stored weights");
}

#[test]
fn gpt2_by_its_own_names() {
    let json = r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": 128, "n_ctx": 128, "vocab_size": 100, "activation_function": "gelu_new", "resid_pdrop": 0.0,
        "embd_pdrop": 0.2, "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-06, "n_inner": null}"#;
    let model = from_hf(json, "{seq_length: 64}").model;
    assert_eq!(
        (model.hidden_size.value, model.ffn_hidden_size.value, model.max_position_embeddings.value),
        (64, 256, 128)
    );
    assert_eq!(
        (model.hidden_dropout.value, model.embedding_dropout.value, model.attention_dropout.value),
        (0.0, 0.2, 0.1)
    );
    assert_eq!((model.layernorm_epsilon.value, model.hidden_act.value), (1e-6, Activation::GeluTanh));
}

#[test]
fn yarn_magnitudes() {
    let scaling = "{rope_type: yarn, factor: 4.0, original_max_position_embeddings: 128}";
    let RopeScaling::Yarn(mcore) = rope(&llama(&[("rope_scaling", scaling)])).scaling.value else { panic!() };
    assert_eq!((mcore.attention_factor, mcore.magnitude_of), (1.0, YarnMagnitude::Angle));
    let config = from_hf(&hub(""), &format!("{{rope_scaling: {scaling}}}"));
    let RopeScaling::Yarn(hf) = rope(&config.model).scaling.value else { panic!() };
    assert!((hf.attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-15);
    assert_eq!((hf.magnitude_of, hf.beta_fast, hf.beta_slow, hf.truncate), (YarnMagnitude::CosSin, 32.0, 1.0, true));
}

#[test]
fn activations() {
    let swiglu = llama(&[("hidden_act", "fusedswiglu")]);
    assert!(swiglu.hidden_act.value == Activation::Silu && swiglu.gated_linear_unit.value);
    let plain = llama(&[("hidden_act", "silu"), ("gated_linear_unit", "False")]);
    assert!(!plain.gated_linear_unit.value);
    assert_eq!(llama(&[("hidden_act", "gelu")]).hidden_act.value, Activation::GeluTanh);
    assert_eq!(from_hf(&hub(""), "{hidden_act: gelu}").model.hidden_act.value, Activation::Gelu);
}

#[test]
fn what_cannot_be_done_yet_is_refused() {
    for (key, value) in [
        ("num_nextn_predict_layers", "2"),
        ("enable_hyper_connections", "True"),
        ("output_router_logits", "True"),
        ("use_sliding_window", "True"),
        ("layer_types", "[full_attention, sliding_attention]"),
        ("window_size", "[128, 0]"),
    ] {
        let path = format!("model.model_config.{key}");
        let found = load_with(LLAMA, &[(&path, value)]).diagnostics;
        assert_eq!(found[0].code.id, codes::NOT_SUPPORTED.id, "{key}");
        assert!(!found[0].labels.is_empty(), "{key}");
    }
    assert!(
        complaints(&[("model.model_config.num_experts", "1"), ("model.model_config.sliding_window", "None")])
            .is_empty()
    );
}

#[test]
fn types_of_the_softmax_and_the_residual() {
    assert_eq!(llama(&[("attention_softmax_in_fp32", "False")]).softmax_compute_dtype.value, Dtype::Bf16);
    assert_eq!(llama(&[("softmax_compute_dtype", "fp16")]).softmax_compute_dtype.value, Dtype::F16);
    assert!(llama(&[("residual_dtype", "float32")]).fp32_residual_connection.value);
}

const SMALL: &[(&str, &str)] = &[("num_experts", "64"), ("num_experts_per_tok", "6"), ("moe_intermediate_size", "128")];

fn moe(changes: &[(&str, &str)]) -> super::Moe {
    llama(&SMALL.iter().chain(changes).copied().collect::<Vec<_>>()).moe.expect("experts")
}

#[test]
fn experts_have_the_defaults_of_the_class_in_general() {
    let found = moe(&[]);
    assert_eq!((found.num_experts.value, found.router.topk.value, found.ffn_hidden_size.value), (64, 6, 128));
    assert_eq!((found.router.score.value, found.router.normalize.value), (ScoreFunction::Softmax, true));
    assert_eq!((found.router.scaling.value, found.balance.coeff.value, found.z_loss_coeff.value), (1.0, 0.0, 0.0));
    assert!(found.capacity.is_none() && found.shared.is_none() && found.router.groups.is_none());
    assert!(found.router.bias_rate.is_none() && found.layers.value.iter().all(|on| *on));
    assert_eq!(found.balance.kind.value, AuxLoss::SubSequence);
    assert_eq!(llama(&[("num_experts", "8")]).moe.expect("experts").ffn_hidden_size.value, 1536);
}

#[test]
fn experts_by_every_name() {
    let found = moe(&[
        ("use_gating_sigmoid", "True"),
        ("balance_via_topk_bias", "True"),
        ("topk_bias_update_rate", "0.01"),
        ("n_group", "8"),
        ("topk_group", "3"),
        ("routed_scaling_factor", "2.5"),
        ("n_shared_experts", "2"),
        ("first_k_dense_replace", "1"),
        ("moe_aux_loss_coeff", "1e-3"),
        ("moe_router_load_balancing_type", "gbs_aux_loss"),
        ("z_loss_factor", "1e-4"),
        ("capacity_factor", "1.5"),
        ("enable_sdrop", "True"),
        ("moe_aux_loss_counts", "unbiased"),
    ]);
    let router = &found.router;
    assert_eq!((router.score.value, router.scaling.value), (ScoreFunction::Sigmoid, 2.5));
    assert_eq!(router.bias_rate.unwrap().value, 0.01);
    let groups = router.groups.as_ref().unwrap();
    // Mcore: a group counts by as many as it has to give.
    assert_eq!((groups.num.value, groups.topk.value, groups.best.value, groups.mask.value), (8, 3, 2, GroupMask::Zero));
    assert_eq!(found.shared.unwrap().ffn_hidden_size.value, 256);
    assert_eq!(found.layers.value, [false, true, true, true, true, true, true, true]);
    assert_eq!((found.balance.kind.value, found.balance.coeff.value), (AuxLoss::GlobalBatch, 1e-3));
    assert_eq!((found.balance.counts.value, found.z_loss_coeff.value), (LoadCounts::Unbiased, 1e-4));
    let capacity = found.capacity.unwrap();
    assert_eq!((capacity.factor.value, capacity.policy.value), (1.5, DropPolicy::Position));
    assert!(moe(&[("moe_expert_capacity_factor", "-1.0")]).capacity.is_none(), "nothing is dropped");
    let every_third = moe(&[("moe_layer_freq", "3")]).layers.value;
    assert_eq!(every_third, [true, false, false, true, false, false, true, false]);
}

/// Without a word in the file, as the published 671B configuration has it.
#[test]
fn deepseek_v3_is_complete_by_itself() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/corpus/pretrain_deepseek3_671b@pypi-2.1.0.yaml");
    let one_device = [("use_parallel", "False")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let loaded = load(std::path::Path::new(path), &one_device);
    let model = accepted(loaded).model;
    let latent = model.latent.unwrap();
    let sizes = [latent.kv_lora_rank, latent.qk_head_dim, latent.qk_pos_emb_head_dim, latent.v_head_dim];
    assert_eq!(sizes.map(|s| s.value), [512, 128, 64, 128]);
    assert_eq!((latent.q_lora_rank.unwrap().value, latent.norm.value), (1536, true));
    // models.md 3.3: plain rope, and yet the scale of an extended context.
    assert!((latent.softmax_scale.value - 0.114_721_39).abs() < 1e-8, "{}", latent.softmax_scale.value);
    let moe = model.moe.unwrap();
    assert_eq!((moe.num_experts.value, moe.router.topk.value, moe.router.scaling.value), (256, 8, 2.5));
    assert_eq!((moe.router.bias_rate.unwrap().value, moe.balance.coeff.value), (1e-4, 1e-4));
    assert_eq!(moe.layers.value.iter().filter(|on| !**on).count(), 3);
    assert_eq!(model.mtp.unwrap().loss_scaling_factor.value, 0.3);
}

#[test]
fn the_scale_of_latent_attention_has_three_rules() {
    let scale = |changes: &[(&str, &str)]| {
        let all: Vec<_> = [("multi_latent_attention", "True")].iter().chain(changes).copied().collect();
        llama(&all).latent.unwrap().softmax_scale.value
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-8, "{a} is not {b}");
    close(scale(&[]), 0.114_721_39);
    close(scale(&[("mla_softmax_scale", "plain")]), 192f64.sqrt().recip());
    close(scale(&[("mla_softmax_scale", "yarn")]), 192f64.sqrt().recip());
    close(scale(&[("rotary_scaling_factor", "1")]), 192f64.sqrt().recip());
    close(scale(&[("softmax_scale", "0.5")]), 0.5);
    let yarn = "{type: yarn, factor: 40.0, original_max_position_embeddings: 4096, mscale: 1.0, mscale_all_dim: 1.0}";
    close(scale(&[("rope_scaling", yarn)]), 0.135_233_78);
    close(scale(&[("rope_scaling", yarn), ("mla_softmax_scale", "yarn")]), 0.135_233_78);
}

#[test]
fn legacy_experts_are_a_section_of_their_own() {
    let with = |changes: &[(&str, &str)]| {
        let keys: Vec<(String, &str)> = changes.iter().map(|(k, v)| (format!("moe_config.{k}"), *v)).collect();
        let changes: Vec<_> = keys.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        accepted(load_with(LEGACY, &changes)).model
    };
    let common = [("expert_num", "8"), ("num_experts_chosen", "2"), ("routing_policy", "TopkRouterV2")];
    let mixtral = with(&common);
    assert_eq!(mixtral.family, Family::Mixtral);
    let moe = mixtral.moe.unwrap();
    assert_eq!(moe.ffn_hidden_size.value, mixtral.ffn_hidden_size.value);
    assert_eq!(moe.capacity.unwrap().factor.value, 1.1, "the class drops tokens unless it is told not to");
    let dropless = with(&[&common[..], &[("use_gmm", "True")]].concat());
    assert!(dropless.moe.unwrap().capacity.is_none());
    let shared = [("shared_expert_num", "8.0"), ("use_shared_expert_gating", "True")];
    let qwen2 = with(&[&common[..], &shared].concat());
    assert_eq!(qwen2.family, Family::Qwen2Moe);
    assert!(with(&[("expert_num", "1")]).moe.is_none());
    // Groups count only by method.
    let groups = [("n_group", "4"), ("topk_group", "2")];
    assert!(with(&[&common[..], &groups].concat()).moe.unwrap().router.groups.is_none());
    let limited = with(&[&common[..], &groups, &[("topk_method", "noaux_tc")]].concat());
    assert_eq!(limited.moe.unwrap().router.groups.unwrap().best.value, 2);
}

#[test]
fn families_by_their_own_config_json() {
    let chatglm = from_hf(
        r#"{"model_type": "chatglm", "architectures": ["ChatGLMModel"], "num_layers": 2, "padded_vocab_size": 96,
        "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4, "seq_length": 131072,
        "multi_query_attention": true, "multi_query_group_num": 2, "add_qkv_bias": true, "rmsnorm": true,
        "layernorm_epsilon": 1.5625e-07, "rope_ratio": 500, "add_bias_linear": false, "post_layer_norm": true}"#,
        "{seq_length: 16}",
    )
    .model;
    assert_eq!((chatglm.family, chatglm.num_query_groups.value, chatglm.seq_length.value), (Family::Glm, 2, 16));
    assert_eq!(chatglm.max_position_embeddings.value, 131_072);
    let turned = rope(&chatglm);
    assert_eq!((turned.theta.value, turned.partial_rotary_factor.value), (5e6, 0.5));
    assert!(turned.interleaved.value && chatglm.add_qkv_bias.value && !chatglm.attention_output_bias.value);

    let deepseek_v2 = from_hf(
        r#"{"model_type": "deepseek_v2", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 4,
        "topk_group": 2, "topk_method": "group_limited_greedy", "n_shared_experts": 2, "moe_intermediate_size": 24,
        "q_lora_rank": null, "routed_scaling_factor": 16.0, "norm_topk_prob": false, "first_k_dense_replace": 1}"#,
        "{seq_length: 16}",
    )
    .model;
    let router = deepseek_v2.moe.as_ref().unwrap().router.clone();
    assert_eq!(router.groups.unwrap().best.value, 1, "a group counts by its best expert");
    assert!(!router.normalize.value && router.bias_rate.is_none() && deepseek_v2.latent.unwrap().q_lora_rank.is_none());

    let internlm2 = from_hf(
        &hub(r#", "bias": false, "rope_scaling": {"type": "dynamic", "factor": 2.0}"#)
            .replace("\"llama\"", "\"internlm2\"")
            .replace("LlamaForCausalLM", "InternLM2ForCausalLM"),
        "",
    );
    assert_eq!((internlm2.model.family, rope(&internlm2.model).theta.value), (Family::InternLm2, 1e6));

    let baichuan = |more: &str| {
        let text = hub(more).replace("\"llama\"", "\"baichuan\"").replace("LlamaForCausalLM", "BaichuanForCausalLM");
        from_hf(&text.replace("96", "125696"), "").model
    };
    assert!(baichuan("").norm_head.value);
    assert!(matches!(baichuan("").position_embedding.value, PositionEmbedding::Rope(_)));
}
