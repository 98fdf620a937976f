//! Whole runs of the toy: resuming, stopping, reporting, failing.

use super::*;
use crate::metrics::json::Line;
use crate::toy::{self, Counting, Toy};
use athanor_ir::run::LossScale;
use std::fs;
use std::sync::atomic::Ordering;

/// Batches of the toy; stops the run, or spoils the loss, at a step.
struct Source {
    inner: Counting,
    stop_at: Option<(u64, Arc<AtomicBool>)>,
}

impl BatchSource for Source {
    fn next(&mut self, step: u64, micro: usize) -> Result<crate::source::Batch> {
        if let Some((at, stop)) = &self.stop_at
            && *at == step
        {
            stop.store(true, Ordering::Relaxed);
        }
        self.inner.next(step, micro)
    }
}

fn train_toy(toy: &Toy, save_steps: u64, options: &TrainOptions, stop_at: Option<u64>) -> Result<Summary> {
    let mut plan = toy::plan(toy);
    plan.run.save_steps = save_steps;
    train_with(plan, None, options, |_, _, _| {
        let stop_at = stop_at.map(|at| (at, Arc::clone(&options.stop)));
        let inner = Counting { batch: toy.batch, accumulation: toy.accumulation };
        Ok((Box::new(Source { inner, stop_at }), vec![]))
    })
}

fn options(dir: &Path) -> TrainOptions {
    TrainOptions {
        metrics_json: Some(dir.join("metrics.jsonl")),
        output_dir: Some(dir.join("output")),
        quiet: true,
        signals: false,
        ..TrainOptions::default()
    }
}

/// Step, loss and norm of every line, by their bits, and the scale.
fn lines(dir: &Path) -> Vec<(u64, u64, u64, f64)> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let line = |l: &str| serde_json::from_str::<Line>(l).unwrap();
    text.lines().map(line).map(|l| (l.step, l.loss.to_bits(), l.grad_norm.to_bits(), l.loss_scale)).collect()
}

fn weights(dir: &Path, iteration: u64) -> Vec<u8> {
    let dir = dir.join("output/checkpoint").join(resume::iteration_name(iteration));
    let mut bytes = fs::read(dir.join("toy-model-0000000-0000001.safetensors")).unwrap();
    bytes.extend(fs::read(dir.join("toy-opt-0000000-0000001.safetensors")).unwrap());
    bytes
}

#[test]
fn a_resumed_run_is_bit_identical() {
    // With a scale that overflows at first, and rises again before and after the parts meet.
    let dynamic = LossScale::Dynamic { value: 2f64.powi(130), factor: 2.0, window: 3 };
    for (accumulation, loss_scale) in [(1, None), (2, None), (1, Some(dynamic))] {
        let toy = Toy { accumulation, loss_scale, steps: 12, ..Toy::default() };
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        train_toy(&toy, 12, &options(whole.path()), None).unwrap();
        // Five steps, then one more part that is cut off by a kill after its save, then the rest.
        let first = TrainOptions { steps: Some(5), ..options(parts.path()) };
        train_toy(&toy, 5, &first, None).unwrap();
        let second = TrainOptions { steps: Some(9), resume: Resume::Latest, ..options(parts.path()) };
        train_toy(&toy, 7, &second, None).unwrap();
        let at = parts.path().join("output/checkpoint/iteration_00000007");
        let last = TrainOptions { resume: Resume::From(at), ..options(parts.path()) };
        let summary = train_toy(&toy, 12, &last, None).unwrap();
        assert_eq!((summary.steps, summary.steps_here), (12, 5));
        assert_eq!(lines(whole.path()), lines(parts.path()));
        let scales = lines(whole.path()).iter().map(|l| l.3).collect::<Vec<_>>();
        assert_eq!(scales.windows(2).any(|s| s[1] > s[0]), loss_scale.is_some(), "{scales:?}");
        assert!(weights(whole.path(), 12) == weights(parts.path(), 12), "weights and moments are the same bits");
    }
}

#[test]
fn a_stop_finishes_the_step_and_saves() {
    let temp = tempfile::tempdir().unwrap();
    let o = TrainOptions { plot: Some(temp.path().join("loss.svg")), ..options(temp.path()) };
    let summary = train_toy(&Toy::default(), 0, &o, Some(3)).unwrap();
    assert!(summary.interrupted && summary.steps == 4);
    assert!(summary.checkpoint.is_some_and(|p| p.ends_with("iteration_00000004")));
    assert_eq!(lines(temp.path()).len(), 4);
    assert!(fs::read_to_string(temp.path().join("loss.svg")).unwrap().contains("toy: training loss"));
    let again = TrainOptions { resume: Resume::Latest, ..options(temp.path()) };
    assert_eq!(train_toy(&Toy::default(), 0, &again, None).unwrap().steps_here, 6);
}

/// Raises the signal at step 2, as a terminal would.
struct Raising;
impl BatchSource for Raising {
    fn next(&mut self, step: u64, micro: usize) -> Result<crate::source::Batch> {
        if step == 2 {
            signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
        }
        Counting { batch: toy::B, accumulation: 1 }.next(step, micro)
    }
}

#[test]
fn a_signal_stops_a_run() {
    let temp = tempfile::tempdir().unwrap();
    let o = TrainOptions { signals: true, ..options(temp.path()) };
    let plan = toy::plan(&Toy::default());
    let summary = train_with(plan, None, &o, |_, _, _| Ok((Box::new(Raising), vec![]))).unwrap();
    assert!(summary.interrupted && summary.steps == 3);
}

#[test]
fn a_loss_that_is_not_finite_spoils_nothing_saved() {
    let temp = tempfile::tempdir().unwrap();
    let toy = Toy { lr: 1e38, steps: 30, ..Toy::default() };
    let e = train_toy(&toy, 1, &options(temp.path()), None).unwrap_err();
    assert_eq!(e.code.id, "R0007");
    let done = lines(temp.path());
    let root = temp.path().join("output/checkpoint");
    assert_eq!(fs::read_to_string(root.join(crate::checkpoint::TRACKER)).unwrap(), done.len().to_string());
    assert!(e.message.starts_with(&format!("step {}: ", done.len() + 1)), "{e}");
    assert!(done.iter().all(|l| f64::from_bits(l.1).is_finite()));
}

#[test]
fn the_summary_and_the_profile_say_what_happened() {
    let temp = tempfile::tempdir().unwrap();
    let o = TrainOptions { profile: true, steps: Some(4), ..options(temp.path()) };
    let s = train_toy(&Toy::default(), 2, &o, None).unwrap();
    let text = s.to_string();
    assert!(text.starts_with("finished after 4 steps: loss 2.") && text.contains("as planned"), "{text}");
    assert_eq!(s.arena_bytes, toy::plan(&Toy::default()).stages[0].arena_bytes as u64);
    let profile = s.profile.unwrap();
    let row = profile.rows().into_iter().find(|r| r.name == "einsum (reference)").cloned().unwrap();
    assert_eq!(row.calls, 3 * 6, "six products in each of the three steps after the first");
    assert!(row.flops > 0.0 && row.bytes > 0.0);
    let log = fs::read_to_string(temp.path().join("output/log/rank_0/info.log")).unwrap();
    assert_eq!(log.lines().filter(|l| l.starts_with("[INFO] ") && l.contains("{ Epoch:[  1/  1], step:[")).count(), 4);
    assert_eq!(log.matches("......Saving ckpt......").count(), 2);
    assert!(log.contains("Finish saving ckpt of epoch 1 step 4 using "));
}

#[test]
fn weights_can_come_from_a_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    train_toy(&Toy::default(), 10, &options(temp.path()), None).unwrap();
    let saved = temp.path().join("output/checkpoint");
    let mut plan = toy::plan(&Toy::default());
    plan.run.load_checkpoint = saved.to_string_lossy().into_owned();
    let o = TrainOptions { steps: Some(1), metrics_json: None, ..options(&temp.path().join("new")) };
    let open = |_: &RunSpec, start: u64, _: Share| -> Result<Opened> {
        assert_eq!(start, 0, "weights alone start a new run");
        Ok((Box::new(Counting { batch: toy::B, accumulation: 1 }), vec![]))
    };
    let trained = train_with(plan, None, &o, open).unwrap().first_loss.unwrap();
    let fresh = f64::from_bits(lines(temp.path())[0].1);
    assert!(trained < fresh, "{trained} against {fresh}");
}

#[test]
fn data_in_the_plan_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let tokens: Vec<u8> = (0..400_u16).flat_map(|i| (i * 3 % toy::V as u16).to_le_bytes()).collect();
    let path = temp.path().join("tokens.bin");
    fs::write(&path, &tokens).unwrap();
    let mut plan = toy::plan(&Toy::default());
    let data = |seq: usize| serde_json::json!({"type": "TokenBinDataLoader", "path": path, "dtype": "uint16", "stride": 4, "seq_length": seq});
    plan.run.data = Some(data(toy::S));
    let o = options(temp.path());
    let summary = train_with(plan.clone(), None, &o, open_data).unwrap();
    assert!(summary.last_loss < summary.first_loss);
    plan.run.data = Some(data(toy::S + 1));
    assert_eq!(train_with(plan.clone(), None, &o, open_data).unwrap_err().code.id, "R0008");
    plan.run.data = None;
    assert_eq!(train_with(plan, None, &o, open_data).unwrap_err().code.id, "R0008");
}
