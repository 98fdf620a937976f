//! Three steps of every optimizer against values that PyTorch gave, by the reference and as compiled.

mod support;

use std::collections::HashMap;
use std::sync::LazyLock;

use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::optimizer::OptimizerSpec;
use athanor_ir::run::{LossScale, RunSpec};
use athanor_ir::target::CpuLevel;
use athanor_ir::{DType, Func, Init, Level, Loc, Mesh, Module, Role};
use athanor_passes::compile::OptLevel;
use athanor_passes::optimizer::optimizer;
use serde::Deserialize;
use support::device::{Compilation, Compiled};
use support::{golden, relative_error, tensors};

#[derive(Deserialize)]
struct Golden {
    lr: Vec<f64>,
    decays: HashMap<String, bool>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    optimizer: OptimizerSpec,
}

static CASES: LazyLock<Golden> = LazyLock::new(|| {
    let text = std::fs::read_to_string(golden("optimizers").join("cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
});
static VALUES: LazyLock<HashMap<String, Tensor>> =
    LazyLock::new(|| tensors(&golden("optimizers").join("values.safetensors")));

const WEIGHTS: [&str; 4] = ["bias", "experts", "matrix", "tall"];

/// A module whose gradients are given: `update` and what belongs to it.
fn module(run: RunSpec) -> Module {
    let mut micro = Func::new("micro");
    for name in WEIGHTS {
        let ty = VALUES[&format!("init.{name}")].ty.clone();
        let role = Role::Weight { init: Init::Constant { value: 0.0 }, decay: CASES.decays[name] };
        micro.param(name, ty.clone(), role, Loc::default());
        let grad = micro.param(format!("given.{name}"), ty, Role::Input, Loc::default());
        micro.result(format!("grad.{name}"), grad);
    }
    let bare = Module { name: "m".into(), level: Level::Train, mesh: Mesh::default(), run, funcs: vec![micro] };
    let module = optimizer(&bare).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&module).unwrap_or_else(|e| panic!("{e}"));
    module
}

fn run(case: &Case) -> RunSpec {
    RunSpec { optimizer: case.optimizer.clone(), ..RunSpec::for_tests() }
}

/// Scalars of 0-based `step` at the golden's rate.
fn scalars(case: &Case, step: usize) -> Vec<(String, f64)> {
    let all = case.optimizer.scalars(CASES.lr[step], step as u64 + 1);
    all.into_iter().map(|s| (s.name.to_owned(), s.value)).collect()
}

/// Compares every weight and state with the golden's; Muon's weights within the rounding of its bf16 iterations, which is
/// half a percent of an update.
fn compare(case: &Case, what: &str, found: &dyn Fn(&str) -> Tensor) {
    let prefix = format!("{}/", case.name);
    let mut seen = 0;
    for (name, want) in VALUES.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?, t))) {
        let is_weight = WEIGHTS.contains(&name);
        let rounded = is_weight && name != "bias" && matches!(case.optimizer, OptimizerSpec::Muon(_));
        let limit = if rounded { 2e-3 } else { 2e-6 };
        let error = relative_error(&found(name).to_f64(), &want.to_f64());
        assert!(error < limit, "{} {what}: {name} is off by {error}", case.name);
        seen += 1;
    }
    assert!(seen >= WEIGHTS.len(), "{} has values", case.name);
}

#[test]
fn the_reference_steps_like_pytorch() {
    for case in &CASES.cases {
        let module = module(run(case));
        let update = module.func("update").unwrap();
        let mut state: HashMap<String, Tensor> =
            WEIGHTS.map(|n| (n.to_owned(), VALUES[&format!("init.{n}")].clone())).into();
        for p in update.params.iter().filter(|p| p.role == Role::Moment) {
            state.insert(p.name.clone(), Tensor::zeros(update.ty(p.value).clone()));
        }
        for step in 0..CASES.lr.len() {
            state.extend(WEIGHTS.map(|n| (format!("grad.{n}"), VALUES[&format!("grad.{step}.{n}")].clone())));
            state.extend(scalars(case, step).into_iter().map(|(n, x)| (n, Tensor::scalar(DType::F32, x))));
            state.extend(interpret(&module, "update", &state).unwrap());
        }
        compare(case, "by the reference", &|name| state[name].clone());
    }
}

#[test]
fn compiled_steps_are_the_same() {
    for case in &CASES.cases {
        for (level, threads) in [(CpuLevel::Avx2, 2), (CpuLevel::Portable, 1)] {
            let how = Compilation { opt: OptLevel::O1, level, train: true, threads };
            let weights: HashMap<String, Tensor> =
                WEIGHTS.map(|n| (n.to_owned(), VALUES[&format!("init.{n}")].clone())).into();
            let mut device = Compiled::new(&module(run(case)), how).start(threads, false, &weights);
            for step in 0..CASES.lr.len() {
                for n in WEIGHTS {
                    device.put(&format!("grad.{n}"), &VALUES[&format!("grad.{step}.{n}")].bytes);
                }
                for (name, value) in scalars(case, step) {
                    device.put_scalar(&name, value);
                }
                device.program("update");
            }
            compare(case, &format!("compiled for {level:?}"), &|name| device.buffer(name));
        }
    }
}

/// Gradients 256 times as large with a scale of 256, and a rate of its own for one weight.
#[test]
fn scaled_gradients_and_grouped_rates_step_the_same() {
    let case = &CASES.cases[0];
    let mut spec = run(case);
    spec.loss_scale = Some(LossScale::Fixed { value: 256.0 });
    let group = athanor_ir::run::LrGroup { lr: spec.lr.clone(), weights: vec!["matrix".into()] };
    spec.lr_groups = vec![group];
    let module = module(spec);
    let mut state: HashMap<String, Tensor> =
        WEIGHTS.map(|n| (n.to_owned(), VALUES[&format!("init.{n}")].clone())).into();
    let update = module.func("update").unwrap();
    for p in update.params.iter().filter(|p| p.role == Role::Moment) {
        state.insert(p.name.clone(), Tensor::zeros(update.ty(p.value).clone()));
    }
    state.insert("loss_scale".into(), Tensor::scalar(DType::F32, 256.0));
    for step in 0..CASES.lr.len() {
        let mut squares = 0.0;
        for n in WEIGHTS {
            let grad = &VALUES[&format!("grad.{step}.{n}")];
            squares += grad.to_f64().iter().map(|x| x * x).sum::<f64>();
            let large: Vec<f32> = grad.to_f64().iter().map(|x| (256.0 * x) as f32).collect();
            state.insert(format!("grad.{n}"), Tensor::from_f32(&grad.ty.dims, &large));
        }
        for (name, x) in scalars(case, step) {
            // The group has the right rates, everyone else stands still.
            let own = if name == "v_scale" { x } else { 0.0 };
            state.insert(format!("{name}.1"), Tensor::scalar(DType::F32, x));
            state.insert(name, Tensor::scalar(DType::F32, own));
        }
        let norm = interpret(&module, "grad_norm", &state).unwrap().remove("grad_norm").unwrap();
        assert!((norm.to_f64()[0] - squares.sqrt()).abs() < 1e-5 * squares.sqrt());
        state.insert("grad_norm".into(), norm);
        state.extend(interpret(&module, "update", &state).unwrap());
    }
    let moved = |name: &str| relative_error(&state[name].to_f64(), &VALUES[&format!("AdamW/{name}")].to_f64());
    assert!(moved("matrix") < 2e-6 && moved("adam_v.tall") < 2e-6);
    assert_eq!(state["tall"].to_f64(), VALUES["init.tall"].to_f64());
}
