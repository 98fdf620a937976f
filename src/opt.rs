//! `athanor opt`: passes on an MLIR dump.

use crate::failure::Failure;
use athanor_ir::{Code, Diagnostic};
use athanor_passes::opt::opt;
use athanor_passes::{Observe, Select};
use clap::Parser;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A dump cannot be read, or the result cannot be written.
pub const DUMP_IO: Code = Code {
    id: "M0010",
    title: "a dump cannot be read or written",
    explain: "`athanor opt` reads UTF-8 text from a file, or from standard input for `-`, and writes to standard output \
              or to the file after `-o`. The message has the system's reason.",
};

/// Run passes on an MLIR dump and print the result.
#[derive(Parser)]
#[command(after_help = "Examples:\n  athanor opt --passes '' ir/00_input.mlir            verify and print\n  \
                        athanor opt --passes simplify,dce ir/00_input.mlir\n  \
                        athanor opt --passes autodiff --print-after ir/01_simplify.mlir\n  \
                        athanor explain passes                              list the passes")]
pub struct Args {
    /// MLIR file, `-` for standard input
    file: PathBuf,
    /// Passes to run, such as `simplify,fuse{option=value}`
    #[arg(long, value_name = "PIPELINE")]
    passes: String,
    /// Write the result here [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Stop after this pass
    #[arg(long, value_name = "PASS")]
    until: Option<String>,
    /// Print the module to standard error before each pass, or before these
    #[arg(long, value_name = "PASSES", num_args = 0.., require_equals = true, value_delimiter = ',')]
    print_before: Option<Vec<String>>,
    /// Print the module to standard error after each pass, or after these
    #[arg(long, value_name = "PASSES", num_args = 0.., require_equals = true, value_delimiter = ',')]
    print_after: Option<Vec<String>>,
    /// Write the module after every pass to this directory
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Print the time of every pass to standard error
    #[arg(long)]
    timing: bool,
}

fn select(given: Option<&Vec<String>>) -> Select {
    match given {
        None => Select::None,
        Some(names) if names.is_empty() => Select::All,
        Some(names) => Select::Passes(names.clone()),
    }
}

fn io_error(verb: &str, path: &Path, why: &std::io::Error) -> Failure {
    let text = format!("cannot {verb} {}: {why}", path.display());
    Failure::from(Box::new(Diagnostic::error(&DUMP_IO, text).help("dumps are written by `--dump-ir DIR`")))
}

/// The text of a dump; `-` is standard input.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    read(path).map_err(|e| io_error("read", path, &e))
}

fn read(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Writes beside `path` first, so that a failure leaves nothing half-written.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&part);
    })
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    let text = read_text(&args.file)?;
    let observe = Observe {
        print_before: select(args.print_before.as_ref()),
        print_after: select(args.print_after.as_ref()),
        dump_dir: args.dump_ir.clone(),
        timing: args.timing,
        until: args.until.clone(),
    };
    let name = if args.file == Path::new("-") { "<stdin>".into() } else { args.file.to_string_lossy() };
    let (result, timings) = opt(&name, &text, &args.passes, &observe)?;
    match &args.output {
        Some(path) => write(path, &result).map_err(|e| io_error("write", path, &e))?,
        None => match std::io::stdout().lock().write_all(result.as_bytes()) {
            // `athanor opt … | head` is no failure.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(io_error("write", Path::new("standard output"), &e));
            }
            _ => {}
        },
    }
    if args.timing {
        eprint!("{timings}");
    }
    Ok(())
}
