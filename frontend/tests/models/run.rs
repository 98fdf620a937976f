//! What of a configuration reaches the run beside the model.

use athanor_frontend::config::{AdamVariant, Config, Spanned};
use athanor_frontend::run::spec;
use athanor_ir::run::BiasCorrection;

/// A run of 7 steps.
fn config() -> Config {
    let mut config = super::llama(&["calculate_per_token_loss: False"]);
    config.lr_schedule.total_steps = Some(Spanned::default(7));
    config
}

#[test]
fn each_adam_has_its_bias_correction() {
    let mut config = config();
    for (variant, wanted) in [
        (AdamVariant::AdamW, BiasCorrection::Full),
        (AdamVariant::NoBiasCorrection, BiasCorrection::None),
        (AdamVariant::EpsBeforeCorrection, BiasCorrection::EpsBeforeCorrection),
    ] {
        config.optimizer.variant = variant;
        let run = spec(&config).unwrap();
        assert_eq!((run.steps, run.optimizer.bias_correction), (7, wanted));
    }
}

#[test]
fn the_wrapper_says_last_how_losses_are_divided() {
    let mut config = config();
    assert!(!spec(&config).unwrap().per_token_loss);
    config.model.calculate_per_token_loss = Spanned::default(true);
    assert!(spec(&config).unwrap().per_token_loss);
    config.wrapper.calculate_per_token_loss = Some(Spanned::default(false));
    assert!(!spec(&config).unwrap().per_token_loss);
    config.wrapper.calculate_per_token_loss = Some(Spanned::default(true));
    config.model.calculate_per_token_loss = Spanned::default(false);
    assert!(spec(&config).unwrap().per_token_loss);
}
