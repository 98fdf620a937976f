//! Where a value was written.

use std::ops::Deref;

/// A byte range in one of the texts that a configuration was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Index into [`super::Config::sources`].
    pub file: u32,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value together with the place it was written at.
///
/// It derefs to the value, so `*config.model.hidden_size` reads like a plain field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where the value stands; `None` for a default.
    pub span: Option<Span>,
}

impl<T> Spanned<T> {
    /// A value that nobody wrote.
    pub fn default(value: T) -> Self {
        Self { value, span: None }
    }

    /// A value written at `span`.
    pub fn at(value: T, span: Span) -> Self {
        Self { value, span: Some(span) }
    }

    /// The same place with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: f(self.value), span: self.span }
    }

    /// True if the value comes from a file or an override, false if it is a default.
    pub fn is_set(&self) -> bool {
        self.span.is_some()
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
