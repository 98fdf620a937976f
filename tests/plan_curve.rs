//! Compiled plans on the CPU device follow PyTorch's curves of tiny models: reference ops, fused kernels, every CPU level; of
//! the one with experts, which of them each token meets as well.

mod support;

use athanor_backends::cpu::features;
use athanor_ir::run::LossScale;
use athanor_ir::target::CpuLevel;
use athanor_ir::{Module, Role};
use athanor_passes::compile::OptLevel;
use serde_json::Value;
use support::device::{Compilation, Compiled, Run};
use support::{config, golden, module, run_spec, stacked, tensors};

const SEQ: usize = 32;
const BATCH: usize = 2;

/// A plan for training `module`.
fn compiled(module: &Module, opt: OptLevel, level: CpuLevel, threads: usize) -> Compiled {
    Compiled::new(module, Compilation { opt, level, train: true, threads })
}

/// How a plan is run.
#[derive(Clone, Copy)]
struct Way {
    threads: usize,
    library: bool,
    steps: usize,
}

/// Loss and gradient norm of the first steps of w1-tiny.
fn curve(module: &Module, plan: &Compiled, threads: usize, library: bool, steps: usize) -> Vec<[f64; 2]> {
    trained("w1-tiny", module, plan, Way { threads, library, steps }, |_, _| {})
}

/// Loss and gradient norm of the first steps on the tokens in `folder`; `seen` is shown the device after each.
fn trained(
    folder: &str,
    module: &Module,
    plan: &Compiled,
    Way { threads, library, steps }: Way,
    mut seen: impl FnMut(usize, &Run),
) -> Vec<[f64; 2]> {
    let dir = golden("curves").join(folder);
    let init = stacked(tensors(&dir.join("init.safetensors")));
    let mut device = plan.start(threads, library, &init);
    let bytes = std::fs::read(dir.join("tokens.bin")).unwrap();
    let tokens: Vec<i32> = bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let run = &module.run;
    let mut out = vec![];
    for step in 0..steps {
        let first = step * BATCH;
        let shifted = |by: usize| -> Vec<i32> {
            (first..first + BATCH)
                .flat_map(|r| &tokens[r * (SEQ + 1) + by..r * (SEQ + 1) + by + SEQ])
                .copied()
                .collect()
        };
        device.put("tokens", bytemuck::cast_slice(&shifted(0)));
        device.put("labels", bytemuck::cast_slice(&shifted(1)));
        device.put("loss_mask", bytemuck::cast_slice(&vec![1.0f32; BATCH * SEQ]));
        for (name, value) in run.step_scalars(step as u64) {
            device.put_scalar(&name, value);
        }
        let scale = run.loss_scale.map(LossScale::initial);
        if let Some(scale) = scale {
            device.put_scalar("loss_scale", scale);
        }
        device.program("micro");
        let loss = device.scalar("micro", "loss");
        let (first, second) = if scale.is_some() { ("grad_norm", Some("update")) } else { ("update", None) };
        device.program(first);
        let norm = device.scalar(first, "grad_norm");
        second.into_iter().for_each(|program| device.program(program));
        out.push([loss, norm]);
        seen(step, &device);
    }
    out
}

fn reference(folder: &str) -> Value {
    let text = std::fs::read_to_string(golden("curves").join(folder).join("curve.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn expected(folder: &str) -> Vec<[f64; 2]> {
    let json = reference(folder);
    let list = |key: &str| json[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    list("loss").into_iter().zip(list("grad_norm")).map(|(l, n)| [l, n]).collect()
}

fn follows(what_ran: &str, curve: &[[f64; 2]], loss: f64, norm: f64) {
    keeps_to("w1-tiny", what_ran, curve, loss, norm);
}

fn keeps_to(folder: &str, what_ran: &str, curve: &[[f64; 2]], loss: f64, norm: f64) {
    for (step, (got, want)) in curve.iter().zip(expected(folder)).enumerate() {
        for (what, i, tolerance) in [("loss", 0, loss), ("norm", 1, norm)] {
            let off = (got[i] - want[i]).abs() / want[i];
            assert!(off <= tolerance, "{what_ran}, step {step}: {what} {} is {off:.1e} off {}", got[i], want[i]);
        }
    }
}

fn tiny(extra: &[&str]) -> Module {
    let config = config(&golden("curves/w1-tiny"), SEQ, extra);
    module(&config, run_spec(&config), false)
}

#[test]
fn a_plan_of_reference_ops_follows_the_curve() {
    let m = tiny(&["compute_dtype: float32"]);
    let plan = compiled(&m, OptLevel::O0, CpuLevel::Portable, 2);
    follows("reference", &curve(&m, &plan, 2, false, 20), 2e-6, 1e-5);
}

#[test]
fn fused_kernels_follow_the_curve_at_every_cpu_level() {
    let m = tiny(&["compute_dtype: float32"]);
    for level in CpuLevel::ALL.into_iter().filter(|l| *l <= features::detect()) {
        let plan = compiled(&m, OptLevel::O1, level, 2);
        for library in [false, true] {
            follows(&format!("{level}, library {library}"), &curve(&m, &plan, 2, library, 20), 2e-6, 1e-5);
        }
    }
}

/// Work is dealt in the shares that the plan was made for: partial sums are the same whoever computes them.
#[test]
fn a_plan_gives_the_same_bits_on_any_number_of_threads() {
    let m = tiny(&["compute_dtype: float32"]);
    let plan = compiled(&m, OptLevel::O1, features::detect(), 5);
    let on = |threads| curve(&m, &plan, threads, false, 5);
    let all = on(5);
    follows("five threads", &all, 2e-6, 1e-5);
    for threads in [1, 2, 3] {
        assert_eq!(on(threads), all, "{threads} threads");
    }
}

/// In half precision, with the loss scaled: at the highest level and where no instruction converts.
#[test]
fn f16_compute_follows_the_curve() {
    let config = config(&golden("curves/w1-tiny"), SEQ, &["compute_dtype: float16"]);
    let mut run = run_spec(&config);
    run.loss_scale = Some(LossScale::Fixed { value: 1024.0 });
    let m = module(&config, run, false);
    for level in [CpuLevel::Portable, features::detect()] {
        let plan = compiled(&m, OptLevel::O1, level, 2);
        follows(&format!("f16 on {level}"), &curve(&m, &plan, 2, true, 20), 5e-4, 2e-2);
    }
}

#[test]
fn bf16_compute_follows_the_curve() {
    let m = tiny(&["compute_dtype: bfloat16"]);
    let plan = compiled(&m, OptLevel::O1, features::detect(), 2);
    follows("bf16", &curve(&m, &plan, 2, true, 20), 2e-3, 1e-1);
}

fn with_experts(extra: &[&str]) -> Module {
    let config = config(&golden("curves/w2-tiny"), SEQ, extra);
    module(&config, run_spec(&config), false)
}

/// Tokens of each expert, by layer and step, and biases in steps of their rate.
#[derive(Debug, Default, PartialEq)]
struct Choices {
    load: Vec<Vec<Vec<i64>>>,
    bias: Vec<Vec<Vec<i64>>>,
}

impl Choices {
    fn of_reference(steps: usize) -> Self {
        let json = reference("w2-tiny");
        let of = |key: &str, unit: f64| {
            let all: Vec<Vec<Vec<f64>>> = serde_json::from_value(json[key].clone()).unwrap();
            let round = |layer: Vec<f64>| layer.into_iter().map(|x| (x / unit).round() as i64).collect();
            all.into_iter().take(steps).map(|step| step.into_iter().map(round).collect()).collect()
        };
        Self { load: of("expert_load", 1.0), bias: of("expert_bias_after_step", 1e-3) }
    }

    /// Runs the plan of `module` and compares: loss and norm to a tolerance, who goes where exactly if `exact`.
    fn check(what: &str, module: &Module, plan: &Compiled, way: Way, exact: bool, (loss, norm): (f64, f64)) {
        let biases: Vec<(&String, &String)> = module
            .funcs
            .iter()
            .flat_map(|f| &f.params)
            .filter_map(|p| if let Role::ExpertBias { load, .. } = &p.role { Some((&p.name, load)) } else { None })
            .collect();
        assert_eq!(biases.len(), 2);
        let mut seen = Self::default();
        let curve = trained("w2-tiny", module, plan, way, |_, run| {
            let read = |name: &str, unit: f64| -> Vec<i64> {
                run.buffer(name).to_f64().into_iter().map(|x| (x / unit).round() as i64).collect()
            };
            seen.load.push(biases.iter().map(|(_, load)| read(load, 1.0)).collect());
            seen.bias.push(biases.iter().map(|(bias, _)| read(bias, 1e-3)).collect());
        });
        keeps_to("w2-tiny", what, &curve, loss, norm);
        assert!(!exact || seen == Self::of_reference(way.steps), "{what}: other experts");
    }
}

/// The choice of experts feeds back through the biases: one token elsewhere would show.
#[test]
fn experts_are_chosen_as_in_the_reference_by_every_plan() {
    let m = with_experts(&["compute_dtype: float32"]);
    let way = Way { threads: 2, library: false, steps: 20 };
    let plan = compiled(&m, OptLevel::O0, CpuLevel::Portable, 2);
    Choices::check("reference", &m, &plan, way, true, (5e-6, 2e-5));
    for level in CpuLevel::ALL.into_iter().filter(|l| *l <= features::detect()) {
        let plan = compiled(&m, OptLevel::O1, level, 2);
        for library in [false, true] {
            let what = format!("{level}, library {library}");
            Choices::check(&what, &m, &plan, Way { library, ..way }, true, (5e-6, 2e-5));
        }
    }
}

#[test]
fn experts_in_bf16_follow_the_curve() {
    let m = with_experts(&["compute_dtype: bfloat16"]);
    let plan = compiled(&m, OptLevel::O1, features::detect(), 2);
    let way = Way { threads: 2, library: true, steps: 20 };
    Choices::check("bf16", &m, &plan, way, false, (2e-3, 1e-1));
}

#[test]
fn a_plan_with_experts_gives_the_same_bits_on_any_number_of_threads() {
    let m = with_experts(&["compute_dtype: float32"]);
    let plan = compiled(&m, OptLevel::O1, features::detect(), 5);
    let on = |threads| trained("w2-tiny", &m, &plan, Way { threads, library: false, steps: 4 }, |_, _| {});
    let all = on(5);
    for threads in [1, 2, 3] {
        assert_eq!(on(threads), all, "{threads} threads");
    }
}
