//! MindFormers' two log lines per step, character by character: people's scripts parse them.

use super::StepRecord;
use crate::parts::Parts;
use std::fmt::Write as _;

/// Where a step stands in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Total epochs.
    pub epochs: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Steps of the whole run.
    pub total: u64,
}

/// The line with the numbers of the step; losses that the loss is the sum of follow it.
pub fn numbers(r: &StepRecord, parts: &Parts, p: Progress) -> String {
    let per_epoch = p.steps_per_epoch.max(1);
    let (epoch, step) = ((r.step - 1) / per_epoch + 1, (r.step - 1) % per_epoch + 1);
    let mut out = String::new();
    let _ = write!(
        out,
        "{{ Epoch:[{epoch:3}/{:3}], step:[{step:5}/{per_epoch:5}], loss: {:5.6}, {}per_step_time: {}ms, lr: {}, \
         overflow cond: {}, loss_scale: {}, global_norm: [{}], train_throughput_per_npu: {:.3}T",
        p.epochs,
        r.loss,
        losses(parts),
        (r.seconds * 1e3) as u64,
        python_float(r.lr as f32),
        if r.overflow { "True" } else { "False" },
        python_float(r.loss_scale as f32),
        numpy_element(r.grad_norm as f32),
        r.flops / r.seconds.max(1e-9) / 1e12,
    );
    out
}

/// `lm_loss: 1.000000, load_balancing_loss: …, `, in MindFormers' order and with its names.
fn losses(parts: &Parts) -> String {
    const NAMES: [(&str, &str); 3] =
        [("lm_loss", "lm_loss"), ("aux_loss", "load_balancing_loss"), ("mtp_loss", "mtp_loss")];
    let known = |name: &str| NAMES.iter().any(|(ours, _)| *ours == name);
    let others = parts.losses.keys().filter(|n| !known(n)).map(|n| (n.as_str(), n.as_str()));
    let all = NAMES.into_iter().chain(others);
    all.filter_map(|(ours, name)| Some(format!("{name}: {:5.6}, ", parts.losses.get(ours)?))).collect()
}

/// The line with the bar.
pub fn bar(r: &StepRecord, p: Progress) -> String {
    let percent = (100.0 * r.step as f64 / p.total.max(1) as f64).min(100.0);
    let filled = (50.0 * percent / 100.0) as usize;
    let rate = r.samples as f64 / r.seconds.max(1e-9);
    let left = p.total.saturating_sub(r.step) as f64 * r.seconds;
    format!(
        "  {percent:4.1}% |{}{}| {rate:.5} samples/s/p  {} }}",
        "█".repeat(filled),
        " ".repeat(50 - filled),
        timedelta(left as u64)
    )
}

/// `str(datetime.timedelta(seconds=…))`
fn timedelta(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        1 => format!("1 day, {clock}"),
        n => format!("{n} days, {clock}"),
    }
}

/// `str()` of a Python or numpy f32: shortest digits, an exponent below 1e-4 and from 1e16 on.
fn python_float(x: f32) -> String {
    let size = x.abs();
    if !x.is_finite() {
        return if x.is_nan() { "nan".into() } else { format!("{}inf", if x < 0.0 { "-" } else { "" }) };
    }
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// An element as numpy prints it inside brackets: `1.` for a whole number.
fn numpy_element(x: f32) -> String {
    let text = python_float(x);
    text.strip_suffix('0').filter(|t| t.ends_with('.')).map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> StepRecord {
        StepRecord {
            step: 20,
            epoch: 2,
            loss: 10.649,
            grad_norm: 1.31,
            lr: 0.0,
            loss_scale: 1.0,
            overflow: false,
            seconds: 103.3289,
            samples: 8,
            tokens: 8 * 4096,
            consumed_samples: 160,
            flops: 2.896e12 * 103.3289,
        }
    }

    const P: Progress = Progress { epochs: 2, steps_per_epoch: 19, total: 38 };

    #[test]
    fn the_lines_are_mindformers_own() {
        assert_eq!(
            numbers(&record(), &Parts::default(), P),
            "{ Epoch:[  2/  2], step:[    1/   19], loss: 10.649000, per_step_time: 103328ms, lr: 0.0, overflow cond: False, \
             loss_scale: 1.0, global_norm: [1.31], train_throughput_per_npu: 2.896T"
        );
        let losses = [("aux_loss", 0.5), ("lm_loss", 10.0), ("z_loss", 0.25)].map(|(n, x)| (n.to_owned(), x)).into();
        let parts = Parts { losses, expert_load: vec![] };
        let text =
            "loss: 10.649000, lm_loss: 10.000000, load_balancing_loss: 0.500000, z_loss: 0.250000, per_step_time";
        assert!(numbers(&record(), &parts, P).contains(text));
        let filled = "█".repeat(26) + &" ".repeat(24);
        let skipped = numbers(
            &StepRecord { loss_scale: 65536.0, overflow: true, grad_norm: f64::INFINITY, ..record() },
            &Parts::default(),
            P,
        );
        assert!(skipped.contains("overflow cond: True, loss_scale: 65536.0, global_norm: [inf]"), "{skipped}");
        assert_eq!(bar(&record(), P), format!("  52.6% |{filled}| 0.07742 samples/s/p  0:30:59 }}"));
    }

    #[test]
    fn the_first_step_of_a_long_run() {
        let r = StepRecord { step: 1, samples: 1, seconds: 157.2, ..record() };
        let p = Progress { epochs: 1, steps_per_epoch: 13_000, total: 13_000 };
        let text = bar(&r, p);
        assert_eq!(text, format!("   0.0% |{}| 0.00636 samples/s/p  23 days, 15:37:22 }}", " ".repeat(50)));
    }

    #[test]
    fn numbers_print_as_in_python() {
        let cases =
            [(0.0, "0.0"), (3e-4, "0.0003"), (1e-5, "1e-05"), (1.25e-7, "1.25e-07"), (1.0, "1.0"), (1e16, "1e+16")];
        for (x, want) in cases {
            assert_eq!(python_float(x), want);
        }
        assert_eq!(python_float(f32::NAN), "nan");
        assert_eq!(
            (numpy_element(2.0), numpy_element(10.0), numpy_element(0.5)),
            ("2.".into(), "10.".into(), "0.5".into())
        );
        assert_eq!((timedelta(59), timedelta(90_061)), ("0:00:59".into(), "1 day, 1:01:01".into()));
    }
}
