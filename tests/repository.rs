//! What holds for the repository as a whole: who may import what, ids that have one meaning, documents that name what
//! exists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files below `dir` (relative to the root) whose name ends in one of `ends`, with their text.
fn files(dir: &str, ends: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![];
    collect(&root.join(dir), &mut found);
    let mut found: Vec<(String, String)> = found
        .into_iter()
        .filter(|p| ends.iter().any(|e| p.to_string_lossy().ends_with(e)))
        .map(|p| (name(root, &p), std::fs::read_to_string(&p).unwrap_or_else(|e| panic!("{}: {e}", p.display()))))
        .collect();
    found.sort();
    found
}

fn name(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("readable").path();
        let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if own.starts_with('.') || ["target", "output", "corpus", "__pycache__"].contains(&own.as_str()) {
            continue;
        }
        if path.is_dir() { collect(&path, out) } else { out.push(path) }
    }
}

/// The part of a source file before its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

#[test]
fn melior_is_imported_only_where_mlir_is_text_and_where_it_becomes_code() {
    let allowed = |file: &str| file.starts_with("ir/src/mlir/") || file.starts_with("passes/src/codegen/llvm");
    for (file, text) in files("", &[".rs"]) {
        let imports = |line: &str| !line.trim_start().starts_with("//") && line.contains("melior::");
        let own = file == "tests/repository.rs";
        assert!(own || allowed(&file) || !text.lines().any(imports), "{file} imports melior");
    }
}

#[test]
fn the_runner_has_no_compiler_in_it() {
    let of = |manifest: &str| -> String {
        let all = files("", &["Cargo.toml"]);
        let text = all.into_iter().find(|(f, _)| f == manifest).unwrap_or_else(|| panic!("no {manifest}")).1;
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or_default();
        dependencies.split("\n[").next().unwrap_or_default().to_owned()
    };
    for manifest in ["backends/Cargo.toml", "runtime/Cargo.toml"] {
        let text = of(manifest);
        for word in ["melior", "mlir", "athanor-frontend", "athanor-passes"] {
            assert!(!text.contains(word), "{manifest} depends on {word}");
        }
    }
    let optional = |line: &str| line.contains("optional = true");
    let compiler = ["melior", "mlir-sys", "athanor-frontend", "athanor-passes"];
    for manifest in ["ir/Cargo.toml", "Cargo.toml"] {
        for line in of(manifest).lines().filter(|l| compiler.iter().any(|c| l.starts_with(c))) {
            assert!(optional(line), "{manifest}: {line} is not optional");
        }
    }
}

/// Ids such as `C0001` that `text` defines: after `id:`, or after `=` in a table of codes.
fn ids(text: &str) -> Vec<String> {
    let is_id = |s: &str| {
        let b = s.as_bytes();
        b.len() == 5 && b[0].is_ascii_uppercase() && b[1..].iter().all(u8::is_ascii_digit)
    };
    let defined = |line: &str| {
        let (before, rest) = line.split_once('"')?;
        let (id, _) = rest.split_once('"')?;
        let before = before.trim();
        let table =
            before.strip_suffix('=').is_some_and(|n| n.trim().chars().all(|c| c.is_ascii_uppercase() || c == '_'));
        (is_id(id) && (before.ends_with("id:") || table)).then(|| id.to_owned())
    };
    text.lines().filter_map(defined).collect()
}

#[test]
fn every_code_has_one_meaning() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for dir in ["src", "ir/src", "frontend/src", "passes/src", "backends/src", "runtime/src"] {
        for (file, text) in files(dir, &[".rs"]) {
            for id in ids(code(&text)) {
                places.entry(id).or_default().push(file.clone());
            }
        }
    }
    assert!(places.len() > 60, "only {} codes found", places.len());
    let twice: Vec<_> = places.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn files_are_short_and_named_after_what_is_in_them() {
    for (file, text) in files("", &[".rs"]) {
        assert!(text.lines().count() <= 600, "{file} has {} lines", text.lines().count());
        assert!(!file.ends_with("utils.rs") && !file.ends_with("helpers.rs"), "{file} says nothing by its name");
    }
}

/// Text between single backquotes on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|l| !l.starts_with("    ") && !l.starts_with("```"))
        .flat_map(|l| l.split('`').skip(1).step_by(2))
}

#[test]
fn documents_name_files_and_tests_that_exist() {
    const TOPS: [&str; 10] =
        ["src/", "ir/", "frontend/", "passes/", "backends/", "runtime/", "tests/", "examples/", "benches/", "docs/"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: String = files("", &[".rs"]).into_iter().map(|(_, text)| text).collect();
    let mut documents = files("docs", &[".md"]);
    documents.extend(files("examples", &[".md"]));
    for top in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        documents.push((top.to_owned(), std::fs::read_to_string(root.join(top)).expect(top)));
    }
    let mut checked = 0;
    for (file, text) in &documents {
        for word in quoted(text) {
            let path = TOPS.iter().any(|t| word.starts_with(t)) && !word.contains(['*', '<', '{', ' ', '…']);
            if path {
                assert!(root.join(word).exists(), "{file} names `{word}`");
                checked += 1;
            }
            // Long names with several underscores are those of tests.
            let test = word.matches('_').count() >= 4
                && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
            if test && !sources.contains(&format!("fn {word}(")) {
                let key = sources.contains(&format!("{word} ")) || sources.contains(&format!("\"{word}\""));
                assert!(key, "{file} names `{word}`, which is neither a test nor a key");
            }
        }
        for link in text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                let from = root.join(file).parent().map(Path::to_path_buf).unwrap_or_default();
                assert!(from.join(target).exists(), "{file} links to {target}");
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "only {checked} names found");
}
