//! The toy plan learns, and accumulates as one large batch would.

use super::*;
use crate::toy::{self, Counting, Toy};
use athanor_ir::run::LossScale;

fn executor(toy: &Toy) -> Executor {
    let mut e = Executor::new(Arc::new(toy::plan(toy)), &DeviceOptions::default(), None).unwrap();
    e.initialise().unwrap();
    e.setup().unwrap();
    e
}

fn losses(toy: &Toy, steps: u64) -> Vec<StepOutput> {
    let mut e = executor(toy);
    let mut source = Counting { batch: toy.batch, accumulation: toy.accumulation };
    (0..steps).map(|s| e.step(s, &mut source).unwrap()).collect()
}

#[test]
fn the_loss_falls_and_runs_repeat() {
    let toy = Toy::default();
    let run = losses(&toy, 60);
    assert!(run[0].loss > 2.0 && run[59].loss < 0.5 * run[0].loss, "{} to {}", run[0].loss, run[59].loss);
    assert_eq!(run, losses(&toy, 60));
    assert_eq!((run[0].lr, run[1].lr, run[2].lr), (0.0, 0.01, 0.02));
}

/// Halves of the batches of four.
struct Halves;
impl BatchSource for Halves {
    fn next(&mut self, step: u64, micro: usize) -> Result<Batch> {
        let mut b = Counting { batch: 4, accumulation: 1 }.next(step, 0)?;
        let half = micro * 2 * toy::S..(micro + 1) * 2 * toy::S;
        b.tokens = b.tokens[half.clone()].to_vec();
        b.labels = b.labels[half.clone()].to_vec();
        b.loss_mask = b.loss_mask[half].to_vec();
        Ok(b)
    }
}

#[test]
fn micro_batches_sum_to_the_whole_batch() {
    // With a loss over tokens of the step, two micro-batches are one batch: the mask is not even, means would differ.
    let whole = losses(&Toy { per_token_loss: true, batch: 4, ..Toy::default() }, 8);
    let parts = Toy { per_token_loss: true, accumulation: 2, batch: 2, ..Toy::default() };
    let mut e = executor(&parts);
    for (s, want) in whole.iter().enumerate() {
        let got = e.step(s as u64, &mut Halves).unwrap();
        assert!((got.loss - want.loss).abs() < 1e-5 * want.loss, "step {s}: {} against {}", got.loss, want.loss);
        assert!((got.grad_norm - want.grad_norm).abs() < 1e-4 * want.grad_norm);
    }
}

#[test]
fn the_first_update_is_the_hand_computed_one() {
    // With β-corrections, the first step moves every weight by lr·sign(g) (plus decay), whatever the gradient.
    let mut e = executor(&Toy::default());
    let i = e.device().buffer("head.weight").unwrap();
    let read = |e: &Executor| -> Vec<f32> {
        e.device().bytes(i).chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
    };
    let before = read(&e);
    let mut source = Counting { batch: toy::B, accumulation: 1 };
    e.step(2, &mut source).unwrap_or_else(|e| panic!("{e}"));
    // Step 2 is the first at full rate; its corrections assume t = 3.
    let (m, v) = (0.1 / (1.0 - 0.9_f64.powi(3)), 0.05 / (1.0 - 0.95_f64.powi(3)));
    let moved = 0.02 * m / v.sqrt();
    for (b, a) in before.iter().zip(read(&e)) {
        let step = (f64::from(*b) * (1.0 - 0.02 * 0.1) - f64::from(a)).abs();
        assert!((step - moved).abs() < 1e-4 * moved, "{step} against {moved}");
    }
}

/// The bytes of every weight and moment.
fn state(e: &Executor) -> Vec<Vec<u8>> {
    let kept = |b: &Buffer| matches!(b.role, BufferRole::Weight { .. } | BufferRole::Moment);
    let buffers = e.device().stage().buffers.iter().enumerate().filter(|(_, b)| kept(b));
    buffers.map(|(i, _)| e.device().bytes(i).to_vec()).collect()
}

fn scaled(value: f64) -> Toy {
    Toy { loss_scale: Some(LossScale::Dynamic { value, factor: 2.0, window: 4 }), ..Toy::default() }
}

#[test]
fn a_scaled_loss_trains_to_the_same_bits() {
    // Powers of two scale every number of the backward pass exactly.
    let plain = losses(&Toy::default(), 12);
    let scaled = losses(&scaled(1024.0), 12);
    let of = |o: &[StepOutput]| o.iter().map(|o| (o.loss.to_bits(), o.grad_norm.to_bits(), o.lr)).collect::<Vec<_>>();
    assert_eq!(of(&plain), of(&scaled));
    assert_eq!(
        scaled.iter().map(|o| o.loss_scale).collect::<Vec<_>>()[3..9],
        [1024.0, 2048.0, 2048.0, 2048.0, 2048.0, 4096.0]
    );
}

#[test]
fn a_step_that_overflows_changes_nothing_but_the_scale() {
    // Beyond f32: every gradient is infinite, until the scale has fallen three times.
    let toy = scaled(2f64.powi(130));
    let mut e = executor(&toy);
    let mut source = Counting { batch: toy.batch, accumulation: 1 };
    let before = state(&e);
    let out = e.step(0, &mut source).unwrap();
    assert!(out.overflow && !out.grad_norm.is_finite() && out.loss.is_finite(), "{out:?}");
    assert_eq!(state(&e), before);
    let mut step = 1;
    let good = loop {
        let out = e.step(step, &mut source).unwrap();
        if !out.overflow {
            break out;
        }
        assert_eq!(state(&e), before);
        step += 1;
    };
    // The optimizer's first step: the rate of step 0, however many steps were left out.
    assert_eq!((good.lr, e.scaling().skipped_steps, step), (0.0, 3, 3));
    assert_eq!(good.loss_scale, 2f64.powi(130 - step as i32));
    assert_ne!(state(&e), before);
}

#[test]
fn a_loss_that_is_not_finite_names_its_step() {
    let mut e = executor(&Toy::default());
    let i = e.device().buffer("up.weight").unwrap();
    e.device_mut().bytes_mut(i).fill(0xff);
    let mut source = Counting { batch: toy::B, accumulation: 1 };
    let error = e.step(6, &mut source).unwrap_err();
    assert_eq!(error.code.id, "R0007");
    assert!(error.message.starts_with("step 7: the loss is NaN"), "{error}");
}

#[test]
fn batches_of_another_size_are_refused() {
    let mut e = executor(&Toy::default());
    let error = e.step(0, &mut Counting { batch: 3, accumulation: 1 }).unwrap_err();
    assert_eq!(error.code.id, "R0008");
}

#[test]
fn plans_that_cannot_be_trained_are_refused() {
    let refuse = |change: fn(&mut Plan), says: &str| {
        let mut p = toy::plan(&Toy::default());
        change(&mut p);
        let e = Executor::new(Arc::new(p), &DeviceOptions::default(), None).unwrap_err();
        assert!(e.code.id == "R0006" && e.message.contains(says), "{e}");
    };
    refuse(|p| p.stages[0].programs.retain(|q| q.name != "update"), "`update`");
    refuse(|p| p.stages[0].programs[0].results.retain(|r| r.0 != "loss"), "`loss`");
    refuse(|p| p.stages[0].buffers.iter_mut().for_each(|b| b.name = b.name.replace("tokens", "pixels")), "`pixels`");
    refuse(|p| p.run.batch_size = 7, "batches of 7");
    refuse(|p| p.target.device = "cuda".into(), "cuda");
    refuse(|p| p.stages.clear(), "0 stages");
}

/// Changes the number or text at the `pick`-th leaf of `value`.
fn mutate(value: &mut serde_json::Value, pick: &mut usize, with: u64) -> bool {
    use serde_json::Value;
    match value {
        Value::Array(list) => list.iter_mut().any(|v| mutate(v, pick, with)),
        Value::Object(map) => map.values_mut().any(|v| mutate(v, pick, with)),
        Value::Number(_) if *pick == 0 => {
            *value = with.into();
            true
        }
        Value::Number(_) => {
            *pick -= 1;
            false
        }
        _ => false,
    }
}

#[test]
fn no_stage_makes_it_panic() {
    use proptest::prelude::*;
    let toy = Toy::default();
    let good = serde_json::to_value(&toy::plan(&toy).stages).unwrap();
    let leaves = (0..100_000).find(|n| !mutate(&mut good.clone(), &mut { *n }, 0)).unwrap();
    let number = prop_oneof![0..80_u64, 0..8000_u64, any::<u64>()];
    let edits = prop::collection::vec((0..leaves, number), 1..3);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(600));
    let ran = std::cell::Cell::new(0);
    runner
        .run(&edits, |edits| {
            let mut stages = good.clone();
            for (pick, with) in edits {
                mutate(&mut stages, &mut { pick }, with);
            }
            let Ok(stages) = serde_json::from_value(stages) else { return Ok(()) };
            let plan = Plan { stages, ..toy::plan(&toy) };
            if let Ok(mut e) =
                Executor::new(Arc::new(plan), &DeviceOptions { threads: Some(1), ..DeviceOptions::default() }, None)
            {
                e.initialise().unwrap();
                let _ = e.step(2, &mut Counting { batch: toy.batch, accumulation: 1 });
                ran.set(ran.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(ran.get() > 20, "{} changed plans still ran", ran.get());
}
