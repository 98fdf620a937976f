//! `--metrics-json`: one JSON object per step and line, full digits, flushed at once.

use super::StepRecord;
use crate::codes::OUTPUT;
use crate::parts::Parts;
use athanor_ir::{Diagnostic, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Finished steps, this one included.
    pub step: u64,
    /// Loss; null, which reads as NaN, where it is not finite.
    #[serde(deserialize_with = "number_or_null")]
    pub loss: f64,
    /// Global gradient norm before clipping; null where it is not finite.
    #[serde(deserialize_with = "number_or_null")]
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Factor on the loss in the backward pass.
    #[serde(default = "unscaled")]
    pub loss_scale: f64,
    /// A gradient overflowed and the step was left out.
    #[serde(default)]
    pub overflow: bool,
    /// Tokens per second.
    pub tokens_per_s: f64,
    /// Milliseconds of the step.
    pub step_ms: f64,
    /// Sequences since the start of the run.
    pub consumed_samples: u64,
    /// Pass over the data, from 1.
    pub epoch: u64,
    /// Model floating-point operations per second, in units of 10¹².
    pub tflops: f64,
    /// `lm_loss`, `mtp_loss`, `aux_loss`, `z_loss` as far as the model has them, and `expert_load`, the tokens of each expert
    /// layer by layer.
    #[serde(flatten)]
    pub parts: Parts,
    /// How far the busiest expert of any layer is above an even load, as a share of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_violation: Option<f64>,
}

fn number_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

fn unscaled() -> f64 {
    1.0
}

impl From<&StepRecord> for Line {
    fn from(r: &StepRecord) -> Self {
        let seconds = r.seconds.max(1e-9);
        Self {
            step: r.step,
            loss: r.loss,
            grad_norm: r.grad_norm,
            lr: r.lr,
            loss_scale: r.loss_scale,
            overflow: r.overflow,
            tokens_per_s: r.tokens as f64 / seconds,
            step_ms: r.seconds * 1e3,
            consumed_samples: r.consumed_samples,
            epoch: r.epoch,
            tflops: r.flops / seconds / 1e12,
            parts: Parts::default(),
            max_violation: None,
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
}

#[expect(clippy::unnecessary_box_returns, reason = "errors travel boxed")]
fn failed(path: &Path, e: &io::Error) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(&OUTPUT, format!("cannot write {}: {e}", path.display()))
            .help("check that the directory exists and is writable, and that the disk has room"),
    )
}

impl Writer {
    /// Opens `path` for a run that continues after `finished` steps: lines of those steps are kept and returned, others
    /// go. A new run (`finished` = 0) starts an empty file.
    ///
    /// # Errors
    /// [`OUTPUT`].
    pub fn open(path: &Path, finished: u64) -> Result<(Self, Vec<Line>)> {
        let kept = if finished > 0 { read(path, finished) } else { vec![] };
        let write = || {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            // Appending, so that a line is written whole even if somebody else has the file open.
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            let mut text = vec![];
            for line in &kept {
                serde_json::to_writer(&mut text, line)?;
                text.push(b'\n');
            }
            file.write_all(&text)?;
            Ok(file)
        };
        let file = write().map_err(|e| failed(path, &e))?;
        Ok((Self { file, path: path.to_path_buf() }, kept))
    }

    /// Appends one line.
    ///
    /// # Errors
    /// [`OUTPUT`].
    pub fn write(&mut self, record: &StepRecord, parts: &Parts) -> Result<()> {
        let line = Line { parts: parts.clone(), max_violation: parts.max_violation(), ..Line::from(record) };
        let mut text = serde_json::to_vec(&line).map_err(|e| failed(&self.path, &e.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).and_then(|()| self.file.flush()).map_err(|e| failed(&self.path, &e))
    }
}

/// Lines of steps up to `finished` of an earlier part of the run; what is no such line is left out.
fn read(path: &Path, finished: u64) -> Vec<Line> {
    let Ok(file) = File::open(path) else { return vec![] };
    let lines = BufReader::new(file).lines().map_while(io::Result::ok);
    lines.filter_map(|l| serde_json::from_str::<Line>(&l).ok()).filter(|l| l.step <= finished).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord {
            step,
            epoch: 1,
            loss: 1.0 / 3.0,
            grad_norm: 0.1,
            lr: 3e-4,
            loss_scale: 1.0,
            overflow: false,
            seconds: 0.5,
            samples: 2,
            tokens: 64,
            consumed_samples: 2 * step,
            flops: 1e12,
        }
    }

    #[test]
    fn a_resumed_run_continues_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/metrics.jsonl");
        let (mut w, kept) = Writer::open(&path, 0).unwrap();
        assert!(kept.is_empty());
        let parts = Parts { losses: [("lm_loss".into(), 0.25)].into(), expert_load: vec![vec![3, 5], vec![4, 4]] };
        (1..=5).for_each(|s| w.write(&record(s), &parts).unwrap());
        // Lines appear at once, with every digit.
        assert!(fs::read_to_string(&path).unwrap().lines().last().is_some_and(|l| l.contains("0.3333333333333333,")));
        let (mut w, kept) = Writer::open(&path, 3).unwrap();
        assert_eq!(kept.len(), 3);
        assert_eq!((kept[2].tokens_per_s, kept[2].step_ms, kept[2].tflops), (128.0, 500.0, 2.0));
        assert_eq!(kept[2].parts, parts);
        assert!(fs::read_to_string(&path).unwrap().contains(r#""expert_load":[[3,5],[4,4]],"max_violation":0.25}"#));
        w.write(&record(4), &Parts::default()).unwrap();
        let steps: Vec<u64> = read(&path, 99).iter().map(|l| l.step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        Writer::open(&path, 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_step_that_overflowed_is_kept_with_what_it_has() {
        let r = StepRecord { grad_norm: f64::INFINITY, loss_scale: 4.0, overflow: true, ..record(2) };
        let text = serde_json::to_string(&Line::from(&r)).unwrap();
        let line: Line = serde_json::from_str(&text).unwrap();
        assert!(line.grad_norm.is_nan() && line.overflow && line.loss_scale == 4.0, "{text}");
    }

    #[test]
    fn an_unwritable_place_is_coded() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(Writer::open(&dir.path().join("file/m.json"), 0).unwrap_err().code.id, "R0009");
    }
}
