//! What the optimizer does with each weight: decay, learning rates, and which matrices Muon takes.

use athanor_frontend::config::{Config, LrGroupConfig, Spanned, parse};
use athanor_frontend::model::build;
use athanor_frontend::run::spec;
use athanor_ir::optimizer::OptimizerSpec;
use athanor_ir::{Module, Result, Role};

fn built(mut config: Config) -> Result<Module> {
    config.lr_schedule.total_steps = Some(Spanned::default(7));
    build(&config, spec(&config).unwrap(), false)
}

/// The small Llama with `lines` instead of its `optimizer` section.
fn with_optimizer(lines: &str) -> Config {
    let model = super::LLAMA.iter().map(|l| ["    ", l, "\n"].concat()).collect::<String>();
    let text = format!(
        "run_mode: train\nuse_legacy: False\nmodel:\n  model_config:\n{model}runner_config:\n  batch_size: 4\n{lines}\
         lr_schedule:\n  type: ConstantWarmUpLR\n  learning_rate: 1.e-3\nrunner_wrapper:\n  type: MFTrainOneStepCell\n\
         train_dataset:\n  data_loader:\n    type: TokenBinDataLoader\n    path: tokens.bin\n    dtype: int32\n"
    );
    let loaded = parse("pretrain.yaml", &text, &[]);
    loaded.config.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics))
}

fn decaying(module: &Module) -> Vec<&str> {
    let decays = |p: &&athanor_ir::Param| matches!(p.role, Role::Weight { decay: true, .. });
    module.funcs[0].params.iter().filter(decays).map(|p| p.name.as_str()).collect()
}

#[test]
fn weight_decay_follows_names_before_ranks() {
    let plain = built(super::llama(&[])).unwrap();
    let usual = decaying(&plain).len();
    assert!(decaying(&plain).contains(&"lm_head.weight") && !decaying(&plain).contains(&"model.norm.weight"));
    let config = with_optimizer(
        "optimizer:\n  type: AdamW\n  weight_decay_include: ['decoder.final_layernorm', '*.1.input_layernorm.weight']\n  \
         weight_decay_exclude: ['embedding', 'output_layer.weight', 'final_layernorm']\n",
    );
    let module = built(config).unwrap();
    let found = decaying(&module);
    assert!(found.contains(&"model.norm.weight") && found.contains(&"model.layers.1.input_layernorm.weight"));
    assert!(!found.contains(&"model.embed_tokens.weight") && !found.contains(&"lm_head.weight"), "{found:?}");
    assert_eq!(found.len(), usual);
}

#[test]
fn a_group_of_rates_has_the_weights_it_names_and_must_have_one() {
    let mut config = super::llama(&[]);
    let group = |params: &[&str], rate: f64| {
        let mut schedule = config.lr_schedule.clone();
        schedule.learning_rate = Spanned::default(rate);
        LrGroupConfig { params: Spanned::default(params.iter().map(|p| (*p).to_owned()).collect()), schedule }
    };
    let groups = vec![group(&["embedding.*", "output_layer.weight"], 0.5), group(&["*layers.0*", "lm_head"], 0.25)];
    config.lr_groups = groups;
    let run = built(config.clone()).unwrap().run;
    assert_eq!(run.lr_groups[0].weights, ["model.embed_tokens.weight", "lm_head.weight"]);
    assert_eq!((run.lr_groups[0].lr.learning_rate, run.lr_groups[1].lr.learning_rate), (0.5, 0.25));
    assert!(run.lr_groups[1].weights.iter().all(|w| w.starts_with("model.layers.0.")));
    assert_eq!(run.lr_group("model.layers.0.mlp.down_proj.weight"), 2);
    config.lr_groups[1].params.value = vec!["layers.7.".into()];
    let e = built(config).unwrap_err();
    assert_eq!((e.code.id, e.message.as_str()), ("C0112", "no weight is called like layers.7."));
}

#[test]
fn muon_takes_matrices_but_for_the_vocabulary_and_what_is_left_to_adamw() {
    let muon = |more: &str| {
        let lines = format!("optimizer:\n  type: Muon\n  weight_decay: 0.1\n{more}");
        let module = built(with_optimizer(&lines)).unwrap();
        let OptimizerSpec::Muon(spec) = module.run.optimizer else { panic!("{:?}", module.run.optimizer) };
        spec
    };
    let spec = muon("");
    assert_eq!(spec.weights.len(), 14, "seven matrices in each of two layers");
    let down = spec.weights.iter().find(|w| w.name == "model.layers.1.mlp.down_proj.weight").unwrap();
    let [whole] = &down.parts[..] else { panic!("{down:?}") };
    assert_eq!((whole.rows, whole.scale), (32, 0.2 * 48f64.sqrt()));
    assert_eq!((spec.coefficients.len(), spec.coefficients[4], spec.adamw.beta1), (5, [3.4445, -4.775, 2.0315], 0.95));
    let phased = muon(
        "  adamw_include: ['*word_embeddings*', '*output_layer*', '*linear_fc1*']\n  \
         ns_coefficients: [[[3.4445, -4.7750, 2.0315], 8], [[2.0, -1.5, 0.5], 2]]\n",
    );
    assert_eq!((phased.weights.len(), phased.coefficients.len()), (10, 10));
    assert_eq!(phased.coefficients[9], [2.0, -1.5, 0.5]);
}
