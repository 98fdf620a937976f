//! Small models trained on meshes, to compare their numbers.

use super::{apply, kernel_cache, relative_error, tensors};
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

/// Overrides of a configuration.
pub type Changes<'a> = &'a [(&'a str, &'a str)];

/// DeepSeek-V3: latent attention, groups of experts with a bias, a shared expert; PyTorch's first weights.
pub const DEEPSEEK: [(&str, &str); 7] = [
    ("pretrained_model_dir", "tests/golden/curves/w2-tiny"),
    ("load_checkpoint", "tests/golden/curves/w2-tiny/init.safetensors"),
    ("model.model_config.model_type", "deepseek_v3"),
    ("model.model_config.architectures", "[DeepseekV3ForCausalLM]"),
    ("model.model_config.moe_aux_loss_coeff", "0.01"),
    ("model.model_config.moe_router_load_balancing_type", "seq_aux_loss"),
    ("model.model_config.moe_router_enable_expert_bias", "True"),
];

/// Replicas share the optimizer's state of every weight.
pub const SHARED: [(&str, &str); 2] = [
    ("parallel.enable_parallel_optimizer", "True"),
    ("parallel.parallel_optimizer_config.parallel_optimizer_threshold", "1"),
];

/// What replicas share: nothing, moments, gradients too, weights too.
pub fn zero(stage: usize) -> Vec<(&'static str, &'static str)> {
    let gradients = ("parallel.parallel_optimizer_config.gradient_accumulation_shard", "True");
    let weights = ("recompute_config.parallel_optimizer_comm_recompute", "True");
    let mut all = if stage > 0 { SHARED.to_vec() } else { vec![] };
    all.extend((stage == 2).then_some(gradients));
    all.extend((stage == 3).then_some(weights));
    all
}

/// Two replicas share at a time.
pub const BY_TWO: (&str, &str) = ("parallel.parallel_optimizer_config.optimizer_weight_shard_size", "2");

/// How the sequences of a step are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spread {
    /// Stages of the pipeline.
    pub pp: usize,
    /// Replicas.
    pub dp: usize,
    /// Ranks that share heads and inner widths.
    pub tp: usize,
    /// Micro-batches of a step.
    pub micro: usize,
    /// Sequences of a step.
    pub sequences: usize,
}

impl Spread {
    /// All micro-batches on one device.
    pub const fn alone(self) -> Self {
        Self { pp: 1, dp: 1, tp: 1, ..self }
    }
}

/// A plan with its kernels.
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    dir: tempfile::TempDir,
}

impl Compiled {
    /// The plan of `examples/w1_tiny.yaml` with `changes`, spread out as `on` says.
    pub fn new(on: Spread, opt: OptLevel, changes: Changes<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let number = |key: &str, n: usize| (key.to_owned(), n.to_string());
        let mut all = vec![
            number("runner_config.batch_size", on.sequences / on.dp / on.micro),
            number("runner_config.gradient_accumulation_steps", on.micro),
            number("parallel_config.micro_batch_num", on.micro),
            ("use_parallel".into(), "True".into()),
            number("parallel_config.pipeline_stage", on.pp),
            number("parallel_config.data_parallel", on.dp),
            number("parallel_config.model_parallel", on.tp),
            ("output_dir".into(), dir.path().join("output").to_string_lossy().into_owned()),
        ];
        all.extend(changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let loaded = load(Path::new("examples/w1_tiny.yaml"), &all);
        let config = loaded.config.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
        let run = run::spec(&config).unwrap_or_else(|e| panic!("{e}"));
        let module = model::build(&config, run, false).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(module.mesh.ranks(), on.pp * on.dp * on.tp * config.parallel_config.context_parallel.value);
        let module = apply(&module, &pipeline(&module, opt, true, 4, (1, features::detect())));
        let (level, reference) = (features::detect(), opt == OptLevel::O0);
        let options = PlanOptions { threads: 1, level, config_hash: String::new(), reference };
        let compiled = build(&module, &options).unwrap_or_else(|e| panic!("{e}"));
        let kernels = dir.path().join("kernels.so");
        if !compiled.texts.is_empty() {
            build_shared_object(&compiled.texts, level, Some(&kernel_cache()), &kernels)
                .unwrap_or_else(|e| panic!("{e}"));
        }
        Self { plan: compiled.plan, dir }
    }

    /// Its shared object.
    pub fn kernels(&self) -> PathBuf {
        self.dir.path().join("kernels.so")
    }

    /// Trains `steps` steps in all; what each of those run here said.
    pub fn train(&self, steps: u64, resume: Resume) -> Vec<Line> {
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
    pub fn saved(&self, step: u64) -> PathBuf {
        self.dir.path().join(format!("output/checkpoint/iteration_{step:08}"))
    }
}

/// Steps that must say the same: losses within 1e-5, gradient norms within 1e-4, loads of experts exactly.
pub fn agree(what: &str, got: &[Line], want: &[Line]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert_eq!((g.step, g.consumed_samples, g.lr), (w.step, w.consumed_samples, w.lr), "{what}");
        for (name, g, w, most) in [("loss", g.loss, w.loss, 1e-5), ("norm", g.grad_norm, w.grad_norm, 1e-4)] {
            let off = (g / w - 1.0).abs();
            assert!(off <= most, "{what}, step {}: {name} {g} is {off:.1e} off {w}", got[0].step);
        }
        assert_eq!(g.parts.expert_load, w.parts.expert_load, "{what}, step {}", g.step);
        assert_eq!(g.parts.losses.len(), w.parts.losses.len(), "{what}");
        for (name, w) in &w.parts.losses {
            let g = g.parts.losses[name];
            assert!((g - w).abs() <= 1e-5 * w.abs().max(1e-3), "{what}: {name} {g} is not {w}");
        }
    }
}

/// Checkpoints that must hold the same files, and in their tensors the same numbers within 1e-4; the names of all tensors.
pub fn files_agree(ours: &Path, theirs: &Path) -> Vec<String> {
    let files = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(files(ours), files(theirs));
    let mut compared = vec![];
    for file in files(ours).iter().map(Path::new).filter(|f| f.extension().is_some_and(|e| e == "safetensors")) {
        let (a, b) = (tensors(&ours.join(file)), tensors(&theirs.join(file)));
        assert_eq!(a.len(), b.len());
        for (name, t) in b {
            assert_eq!(a[&name].ty, t.ty, "{name}");
            let off = relative_error(&a[&name].to_f64(), &t.to_f64());
            assert!(off < 1e-4, "{name} is {off:.1e} off");
            compared.push(name);
        }
    }
    compared
}
