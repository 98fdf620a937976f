//! Twenty steps of w1-tiny at the reference interpreter against PyTorch's curve: forward, backward, clipping, AdamW.

mod support;

use std::collections::HashMap;

use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::{DType, Module, Role};
use athanor_passes::{autodiff::autodiff, optimizer::optimizer};
use support::{config, golden, module, relative_error, run_spec, tensors};

const SEQ: usize = 32;
const BATCH: usize = 2;

/// Tokens, labels and mask of the sequences `rows`, one micro-batch.
fn batch(tokens: &[i32], rows: std::ops::Range<usize>) -> HashMap<String, Tensor> {
    let n = rows.len();
    let shifted = |by: usize| -> Vec<i32> {
        rows.clone().flat_map(|r| &tokens[r * (SEQ + 1) + by..r * (SEQ + 1) + by + SEQ]).copied().collect()
    };
    HashMap::from([
        ("tokens".into(), Tensor::from_i32(&[n, SEQ], &shifted(0))),
        ("labels".into(), Tensor::from_i32(&[n, SEQ], &shifted(1))),
        ("loss_mask".into(), Tensor::from_f32(&[n, SEQ], &vec![1.0; n * SEQ])),
    ])
}

/// Trains and returns loss and gradient norm of each step, and the last weights.
fn train(module: &Module, steps: usize) -> (Vec<[f64; 2]>, HashMap<String, Tensor>) {
    let dir = golden("curves/w1-tiny");
    let bytes = std::fs::read(dir.join("tokens.bin")).unwrap();
    let tokens: Vec<i32> = bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let mut state = tensors(&dir.join("init.safetensors"));
    for f in &module.funcs {
        for p in f.params.iter().filter(|p| p.role == Role::Moment) {
            state.insert(p.name.clone(), Tensor::zeros(f.ty(p.value).clone()));
        }
    }
    let (run, per_micro) = (&module.run, module.run.batch_size);
    let mut curve = vec![];
    for step in 0..steps {
        let micro = module.func("micro").unwrap();
        for p in micro.params.iter().filter(|p| p.role == Role::Grad) {
            state.insert(p.name.clone(), Tensor::zeros(micro.ty(p.value).clone()));
        }
        let (mut loss, mut count) = (0.0, 0.0);
        for i in 0..run.accumulation {
            let first = step * BATCH + i * per_micro;
            state.extend(batch(&tokens, first..first + per_micro));
            let mut results = interpret(module, "micro", &state).unwrap();
            let mut take = |name: &str| results.remove(name).map(|t| t.to_f64()[0]);
            if run.per_token_loss {
                loss += take("loss_sum").unwrap();
                count += take("token_count").unwrap();
            } else {
                loss += take("loss").unwrap();
                count += 1.0;
            }
            state.extend(results);
        }
        let scalar = |x: f64| Tensor::scalar(DType::F32, x);
        state.extend(run.step_scalars(step as u64).into_iter().map(|(name, x)| (name, scalar(x))));
        state.insert("token_count".into(), scalar(count));
        let mut results = interpret(module, "update", &state).unwrap();
        curve.push([loss / count, results.remove("grad_norm").unwrap().to_f64()[0]]);
        state.extend(results);
    }
    (curve, state)
}

fn trained(accumulation: usize, per_token_loss: bool, dtype: &str) -> Module {
    let config = config(&golden("curves/w1-tiny"), SEQ, &[&format!("compute_dtype: {dtype}")]);
    let mut run = run_spec(&config);
    run.accumulation = accumulation;
    run.batch_size = BATCH / accumulation;
    run.per_token_loss = per_token_loss;
    let module = optimizer(&autodiff(&module(&config, run, false)).unwrap()).unwrap();
    athanor_ir::verify::verify(&module).unwrap();
    module
}

/// PyTorch's loss and gradient norm of each step.
fn reference() -> Vec<[f64; 2]> {
    let text = std::fs::read_to_string(golden("curves/w1-tiny/curve.json")).unwrap();
    let curve: serde_json::Value = serde_json::from_str(&text).unwrap();
    let list = |key: &str| curve[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    list("loss").into_iter().zip(list("grad_norm")).map(|(l, g)| [l, g]).collect()
}

fn compare(curve: &[[f64; 2]], loss_tolerance: f64, norm_tolerance: f64) {
    for (step, ([loss, norm], [loss0, norm0])) in curve.iter().zip(reference()).enumerate() {
        let (l, n) = ((loss - loss0).abs() / loss0, (norm - norm0).abs() / norm0);
        assert!(l < loss_tolerance, "step {step}: loss {loss} is not {loss0}: {l:e}");
        assert!(n < norm_tolerance, "step {step}: norm {norm} is not {norm0}: {n:e}");
    }
}

#[test]
fn twenty_steps_in_f32_follow_the_curve_to_the_last_weight() {
    let (curve, state) = train(&trained(1, false, "float32"), 20);
    assert_eq!(curve.len(), reference().len());
    compare(&curve, 2e-6, 1e-5);
    for (name, weight) in tensors(&golden("curves/w1-tiny/final.safetensors")) {
        let error = relative_error(&state[&name].to_f64(), &weight.to_f64());
        assert!(error < 1e-5, "{name} differs by {error}");
    }
}

#[test]
fn the_first_gradients_are_those_of_the_reference() {
    let module = trained(1, false, "float32");
    let (_, state) = train(&module, 1);
    for (name, grad) in tensors(&golden("curves/w1-tiny/grads_step0.safetensors")) {
        let error = relative_error(&state[&format!("grad.{name}")].to_f64(), &grad.to_f64());
        assert!(error < 1e-4, "{name} differs by {error}");
    }
}

/// All sequences have as many tokens, so a mean of micro-batch means, a mean over all tokens and one batch are the same.
#[test]
fn micro_batches_give_the_same_curve() {
    compare(&train(&trained(2, false, "float32"), 5).0, 2e-6, 1e-5);
    compare(&train(&trained(2, true, "float32"), 5).0, 2e-6, 1e-5);
}

#[test]
fn bf16_with_f32_weights_stays_near_the_curve() {
    compare(&train(&trained(1, false, "bfloat16"), 20).0, 2e-3, 5e-2);
}
