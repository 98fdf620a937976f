//! Every code that this command can report.

use athanor_ir::Code;

/// The lists of the crates.
const LISTS: &[&[&Code]] = &[
    crate::codes::CODES,
    &[&athanor_ir::verify::INVALID_IR],
    athanor_backends::cpu::CODES,
    athanor_backends::cpu::reference::CODES,
    athanor_backends::comm::CODES,
    athanor_backends::launch::codes::CODES,
    athanor_runtime::codes::CODES,
    athanor_runtime::data::CODES,
    #[cfg(feature = "compiler")]
    athanor_ir::mlir::CODES,
    #[cfg(feature = "compiler")]
    athanor_frontend::config::CODES,
    #[cfg(feature = "compiler")]
    athanor_frontend::inputs::CODES,
    #[cfg(feature = "compiler")]
    athanor_frontend::model::CODES,
    #[cfg(feature = "compiler")]
    athanor_frontend::run::CODES,
    #[cfg(feature = "compiler")]
    athanor_passes::CODES,
    #[cfg(feature = "compiler")]
    athanor_passes::codegen::CODES,
];

/// Every code once, in order of its id.
pub fn all() -> Vec<&'static Code> {
    let mut codes: Vec<&Code> = LISTS.iter().flat_map(|l| l.iter().copied()).collect();
    codes.sort_by_key(|c| (c.id, c.title));
    // A crate's list repeats those of its modules.
    codes.dedup_by(|a, b| a == b);
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                sources(&entry, out);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                out.push(entry);
            }
        }
    }

    /// Ids of the codes that `text` defines: a string such as `C0001` after `id:`, or after `=` in a table of codes.
    fn defined(text: &str) -> Vec<String> {
        let is_id = |s: &str| {
            let b = s.as_bytes();
            b.len() == 5 && b[0].is_ascii_uppercase() && b[1..].iter().all(u8::is_ascii_digit)
        };
        let mut ids = vec![];
        for line in text.lines() {
            let mut parts = line.split('"');
            let (Some(before), Some(id)) = (parts.next(), parts.next()) else { continue };
            let before = before.trim();
            let table = before.strip_suffix('=').map(str::trim).is_some_and(|name| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            });
            if is_id(id) && (before.ends_with("id:") || table) {
                ids.push(id.to_owned());
            }
        }
        ids
    }

    #[test]
    #[cfg(feature = "compiler")]
    fn every_code_of_the_sources_is_known() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = vec![];
        for part in ["src", "ir/src", "frontend/src", "passes/src", "backends/src", "runtime/src"] {
            sources(&root.join(part), &mut files);
        }
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap();
            // Codes of tests stand below the marker.
            for id in defined(text.split("#[cfg(test)]").next().unwrap_or_default()) {
                places.entry(id).or_default().push(file.strip_prefix(root).unwrap().display().to_string());
            }
        }
        assert!(places.len() > 60, "only {} codes found", places.len());
        let known: Vec<&str> = all().iter().map(|c| c.id).collect();
        let missing: Vec<_> = places.iter().filter(|(id, _)| !known.contains(&id.as_str())).collect();
        assert!(missing.is_empty(), "codes that `explain` does not list: {missing:#?}");
    }

    #[test]
    fn codes_have_a_title_without_a_full_stop_and_an_explanation_with_one() {
        for c in all() {
            assert!(!c.title.is_empty() && !c.title.ends_with('.'), "{}", c.id);
            assert!(c.explain.ends_with('.'), "{}", c.id);
        }
    }
}
