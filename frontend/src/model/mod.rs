//! Model families: from a checked description to a module of level model.
//!
//! A family's file says which blocks there are, under the names of Hugging Face's checkpoints, and in which order.

mod check;
pub mod flops;
mod gpt2;
pub mod hf;
mod llama;
mod params;

use std::sync::Arc;

use athanor_ir::diag::SourceFile;
use athanor_ir::run::RunSpec;
use athanor_ir::{DType, Func, Level, Loc, Mesh, Module, Result, Role, TensorType};

use crate::block::Net;
use crate::config::{Config, Family, ModelConfig};
pub use check::{CODES, UNSUPPORTED_MODEL};
pub use params::BAD_PARAMETER_RULE;

/// What [`forward`] returns beside the loss, and how it counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outputs {
    /// Also return `logits [b, s, v]`.
    pub logits: bool,
    /// Return `loss_sum` and `token_count` instead of the mean `loss`.
    pub per_token_loss: bool,
}

/// The module of `config`: one function `forward` for a micro-batch of `run.batch_size` sequences.
///
/// # Errors
/// [`UNSUPPORTED_MODEL`] for what the description asks for and no block does, [`crate::block::BAD_PATTERN`], and
/// [`BAD_PARAMETER_RULE`].
pub fn build(config: &Config, mut run: RunSpec, logits: bool) -> Result<Module> {
    let outputs = Outputs { logits, per_token_loss: run.per_token_loss };
    let mut func = forward(&config.model, &config.sources, run.batch_size, outputs)?;
    params::assign(config, &mut func, &mut run)?;
    let name = config.model.model_type.value.clone();
    Ok(Module { name, level: Level::Model, mesh: Mesh::default(), run, funcs: vec![func] })
}

/// The function `forward` of model `m` for `batch` sequences; spans of `m` point into `sources`.
///
/// Parameters are `tokens` and `labels` i32 `[b, s]`, `loss_mask` f32 `[b, s]` and the weights, in f32 under Hugging
/// Face's names. Results are `loss` f32, or as `outputs` says.
///
/// # Errors
/// [`UNSUPPORTED_MODEL`], [`crate::block::BAD_PATTERN`].
pub fn forward(m: &ModelConfig, sources: &[Arc<SourceFile>], batch: usize, outputs: Outputs) -> Result<Func> {
    check::check(m, sources)?;
    let mut func = Func::new("forward");
    let ty = |dtype| TensorType::new(dtype, [batch, m.seq_length.value]);
    let mut input = |name: &str, dtype| func.param(name, ty(dtype), Role::Input, Loc::default());
    let [tokens, labels] = [input("tokens", DType::I32), input("labels", DType::I32)];
    let mask = input("loss_mask", DType::F32);
    let mut net = Net::new(&mut func, m, sources, batch)?;
    let logits = match m.family {
        Family::Gpt2 => gpt2::logits(&mut net, tokens),
        Family::Llama | Family::Qwen2 | Family::Qwen3 => llama::logits(&mut net, tokens),
    };
    let loss = net.loss(logits, labels, mask);
    if outputs.per_token_loss {
        func.result("loss_sum", loss.sum);
        func.result("token_count", loss.count);
    } else {
        let mean = net.mean(&loss);
        func.result("loss", mean);
    }
    if outputs.logits {
        func.result("logits", logits);
    }
    Ok(func)
}
