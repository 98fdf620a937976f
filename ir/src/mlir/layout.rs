//! The text around MLIR's own printer and parser: long signatures are broken, deep nesting is refused.

/// Brackets may nest this deep.
pub(super) const DEEPEST: usize = 256;

/// Calls `see` with index and character of each ASCII character outside of strings and comments.
fn code_bytes(text: &str, mut see: impl FnMut(usize, u8)) {
    let bytes = text.as_bytes();
    let (mut string, mut comment, mut escaped) = (false, false, false);
    for (i, &b) in bytes.iter().enumerate() {
        if comment {
            comment = b != b'\n';
        } else if string {
            // MLIR's strings end at the line; so does a string that was never closed.
            string = b != b'\n' && (b != b'"' || escaped);
            escaped = b == b'\\' && !escaped;
        } else if b == b'"' {
            (string, escaped) = (true, false);
        } else if b == b'/' && bytes.get(i + 1) == Some(&b'/') {
            comment = true;
        } else {
            see(i, b);
        }
    }
}

/// The place where brackets nest deeper than [`DEEPEST`], if any.
pub(super) fn check_depth(text: &str) -> Result<(), usize> {
    let (mut depth, mut bad) = (0_usize, None);
    let mut last = 0;
    code_bytes(text, |i, b| {
        match b {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            // The arrow closes nothing.
            b'>' if last == b'-' => {}
            b')' | b']' | b'}' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        last = b;
        if depth > DEEPEST && bad.is_none() {
            bad = Some(i);
        }
    });
    bad.map_or(Ok(()), Err)
}

/// Puts each parameter and each result of a function on a line of its own; MLIR prints them all on one. Ends the text
/// with a line break.
pub(super) fn break_signatures(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    for line in text.split_inclusive('\n') {
        if !line.trim_start().starts_with("func.func ") {
            out.push_str(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let mut depth = 0_usize;
        let mut breaks = vec![];
        let mut last = 0;
        code_bytes(line, |i, b| {
            match b {
                b'(' if depth == 0 => {
                    breaks.push(i + 1);
                    depth = 1;
                }
                b'(' | b'[' | b'{' | b'<' => depth += 1,
                b'>' if last == b'-' => {}
                b')' | b']' | b'}' | b'>' => depth = depth.saturating_sub(1),
                b',' if depth == 1 => breaks.push(i + 1),
                _ => {}
            }
            last = b;
        });
        let mut from = 0;
        for at in breaks {
            // `()` stays as it is.
            if line[at..].starts_with(')') {
                continue;
            }
            out.push_str(line[from..at].trim_end_matches(' '));
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent + 4));
            from = at + line[at..].bytes().take_while(|b| *b == b' ').count();
        }
        out.push_str(&line[from..]);
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(check_depth(&"(".repeat(DEEPEST)), Ok(()));
        assert_eq!(check_depth(&"(".repeat(DEEPEST + 1)), Err(DEEPEST));
        assert_eq!(check_depth(&"(->".repeat(DEEPEST + 1)), Err(3 * DEEPEST));
        assert_eq!(check_depth(&"()".repeat(1000)), Ok(()));
        assert_eq!(check_depth(&format!("\"{}\" // {}", "(".repeat(1000), "{".repeat(1000))), Ok(()));
    }

    #[test]
    fn signatures_are_broken_between_parameters_only() {
        let line = "  func.func @f(%a: tensor<2xf32> {n = \"p, q(\"}, %b: i1) -> (i1 {x = [1, 2]}, i1) {\n";
        let want = "  func.func @f(\n      %a: tensor<2xf32> {n = \"p, q(\"},\n      %b: i1) -> (\n      i1 {x = [1, 2]},\n      i1) {\n";
        assert_eq!(break_signatures(line), want);
        assert_eq!(break_signatures("  func.func @f() {\n"), "  func.func @f() {\n");
    }
}
