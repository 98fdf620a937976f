//! YAML text to [`Node`]s, with bounds that a hostile file cannot get past.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use athanor_ir::Diagnostic;
use granit_parser::{Event, Options, Parser, ScalarStyle};

use super::codes;
use super::node::{Entry, Kind, Node};
use super::report::Report;
use super::span::Span;

/// Largest text that is taken for a configuration.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// Nesting of mappings in a YAML file.
pub(super) const MAX_DEPTH: usize = 10;
/// Nesting of mappings in a config.json, which is not written by hand.
pub(super) const MAX_JSON_DEPTH: usize = 32;
const MAX_FRAMES: usize = 64;
const MAX_KEYS: usize = 10_000;
const MAX_WEIGHT: u64 = 1_000_000;

/// Reads the source with index `file`; null for an empty text, `None` (and a diagnostic) if it is no YAML.
///
/// JSON is read by the same rules: it is a subset of YAML as far as configurations go.
pub(super) fn read(report: &Report, file: u32, max_depth: usize) -> Option<Arc<Node>> {
    let source = report.source(file)?;
    let mut builder =
        Builder { report, file, max_depth, stack: vec![], anchors: HashMap::new(), merged: 0, root: None };
    match builder.run(&source.text) {
        Ok(()) => {
            let root = builder.root.take();
            Some(root.unwrap_or_else(|| {
                Node::new(Span { file, start: 0, end: 0 }, Kind::Scalar { text: String::new(), plain: true })
            }))
        }
        Err(diagnostic) => {
            report.push(*diagnostic);
            None
        }
    }
}

/// A collection whose end has not been seen yet.
struct Frame {
    start: Span,
    anchor: usize,
    items: Items,
}

enum Items {
    Seq(Vec<Arc<Node>>),
    Map { entries: Vec<Entry>, seen: HashMap<String, usize>, key: Option<(String, Span)> },
}

struct Builder<'a> {
    report: &'a Report,
    file: u32,
    max_depth: usize,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Arc<Node>>,
    /// Keys copied by `<<`, so that chains of merges stay bounded.
    merged: usize,
    root: Option<Arc<Node>>,
}

type Step<T = ()> = Result<T, Box<Diagnostic>>;

impl Builder<'_> {
    fn run(&mut self, text: &str) -> Step {
        let mut options = Options::default();
        options.set_emit_comments(false);
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, at) = match event {
                Ok(event) => event,
                Err(error) => {
                    let start = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
                    let at = Span { file: self.file, start: start as u32, end: start as u32 + 1 };
                    let message = format!("not valid YAML: {}", error.info());
                    let found = Diagnostic::error(&codes::SYNTAX, message);
                    return self.fail(found, at, "here");
                }
            };
            let range = at.byte_range().unwrap_or(0..0);
            let span = Span { file: self.file, start: range.start as u32, end: range.end as u32 };
            match event {
                Event::Scalar(value, style, anchor, tag) => {
                    // `!!str 5` is a string even though it is plain.
                    let plain = style == ScalarStyle::Plain && tag.is_none();
                    let node = Node::new(span, Kind::Scalar { text: value.into_owned(), plain });
                    self.place(node, anchor)?;
                }
                Event::SequenceStart(_, anchor, _) => self.open(span, anchor, Items::Seq(vec![]))?,
                Event::MappingStart(_, anchor, _) => {
                    self.open(span, anchor, Items::Map { entries: vec![], seen: HashMap::new(), key: None })?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
                Event::Alias(id) => {
                    let Some(node) = self.anchors.get(&id).cloned() else {
                        let found = Diagnostic::error(&codes::SYNTAX, "an alias inside of the value it stands for");
                        return self.fail(found, span, "refers to a value that is not complete yet");
                    };
                    self.place(node, 0)?;
                }
                Event::DocumentStart(..) if self.root.is_some() => {
                    let found = Diagnostic::error(&codes::SYNTAX, "more than one YAML document in the file")
                        .help("keep one document: remove the `---` line and what follows it");
                    return self.fail(found, span, "a second document starts here");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn fail<T>(&self, diagnostic: Diagnostic, span: Span, text: &str) -> Step<T> {
        Err(Box::new(self.report.mark(diagnostic, Some(span), text)))
    }

    fn open(&mut self, start: Span, anchor: usize, items: Items) -> Step {
        let is_map = |i: &Items| matches!(i, Items::Map { .. });
        let depth = self.stack.iter().filter(|f| is_map(&f.items)).count() + usize::from(is_map(&items));
        if depth > self.max_depth || self.stack.len() >= MAX_FRAMES {
            let message = format!(
                "values are nested more than {} deep",
                if is_map(&items) { self.max_depth } else { MAX_FRAMES }
            );
            return self.fail(Diagnostic::error(&codes::TOO_LARGE, message), start, "too deep");
        }
        self.stack.push(Frame { start, anchor, items });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Step {
        let Some(Frame { start, anchor, items }) = self.stack.pop() else { return Ok(()) };
        let kind = match items {
            Items::Seq(items) => Kind::Seq(items),
            Items::Map { entries, .. } => Kind::Map(self.merge_keys(entries)?),
        };
        let span = Span { end: end.end.max(start.end), ..start };
        self.place(Node::new(span, kind), anchor)
    }

    /// Puts a complete value where the parser stands.
    fn place(&mut self, node: Arc<Node>, anchor: usize) -> Step {
        if node.weight > MAX_WEIGHT {
            let message = format!("there are more than {MAX_WEIGHT} values, counting what aliases stand for");
            return self.fail(Diagnostic::error(&codes::TOO_LARGE, message), node.span, "grows too large");
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.items {
            Items::Seq(items) => items.push(node),
            Items::Map { entries, seen, key } => match key.take() {
                None => {
                    let Some(text) = node.text() else {
                        let found = Diagnostic::error(&codes::SYNTAX, "a key must be a word, not a list or mapping");
                        return self.fail(found, node.span, "used as a key");
                    };
                    *key = Some((text.to_owned(), node.span));
                }
                Some((key, key_span)) => {
                    if entries.len() >= MAX_KEYS {
                        let message = format!("a mapping has more than {MAX_KEYS} keys");
                        return self.fail(Diagnostic::error(&codes::TOO_LARGE, message), key_span, "one key too many");
                    }
                    let entry = Entry { key, key_span, value: node };
                    match seen.get(&entry.key) {
                        // Several `<<` are several merges, not a repeated key.
                        Some(&first) if entry.key != "<<" => {
                            let message = format!("the key `{}` is given twice", entry.key);
                            let found = Diagnostic::warning(&codes::DUPLICATE_KEY, message)
                                .help("the last one counts; remove the other");
                            let found = self.report.mark(found, Some(entries[first].key_span), "dropped");
                            self.report.push(self.report.mark(found, Some(key_span), "used"));
                            entries[first] = entry;
                        }
                        _ => {
                            seen.insert(entry.key.clone(), entries.len());
                            entries.push(entry);
                        }
                    }
                }
            },
        }
        Ok(())
    }

    /// Replaces `<<: *other` by the keys of `other` that the mapping does not have itself.
    fn merge_keys(&mut self, entries: Vec<Entry>) -> Step<Vec<Entry>> {
        if !entries.iter().any(|e| e.key == "<<") {
            return Ok(entries);
        }
        let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.key == "<<");
        let mut have: HashSet<String> = own.iter().map(|e| e.key.clone()).collect();
        for merge in merges {
            let bases: Vec<&Arc<Node>> = match &merge.value.kind {
                Kind::Seq(items) => items.iter().collect(),
                _ => vec![&merge.value],
            };
            for base in bases {
                if !matches!(base.kind, Kind::Map(_)) {
                    let found = Diagnostic::error(&codes::SYNTAX, "`<<` can only merge mappings");
                    return self.fail(found, merge.key_span, &format!("merges {}", base.describe()));
                }
                self.merged += base.entries().len();
                if self.merged as u64 > MAX_WEIGHT {
                    let found = Diagnostic::error(&codes::TOO_LARGE, "merge keys copy more than a million keys");
                    return self.fail(found, merge.key_span, "one merge too many");
                }
                own.extend(base.entries().iter().filter(|e| have.insert(e.key.clone())).cloned());
            }
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<Arc<Node>>, Vec<Diagnostic>) {
        let report = Report::default();
        let file = report.add_source("t.yaml", text.into());
        let node = read(&report, file, MAX_DEPTH);
        (node, report.finish().1)
    }

    #[test]
    fn aliases_merge_keys_and_spans() {
        let text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n";
        let (node, diagnostics) = parse(text);
        assert!(diagnostics.is_empty());
        let node = node.unwrap();
        let b = &node.get("b").unwrap().value;
        assert_eq!(b.get("x").unwrap().value.text(), Some("1"));
        assert_eq!(b.get("y").unwrap().value.text(), Some("3"));
        assert!(node.get("a").unwrap().value.same_value(&node.get("c").unwrap().value));
        let span = b.get("y").unwrap().value.span;
        assert_eq!(&text[span.start as usize..span.end as usize], "3");
    }

    #[test]
    fn duplicate_keys_keep_the_last_and_warn() {
        let (node, diagnostics) = parse("a: 1\nb: 2\na: 3\n");
        assert_eq!(node.unwrap().get("a").unwrap().value.text(), Some("3"));
        assert_eq!(diagnostics[0].code.id, codes::DUPLICATE_KEY.id);
        assert_eq!(diagnostics[0].labels.len(), 2);
    }

    #[test]
    fn hostile_texts_end_in_a_diagnostic() {
        let bomb: String = (1..40)
            .map(|i| format!("k{i}: &k{i} [*k{p}, *k{p}]\n", p = i - 1))
            .fold("k0: &k0 [1, 1]\n".to_owned(), |a, b| a + &b);
        assert_eq!(parse(&bomb).1[0].code.id, codes::TOO_LARGE.id);
        let deep = "{a: ".repeat(11) + "1" + &"}".repeat(11);
        assert_eq!(parse(&deep).1[0].code.id, codes::TOO_LARGE.id);
        let brackets = "[".repeat(100_000);
        assert!(parse(&brackets).0.is_none());
        for text in
            ["a: [1, 2", "a: &x {b: *x}", "a: 1\n---\nb: 2\n", "? [1]\n: 2\n", "a: *nobody", "<<: 3\n", "a:\tb: c"]
        {
            let (node, diagnostics) = parse(text);
            assert!(node.is_none(), "{text}");
            assert_eq!(diagnostics[0].code.id, codes::SYNTAX.id, "{text}");
        }
    }
}
