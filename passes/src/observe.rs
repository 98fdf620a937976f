//! Looking into a compilation: printing, dumps, timing, stopping early.

use crate::pass::Pass;
use crate::pipeline::nearest;
use crate::registry::UNKNOWN_PASS;
use athanor_ir::{Code, Diagnostic, Result};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A dump cannot be written.
pub const CANNOT_DUMP: Code = Code {
    id: "P0007",
    title: "a dump of the IR cannot be written",
    explain: "`--dump-ir DIR` writes the module before the first pass and after each pass into DIR, which is made if \
              need be. The message has the system's reason.",
};

/// Some of the passes of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Select {
    /// None.
    #[default]
    None,
    /// Every pass.
    All,
    /// The passes of these names.
    Passes(Vec<String>),
}

impl Select {
    /// Whether `pass` is among them.
    pub fn has(&self, pass: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Passes(names) => names.iter().any(|n| n == pass),
        }
    }
}

/// What to show of a pipeline while it runs.
#[derive(Debug, Clone, Default)]
pub struct Observe {
    /// Print the module to standard error before these passes.
    pub print_before: Select,
    /// Print the module to standard error after these passes.
    pub print_after: Select,
    /// Write `00_input.mlir` and `NN_pass.mlir` after each pass into this folder.
    pub dump_dir: Option<PathBuf>,
    /// Print a table of times to standard error at the end; the caller does it.
    pub timing: bool,
    /// Stop after the last pass of this name.
    pub until: Option<String>,
}

impl Observe {
    /// The passes to run, or an error if a name given here is no pass of the pipeline.
    pub(crate) fn check<'p>(&self, passes: &'p [Box<dyn Pass>]) -> Result<&'p [Box<dyn Pass>]> {
        let known = |name: &String| {
            if passes.iter().any(|p| p.name() == name) {
                return Ok(());
            }
            let names = passes.iter().map(|p| p.name());
            let help = match nearest(name, names.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the pipeline is {}", names.collect::<Vec<_>>().join(",")),
            };
            Diagnostic::error(&UNKNOWN_PASS, format!("the pipeline has no pass {name:?}")).help(help).err()
        };
        for select in [&self.print_before, &self.print_after] {
            if let Select::Passes(names) = select {
                names.iter().try_for_each(known)?;
            }
        }
        let Some(until) = &self.until else { return Ok(passes) };
        known(until)?;
        let end = passes.iter().rposition(|p| p.name() == until).map_or(passes.len(), |i| i + 1);
        Ok(&passes[..end])
    }

    /// Prints a module to standard error under the heading that MLIR uses.
    #[allow(clippy::unused_self, reason = "where prints go is a matter of what is observed")]
    pub(crate) fn print(&self, when: &str, pass: &str, text: &str) {
        // A reader that went away is no reason to stop the compilation.
        let _ = writeln!(std::io::stderr(), "// -----// IR Dump {when} {pass} //----- //\n{text}");
    }
}

/// Writes a dump whole or not at all.
pub(crate) fn write_dump(dir: &Path, number: usize, name: &str, text: &str) -> Result<()> {
    let path = dir.join(format!("{number:02}_{name}.mlir"));
    let part = dir.join(format!(".{number:02}_{name}.mlir.{}", std::process::id()));
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&part, text))
        .and_then(|()| std::fs::rename(&part, &path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&part);
        let d = Diagnostic::error(&CANNOT_DUMP, format!("cannot write {}: {e}", path.display()));
        Box::new(d.help("give --dump-ir a folder that can be written to"))
    })
}

/// Times of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassTime {
    /// Name of the pass.
    pub pass: String,
    /// From MLIR to the decoded form.
    pub decode: Duration,
    /// The pass itself.
    pub run: Duration,
    /// Our verifier.
    pub verify: Duration,
    /// From the decoded form to MLIR.
    pub emit: Duration,
}

/// Times of a pipeline. MLIR's own report only goes to standard error and cannot tell decoding from the pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timings {
    /// Pass by pass, in the order they ran.
    pub passes: Vec<PassTime>,
    /// Everything, with MLIR's verifier, printing and dumps.
    pub total: Duration,
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        writeln!(f, "{:<16} {:>9} {:>9} {:>9} {:>9}", "pass (ms)", "run", "decode", "verify", "emit")?;
        for p in &self.passes {
            let times = [p.run, p.decode, p.verify, p.emit].map(|d| format!("{:9.2}", ms(d))).join(" ");
            writeln!(f, "{:<16} {times}", p.pass)?;
        }
        let parts: Duration = self.passes.iter().map(|p| p.decode + p.run + p.verify + p.emit).sum();
        writeln!(f, "{:<16} {:9.2}", "rest", ms(self.total.saturating_sub(parts)))?;
        writeln!(f, "{:<16} {:9.2}", "total", ms(self.total))
    }
}
