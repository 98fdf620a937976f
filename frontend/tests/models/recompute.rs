//! `recompute_config`, resolved against the model.

use athanor_frontend::config::{Amount, Config, Selection, Spanned};
use athanor_frontend::model::{build, recompute::notes};
use athanor_ir::recompute::Recompute;
use athanor_ir::run::RunSpec;
use athanor_ir::{Module, Result};

fn built(config: &Config) -> Result<Module> {
    build(config, RunSpec::for_tests(), false)
}

/// What a Llama of two layers recomputes with `recompute` and `select_recompute`.
fn choice(recompute: Selection, select: Selection) -> Recompute {
    let mut config = super::llama(&[]);
    config.recompute.recompute = Spanned::default(recompute);
    config.recompute.select_recompute = Spanned::default(select);
    built(&config).unwrap().run.recompute
}

const NONE: Selection = Selection::All(false);

#[test]
fn nothing_is_asked_for_by_default() {
    assert!(choice(NONE, NONE).is_none());
    assert!(choice(Selection::PerStage(vec![Amount::Layers(0)]), NONE).is_none());
}

#[test]
fn layers_are_named_by_their_blocks() {
    let chosen = choice(Selection::PerStage(vec![Amount::Layers(1)]), NONE);
    assert_eq!(chosen, Recompute { layers: vec!["model.layers.0".into()], ..Recompute::default() });
    assert_eq!(choice(Selection::All(true), NONE).layers, ["model.layers.0", "model.layers.1"]);
}

#[test]
fn without_patterns_the_activation_and_its_product_are_chosen() {
    let chosen = choice(NONE, Selection::PerStage(vec![Amount::Layers(1)]));
    assert!(chosen.layers.is_empty());
    for path in ["mlp.silu", "mlp.mul"] {
        assert!(chosen.has("model.layers.0", path) && !chosen.has("model.layers.1", path), "{chosen:?}");
    }
    assert!(!chosen.has("model.layers.0", "mlp.gate_proj.einsum"));
}

#[test]
fn patterns_are_for_all_layers_or_as_many_as_they_say() {
    let chosen = choice(NONE, Selection::Patterns(vec![r"self_attention\.flash_attention".into()]));
    assert!(chosen.has("model.layers.0", "self_attn.attention") && chosen.has("model.layers.1", "self_attn.attention"));
    let amounts = vec![(r".*\.norm".into(), vec![Amount::Layers(1)])];
    let chosen = choice(NONE, Selection::PatternAmounts(amounts));
    assert!(chosen.has("model.layers.0", "input_layernorm.rms_norm"), "{chosen:?}");
    assert!(!chosen.has("model.layers.1", "input_layernorm.rms_norm"));
}

#[test]
fn what_is_excluded_is_kept_in_whole_layers_too() {
    let mut config = super::llama(&[]);
    config.recompute.recompute = Spanned::default(Selection::All(true));
    config.recompute.select_recompute_exclude = Spanned::default(Selection::Patterns(vec!["self_attn".into()]));
    let chosen = built(&config).unwrap().run.recompute;
    assert!(chosen.has("model.layers.0", "mlp.silu") && !chosen.has("model.layers.0", "self_attn.q_proj.einsum"));
}

#[test]
fn the_layer_of_the_further_token_is_the_last() {
    let config = super::config(&[
        "model_type: deepseek_v3",
        "multi_latent_attention: True",
        "qk_layernorm: True",
        "vocab_size: 96",
        "hidden_size: 32",
        "num_hidden_layers: 2",
        "num_attention_heads: 4",
        "intermediate_size: 48",
        "seq_length: 16",
        "q_lora_rank: 16",
        "kv_lora_rank: 16",
        "qk_nope_head_dim: 8",
        "qk_rope_head_dim: 8",
        "v_head_dim: 8",
        "n_routed_experts: 8",
        "num_experts_per_tok: 2",
        "moe_intermediate_size: 16",
        "n_shared_experts: 1",
        "first_k_dense_replace: 1",
        "num_nextn_predict_layers: 1",
        "n_group: 1",
        "topk_group: 1",
    ]);
    let mut config = config;
    config.recompute.recompute = Spanned::default(Selection::PerStage(vec![Amount::Layers(0), Amount::All(true)]));
    config.recompute.select_recompute = Spanned::default(Selection::All(true));
    let chosen = built(&config).unwrap().run.recompute;
    assert_eq!(chosen.layers, ["model.layers.1", "model.layers.2"]);
    assert!(chosen.has("model.layers.0", "mlp.mul") && !chosen.has("model.layers.0", "mlp.shared_experts.mul"));
}

#[test]
fn a_pattern_that_is_none_is_refused_and_one_that_fits_nothing_is_noted() {
    let mut config = super::llama(&[]);
    config.recompute.select_recompute = Spanned::default(Selection::Patterns(vec!["mlp(".into()]));
    let e = built(&config).unwrap_err();
    assert_eq!((e.code.id, e.message.as_str()), ("C0113", "`mlp(` is not a pattern: unclosed group"));
    let patterns = [r"feed_forward\.w1\.reshape", r"feed_forward\.mul"].map(str::to_owned).to_vec();
    config.recompute.select_recompute = Spanned::default(Selection::Patterns(patterns));
    let found = notes(&config, built(&config).unwrap().func("forward").unwrap());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message, r"`feed_forward\.w1\.reshape` of `select_recompute` fits no operator");
    assert!(found[0].help.as_ref().unwrap().contains("mlp.mul, mlp.silu, "), "{:?}", found[0].help);
}
