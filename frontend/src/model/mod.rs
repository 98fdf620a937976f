//! Model families: from a checked description to a module of level model.
//!
//! A family's file says which blocks there are, under the names of Hugging Face's checkpoints, and in which order.

mod check;
mod deepseek;
pub mod flops;
mod glm;
mod gpt2;
pub mod hf;
mod llama;
pub mod names;
pub mod offload;
pub mod parameters;
mod params;
pub mod recompute;

use std::sync::Arc;

use athanor_ir::diag::SourceFile;
use athanor_ir::run::RunSpec;
use athanor_ir::{DType, Func, Level, Loc, Module, Result, Role, TensorType, ValueId};

use crate::block::Net;
use crate::block::loss::Loss;
use crate::block::rope::Tables;
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
    /// Micro-batches of a step; 0 is one. A balance loss over the global batch counts over them.
    pub micro_batches: usize,
}

/// The module of `config`: one function `forward` for a micro-batch of all replicas together, of `run.batch_size` sequences
/// each.
///
/// # Errors
/// [`UNSUPPORTED_MODEL`] for what the description asks for and no block does, [`crate::block::BAD_PATTERN`],
/// [`BAD_PARAMETER_RULE`], and [`recompute::BAD_OPERATOR_PATTERN`].
pub fn build(config: &Config, mut run: RunSpec, logits: bool) -> Result<Module> {
    let outputs = Outputs { logits, per_token_loss: run.per_token_loss, micro_batches: run.accumulation };
    let mesh = config.mesh();
    let batch = run.batch_size.saturating_mul(mesh.replicas());
    let mut func = forward(&config.model, &config.sources, batch, outputs)?;
    params::assign(config, &mut func, &mut run)?;
    run.offload = offload::choice(config, &func)?;
    run.recompute = offload::kept(config, &func, &run.offload, recompute::choice(config, &func)?);
    let name = config.model.model_type.value.clone();
    Ok(Module { name, level: Level::Model, mesh, run, funcs: vec![func] })
}

/// The function `forward` of model `m` for `batch` sequences; spans of `m` point into `sources`.
///
/// Parameters are `tokens` and `labels` i32 `[b, s]`, `loss_mask` f32 `[b, s]` and the weights, in f32 under Hugging
/// Face's names. Results are `loss` f32, or as `outputs` says; where the loss is a sum, its parts `lm_loss`, `mtp_loss`,
/// `aux_loss` and `z_loss`; and `expert_load.BLOCK` f32 `[e]`, tokens per expert, for each layer with experts.
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
    let n = &mut net;
    n.micro_batches = outputs.micro_batches.max(1);
    let layer: Layer = if m.sandwich_norm.value { glm::layer } else { llama::layer };
    let decoded = match m.family {
        Family::Gpt2 => gpt2::decode(n, tokens),
        _ => n.decoder(tokens, layer),
    };
    let output = n.output_layer(decoded.table);
    let logits = n.logits(decoded.hidden, output);
    let lm = n.loss(logits, labels, mask);
    let mtp = m.mtp.as_ref().map(|mtp| {
        let further = deepseek::Further { decoded: &decoded, output, tokens, labels, mask };
        let loss = deepseek::further_token(n, &further, layer);
        (n.mean(loss), mtp.loss_scaling_factor.value)
    });
    let results = losses(n, lm, mtp, outputs);
    for (name, value) in results {
        func.result(name, value);
    }
    if outputs.logits {
        func.result("logits", logits);
    }
    Ok(func)
}

/// A layer of a decoder: index, residual stream, rotary tables.
type Layer = fn(&mut Net<'_>, usize, ValueId, Option<Tables>) -> ValueId;

/// The losses of the model by name: what is trained for, and where that is a sum its parts, in f32.
///
/// `mtp` is the mean loss of the further token and its factor.
fn losses(n: &mut Net<'_>, lm: Loss, mtp: Option<(ValueId, f64)>, outputs: Outputs) -> Vec<(String, ValueId)> {
    let side = std::mem::take(&mut n.side);
    let (balance, z) = (n.total(&side.balance), n.total(&side.z));
    let mut parts: Vec<(String, ValueId)> = vec![];
    let mut more = vec![];
    if let Some((loss, factor)) = mtp {
        parts.push(("mtp_loss".into(), loss));
        more.push(n.scope("loss", None, |n| n.times(loss, factor)));
    }
    for (name, loss) in [("aux_loss", balance), ("z_loss", z)] {
        parts.extend(loss.map(|l| (name.to_owned(), l)));
        more.extend(loss);
    }
    let more = n.total(&more);
    let mut out = vec![];
    if outputs.per_token_loss {
        // What is added to a mean counts once for each of its tokens.
        let sum = more.map_or(lm.sum, |more| {
            n.scope("loss", None, |n| {
                let more = n.b.mul(more, lm.count);
                n.b.add(lm.sum, more)
            })
        });
        out.extend([("loss_sum".to_owned(), sum), ("token_count".into(), lm.count)]);
        if more.is_some() {
            out.push(("lm_loss".into(), n.mean(lm)));
        }
    } else {
        let mean = n.mean(lm);
        let total = more.map_or(mean, |more| n.scope("loss", None, |n| n.b.add(mean, more)));
        out.push(("loss".into(), total));
        if more.is_some() {
            out.push(("lm_loss".into(), mean));
        }
    }
    out.extend(parts);
    out.extend(side.load.into_iter().map(|(block, load)| (format!("expert_load.{block}"), load)));
    out.extend(side.state);
    out
}
