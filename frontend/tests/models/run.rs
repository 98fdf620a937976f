//! What of a configuration reaches the run beside the model.

use athanor_frontend::config::{Config, LossScale as ScaleSense, Spanned, UpdateRule};
use athanor_frontend::run::spec;
use athanor_ir::optimizer::{BiasCorrection, OptimizerSpec};
use athanor_ir::run::{ExpertExchange, ExpertRows, LossScale};

/// A run of 7 steps.
fn config() -> Config {
    let mut config = super::llama(&["calculate_per_token_loss: False"]);
    config.lr_schedule.total_steps = Some(Spanned::default(7));
    config
}

#[test]
fn each_adam_has_its_bias_correction() {
    let mut config = config();
    for wanted in [BiasCorrection::Full, BiasCorrection::None, BiasCorrection::EpsBeforeCorrection] {
        config.optimizer.rule = UpdateRule::AdamW(wanted);
        let run = spec(&config).unwrap();
        let OptimizerSpec::AdamW(adamw) = run.optimizer else { panic!("{:?}", run.optimizer) };
        assert_eq!((run.steps, adamw.bias_correction), (7, wanted));
    }
}

#[test]
fn the_loss_is_scaled_as_the_wrapper_says() {
    let mut config = config();
    assert_eq!(spec(&config).unwrap().loss_scale, None);
    config.wrapper.scale_sense = Spanned::default(ScaleSense::Static(128.0));
    assert_eq!(spec(&config).unwrap().loss_scale, Some(LossScale::Fixed { value: 128.0 }));
    config.wrapper.scale_sense = Spanned::default(ScaleSense::Dynamic { initial: 8.0, factor: 2.0, window: 5 });
    let dynamic = LossScale::Dynamic { value: 8.0, factor: 2.0, window: 5 };
    assert_eq!(spec(&config).unwrap().loss_scale, Some(dynamic));
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

#[test]
fn ranks_come_by_rows_of_experts_as_the_file_says() {
    let mut config = config();
    assert_eq!(spec(&config).unwrap().expert_exchange, ExpertExchange::default());
    config.parallel_config.expert_exchange = Spanned::default(ExpertRows::Exchanged);
    config.parallel_config.expert_exchange_factor = Spanned::default(0.5);
    let wanted = ExpertExchange { rows: ExpertRows::Exchanged, factor: 0.5 };
    assert_eq!(spec(&config).unwrap().expert_exchange, wanted);
}
