//! Where the time of a run goes: one row per kernel.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Runs of one kernel.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Kernel or op, and how it is carried out.
    pub name: String,
    /// Number of runs.
    pub calls: u64,
    /// Wall time of all runs.
    pub time: Duration,
    /// Floating-point operations of all runs.
    pub flops: f64,
    /// Bytes read and written by all runs.
    pub bytes: f64,
}

impl Row {
    /// Floating-point operations per second, in units of 10⁹.
    pub fn gflops(&self) -> f64 {
        self.flops / self.time.as_secs_f64().max(1e-12) / 1e9
    }

    /// Bytes per second, in units of 10⁹.
    pub fn gbytes(&self) -> f64 {
        self.bytes / self.time.as_secs_f64().max(1e-12) / 1e9
    }
}

/// Time by kernel name; printing it gives a table, the longest first.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    rows: Vec<Row>,
    index: HashMap<String, usize>,
}

impl Profile {
    /// The row for `name`, made when it is new.
    pub(super) fn row(&mut self, name: &str) -> usize {
        if let Some(i) = self.index.get(name) {
            return *i;
        }
        self.rows.push(Row { name: name.to_owned(), ..Row::default() });
        self.index.insert(name.to_owned(), self.rows.len() - 1);
        self.rows.len() - 1
    }

    /// Counts time that something of row `row` took beside its runs.
    pub(super) fn add_time(&mut self, row: usize, time: Duration) {
        self.rows[row].time += time;
    }

    /// Counts one run.
    pub(super) fn add(&mut self, row: usize, time: Duration, flops: u64, bytes: u64) {
        let row = &mut self.rows[row];
        row.calls += 1;
        row.time += time;
        row.flops += flops as f64;
        row.bytes += bytes as f64;
    }

    /// Rows that ran, the longest total time first.
    pub fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|r| r.calls > 0).collect();
        rows.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
        rows
    }

    /// Forgets the runs so far: what came before is not of interest.
    pub fn clear(&mut self) {
        for r in &mut self.rows {
            *r = Row { name: std::mem::take(&mut r.name), ..Row::default() };
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let total: Duration = rows.iter().map(|r| r.time).sum();
        let width = rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "{:width$}  {:>8}  {:>11}  {:>6}  {:>9}  {:>7}",
            "kernel", "calls", "total ms", "share", "GFLOP/s", "GB/s"
        )?;
        for r in rows {
            let share = 100.0 * r.time.as_secs_f64() / total.as_secs_f64().max(1e-12);
            let ms = r.time.as_secs_f64() * 1e3;
            writeln!(
                f,
                "{:width$}  {:>8}  {ms:>11.3}  {share:>5.1}%  {:>9.2}  {:>7.2}",
                r.name,
                r.calls,
                r.gflops(),
                r.gbytes()
            )?;
        }
        write!(f, "{:width$}  {:>8}  {:>11.3}", "total", "", total.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_row_comes_first_with_its_rates() {
        let mut p = Profile::default();
        let (a, b) = (p.row("short"), p.row("long"));
        p.add(a, Duration::from_millis(1), 1_000_000, 0);
        p.add(b, Duration::from_millis(2), 4_000_000, 2_000_000);
        p.add(b, Duration::from_millis(2), 4_000_000, 2_000_000);
        assert_eq!(p.row("short"), a);
        let rows = p.rows();
        assert_eq!((rows[0].name.as_str(), rows[0].calls), ("long", 2));
        assert!((rows[0].gflops() - 2.0).abs() < 1e-9 && (rows[0].gbytes() - 1.0).abs() < 1e-9);
        assert!(p.to_string().lines().nth(1).is_some_and(|l| l.starts_with("long") && l.contains("80.0%")));
    }
}
