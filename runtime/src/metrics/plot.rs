//! The loss curve as a picture: every step thin and pale, and a smoothed line over it.

use super::axes::{axes, curve, legend};
use super::load_plot::{self, Loads};
use crate::codes::OUTPUT;
use crate::partial;
use athanor_ir::{Diagnostic, Result};
use plotters::prelude::*;
use std::io::Write as _;
use std::path::Path;

/// Share of the run on either side of a step that its smoothed value averages over.
const WINDOW: f64 = 0.015;

/// Heights of the two pictures in pixels.
const LOSS_HEIGHT: u32 = 540;
const LOAD_HEIGHT: u32 = 300;

const RAW: RGBColor = RGBColor(168, 196, 226);
const SMOOTH: RGBColor = RGBColor(17, 76, 140);

/// Writes the curve of `points` (step, loss), and below it the load of experts if there are any, to the `.svg` file `path`;
/// nothing without a point.
///
/// # Errors
/// [`OUTPUT`].
pub fn write(path: &Path, title: &str, points: &[(u64, f64)], loads: &Loads) -> Result<()> {
    let failed = |why: String| {
        Diagnostic::error(&OUTPUT, format!("cannot write the plot {}: {why}", path.display()))
            .help("give an .svg file in a writable directory")
            .err()
    };
    if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("svg")) {
        return failed("only SVG is drawn".into());
    }
    if points.is_empty() {
        return Ok(());
    }
    let svg = match draw(title, points, loads) {
        Ok(svg) => svg,
        Err(why) => return failed(why),
    };
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let save = || {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut temp = partial::file(dir, &name)?;
        temp.write_all(svg.as_bytes())?;
        temp.persist(path)?;
        Ok(())
    };
    save().or_else(|e: std::io::Error| failed(e.to_string()))
}

/// `points` averaged over a symmetric window, twice: unlike a running mean it does not lag behind a falling loss.
fn smooth(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let half = ((points.len() as f64 * WINDOW) as usize).max(2);
    let pass = |values: &[f64]| -> Vec<f64> {
        let mut sums = vec![0.0];
        sums.extend(values.iter().scan(0.0, |sum, v| {
            *sum += v;
            Some(*sum)
        }));
        let mean = |i: usize| {
            // Narrower towards the ends, so that it stays symmetric.
            let h = half.min(i).min(values.len() - 1 - i);
            (sums[i + h + 1] - sums[i - h]) / (2 * h + 1) as f64
        };
        (0..values.len()).map(mean).collect()
    };
    let losses: Vec<f64> = points.iter().map(|p| p.1).collect();
    let smoothed = points.iter().map(|p| p.0 as f64).zip(pass(&pass(&losses)));
    // The windows of the first and last steps are too narrow to smooth anything.
    let ends = if points.len() > 8 * half { half } else { 0 };
    smoothed.skip(ends).take(points.len() - 2 * ends).collect()
}

fn draw(title: &str, points: &[(u64, f64)], loads: &Loads) -> std::result::Result<String, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let finite = || points.iter().map(|p| p.1).filter(|l| l.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return Err("no loss is finite".into());
    }
    let margin = ((high - low) * 0.05).max(1e-6 * high.abs()).max(1e-9);
    let (first, last) = (points[0].0 as f64, points[points.len() - 1].0 as f64);
    let last = last.max(first + 1.0);
    let mut svg = String::new();
    {
        let height = if loads.is_empty() { LOSS_HEIGHT } else { LOSS_HEIGHT + LOAD_HEIGHT };
        let root = SVGBackend::with_string(&mut svg, (960, height)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| text(&e))?;
        let (upper, lower) = root.split_vertically(LOSS_HEIGHT);
        let digits = decimals(high - low + 2.0 * margin);
        let mut chart = axes(&upper, Some(title), first..last, ("loss", low - margin..high + margin, digits))?;
        let finite: Vec<(u64, f64)> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
        let raw = finite.iter().map(|p| (p.0 as f64, p.1));
        curve(&mut chart, Some("each step"), RAW.stroke_width(1), raw)?;
        curve(&mut chart, Some("smoothed"), SMOOTH.stroke_width(2), smooth(&finite))?;
        legend(&mut chart)?;
        if !loads.is_empty() {
            load_plot::draw(&lower, (first, last), loads)?;
        }
        root.present().map_err(|e| text(&e))?;
    }
    Ok(svg)
}

/// Digits after the point that tell the labels of an axis of this length apart.
fn decimals(length: f64) -> usize {
    (1.0 - length.log10().floor()).clamp(0.0, 9.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(steps: u64) -> Vec<(u64, f64)> {
        (1..=steps).map(|s| (s, 2.0 + 4.0 * (-(s as f64) / 80.0).exp() + 0.15 * (s as f64 * 1.7).sin())).collect()
    }

    #[test]
    fn the_picture_has_axes_and_both_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/loss.svg");
        write(&path, "toy: loss", &curve(400), &[]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for word in ["<svg", "step", "loss", "each step", "smoothed", "toy: loss", "#114C8C"] {
            assert!(svg.contains(word), "{word}");
        }
        if let Some(keep) = std::env::var_os("ATHANOR_KEEP_PLOT") {
            std::fs::copy(&path, keep).unwrap();
        }
    }

    #[test]
    fn the_load_of_experts_is_drawn_below() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loss.svg");
        let skew = |s: u64| vec![vec![64 - s / 8, 20 + s / 8, 30, 14], vec![32; 4]];
        let loads: Vec<(u64, Vec<Vec<u64>>)> = (1..=200).map(|s| (s, skew(s))).collect();
        write(&path, "toy", &curve(200), &loads).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for word in ["busiest expert of each layer", "idlest", "tokens of an expert / mean", "height=\"840\""] {
            assert!(svg.contains(word), "{word}");
        }
        if let Some(keep) = std::env::var_os("ATHANOR_KEEP_PLOT") {
            std::fs::copy(&path, keep).unwrap();
        }
    }

    #[test]
    fn odd_curves_are_drawn_and_bad_places_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        write(&at("one.svg"), "one point", &[(1, 3.0)], &[]).unwrap();
        write(&at("flat.svg"), "flat", &[(1, 3.0), (2, 3.0), (3, f64::NAN)], &[]).unwrap();
        write(&at("none.svg"), "none", &[], &[]).unwrap();
        assert!(!at("none.svg").exists());
        for bad in ["loss.png", "loss"] {
            assert_eq!(write(&at(bad), "t", &[(1, 1.0)], &[]).unwrap_err().code.id, "R0009");
        }
        assert_eq!(write(&at("nan.svg"), "t", &[(1, f64::NAN)], &[]).unwrap_err().code.id, "R0009");
    }

    #[test]
    fn smoothing_keeps_a_constant_and_follows_the_fall() {
        let flat: Vec<(u64, f64)> = (1..50).map(|s| (s, 2.0)).collect();
        assert!(smooth(&flat).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
        let line: Vec<(u64, f64)> = (1..50).map(|s| (s, 3.0 * s as f64)).collect();
        assert!(smooth(&line).iter().all(|(s, l)| (l - 3.0 * s).abs() < 1e-9), "a line does not move");
        // The waves of the curve go, its fall stays.
        let smoothed = smooth(&curve(1000));
        assert!(
            smoothed.len() == 970 && smoothed.iter().all(|(s, l)| (l - 2.0 - 4.0 * (-s / 80.0).exp()).abs() < 0.06)
        );
    }
}
