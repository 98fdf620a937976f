//! Parameters of published models: the formula and the module that is built agree with each other and with what is published.

use athanor_frontend::config::Config;
use athanor_frontend::model::parameters::Parameters;
use athanor_frontend::model::{Outputs, flops, forward};
use athanor_ir::Role;

/// Parameters by formula, after comparing them with those of the module.
fn counted(config: &Config) -> Parameters {
    let func = forward(&config.model, &config.sources, 1, Outputs::default()).unwrap();
    let weights = func.params.iter().filter(|p| matches!(p.role, Role::Weight { .. }));
    let built: u64 = weights.map(|p| func.ty(p.value).elements() as u64).sum();
    let found = Parameters::of(&config.model);
    assert_eq!(found.model + found.further, built, "{}", config.model.model_type.value);
    found
}

/// What the published 671B configuration leaves to the class, and what it says.
const DEEPSEEK_V3: &[&str] =
    &["model_type: deepseek_v3", "multi_latent_attention: True", "qk_layernorm: True", "seq_length: 4096"];

#[test]
fn deepseek_v3_671b() {
    let config = super::config(DEEPSEEK_V3);
    let found = counted(&config);
    let wanted = Parameters { model: 671_026_404_352, further: 11_610_067_968, active: 37_552_282_624 };
    assert_eq!(found, wanted);
    assert_eq!(flops::per_sequence(&config.model) / 4096.0, 259_992_950_784.0);
}

/// The formula of models.md 3.9 by hand, for each of its parts.
#[test]
fn flops_of_every_variant() {
    let per_token = |lines: &[&str]| flops::per_sequence(&super::config(lines).model) / 4096.0;
    let with =
        |more: &[&'static str]| per_token(&DEEPSEEK_V3.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>());
    let whole = with(&[]);
    let (h, n) = (7168.0, 128.0);
    // Without the further token: a layer with experts, its projection, an output layer.
    let mla = 6.0
        * (1536.0 * (h + n * 192.0 + 1.0)
            + 512.0 * (h + n * 256.0 + 1.0)
            + h * 64.0
            + n * 128.0 * h
            + 4096.0 * n * (192.0 + 128.0) / 2.0);
    let sparse = 6.0 * h * 3.0 * (2048.0 * 8.0 + 2048.0);
    let module = mla + sparse + 6.0 * (3.0 * h + 2.0 * h * h) + 6.0 * h * 129_280.0;
    assert_eq!(whole - with(&["num_nextn_predict_layers: 0"]), module);
    // Queries straight from the hidden state.
    let ranked = 6.0 * 1536.0 * (h + n * 192.0 + 1.0);
    assert_eq!(whole - with(&["q_lora_rank: null"]), 62.0 * (ranked - 6.0 * h * n * 192.0));
    // No experts: 61 dense layers, and the module's.
    let dense = with(&["n_routed_experts: null"]);
    assert_eq!(dense - whole, 59.0 * (6.0 * h * 3.0 * 18432.0 - sparse));
    // Grouped heads and an activation without a gate.
    let llama = |lines: &[&str]| flops::per_sequence(&super::llama(lines).model) / 16.0;
    assert_eq!(llama(&[]) - llama(&["hidden_act: gelu", "gated_linear_unit: False"]), 2.0 * 6.0 * 32.0 * 48.0);
}

fn model(lines: &[&str]) -> Parameters {
    counted(&super::config(lines))
}

#[test]
fn llama_3_1() {
    let common =
        ["model_type: llama", "vocab_size: 128256", "num_key_value_heads: 8", "seq_length: 4096", "pad_token_id: 0"];
    let with =
        |more: &[&'static str]| model(&common.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>()).model;
    let small = ["hidden_size: 4096", "num_hidden_layers: 32", "num_attention_heads: 32", "intermediate_size: 14336"];
    assert_eq!(with(&small), 8_030_261_248);
    let large = ["hidden_size: 8192", "num_hidden_layers: 80", "num_attention_heads: 64", "intermediate_size: 28672"];
    assert_eq!(with(&large), 70_553_706_496);
}

#[test]
fn qwen3() {
    let common = ["vocab_size: 151936", "head_dim: 128", "seq_length: 4096", "hidden_dropout: 0.0"];
    let with = |more: &[&'static str]| model(&common.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>());
    let dense = with(&[
        "model_type: qwen3",
        "hidden_size: 5120",
        "num_hidden_layers: 64",
        "num_attention_heads: 64",
        "num_key_value_heads: 8",
        "intermediate_size: 25600",
    ]);
    assert_eq!(dense.model, 32_762_123_264);
    let sparse = with(&[
        "model_type: qwen3_moe",
        "hidden_size: 2048",
        "num_hidden_layers: 48",
        "num_attention_heads: 32",
        "num_key_value_heads: 4",
        "intermediate_size: 6144",
        "moe_intermediate_size: 768",
        "num_experts: 128",
        "num_experts_per_tok: 8",
    ]);
    assert_eq!((sparse.model, sparse.further), (30_532_122_624, 0));
    assert_eq!(sparse.active, 3_353_032_704);
}

#[test]
fn mixtral_8x7b() {
    let found = model(&[
        "model_type: mixtral",
        "vocab_size: 32000",
        "hidden_size: 4096",
        "num_hidden_layers: 32",
        "num_attention_heads: 32",
        "num_key_value_heads: 8",
        "intermediate_size: 14336",
        "num_local_experts: 8",
        "num_experts_per_tok: 2",
        "seq_length: 4096",
    ]);
    assert_eq!((found.model, found.active), (46_702_792_704, 12_879_925_248));
}

/// The size that Baichuan2-13B-Base is published with.
#[test]
fn baichuan2_13b() {
    let found = model(&[
        "model_type: baichuan",
        "use_alibi_mask: True",
        "vocab_size: 125696",
        "hidden_size: 5120",
        "num_hidden_layers: 40",
        "num_attention_heads: 40",
        "intermediate_size: 13696",
        "seq_length: 4096",
    ]);
    assert_eq!(found.model, 13_896_668_160);
}

/// Families of other shapes: the formula follows the module through norms, biases, gates and shared experts.
#[test]
fn formula_and_module_agree_for_every_family() {
    let small = [
        "vocab_size: 96",
        "hidden_size: 32",
        "num_hidden_layers: 3",
        "num_attention_heads: 4",
        "num_key_value_heads: 2",
        "intermediate_size: 48",
        "seq_length: 16",
        "hidden_dropout: 0.0",
        "pad_token_id: 0",
    ];
    let experts = ["num_experts: 8", "num_experts_per_tok: 2", "moe_intermediate_size: 24", "n_group: 1"];
    let first = ["first_k_dense_replace: 1"];
    for family in
        ["llama", "qwen2", "qwen3", "glm", "glm4", "telechat2", "telechat3", "baichuan", "internlm", "internlm2"]
    {
        let kind = format!("model_type: {family}");
        model(&[&small[..], &[&kind, "head_dim: 8"]].concat());
    }
    for family in ["mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "deepseek_v2", "deepseek_v3", "telechat3_moe"] {
        let kind = format!("model_type: {family}");
        let found = model(&[&small[..], &experts, &first, &[&kind, "head_dim: 8"]].concat());
        assert!(found.active < found.model, "{family}");
    }
    let switches = [
        "model_type: deepseek_v3",
        "q_lora_rank: null",
        "qk_layernorm: True",
        "sandwich_norm: True",
        "use_shared_expert_gating: True",
        "attention_bias: True",
        "attn_proj_has_bias: True",
        "moe_layer_freq: [0, 1, 0]",
        "first_k_dense_replace: 0",
    ];
    model(&[&small[..], &experts, &switches].concat());
    let gpt2 = [
        "model_type: gpt2",
        "num_key_value_heads: 4",
        "attention_dropout: 0.0",
        "embedding_dropout: 0.0",
        "max_position_embeddings: 32",
    ];
    let small: Vec<&str> = small.into_iter().filter(|l| !l.starts_with("num_key_value_heads")).collect();
    model(&[&small[..], &gpt2].concat());
}
