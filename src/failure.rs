//! How the command reports and exits.

use athanor_ir::Diagnostic;
use athanor_ir::diag::Severity;
use miette::{GraphicalReportHandler, GraphicalTheme};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Why a command ended without doing its work. Usage errors are clap's own and exit with 2.
pub enum Failure {
    /// Diagnostics to print; exit code 1.
    Diagnostics(Vec<Diagnostic>),
    /// The user stopped the run; exit code 130.
    Interrupted,
    /// One of the processes of the run has told it; exit code 1.
    Told,
}

impl From<Box<Diagnostic>> for Failure {
    fn from(d: Box<Diagnostic>) -> Self {
        Self::Diagnostics(vec![*d])
    }
}

impl From<Diagnostic> for Failure {
    fn from(d: Diagnostic) -> Self {
        Self::Diagnostics(vec![d])
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(ds: Vec<Diagnostic>) -> Self {
        Self::Diagnostics(ds)
    }
}

impl Failure {
    /// Prints what is left to say; the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Diagnostics(ds) => {
                print(&ds);
                ExitCode::FAILURE
            }
            Self::Interrupted => ExitCode::from(130),
            Self::Told => ExitCode::FAILURE,
        }
    }
}

/// Renders `diagnostics` to standard error, in colour on a terminal; an error without advice is sent to its explanation.
pub fn print(diagnostics: &[Diagnostic]) {
    let err = std::io::stderr();
    let colour = err.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(110);
    for d in diagnostics {
        let mut text = String::new();
        let unadvised = d.severity == Severity::Error && d.help.is_none();
        let d =
            &if unadvised { d.clone().help(format!("`athanor explain {}` says more", d.code.id)) } else { d.clone() };
        if handler.render_report(&mut text, d).is_err() {
            text = d.to_string();
        }
        // In one piece: other processes of a run may print too.
        text.push('\n');
        eprint!("{text}");
    }
}
