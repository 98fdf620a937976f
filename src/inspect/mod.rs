//! `athanor inspect`: what a plan, a dump, a checkpoint or a data set holds.

mod checkpoint;
#[cfg(feature = "compiler")]
mod ir;
mod plan;

use crate::codes::{FILE, UNKNOWN_KIND};
use crate::data::show_dataset;
use crate::failure::Failure;
use crate::output::say;
use athanor_ir::Diagnostic;
use clap::Parser;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Look into a plan, an MLIR dump, a checkpoint or a data set.
#[derive(Parser)]
#[command(after_help = "Examples:\n  athanor inspect plan\n  athanor inspect plan --top 50 --json\n  \
                        athanor inspect plan --dot --only micro > micro.dot && dot -Tsvg micro.dot > micro.svg\n  \
                        athanor inspect plan/ir/04_fuse.mlir\n  athanor inspect output/checkpoint/model.safetensors\n  \
                        athanor inspect data/wiki_text_document")]
pub struct Args {
    /// Plan directory, .mlir file, .safetensors file or model directory, or prefix of a data set
    path: PathBuf,
    /// Print JSON
    #[arg(long, conflicts_with = "dot")]
    json: bool,
    /// Print a graph in the language of Graphviz (plans and dumps)
    #[arg(long)]
    dot: bool,
    /// Only the program or function of this name
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Longest list to print
    #[arg(long, default_value_t = 12, value_name = "N")]
    top: usize,
}

/// What a path leads to.
enum Kind {
    Plan,
    Ir,
    Checkpoint,
    Data,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let path = &args.path;
    match kind(path)? {
        Kind::Plan => plan::show(path, args),
        Kind::Ir => dump(path, args),
        Kind::Checkpoint => no_dot(args).and_then(|()| checkpoint::show(path, args)),
        Kind::Data => no_dot(args).and_then(|()| show_dataset(path, 100_000_000, args.json)),
    }
}

fn kind(path: &Path) -> Result<Kind, Failure> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let with = |e: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(e);
        Path::new(&name).exists()
    };
    Ok(match extension {
        "mlir" => Kind::Ir,
        "safetensors" => Kind::Checkpoint,
        "idx" | "bin" => Kind::Data,
        _ if path.file_name().is_some_and(|n| n == "plan.json") || path.join("plan.json").exists() => Kind::Plan,
        _ if path.is_dir() && checkpoint::is_in(path) => Kind::Checkpoint,
        _ if with(".idx") || with(".bin") => Kind::Data,
        _ if path.as_os_str() == "-" => Kind::Ir,
        _ if !path.exists() => {
            let d = Diagnostic::error(&FILE, format!("{} does not exist", path.display()))
                .help("give a plan directory, a .mlir file, a .safetensors file, or the prefix of a data set");
            return Err(d.into());
        }
        _ => {
            let d = Diagnostic::error(&UNKNOWN_KIND, format!("{} is nothing that can be inspected", path.display()))
                .help("give a plan directory, a .mlir file, a .safetensors file, or the prefix of a data set");
            return Err(d.into());
        }
    })
}

#[cfg(feature = "compiler")]
fn dump(path: &Path, args: &Args) -> Result<(), Failure> {
    ir::show(path, args)
}

#[cfg(not(feature = "compiler"))]
fn dump(path: &Path, _: &Args) -> Result<(), Failure> {
    let message = format!("{} is a dump of the compiler, and this runner has no compiler in it", path.display());
    Err(Diagnostic::error(&UNKNOWN_KIND, message).help("use the full `athanor` command").into())
}

fn no_dot(args: &Args) -> Result<(), Failure> {
    if args.dot {
        let d = Diagnostic::error(&UNKNOWN_KIND, format!("there is no graph in {}", args.path.display()));
        return Err(d.help("--dot draws plans and MLIR dumps").into());
    }
    Ok(())
}

/// Prints `value` as JSON.
pub fn json<T: Serialize>(value: &T) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => say!("{text}"),
        // Only a map with keys that are no strings can fail, and there is none.
        Err(e) => eprintln!("athanor: {e}"),
    }
}

/// Quotes `text` for Graphviz.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
