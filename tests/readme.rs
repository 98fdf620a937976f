//! Commands that the documents show exist: `make` targets, subcommands, options, and the files they name.
#![cfg(feature = "compiler")]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "examples/README.md",
    "docs/backends.md",
    "docs/config.md",
    "docs/plan.md",
];

/// Indented lines, and code between backquotes, that begin with `program`; comments cut off.
fn commands(text: &str, program: &str) -> Vec<String> {
    let mut found = vec![];
    for line in text.lines() {
        let indented = line.strip_prefix("    ").into_iter();
        let quoted = line.split('`').skip(1).step_by(2).filter(|_| !line.starts_with("    "));
        for code in indented.chain(quoted) {
            let code = code.split(" #").next().unwrap_or_default().trim();
            if code.split_whitespace().next() == Some(program) {
                found.push(code.to_owned());
            }
        }
    }
    found
}

/// What `athanor SUBCOMMAND… --help` says.
fn help(subcommands: &[&str]) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_athanor")).args(subcommands).arg("--help").output().expect("starts");
    assert!(run.status.success(), "athanor {} --help: {}", subcommands.join(" "), String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).into_owned()
}

#[test]
fn commands_in_the_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let makefile = read("Makefile");
    let mut helps: HashMap<String, String> = HashMap::new();
    let (mut makes, mut runs) = (0, 0);
    for document in DOCUMENTS {
        let text = read(document);
        for command in commands(&text, "make") {
            let Some(target) = command.split_whitespace().nth(1) else { continue };
            assert!(makefile.lines().any(|l| l.starts_with(&format!("{target}:"))), "{document}: `{command}`");
            makes += 1;
        }
        for command in commands(&text, "athanor") {
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let depth = if words.first() == Some(&"data") { 2 } else { 1 };
            let Some(subcommands) = words.get(..depth.min(words.len())) else { continue };
            if subcommands.is_empty() {
                continue;
            }
            let said = helps.entry(subcommands.join(" ")).or_insert_with(|| help(subcommands));
            for word in &words[depth..] {
                let option = word.split(['=', '[']).next().unwrap_or_default();
                let known = !option.starts_with("--") || said.contains(option);
                assert!(known, "{document}: `{command}`: {} has no {option}", subcommands.join(" "));
                let file = word.starts_with("examples/") && !word.contains('*');
                assert!(!file || root.join(word).exists(), "{document}: `{command}`: no {word}");
            }
            runs += 1;
        }
    }
    assert!(makes >= 10 && runs >= 15, "only {makes} and {runs} commands found");
}
