//! Models against Hugging Face: logits, loss and every gradient at the reference interpreter.

mod support;

use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_passes::autodiff::autodiff;
use support::{config, golden, module, relative_error, run_spec, tensors};

fn parity(name: &str) {
    let dir = golden("models").join(name);
    let reference = tensors(&dir.join("reference.safetensors"));
    let tokens = &reference["input_ids"];
    let [batch, seq] = tokens.ty.dims[..] else { panic!("input_ids are [b, s]") };
    let config = config(&dir, seq, &["compute_dtype: float32"]);
    let mut run = run_spec(&config);
    run.batch_size = batch;
    let model = module(&config, run, true);
    let micro = autodiff(&model).unwrap();
    athanor_ir::verify::verify(&micro).unwrap();

    let mut args = tensors(&dir.join("model.safetensors"));
    args.insert("tokens".into(), tokens.clone());
    args.insert("labels".into(), reference["labels"].clone());
    args.insert("loss_mask".into(), Tensor::from_f32(&[batch, seq], &vec![1.0; batch * seq]));
    let results = interpret(&micro, "micro", &args).unwrap();

    let logits = results["logits"].to_f64();
    let furthest = logits.iter().zip(reference["logits"].to_f64()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(furthest < 1e-4, "{name}: logits differ by {furthest}");
    let loss = relative_error(&results["loss"].to_f64(), &reference["loss"].to_f64());
    assert!(loss < 1e-6, "{name}: the loss differs by {loss}");

    let grads: Vec<&String> = reference.keys().filter(|k| k.starts_with("grad.")).collect();
    let ours = results.keys().filter(|k| k.starts_with("grad.")).count();
    assert_eq!(grads.len(), ours, "{name}: one gradient for each weight");
    for grad in grads {
        let error = relative_error(&results[grad].to_f64(), &reference[grad].to_f64());
        assert!(error < 1e-4, "{name}: {grad} differs by {error}");
    }
}

#[test]
fn gpt2_with_learned_positions_and_one_matrix_for_q_k_v() {
    parity("gpt2");
}

#[test]
fn llama2() {
    parity("llama2");
}

#[test]
fn llama3_1_with_scaled_rope_and_grouped_heads() {
    parity("llama3_1");
}

#[test]
fn qwen2_with_biases_and_tied_embedding() {
    parity("qwen2_tied");
}

#[test]
fn qwen3_with_normalised_heads() {
    parity("qwen3");
}
