//! What is refused, and how.

use athanor_frontend::model::{Outputs, forward};

/// Message and marked text of the refusal of a Llama with `line`.
fn refused(line: &str) -> (String, String) {
    let config = super::llama(&[line]);
    let e = forward(&config.model, &config.sources, 1, Outputs::default()).unwrap_err();
    assert_eq!(e.code.id, "C0110");
    assert!(e.help.is_some(), "{e}");
    let source = e.source.as_ref().expect("a place");
    (e.message.clone(), source.text[e.labels[0].range.clone()].to_owned())
}

#[test]
fn settings_that_no_block_does_are_refused_at_their_line() {
    let is = |line: &str, message: &str, marked: &str| {
        assert_eq!(refused(line), (message.to_owned(), marked.to_owned()));
    };
    is("hidden_dropout: 0.1", "`hidden_dropout` 0.1 is not supported", "0.1");
    is("attention_dropout: 0.25", "`attention_dropout` 0.25 is not supported", "0.25");
}

#[test]
fn a_pattern_that_is_none_is_refused_at_its_place() {
    let config = super::llama(&["param_init_std_rules: [{target: 'layers.(0', init_method_std: 0.1}]"]);
    let e = forward(&config.model, &config.sources, 1, Outputs::default()).unwrap_err();
    assert_eq!((e.code.id, e.message.as_str()), ("C0111", "`layers.(0` is not a pattern: unclosed group"));
    let source = e.source.as_ref().expect("a place");
    assert_eq!(&source.text[e.labels[0].range.clone()], "'layers.(0'");
}

#[test]
fn latent_attention_has_its_own_positions() {
    let lines = ["multi_latent_attention: True", "qk_layernorm: True", "use_alibi_mask: True", "kv_lora_rank: 8"];
    let config = super::llama(&lines);
    let e = forward(&config.model, &config.sources, 1, Outputs::default()).unwrap_err();
    assert_eq!((e.code.id, e.message.as_str()), ("C0110", "ALiBi with latent attention is not supported"));
}
