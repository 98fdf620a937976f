//! Numbers and paragraphs as people read them.

use std::fmt::Write as _;

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A size in the binary unit that keeps it below 1024.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = (n.max(1).ilog2() / 10) as usize;
    if power == 0 {
        format!("{n} B")
    } else {
        format!("{:.1} {}", n as f64 / 1024_f64.powi(power as i32), units[power])
    }
}

/// A count in the decimal unit that keeps it below 1000: `6.55 G`.
pub fn scaled(x: f64) -> String {
    let units = ["", " k", " M", " G", " T", " P", " E", " Z", " Y"];
    let power = if x >= 1.0 { ((x.log10() / 3.0) as usize).min(units.len() - 1) } else { 0 };
    if power == 0 { format!("{x:.0}") } else { format!("{:.2}{}", x / 1000_f64.powi(power as i32), units[power]) }
}

/// `text` in lines that fit a terminal.
pub fn wrapped(text: &str) -> String {
    textwrap::fill(text, 100)
}

/// Rows in columns; the first column is aligned left, the others right unless `left` names them.
pub fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for (c, cell) in row.iter().enumerate() {
            let w = widths[c];
            // Writing to a string cannot fail.
            let _ =
                if c == 0 || left.contains(&c) { write!(line, "{cell:<w$}  ") } else { write!(line, "{cell:>w$}  ") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1024, 3 << 19, u64::MAX].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "16.0 EiB"]);
        assert_eq!([0.0, 999.0, 1000.0, 6.553e9].map(scaled), ["0", "999", "1.00 k", "6.55 G"]);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1", "x"], ["bcd", "10", "yz"]].map(|r| r.map(String::from).to_vec());
        assert_eq!(table(&rows, &[2]), "  a     1  x\n  bcd  10  yz\n");
    }
}
