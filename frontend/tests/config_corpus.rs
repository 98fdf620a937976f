//! Published configurations, as they are and moved to one device: what a user is told and what is understood.
//!
//! `UPDATE_EXPECT=1 cargo test -p athanor-frontend` writes the texts; read the difference before committing it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use athanor_frontend::config::{self, Loaded};
use athanor_ir::Diagnostic;
use athanor_ir::diag::Severity;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/corpus")
}

/// Errors and warnings, and the help of the note on keys without effect.
fn summary(loaded: &Loaded) -> String {
    let mut out = String::new();
    for d in &loaded.diagnostics {
        let detail = if d.severity == Severity::Note { d.help.as_deref() } else { None };
        let _ = writeln!(out, "{:?} {} {} {}", d.severity, d.code.id, d.message, detail.unwrap_or_default());
    }
    out
}

/// Turns the data loaders that need files of another format into one that does not. Only the text changes.
fn on_token_file(text: &str) -> String {
    let keep = |line: &&str| !["dataset_dir:", "shuffle:"].iter().any(|k| line.trim_start().starts_with(k));
    let lines: Vec<&str> = text.lines().filter(keep).collect();
    lines.join("\n").replace("type: MindDataset", "type: TokenBinDataLoader\n    path: tokens.bin\n    dtype: int32")
        + "\n"
}

#[test]
fn published_files_are_understood_or_refused_with_reasons() {
    std::env::set_current_dir(folder()).unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir(".").unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(files.len() >= 12);
    let mut understood = 0;
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let published = config::parse(name, &text, &[]);
        // A published file may ask for what cannot be done yet, but every key in it is known and of the right type.
        // One contradicts itself: its 45 layers do not lie on 8 stages, and its `offset` is 0.
        let uneven =
            |d: &Diagnostic| name.starts_with("pretrain_telechat3_105b") && d.message.contains("do not lie on");
        for d in published.diagnostics.iter().filter(|d| d.severity == Severity::Error && !uneven(d)) {
            assert!(["C0002", "C0010", "C0011"].contains(&d.code.id), "{name}: {} {d}", d.code.id);
        }
        let moved = [("use_parallel", "False"), ("run_mode", "train"), ("pretrained_model_dir", "hub")];
        let hub = text.contains("pretrained_model_dir");
        let moved = moved.iter().filter(|(k, _)| hub || *k != "pretrained_model_dir");
        let overrides: Vec<_> = moved.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let moved = config::parse(name, &on_token_file(&text), &overrides);
        let rest = match &moved.config {
            Some(config) => {
                understood += 1;
                let effective = config::effective(config);
                let again = config::parse("effective.yaml", &effective, &[]);
                let again = again.config.unwrap_or_else(|| panic!("{name}: {:#?}", again.diagnostics));
                assert_eq!(config::effective(&again), effective, "{name}: reading the effective file changes it");
                effective
            }
            None => summary(&moved),
        };
        let shown = format!("# as published\n{}\n# on one device\n{rest}", summary(&published));
        expect_test::expect_file![folder().join(format!("{name}.txt"))].assert_eq(&shown);
    }
    assert!(understood >= 8, "{understood} of {}", files.len());
}
