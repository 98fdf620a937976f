//! The same configuration gives the same numbers on any pipeline: losses, gradient norms, saved weights, resumed runs.

mod support;

use athanor_backends::cpu::features;
use athanor_frontend::config::load;
use athanor_frontend::{model, run};
use athanor_ir::Plan;
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::plan::{PlanOptions, build};
use athanor_runtime::checkpoint::Resume;
use athanor_runtime::metrics::json::Line;
use athanor_runtime::source::DataSource;
use athanor_runtime::trainer::{TrainOptions, train_with};
use std::path::{Path, PathBuf};
use support::{apply, relative_error, tensors};

/// Overrides of a configuration.
type Changes<'a> = &'a [(&'a str, &'a str)];

/// Micro-batches of a step in every run here.
const MICRO: usize = 4;

/// A plan of a small Llama of four layers, with its kernels.
struct Compiled {
    plan: Plan,
    dir: tempfile::TempDir,
}

/// `pp` stages of `dp` replicas of `tp` ranks.
fn compile([pp, dp, tp]: [usize; 3], opt: OptLevel, changes: Changes<'_>) -> Compiled {
    let dir = tempfile::tempdir().unwrap();
    let text = |n: usize| n.to_string();
    let mut all = vec![
        ("runner_config.batch_size".to_owned(), text(2 / dp)),
        ("runner_config.gradient_accumulation_steps".into(), text(MICRO)),
        ("parallel_config.micro_batch_num".into(), text(MICRO)),
        ("use_parallel".into(), "True".into()),
        ("parallel_config.pipeline_stage".into(), text(pp)),
        ("parallel_config.data_parallel".into(), text(dp)),
        ("parallel_config.model_parallel".into(), text(tp)),
        ("model.model_config.num_layers".into(), "4".into()),
        ("load_checkpoint".into(), String::new()),
        ("output_dir".into(), dir.path().join("output").to_string_lossy().into_owned()),
    ];
    all.extend(changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    let loaded = load(Path::new("examples/w1_tiny.yaml"), &all);
    let config = loaded.config.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
    let run = run::spec(&config).unwrap_or_else(|e| panic!("{e}"));
    let module = model::build(&config, run, false).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(module.mesh.ranks(), pp * dp * tp);
    let module = apply(&module, &pipeline(&module, opt, true, 4, (1, features::detect())));
    let (level, reference) = (features::detect(), opt == OptLevel::O0);
    let options = PlanOptions { threads: 1, level, config_hash: String::new(), reference };
    let compiled = build(&module, &options).unwrap_or_else(|e| panic!("{e}"));
    if !compiled.texts.is_empty() {
        build_shared_object(&compiled.texts, level, &dir.path().join("kernels.so")).unwrap_or_else(|e| panic!("{e}"));
    }
    Compiled { plan: compiled.plan, dir }
}

impl Compiled {
    fn kernels(&self) -> PathBuf {
        self.dir.path().join("kernels.so")
    }

    /// Trains `steps` steps in all; what each of those run here said.
    fn train(&self, steps: u64, resume: Resume) -> Vec<Line> {
        let metrics = self.dir.path().join("metrics.jsonl");
        let _ = std::fs::remove_file(&metrics);
        let options = TrainOptions {
            metrics_json: Some(metrics.clone()),
            resume,
            steps: Some(steps),
            quiet: true,
            library: false,
            signals: false,
            ..TrainOptions::default()
        };
        train_with(self.plan.clone(), Some(self.kernels()), &options, |run, start, share| {
            Ok((Box::new(DataSource::open(run, start, share)?), vec![]))
        })
        .unwrap_or_else(|e| panic!("{e}"));
        let text = std::fs::read_to_string(metrics).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Directory of the checkpoint after `step` steps.
    fn saved(&self, step: u64) -> PathBuf {
        self.dir.path().join(format!("output/checkpoint/iteration_{step:08}"))
    }
}

fn agree(what: &str, got: &[Line], want: &[Line]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert_eq!((g.step, g.consumed_samples, g.lr), (w.step, w.consumed_samples, w.lr), "{what}");
        for (name, g, w, most) in [("loss", g.loss, w.loss, 1e-5), ("norm", g.grad_norm, w.grad_norm, 1e-4)] {
            let off = (g / w - 1.0).abs();
            assert!(off <= most, "{what}, step {}: {name} {g} is {off:.1e} off {w}", got[0].step);
        }
    }
}

const STEPS: u64 = 4;

const GPIPE: (&str, &str) = ("parallel.pipeline_config.pipeline_scheduler", "gpipe");
const ONE: (&str, &str) = ("parallel.pipeline_config.pipeline_scheduler", "1f1b");
const CHUNKS: (&str, &str) = ("model.model_config.pp_interleave_num", "2");

/// Losses of `mesh` with each of `schedules`, which must be those of one device.
fn parity(opt: OptLevel, mesh: [usize; 3], schedules: &[Changes<'_>], more: Changes<'_>) {
    let serial = compile([1, 1, 1], opt, more).train(STEPS, Resume::No);
    for schedule in schedules {
        let got = compile(mesh, opt, &[*schedule, more].concat()).train(STEPS, Resume::No);
        agree(&format!("{mesh:?} {schedule:?} {more:?}"), &got, &serial);
    }
}

#[test]
fn reference_ops_on_two_stages_follow_one_device() {
    parity(OptLevel::O0, [2, 1, 1], &[&[ONE], &[GPIPE]], &[]);
}

#[test]
fn fused_kernels_on_stages_follow_one_device() {
    parity(OptLevel::O1, [2, 1, 1], &[&[ONE], &[GPIPE]], &[]);
}
