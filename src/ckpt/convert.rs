//! `athanor ckpt convert`: a checkpoint in another naming, layout or type.

use super::model::Model;
use super::{bar, size, summary};
use crate::codes::NO_NAMES;
use crate::failure::Failure;
use crate::output::say;
use crate::text::count;
use athanor_ir::{DType, Diagnostic};
use athanor_runtime::checkpoint::convert::{Checkpoint, Opening, convert};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Write a checkpoint in another naming, layout or type
#[derive(Parser)]
#[command(after_help = "\
Every tensor must be known, and a layer must have what others of its kind have; with a YAML file or a plan as --config \
the weights must be exactly the model's. 8-bit weights with scales become bf16 unless --dtype says otherwise.\n\n\
Examples:\n  athanor ckpt convert Qwen3-30B-A3B qwen3_mf --to mindformers\n  \
athanor ckpt convert output/mf/model.safetensors out --to hugging-face --config Qwen3-30B-A3B\n  \
athanor ckpt convert DeepSeek-V3 DeepSeek-V3-bf16 --to hugging-face --dtype bf16 --max-shard-size 10GB")]
pub struct Args {
    /// Safetensors file or directory to read
    from: PathBuf,
    /// Directory to write
    out: PathBuf,
    /// Whose names and layouts to write
    #[arg(long, value_enum)]
    to: Naming,
    /// Type of the weights written [default: that of the file]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Largest file to write
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    max_shard_size: u64,
    #[command(flatten)]
    model: Model,
}

#[derive(Clone, Copy, ValueEnum)]
enum Naming {
    HuggingFace,
    Mindformers,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

/// `5GB`, `500MB`: decimal units, as Hugging Face counts; `GiB` and the like are binary.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        "TIB" => 1 << 40,
        _ => return Err(format!("`{unit}` is no unit; write 5GB or 500MB")),
    };
    let number: u64 = number.parse().map_err(|_| "write a whole number and a unit: 5GB".to_owned())?;
    number.checked_mul(factor).filter(|n| *n > 0).ok_or_else(|| "too large, or zero".to_owned())
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let known = args.model.known(&args.from)?;
    let dtype = args.dtype.map(|d| match d {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    });
    let name = match args.to {
        Naming::HuggingFace => "hugging_face",
        Naming::Mindformers => "mindformers",
    };
    let Some(table) = known.tables.iter().find(|t| t.name == name) else {
        let d = Diagnostic::error(&NO_NAMES, format!("the plan does not say how {name} names the weights"));
        return Err(d.help("compile the configuration again with this version, or name its config.json").into());
    };
    let opening = Opening { tables: &known.tables, expected: known.weights.as_deref(), dtype };
    let from = Checkpoint::open(&args.from, &opening)?;
    let bar = bar("Writing", size(&from.weights));
    let files = convert(&from, table, &args.out, args.max_shard_size, &|n| bar.inc(n))?;
    bar.finish_and_clear();
    let naming = if from.table.name.is_empty() { "plain" } else { &from.table.name };
    say!("{}: {naming}, {}", args.from.display(), summary(&from.weights));
    say!("{}: {name}, {}", args.out.display(), count(files.len() as u64, "file"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("2 MiB"), Ok(2 << 20));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "GB", "5XB", "0GB", "99999999999TB", "-1GB", "1.5GB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
