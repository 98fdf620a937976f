//! `athanor ckpt verify`: whether a checkpoint is whole and finite, or two hold the same weights.

use super::model::Model;
use super::{bar, size, summary};
use crate::failure::Failure;
use crate::output::say;
use crate::text::count;
use athanor_runtime::checkpoint::convert::{Checkpoint, Opening};
use athanor_runtime::codes::{NOT_FINITE_WEIGHTS, UNEQUAL};
use clap::Parser;
use std::path::PathBuf;

/// Check that a checkpoint is whole, or that two hold the same weights
#[derive(Parser)]
#[command(after_help = "\
Whole means: headers, index and sizes agree, every tensor is known, none is missing, what is there twice is the same, and \
every value is finite. Two checkpoints are compared value by value, whatever their namings, layouts, files and types.\n\n\
Examples:\n  athanor ckpt verify Qwen3-30B-A3B\n  athanor ckpt verify Qwen3-30B-A3B qwen3_mf\n  \
athanor ckpt verify output/checkpoint --config pretrain.yaml")]
pub struct Args {
    /// Safetensors file or directory
    path: PathBuf,
    /// Another one that should hold the same weights
    other: Option<PathBuf>,
    #[command(flatten)]
    model: Model,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let known = args.model.known(&args.path)?;
    let opening = Opening { tables: &known.tables, expected: known.weights.as_deref(), dtype: None };
    let first = Checkpoint::open(&args.path, &opening)?;
    let files = count(first.tensors().files().len() as u64, "file");
    let naming = if first.table.name.is_empty() { "plain" } else { &first.table.name };
    say!("{}: {naming}, {files}, {}", args.path.display(), summary(&first.weights));
    let bar = bar("Reading", size(&first.weights));
    if let Some(path) = &args.other {
        let other = Checkpoint::open(path, &opening)?;
        let differences = first.compare(&other, &|n| bar.inc(n))?;
        bar.finish_and_clear();
        let what = format!("{} and {} do not hold the same weights", args.path.display(), path.display());
        differences.end(&UNEQUAL, &what, "values are compared exactly; a change of type rounds them")?;
        say!("{}: the same weights", path.display());
    } else {
        let bad = first.not_finite(&|n| bar.inc(n))?;
        bar.finish_and_clear();
        let what = format!("{} has values that are not finite", args.path.display());
        bad.end(&NOT_FINITE_WEIGHTS, &what, "take an earlier checkpoint")?;
        say!("whole, and every value finite");
    }
    Ok(())
}
