//! A list of what does not fit, of any length, as one error.

use athanor_ir::{Code, Diagnostic};
use std::fmt::Write as _;

/// Differences that are listed one by one; of more, the number is given.
pub const MOST_LISTED: usize = 20;

/// Collects differences; those beyond [`MOST_LISTED`] are only counted, so that a million take no memory.
#[derive(Debug, Default)]
pub struct Differences {
    listed: Vec<String>,
    count: usize,
}

impl Differences {
    /// Adds one.
    pub fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.listed.len() < MOST_LISTED {
            self.listed.push(text());
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The error, `what` and the list; `Ok` if there are no differences.
    ///
    /// # Errors
    /// `code`, with `help`.
    pub fn end(&self, code: &'static Code, what: &str, help: &str) -> athanor_ir::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut text = format!("{what}: {} difference{}", self.count, if self.count == 1 { "" } else { "s" });
        for d in &self.listed {
            let _ = write!(text, "\n  {d}");
        }
        if self.count > self.listed.len() {
            let _ = write!(text, "\n  … and {} more", self.count - self.listed.len());
        }
        Diagnostic::error(code, text).help(help).err()
    }
}
