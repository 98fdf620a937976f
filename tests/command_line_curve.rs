//! The command line trains w1-tiny from its YAML and follows PyTorch's curve.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Loss and gradient norm of each step of `athanor train examples/w1_tiny.yaml` with `args`.
fn train(args: &[&str]) -> Vec<[f64; 2]> {
    let dir = tempfile::tempdir().unwrap();
    let metrics = dir.path().join("metrics.jsonl");
    let run = Command::new(env!("CARGO_BIN_EXE_athanor"))
        .current_dir(ROOT)
        .args(["train", "examples/w1_tiny.yaml", "--output-dir"])
        .arg(dir.path().join("out"))
        .arg("--metrics-json")
        .arg(&metrics)
        .args(args)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read_to_string(metrics).unwrap();
    let number = |v: &Value, key: &str| v[key].as_f64().unwrap_or_else(|| panic!("no {key} in {v}"));
    let line = |l: &str| {
        let v: Value = serde_json::from_str(l).unwrap();
        for key in ["step", "lr", "tokens_per_s", "step_ms"] {
            number(&v, key);
        }
        [number(&v, "loss"), number(&v, "grad_norm")]
    };
    text.lines().map(line).collect()
}

fn expected() -> Vec<[f64; 2]> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("tests/golden/curves/w1-tiny/curve.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let list = |key: &str| json[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    list("loss").into_iter().zip(list("grad_norm")).map(|(l, n)| [l, n]).collect()
}

fn follows(args: &[&str], loss: f64, norm: f64) {
    let (got, want) = (train(args), expected());
    assert_eq!(got.len(), want.len(), "{args:?}");
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        for (what, i, tolerance) in [("loss", 0, loss), ("norm", 1, norm)] {
            let off = (got[i] - want[i]).abs() / want[i];
            assert!(off <= tolerance, "{args:?} step {step}: {what} {} is {off:.1e} off {}", got[i], want[i]);
        }
    }
}

#[test]
fn the_command_line_follows_the_curve() {
    follows(&[], 2e-6, 1e-5);
    follows(&["-O0"], 2e-6, 1e-5);
    follows(&["--threads", "1"], 2e-6, 1e-5);
}

#[test]
fn bf16_compute_follows_the_curve_from_the_command_line() {
    follows(&["--set", "model.model_config.compute_dtype=bfloat16"], 2e-3, 1e-1);
}
