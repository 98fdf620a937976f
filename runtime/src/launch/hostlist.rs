//! Slurm's host lists: `n[0-1],gpu[08-11,20]-ib` names many hosts in one string.

use std::fmt::Write as _;

/// Hosts of a list beyond which it is taken for damaged.
const MOST: usize = 1 << 20;

/// The hosts of `list` in order. Numbers keep the zeros they are written with; a name may have several brackets.
///
/// # Errors
/// What is wrong with the list, in words.
pub fn expand(list: &str) -> Result<Vec<String>, String> {
    let mut hosts = vec![];
    for name in split(list)? {
        let all = one(name)?;
        if hosts.len() + all.len() > MOST {
            return Err(format!("more than {MOST} hosts"));
        }
        hosts.extend(all);
    }
    Ok(hosts)
}

/// The names of a list: parts between commas outside brackets.
fn split(list: &str) -> Result<Vec<&str>, String> {
    let (mut names, mut start, mut inside) = (vec![], 0, false);
    for (i, c) in list.char_indices() {
        match c {
            '[' if inside => return Err("a bracket within a bracket".into()),
            '[' => inside = true,
            ']' if !inside => return Err("a bracket closes that was not opened".into()),
            ']' => inside = false,
            ',' if !inside => {
                names.push(&list[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("a bracket is not closed".into());
    }
    names.push(&list[start..]);
    if names.iter().any(|n| n.trim().is_empty()) { Err("an empty host name".into()) } else { Ok(names) }
}

/// The hosts of one name, its first bracket varying slowest.
fn one(name: &str) -> Result<Vec<String>, String> {
    let name = name.trim();
    let Some((before, rest)) = name.split_once('[') else { return Ok(vec![name.to_owned()]) };
    let Some((ranges, after)) = rest.split_once(']') else { return Err("a bracket is not closed".into()) };
    let tails = if after.is_empty() { vec![String::new()] } else { one(after)? };
    let mut hosts = vec![];
    for range in ranges.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<usize>().ok()).flatten().ok_or_else(|| format!("{text:?} is no number"))
        };
        let (first, last) = (number(low)?, number(high)?);
        if first > last || (last - first).saturating_mul(tails.len()) > MOST {
            return Err(format!("a range from {low} to {high}"));
        }
        for n in first..=last {
            let mut host = before.to_owned();
            // Writing to a string cannot fail.
            let _ = write!(host, "{n:0width$}", width = low.len());
            hosts.extend(tails.iter().map(|t| format!("{host}{t}")));
        }
        if hosts.len() > MOST {
            return Err(format!("more than {MOST} hosts"));
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::expand;
    use proptest::prelude::*;

    #[test]
    fn lists_as_slurm_writes_them_expand() {
        let cases: [(&str, &[&str]); 7] = [
            ("localhost", &["localhost"]),
            ("n[0-1]", &["n0", "n1"]),
            ("gpu[08-11,20]", &["gpu08", "gpu09", "gpu10", "gpu11", "gpu20"]),
            ("a,b[2-3],c", &["a", "b2", "b3", "c"]),
            ("r[1-2]n[0-1]-ib", &["r1n0-ib", "r1n1-ib", "r2n0-ib", "r2n1-ib"]),
            ("n[099-101]", &["n099", "n100", "n101"]),
            ("node[5].site", &["node5.site"]),
        ];
        for (list, hosts) in cases {
            assert_eq!(expand(list).as_deref(), Ok(&hosts.iter().map(ToString::to_string).collect::<Vec<_>>()[..]));
        }
    }

    #[test]
    fn damaged_lists_are_told() {
        for list in ["", "a,,b", "n[0-1", "n0-1]", "n[[0]]", "n[3-1]", "n[a-b]", "n[]", "n[0-99999999999]", "n[-1]"] {
            assert!(expand(list).is_err(), "{list:?} expands");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "[a-c0-9\\[\\],-]{0,24}") {
            if let Ok(hosts) = expand(&text) {
                prop_assert!(!hosts.is_empty());
            }
        }
    }
}
