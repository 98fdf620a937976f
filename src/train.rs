//! `athanor train`: from a configuration or a plan to trained weights.

use crate::codes::NEEDS_CONFIG;
#[cfg(feature = "compiler")]
use crate::codes::{DEVICES, FILE};
#[cfg(feature = "compiler")]
use crate::compile::{Job, Options, one_line, write};
#[cfg(feature = "compiler")]
use crate::config_args::{Overrides, read};
use crate::failure::Failure;
use crate::output::say;
#[cfg(feature = "compiler")]
use crate::text::count;
use athanor_ir::Diagnostic;
use athanor_runtime::checkpoint::Resume;
#[cfg(feature = "compiler")]
use athanor_runtime::plan_dir;
use athanor_runtime::trainer::{Summary, TrainOptions, train};
use clap::Parser;
use std::path::{Path, PathBuf};
#[cfg(feature = "compiler")]
use tempfile::TempDir;

/// Train from a configuration, or from a plan that was compiled before.
#[derive(Parser)]
#[cfg_attr(
    feature = "compiler",
    command(after_help = "\
MindSpore Transformers' command line works: `athanor run_mindformer.py --config x.yaml --run_mode train`.\n\
Ctrl-C finishes the step, saves and exits with 130; a second one stops at once.\n\n\
Examples:\n  athanor train examples/quickstart.yaml --metrics-json metrics.jsonl --plot loss.svg\n  \
athanor train plan --steps 100 --profile\n  \
athanor train pretrain.yaml --resume --set runner_config.epochs=2\n  \
athanor train --config pretrain.yaml --run_mode train --load_checkpoint llama3 --optimizer.weight_decay 0.1")
)]
#[cfg_attr(
    not(feature = "compiler"),
    command(after_help = "\
Ctrl-C finishes the step, saves and exits with 130; a second one stops at once.\n\n\
Examples:\n  athanor train plan --metrics-json metrics.jsonl --plot loss.svg\n  athanor train plan --resume")
)]
pub struct Args {
    /// YAML file, or a plan directory (with plan.json)
    #[cfg_attr(feature = "compiler", arg(value_name = "CONFIG|PLAN", required_unless_present = "config_file"))]
    #[cfg_attr(not(feature = "compiler"), arg(value_name = "PLAN", required = true))]
    config: Option<PathBuf>,
    /// Stop after this many steps in all; rates keep to the schedule of the run
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Write one JSON object per step to this file
    #[arg(long, value_name = "FILE")]
    metrics_json: Option<PathBuf>,
    /// Draw the loss to this file at the end, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Go on from the newest checkpoint of the run, or from the one at PATH
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "the flag may be absent, bare, or have a path")]
    resume: Option<Option<PathBuf>>,
    /// Measure every kernel and print where the time went
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true,
          hide_possible_values = true, action = clap::ArgAction::Set, hide_default_value = true, value_name = "BOOL")]
    profile: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    /// Use generated matrix products only, not oneDNN
    #[arg(long)]
    no_library: bool,
    /// Keep the compiled plan in this directory
    #[cfg(feature = "compiler")]
    #[arg(long, value_name = "DIR")]
    plan: Option<PathBuf>,
    #[cfg(feature = "compiler")]
    #[command(flatten)]
    options: Options,
    #[cfg(feature = "compiler")]
    #[command(flatten)]
    overrides: Overrides,
    /// Workers, at most as many as the plan was compiled for
    #[cfg(not(feature = "compiler"))]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Write below this directory instead of the run's `output_dir`
    #[cfg(not(feature = "compiler"))]
    #[arg(long, alias = "output_dir", value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// Whether `path` leads to a plan: its directory, or the plan.json in it.
pub fn is_plan(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "plan.json") || path.join("plan.json").is_file()
}

impl Args {
    fn train_options(&self) -> TrainOptions {
        TrainOptions {
            metrics_json: self.metrics_json.clone(),
            plot: self.plot.clone(),
            resume: match &self.resume {
                None => Resume::No,
                Some(None) => Resume::Latest,
                Some(Some(path)) => Resume::From(path.clone()),
            },
            steps: self.steps,
            profile: self.profile,
            quiet: self.quiet,
            library: !self.no_library,
            ..TrainOptions::default()
        }
    }
}

#[cfg(feature = "compiler")]
pub fn run(args: &Args) -> Result<(), Failure> {
    let path = args.overrides.path(args.config.as_deref());
    let options = args.train_options();
    if is_plan(path) { train_plan(args, path, options) } else { train_config(args, path, options) }
}

#[cfg(not(feature = "compiler"))]
pub fn run(args: &Args) -> Result<(), Failure> {
    let path = args.config.as_deref().unwrap_or(Path::new(""));
    needs_plan(path, is_plan(path))?;
    let options = TrainOptions {
        threads: args.threads.map(usize::from),
        output_dir: args.output_dir.clone(),
        ..args.train_options()
    };
    end(args, &train(path, &options)?)
}

/// Tells a user of the runner that a YAML file must be compiled first.
#[cfg(not(feature = "compiler"))]
pub fn needs_plan(path: &Path, is_plan: bool) -> Result<(), Failure> {
    if is_plan || !path.is_file() {
        return Ok(());
    }
    let message = format!("{} is no plan, and this runner has no compiler in it", path.display());
    Err(Diagnostic::error(&NEEDS_CONFIG, message).help("run `athanor compile` with the full command first").into())
}

/// A plan has its decisions behind it: only what the run itself decides can be given.
#[cfg(feature = "compiler")]
fn train_plan(args: &Args, path: &Path, options: TrainOptions) -> Result<(), Failure> {
    let refuse = |what: &str| {
        let d = Diagnostic::error(&NEEDS_CONFIG, format!("{what} cannot change a plan"));
        Err(Failure::from(d.help("give the YAML file instead of the plan, or compile it again")))
    };
    if let Some((key, _)) = args.overrides.all().iter().find(|(key, _)| key != "output_dir") {
        return refuse(&format!("an override of `{key}`"));
    }
    if args.options.opt_level != 1 || args.options.cpu.is_some() || args.plan.is_some() {
        return refuse("an option of the compiler (-O, --cpu, --plan)");
    }
    if let Some(devices) = args.options.devices {
        let ranks = plan_dir::read(path)?.plan.mesh.ranks();
        if ranks != devices as usize {
            let message = format!("the plan is for {}, not for {devices}", count(ranks as u64, "device"));
            return Err(Diagnostic::error(&DEVICES, message)
                .help("compile the configuration for so many devices")
                .into());
        }
    }
    let options = TrainOptions {
        threads: args.options.threads.map(usize::from),
        output_dir: args.overrides.flags.output_dir.as_ref().map(PathBuf::from),
        ..options
    };
    end(args, &train(path, &options)?)
}

#[cfg(feature = "compiler")]
fn train_config(args: &Args, path: &Path, mut options: TrainOptions) -> Result<(), Failure> {
    use athanor_passes::codegen::llvm::build_shared_object;
    use athanor_passes::observe::Observe;
    use athanor_runtime::plan_dir::Writer;
    use athanor_runtime::signals::RemoveOnInterrupt;
    use athanor_runtime::source::DataSource;
    use athanor_runtime::trainer::train_with;
    use std::sync::{Mutex, PoisonError};

    let start = std::time::Instant::now();
    let config = read(path, &args.overrides, args.options.devices)?;
    options.resume = resume(args, &config);
    let missing = athanor_frontend::inputs::missing(&config, options.resume == Resume::No);
    if !missing.is_empty() {
        return Err(missing.into());
    }
    let writer = args.plan.as_deref().map(Writer::create).transpose()?;
    let temp = if writer.is_none() { Some(temporary()?) } else { None };
    let unfinished = writer.as_ref().map(Writer::path).or(temp.as_ref().map(TempDir::path)).map(Path::to_path_buf);
    let watch = unfinished.clone().map(RemoveOnInterrupt::new);
    let compiled = Job::new(&config, &args.options, false)?.plan(&Observe::default())?.compiled;
    let tell = |plan: &athanor_ir::Plan| {
        if !args.quiet {
            say!("{}: {}", path.display(), one_line(plan, start.elapsed()));
        }
    };
    let (plan, kernels) = if let (Some(writer), Some(dir)) = (writer, &args.plan) {
        write(&compiled, writer)?;
        let kept = plan_dir::read(dir)?;
        (kept.plan, kept.kernels)
    } else {
        let file = unfinished.unwrap_or_default().join("kernels.so");
        let generated = !compiled.texts.is_empty();
        if generated {
            build_shared_object(&compiled.texts, compiled.plan.target.cpu, &file)?;
        }
        (compiled.plan, generated.then_some(file))
    };
    tell(&plan);
    let (temp, watch) = (Mutex::new(temp), Mutex::new(watch));
    let summary = train_with(plan, kernels, &options, |run, start, share| {
        // The kernels are loaded by now: nothing is left behind even if the process is killed.
        drop(temp.lock().unwrap_or_else(PoisonError::into_inner).take());
        let source = DataSource::open(run, start, share)?;
        // From here on the trainer listens for signals itself.
        drop(watch.lock().unwrap_or_else(PoisonError::into_inner).take());
        let notes = source.notes.clone();
        Ok((Box::new(source), notes))
    })?;
    end(args, &summary)
}

/// `--resume` if it is given, else `resume_training` of the configuration.
#[cfg(feature = "compiler")]
fn resume(args: &Args, config: &athanor_frontend::config::Config) -> Resume {
    use athanor_frontend::config;
    let given = args.train_options().resume;
    if args.resume.is_some() {
        return given;
    }
    // A name alone is one of the iterations below the directory of checkpoints.
    let named = |name: &str| {
        let path = config.resolve_path(name);
        let root = match &config.general.load_checkpoint {
            Some(from) => PathBuf::from(&from.value),
            None => Path::new(&config.general.output_dir.value).join("checkpoint"),
        };
        if path.exists() { path } else { root.join(name) }
    };
    match &config.general.resume_training.value {
        config::Resume::Off => Resume::No,
        config::Resume::From(name) => Resume::From(named(name)),
        // MindSpore Transformers takes the newest checkpoint below load_checkpoint.
        config::Resume::Auto => config
            .general
            .load_checkpoint
            .as_ref()
            .map_or(Resume::Latest, |from| Resume::From(config.resolve_path(&from.value))),
    }
}

/// A directory for kernels that nobody asked to keep.
#[cfg(feature = "compiler")]
fn temporary() -> Result<TempDir, Failure> {
    let dir = std::env::temp_dir();
    tempfile::Builder::new().prefix("athanor-kernels-").tempdir_in(&dir).map_err(|e| {
        let message = format!("cannot make a directory in {}: {e}", dir.display());
        Diagnostic::error(&FILE, message).help("set TMPDIR to a directory that can be written to").into()
    })
}

fn end(args: &Args, summary: &Summary) -> Result<(), Failure> {
    if !args.quiet {
        say!("{summary}");
        if let Some(profile) = &summary.profile {
            say!("\n{profile}");
        }
    }
    if summary.interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}
