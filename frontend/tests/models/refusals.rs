//! What is refused, and how.

use athanor_frontend::config::{AdamVariant, Spanned};
use athanor_frontend::model::{Outputs, forward};
use athanor_frontend::run;

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
    is("compute_dtype: float16", "training in float16 is not supported", "float16");
}

#[test]
fn optimizers_with_another_rule_are_not_trained_as_adamw() {
    let mut config = super::llama(&[]);
    config.lr_schedule.total_steps = Some(Spanned::default(7));
    assert_eq!(run::spec(&config).unwrap().steps, 7);
    for variant in [AdamVariant::NoBiasCorrection, AdamVariant::EpsBeforeCorrection] {
        config.optimizer.variant = variant;
        let e = run::spec(&config).unwrap_err();
        assert!(e.code.id == "C0102" && e.help.is_some() && e.labels.len() == 1, "{e:?}");
    }
}
