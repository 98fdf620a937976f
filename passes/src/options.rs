//! Options of a pass: declared with type and default, checked before the pass is made.

use crate::pipeline::{Given, nearest};
use athanor_ir::{Code, Diagnostic, Result};

/// Type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number ≥ 0.
    Int,
    /// A number.
    Float,
    /// Any text; quote it if it holds `,`, `{`, `}` or `"`.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// Declaration of an option.
#[derive(Debug)]
pub struct Spec {
    /// Its name in pipelines.
    pub name: &'static str,
    /// Type of its value.
    pub kind: Kind,
    /// Value when it is not given, as it would be written.
    pub default: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

/// A pipeline gives a pass an option that it does not have.
pub const UNKNOWN_OPTION: Code = Code {
    id: "P0002",
    title: "the pass has no option of this name",
    explain: "Options are written in braces after the pass: `fuse{backend=cpu}`. `athanor explain PASS` lists them with \
              types and defaults.",
};

/// An option value does not have the declared type.
pub const BAD_OPTION: Code = Code {
    id: "P0003",
    title: "the value does not fit the option",
    explain: "Each option has a type: bool (true, false), int (a whole number from 0), float, text, or one of a list of \
              words. `athanor explain PASS` lists the options of a pass.",
};

/// Checked option values of one pass, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pass: &'static str,
    values: Vec<(&'static str, String)>,
}

impl Options {
    /// Checks the options given to `pass` against its declarations.
    ///
    /// # Errors
    /// [`UNKNOWN_OPTION`] or [`BAD_OPTION`].
    pub fn check(pass: &'static str, specs: &'static [Spec], given: &[Given]) -> Result<Self> {
        for (i, g) in given.iter().enumerate() {
            if !specs.iter().any(|s| s.name == g.name) {
                let text = format!("pass {pass} has no option {:?}", g.name);
                let help = match nearest(&g.name, specs.iter().map(|s| s.name)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if specs.is_empty() => format!("{pass} has no options"),
                    None => format!("its options are {}", specs.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")),
                };
                return Diagnostic::error(&UNKNOWN_OPTION, text).help(help).err();
            }
            if given[..i].iter().any(|o| o.name == g.name) {
                return Diagnostic::error(&BAD_OPTION, format!("option {} of pass {pass} is given twice", g.name))
                    .help("give it once")
                    .err();
            }
        }
        let mut values = vec![];
        for spec in specs {
            let value =
                given.iter().find(|g| g.name == spec.name).map_or_else(|| spec.default.to_owned(), |g| g.value.clone());
            let (fits, wants) = match spec.kind {
                Kind::Bool => (value.parse::<bool>().is_ok(), "true or false".to_owned()),
                Kind::Int => (value.parse::<u64>().is_ok(), "a whole number from 0".to_owned()),
                Kind::Float => (value.parse::<f64>().is_ok(), "a number".to_owned()),
                Kind::Text => (true, String::new()),
                Kind::Choice(words) => (words.contains(&value.as_str()), format!("one of {}", words.join(", "))),
            };
            if !fits {
                let text = format!("option {} of pass {pass} cannot be {value:?}", spec.name);
                return Diagnostic::error(&BAD_OPTION, text).help(format!("it wants {wants}: {}", spec.doc)).err();
            }
            values.push((spec.name, value));
        }
        Ok(Self { pass, values })
    }

    /// The value of option `name` as written.
    ///
    /// # Panics
    /// If the pass does not declare `name`: a mistake in the pass, found by the first test that makes it.
    pub fn text(&self, name: &str) -> &str {
        match self.values.iter().find(|(n, _)| *n == name) {
            Some((_, value)) => value,
            None => panic!("pass {} does not declare option {name}", self.pass),
        }
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> T {
        let Ok(value) = self.text(name).parse() else {
            panic!("option {name} of pass {} is not declared with this type", self.pass)
        };
        value
    }

    /// A [`Kind::Bool`] option.
    pub fn bool(&self, name: &str) -> bool {
        self.parsed(name)
    }

    /// A [`Kind::Int`] option.
    pub fn int(&self, name: &str) -> u64 {
        self.parsed(name)
    }

    /// A [`Kind::Float`] option.
    pub fn float(&self, name: &str) -> f64 {
        self.parsed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[Spec] = &[
        Spec { name: "budget", kind: Kind::Int, default: "7", doc: "Bytes." },
        Spec { name: "mode", kind: Kind::Choice(&["full", "auto"]), default: "auto", doc: "How." },
        Spec { name: "ratio", kind: Kind::Float, default: "0.5", doc: "Part." },
        Spec { name: "wide", kind: Kind::Bool, default: "false", doc: "Wide." },
    ];

    fn given(pairs: &[(&str, &str)]) -> Vec<Given> {
        pairs.iter().map(|(n, v)| Given { name: (*n).to_owned(), value: (*v).to_owned() }).collect()
    }

    #[test]
    fn values_override_defaults() {
        let o = Options::check("p", SPECS, &given(&[("mode", "full"), ("wide", "true")])).unwrap();
        assert_eq!((o.int("budget"), o.text("mode"), o.float("ratio"), o.bool("wide")), (7, "full", 0.5, true));
    }

    #[test]
    fn unknown_repeated_and_ill_typed_options_are_refused() {
        let error = |pairs: &[(&str, &str)]| Options::check("p", SPECS, &given(pairs)).unwrap_err();
        let e = error(&[("bugdet", "1")]);
        assert_eq!((e.code, e.help.as_deref()), (&UNKNOWN_OPTION, Some("did you mean `budget`?")));
        for bad in [("budget", "-1"), ("mode", "half"), ("ratio", "x"), ("wide", "1")] {
            assert_eq!(error(&[bad]).code, &BAD_OPTION, "{bad:?}");
        }
        assert_eq!(error(&[("wide", "true"), ("wide", "true")]).code, &BAD_OPTION);
    }
}
