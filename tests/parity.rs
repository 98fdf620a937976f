//! What passes may not change: `micro` and `update` of small models give the same numbers before and after `simplify`,
//! `fuse` and both, at the reference interpreter.

mod support;

use std::collections::HashMap;
use std::path::PathBuf;

use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::{DType, Module, Role, TensorType};
use athanor_passes::registry;
use support::{apply, config, golden, module, run_spec, tensors};

const BATCH: usize = 2;

/// A model of `tests/golden` with its weights.
struct Model {
    dir: PathBuf,
    weights: &'static str,
    seq: usize,
}

const MODELS: [&str; 6] = ["llama2", "llama3_1", "qwen2_tied", "qwen3", "gpt2", "w1-tiny"];

fn model(name: &str) -> Model {
    match name {
        "w1-tiny" => Model { dir: golden("curves/w1-tiny"), weights: "init.safetensors", seq: 32 },
        name => Model { dir: golden("models").join(name), weights: "model.safetensors", seq: 16 },
    }
}

/// Numbers in [−1, 1) that depend on the name and the position.
fn draw(name: &str, n: usize) -> Vec<f64> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mixed = |i: u64| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    };
    (0..n as u64).map(|i| (mixed(i) >> 11) as f64 / (1u64 << 52) as f64 - 1.0).collect()
}

/// An argument for every parameter: the model's weights, tokens below the vocabulary, a mask with holes, gradients and
/// moments that are not zero.
fn arguments(module: &Module, weights: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let run = &module.run;
    let mut args = HashMap::new();
    for (f, p) in module.funcs.iter().flat_map(|f| f.params.iter().map(move |p| (f, p))) {
        let ty: &TensorType = f.ty(p.value);
        let u = draw(&p.name, ty.elements());
        let t = match (&p.role, p.name.as_str()) {
            (Role::Weight { .. } | Role::ExpertBias { .. }, name) => weights[name].clone(),
            (Role::Moment | Role::Grad, name) if name.starts_with("adam_v") => {
                Tensor::new(ty.clone(), &u.iter().map(|x| 1e-4 * x * x).collect::<Vec<_>>())
            }
            (Role::Moment | Role::Grad | Role::Handed | Role::Cache, _) => {
                Tensor::new(ty.clone(), &u.iter().map(|x| 0.01 * x).collect::<Vec<_>>())
            }
            (Role::Input, "loss_mask") => {
                Tensor::new(ty.clone(), &u.iter().map(|x| f64::from(*x > -0.6)).collect::<Vec<_>>())
            }
            (Role::Input, "token_count") => Tensor::scalar(DType::F32, 27.0),
            (Role::Input, "lr") => Tensor::scalar(DType::F32, 1e-3),
            (Role::Input, "step_size") => Tensor::scalar(DType::F32, 3e-3),
            (Role::Input, "v_scale") => Tensor::scalar(DType::F32, 7.0),
            (Role::Input, _) => {
                let ids = u.iter().map(|x| ((x + 1.0) / 2.0 * run.vocab_size as f64).floor());
                Tensor::new(ty.clone(), &ids.collect::<Vec<_>>())
            }
        };
        args.insert(p.name.clone(), t);
    }
    args
}

/// Results of `micro` and `update`.
fn results(module: &Module, args: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let of = |func: &str| interpret(module, func, args).unwrap_or_else(|e| panic!("@{func}: {e}"));
    let tag = |func: &'static str| move |(name, t): (String, Tensor)| (format!("{func} {name}"), t);
    of("micro").into_iter().map(tag("micro")).chain(of("update").into_iter().map(tag("update"))).collect()
}

/// The largest difference, relative to the largest element of what was wanted.
fn furthest(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.ty, want.ty);
    let (got, want) = (got.to_f64(), want.to_f64());
    let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
    // A NaN is as far as can be.
    let off = off.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
    if scale > 0.0 { off / scale } else { off }
}

/// Compares every pipeline of interest with no pipeline; `extra` lines go to the model's configuration.
fn parity(extra: &[&str], accumulation: usize, per_token: bool, tolerance: f64) {
    for name in MODELS {
        let Model { dir, weights, seq } = model(name);
        let config = config(&dir, seq, extra);
        let mut run = run_spec(&config);
        (run.batch_size, run.accumulation, run.per_token_loss) = (BATCH, accumulation, per_token);
        let forward = module(&config, run, false);
        let train = apply(&forward, "autodiff,optimizer");
        let args = arguments(&train, &tensors(&dir.join(weights)));
        let want = results(&train, &args);
        for passes in ["simplify", "fuse{loss-blocks=4}", "simplify,fuse{loss-blocks=4}"] {
            let after = apply(&train, passes);
            let got = results(&after, &args);
            assert_eq!(got.len(), want.len(), "{name}, {passes}");
            for (result, want) in &want {
                let off = furthest(&got[result], want);
                assert!(off <= tolerance, "{name}, {passes}: {result} is {off:.1e} off");
            }
        }
        // What a compilation does: the forward function is simplified before it is differentiated.
        let got = results(&apply(&forward, "simplify,autodiff,optimizer,fuse"), &args);
        for (result, want) in &want {
            let off = furthest(&got[result], want);
            assert!(off <= tolerance, "{name}, whole pipeline: {result} is {off:.1e} off");
        }
    }
}

#[test]
fn passes_keep_the_numbers_in_f32() {
    parity(&["compute_dtype: float32"], 1, false, 1e-5);
}

#[test]
fn passes_keep_the_numbers_with_micro_batches() {
    parity(&["compute_dtype: float32"], 2, false, 1e-5);
    parity(&["compute_dtype: float32"], 2, true, 1e-5);
}

/// bf16 has 8 bits: one rounding is up to 2⁻⁹ of a value, and passes leave out or move some of the many roundings between
/// the loss and a weight.
#[test]
fn passes_keep_the_numbers_in_bf16_but_for_roundings() {
    parity(&["compute_dtype: bfloat16"], 1, false, 4e-2);
    parity(&["compute_dtype: bfloat16", "fp32_residual_connection: True"], 2, false, 4e-2);
}

#[test]
fn the_comparison_can_fail() {
    let one = Tensor::from_f32(&[2], &[1.0, -2.0]);
    assert_eq!(furthest(&Tensor::from_f32(&[2], &[1.0, -1.0]), &one), 0.5);
    assert_eq!(furthest(&Tensor::from_f32(&[2], &[1.0, f32::NAN]), &one), f64::INFINITY);
    assert!(registry::build("simplify,fuse{loss-blocks=4}").is_ok_and(|p| p.len() == 2));
}
