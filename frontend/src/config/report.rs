//! Collects diagnostics while a configuration is read, so that a user sees all of them at once.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use athanor_ir::Diagnostic;
use athanor_ir::diag::{Severity, SourceFile, line_col};

use super::span::Span;

/// The texts read so far and what is wrong with them.
#[derive(Default)]
pub(super) struct Report {
    sources: RefCell<Vec<Arc<SourceFile>>>,
    diagnostics: RefCell<Vec<Diagnostic>>,
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

    pub fn push(&self, diagnostic: Diagnostic) {
        self.diagnostics.borrow_mut().push(diagnostic);
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

    /// 1-based line of a place.
    pub fn line(&self, span: Span) -> u32 {
        self.source(span.file).map_or(0, |s| line_col(&s.text, span.start as usize).0)
    }

    pub fn has_errors(&self) -> bool {
        self.diagnostics.borrow().iter().any(|d| d.severity == Severity::Error)
    }

    /// Everything found: errors first, then warnings, then notes, each in the order of the text.
    pub fn finish(self) -> (Vec<Arc<SourceFile>>, Vec<Diagnostic>) {
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

/// The part of `span` on its first line, on character boundaries: a label over forty lines explains nothing.
fn first_line(text: &str, span: Span) -> Range<usize> {
    let start = text.floor_char_boundary((span.start as usize).min(text.len()));
    let end = text.ceil_char_boundary((span.end as usize).clamp(start, text.len()));
    let line = text[start..end].find('\n').map_or(end, |n| start + n);
    start..start + text[start..line].trim_end().len()
}
