//! Cleaning of raw wikitext, as MindFormers' scripts do it, on a stream.
//!
//! The scripts run a list of replacements over the whole file, one after the other. Here each replacement is a stage
//! that keeps back only what a match could still begin in, so that the result is the same and memory stays small.

/// One replacement.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// A text by another one.
    Literal(&'static str, &'static str),
    /// White space after an opening and before the next closing character is removed.
    Pair(char, char),
}

use Rule::{Literal, Pair};

/// In the order in which they apply.
const RULES: &[Rule] = &[
    Literal("s '", "s'"),
    // The scripts mean something else by this, but it is what their pattern says.
    Literal("/' 0/", "/'[0-9]/"),
    Literal("/' 1/", "/'[0-9]/"),
    Literal("/' 2/", "/'[0-9]/"),
    Literal("/' 3/", "/'[0-9]/"),
    Literal("/' 4/", "/'[0-9]/"),
    Literal("/' 5/", "/'[0-9]/"),
    Literal("/' 6/", "/'[0-9]/"),
    Literal("/' 7/", "/'[0-9]/"),
    Literal("/' 8/", "/'[0-9]/"),
    Literal("/' 9/", "/'[0-9]/"),
    // Separators inside numbers.
    Literal(" @-@ ", "-"),
    Literal(" @,@ ", ","),
    Literal(" @.@ ", "."),
    // Punctuation.
    Literal(" : ", ": "),
    Literal(" ; ", "; "),
    Literal(" . ", ". "),
    Literal(" .", "."),
    Literal(" ! ", "! "),
    Literal(" ? ", "? "),
    Literal(" , ", ", "),
    // Brackets and quotes.
    Pair('(', ')'),
    Pair('[', ']'),
    Pair('{', '}'),
    Pair('"', '"'),
    Pair('\'', '\''),
    // The rest.
    Literal("= = = =", "===="),
    Literal("= = =", "==="),
    Literal("= =", "=="),
    Literal(" ° ", "°"),
    Literal(" \n", "\n"),
    Literal("\n ", "\n"),
    Literal(" N ", " 1 "),
    Literal(" 's", "'s"),
];

/// A text that waits longer than this for its closing bracket passes unchanged.
const MAX_HELD: usize = 1 << 20;

/// Cleans text that comes in pieces.
#[derive(Debug)]
pub struct WikitextCleaner {
    /// What each rule keeps back.
    held: Vec<String>,
}

impl Default for WikitextCleaner {
    fn default() -> Self {
        Self { held: vec![String::new(); RULES.len()] }
    }
}

impl WikitextCleaner {
    /// Cleans the next piece; what comes out may lag behind.
    pub fn push(&mut self, text: &str) -> String {
        self.run(text.to_string(), false)
    }

    /// Gives what was kept back.
    pub fn finish(&mut self) -> String {
        self.run(String::new(), true)
    }

    fn run(&mut self, mut text: String, end: bool) -> String {
        for (rule, held) in RULES.iter().zip(&mut self.held) {
            held.push_str(&text);
            text = match *rule {
                Literal(from, to) => literal(held, from, to, end),
                Pair(open, close) => pair(held, open, close, end),
            };
        }
        text
    }
}

/// Replaces in `held` and takes out all that no later text can change.
fn literal(held: &mut String, from: &str, to: &str, end: bool) -> String {
    let mut out = String::with_capacity(held.len());
    let mut done = 0;
    while let Some(at) = held[done..].find(from) {
        out.push_str(&held[done..done + at]);
        out.push_str(to);
        done += at + from.len();
    }
    // A match may begin in the last bytes; the longest tail that is a beginning of `from` stays.
    let rest = &held[done..];
    let tail = (1..from.len().min(rest.len() + 1))
        .rev()
        .find(|&n| from.is_char_boundary(n) && rest.ends_with(&from[..n]))
        .filter(|_| !end)
        .unwrap_or(0);
    let keep = held.len() - tail;
    out.push_str(&held[done..keep]);
    held.drain(..keep);
    out
}

fn pair(held: &mut String, open: char, close: char, end: bool) -> String {
    let mut out = String::with_capacity(held.len());
    let mut done = 0;
    while let Some(start) = held[done..].find(open).map(|at| done + at + open.len_utf8()) {
        let Some(stop) = held[start..].find(close).map(|at| start + at) else {
            let waits = start - open.len_utf8();
            if end || held.len() - waits > MAX_HELD {
                break;
            }
            out.push_str(&held[done..waits]);
            held.drain(..waits);
            return out;
        };
        out.push_str(&held[done..start]);
        out.push_str(held[start..stop].trim_matches(py_space));
        out.push(close);
        done = stop + close.len_utf8();
    }
    out.push_str(&held[done..]);
    held.clear();
    out
}

/// White space as Python's `\s` has it.
fn py_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(text: &str) -> String {
        let mut cleaner = WikitextCleaner::default();
        cleaner.push(text) + &cleaner.finish()
    }

    #[test]
    fn wikitext_markup_becomes_plain_text() {
        let raw = " = Robert Boulter = \n \n Robert Boulter is an English film , television and theatre actor . He had a \
                   guest @-@ starring role on the series \" The Bill \" in 2000 ( in the episode ' Time ' ) , for 1 @,@ 500 \
                   pounds ; N = = Career = = it 's 3 @.@ 5 ° C [ sic ] \n";
        let expected = " = Robert Boulter =\n\nRobert Boulter is an English film, television and theatre actor. He had a \
                        guest-starring role on the series \"The Bill\" in 2000 (in the episode 'Time'), for 1,500 \
                        pounds; 1 == Career == it's 3.5°C [sic]\n";
        // The apostrophe of "it 's" pairs with nothing, as in the scripts.
        assert_eq!(clean(raw), expected);
    }

    #[test]
    fn an_opening_without_a_closing_stays() {
        assert_eq!(clean("a ( b"), "a ( b");
        assert_eq!(clean("a ( b ) ( c"), "a (b) ( c");
    }

    proptest! {
        #[test]
        fn cleaning_does_not_depend_on_the_pieces(
            words in prop::collection::vec(prop::sample::select(vec![
                " ", "\n", ".", ",", "@-@", "@", "(", ")", "\"", "'", "s", "=", "°", "N", "a", "[", "}", "/' 3/", "é",
            ]), 0..60),
            cuts in prop::collection::vec(0_usize..60, 0..6),
        ) {
            let mut cleaner = WikitextCleaner::default();
            let mut pieces = String::new();
            for (i, word) in words.iter().enumerate() {
                let cut = cuts.contains(&i);
                pieces += &cleaner.push(word);
                if cut {
                    pieces += &cleaner.push("");
                }
            }
            pieces += &cleaner.finish();
            prop_assert_eq!(pieces, clean(&words.concat()));
        }
    }
}
