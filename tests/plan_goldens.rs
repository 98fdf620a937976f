//! Models against Hugging Face through compiled plans on the CPU device: logits, loss and every gradient, of the
//! reference ops and of generated kernels with and without the library.

mod support;

use athanor_backends::cpu::features;
use athanor_backends::cpu::reference::Tensor;
use athanor_passes::compile::OptLevel;
use support::device::{Compilation, Compiled, Run};
use support::{config, golden, module, relative_error, run_spec, stacked, tensors};

fn parity(name: &str) {
    // Transformers reads the number of further tokens and does not train them.
    check(name, &["mtp_num_layers: 0"], &[("loss", "loss")]);
}

/// The model in folder `name` with more lines of configuration; losses under our names and the reference's.
fn check(name: &str, lines: &[&str], losses: &[(&str, &str)]) {
    let dir = golden("models").join(name);
    let reference = stacked(tensors(&dir.join("reference.safetensors")));
    let weights = stacked(tensors(&dir.join("model.safetensors")));
    let tokens = &reference["input_ids"];
    let [batch, seq] = tokens.ty.dims[..] else { panic!("input_ids are [b, s]") };
    let lines: Vec<&str> = ["compute_dtype: float32"].iter().chain(lines).copied().collect();
    let config = config(&dir, seq, &lines);
    let mut spec = run_spec(&config);
    spec.batch_size = batch;
    let ones = || Tensor::from_f32(&[batch, seq], &vec![1.0; batch * seq]);
    let inputs = [
        ("tokens", tokens.bytes.clone()),
        ("labels", reference["labels"].bytes.clone()),
        ("loss_mask", reference.get("loss_mask").cloned().unwrap_or_else(ones).bytes),
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
        let losses_are_right = |run: &Run, program: &str| {
            for (ours, theirs) in losses {
                let loss = run.scalar(program, ours);
                let off = relative_error(&[loss], &reference[*theirs].to_f64());
                assert!(off < 1e-6, "{what}: {ours} {loss} is {off:.1e} off");
            }
        };

        let mut forward = start(forward);
        forward.program("forward");
        losses_are_right(&forward, "forward");
        let logits = forward.result("forward", "logits");
        assert_eq!(logits.ty.dims, reference["logits"].ty.dims);
        let ours = logits.to_f64();
        let off = ours.iter().zip(reference["logits"].to_f64()).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
        assert!(off < 1e-4, "{what}: logits are {off:.1e} off");

        let mut train = start(train);
        train.program("micro");
        losses_are_right(&train, "micro");
        let grads: Vec<&String> = reference.keys().filter(|k| k.starts_with("grad.")).collect();
        let trained = weights.keys().filter(|w| !w.ends_with("e_score_correction_bias")).count();
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
fn glm_4_9b() {
    parity("glm");
}

#[test]
fn glm_4_0414() {
    parity("glm4");
}

#[test]
fn glm_4_5() {
    parity("glm4_moe");
}

#[test]
fn qwen2_moe() {
    parity("qwen2_moe");
}

#[test]
fn deepseek_v2() {
    parity("deepseek_v2");
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

#[test]
fn moonlight() {
    parity("moonlight");
}

/// Two losses over the vocabulary, a balance loss, and experts behind both.
#[test]
fn deepseek_v3_with_a_further_token_and_a_balance_loss() {
    let lines = ["mtp_num_layers: 1", "mtp_loss_factor: 0.3", "moe_router_load_balancing_type: seq_aux_loss"];
    let lines: Vec<&str> = lines.into_iter().chain(["moe_aux_loss_coeff: 0.01"]).collect();
    let losses = [("loss", "total"), ("lm_loss", "lm_loss"), ("mtp_loss", "mtp_loss"), ("aux_loss", "aux_paper")];
    check("deepseek_v3_mtp", &lines, &losses);
}
