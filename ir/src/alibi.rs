//! Attention with linear biases (`ALiBi`; Press et al. 2022, arXiv 2108.12409): a query sees a key less the further it is away.

/// Slope of each of `heads` heads: the score of a query at i and a key at j is increased by slope·(j − i).
///
/// Of a power of two n they are 2^(−8/n), 2^(−16/n), …, 2^−8. Otherwise those of the next lower power of two come first,
/// and then every other one of the next higher.
pub fn slopes(heads: usize) -> Vec<f64> {
    let lower = (heads + 1).next_power_of_two() / 2;
    let of = |n: usize, i: usize| (-8.0 * (i + 1) as f64 / n as f64).exp2();
    (0..heads).map(|h| if h < lower { of(lower, h) } else { of(2 * lower, 2 * (h - lower)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_halve_over_eight_heads_and_interleave_over_twelve() {
        assert_eq!(slopes(8), [1, 2, 3, 4, 5, 6, 7, 8].map(|i| (-f64::from(i)).exp2()));
        let twelve = slopes(12);
        assert_eq!(twelve[..8], slopes(8));
        assert_eq!(twelve[8..], [0.5, 1.5, 2.5, 3.5].map(|x: f64| (-x).exp2()));
        assert_eq!((slopes(1), slopes(40).len()), (vec![(-8.0f64).exp2()], 40));
    }
}
