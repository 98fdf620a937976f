//! Where what a run tells goes: standard output, a log file, the progress bar, the metrics file, the plot.

use super::log_line::{self, Progress};
use super::{StepRecord, json, plot};
use crate::codes::OUTPUT;
use crate::parts::Parts;
use athanor_ir::{Diagnostic, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// What to report, and where.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    /// No log lines and no bar.
    pub quiet: bool,
    /// Print the log lines of every n-th step.
    pub every: u64,
    /// One JSON object per step goes here.
    pub metrics_json: Option<PathBuf>,
    /// The plot goes here.
    pub plot: Option<PathBuf>,
    /// Root of the run's output; the log file is `log/rank_0/info.log` in it. Empty for none.
    pub output_dir: PathBuf,
    /// Title of the plot.
    pub title: String,
}

/// Reports the steps of one run.
#[derive(Debug)]
pub struct Reporter {
    options: ReportOptions,
    progress: Progress,
    bar: Option<ProgressBar>,
    log: Option<(File, PathBuf)>,
    json: Option<json::Writer>,
    points: Vec<(u64, f64)>,
    loads: Vec<(u64, Vec<Vec<u64>>)>,
}

/// The place that log lines name, where MindFormers names its callback.
const PLACE: &str = concat!("[runtime/src/metrics/reporter.rs:", line!(), "]");

impl Reporter {
    /// A reporter for a run that continues after `finished` steps.
    ///
    /// # Errors
    /// [`OUTPUT`] if a file cannot be opened.
    pub fn new(options: ReportOptions, progress: Progress, finished: u64) -> Result<Self> {
        let (mut points, mut loads) = (vec![], vec![]);
        let json = match &options.metrics_json {
            None => None,
            Some(path) => {
                let (writer, kept) = json::Writer::open(path, finished)?;
                points = kept.iter().filter(|l| l.loss.is_finite()).map(|l| (l.step, l.loss)).collect();
                let routed = kept.into_iter().filter(|l| !l.parts.expert_load.is_empty());
                loads = routed.map(|l| (l.step, l.parts.expert_load)).collect();
                Some(writer)
            }
        };
        let output = Some(&options.output_dir).filter(|d| !d.as_os_str().is_empty());
        let log = output.map(|d| open_log(&d.join("log/rank_0/info.log"))).transpose()?;
        let bar = (!options.quiet && std::io::stderr().is_terminal()).then(|| bar(progress.total, finished));
        Ok(Self { options, progress, bar, log, json, points, loads })
    }

    /// Reports a finished step.
    ///
    /// # Errors
    /// [`OUTPUT`] if a file cannot be written.
    pub fn step(&mut self, record: &StepRecord, parts: &Parts) -> Result<()> {
        if record.loss.is_finite() {
            self.points.push((record.step, record.loss));
        }
        if !parts.expert_load.is_empty() && self.options.plot.is_some() {
            self.loads.push((record.step, parts.expert_load.clone()));
        }
        if let Some(json) = &mut self.json {
            json.write(record, parts)?;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {:.4}", record.loss));
            bar.set_position(record.step);
        }
        if record.step.is_multiple_of(self.options.every.max(1)) {
            self.say(&log_line::numbers(record, parts, self.progress))?;
            self.say(&log_line::bar(record, self.progress))?;
        }
        Ok(())
    }

    /// Prints one message as MindFormers logs: above the bar on standard output, and in the log file.
    ///
    /// # Errors
    /// [`OUTPUT`] if the log file cannot be written.
    pub fn say(&mut self, message: &str) -> Result<()> {
        let time = chrono::Local::now().format("%Y-%m-%d %H:%M:%S,%3f");
        if let Some((file, path)) = &mut self.log {
            let line = format!("[INFO] {time} {PLACE} train: {message}\n");
            file.write_all(line.as_bytes()).map_err(|e| failed(path, &e))?;
        }
        if self.options.quiet {
            return Ok(());
        }
        let print = || {
            // A reader that went away is no reason to stop training.
            let _ = writeln!(std::io::stdout(), "{time} - {PLACE} - INFO - {message}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
        Ok(())
    }

    /// Draws the plot and takes the bar away.
    ///
    /// # Errors
    /// [`OUTPUT`] if the plot cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        match &self.options.plot {
            Some(path) => plot::write(path, &self.options.title, &self.points, &self.loads),
            None => Ok(()),
        }
    }

    /// Loss by step, with those of earlier parts of the run that the metrics file has.
    pub fn points(&self) -> &[(u64, f64)] {
        &self.points
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "errors travel boxed")]
fn failed(path: &Path, e: &std::io::Error) -> Box<Diagnostic> {
    let text = format!("cannot write {}: {e}", path.display());
    Box::new(Diagnostic::error(&OUTPUT, text).help("check that output_dir is writable and the disk has room"))
}

fn open_log(path: &Path) -> Result<(File, PathBuf)> {
    let open = || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        OpenOptions::new().create(true).append(true).open(path)
    };
    open().map(|f| (f, path.to_path_buf())).map_err(|e| failed(path, &e))
}

fn bar(total: u64, finished: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{bar:32} {pos}/{len} steps, {msg}, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar.set_position(finished);
    bar.reset_eta();
    bar
}
