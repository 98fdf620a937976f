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
    let node = yaml::read(report, file, yaml::MAX_DEPTH)?;
    follow_bases(report, &node, path.parent(), &mut vec![canonical(path)])
}

/// Reads a text that stands for the file `name`; its `base_config` is looked for in the working directory.
pub(super) fn read_str(report: &Report, name: &str, text: &str) -> Option<Arc<Node>> {
    let file = report.add_source(name, text.to_owned());
    let node = yaml::read(report, file, yaml::MAX_DEPTH)?;
    follow_bases(report, &node, None, &mut vec![])
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
    let mut entries: Vec<Entry> = above
        .iter()
        .map(|e| match base.get(&e.key) {
            Some(b) => Entry { value: overlay(&b.value, &e.value), ..e.clone() },
            None => e.clone(),
        })
        .collect();
    entries.extend(below.iter().filter(|b| child.get(&b.key).is_none()).cloned());
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
