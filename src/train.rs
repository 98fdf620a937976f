//! `athanor train`: from a configuration or a plan to trained weights.

#[cfg(feature = "compiler")]
use crate::codes::FILE;
use crate::codes::{DEVICES, NEEDS_CONFIG};
#[cfg(feature = "compiler")]
use crate::compile::{Job, Options, one_line, write};
#[cfg(feature = "compiler")]
use crate::config_args::{Overrides, read};
use crate::failure::Failure;
use crate::output::say;
use crate::ranks::Ranks;
use crate::text::count;
use athanor_ir::{Diagnostic, Plan};
use athanor_runtime::checkpoint::Resume;
#[cfg(feature = "compiler")]
use athanor_runtime::company;
use athanor_runtime::plan_dir;
#[cfg(feature = "compiler")]
use athanor_runtime::signals::RemoveOnInterrupt;
use athanor_runtime::trainer::{Summary, TrainOptions, open_data, train_as};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "compiler")]
use tempfile::TempDir;

/// Train from a configuration, or from a plan that was compiled before.
#[derive(Parser)]
#[cfg_attr(
    feature = "compiler",
    command(after_help = "\
MindSpore Transformers' command line works: `athanor run_mindformer.py --config x.yaml --run_mode train`.\n\
Under mpirun or srun (with MPI) each process is a rank of the mesh; rank 0 compiles, logs and saves.\n\
Ctrl-C finishes the step, saves and exits with 130; a second one stops at once.\n\n\
Examples:\n  athanor train examples/quickstart.yaml --metrics-json metrics.jsonl --plot loss.svg\n  \
athanor train plan --steps 100 --profile\n  \
mpirun -n 8 athanor train pretrain.yaml\n  \
athanor train pretrain.yaml --resume --set runner_config.epochs=2\n  \
athanor train --config pretrain.yaml --run_mode train --load_checkpoint llama3 --optimizer.weight_decay 0.1")
)]
#[cfg_attr(
    not(feature = "compiler"),
    command(after_help = "\
Ctrl-C finishes the step, saves and exits with 130; a second one stops at once.\n\n\
Under mpirun or srun (with MPI) each process is a rank of the plan; rank 0 logs and saves.\n\n\
Examples:\n  athanor train plan --metrics-json metrics.jsonl --plot loss.svg\n  athanor train plan --resume\n  \
mpirun -n 8 athanor train plan")
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
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
    /// Communicate in turn with computation, not beside it, to see what the latter brings
    #[arg(long)]
    no_overlap: bool,
    /// Of several processes: warn when others have waited so long for one, with what each is doing
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..))]
    stall_warning: u32,
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
    /// What of the command line all processes of a run must have alike.
    fn asked(&self, path: &Path) -> String {
        let run = format!("{} {:?} {:?} {}", path.display(), self.steps, self.resume, self.no_library);
        #[cfg(feature = "compiler")]
        let run = format!("{run} {:?} {:?}", self.options, self.overrides.all());
        run
    }

    fn resume(&self) -> Resume {
        match &self.resume {
            None => Resume::No,
            Some(None) => Resume::Latest,
            Some(Some(path)) => Resume::From(path.clone()),
        }
    }

    fn train_options(&self, ranks: &Ranks) -> TrainOptions {
        TrainOptions {
            stop: Arc::clone(&ranks.stop),
            // One of several processes listens already.
            signals: ranks.engine().is_none(),
            metrics_json: self.metrics_json.clone(),
            plot: self.plot.clone(),
            resume: self.resume(),
            steps: self.steps,
            profile: self.profile,
            quiet: self.quiet,
            library: !self.no_library,
            overlap: !self.no_overlap,
            ..TrainOptions::default()
        }
    }
}

pub fn run(args: &Args) -> Result<(), Failure> {
    #[cfg(feature = "compiler")]
    let devices = args.options.devices.map(|d| d as usize);
    #[cfg(not(feature = "compiler"))]
    let devices = None;
    let ranks = Ranks::find(devices, Duration::from_secs(args.stall_warning.into()))?;
    let result = run_as(args, &ranks);
    ranks.end(result)
}

#[cfg(feature = "compiler")]
fn run_as(args: &Args, ranks: &Ranks) -> Result<(), Failure> {
    let path = args.overrides.path(args.config.as_deref());
    if is_plan(path) { train_plan(args, path, ranks) } else { train_config(args, path, ranks) }
}

#[cfg(not(feature = "compiler"))]
fn run_as(args: &Args, ranks: &Ranks) -> Result<(), Failure> {
    let path = args.config.as_deref().unwrap_or(Path::new(""));
    needs_plan(path, is_plan(path))?;
    let options = TrainOptions {
        threads: args.threads.map(usize::from),
        output_dir: args.output_dir.clone(),
        ..args.train_options(ranks)
    };
    train_dir(args, path, None, options, ranks)
}

/// Trains the plan at `path`, by as many processes as a launcher has started, or as `devices` threads if that is given.
fn train_dir(
    args: &Args,
    path: &Path,
    devices: Option<usize>,
    mut options: TrainOptions,
    ranks: &Ranks,
) -> Result<(), Failure> {
    let company = ranks.meet(&args.asked(path))?;
    let loaded = plan_dir::read(path)?;
    fits(&loaded.plan, ranks.processes.or(devices))?;
    if let Some(mut company) = company {
        company.agree(&loaded.plan, loaded.kernels.as_deref())?;
        let most = loaded.plan.target.threads;
        options.threads = options.threads.or(Some(company.threads().min(most)));
    }
    end(args, &train_as(ranks.engine(), loaded.plan, loaded.kernels, &options, open_data)?, ranks)
}

/// Refuses a plan that is not for `devices`.
fn fits(plan: &Plan, devices: Option<usize>) -> Result<(), Failure> {
    match devices {
        Some(devices) if devices != plan.mesh.ranks() => {
            let message = format!("the plan is for {}, not for {devices}", count(plan.mesh.ranks() as u64, "device"));
            let found = Diagnostic::error(&DEVICES, message);
            Err(found.help("compile the configuration for so many devices, or start as many as the plan is for").into())
        }
        _ => Ok(()),
    }
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
fn train_plan(args: &Args, path: &Path, ranks: &Ranks) -> Result<(), Failure> {
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
    let options = TrainOptions {
        threads: args.options.threads.map(usize::from),
        output_dir: args.overrides.flags.output_dir.as_ref().map(PathBuf::from),
        ..args.train_options(ranks)
    };
    train_dir(args, path, args.options.devices.map(|d| d as usize), options, ranks)
}

/// Trains the configuration at `path`. Of several processes one reads and compiles it for all.
#[cfg(feature = "compiler")]
fn train_config(args: &Args, path: &Path, ranks: &Ranks) -> Result<(), Failure> {
    use std::sync::{Mutex, PoisonError};

    let mut company = ranks.meet(&args.asked(path))?;
    let devices = ranks.processes.or(args.options.devices.map(|d| d as usize));
    let (job, unfinished) = match &mut company {
        None => compile(args, path, devices, None).map(|(job, unfinished)| (job, Some(unfinished)))?,
        Some(company) if company.leads() => {
            let (job, unfinished) = compile(args, path, devices, Some(company.threads()))?;
            (company.share(Some(job))?, Some(unfinished))
        }
        Some(company) => (company.share(None)?, None),
    };
    let mut options = TrainOptions { resume: job.resume, ..args.train_options(ranks) };
    if let Some(company) = &mut company {
        company.agree(&job.plan, job.kernels.as_ref().map(|k| &*k.path))?;
        // Of a rank with fewer cores than the one that has compiled.
        options.threads = args.options.threads.is_none().then(|| company.threads().min(job.plan.target.threads));
    }
    let (kernels, unfinished) = (job.kernels.as_ref().map(|k| k.path.clone()), Mutex::new(unfinished));
    let summary = train_as(ranks.engine(), job.plan, kernels, &options, |run, start, share| {
        let take = |part: fn(&mut Unfinished)| {
            unfinished.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(part);
        };
        // The kernels are loaded by now: nothing is left behind even if the process is killed.
        take(|u| drop(u.files.take()));
        let opened = open_data(run, start, share)?;
        // From here on the trainer listens for signals itself.
        take(|u| drop(u.watch.take()));
        Ok(opened)
    })?;
    end(args, &summary, ranks)
}

/// What a compilation leaves behind until the run has begun.
#[cfg(feature = "compiler")]
struct Unfinished {
    /// Kernels that nobody asked to keep.
    files: Option<TempDir>,
    /// Removes them, or a plan that is not complete, at an interrupt.
    watch: Option<RemoveOnInterrupt>,
}

/// Compiles the configuration at `path` for `devices`, or as many as it says; `threads` are for each of them if the command line
/// does not say how many.
#[cfg(feature = "compiler")]
fn compile(
    args: &Args,
    path: &Path,
    devices: Option<usize>,
    threads: Option<usize>,
) -> Result<(company::Job, Unfinished), Failure> {
    use athanor_passes::codegen::llvm::build_shared_object;
    use athanor_passes::observe::Observe;
    use athanor_runtime::plan_dir::Writer;

    let start = std::time::Instant::now();
    let threads = args.options.threads.or(threads.and_then(|t| u16::try_from(t).ok()));
    let options = Options { threads, ..args.options.clone() };
    let config = read(path, &args.overrides, devices.and_then(|d| u32::try_from(d).ok()))?;
    let resume = resume(args, &config);
    let missing = athanor_frontend::inputs::missing(&config, resume == Resume::No);
    if !missing.is_empty() {
        return Err(missing.into());
    }
    let writer = args.plan.as_deref().map(Writer::create).transpose()?;
    let files = if writer.is_none() { Some(temporary()?) } else { None };
    let dir = writer.as_ref().map(Writer::path).or(files.as_ref().map(TempDir::path)).map(Path::to_path_buf);
    let watch = dir.clone().map(RemoveOnInterrupt::new);
    let compiled = Job::new(&config, &options, false)?.plan(&Observe::default())?.compiled;
    let (plan, kernels) = if let (Some(writer), Some(dir)) = (writer, &args.plan) {
        write(&compiled, options.cache().as_ref(), writer)?;
        let kept = plan_dir::read(dir)?;
        (kept.plan, kept.kernels)
    } else {
        let file = dir.unwrap_or_default().join("kernels.so");
        let generated = !compiled.texts.is_empty();
        if generated {
            build_shared_object(&compiled.texts, compiled.plan.target.cpu, options.cache().as_ref(), &file)?;
        }
        (compiled.plan, generated.then_some(file))
    };
    if !args.quiet {
        say!("{}: {}", path.display(), one_line(&plan, start.elapsed()));
    }
    Ok((company::Job { plan, kernels: kernels.map(company::Kernels::at), resume }, Unfinished { files, watch }))
}

/// `--resume` if it is given, else `resume_training` of the configuration.
#[cfg(feature = "compiler")]
fn resume(args: &Args, config: &athanor_frontend::config::Config) -> Resume {
    use athanor_frontend::config;
    if args.resume.is_some() {
        return args.resume();
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

fn end(args: &Args, summary: &Summary, ranks: &Ranks) -> Result<(), Failure> {
    if !args.quiet && ranks.leads() {
        say!("{summary}");
        if let Some(profile) = &summary.profile {
            say!("\n{profile}");
        }
    }
    if summary.interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}
