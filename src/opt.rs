//! `athanor opt`: passes on an MLIR dump.

use crate::codes::FILE;
use crate::failure::Failure;
use crate::output::emit;
use athanor_ir::Diagnostic;
use athanor_passes::observe::{Observe, Select};
use athanor_passes::opt::opt;
use clap::Parser;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Run passes on an MLIR dump and print the result. Any dump of `compile --dump-ir` can be continued from.
#[derive(Parser)]
#[command(after_help = "Without --passes the module is verified and printed. `athanor explain passes` lists them.\n\n\
Examples:\n  athanor opt plan/ir/00_input.mlir --passes simplify,autodiff,optimizer -o train.mlir\n  \
athanor opt --passes 'fuse{loss-blocks=4}' --print-after --timing train.mlir -o kernels.mlir\n  \
athanor opt --passes simplify,dce - < module.mlir")]
pub struct Args {
    /// MLIR text; `-` is standard input
    file: PathBuf,
    /// Passes with options: `simplify,fuse{loss-blocks=4}`
    #[arg(long, short, default_value = "", value_name = "PASSES", hide_default_value = true)]
    passes: String,
    /// Where to write the result [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    looking: Looking,
}

/// What to show of a pipeline while it runs; `compile` has the same options.
#[derive(Parser)]
pub struct Looking {
    /// Stop after this pass
    #[arg(long, value_name = "PASS")]
    pub until: Option<String>,
    /// Print the module to standard error before these passes, or before all
    #[arg(long, value_name = "PASS", num_args = 0..=1, require_equals = true, value_delimiter = ',', default_missing_value = "")]
    pub print_before: Option<Vec<String>>,
    /// Print the module to standard error after these passes, or after all
    #[arg(long, value_name = "PASS", num_args = 0..=1, require_equals = true, value_delimiter = ',', default_missing_value = "")]
    pub print_after: Option<Vec<String>>,
    /// Write the module before the first and after every pass to this directory
    #[arg(long, value_name = "DIR")]
    pub dump_ir: Option<PathBuf>,
    /// Print the time of every pass to standard error
    #[arg(long)]
    pub timing: bool,
}

impl Looking {
    /// The same for the pass manager.
    pub fn observe(&self) -> Observe {
        let select = |given: &Option<Vec<String>>| match given {
            None => Select::None,
            Some(names) if names.iter().all(String::is_empty) => Select::All,
            Some(names) => Select::Passes(names.clone()),
        };
        Observe {
            print_before: select(&self.print_before),
            print_after: select(&self.print_after),
            dump_dir: self.dump_ir.clone(),
            timing: self.timing,
            until: self.until.clone(),
        }
    }
}

/// The text at `path`; `-` is standard input.
pub fn read_text(path: &Path) -> athanor_ir::Result<String> {
    let read = || {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(path)
        }
    };
    read().or_else(|e| {
        Diagnostic::error(&FILE, format!("cannot read {}: {e}", path.display())).help("give a file of MLIR text").err()
    })
}

/// Writes `text` to `path`, whole or not at all.
pub fn write_text(path: &Path, text: &str) -> athanor_ir::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut builder = tempfile::Builder::new();
        // Temporary files are private by default; this one becomes an ordinary file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|e| e.error).map(|_| ())
    };
    write().or_else(|e: std::io::Error| {
        Diagnostic::error(&FILE, format!("cannot write {}: {e}", path.display()))
            .help("give a file in a directory that exists and can be written to")
            .err()
    })
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let text = read_text(&args.file)?;
    let (result, timings) = opt(&args.file.display().to_string(), &text, &args.passes, &args.looking.observe())?;
    if args.looking.timing {
        eprint!("{timings}");
    }
    match &args.output {
        Some(path) => write_text(path, &result)?,
        None => emit(&result),
    }
    Ok(())
}
