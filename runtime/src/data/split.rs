//! Which sequences belong to the training, validation and test split.

use super::codes;
use athanor_ir::diag::{Diagnostic, Result};
use std::ops::Range;

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Training.
    Train,
    /// Validation.
    Valid,
    /// Test.
    Test,
}

impl Split {
    /// All splits in the order of `sizes`.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// MindFormers' name, used in cache files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// For each split the fractions of the data between which it lies; `None` for an empty one.
pub type SplitMatrix = [Option<(f64, f64)>; 3];

/// Reads `"98,2,0"`: numbers are found anywhere in the text, missing ones are 0, and they are normalised.
///
/// # Errors
/// D0009 if there are more than three numbers, one is malformed, or all are 0.
pub fn parse_split(split: &str) -> Result<SplitMatrix> {
    let parts: Vec<&str> = split.split(|c: char| !(c.is_ascii_digit() || c == '.')).filter(|p| !p.is_empty()).collect();
    let numbers: Option<Vec<f64>> = parts.iter().map(|p| p.parse().ok()).collect();
    let sum: f64 = numbers.iter().flatten().sum();
    let Some(numbers) = numbers.filter(|n| n.len() <= 3 && sum > 0.0 && sum.is_finite()) else {
        return Diagnostic::error(&codes::SPEC, format!("split: {split:?} is not a list of one to three shares"))
            .help("write the shares of train, valid and test, such as split: \"98, 2, 0\"")
            .err();
    };
    let mut matrix = [None; 3];
    let mut start = 0.0;
    for (entry, share) in matrix.iter_mut().zip(numbers) {
        let end = start + share / sum;
        *entry = (end > start).then_some((start, end));
        start = end;
    }
    Ok(matrix)
}

/// The sequences of `count` that lie between the fractions; ends are rounded to even, as Python does.
pub fn sequence_range(fractions: (f64, f64), count: usize) -> Range<usize> {
    let at = |f: f64| ((f * count as f64).round_ties_even() as usize).min(count);
    at(fractions.0)..at(fractions.1)
}

/// Shares of `weights` in their sum, added up in numpy's order.
pub fn normalize(weights: &[f64]) -> Vec<f64> {
    let sum = numpy_sum(weights);
    weights.iter().map(|w| w / sum).collect()
}

/// `numpy.sum`: eight partial sums per block of 128, blocks by halves.
fn numpy_sum(v: &[f64]) -> f64 {
    if v.len() < 8 {
        return v.iter().sum();
    }
    if v.len() > 128 {
        let half = v.len() / 2 / 8 * 8;
        return numpy_sum(&v[..half]) + numpy_sum(&v[half..]);
    }
    let (blocks, rest) = v.as_chunks::<8>();
    let mut r = blocks[0];
    for block in &blocks[1..] {
        r.iter_mut().zip(block).for_each(|(r, b)| *r += b);
    }
    let whole = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    rest.iter().fold(whole, |sum, x| sum + x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_adjacent_ranges() {
        assert_eq!(parse_split("1, 0, 0").unwrap(), [Some((0.0, 1.0)), None, None]);
        assert_eq!(parse_split("[0.5;0.25,.25]").unwrap(), [Some((0.0, 0.5)), Some((0.5, 0.75)), Some((0.75, 1.0))]);
        assert_eq!(parse_split("0,1").unwrap(), [None, Some((0.0, 1.0)), None]);
    }

    #[test]
    fn shares_without_a_meaning_are_refused() {
        for text in ["", "0,0,0", "1,2,3,4", "1..2", "abc"] {
            assert_eq!(parse_split(text).unwrap_err().code.id, "D0009", "{text}");
        }
    }

    #[test]
    fn ends_are_rounded_to_even() {
        assert_eq!(sequence_range((0.5, 1.0), 5), 2..5);
        assert_eq!(sequence_range((0.0, 0.5), 7), 0..4);
        assert_eq!(sequence_range((0.0, 1.0 + 1e-9), 5), 0..5);
    }

    #[test]
    fn sums_of_many_weights_follow_numpys_order() {
        // 0.1 ten times: eight partial sums and two more; the plain order gives 0.9999999999999999.
        assert_eq!(numpy_sum(&[0.1; 10]), 1.0);
        assert_eq!(numpy_sum(&[1.0; 300]), 300.0);
    }
}
