//! Every file of tests/errors/config is read, and what a user would see is compared with the text beside it.
//!
//! `UPDATE_EXPECT=1 cargo test -p athanor-frontend` writes the texts; read the difference before committing it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use athanor_frontend::config;
use athanor_ir::Diagnostic;
use athanor_ir::diag::Severity;
use miette::{GraphicalReportHandler, GraphicalTheme};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/errors/config")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files
}

fn rendered(diagnostics: &[Diagnostic]) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::none()).with_width(110).with_links(false);
    let mut out = String::new();
    for diagnostic in diagnostics {
        handler.render_report(&mut out, diagnostic).unwrap();
        let _ = writeln!(out);
    }
    out
}

/// Reads a file by its bare name, so that the texts do not name a folder of the machine.
fn load(path: &Path) -> config::Loaded {
    let text = std::fs::read_to_string(path).unwrap();
    config::parse(path.file_name().unwrap().to_str().unwrap(), &text, &[])
}

#[test]
fn texts_are_as_expected() {
    assert!(files().len() > 30);
    // `base_config` of a parsed text starts at the working directory.
    std::env::set_current_dir(folder()).unwrap();
    for path in files() {
        let loaded = load(&path);
        assert!(!loaded.diagnostics.is_empty(), "{} is fine and should not be", path.display());
        let errors = loaded.diagnostics.iter().any(|d| d.severity == Severity::Error);
        assert_eq!(loaded.config.is_none(), errors, "{}: a configuration exactly if there is no error", path.display());
        expect_test::expect_file![path.with_extension("txt")].assert_eq(&rendered(&loaded.diagnostics));
        for diagnostic in &loaded.diagnostics {
            let advised = diagnostic.severity < Severity::Error || diagnostic.help.is_some();
            assert!(advised, "{}: no help line: {diagnostic}", path.display());
            for label in &diagnostic.labels {
                let text = &diagnostic.source.as_ref().unwrap().text;
                assert!(text.get(label.range.clone()).is_some(), "{}: label outside of the text", path.display());
            }
        }
    }
}

#[test]
fn every_code_has_a_file() {
    std::env::set_current_dir(folder()).unwrap();
    let seen: BTreeSet<&str> = files().iter().flat_map(|p| load(p).diagnostics).map(|d| d.code.id).collect();
    // Overrides come from the command line, not from a file; their test is beside the code.
    let all: BTreeSet<&str> = config::CODES.iter().map(|c| c.id).filter(|id| *id != "C0015").collect();
    assert_eq!(seen, all);
}
