//! The text form of a pipeline: `a,b{k=v,k2="x, y"}`.

use athanor_ir::{Code, Diagnostic, Result};

/// A pipeline text that cannot be read.
pub const BAD_PIPELINE: Code = Code {
    id: "P0004",
    title: "the pipeline cannot be read",
    explain: "A pipeline is a list of passes separated by commas, each with optional options in braces: \
              `simplify,recompute{mode=auto,budget=1000000},dce`. Quote a value that holds a comma, brace or quote.",
};

/// One pass of a pipeline as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Name of the pass.
    pub pass: String,
    /// Options in the order given.
    pub options: Vec<Given>,
}

/// An option as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Left of `=`.
    pub name: String,
    /// Right of `=`, without quotes.
    pub value: String,
}

/// The candidate that a misspelt `name` most likely means, if any is near.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    candidates
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// Reads a pipeline.
///
/// # Errors
/// [`BAD_PIPELINE`], naming the byte at which reading stopped.
pub fn parse(text: &str) -> Result<Vec<Stage>> {
    let mut reader = Reader { text, at: 0 };
    let mut stages = vec![];
    reader.blanks();
    while reader.at < text.len() {
        let pass = reader.word("a pass name")?;
        let mut options = vec![];
        if reader.eat('{') {
            while !reader.eat('}') {
                let name = reader.word("an option name")?;
                reader.expect('=')?;
                options.push(Given { name, value: reader.value()? });
                if !reader.eat(',') && !reader.peek('}') {
                    return reader.fail("`,` or `}`");
                }
            }
        }
        stages.push(Stage { pass, options });
        if reader.at < text.len() {
            reader.expect(',')?;
            if reader.at == text.len() {
                return reader.fail("a pass name");
            }
        }
    }
    Ok(stages)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn fail<T>(&self, wanted: &str) -> Result<T> {
        let found = self.rest().chars().next().map_or_else(|| "the end".to_owned(), |c| format!("{c:?}"));
        let text = format!("pipeline {:?}: expected {wanted} at byte {}, found {found}", self.text, self.at);
        Diagnostic::error(&BAD_PIPELINE, text).help("write passes as `a,b{option=value,other=value}`").err()
    }

    fn peek(&self, c: char) -> bool {
        self.rest().starts_with(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek(c);
        if found {
            self.at += c.len_utf8();
            self.blanks();
        }
        found
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.fail(&format!("`{c}`")) }
    }

    /// Takes characters for as long as `wanted`, then blanks.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let word: String = self.rest().chars().take_while(|c| wanted(*c)).collect();
        self.at += word.len();
        self.blanks();
        word
    }

    fn word(&mut self, what: &str) -> Result<String> {
        let word = self.take(|c| c.is_alphanumeric() || c == '-' || c == '_');
        if word.is_empty() { self.fail(what) } else { Ok(word) }
    }

    fn value(&mut self) -> Result<String> {
        if !self.peek('"') {
            return Ok(self.take(|c| !matches!(c, ',' | '{' | '}' | '"')).trim_end().to_owned());
        }
        let mut value = String::new();
        let mut chars = self.text[self.at + 1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 2;
                    self.blanks();
                    return Ok(value);
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        self.fail("a closing quote")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(pass: &str, options: &[(&str, &str)]) -> Stage {
        let options = options.iter().map(|(n, v)| Given { name: (*n).into(), value: (*v).into() }).collect();
        Stage { pass: pass.into(), options }
    }

    #[test]
    fn passes_and_options_are_read() {
        assert_eq!(parse(" ").unwrap(), vec![]);
        let text = r#"a-b , c{ x = 1,y="p, \"q\"}" } ,d{}"#;
        let want = vec![stage("a-b", &[]), stage("c", &[("x", "1"), ("y", "p, \"q\"}")]), stage("d", &[])];
        assert_eq!(parse(text).unwrap(), want);
    }

    #[test]
    fn bad_texts_say_where() {
        for (text, at) in [("a,", 2), (",a", 0), ("a b", 2), ("a{x}", 3), ("a{x=1", 5), ("a{x=\"1", 4), ("a}", 1)] {
            let e = parse(text).unwrap_err();
            assert!(e.code == &BAD_PIPELINE && e.message.contains(&format!("at byte {at},")), "{text}: {e}");
        }
    }
}
