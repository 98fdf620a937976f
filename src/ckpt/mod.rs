//! `athanor ckpt`: weights from one naming to another, and whether they are whole.

mod convert;
mod model;
mod verify;

use crate::failure::Failure;
use crate::text::bytes;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Verbs of `athanor ckpt`.
#[derive(Subcommand)]
pub enum Command {
    /// Write a checkpoint in another naming, layout or type
    Convert(convert::Args),
    /// Check that a checkpoint is whole, or that two hold the same weights
    Verify(verify::Args),
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Convert(args) => convert::run(args),
        Command::Verify(args) => verify::run(args),
    }
}

/// A bar over `total` bytes, if standard error is a terminal.
fn bar(verb: &'static str, total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_prefix(verb)
}

/// Bytes of the weights of a checkpoint in the types that they are written in.
fn size(weights: &[athanor_runtime::checkpoint::mapping::Weight]) -> u64 {
    weights.iter().map(|w| (w.dims.iter().product::<usize>() * w.dtype.bytes()) as u64).sum()
}

/// `12 weights, 1,234 parameters, 4.8 KiB`.
fn summary(weights: &[athanor_runtime::checkpoint::mapping::Weight]) -> String {
    use crate::text::{count, grouped};
    let elements: u64 = weights.iter().map(|w| w.dims.iter().product::<usize>() as u64).sum();
    let n = count(weights.len() as u64, "weight");
    format!("{n}, {} parameters, {}", grouped(elements), bytes(size(weights)))
}
