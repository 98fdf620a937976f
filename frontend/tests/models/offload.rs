//! `swap_config` and `optimizer.swap`, resolved against the model.

use athanor_frontend::config::{Amount, Config, Numbers, Selection, Spanned, SwapEntry};
use athanor_frontend::model::{build, offload::notes};
use athanor_ir::Module;
use athanor_ir::offload::{Offload, Swap};
use athanor_ir::run::RunSpec;

fn built(config: &Config) -> Module {
    build(config, RunSpec::for_tests(), false).unwrap()
}

fn entry(op_name: Option<&str>, backward_prefetch: usize, layers: Numbers) -> SwapEntry {
    SwapEntry {
        op_name: op_name.map(|n| Spanned::default(n.to_owned())),
        backward_prefetch: Spanned::default(backward_prefetch),
        layers: Spanned::default(layers),
    }
}

/// A Llama of two layers with swapping on.
fn swapping(layer_swap: Vec<SwapEntry>, op_swap: Vec<SwapEntry>) -> Config {
    let mut config = super::llama(&[]);
    config.swap.swap = Spanned::default(true);
    (config.swap.layer_swap, config.swap.op_swap) = (layer_swap, op_swap);
    config
}

fn layer(i: usize) -> String {
    format!("model.layers.{i}")
}

#[test]
fn nothing_goes_unless_it_is_asked_for() {
    let mut config = swapping(vec![entry(None, 1, Numbers::All(true))], vec![]);
    config.swap.swap = Spanned::default(false);
    assert!(built(&config).run.offload.is_none());
    config.optimizer.swap = Spanned::default(true);
    assert_eq!(built(&config).run.offload, Offload { moments: true, ..Offload::default() });
}

#[test]
fn without_entries_all_layers_go() {
    let swap = Swap { prefetch: 1, layers: vec![layer(0), layer(1)], operators: vec![] };
    assert_eq!(built(&swapping(vec![], vec![])).run.offload.values, [swap]);
}

#[test]
fn operators_count_before_layers() {
    let config = swapping(
        vec![entry(None, 2, Numbers::Some(vec![1]))],
        vec![entry(Some(r"attention\.flash_attention"), 3, Numbers::All(true))],
    );
    let values = built(&config).run.offload.values;
    assert_eq!((values[0].prefetch, values[1].prefetch, &values[1].layers), (3, 2, &vec![layer(1)]));
    let [ref attention] = values[0].operators[..] else { panic!("{values:?}") };
    assert_eq!(
        (&attention.layers, &attention.paths[..]),
        (&vec![layer(0), layer(1)], &["self_attn.attention".to_owned()][..])
    );
    assert!(notes(&config, &built(&config).funcs[0]).is_empty());
    let config = swapping(vec![], vec![entry(Some("nothing"), 1, Numbers::All(true))]);
    assert_eq!(notes(&config, &built(&config).funcs[0]).len(), 1);
}

#[test]
fn what_is_named_to_go_is_not_computed_again() {
    let mut config =
        swapping(vec![entry(None, 1, Numbers::Some(vec![0]))], vec![entry(Some(r"mlp\.mul"), 1, Numbers::All(true))]);
    config.recompute.recompute = Spanned::default(Selection::All(true));
    let chosen = built(&config).run.recompute;
    assert_eq!(chosen.layers, [layer(1)]);
    assert!(
        chosen.has(&layer(1), "mlp.silu") && !chosen.has(&layer(1), "mlp.mul") && !chosen.has(&layer(0), "mlp.silu")
    );
    // All layers by default: what is left of recomputed ones goes.
    let mut config = swapping(vec![], vec![]);
    config.recompute.recompute = Spanned::default(Selection::All(true));
    assert_eq!(built(&config).run.recompute.layers.len(), 2);
}

#[test]
fn beside_swapping_layers_to_recompute_are_named() {
    let mut config = swapping(vec![], vec![]);
    config.recompute.recompute = Spanned::default(Selection::PerStage(vec![Amount::Layers(1)]));
    assert_eq!(built(&config).run.recompute.layers, [layer(1)]);
    config.recompute.recompute = Spanned::default(Selection::PerStage(vec![Amount::Layers(0)]));
    assert_eq!(built(&config).run.recompute.layers, [layer(0)]);
}
