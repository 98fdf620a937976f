//! How a scalar's text is read: `PyYAML`'s rules of YAML 1.1, relaxed where its users trip.

/// True for the spellings of null. `None` is Python's, and users write it.
pub(super) fn is_null(text: &str, plain: bool) -> bool {
    text == "None" || (plain && matches!(text, "" | "~" | "null" | "Null" | "NULL"))
}

/// A YAML 1.1 boolean.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// An integer in any of YAML 1.1's bases; a float without a fraction counts, so `1e6` steps are a million.
pub(super) fn integer(text: &str) -> Option<i64> {
    let clean = text.trim().replace('_', "");
    let (sign, digits) = match clean.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, clean.strip_prefix('+').unwrap_or(&clean)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let based = |prefix: &str, radix| digits.strip_prefix(prefix).map(|d| i64::from_str_radix(d, radix));
    let parsed = based("0x", 16).or_else(|| based("0b", 2)).or_else(|| based("0o", 8)).unwrap_or_else(|| {
        let octal = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| (b'0'..b'8').contains(&b));
        i64::from_str_radix(digits, if octal { 8 } else { 10 })
    });
    if let Ok(value) = parsed {
        return value.checked_mul(sign);
    }
    let value = float(text)?;
    // 2^53: beyond it a float no longer names one integer.
    (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i64)
}

/// A float, with or without a dot before the exponent.
///
/// YAML 1.1 as `PyYAML` reads it takes `1e-5` for a string; where a number is expected it is a number.
pub(super) fn float(text: &str) -> Option<f64> {
    let clean = text.trim().replace('_', "").to_ascii_lowercase();
    match clean.trim_start_matches('+') {
        ".inf" => return Some(f64::INFINITY),
        "-.inf" => return Some(f64::NEG_INFINITY),
        ".nan" => return Some(f64::NAN),
        _ => {}
    }
    // Rust would also take the words "inf", "infinity" and "nan".
    if clean.bytes().any(|b| !(b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'+' | b'-'))) {
        return None;
    }
    clean.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_users_write_them() {
        for (text, want) in
            [("1.e-8", 1e-8), ("1e-5", 1e-5), ("5.E-5", 5e-5), (".5", 0.5), ("1_000", 1000.0), ("+3", 3.0)]
        {
            assert_eq!(float(text), Some(want), "{text}");
        }
        for (text, want) in [("4096", 4096), ("-100", -100), ("0x10", 16), ("010", 8), ("1e6", 1_000_000), ("2.0", 2)] {
            assert_eq!(integer(text), Some(want), "{text}");
        }
        for text in ["", "abc", "1.5.2", "inf", "nan", "0x", "--1", "1e400x", "12a"] {
            assert_eq!(integer(text), None, "{text}");
        }
        assert_eq!(integer("2.5"), None);
        assert_eq!(integer("99999999999999999999"), None);
    }

    #[test]
    fn booleans_and_nulls() {
        assert_eq!(boolean("True"), Some(true));
        assert_eq!(boolean("off"), Some(false));
        assert_eq!(boolean("1"), None);
        assert!(is_null("None", false) && is_null("~", true) && !is_null("~", false) && !is_null("none", true));
    }
}
