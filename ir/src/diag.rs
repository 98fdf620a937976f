//! Diagnostics: every error a user can meet has a code, the place it came from, and a help line.
//!
//! A crate declares its codes as `pub const NAME: Code` and lists them in `pub const CODES: &[&Code]`;
//! `athanor explain CODE` prints the long text. A [`Diagnostic`] renders through [`miette`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One kind of user-visible error: a stable identifier, a short title and a longer explanation.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable identifier, such as `C0001`. The letter names the area: C config, M module, P pass, B backend,
    /// R runtime, D data, K checkpoint.
    pub id: &'static str,
    /// One line, no full stop.
    pub title: &'static str,
    /// What it means and what to do, a few sentences, for `athanor explain`.
    pub explain: &'static str,
}

/// A text file that diagnostics point into.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Path as the user gave it.
    pub name: String,
    /// Whole content.
    pub text: String,
}

/// A marked byte range of the source with a note beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Byte range in [`SourceFile::text`].
    pub range: Range<usize>,
    /// Shown beside the range; may be empty.
    pub text: String,
}

/// How serious a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something the user should know, such as a key that has no effect here.
    Note,
    /// Probably not what the user wants; the work goes on.
    Warning,
    /// The work cannot go on.
    Error,
}

/// A coded, located message with a way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The kind of problem.
    pub code: &'static Code,
    /// Error, warning or note.
    pub severity: Severity,
    /// One sentence saying what is wrong with this input.
    pub message: String,
    /// The text that `labels` point into, if the problem is in a text file.
    pub source: Option<Arc<SourceFile>>,
    /// Marked places in `source`.
    pub labels: Vec<Label>,
    /// What to do about it.
    pub help: Option<String>,
}

/// Result with a boxed [`Diagnostic`].
pub type Result<T> = std::result::Result<T, Box<Diagnostic>>;

impl Diagnostic {
    /// An error of kind `code`.
    pub fn error(code: &'static Code, message: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, message: message.into(), source: None, labels: vec![], help: None }
    }

    /// A warning of kind `code`.
    pub fn warning(code: &'static Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// A note of kind `code`.
    pub fn note(code: &'static Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(code, message) }
    }

    /// Adds the help line.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `Err` of this diagnostic, for the end of an expression.
    pub fn err<T>(self) -> Result<T> {
        Err(Box::new(self))
    }

    /// Marks `range` of `source`.
    #[must_use]
    pub fn at(mut self, source: &Arc<SourceFile>, range: Range<usize>, text: impl Into<String>) -> Self {
        self.source = Some(Arc::clone(source));
        self.labels.push(Label { range, text: text.into() });
        self
    }
}

/// 1-based line and column (in characters) of byte `offset` in `text`.
pub fn line_col(text: &str, offset: usize) -> (u32, u32) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() as u32 + 1;
    let col = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) as u32 + 1;
    (line, col)
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code(&self) -> Option<Box<dyn fmt::Display + '_>> {
        Some(Box::new(self.code.id))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Note => miette::Severity::Advice,
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_deref().map(|s| s as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().map(|l| {
            let text = (!l.text.is_empty()).then(|| l.text.clone());
            miette::LabeledSpan::new(text, l.range.start, l.range.len())
        })))
    }
}

/// Bytes of context that are shown whole; of longer ones, as of a file in one line, only what is near the mark.
const MOST_SHOWN: usize = 4096;

impl SourceFile {
    /// `span` and at most 80 bytes of its lines on either side.
    fn excerpt(&self, span: &miette::SourceSpan) -> miette::MietteSpanContents<'_> {
        let text = &self.text;
        let (start, end) = (span.offset().min(text.len()), (span.offset() + span.len()).min(text.len()));
        let line = text[..start].rfind('\n').map_or(0, |n| n + 1);
        let next = text[end..].find('\n').map_or(text.len(), |n| end + n);
        let from = text.ceil_char_boundary(line.max(start.saturating_sub(80))).min(start);
        let to = text.floor_char_boundary(next.min(end + 80)).max(end);
        let (row, column) = line_col(text, from);
        miette::MietteSpanContents::new_named(
            self.name.clone(),
            &text.as_bytes()[from..to],
            (from, to - from).into(),
            row as usize - 1,
            column as usize - 1,
            1,
        )
    }
}

impl miette::SourceCode for SourceFile {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> std::result::Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let inner = self.text.read_span(span, before, after)?;
        if inner.data().len() > MOST_SHOWN {
            return Ok(Box::new(self.excerpt(span)));
        }
        Ok(Box::new(miette::MietteSpanContents::new_named(
            self.name.clone(),
            inner.data(),
            *inner.span(),
            inner.line(),
            inner.column(),
            inner.line_count(),
        )))
    }
}
