//! Typed reading of one section: every key that is asked for is ticked off, and what is left over is reported.

use std::collections::{BTreeMap, BTreeSet};

use athanor_ir::Diagnostic;

use super::codes;
use super::known;
use super::node::{Entry, Kind, Node};
use super::report::Report;
use super::scalar;
use super::span::{Span, Spanned};

/// Unknown keys of one section that are reported; each is compared with every known one.
const MAX_UNKNOWN: usize = 200;

/// A value type that a node can be read as.
pub(super) trait FromNode: Sized {
    /// What a user should write, for "expected …".
    const EXPECTED: &'static str;
    fn from_node(node: &Node) -> Option<Self>;
}

impl FromNode for bool {
    const EXPECTED: &'static str = "a boolean";
    fn from_node(node: &Node) -> Option<Self> {
        match &node.kind {
            Kind::Scalar { text, plain: true } => scalar::boolean(text),
            _ => None,
        }
    }
}

impl FromNode for i64 {
    const EXPECTED: &'static str = "an integer";
    fn from_node(node: &Node) -> Option<Self> {
        scalar::integer(node.text()?)
    }
}

impl FromNode for u64 {
    const EXPECTED: &'static str = "an integer that is not negative";
    fn from_node(node: &Node) -> Option<Self> {
        i64::from_node(node)?.try_into().ok()
    }
}

impl FromNode for usize {
    const EXPECTED: &'static str = "an integer that is not negative";
    fn from_node(node: &Node) -> Option<Self> {
        i64::from_node(node)?.try_into().ok()
    }
}

impl FromNode for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_node(node: &Node) -> Option<Self> {
        scalar::float(node.text()?).filter(|v| v.is_finite())
    }
}

impl FromNode for String {
    const EXPECTED: &'static str = "a string";
    fn from_node(node: &Node) -> Option<Self> {
        node.text().map(str::to_owned)
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    const EXPECTED: &'static str = "a list";
    fn from_node(node: &Node) -> Option<Self> {
        match &node.kind {
            Kind::Seq(items) => items.iter().map(|i| T::from_node(i)).collect(),
            _ => None,
        }
    }
}

impl FromNode for [f64; 2] {
    const EXPECTED: &'static str = "a list of two numbers";
    fn from_node(node: &Node) -> Option<Self> {
        Vec::from_node(node)?.try_into().ok()
    }
}

/// A key of a section as it was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub written: &'a str,
    pub key_span: Span,
    pub node: &'a Node,
}

impl<'a> From<&'a Entry> for Field<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self { written: &entry.key, key_span: entry.key_span, node: &entry.value }
    }
}

/// What an unknown key in a section means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The section has a fixed set of keys: an error.
    Strict,
    /// The section takes any key and ignores what it does not know: a warning.
    Open,
}

/// A mapping being read.
pub(super) struct Section<'a> {
    pub report: &'a Report,
    /// Dotted path from the top, empty at the top.
    pub path: String,
    /// Where the section's own key stands, or that of the section around it if this one is absent.
    pub span: Option<Span>,
    fields: BTreeMap<&'a str, Field<'a>>,
    taken: BTreeSet<&'a str>,
}

impl<'a> Section<'a> {
    /// The section under `entry`; an absent or empty one is a section without keys.
    pub fn new(report: &'a Report, path: impl Into<String>, entry: Option<Field<'a>>) -> Self {
        let path = path.into();
        let mut fields = BTreeMap::new();
        if let Some(field) = entry.filter(|f| !f.node.is_null()) {
            if matches!(field.node.kind, Kind::Map(_)) {
                fields = field.node.entries().iter().map(|e| (e.key.as_str(), Field::from(e))).collect();
            } else {
                wrong_type(report, &path, field, "a mapping");
            }
        }
        Self { report, path, span: entry.map(|f| f.key_span), fields, taken: BTreeSet::new() }
    }

    /// A section over fields that were put together elsewhere, under the names to look them up by.
    pub fn from_fields(
        report: &'a Report,
        path: impl Into<String>,
        span: Option<Span>,
        fields: BTreeMap<&'a str, Field<'a>>,
    ) -> Self {
        Self { report, path: path.into(), span, fields, taken: BTreeSet::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The field as written, null or not, without ticking it off.
    pub fn peek(&self, key: &str) -> Option<Field<'a>> {
        self.fields.get(key).copied()
    }

    /// The field as written, unless it is absent or null.
    pub fn field(&mut self, key: &'a str) -> Option<Field<'a>> {
        self.taken.insert(key);
        self.peek(key).filter(|f| !f.node.is_null())
    }

    /// Dotted path of a key, as written.
    pub fn path_of(&self, key: &str) -> String {
        let written = self.peek(key).map_or(key, |f| f.written);
        if self.path.is_empty() { written.to_owned() } else { format!("{}.{written}", self.path) }
    }

    /// The value of `key`; `None` if it is absent, null, or (after a diagnostic) of the wrong type.
    pub fn opt<T: FromNode>(&mut self, key: &'a str) -> Option<Spanned<T>> {
        let field = self.field(key)?;
        let value = T::from_node(field.node);
        if value.is_none() {
            wrong_type(self.report, &self.path_of(key), field, T::EXPECTED);
        }
        Some(Spanned::at(value?, field.node.span))
    }

    /// The value of `key`, or `default`.
    pub fn get<T: FromNode>(&mut self, key: &'a str, default: T) -> Spanned<T> {
        self.opt(key).unwrap_or_else(|| Spanned::default(default))
    }

    /// A value that must satisfy `allowed`, which `rule` puts into words: "must be at least 1".
    pub fn checked<T: FromNode>(
        &mut self,
        key: &'a str,
        default: T,
        rule: &str,
        allowed: impl Fn(&T) -> bool,
    ) -> Spanned<T> {
        self.opt_checked(key, rule, allowed).unwrap_or_else(|| Spanned::default(default))
    }

    /// As [`Section::checked`], for a key without a default.
    pub fn opt_checked<T: FromNode>(
        &mut self,
        key: &'a str,
        rule: &str,
        allowed: impl Fn(&T) -> bool,
    ) -> Option<Spanned<T>> {
        let value = self.opt::<T>(key)?;
        if allowed(&value.value) {
            return Some(value);
        }
        let found = self.peek(key).map_or_else(String::new, |f| f.node.describe());
        let message = format!("`{}` {rule}, found {found}", self.path_of(key));
        self.error_at(Diagnostic::error(&codes::OUT_OF_RANGE, message), value.span, rule);
        None
    }

    /// An integer of at least 1.
    pub fn positive(&mut self, key: &'a str, default: usize) -> Spanned<usize> {
        self.checked(key, default, "must be at least 1", |v| *v >= 1)
    }

    /// A number in `[0, 1)`.
    pub fn dropout(&mut self, key: &'a str, default: f64) -> Spanned<f64> {
        self.checked(key, default, "must be at least 0 and below 1", |v| (0.0..1.0).contains(v))
    }

    /// One of the names in `table`.
    pub fn one_of<T: Copy>(&mut self, key: &'a str, table: &[(&str, T)], default: T) -> Spanned<T> {
        self.opt_one_of(key, table).unwrap_or_else(|| Spanned::default(default))
    }

    /// One of the names in `table`, for a key without a default.
    pub fn opt_one_of<T: Copy>(&mut self, key: &'a str, table: &[(&str, T)]) -> Option<Spanned<T>> {
        let text = self.opt::<String>(key)?;
        if let Some((_, value)) = table.iter().find(|(name, _)| *name == text.value) {
            return Some(text.map(|_| *value));
        }
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        let message = format!("`{}` cannot be `{}`", self.path_of(key), text.value);
        let help = match known::nearest(&text.value, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? Accepted: {}", names.join(", ")),
            None => format!("accepted: {}", names.join(", ")),
        };
        self.error_at(Diagnostic::error(&codes::OUT_OF_RANGE, message).help(help), text.span, "not one of the names");
        None
    }

    /// The section under `key`.
    pub fn section(&mut self, key: &'a str) -> Section<'a> {
        let path = self.path_of(key);
        self.taken.insert(key);
        let section = Section::new(self.report, path, self.peek(key));
        // What is missing from an absent section is missing from the one around it.
        Section { span: section.span.or(self.span), ..section }
    }

    /// Reports `diagnostic` at `span`, or at the section's key if there is no span.
    pub fn error_at(&self, diagnostic: Diagnostic, span: Option<Span>, text: &str) {
        self.report.push(self.report.mark(diagnostic, span.or(self.span), text));
    }

    /// Reports that `key` is missing.
    pub fn missing(&self, key: &str, help: &str) {
        let message = format!("`{}` is missing", self.path_of(key));
        let found = Diagnostic::error(&codes::MISSING_KEY, message).help(help);
        self.error_at(found, None, "in this section");
    }

    /// Reports a setting that changes what is computed and cannot be done yet.
    pub fn not_supported(&self, span: Option<Span>, what: &str, help: &str) {
        let found = Diagnostic::error(&codes::NOT_SUPPORTED, format!("{what} is not supported yet")).help(help);
        self.error_at(found, span, "asked for here");
    }

    /// Ticks off keys without reading them.
    pub fn take(&mut self, keys: &[&'a str]) {
        self.taken.extend(keys);
    }

    /// Reports every key that was not asked for: known ones in one note, unknown ones each by `rule`.
    pub fn finish(self, rule: Rule) {
        let known = known::keys(&self.path);
        self.finish_with(rule, &known);
    }

    /// What was not asked for so far, with the names to look it up by.
    pub fn left(&self) -> Vec<(&'a str, Field<'a>)> {
        self.fields.iter().filter(|(key, _)| !self.taken.contains(*key)).map(|(k, f)| (*k, *f)).collect()
    }

    /// As [`Section::finish`], with the section's known keys given.
    pub fn finish_with(self, rule: Rule, known: &[&str]) {
        self.finish_among(rule, known, &[]);
    }

    /// As [`Section::finish_with`], with `more` names that a misspelt key may have meant.
    pub fn finish_among(self, rule: Rule, known: &[&str], more: &[&str]) {
        let left = self.left().into_iter().map(|(_, f)| f);
        let (idle, unknown): (Vec<Field>, Vec<Field>) = left.partition(|f| known.contains(&f.written));
        for field in idle {
            self.report.idle(&self.path, field.written, field.key_span);
        }
        let candidates = || self.taken.iter().chain(known).chain(more).copied();
        for field in unknown.into_iter().take(MAX_UNKNOWN) {
            let place = if self.path.is_empty() { "at the top level".into() } else { format!("in `{}`", self.path) };
            let (code, verb) = match rule {
                Rule::Strict => (&codes::UNKNOWN_KEY, "unknown key"),
                Rule::Open => (&codes::UNKNOWN_OPEN_KEY, "unknown key, which will be ignored"),
            };
            let mut found = Diagnostic::error(code, format!("{verb}: `{}` {place}", field.written));
            if rule == Rule::Open {
                found = Diagnostic { severity: athanor_ir::diag::Severity::Warning, ..found };
            }
            let near = known::nearest(field.written, candidates());
            let homes = known::homes(field.written, &self.path);
            let mut help = vec![];
            if let Some(near) = near {
                help.push(format!("did you mean `{near}`?"));
            }
            if !homes.is_empty() {
                help.push(format!("`{}` belongs to {}", field.written, homes.join(" or ")));
            }
            if help.is_empty() {
                help.push("remove it".into());
            }
            self.report.push(self.report.mark(found.help(help.join(" ")), Some(field.key_span), "unknown"));
        }
    }
}

/// What a value of an expected type looks like.
const EXAMPLES: &[(&str, &str)] = &[
    (bool::EXPECTED, "True or False"),
    (i64::EXPECTED, "a whole number, such as 8 or -1"),
    (u64::EXPECTED, "a whole number, such as 8"),
    (f64::EXPECTED, "a number, such as 0.1 or 3.e-4"),
    (String::EXPECTED, "a word or a text in quotes"),
    (<[f64; 2]>::EXPECTED, "two numbers, such as [0.9, 0.95]"),
    ("a list", "a list: [a, b], or an item a line after `- `"),
    ("a mapping", "`key: value` lines, indented below it"),
];

/// Reports that the value of `path` should have been `expected`.
pub(super) fn wrong_type(report: &Report, path: &str, field: Field<'_>, expected: &str) {
    let message = format!("`{path}` must be {expected}, found {}", field.node.describe());
    let mut found = Diagnostic::error(&codes::WRONG_TYPE, message);
    if let Some((_, example)) = EXAMPLES.iter().find(|(name, _)| *name == expected) {
        found = found.help(format!("write {example}"));
    }
    if let Kind::Scalar { text, plain: false } = &field.node.kind
        && expected == bool::EXPECTED
        && scalar::boolean(text).is_some()
    {
        found = found.help("remove the quotes");
    }
    report.push(report.mark(found, Some(field.node.span), format!("expected {expected}")));
}
