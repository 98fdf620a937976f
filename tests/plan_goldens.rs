//! Models against Hugging Face through compiled plans on the CPU device: logits, loss and every gradient, of the
//! reference ops and of generated kernels with and without the library.

mod support;

use athanor_backends::cpu::features;
use athanor_backends::cpu::reference::Tensor;
use athanor_ir::target::CpuLevel;
use athanor_passes::compile::OptLevel;
use support::device::{Compilation, Run};
use support::{config, golden, module, relative_error, run_spec, tensors};

fn parity(name: &str) {
    let dir = golden("models").join(name);
    let reference = tensors(&dir.join("reference.safetensors"));
    let weights = tensors(&dir.join("model.safetensors"));
    let tokens = &reference["input_ids"];
    let [batch, seq] = tokens.ty.dims[..] else { panic!("input_ids are [b, s]") };
    let config = config(&dir, seq, &["compute_dtype: float32"]);
    let mut spec = run_spec(&config);
    spec.batch_size = batch;
    let inputs = [
        ("tokens", tokens.bytes.clone()),
        ("labels", reference["labels"].bytes.clone()),
        ("loss_mask", Tensor::from_f32(&[batch, seq], &vec![1.0; batch * seq]).bytes),
    ];
    let best = features::detect();
    let ways = [
        (OptLevel::O0, CpuLevel::Portable, false),
        (OptLevel::O1, CpuLevel::Portable, false),
        (OptLevel::O1, best, false),
        (OptLevel::O1, best, true),
    ];
    for (opt, level, library) in ways {
        let what = format!("{name}, {opt:?} {level}, library {library}");
        let start = |train: bool| {
            let model = module(&config, spec.clone(), !train);
            let mut run = Run::new(&model, Compilation { opt, level, library, train, threads: (2, 2) }, &weights);
            inputs.iter().for_each(|(name, bytes)| run.put(name, bytes));
            run
        };
        let loss_is_right = |loss: f64| {
            let off = relative_error(&[loss], &reference["loss"].to_f64());
            assert!(off < 1e-6, "{what}: the loss {loss} is {off:.1e} off");
        };

        let mut forward = start(false);
        forward.program("forward");
        loss_is_right(forward.scalar("forward", "loss"));
        let logits = forward.result("forward", "logits");
        assert_eq!(logits.ty, reference["logits"].ty);
        let ours = logits.to_f64();
        let off = ours.iter().zip(reference["logits"].to_f64()).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
        assert!(off < 1e-4, "{what}: logits are {off:.1e} off");

        let mut train = start(true);
        train.program("micro");
        loss_is_right(train.scalar("micro", "loss"));
        let grads: Vec<&String> = reference.keys().filter(|k| k.starts_with("grad.")).collect();
        assert_eq!(grads.len(), weights.len(), "{name}: one gradient for each weight");
        for grad in grads {
            let off = relative_error(&train.buffer(grad).to_f64(), &reference[grad].to_f64());
            assert!(off < 1e-4, "{what}: {grad} is {off:.1e} off");
        }
    }
}

#[test]
fn gpt2() {
    parity("gpt2");
}

#[test]
fn llama2() {
    parity("llama2");
}

#[test]
fn llama3_1() {
    parity("llama3_1");
}

#[test]
fn qwen2_tied() {
    parity("qwen2_tied");
}

#[test]
fn qwen3() {
    parity("qwen3");
}
