//! What an MLIR dump holds: functions, parameters, ops.

use super::{Args, json, quoted};
use crate::failure::Failure;
use crate::opt::read_text;
use crate::output::emit;
use crate::text::{bytes, count, grouped, scaled, table};
use athanor_ir::func::{Func, Role};
use athanor_ir::mlir::Context;
use athanor_ir::{Module, TensorType};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

#[derive(Serialize)]
struct Summary<'a> {
    name: &'a str,
    level: &'static str,
    ranks: usize,
    functions: Vec<Function<'a>>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    ops: usize,
    flops: u64,
    bytes: u64,
    parameters: Vec<Parameters>,
    results: Vec<(&'a str, String)>,
    /// Ops by name, the most frequent first.
    by_name: Vec<(&'static str, usize)>,
}

/// Function parameters of one role.
#[derive(Serialize)]
struct Parameters {
    role: &'static str,
    count: usize,
    elements: u64,
    bytes: u64,
}

pub fn show(path: &Path, args: &Args) -> Result<(), Failure> {
    let text = read_text(path)?;
    let context = Context::new();
    let module = context.parse(&path.display().to_string(), &text)?.verify()?;
    if args.dot {
        emit(&dot(&module, args.only.as_deref()));
        return Ok(());
    }
    let wanted = |f: &&Func| args.only.as_ref().is_none_or(|o| *o == f.name);
    let summary = Summary {
        name: &module.name,
        level: module.level.name(),
        ranks: module.mesh.ranks(),
        functions: module.funcs.iter().filter(wanted).map(function).collect(),
    };
    if args.json {
        json(&summary);
    } else {
        emit(&render(&summary, path, args.top));
    }
    Ok(())
}

fn function(f: &Func) -> Function<'_> {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut flops, mut moved) = (0_u64, 0_u64);
    for node in &f.nodes {
        *counts.entry(node.op.name()).or_default() += 1;
        let types =
            |values: &[athanor_ir::ValueId]| -> Vec<TensorType> { values.iter().map(|v| f.ty(*v).clone()).collect() };
        let (ins, outs) = (types(&node.inputs), types(&node.outputs));
        if node.op.signature(&ins, &outs).is_some() {
            flops = flops.saturating_add(node.op.flops(&ins, &outs));
            moved = moved.saturating_add(node.op.bytes(&ins, &outs));
        }
    }
    let mut by_name: Vec<(&str, usize)> = counts.into_iter().collect();
    by_name.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    let role_of = |r: &Role| match r {
        Role::Input => "inputs",
        Role::Weight { .. } => "weights",
        Role::Moment => "moments",
        Role::Grad => "gradients",
        Role::Handed => "handed on",
        Role::Cache => "caches",
        Role::ExpertBias { .. } => "expert biases",
    };
    let roles = ["inputs", "handed on", "caches", "weights", "expert biases", "moments", "gradients"];
    let parameters = roles.into_iter().filter_map(|role| {
        let of: Vec<&TensorType> =
            f.params.iter().filter(|p| role_of(&p.role) == role).map(|p| f.ty(p.value)).collect();
        let sum = |g: fn(&TensorType) -> usize| of.iter().map(|t| g(t) as u64).sum();
        let row =
            Parameters { role, count: of.len(), elements: sum(TensorType::elements), bytes: sum(TensorType::bytes) };
        (row.count > 0).then_some(row)
    });
    Function {
        name: &f.name,
        ops: f.nodes.len(),
        flops,
        bytes: moved,
        parameters: parameters.collect(),
        results: f.results.iter().map(|r| (r.name.as_str(), f.ty(r.value).to_string())).collect(),
        by_name,
    }
}

fn render(s: &Summary<'_>, path: &Path, top: usize) -> String {
    let mut out = String::new();
    let name = if s.name.is_empty() { "a module" } else { s.name };
    let _ =
        writeln!(out, "{}: {name}, level {}, {}", path.display(), s.level, count(s.functions.len() as u64, "function"));
    for f in &s.functions {
        let cost = if f.flops > 0 {
            format!(", {} FLOPs, {} moved", scaled(f.flops as f64), bytes(f.bytes))
        } else {
            String::new()
        };
        let _ = writeln!(out, "\n@{}: {}{cost}", f.name, count(f.ops as u64, "op"));
        let row = |p: &Parameters| {
            vec![p.role.to_owned(), p.count.to_string(), format!("{} elements", grouped(p.elements)), bytes(p.bytes)]
        };
        out.push_str(&table(&f.parameters.iter().map(row).collect::<Vec<_>>(), &[]));
        // A training module returns every weight; a few show what they look like.
        let shown = top / 4;
        let results: Vec<String> = f.results.iter().take(shown).map(|(n, t)| format!("{n} {t}")).collect();
        let more = f.results.len().saturating_sub(shown);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let _ = writeln!(out, "  results: {}{more}", results.join(", "));
        let ops: Vec<String> = f.by_name.iter().map(|(n, count)| format!("{n} {count}")).collect();
        let _ = writeln!(out, "  ops: {}", ops.join(", "));
    }
    out
}

/// Ops as nodes and values as edges.
fn dot(module: &Module, only: Option<&str>) -> String {
    let mut out = String::from("digraph module {\n  node [shape=box, fontname=\"Helvetica\"];\n");
    for (n, f) in module.funcs.iter().enumerate().filter(|(_, f)| only.is_none_or(|o| o == f.name)) {
        let _ = writeln!(out, "  subgraph cluster_{n} {{\n    label={};", quoted(&f.name));
        let mut from: BTreeMap<u32, String> = BTreeMap::new();
        for (i, p) in f.params.iter().enumerate() {
            let _ = writeln!(out, "    \"{n}.p{i}\" [shape=ellipse, label={}];", quoted(&p.name));
            from.insert(p.value.0, format!("{n}.p{i}"));
        }
        for (i, node) in f.nodes.iter().enumerate() {
            let what = match &node.op {
                athanor_ir::Op::Call { callee } => format!("@{callee}"),
                athanor_ir::Op::Repeat { callee } => format!("@{callee} in rounds"),
                athanor_ir::Op::Einsum { spec } => spec.clone(),
                op => op.name().to_owned(),
            };
            let _ = writeln!(out, "    \"{n}.{i}\" [label={}];", quoted(&what));
            for v in &node.inputs {
                if let Some(f) = from.get(&v.0) {
                    let _ = writeln!(out, "    \"{f}\" -> \"{n}.{i}\";");
                }
            }
            for v in &node.outputs {
                from.insert(v.0, format!("{n}.{i}"));
            }
        }
        for (i, r) in f.results.iter().enumerate() {
            let _ = writeln!(out, "    \"{n}.r{i}\" [shape=ellipse, label={}];", quoted(&r.name));
            if let Some(f) = from.get(&r.value.0) {
                let _ = writeln!(out, "    \"{f}\" -> \"{n}.r{i}\";");
            }
        }
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}
