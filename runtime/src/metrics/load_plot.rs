//! The load of experts as a picture: how far the busiest and the idlest of each layer are from an equal share.

use super::axes::{axes, curve, legend};
use plotters::coord::Shift;
use plotters::prelude::*;

const BUSY: RGBColor = RGBColor(176, 58, 46);
const IDLE: RGBColor = RGBColor(36, 113, 163);

/// Tokens of each expert, layer by layer, after each step.
pub type Loads = [(u64, Vec<Vec<u64>>)];

/// Averages over at most this many groups of steps are drawn.
const POINTS: usize = 120;

/// (step, busiest / mean, idlest / mean) of layer `layer`, averaged over groups of steps.
fn extremes(loads: &Loads, layer: usize) -> Vec<(f64, f64, f64)> {
    let one = |(step, layers): &(u64, Vec<Vec<u64>>)| {
        let counts = layers.get(layer)?;
        let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let (most, least) = (*counts.iter().max()? as f64, *counts.iter().min()? as f64);
        (mean > 0.0).then(|| (*step as f64, most / mean, least / mean))
    };
    let all: Vec<(f64, f64, f64)> = loads.iter().filter_map(one).collect();
    let group = all.len().div_ceil(POINTS).max(1);
    let average = |g: &[(f64, f64, f64)]| {
        let mean = |f: &dyn Fn(&(f64, f64, f64)) -> f64| g.iter().map(f).sum::<f64>() / g.len() as f64;
        (mean(&|p| p.0), mean(&|p| p.1), mean(&|p| p.2))
    };
    all.chunks(group).map(average).collect()
}

/// Draws `loads` of the steps `first` to `last` into `area`.
pub fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    (first, last): (f64, f64),
    loads: &Loads,
) -> Result<(), String> {
    let layers = loads.iter().map(|(_, l)| l.len()).max().unwrap_or(0);
    let curves: Vec<Vec<(f64, f64, f64)>> = (0..layers).map(|l| extremes(loads, l)).collect();
    let high = curves.iter().flatten().map(|p| p.1).fold(1.0, f64::max);
    let mut chart = axes(area, None, first..last, ("tokens of an expert / mean", 0.0..high * 1.05, 1))?;
    curve(&mut chart, None, BLACK.mix(0.4).stroke_width(1), [(first, 1.0), (last, 1.0)])?;
    for (label, colour, busiest) in [("busiest expert of each layer", BUSY, true), ("idlest", IDLE, false)] {
        for (i, layer) in curves.iter().enumerate() {
            let points = layer.iter().map(|p| (p.0, if busiest { p.1 } else { p.2 }));
            curve(&mut chart, (i == 0).then_some(label), colour.mix(0.8).stroke_width(1), points)?;
        }
    }
    legend(&mut chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_relative_to_an_equal_share_and_few() {
        let loads: Vec<(u64, Vec<Vec<u64>>)> = (1..=500).map(|s| (s, vec![vec![8, 4, 4, 0], vec![4; 4]])).collect();
        let skewed = extremes(&loads, 0);
        assert!(skewed.len() <= POINTS && skewed.iter().all(|p| (p.1, p.2) == (2.0, 0.0)));
        assert!(extremes(&loads, 1).iter().all(|p| (p.1, p.2) == (1.0, 1.0)));
        assert!(extremes(&loads, 2).is_empty());
        assert!(extremes(&[(1, vec![vec![0, 0]])], 0).is_empty(), "no token, no share");
    }
}
