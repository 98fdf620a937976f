//! `athanor explain`: what a code, a pass or an op is.

mod codes;
mod ops;

use crate::codes::UNKNOWN_NAME;
use crate::failure::Failure;
use crate::output::emit;
use crate::text::{table, wrapped};
use athanor_ir::{Code, Diagnostic};
#[cfg(feature = "compiler")]
use athanor_passes::{options::Kind, registry};
use clap::Parser;

/// Explain an error code, a pass or an op; without a name, list them all.
#[derive(Parser)]
#[command(after_help = "Examples:\n  athanor explain C0003\n  athanor explain fuse\n  athanor explain rms_norm\n  \
                        athanor explain passes\n  athanor explain")]
pub struct Args {
    /// C0003, fuse, nn.rms_norm; or one of the lists: codes, passes, ops
    name: Option<String>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let text = match args.name.as_deref() {
        None => [list_passes(), ops::list(), list_codes()].join("\n"),
        Some("codes") => list_codes(),
        Some("passes") => list_passes(),
        Some("ops") => ops::list(),
        Some(name) => one(name)?,
    };
    emit(&text);
    Ok(())
}

fn one(name: &str) -> Result<String, Failure> {
    let upper = name.to_ascii_uppercase();
    let known = codes::all();
    if let Some(code) = known.iter().find(|c| c.id == upper) {
        return Ok(code_text(code));
    }
    let lower = name.to_ascii_lowercase();
    let found: Vec<String> = pass(&lower).into_iter().chain(ops::text(&lower)).collect();
    if found.is_empty() { Err(unknown(name, &known).into()) } else { Ok(found.join("\n")) }
}

fn code_text(code: &Code) -> String {
    format!("{}: {}\n\n{}\n", code.id, code.title, wrapped(code.explain))
}

fn unknown(name: &str, codes: &[&Code]) -> Box<Diagnostic> {
    let ops = ops::docs();
    let mut names: Vec<&str> = codes.iter().map(|c| c.id).chain(pass_names()).collect();
    names.extend(ops.iter().map(|o| o.name.as_str()));
    let near = names
        .into_iter()
        .map(|n| (strsim::damerau_levenshtein(&name.to_ascii_lowercase(), &n.to_ascii_lowercase()), n))
        .min()
        .filter(|(distance, n)| *distance <= (n.len() / 3).max(1));
    let help = match near {
        Some((_, n)) => format!("did you mean `{n}`?"),
        None if cfg!(feature = "compiler") => "`athanor explain` lists everything there is".into(),
        None => {
            "this runner has no compiler in it and knows the codes of running only; `athanor explain` lists them".into()
        }
    };
    Box::new(Diagnostic::error(&UNKNOWN_NAME, format!("no code, pass or op is called {name:?}")).help(help))
}

fn list_codes() -> String {
    let rows: Vec<Vec<String>> = codes::all().iter().map(|c| vec![c.id.to_owned(), c.title.to_owned()]).collect();
    format!("Codes\n{}", table(&rows, &[1]))
}

#[cfg(feature = "compiler")]
fn list_passes() -> String {
    let rows: Vec<Vec<String>> =
        registry::PASSES.iter().map(|p| vec![p.name.to_owned(), p.summary.to_owned()]).collect();
    format!("Passes, in the order in which a compilation meets them\n{}", table(&rows, &[1]))
}

#[cfg(not(feature = "compiler"))]
fn list_passes() -> String {
    "Passes\n  none: this runner has no compiler in it\n".into()
}

#[cfg(feature = "compiler")]
fn pass_names() -> impl Iterator<Item = &'static str> {
    registry::PASSES.iter().map(|p| p.name)
}

#[cfg(not(feature = "compiler"))]
fn pass_names() -> impl Iterator<Item = &'static str> {
    std::iter::empty()
}

#[cfg(feature = "compiler")]
fn pass(name: &str) -> Option<String> {
    let entry = registry::PASSES.iter().find(|p| p.name == name)?;
    let mut out = format!("pass {}\n\n{}\n", entry.name, wrapped(entry.summary));
    if entry.options.is_empty() {
        out.push_str("\nIt has no options.\n");
        return Some(out);
    }
    let kind = |k: &Kind| match k {
        Kind::Bool => "true or false".to_owned(),
        Kind::Int => "whole number".to_owned(),
        Kind::Float => "number".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Choice(words) => words.join(", "),
    };
    let row = |o: &athanor_passes::options::Spec| {
        vec![o.name.to_owned(), kind(&o.kind), format!("default {}", o.default), o.doc.to_owned()]
    };
    let rows: Vec<Vec<String>> = entry.options.iter().map(row).collect();
    out.push_str(&format!("\nOptions\n{}", table(&rows, &[1, 2, 3])));
    let first = &entry.options[0];
    out.push_str(&format!("\nWritten {}{{{}={}}} in a pipeline.\n", entry.name, first.name, first.default));
    Some(out)
}

#[cfg(not(feature = "compiler"))]
fn pass(_: &str) -> Option<String> {
    None
}
