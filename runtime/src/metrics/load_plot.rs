//! The load of experts as a picture: how far the busiest and the idlest of each layer are from an equal share.

use plotters::coord::Shift;
use plotters::prelude::*;

const BUSY: RGBColor = RGBColor(176, 58, 46);
const IDLE: RGBColor = RGBColor(36, 113, 163);
const GRID: RGBColor = RGBColor(232, 232, 232);

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
    let text = |e: DrawingAreaErrorKind<B::ErrorType>| e.to_string();
    let layers = loads.iter().map(|(_, l)| l.len()).max().unwrap_or(0);
    let curves: Vec<Vec<(f64, f64, f64)>> = (0..layers).map(|l| extremes(loads, l)).collect();
    let high = curves.iter().flatten().map(|p| p.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(first..last, 0.0..high * 1.05)
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("tokens of an expert / mean")
        .axis_desc_style(("sans-serif", 17))
        .label_style(("sans-serif", 14))
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
        .y_label_formatter(&|y| format!("{y:.1}"))
        .draw()
        .map_err(text)?;
    let even = [(first, 1.0), (last, 1.0)];
    chart.draw_series(LineSeries::new(even, BLACK.mix(0.4).stroke_width(1))).map_err(text)?;
    for (label, colour, which) in [("busiest expert of each layer", BUSY, 0), ("idlest", IDLE, 1)] {
        for (i, curve) in curves.iter().enumerate() {
            let points = curve.iter().map(|p| (p.0, if which == 0 { p.1 } else { p.2 }));
            let drawn = chart.draw_series(LineSeries::new(points, colour.mix(0.8).stroke_width(1))).map_err(text)?;
            if i == 0 {
                drawn
                    .label(label)
                    .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 24, y)], colour.stroke_width(2)));
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .legend_area_size(32)
        .background_style(WHITE.mix(0.8))
        .border_style(GRID)
        .label_font(("sans-serif", 15))
        .draw()
        .map_err(text)?;
    Ok(())
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
