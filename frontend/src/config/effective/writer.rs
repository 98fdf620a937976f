//! YAML text, a line at a time.

use std::fmt::Write as _;

/// Writes `key: value` lines at an indentation.
#[derive(Default)]
pub(super) struct Writer {
    pub text: String,
    pub depth: usize,
}

impl Writer {
    pub fn section(&mut self, key: &str, body: impl FnOnce(&mut Self)) {
        self.raw(key, "");
        self.depth += 1;
        body(self);
        self.depth -= 1;
    }

    /// An entry of a list, which is a mapping.
    pub fn item(&mut self, body: impl FnOnce(&mut Self)) {
        let start = self.text.len();
        self.depth += 1;
        body(self);
        self.depth -= 1;
        // The dash takes the place of the first key's last two spaces.
        let dash = start + self.depth * 2;
        if self.text.len() > dash + 2 {
            self.text.replace_range(dash..dash + 2, "- ");
        }
    }

    pub fn raw(&mut self, key: &str, value: &str) {
        let space = if value.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{:indent$}{key}:{space}{value}", "", indent = self.depth * 2);
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.raw(key, &quoted(value));
    }

    pub fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.raw(key, &value.to_string());
    }

    pub fn float(&mut self, key: &str, value: f64) {
        self.raw(key, &float(value));
    }

    pub fn boolean(&mut self, key: &str, value: bool) {
        self.raw(key, if value { "True" } else { "False" });
    }
}

/// A double-quoted scalar.
pub(super) fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out + "\""
}

/// A float that every YAML reader takes for one: with a dot before the exponent.
pub(super) fn float(value: f64) -> String {
    let plain = format!("{value:?}");
    match plain.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => plain,
    }
}
