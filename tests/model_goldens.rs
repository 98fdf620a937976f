//! Models against Hugging Face: logits, loss and every gradient at the reference interpreter.

mod support;

use std::collections::HashMap;

use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::Module;
use athanor_passes::{autodiff::autodiff, optimizer::optimizer};
use support::{config, golden, module, relative_error, run_spec, stacked, tensors};

/// The model in folder `name` with more lines of configuration, ready to train, and its reference values.
fn load(name: &str, lines: &[&str]) -> (Module, HashMap<String, Tensor>) {
    let dir = golden("models").join(name);
    let reference = stacked(tensors(&dir.join("reference.safetensors")));
    let [batch, seq] = reference["input_ids"].ty.dims[..] else { panic!("input_ids are [b, s]") };
    let lines: Vec<&str> = ["compute_dtype: float32"].iter().chain(lines).copied().collect();
    let config = config(&dir, seq, &lines);
    let mut run = run_spec(&config);
    run.batch_size = batch;
    let trained = optimizer(&autodiff(&module(&config, run, true)).unwrap()).unwrap();
    athanor_ir::verify::verify(&trained).unwrap();
    (trained, reference)
}

/// What `micro` of the model in folder `name` returns for the reference's batch, and all it was given.
fn micro(
    name: &str,
    module: &Module,
    reference: &HashMap<String, Tensor>,
) -> (HashMap<String, Tensor>, HashMap<String, Tensor>) {
    let mut args = stacked(tensors(&golden("models").join(name).join("model.safetensors")));
    let tokens = &reference["input_ids"];
    args.insert("tokens".into(), tokens.clone());
    args.insert("labels".into(), reference["labels"].clone());
    let ones = || Tensor::from_f32(&tokens.ty.dims, &vec![1.0; tokens.ty.dims.iter().product()]);
    args.insert("loss_mask".into(), reference.get("loss_mask").cloned().unwrap_or_else(ones));
    let results = interpret(module, "micro", &args).unwrap();
    (results, args)
}

fn compare(name: &str, results: &HashMap<String, Tensor>, reference: &HashMap<String, Tensor>) {
    let logits = results["logits"].to_f64();
    let furthest = logits.iter().zip(reference["logits"].to_f64()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(furthest < 1e-4, "{name}: logits differ by {furthest}");
    let grads: Vec<&String> = reference.keys().filter(|k| k.starts_with("grad.")).collect();
    let ours = results.keys().filter(|k| k.starts_with("grad.")).count();
    assert_eq!(grads.len(), ours, "{name}: one gradient for each weight");
    for grad in grads {
        let error = relative_error(&results[grad].to_f64(), &reference[grad].to_f64());
        assert!(error < 1e-4, "{name}: {grad} differs by {error}");
    }
}

fn close(what: &str, result: &Tensor, reference: &Tensor) {
    let error = relative_error(&result.to_f64(), &reference.to_f64());
    assert!(error < 1e-6, "{what} is {:?}, not {:?}", result.to_f64(), reference.to_f64());
}

fn parity(name: &str) {
    // Transformers reads the number of further tokens and does not train them.
    let (module, reference) = load(name, &["mtp_num_layers: 0"]);
    let (results, _) = micro(name, &module, &reference);
    compare(name, &results, &reference);
    close(name, &results["loss"], &reference["loss"]);
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

#[test]
fn qwen3_moe_with_the_best_two_of_eight_experts() {
    parity("qwen3_moe");
}

#[test]
fn glm_4_9b_with_half_a_rotation_and_gate_and_up_in_one() {
    parity("glm");
}

#[test]
fn glm_4_0414_with_norms_around_each_block() {
    parity("glm4");
}

#[test]
fn glm_4_5_with_normalised_heads_and_a_router_with_bias() {
    parity("glm4_moe");
}

#[test]
fn qwen2_moe_with_a_shared_expert_behind_a_gate() {
    parity("qwen2_moe");
}

#[test]
fn deepseek_v2_with_groups_by_their_best_expert() {
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
fn moonlight_with_queries_from_the_hidden_state() {
    parity("moonlight");
}

/// The further token, the balance loss by either count, the load of experts and what it does to the biases.
#[test]
fn deepseek_v3_with_a_further_token_and_a_balance_loss() {
    let name = "deepseek_v3_mtp";
    let lines = ["mtp_num_layers: 1", "mtp_loss_factor: 0.3", "moe_router_load_balancing_type: seq_aux_loss"];
    let lines: Vec<&str> = lines.into_iter().chain(["moe_aux_loss_coeff: 0.01"]).collect();
    let (module, reference) = load(name, &lines);
    let (results, args) = micro(name, &module, &reference);
    compare(name, &results, &reference);
    for (ours, theirs) in
        [("loss", "total"), ("lm_loss", "lm_loss"), ("mtp_loss", "mtp_loss"), ("aux_loss", "aux_paper")]
    {
        close(ours, &results[ours], &reference[theirs]);
    }
    for layer in [1, 2, 3] {
        let load = &results[&format!("expert_load.model.layers.{layer}.mlp")];
        assert_eq!(load.to_f64(), reference[&format!("expert_load.{layer}")].to_f64(), "layer {layer}");
    }
    biases_follow_the_load(&module, args, results, &reference);

    let selected: Vec<&str> = lines.into_iter().chain(["moe_aux_loss_counts: selected"]).collect();
    let (module, reference) = load(name, &selected);
    close("aux_selected", &micro(name, &module, &reference).0["aux_loss"], &reference["aux_selected"]);
}

fn biases_follow_the_load(
    module: &Module,
    args: HashMap<String, Tensor>,
    results: HashMap<String, Tensor>,
    reference: &HashMap<String, Tensor>,
) {
    let update = module.func("update").unwrap();
    let mut state: HashMap<String, Tensor> =
        update.params.iter().map(|p| (p.name.clone(), Tensor::zeros(update.ty(p.value).clone()))).collect();
    state.extend(args.into_iter().chain(results));
    let after = interpret(module, "update", &state).unwrap();
    let biases: Vec<&String> = after.keys().filter(|k| k.ends_with("e_score_correction_bias")).collect();
    assert_eq!(biases.len(), 3);
    for bias in biases {
        let wanted = reference[&format!("bias_after.{bias}")].to_f64();
        // The reference is in f64, a bias in f32: two roundings, of the bias before the step and after it.
        for (found, wanted) in after[bias].to_f64().iter().zip(wanted) {
            let rounding = f64::from(f32::EPSILON) * wanted.abs().max(1e-3);
            assert!((found - wanted).abs() <= rounding, "{bias}: {found} is not {wanted}");
        }
    }
}
