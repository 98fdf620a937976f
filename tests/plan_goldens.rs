//! Models against Hugging Face through compiled plans on the CPU device: logits, loss and every gradient, of the
//! reference ops and of generated kernels with and without the library.

mod support;

use athanor_backends::cpu::features;
use athanor_backends::cpu::reference::Tensor;
use athanor_passes::compile::OptLevel;
use support::device::{Compilation, Compiled};
use support::{config, golden, module, relative_error, run_spec, stacked, tensors};

fn parity(name: &str) {
    let dir = golden("models").join(name);
    let reference = stacked(tensors(&dir.join("reference.safetensors")));
    let weights = stacked(tensors(&dir.join("model.safetensors")));
    let tokens = &reference["input_ids"];
    let [batch, seq] = tokens.ty.dims[..] else { panic!("input_ids are [b, s]") };
    let config = config(&dir, seq, &["compute_dtype: float32", "mtp_num_layers: 0"]);
    let mut spec = run_spec(&config);
    spec.batch_size = batch;
    let inputs = [
        ("tokens", tokens.bytes.clone()),
        ("labels", reference["labels"].bytes.clone()),
        ("loss_mask", Tensor::from_f32(&[batch, seq], &vec![1.0; batch * seq]).bytes),
    ];
    let compiled = |opt: OptLevel, train: bool| {
        let how = Compilation { opt, level: features::detect(), train, threads: 2 };
        Compiled::new(&module(&config, spec.clone(), !train), how)
    };
    let plans = [OptLevel::O0, OptLevel::O1].map(|opt| (opt, compiled(opt, false), compiled(opt, true)));
    let ways =
        plans.iter().flat_map(|p| [(p, false), (p, true)]).filter(|(p, library)| p.0 != OptLevel::O0 || !library);
    for ((opt, forward, train), library) in ways {
        let what = format!("{name}, {opt:?}, library {library}");
        let start = |plan: &Compiled| {
            let mut run = plan.start(2, library, &weights);
            inputs.iter().for_each(|(name, bytes)| run.put(name, bytes));
            run
        };
        let loss_is_right = |loss: f64| {
            let off = relative_error(&[loss], &reference["loss"].to_f64());
            assert!(off < 1e-6, "{what}: the loss {loss} is {off:.1e} off");
        };

        let mut forward = start(forward);
        forward.program("forward");
        loss_is_right(forward.scalar("forward", "loss"));
        let logits = forward.result("forward", "logits");
        assert_eq!(logits.ty, reference["logits"].ty);
        let ours = logits.to_f64();
        let off = ours.iter().zip(reference["logits"].to_f64()).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
        assert!(off < 1e-4, "{what}: logits are {off:.1e} off");

        let mut train = start(train);
        train.program("micro");
        loss_is_right(train.scalar("micro", "loss"));
        let grads: Vec<&String> = reference.keys().filter(|k| k.starts_with("grad.")).collect();
        let trained = weights.keys().filter(|k| !k.ends_with("e_score_correction_bias")).count();
        assert_eq!(grads.len(), trained, "{name}: one gradient for each weight");
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

#[test]
fn qwen3_moe() {
    parity("qwen3_moe");
}

#[test]
fn mixtral() {
    parity("mixtral");
}

#[test]
fn deepseek_v3() {
    parity("deepseek_v3_rope");
}

#[test]
fn deepseek_v3_with_an_extended_context() {
    parity("deepseek_v3_yarn");
}
