//! `autodiff` and `optimizer` together on a model of two weights, worked out by hand.

use std::collections::HashMap;

use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::optimizer::{AdamWSpec, OptimizerSpec};
use athanor_ir::{Builder, DType, Func, Init, Loc, Module, ReduceKind, Role, TensorType};
use athanor_passes::autodiff::autodiff;
use athanor_passes::optimizer::optimizer;

const LR: f64 = 0.01;
const DECAY: f64 = 0.5;

/// loss = Σ x·(w + b), so both gradients are x. `w` decays, `b` does not.
fn model() -> Module {
    let mut func = Func::new("forward");
    let ty = TensorType::new(DType::F32, [2]);
    let role = |decay| Role::Weight { init: Init::Constant { value: 0.0 }, decay };
    let x = func.param("x", ty.clone(), Role::Input, Loc::default());
    let w = func.param("w", ty.clone(), role(true), Loc { block: "layer".into(), ..Loc::default() });
    let b = func.param("b", ty, role(false), Loc::default());
    let mut builder = Builder::new(&mut func, Loc::default());
    let sum = builder.add(w, b);
    let product = builder.mul(x, sum);
    let loss = builder.reduce(ReduceKind::Sum, product, &[0]);
    func.result("loss", loss);
    func.result("loss_sum", loss);
    let mut module = super::module(func);
    module.run.optimizer = OptimizerSpec::AdamW(AdamWSpec { weight_decay: DECAY, ..AdamWSpec::default() });
    module
}

fn state() -> HashMap<String, Tensor> {
    let vector = |v: [f32; 2]| Tensor::from_f32(&[2], &v);
    let mut state: HashMap<String, Tensor> = HashMap::new();
    for (name, value) in [("x", [3.0, 4.0]), ("w", [1.0, -1.0]), ("b", [2.0, 0.5])] {
        state.insert(name.into(), vector(value));
    }
    for name in ["adam_m.w", "adam_v.w", "adam_m.b", "adam_v.b", "grad.w", "grad.b"] {
        state.insert(name.into(), vector([0.0, 0.0]));
    }
    // The first step: t = 1.
    for (name, value) in [("lr", LR), ("step_size", LR / 0.1), ("v_scale", 1.0 / 0.05), ("token_count", 4.0)] {
        state.insert(name.into(), Tensor::scalar(DType::F32, value));
    }
    state
}

/// Gradient norm and new weights after `micro_batches` and one update.
fn step(module: &Module, micro_batches: usize) -> (f64, HashMap<String, Tensor>) {
    athanor_ir::verify::verify(module).unwrap();
    let mut state = state();
    for _ in 0..micro_batches {
        state.extend(interpret(module, "micro", &state).unwrap());
    }
    let results = interpret(module, "update", &state).unwrap();
    let mut names: Vec<&String> = results.keys().collect();
    names.sort();
    assert_eq!(names, ["adam_m.b", "adam_m.w", "adam_v.b", "adam_v.w", "b", "grad_norm", "w"]);
    (results["grad_norm"].to_f64()[0], results)
}

fn close(found: &[f64], wanted: &[f64]) {
    assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} is not {wanted:?}");
}

#[test]
fn the_first_step_moves_by_the_rate_and_decays_what_decays() {
    let module = optimizer(&autodiff(&model()).unwrap()).unwrap();
    let (norm, new) = step(&module, 1);
    close(&[norm], &[50f64.sqrt()]);
    // m/(1−β₁) over √(v/(1−β₂)) is the gradient's sign.
    close(&new["w"].to_f64(), &[1.0 - LR * DECAY - LR, -1.0 + LR * DECAY - LR]);
    close(&new["b"].to_f64(), &[2.0 - LR, 0.5 - LR]);
    close(&new["adam_m.w"].to_f64(), &[0.3, 0.4]);
    close(&new["adam_v.b"].to_f64(), &[0.05 * 9.0, 0.05 * 16.0]);
}

#[test]
fn gradients_are_clipped_to_the_norm_and_left_alone_below_it() {
    let mut model = model();
    model.run.max_grad_norm = Some(1.0);
    let (norm, new) = step(&optimizer(&autodiff(&model).unwrap()).unwrap(), 1);
    close(&[norm], &[50f64.sqrt()]);
    close(&new["adam_m.w"].to_f64(), &[0.3 / 50f64.sqrt(), 0.4 / 50f64.sqrt()]);
    model.run.max_grad_norm = Some(100.0);
    let (_, new) = step(&optimizer(&autodiff(&model).unwrap()).unwrap(), 1);
    close(&new["adam_m.w"].to_f64(), &[0.3, 0.4]);
}

#[test]
fn micro_batches_are_averaged_and_token_sums_divided_by_the_tokens() {
    let mut model = model();
    model.run.accumulation = 2;
    let (norm, _) = step(&optimizer(&autodiff(&model).unwrap()).unwrap(), 2);
    close(&[norm], &[50f64.sqrt()]);
    // Summed over two micro-batches, divided by four tokens.
    model.run.per_token_loss = true;
    let (norm, new) = step(&optimizer(&autodiff(&model).unwrap()).unwrap(), 2);
    close(&[norm], &[50f64.sqrt() / 2.0]);
    close(&new["adam_m.w"].to_f64(), &[0.15, 0.2]);
}

#[test]
fn nodes_keep_the_place_of_their_weight() {
    let module = optimizer(&autodiff(&model()).unwrap()).unwrap();
    let update = module.func("update").unwrap();
    let blocks: Vec<&str> = update.nodes.iter().filter(|n| n.op.name() == "adam_w").map(|n| &*n.loc.block).collect();
    assert_eq!(blocks, ["layer", ""]);
}

#[test]
fn passes_in_the_wrong_order_say_what_is_missing() {
    assert_eq!(optimizer(&model()).unwrap_err().code.id, "P0201");
    let mut no_loss = model();
    no_loss.funcs[0].results.clear();
    assert_eq!(autodiff(&no_loss).unwrap_err().code.id, "P0102");
    let mut no_forward = model();
    no_forward.funcs[0].name = "backward".into();
    assert_eq!(autodiff(&no_forward).unwrap_err().code.id, "P0101");
    let mut lost = autodiff(&model()).unwrap();
    lost.funcs[0].results.retain(|r| r.name != "grad.b");
    let e = optimizer(&lost).unwrap_err();
    assert!(e.message.contains("grad.b"), "{e}");
}
