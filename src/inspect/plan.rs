//! What a plan holds: memory by role, programs, kernels.

use super::{Args, json, quoted};
use crate::failure::Failure;
use crate::output::emit;
use crate::stages::PipelineSummary;
use crate::text::{bytes, count, grouped, scaled, table};
use athanor_ir::TensorType;
use athanor_ir::plan::{Action, Buffer, BufferRole, KernelKind, Plan, Program, Stage, Step, Stream};
use athanor_runtime::plan_dir;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// Everything that is printed.
#[derive(Serialize)]
struct Summary<'a> {
    model: &'a str,
    compiler: &'a str,
    format_version: u32,
    config_hash: &'a str,
    device: &'a str,
    cpu: &'static str,
    threads: usize,
    ranks: usize,
    #[serde(skip_serializing_if = "str::is_empty")]
    mesh: String,
    steps: u64,
    batch_size: usize,
    accumulation: usize,
    seq_length: usize,
    vocab_size: usize,
    parameters: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<PipelineSummary>,
    stages: Vec<StageSummary<'a>>,
    kernels: Vec<KernelRow<'a>>,
}

#[derive(Serialize)]
struct StageSummary<'a> {
    arena_bytes: usize,
    host_bytes: usize,
    memory: Vec<Memory>,
    largest: Vec<&'a Buffer>,
    programs: Vec<ProgramRow<'a>>,
}

/// Memory of one role. What lives within programs shares its place and has one row.
#[derive(Serialize)]
struct Memory {
    role: &'static str,
    buffers: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct ProgramRow<'a> {
    name: &'a str,
    steps: usize,
    kernels: usize,
    ops: usize,
    flops: u64,
    bytes: u64,
    /// Bytes of collective operations.
    sent: u64,
    /// Those of them that are on the way while others compute.
    beside: u64,
    results: Vec<&'a str>,
}

/// A kernel with its runs in every program.
#[derive(Serialize)]
struct KernelRow<'a> {
    name: &'a str,
    kind: String,
    flops: u64,
    bytes: u64,
    runs: Vec<(&'a str, usize)>,
}

pub fn show(path: &Path, args: &Args) -> Result<(), Failure> {
    let read = plan_dir::read(path)?;
    if args.dot {
        emit(&dot(&read.plan, args.only.as_deref()));
        return Ok(());
    }
    let summary = summarise(&read.plan, args);
    if args.json {
        json(&summary);
    } else {
        emit(&render(&summary, path, args.top));
    }
    Ok(())
}

/// Rows of the memory table: role in the plan, name for people.
const ROLES: [&str; 5] = ["weights", "moments", "gradients", "tables", "inputs"];

/// Place of a role in [`ROLES`]; `None` for what lives within a program.
fn place(role: &BufferRole) -> Option<usize> {
    match role {
        BufferRole::Weight { .. } => Some(0),
        BufferRole::Moment => Some(1),
        BufferRole::Grad => Some(2),
        BufferRole::Persistent => Some(3),
        BufferRole::Input => Some(4),
        BufferRole::Activation | BufferRole::Scratch | BufferRole::Stash { .. } | BufferRole::Cache { .. } => None,
    }
}

fn summarise<'a>(plan: &'a Plan, args: &Args) -> Summary<'a> {
    let wanted = |p: &&Program| args.only.as_ref().is_none_or(|o| *o == p.name);
    let stages: Vec<StageSummary<'_>> = plan
        .stages
        .iter()
        .map(|stage| StageSummary {
            arena_bytes: stage.arena_bytes,
            host_bytes: stage.host_bytes,
            memory: memory(stage),
            largest: largest(stage, args.top),
            programs: stage.programs.iter().filter(wanted).map(|p| program(plan, stage, p)).collect(),
        })
        .collect();
    let is_weight = |b: &&Buffer| matches!(b.role, BufferRole::Weight { .. });
    // The first and the last stage of a pipeline may have a weight both.
    let mut seen = std::collections::HashSet::new();
    let elements = |b: &Buffer| b.slice(&plan.mesh, 0).dims.iter().product::<usize>() as u64;
    Summary {
        model: &plan.model,
        compiler: &plan.compiler,
        format_version: plan.version,
        config_hash: &plan.config_hash,
        device: &plan.target.device,
        cpu: plan.target.cpu.name(),
        threads: plan.target.threads,
        ranks: plan.mesh.ranks(),
        mesh: plan.mesh.axes.iter().map(|a| format!("{} {}", a.name, a.size)).collect::<Vec<_>>().join(" × "),
        steps: plan.run.steps,
        batch_size: plan.run.batch_size.saturating_mul(plan.mesh.replicas()),
        accumulation: plan.run.accumulation,
        seq_length: plan.run.seq_length,
        vocab_size: plan.run.vocab_size,
        parameters: plan
            .stages
            .iter()
            .flat_map(|s| &s.buffers)
            .filter(is_weight)
            .filter(|b| seen.insert(&b.name))
            .map(elements)
            .sum(),
        pipeline: PipelineSummary::of(plan),
        kernels: kernels(plan, args),
        stages,
    }
}

fn memory(stage: &Stage) -> Vec<Memory> {
    let mut rows: Vec<Memory> = ROLES.iter().map(|role| Memory { role, buffers: 0, bytes: 0 }).collect();
    let (mut end, mut shared) = (0, 0);
    for b in stage.buffers.iter().filter(|b| b.memory.is_device()) {
        match place(&b.role) {
            Some(i) => {
                rows[i].buffers += 1;
                rows[i].bytes += b.bytes;
                end = end.max(b.offset.saturating_add(b.bytes));
            }
            None => shared += usize::from(b.live.is_some()),
        }
    }
    rows.retain(|r| r.buffers > 0);
    let bytes = stage.arena_bytes.saturating_sub(end.next_multiple_of(64));
    rows.push(Memory { role: "activations and scratch", buffers: shared, bytes });
    if stage.host_bytes > 0 {
        let buffers = stage.buffers.iter().filter(|b| !b.memory.is_device()).count();
        rows.push(Memory { role: "on the host", buffers, bytes: stage.host_bytes });
    }
    rows
}

fn largest(stage: &Stage, top: usize) -> Vec<&Buffer> {
    // A view has no memory of its own.
    let mut own: Vec<&Buffer> = stage.buffers.iter().filter(|b| b.live.is_some() || place(&b.role).is_some()).collect();
    own.sort_by_key(|b| std::cmp::Reverse(b.bytes));
    own.truncate(top);
    own
}

fn program<'a>(plan: &'a Plan, stage: &Stage, p: &'a Program) -> ProgramRow<'a> {
    let costs: Vec<(u64, u64)> = p.steps.iter().map(|s| cost(plan, stage, s)).collect();
    let kernels = p.steps.iter().filter(|s| matches!(s.action, Action::Kernel(_))).count();
    ProgramRow {
        name: &p.name,
        steps: p.steps.len(),
        kernels,
        ops: p.steps.len() - kernels,
        flops: costs.iter().map(|c| c.0).fold(0, u64::saturating_add),
        bytes: costs.iter().map(|c| c.1).fold(0, u64::saturating_add),
        sent: sent(stage, p, |_| true),
        beside: sent(stage, p, |s| s.stream == Stream::Communication),
        results: p.results.iter().map(|(name, _)| name.as_str()).collect(),
    }
}

/// Bytes of the collective operations that `wanted` accepts: of the operand or the result, whichever is larger.
fn sent(stage: &Stage, p: &Program, wanted: impl Fn(&Step) -> bool) -> u64 {
    let bytes = |s: &Step| {
        s.inputs.iter().chain(&s.outputs).filter_map(|b| stage.buffers.get(*b)).map(|b| b.bytes as u64).max()
    };
    p.steps.iter().filter(|s| s.sends().is_some() && wanted(s)).filter_map(bytes).fold(0, u64::saturating_add)
}

/// FLOPs and bytes of one step; a plan that was damaged may name what is not there.
fn cost(plan: &Plan, stage: &Stage, step: &Step) -> (u64, u64) {
    match &step.action {
        Action::Kernel(k) => plan.kernels.get(*k).map_or((0, 0), |k| (k.flops, k.bytes)),
        Action::Again { .. } => (0, 0),
        Action::Op(op) => {
            let ty = |b: &usize| stage.buffers.get(*b).map(|b| TensorType::new(b.dtype, b.dims.clone()));
            let all = |list: &[usize]| list.iter().map(ty).collect::<Option<Vec<_>>>();
            match (all(&step.inputs), all(&step.outputs)) {
                (Some(ins), Some(outs)) if op.signature(&ins, &outs).is_some() => {
                    (op.flops(&ins, &outs), op.bytes(&ins, &outs))
                }
                _ => (0, 0),
            }
        }
    }
}

/// Kernels, those with the most work in all programs first.
fn kernels<'a>(plan: &'a Plan, args: &Args) -> Vec<KernelRow<'a>> {
    let programs: Vec<&Program> = plan
        .stages
        .iter()
        .flat_map(|s| &s.programs)
        .filter(|p| args.only.as_ref().is_none_or(|o| *o == p.name))
        .collect();
    let mut rows: Vec<KernelRow<'_>> = plan
        .kernels
        .iter()
        .enumerate()
        .map(|(i, k)| {
            let runs_of = |p: &&Program| p.steps.iter().filter(|s| s.action == Action::Kernel(i)).count();
            let kind = match &k.kind {
                KernelKind::Generated { grid, .. } => format!("grid {grid}"),
                KernelKind::Gemm { spec, .. } => format!("gemm {}×{}×{}", spec.m, spec.n, spec.k),
            };
            let runs = programs.iter().map(|p| (p.name.as_str(), runs_of(p))).filter(|(_, n)| *n > 0).collect();
            KernelRow { name: &k.name, kind, flops: k.flops, bytes: k.bytes, runs }
        })
        .collect();
    let work = |r: &KernelRow<'_>| {
        let runs: usize = r.runs.iter().map(|(_, n)| n).sum();
        (r.flops.saturating_mul(runs as u64), r.bytes.saturating_mul(runs as u64))
    };
    rows.sort_by_key(|r| std::cmp::Reverse(work(r)));
    rows.truncate(args.top);
    rows
}

fn render(s: &Summary<'_>, path: &Path, top: usize) -> String {
    let mut out = String::new();
    let hash = s.config_hash.get(..12).unwrap_or(s.config_hash);
    let tokens = s.batch_size.saturating_mul(s.accumulation).saturating_mul(s.seq_length);
    let _ = writeln!(
        out,
        "{}: {} for {} {}, {}",
        path.display(),
        s.model,
        s.device,
        s.cpu,
        count(s.threads as u64, "thread")
    );
    let _ = writeln!(out, "  compiled    by {} from configuration {hash}", s.compiler);
    let _ = writeln!(out, "  parameters  {}", grouped(s.parameters));
    if s.ranks > 1 {
        let _ = writeln!(out, "  mesh        {} ranks: {}; what follows is of each", s.ranks, s.mesh);
    }
    let _ = writeln!(
        out,
        "  run         {} steps of {} × {} sequences of {} = {} tokens",
        grouped(s.steps),
        s.accumulation,
        s.batch_size,
        s.seq_length,
        grouped(tokens as u64)
    );
    if let Some(pipeline) = &s.pipeline {
        out.push_str(&pipeline.text());
    }
    for (i, stage) in s.stages.iter().enumerate() {
        let of = if s.pipeline.is_some() { format!(" of stage {i}") } else { String::new() };
        let _ = writeln!(out, "\nMemory{of}: {} in one arena", bytes(stage.arena_bytes as u64));
        let row = |m: &Memory| vec![m.role.to_owned(), bytes(m.bytes as u64), count(m.buffers as u64, "buffer")];
        out.push_str(&table(&stage.memory.iter().map(row).collect::<Vec<_>>(), &[]));
        let _ = writeln!(out, "\nLargest buffers");
        let row = |b: &&Buffer| {
            let live = b.live.map_or(String::new(), |(first, last)| format!("steps {first} to {last}"));
            vec![b.name.clone(), format!("{}{:?}", b.dtype, b.dims), bytes(b.bytes as u64), live]
        };
        out.push_str(&table(&stage.largest.iter().map(row).collect::<Vec<_>>(), &[1, 3]));
        let _ = writeln!(out, "\nPrograms");
        let alone = s.ranks == 1;
        let columns = ["", "steps", "kernels", "ops", "FLOPs", "bytes", "sent", "beside work"];
        let head = columns[..columns.len() - if alone { 2 } else { 0 }].iter().map(ToString::to_string).collect();
        let row = |p: &ProgramRow<'_>| {
            let mut cells = vec![p.name.to_owned()];
            cells.extend([p.steps, p.kernels, p.ops].map(|n| n.to_string()));
            cells.extend([scaled(p.flops as f64), scaled(p.bytes as f64)]);
            if !alone {
                let share = (p.sent > 0).then(|| format!("{:.0} %", 100.0 * p.beside as f64 / p.sent as f64));
                cells.extend([bytes(p.sent), share.unwrap_or_default()]);
            }
            cells
        };
        out.push_str(&table(&std::iter::once(head).chain(stage.programs.iter().map(row)).collect::<Vec<_>>(), &[]));
    }
    if !s.kernels.is_empty() {
        let _ = writeln!(out, "\nKernels with the most work (at most {top})");
        let head = ["", "", "FLOPs", "bytes", "runs"].map(String::from).to_vec();
        let row = |k: &KernelRow<'_>| {
            let runs: Vec<String> = k.runs.iter().map(|(p, n)| format!("{p} {n}")).collect();
            let runs = if runs.is_empty() { "as a fallback".to_owned() } else { runs.join(", ") };
            vec![k.name.to_owned(), k.kind.clone(), scaled(k.flops as f64), scaled(k.bytes as f64), runs]
        };
        out.push_str(&table(&std::iter::once(head).chain(s.kernels.iter().map(row)).collect::<Vec<_>>(), &[1, 4]));
    }
    out
}

/// Steps as nodes; an edge is memory that one step writes and a later one reads.
fn dot(plan: &Plan, only: Option<&str>) -> String {
    let mut out = String::from("digraph plan {\n  node [shape=box, fontname=\"Helvetica\"];\n");
    for (s, stage) in plan.stages.iter().enumerate() {
        for p in stage.programs.iter().filter(|p| only.is_none_or(|o| o == p.name)) {
            let _ = writeln!(out, "  subgraph \"cluster_{s}_{0}\" {{\n    label={1};", p.name, quoted(&p.name));
            // Places of both memories one behind the other.
            let range = |b: usize| {
                let of = |b: &Buffer| {
                    if b.memory.is_device() { b.offset } else { stage.arena_bytes.saturating_add(b.offset) }
                };
                stage.buffers.get(b).map(|b| of(b)..of(b).saturating_add(b.bytes))
            };
            let mut writes: Vec<(usize, std::ops::Range<usize>)> = vec![];
            for (i, step) in p.steps.iter().enumerate() {
                let name = match &step.action {
                    Action::Op(op) => op.name(),
                    Action::Again { .. } => "again",
                    Action::Kernel(k) => plan.kernels.get(*k).map_or("?", |k| k.name.as_str()),
                };
                let label = if step.loc.block.is_empty() { name.into() } else { format!("{name}\n{}", step.loc.block) };
                let _ = writeln!(out, "    \"{s}.{}.{i}\" [label={}];", p.name, quoted(&label).replace('\n', "\\n"));
                let mut from: Vec<usize> = vec![];
                for read in step.inputs.iter().filter_map(|b| range(*b)) {
                    let overlaps = |(_, w): &&(usize, std::ops::Range<usize>)| w.start < read.end && read.start < w.end;
                    from.extend(writes.iter().rev().find(overlaps).map(|w| w.0));
                }
                from.sort_unstable();
                from.dedup();
                for f in from {
                    let _ = writeln!(out, "    \"{s}.{0}.{f}\" -> \"{s}.{0}.{i}\";", p.name);
                }
                writes.extend(step.outputs.iter().filter_map(|b| range(*b)).map(|r| (i, r)));
            }
            out.push_str("  }\n");
        }
    }
    out.push_str("}\n");
    out
}
