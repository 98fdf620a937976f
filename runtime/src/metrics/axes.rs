//! What the pictures of a run share: axes over steps, and a legend.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

/// Lines behind the curves.
pub const GRID: RGBColor = RGBColor(232, 232, 232);

/// Axes to draw curves on.
pub type Chart<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws axes into `area`: steps across, what `y` is called upwards, its labels with `digits` after the point.
pub fn axes<'a, B: DrawingBackend + 'a>(
    area: &'a DrawingArea<B, Shift>,
    title: Option<&str>,
    steps: Range<f64>,
    (y, range, digits): (&str, Range<f64>, usize),
) -> Result<Chart<'a, B>, String> {
    let mut builder = ChartBuilder::on(area);
    if let Some(title) = title {
        builder.caption(title, ("sans-serif", 22));
    }
    builder.margin(16).x_label_area_size(48).y_label_area_size(64);
    let mut chart = builder.build_cartesian_2d(steps, range).map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(y)
        .axis_desc_style(("sans-serif", 17))
        .label_style(("sans-serif", 14))
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
        .y_label_formatter(&|y| format!("{y:.digits$}"))
        .draw()
        .map_err(text)?;
    Ok(chart)
}

/// Draws a curve, with a line in the legend if it has a name.
pub fn curve<'a, B: DrawingBackend + 'a>(
    chart: &mut Chart<'a, B>,
    name: Option<&str>,
    style: ShapeStyle,
    points: impl IntoIterator<Item = (f64, f64)>,
) -> Result<(), String> {
    let drawn = chart.draw_series(LineSeries::new(points, style)).map_err(text)?;
    if let Some(name) = name {
        drawn.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 24, y)], style.stroke_width(2)));
    }
    Ok(())
}

/// Draws the legend.
pub fn legend<'a, B: DrawingBackend + 'a>(chart: &mut Chart<'a, B>) -> Result<(), String> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .legend_area_size(32)
        .background_style(WHITE.mix(0.8))
        .border_style(GRID)
        .label_font(("sans-serif", 15))
        .draw()
        .map_err(text)
}

fn text(e: impl Display) -> String {
    e.to_string()
}
