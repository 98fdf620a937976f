//! What the tests of whole models share: goldens from disk, configurations, modules, compiled plans on the CPU device.
#![allow(dead_code, reason = "each test program uses its part")]

pub mod bits;
pub mod device;
pub mod mesh;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use athanor_backends::cpu::reference::Tensor;
use athanor_frontend::config::{Config, parse};
use athanor_frontend::model::{build, flops};
use athanor_ir::lr::{LrSchedule, Shape};
use athanor_ir::optimizer::{AdamWSpec, BiasCorrection, OptimizerSpec};
use athanor_ir::run::RunSpec;
use athanor_ir::{DType, Module, TensorType};
use athanor_passes::codegen::cache::Cache;
use athanor_passes::registry;

/// A folder of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Kernels that tests have compiled before: many of their plans have the same.
pub fn kernel_cache() -> Cache {
    Cache::in_dir(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels"))
}

/// Every tensor of a safetensors file.
pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let dtype = |d| match d {
        safetensors::Dtype::F64 => DType::F64,
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::BF16 => DType::BF16,
        safetensors::Dtype::I32 => DType::I32,
        other => panic!("{}: {other:?}", path.display()),
    };
    let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let ty = TensorType::new(dtype(view.dtype()), view.shape());
        (name, Tensor { ty, bytes: view.data().to_vec() })
    };
    file.tensors().into_iter().map(read).collect()
}

/// The upper and the lower rows of a tensor.
fn halves(tensor: &Tensor) -> [Tensor; 2] {
    let dims = [&[tensor.ty.dims[0] / 2], &tensor.ty.dims[1..]].concat();
    let (upper, lower) = tensor.bytes.split_at(tensor.bytes.len() / 2);
    [upper, lower].map(|bytes| Tensor { ty: tensor.ty.with_dims(dims.clone()), bytes: bytes.to_vec() })
}

/// The tensors of a model as its functions take them: those of one projection of all experts in one, in their order,
/// Mixtral's under the common names, and GLM's gate and up apart. Names may have a prefix such as `grad.`; an expert that no token went to has no
/// gradient, which is one of zeros.
pub fn stacked(tensors: HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let mut out = HashMap::new();
    let mut experts: HashMap<String, Vec<(usize, Tensor)>> = HashMap::new();
    for (name, tensor) in tensors {
        let name = name.replace("block_sparse_moe", "mlp");
        match name.split_once(".experts.").and_then(|(block, rest)| Some((block, rest.split_once('.')?))) {
            Some((block, (index, part))) => {
                let part = match part.trim_end_matches(".weight") {
                    "w1" => "gate_proj",
                    "w3" => "up_proj",
                    "w2" => "down_proj",
                    other => other,
                };
                experts.entry(format!("{block}.experts.{part}")).or_default().push((index.parse().unwrap(), tensor));
            }
            None if name.ends_with(".gate_up_proj.weight") => {
                for (part, half) in ["gate_proj", "up_proj"].into_iter().zip(halves(&tensor)) {
                    out.insert(name.replace("gate_up_proj", part), half);
                }
            }
            None => {
                out.insert(name, tensor);
            }
        }
    }
    let count = experts.values().flatten().map(|(index, _)| index + 1).max().unwrap_or(0);
    for (name, parts) in experts {
        let ty = parts[0].1.ty.clone();
        assert!(parts.len() == count || name.starts_with("grad."), "{name}: not all experts are there");
        let mut bytes = Tensor::zeros(ty.with_dims([&[count], &ty.dims[..]].concat()));
        let size = bytes.bytes.len() / count;
        for (index, part) in parts {
            bytes.bytes[index * size..][..size].copy_from_slice(&part.bytes);
        }
        out.insert(name, bytes);
    }
    out
}

/// A configuration of the model in `dir` (with a config.json), `extra` lines under `model_config`.
pub fn config(dir: &Path, seq_length: usize, extra: &[&str]) -> Config {
    let extra = extra.iter().map(|l| ["    ", l, "\n"].concat()).collect::<String>();
    let text = format!(
        "run_mode: train\nuse_legacy: False\npretrained_model_dir: {}\nrunner_config:\n  epochs: 1\n  batch_size: 2\n\
         model:\n  model_config:\n    seq_length: {seq_length}\n{extra}\
         optimizer:\n  type: AdamW\n  betas: [0.9, 0.95]\n  eps: 1.e-8\n  weight_decay: 0.1\n\
         lr_schedule:\n  type: ConstantWarmUpLR\n  learning_rate: 3.e-4\n  warmup_steps: 0\n\
         runner_wrapper:\n  type: MFTrainOneStepCell\n  use_clip_grad: True\n  max_grad_norm: 1.0\n\
         train_dataset:\n  data_loader:\n    type: TokenBinDataLoader\n    path: tokens.bin\n    dtype: int32\n",
        dir.display()
    );
    let loaded = parse("test.yaml", &text, &[]);
    let messages = || loaded.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    loaded.config.clone().unwrap_or_else(|| panic!("{}", messages()))
}

/// What `config` says about the run, as far as the passes look at it.
pub fn run_spec(config: &Config) -> RunSpec {
    let [beta1, beta2] = config.optimizer.betas.value;
    let (eps, weight_decay) = (config.optimizer.eps.value, config.optimizer.weight_decay.value);
    let peak = config.lr_schedule.learning_rate.value;
    let adamw = AdamWSpec { beta1, beta2, eps, weight_decay, bias_correction: BiasCorrection::Full };
    RunSpec {
        steps: 20,
        batch_size: config.runner.batch_size.value,
        accumulation: config.runner.gradient_accumulation_steps.value,
        seq_length: config.model.seq_length.value,
        vocab_size: config.model.vocab_size.value,
        optimizer: OptimizerSpec::AdamW(adamw),
        max_grad_norm: config.wrapper.use_clip_grad.value.then_some(config.wrapper.max_grad_norm.value),
        per_token_loss: config.model.calculate_per_token_loss.value,
        lr: LrSchedule { learning_rate: peak, warmup_steps: 0, warmup_lr_init: 0.0, shape: Shape::Constant },
        flops_per_sequence: flops::per_sequence(&config.model),
        ..RunSpec::for_tests()
    }
}

/// The model of `config`, verified.
pub fn module(config: &Config, run: RunSpec, logits: bool) -> Module {
    let module = build(config, run, logits).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&module).unwrap_or_else(|e| panic!("{e}"));
    module
}

/// `module` after the passes of `pipeline`, verified after each.
pub fn apply(module: &Module, pipeline: &str) -> Module {
    let passes = registry::build(pipeline).unwrap_or_else(|e| panic!("{e}"));
    passes.iter().fold(module.clone(), |m, p| {
        let next = p.run(&m).unwrap_or_else(|e| panic!("{}: {e}", p.name()));
        athanor_ir::verify::verify(&next).unwrap_or_else(|e| panic!("after {}: {e}", p.name()));
        next
    })
}

/// ‖a − b‖ / ‖b‖, or ‖a‖ where b is zero.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let scale = norm(&mut b.iter().copied());
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if scale > 0.0 { difference / scale } else { difference }
}
