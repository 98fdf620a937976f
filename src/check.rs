//! `athanor check`: everything that is wrong with a configuration, or what it would cost.

use crate::compile::{Job, Options, Planned, offloaded, recomputed};
use crate::config_args::{Overrides, read};
use crate::failure::{Failure, print};
use crate::output::{emit, say};
use crate::stages::PipelineSummary;
use crate::text::{bytes, count, grouped, scaled, table};
use athanor_frontend::config::{Config, effective};
use athanor_frontend::inputs;
use athanor_frontend::model::parameters::Parameters;
use athanor_ir::diag::Severity;
use athanor_ir::func::Role;
use athanor_ir::plan::{BufferRole, Stage};
use athanor_ir::{Diagnostic, Module};
use athanor_passes::observe::Observe;
use clap::Parser;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Check a configuration: report every mistake at once, or say what the run would cost. Nothing is trained.
#[derive(Parser)]
#[command(after_help = "\
Exit codes: 0 the configuration can be trained, 1 it has errors.\n\n\
Examples:\n  athanor check examples/quickstart.yaml\n  \
athanor check pretrain.yaml --effective > effective.yaml\n  \
athanor check pretrain.yaml --set runner_config.batch_size=4 --devices 1")]
pub struct Args {
    /// YAML file
    #[arg(required_unless_present = "config_file")]
    config: Option<PathBuf>,
    /// Print the configuration as it will be used, every default filled in, and nothing else
    #[arg(long)]
    effective: bool,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    overrides: Overrides,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let path = args.overrides.path(args.config.as_deref());
    let config = read(path, &args.overrides, args.options.devices)?;
    if args.effective {
        emit(&effective(&config));
        return Ok(());
    }
    let job = Job::new(&config, &args.options, false)?;
    print(&missing_files(&config));
    let planned = job.plan(&Observe::default())?;
    say!("{}: no errors", path.display());
    emit(&model(&config, job.module()));
    emit(&run_of(&config, job.module()));
    emit(&memory(&planned));
    Ok(())
}

/// Warns of data and weights that are not there: a run would stop at once.
fn missing_files(config: &Config) -> Vec<Diagnostic> {
    inputs::missing(config, true).into_iter().map(|d| Diagnostic { severity: Severity::Warning, ..d }).collect()
}

fn model(config: &Config, module: &Module) -> String {
    let m = &config.model;
    let mut out = String::new();
    let heads = match &m.latent {
        Some(l) => format!(
            "{} heads of {}+{} over a latent of {}",
            m.num_attention_heads.value, l.qk_head_dim.value, l.qk_pos_emb_head_dim.value, l.kv_lora_rank.value
        ),
        None => format!(
            "{} heads of {} over {} key/value heads",
            m.num_attention_heads.value, m.kv_channels.value, m.num_query_groups.value
        ),
    };
    let experts = m.moe.as_ref().map_or_else(String::new, |moe| {
        let sparse = moe.layers.value.iter().filter(|on| **on).count();
        format!(
            ", best {} of {} experts in {}",
            moe.router.topk.value,
            moe.num_experts.value,
            count(sparse as u64, "layer")
        )
    });
    let _ = writeln!(
        out,
        "\nModel: {} ({}), {} layers, {} wide, {heads}, vocabulary {}{experts}",
        module.name,
        config.generation,
        m.num_layers.value,
        m.hidden_size.value,
        grouped(m.vocab_size.value as u64)
    );
    let blocks = parameters(module);
    let total: u64 = blocks.iter().map(|b| b.1).sum();
    let share = |n: u64| format!("{:.1} %", 100.0 * n as f64 / total.max(1) as f64);
    let mut rows: Vec<Vec<String>> =
        blocks.iter().map(|(block, n, of)| vec![block.clone(), grouped(*n), share(*n), times(*of)]).collect();
    rows.push(vec!["parameters".into(), grouped(total), String::new(), String::new()]);
    let found = Parameters::of(m);
    if found.active < found.model {
        rows.push(vec!["of a token".into(), grouped(found.active), share(found.active), String::new()]);
    }
    if found.further > 0 {
        rows.push(vec!["of the further token".into(), grouped(found.further), share(found.further), String::new()]);
    }
    out.push_str(&table(&rows, &[3]));
    out
}

fn times(n: usize) -> String {
    if n > 1 { format!("in {}", count(n as u64, "layer")) } else { String::new() }
}

/// Parameters by block, in the order of the model: the path of a weight with its layer's number as `*`, up to the part
/// after the layer (or without the weight's own name), the number of parameters, and in how many layers.
fn parameters(module: &Module) -> Vec<(String, u64, usize)> {
    let mut blocks: Vec<(String, u64, Vec<String>)> = vec![];
    for func in &module.funcs {
        for p in func.params.iter().filter(|p| matches!(p.role, Role::Weight { .. })) {
            let (block, layer) = block_of(&p.name);
            let elements = func.ty(p.value).elements() as u64;
            match blocks.iter_mut().find(|b| b.0 == block) {
                Some(b) => {
                    b.1 += elements;
                    if !b.2.contains(&layer) {
                        b.2.push(layer);
                    }
                }
                None => blocks.push((block, elements, vec![layer])),
            }
        }
    }
    blocks.into_iter().map(|(block, n, layers)| (block, n, layers.len())).collect()
}

/// The block of a weight and its layer: `model.layers.3.mlp.up_proj.weight` is in `model.layers.*.mlp`, layer 3.
fn block_of(name: &str) -> (String, String) {
    let parts: Vec<&str> = name.split('.').collect();
    let number = parts.iter().position(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    match number {
        Some(i) => {
            let after = parts.get(i + 1).copied().unwrap_or_default();
            (format!("{}.*.{after}", parts[..i].join(".")), parts[i].to_owned())
        }
        None => (parts[..parts.len().saturating_sub(1).max(1)].join("."), String::new()),
    }
}

fn run_of(config: &Config, module: &Module) -> String {
    let run = &module.run;
    let sequences = config.global_batch_size() as u64;
    let tokens = sequences.saturating_mul(run.seq_length as u64);
    let total = tokens.saturating_mul(run.steps);
    let per_token = run.flops_per_sequence / run.seq_length.max(1) as f64;
    let parameters: u64 = parameters(module).iter().map(|b| b.1).sum();
    let rows = [
        ("tokens a step", format!("{} ({} of {})", grouped(tokens), count(sequences, "sequence"), run.seq_length)),
        ("steps", grouped(run.steps)),
        ("tokens", format!("{} ({:.2} per parameter)", grouped(total), total as f64 / parameters.max(1) as f64)),
        ("FLOPs a token", format!("{} forward and backward", scaled(per_token))),
        ("FLOPs", format!("{} for the whole run", scaled(per_token * total as f64))),
        ("learning rate", format!("{} at most", run.lr.learning_rate)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_owned(), v]).collect();
    format!("\nRun\n{}", table(&rows, &[1]))
}

fn memory(planned: &Planned) -> String {
    let plan = &planned.compiled.plan;
    let mut out = String::new();
    if let Some(pipeline) = PipelineSummary::of(plan) {
        out.push_str(&pipeline.text());
    }
    for stage in plan.stages.iter().filter(|s| s.pipeline.is_none()) {
        let host = if stage.host_bytes == 0 {
            String::new()
        } else {
            format!(", and {} on the host", bytes(stage.host_bytes as u64))
        };
        let _ = writeln!(
            out,
            "\nMemory of a rank ({} {}, {}): {}{host}",
            plan.target.device,
            plan.target.cpu,
            count(plan.target.threads as u64, "thread"),
            bytes(stage.arena_bytes as u64)
        );
        let rows: Vec<Vec<String>> =
            by_role(stage).into_iter().map(|(role, n)| vec![role.to_owned(), bytes(n)]).collect();
        out.push_str(&table(&rows, &[]));
    }
    if let Some(done) = &plan.run.recompute.done {
        let _ = writeln!(out, "  {}", recomputed(done));
    }
    if let Some(done) = &plan.run.offload.done {
        let _ = writeln!(out, "  {}", offloaded(done));
    }
    out
}

/// Bytes of the device by role; what lives within a program is the rest of the arena. The host's are behind.
fn by_role(stage: &Stage) -> Vec<(&'static str, u64)> {
    let sum = |f: fn(&BufferRole) -> bool| -> u64 {
        stage
            .buffers
            .iter()
            .filter(|b| b.memory.is_device() && f(&b.role))
            .map(|b| b.bytes.next_multiple_of(64) as u64)
            .sum()
    };
    let mut rows = vec![
        ("weights", sum(|r| matches!(r, BufferRole::Weight { .. }))),
        ("optimizer moments", sum(|r| matches!(r, BufferRole::Moment))),
        ("gradients", sum(|r| matches!(r, BufferRole::Grad))),
        ("inputs and tables", sum(|r| matches!(r, BufferRole::Input | BufferRole::Persistent))),
    ];
    let kept: u64 = rows.iter().map(|r| r.1).sum();
    rows.push(("activations and scratch", (stage.arena_bytes as u64).saturating_sub(kept)));
    if stage.host_bytes > 0 {
        let on_host = stage.buffers.iter().filter(|b| !b.memory.is_device() && b.role == BufferRole::Moment);
        let moments: u64 = on_host.map(|b| b.bytes.next_multiple_of(64) as u64).sum();
        rows.push(("moments on the host", moments));
        rows.push(("activations on the host", (stage.host_bytes as u64).saturating_sub(moments)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_grouped_by_block() {
        let of = |name| block_of(name).0;
        assert_eq!(of("model.layers.3.mlp.up_proj.weight"), "model.layers.*.mlp");
        assert_eq!(of("model.layers.3.input_layernorm.weight"), "model.layers.*.input_layernorm");
        assert_eq!(of("model.embed_tokens.weight"), "model.embed_tokens");
        assert_eq!(of("lm_head.weight"), "lm_head");
        assert_eq!(of("x"), "x");
        assert_eq!(block_of("transformer.h.11.attn.c_attn.bias"), ("transformer.h.*.attn".into(), "11".into()));
    }
}
