//! From a path and overrides to one tree: reading files, following `base_config`, applying `a.b=c`.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use athanor_ir::Diagnostic;

use super::codes;
use super::node::{Entry, Kind, Node};
use super::report::Report;
use super::span::Span;
use super::yaml;

const MAX_BASES: usize = 10;

/// Reads the file at `path` with everything it builds on.
pub(super) fn read_file(report: &Report, path: &Path) -> Option<Arc<Node>> {
    let text = read_text(report, path, None)?;
    let file = report.add_source(path.display().to_string(), text);
    let node = something(report, file)?;
    follow_bases(report, &node, path.parent(), &mut vec![canonical(path)])
}

/// Reads a text that stands for the file `name`; its `base_config` is looked for in the working directory.
pub(super) fn read_str(report: &Report, name: &str, text: &str) -> Option<Arc<Node>> {
    let file = report.add_source(name, text.to_owned());
    let node = something(report, file)?;
    follow_bases(report, &node, None, &mut vec![])
}

/// The content of `file`, or a diagnostic that there is none.
fn something(report: &Report, file: u32) -> Option<Arc<Node>> {
    let node = yaml::read(report, file, yaml::MAX_DEPTH)?;
    if !node.is_null() {
        return Some(node);
    }
    let name = report.source(file).map_or_else(String::new, |s| s.name.clone());
    let found = Diagnostic::error(&codes::MISSING_KEY, format!("{name} is empty"));
    report.push(found.help("examples/quickstart.yaml is a configuration to start from"));
    None
}

/// The text of a file, or a diagnostic that points to where the file was named.
pub(super) fn read_text(report: &Report, path: &Path, named_at: Option<Span>) -> Option<String> {
    let fail = |why: String| {
        let found = Diagnostic::error(&codes::UNREADABLE, format!("cannot read {}: {why}", path.display()))
            .help("check the path; a relative one starts at the folder of the YAML file or the working directory");
        report.push(report.mark(found, named_at, "named here"));
        None
    };
    let mut bytes = vec![];
    // One byte over the limit tells a file of exactly the limit from a larger one, whatever its length says.
    let limit = yaml::MAX_BYTES as u64 + 1;
    if let Err(error) = fs::File::open(path).and_then(|f| f.take(limit).read_to_end(&mut bytes)) {
        return fail(error.to_string());
    }
    if bytes.len() > yaml::MAX_BYTES {
        return fail(format!("it is larger than {} MiB", yaml::MAX_BYTES >> 20));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => fail(format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to())),
    }
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// `node` over the files its `base_config` names. `open` are the files being read, outermost first.
fn follow_bases(report: &Report, node: &Arc<Node>, dir: Option<&Path>, open: &mut Vec<PathBuf>) -> Option<Arc<Node>> {
    let Some(base) = node.get("base_config").filter(|e| !e.value.is_null()) else { return Some(Arc::clone(node)) };
    let fail = |node: &Node, message: String| {
        let found = Diagnostic::error(&codes::BASE_CONFIG, message);
        report.push(report.mark(found, Some(node.span), "named here"));
        None
    };
    let names: Vec<&Arc<Node>> = match &base.value.kind {
        Kind::Scalar { .. } => vec![&base.value],
        Kind::Seq(items) => items.iter().collect(),
        Kind::Map(_) => return fail(&base.value, "`base_config` must be a path or a list of paths".into()),
    };
    let mut merged: Option<Arc<Node>> = None;
    for name in names {
        let Some(text) = name.text() else {
            return fail(name, format!("`base_config` must name files, found {}", name.describe()));
        };
        let path = resolve(text, dir);
        let real = canonical(&path);
        if open.contains(&real) {
            return fail(name, format!("`base_config` leads back to {text}, which is being read"));
        }
        if open.len() >= MAX_BASES {
            return fail(name, format!("`base_config` is followed {MAX_BASES} files deep and no further"));
        }
        let content = read_text(report, &path, Some(name.span))?;
        let file = report.add_source(path.display().to_string(), content);
        let parsed = yaml::read(report, file, yaml::MAX_DEPTH)?;
        open.push(real);
        let layer = follow_bases(report, &parsed, path.parent(), open);
        open.pop();
        let layer = layer?;
        merged = Some(match merged {
            Some(below) => overlay(&below, &layer),
            None => layer,
        });
    }
    Some(merged.map_or_else(|| Arc::clone(node), |below| overlay(&below, node)))
}

/// A path as written in a configuration: beside the file that names it if it is there, else from the working directory.
pub(super) fn resolve(text: &str, dir: Option<&Path>) -> PathBuf {
    let path = Path::new(text);
    match dir.map(|d| d.join(path)) {
        Some(beside) if path.is_relative() && beside.exists() => beside,
        _ => path.to_owned(),
    }
}

/// `child` over `base`: mappings merge key by key, everything else replaces.
fn overlay(base: &Arc<Node>, child: &Arc<Node>) -> Arc<Node> {
    let (Kind::Map(below), Kind::Map(above)) = (&base.kind, &child.kind) else { return Arc::clone(child) };
    let mut entries: Vec<Entry> = below
        .iter()
        .map(|b| match child.get(&b.key) {
            Some(e) => Entry { value: overlay(&b.value, &e.value), ..e.clone() },
            None => b.clone(),
        })
        .collect();
    entries.extend(above.iter().filter(|e| base.get(&e.key).is_none()).cloned());
    Node::new(child.span, Kind::Map(entries))
}

/// Applies command-line overrides `(a.b.c, value)` in order. Each becomes a small text of its own, so that an error in a value points into it.
pub(super) fn apply_overrides(report: &Report, root: Arc<Node>, overrides: &[(String, String)]) -> Arc<Node> {
    overrides.iter().fold(root, |root, (path, value)| {
        let file = report.add_source("--set", format!("{path}={value}"));
        let key_span = Span { file, start: 0, end: path.len() as u32 };
        let value_span = Span { file, start: path.len() as u32 + 1, end: (path.len() + 1 + value.len()) as u32 };
        let parts: Vec<&str> = path.split('.').collect();
        if parts.iter().any(|p| p.trim().is_empty()) || parts.len() > yaml::MAX_DEPTH {
            let found = Diagnostic::error(&codes::OVERRIDE, format!("`{path}` does not name a key"))
                .help("write the keys from the top, with dots between them: `runner_config.epochs=2`");
            report.push(report.mark(found, Some(key_span), "not a path of keys"));
            return root;
        }
        let leaf = override_value(report, file, value, value_span);
        if let (Some(found), true) = (through_list(&root, &parts), parts.len() > 1) {
            let found =
                Diagnostic::error(&codes::OVERRIDE, format!("`{path}` goes through `{found}`, which is a list"))
                    .help("an override cannot change one item of a list; give the whole list: `key=[a, b]`");
            report.push(report.mark(found, Some(key_span), "goes through a list"));
            return root;
        }
        let layer = parts.iter().rev().fold(leaf, |value, part| {
            let entry = Entry { key: part.trim().to_owned(), key_span, value };
            Node::new(key_span, Kind::Map(vec![entry]))
        });
        overlay(&root, &layer)
    })
}

/// The first part of `path` that is a list in `root`.
fn through_list<'a>(root: &Arc<Node>, path: &[&'a str]) -> Option<&'a str> {
    let mut node = root;
    for part in &path[..path.len().saturating_sub(1)] {
        node = &node.get(part)?.value;
        if matches!(node.kind, Kind::Seq(_)) {
            return Some(part);
        }
    }
    None
}

/// A value given on the command line: a list if it looks like one, else a scalar, whose type is decided where it is read.
///
/// `True` is true. (`MindFormers` up to 2.1 reads it as false by mistake.)
fn override_value(report: &Report, file: u32, text: &str, span: Span) -> Arc<Node> {
    let trimmed = text.trim();
    let listed = (trimmed.starts_with('[') && trimmed.ends_with(']'))
        || (trimmed.starts_with('(') && trimmed.ends_with(')'))
        || (trimmed.starts_with('{') && trimmed.ends_with('}'));
    if listed {
        // A Python tuple is a list here.
        let round = trimmed.starts_with('(');
        let yaml_text = if round { format!("[{}]", &trimmed[1..trimmed.len() - 1]) } else { trimmed.to_owned() };
        let scratch = Report::default();
        let scratch_file = scratch.add_source("", yaml_text);
        if let Some(node) = yaml::read(&scratch, scratch_file, yaml::MAX_DEPTH) {
            return restamp(&node, span);
        }
        let found = Diagnostic::error(&codes::OVERRIDE, format!("the value `{trimmed}` is not a list"));
        report.push(report.mark(found, Some(Span { file, ..span }), "cannot be read"));
    }
    let quoted = trimmed.len() >= 2
        && ((trimmed.starts_with('"') && trimmed.ends_with('"'))
            || (trimmed.starts_with('\'') && trimmed.ends_with('\'')));
    let inner = if quoted { &trimmed[1..trimmed.len() - 1] } else { trimmed };
    // An empty value clears a string; it is not null.
    let plain = !quoted && !inner.is_empty();
    Node::new(span, Kind::Scalar { text: inner.to_owned(), plain })
}

/// The same values, all placed at `span`.
fn restamp(node: &Arc<Node>, span: Span) -> Arc<Node> {
    let kind = match &node.kind {
        Kind::Scalar { text, plain } => Kind::Scalar { text: text.clone(), plain: *plain },
        Kind::Seq(items) => Kind::Seq(items.iter().map(|i| restamp(i, span)).collect()),
        Kind::Map(entries) => Kind::Map(
            entries
                .iter()
                .map(|e| Entry { key: e.key.clone(), key_span: span, value: restamp(&e.value, span) })
                .collect(),
        ),
    };
    Node::new(span, kind)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::testing::{LLAMA, accepted, complaints, load_with, with};
    use crate::config::{codes, load};

    #[test]
    fn overrides_have_the_types_that_the_key_wants() {
        let config = with(&[
            ("use_parallel", "True"),
            ("runner_config.epochs", "3"),
            ("optimizer.eps", "1e-6"),
            ("optimizer.betas", "(0.8, 0.9)"),
            ("load_checkpoint", ""),
        ]);
        assert!(config.general.use_parallel.value);
        assert_eq!(config.runner.epochs.value, 3);
        assert_eq!(config.optimizer.betas.value, [0.8, 0.9]);
        assert!(config.general.load_checkpoint.is_none());
        let span = config.runner.epochs.span.unwrap();
        let source = &config.sources[span.file as usize];
        assert_eq!(&source.text[span.start as usize..span.end as usize], "3");
    }

    #[test]
    fn overrides_that_name_nothing() {
        assert_eq!(complaints(&[("a..b", "1")]), ["C0015 `a..b` does not name a key"]);
        let wrong = complaints(&[("runner_config.epochs", "many")]);
        assert_eq!(
            wrong[0],
            "C0006 `runner_config.epochs` must be an integer that is not negative, found the string \"many\""
        );
        let text = format!("{LLAMA}callbacks: [{{type: MFLossMonitor}}]\n");
        let found = load_with(&text, &[("callbacks.type", "X")]).diagnostics;
        assert_eq!(found[0].code.id, codes::OVERRIDE.id);
    }

    #[test]
    fn base_config_merges_mappings_and_replaces_lists() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(
            dir.path().join("base.yaml"),
            LLAMA.to_owned() + "seed: 7\ncallbacks: [{type: MFLossMonitor, per_print_times: 9}]\n",
        )
        .unwrap();
        fs::write(dir.path().join("sub/more.yaml"), "runner_config: {epochs: 5}\noutput_dir: there\n").unwrap();
        let child = "base_config: [base.yaml, sub/more.yaml]\nrunner_config: {batch_size: 4}\ncallbacks: [{type: MFLossMonitor}]\n";
        fs::write(dir.path().join("child.yaml"), child).unwrap();
        let config = accepted(load(&dir.path().join("child.yaml"), &[]));
        assert_eq!((config.runner.epochs.value, config.runner.batch_size.value, config.general.seed.value), (5, 4, 7));
        assert_eq!(config.general.output_dir.as_str(), "there");
        assert_eq!(config.callbacks.loss.per_print_times.value, 1);
        assert!(config.place(config.runner.epochs.span).unwrap().ends_with("more.yaml:1"));
    }

    #[test]
    fn chains_of_bases_end() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..12 {
            fs::write(dir.path().join(format!("{i}.yaml")), format!("base_config: {}.yaml\n", i + 1)).unwrap();
        }
        fs::write(dir.path().join("12.yaml"), LLAMA).unwrap();
        let found = load(&dir.path().join("0.yaml"), &[]).diagnostics;
        assert_eq!(found[0].code.id, codes::BASE_CONFIG.id);
        assert!(load(&dir.path().join("4.yaml"), &[]).config.is_some());
        fs::write(dir.path().join("latin1.yaml"), b"run_mode: tr\xe4in\n").unwrap();
        let found = load(&dir.path().join("latin1.yaml"), &[]).diagnostics;
        assert!(found[0].message.ends_with("it is not UTF-8 at byte 12"), "{}", found[0].message);
    }
}
