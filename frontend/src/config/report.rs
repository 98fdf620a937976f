//! Collects diagnostics while a configuration is read, so that a user sees all of them at once.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use athanor_ir::Diagnostic;
use athanor_ir::diag::{Code, Severity, SourceFile, line_col};

use super::codes;
use super::span::Span;

const MAX_DIAGNOSTICS: usize = 1000;
const MAX_IDLE_SHOWN: usize = 200;

/// Bytes that a mark is long at most.
const MOST_MARKED: usize = 200;

/// The texts read so far and what is wrong with them.
#[derive(Default)]
pub(super) struct Report {
    sources: RefCell<Vec<Arc<SourceFile>>>,
    diagnostics: RefCell<Vec<Diagnostic>>,
    /// Section, key and place of everything known that has no effect.
    idle: RefCell<Vec<(String, String, Span)>>,
}

impl Report {
    /// Adds a text and returns its index.
    pub fn add_source(&self, name: impl Into<String>, text: String) -> u32 {
        let mut sources = self.sources.borrow_mut();
        sources.push(Arc::new(SourceFile { name: name.into(), text }));
        sources.len() as u32 - 1
    }

    pub fn source(&self, file: u32) -> Option<Arc<SourceFile>> {
        self.sources.borrow().get(file as usize).cloned()
    }

    /// Adds a diagnostic. Of a text that is wrong all over, the first [`MAX_DIAGNOSTICS`] are kept.
    pub fn push(&self, mut diagnostic: Diagnostic) {
        if diagnostic.severity == Severity::Error && diagnostic.help.is_none() {
            diagnostic.help = Some(general_help(diagnostic.code));
        }
        let mut diagnostics = self.diagnostics.borrow_mut();
        // An error is kept even when the room is taken by notes, so that it still prevents a configuration.
        if diagnostics.len() < MAX_DIAGNOSTICS {
            diagnostics.push(diagnostic);
        } else if diagnostic.severity == Severity::Error && !diagnostics.iter().any(|d| d.severity == Severity::Error) {
            diagnostics.pop();
            diagnostics.push(diagnostic);
        }
    }

    /// Marks `span` in `diagnostic`. A diagnostic shows one text; a place in another one goes into the help line.
    pub fn mark(&self, mut diagnostic: Diagnostic, span: Option<Span>, text: impl Into<String>) -> Diagnostic {
        let Some((span, source)) = span.and_then(|s| Some((s, self.source(s.file)?))) else { return diagnostic };
        let text = text.into();
        if diagnostic.source.as_ref().is_some_and(|s| !Arc::ptr_eq(s, &source)) {
            let (line, _) = line_col(&source.text, span.start as usize);
            let place = if text.is_empty() { "see".to_owned() } else { format!("{text}:") };
            let also = format!("{place} {}:{line}", source.name);
            diagnostic.help = Some(diagnostic.help.map_or_else(|| also.clone(), |h| format!("{h}; {also}")));
            return diagnostic;
        }
        let range = first_line(&source.text, span);
        diagnostic.at(&source, range, text)
    }

    /// Remembers that `key` of `section` has no effect; all of them become one note.
    pub fn idle(&self, section: &str, key: impl Into<String>, span: Span) {
        let mut idle = self.idle.borrow_mut();
        // An aliased section is read once per place it is used at.
        if idle.len() < MAX_DIAGNOSTICS && !idle.iter().any(|(_, _, s)| *s == span) {
            idle.push((section.to_owned(), key.into(), span));
        }
    }

    /// `line 7` in the first text, `base.yaml:7` in another.
    fn line(&self, span: Span) -> String {
        let Some(source) = self.source(span.file) else { return String::new() };
        let (line, _) = line_col(&source.text, span.start as usize);
        if span.file == 0 { line.to_string() } else { format!("{}:{line}", source.name) }
    }

    /// One note for everything without effect: the count in its message, the keys by section in its help.
    fn note_idle(&self) {
        let mut idle = self.idle.take();
        let Some(first) = idle.iter().map(|(_, _, s)| *s).min() else { return };
        idle.sort_by_key(|(_, _, span)| *span);
        // More would not be read, and each line number costs a pass over the text.
        let shown = idle.len().min(MAX_IDLE_SHOWN);
        let mut sections: Vec<(&str, Vec<String>)> = vec![];
        for (section, key, span) in &idle[..shown] {
            let text = format!("{key} ({})", self.line(*span));
            match sections.iter_mut().find(|(name, _)| name == section) {
                Some((_, keys)) => keys.push(text),
                None => sections.push((section, vec![text])),
            }
        }
        let lines = sections.iter().map(|(name, keys)| {
            let name = if name.is_empty() { "top level" } else { name };
            format!("{name}: {}", keys.join(", "))
        });
        let message = match idle.len() {
            1 => "1 known key has no effect here".to_owned(),
            n => format!("{n} known keys have no effect here"),
        };
        let help = format!("with their lines:\n{}", lines.collect::<Vec<_>>().join("\n"));
        let found = Diagnostic::note(&codes::NO_EFFECT, message).help(help);
        self.push(self.mark(found, Some(first), "the first of them"));
    }

    pub fn has_errors(&self) -> bool {
        self.diagnostics.borrow().iter().any(|d| d.severity == Severity::Error)
    }

    /// Everything found: errors first, then warnings, then notes, each in the order of the text.
    pub fn finish(self) -> (Vec<Arc<SourceFile>>, Vec<Diagnostic>) {
        self.note_idle();
        let sources = self.sources.into_inner();
        let mut diagnostics = self.diagnostics.into_inner();
        let position = |d: &Diagnostic| {
            let file = d.source.as_ref().and_then(|s| sources.iter().position(|o| Arc::ptr_eq(s, o)));
            (file, d.labels.first().map(|l| l.range.start))
        };
        diagnostics.sort_by_key(|d| (std::cmp::Reverse(d.severity), position(d)));
        diagnostics.dedup();
        (sources, diagnostics)
    }
}

/// What to do about an error that has no better advice.
fn general_help(code: &'static Code) -> String {
    if *code == codes::SYNTAX {
        "correct the text here; a value with `: ` or ` #`, or that begins with one of `*&@%!`, needs quotes".into()
    } else if *code == codes::TOO_LARGE {
        "a configuration has some hundred lines: is this the right file?".into()
    } else if *code == codes::OUT_OF_RANGE {
        "correct the value, or leave the key out for its default".into()
    } else {
        format!("`athanor explain {}` says more", code.id)
    }
}

/// The part of `span` on its first line, on character boundaries: a label over forty lines explains nothing.
fn first_line(text: &str, span: Span) -> Range<usize> {
    let start = text.floor_char_boundary((span.start as usize).min(text.len()));
    let end = text.ceil_char_boundary((span.end as usize).clamp(start, text.len()));
    let end = text.floor_char_boundary(end.min(start + MOST_MARKED));
    let line = text[start..end].find('\n').map_or(end, |n| start + n);
    start..start + text[start..line].trim_end().len()
}
