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

const fn scheduler(name: &str) -> (&str, &str) {
    ("parallel.pipeline_config.pipeline_scheduler", name)
}

const CHUNKS: (&str, &str) = ("model.model_config.pp_interleave_num", "2");
const GPIPE: Changes<'_> = &[scheduler("gpipe")];
const ONE: Changes<'_> = &[scheduler("1f1b")];
const INTERLEAVED: Changes<'_> = &[scheduler("1f1b"), CHUNKS];
const ZERO_BUBBLE: Changes<'_> = &[scheduler("zero_bubble_v"), CHUNKS];
const DUALPIPE: Changes<'_> = &[scheduler("dualpipe_v"), CHUNKS];

/// Losses of `mesh` with each of `schedules`, which must be those of one device; those of all schedules.
fn parity(opt: OptLevel, mesh: [usize; 3], schedules: &[Changes<'_>], more: Changes<'_>) -> Vec<Vec<Line>> {
    let serial = compile([1, 1, 1], opt, more).train(STEPS, Resume::No);
    let train = |schedule: &Changes<'_>| {
        let got = compile(mesh, opt, &[*schedule, more].concat()).train(STEPS, Resume::No);
        agree(&format!("{mesh:?} {schedule:?} {more:?}"), &got, &serial);
        got
    };
    schedules.iter().map(train).collect()
}

/// Losses and norms, as bits.
fn bits(lines: &[Line]) -> Vec<[u64; 2]> {
    lines.iter().map(|l| [l.loss.to_bits(), l.grad_norm.to_bits()]).collect()
}

#[test]
fn reference_ops_on_stages_follow_one_device_whatever_the_schedule() {
    let runs = parity(OptLevel::O0, [2, 1, 1], &[GPIPE, ONE, INTERLEAVED, ZERO_BUBBLE], &[]);
    for run in &runs[1..] {
        assert_eq!(bits(run), bits(&runs[0]));
    }
}

#[test]
fn fused_kernels_on_stages_follow_one_device_whatever_the_schedule() {
    let runs = parity(OptLevel::O1, [2, 1, 1], &[GPIPE, ONE, INTERLEAVED, ZERO_BUBBLE], &[]);
    assert_eq!(bits(&runs[0]), bits(&runs[1]));
}

#[test]
fn stages_beside_replicas_and_tensor_parallel_ranks_follow_one_device() {
    parity(OptLevel::O0, [4, 1, 1], &[GPIPE, ONE], &[]);
    parity(OptLevel::O0, [2, 2, 1], &[ONE, ZERO_BUBBLE], &[]);
    parity(OptLevel::O0, [2, 1, 2], &[INTERLEAVED, DUALPIPE], &[]);
    parity(OptLevel::O1, [2, 2, 2], &[ONE], &[]);
}

#[test]
fn layers_that_are_computed_again_keep_their_bits() {
    for (opt, schedules) in [(OptLevel::O0, &[ONE, ZERO_BUBBLE][..]), (OptLevel::O1, &[ONE])] {
        let kept = parity(opt, [2, 1, 1], schedules, &[]);
        let again = parity(opt, [2, 1, 1], schedules, &[("recompute_config.recompute", "True")]);
        for (kept, again) in kept.iter().zip(&again) {
            assert_eq!(bits(kept), bits(again));
        }
    }
}

#[test]
fn stages_of_uneven_sizes_follow_one_device() {
    let first_has_none = ("model.model_config.offset", "[-2, 2]");
    parity(OptLevel::O0, [2, 1, 1], &[ONE], &[first_has_none]);
    let last_has_none = ("model.model_config.offset", "[2, -2]");
    parity(OptLevel::O0, [2, 1, 1], &[ONE], &[last_has_none]);
}

#[test]
fn losses_per_token_and_scaled_losses_are_those_of_one_device() {
    let per_token = ("model.model_config.calculate_per_token_loss", "True");
    let scale = ("runner_wrapper.scale_sense", "1024.0");
    parity(OptLevel::O0, [2, 2, 1], &[ONE], &[per_token, scale]);
}

/// The first and the last stage have the embedding both, unless they are one.
#[test]
fn tied_embeddings_take_the_same_step_on_both_stages() {
    let tied = ("model.model_config.tie_word_embeddings", "True");
    parity(OptLevel::O0, [2, 1, 1], &[ONE, INTERLEAVED, ZERO_BUBBLE], &[tied]);
    parity(OptLevel::O0, [4, 1, 1], &[ONE], &[tied, ("runner_wrapper.scale_sense", "1024.0")]);
    parity(OptLevel::O1, [2, 2, 1], &[ONE], &[tied]);
}

/// Latent attention, routers with biases and balance losses: scalars of every stage reach the loss, loads reach rank 0.
#[test]
fn experts_on_stages_follow_one_device() {
    let deepseek = [
        ("pretrained_model_dir", "tests/golden/curves/w2-tiny"),
        ("model.model_config.model_type", "deepseek_v3"),
        ("model.model_config.architectures", "[DeepseekV3ForCausalLM]"),
        ("model.model_config.moe_aux_loss_coeff", "0.01"),
        ("model.model_config.moe_router_load_balancing_type", "seq_aux_loss"),
        ("model.model_config.moe_router_enable_expert_bias", "True"),
    ];
    let serial = compile([1, 1, 1], OptLevel::O0, &deepseek).train(STEPS, Resume::No);
    for schedule in [ONE, INTERLEAVED] {
        let got = compile([2, 2, 1], OptLevel::O0, &[schedule, &deepseek].concat()).train(STEPS, Resume::No);
        agree(&format!("{schedule:?}"), &got, &serial);
        for (got, want) in got.iter().zip(&serial) {
            assert_eq!(got.parts.expert_load, want.parts.expert_load, "{schedule:?}, step {}", got.step);
        }
    }
}

const SAVES: (&str, &str) = ("callbacks", "[{type: CheckpointMonitor, save_checkpoint_steps: 2}]");

#[test]
fn saved_files_are_those_of_one_device_and_are_taken_up_on_any_pipeline() {
    let serial = compile([1, 1, 1], OptLevel::O1, &[SAVES]);
    let straight = serial.train(4, Resume::No);
    let shared = [
        SAVES,
        ("parallel.enable_parallel_optimizer", "True"),
        ("parallel.parallel_optimizer_config.parallel_optimizer_threshold", "1"),
    ];
    let stages = compile([2, 2, 1], OptLevel::O1, &[&shared[..], INTERLEAVED].concat());
    stages.train(2, Resume::No);
    let (ours, theirs) = (stages.saved(2), serial.saved(2));
    let files = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(files(&ours), files(&theirs));
    for file in files(&ours).iter().map(Path::new).filter(|f| f.extension().is_some_and(|e| e == "safetensors")) {
        let (a, b) = (tensors(&ours.join(file)), tensors(&theirs.join(file)));
        assert_eq!(a.len(), b.len());
        for (name, t) in &b {
            assert_eq!(a[name].ty, t.ty, "{name}");
            let off = relative_error(&a[name].to_f64(), &t.to_f64());
            assert!(off < 1e-4, "{name} is {off:.1e} off");
        }
    }
    agree("in the pipeline from one device", &stages.train(4, Resume::From(theirs)), &straight[2..]);
    agree("on one device from the pipeline", &serial.train(4, Resume::From(ours)), &straight[2..]);
}
