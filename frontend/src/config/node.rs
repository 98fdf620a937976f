//! The untyped tree between the YAML text and the typed sections: every key and value knows where it stands.

use std::sync::Arc;

use super::scalar;
use super::span::Span;

/// One value of the tree.
#[derive(Debug)]
pub(super) struct Node {
    /// From the first to the last byte of the value. A collection's range covers several lines.
    pub span: Span,
    pub kind: Kind,
    /// Number of values below and including this one, with aliases counted as often as they are used.
    pub weight: u64,
}

/// What a [`Node`] is.
#[derive(Debug)]
pub(super) enum Kind {
    Scalar { text: String, plain: bool },
    Seq(Vec<Arc<Node>>),
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Arc<Node>,
}

impl Node {
    pub fn new(span: Span, kind: Kind) -> Arc<Self> {
        let below = match &kind {
            Kind::Scalar { .. } => 0,
            Kind::Seq(items) => items.iter().fold(0u64, |n, i| n.saturating_add(i.weight)),
            Kind::Map(entries) => entries.iter().fold(0u64, |n, e| n.saturating_add(e.value.weight)),
        };
        Arc::new(Self { span, kind, weight: below.saturating_add(1) })
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain } if scalar::is_null(text, *plain))
    }

    /// The entries of a mapping; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// What this is, for "expected …, found …".
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Seq(items) => format!("a list of {}", items.len()),
            Kind::Map(_) => "a mapping".into(),
            Kind::Scalar { .. } if self.is_null() => "null".into(),
            Kind::Scalar { text, plain } => {
                let short: String = text.chars().take(40).collect();
                if *plain && scalar::boolean(text).is_some() {
                    format!("the boolean {short}")
                } else if *plain && scalar::float(text).is_some() {
                    format!("the number {short}")
                } else {
                    format!("the string {short:?}")
                }
            }
        }
    }

    /// True if both hold the same values, wherever they stand. Numbers and booleans compare by value.
    pub fn same_value(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Scalar { text: a, plain: p }, Kind::Scalar { text: b, plain: q }) => {
                a == b
                    || (scalar::is_null(a, *p) && scalar::is_null(b, *q))
                    || matches!((scalar::float(a), scalar::float(b)), (Some(x), Some(y)) if x == y)
                    || matches!((scalar::boolean(a), scalar::boolean(b)), (Some(x), Some(y)) if x == y)
            }
            (Kind::Seq(a), Kind::Seq(b)) => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.same_value(y)),
            (Kind::Map(a), Kind::Map(b)) => {
                a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| x.key == y.key && x.value.same_value(&y.value)))
            }
            _ => false,
        }
    }
}
