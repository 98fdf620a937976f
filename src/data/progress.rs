//! How far a long tool has come: a bar on a terminal, lines at an interval elsewhere.

use crate::text::{bytes, grouped};
use athanor_runtime::data::build::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;

/// Shows [`Progress`] on standard error.
pub struct Meter {
    bar: Option<ProgressBar>,
    /// Documents between two lines.
    interval: Option<u64>,
    next: u64,
    start: Instant,
}

impl Meter {
    /// A bar if standard error is a terminal; a line every `interval` documents if that is given.
    pub fn new(verb: &'static str, interval: Option<u64>) -> Self {
        let bar = (interval.is_none() && std::io::stderr().is_terminal()).then(|| {
            let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg} eta {eta}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style).with_prefix(verb)
        });
        Self { bar, interval, next: interval.unwrap_or(u64::MAX), start: Instant::now() }
    }

    /// Shows `p`.
    pub fn update(&mut self, p: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(p.total_bytes);
            bar.set_position(p.bytes);
            bar.set_message(format!("{} documents", grouped(p.documents)));
        }
        if p.documents >= self.next {
            let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
            let rate = (p.documents as f64 / seconds) as u64;
            let speed = bytes((p.bytes as f64 / seconds) as u64);
            eprintln!("Processed {} documents ({} docs/s, {speed}/s).", p.documents, grouped(rate));
            let every = self.interval.unwrap_or(u64::MAX).max(1);
            self.next = (p.documents / every).saturating_add(1).saturating_mul(every);
        }
    }

    /// Takes the bar away and gives the seconds since the start.
    pub fn finish(self) -> f64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.start.elapsed().as_secs_f64()
    }
}
