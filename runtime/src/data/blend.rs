//! Interleaving of several datasets.

use super::codes;
use super::split::normalize;
use athanor_ir::diag::{Diagnostic, Result};

/// Prefixes with their weights, as the config's lists give them.
#[derive(Debug, Clone, PartialEq)]
pub struct BlendSpec {
    /// Dataset prefixes.
    pub prefixes: Vec<String>,
    /// One weight per prefix, summing to 1; `None` if the list has paths only.
    pub weights: Option<Vec<f64>>,
}

impl BlendSpec {
    /// Reads `[w1, p1, w2, p2, …]` or `[p1, p2, …]`: an odd length or a first item of a pair that is no number means
    /// that there are no weights.
    ///
    /// # Errors
    /// D0009 if the list is empty or weights are negative, not finite, or all zero.
    pub fn parse(list: &[String]) -> Result<Self> {
        let items: Vec<&str> = list.iter().map(|s| s.trim()).collect();
        let bad = |message: String| {
            Diagnostic::error(&codes::SPEC, message)
                .help("write data_path as [weight1, prefix1, weight2, prefix2, ...] or as a list of prefixes")
                .err()
        };
        if items.is_empty() {
            return bad("data_path is empty".into());
        }
        let (pairs, rest) = items.as_chunks::<2>();
        let weights: Option<Vec<f64>> = pairs.iter().map(|[w, _]| w.parse().ok()).collect();
        let Some(weights) = weights.filter(|_| rest.is_empty()) else {
            return Ok(Self { prefixes: items.iter().map(ToString::to_string).collect(), weights: None });
        };
        if let Some([w, p]) = pairs.iter().find(|[w, _]| !w.parse().is_ok_and(|w: f64| w > 0.0 && w.is_finite())) {
            return bad(format!("the weight {w} of {p} is not a positive number"));
        }
        let prefixes = pairs.iter().map(|[_, p]| (*p).to_string()).collect();
        Ok(Self { prefixes, weights: Some(normalize(&weights)) })
    }
}

/// Samples to ask of each dataset for a blend of `size`: a half percent more than its share, rounded up.
pub fn size_per_dataset(weights: &[f64], size: u64) -> Vec<u64> {
    weights.iter().map(|w| (size as f64 * w * 1.005).ceil() as u64).collect()
}

/// For each sample of a blend which dataset it comes from, and its number there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlendIndex {
    /// Number of the dataset.
    pub dataset: Vec<i16>,
    /// Number of the sample in that dataset.
    pub sample: Vec<i64>,
}

impl BlendIndex {
    fn with_capacity(size: u64) -> Result<Self> {
        let mut index = Self::default();
        let reserved = usize::try_from(size)
            .ok()
            .is_some_and(|n| index.dataset.try_reserve_exact(n).is_ok() && index.sample.try_reserve_exact(n).is_ok());
        if reserved {
            return Ok(index);
        }
        Diagnostic::error(&codes::SPEC, format!("an index of {size} blended samples does not fit in memory"))
            .help("ask for fewer samples under sizes")
            .err()
    }
}

/// Interleaves datasets so that each sample goes to the dataset that is furthest behind its weight.
///
/// # Errors
/// D0009 if `size` samples do not fit in memory.
pub fn weighted(weights: &[f64], size: u64) -> Result<BlendIndex> {
    interleave(weights, size, None)
}

/// The same with weights in proportion to `lengths`, each dataset being used up exactly once; stops at `limit` samples.
///
/// # Errors
/// D0009 if the samples do not fit in memory.
pub fn exhaustive(lengths: &[u64], limit: Option<u64>) -> Result<BlendIndex> {
    let total: u64 = lengths.iter().sum();
    let weights: Vec<f64> = lengths.iter().map(|&l| l as f64 / total as f64).collect();
    interleave(&weights, limit.map_or(total, |l| l.min(total)), Some(lengths))
}

fn interleave(weights: &[f64], size: u64, lengths: Option<&[u64]>) -> Result<BlendIndex> {
    let mut index = BlendIndex::with_capacity(size)?;
    let mut counts = vec![0_u64; weights.len()];
    for i in 0..size {
        let x = (i as f64).max(1.0);
        let mut best: Option<(usize, f64)> = None;
        for (k, (w, &c)) in weights.iter().zip(&counts).enumerate() {
            if lengths.is_some_and(|l| c >= l[k]) {
                continue;
            }
            let behind = w * x - c as f64;
            if best.is_none_or(|(_, b)| behind > b) {
                best = Some((k, behind));
            }
        }
        let Some((k, _)) = best else { break };
        index.dataset.push(k as i16);
        index.sample.push(counts[k] as i64);
        counts[k] += 1;
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_with_and_without_weights_are_told_apart() {
        let with = BlendSpec::parse(&list(&["0.3", " a", "0.7", "b"])).unwrap();
        assert_eq!((with.prefixes, with.weights), (list(&["a", "b"]), Some(vec![0.3, 0.7])));
        let one = BlendSpec::parse(&list(&["1", "a"])).unwrap();
        assert_eq!((one.prefixes, one.weights), (list(&["a"]), Some(vec![1.0])));
        for plain in [&["a"][..], &["a", "b"], &["1", "a", "2"]] {
            assert_eq!(BlendSpec::parse(&list(plain)).unwrap(), BlendSpec { prefixes: list(plain), weights: None });
        }
    }

    #[test]
    fn weights_without_a_meaning_are_refused() {
        for bad in [&[][..], &["0", "a"], &["-1", "a", "2", "b"], &["nan", "a"], &["inf", "a"]] {
            assert_eq!(BlendSpec::parse(&list(bad)).unwrap_err().code.id, "D0009", "{bad:?}");
        }
    }

    #[test]
    fn exhaustive_blending_uses_each_sample_once() {
        let index = exhaustive(&[3, 0, 5], None).unwrap();
        let of = |k: i16| -> Vec<i64> {
            index.dataset.iter().zip(&index.sample).filter(|(d, _)| **d == k).map(|(_, s)| *s).collect()
        };
        assert_eq!((of(0), of(1), of(2)), (vec![0, 1, 2], vec![], vec![0, 1, 2, 3, 4]));
        let cut = exhaustive(&[3, 0, 5], Some(4)).unwrap();
        assert_eq!(cut.dataset, index.dataset[..4]);
    }
}
