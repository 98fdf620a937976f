//! The main job: a plan from its first step, or from a checkpoint, to its last.

mod job;

use crate::checkpoint::{Resume, Saver, load_weights, resume, save};
use crate::codes::NOT_TRAINABLE;
use crate::executor::Executor;
use crate::metrics::log_line::Progress;
use crate::metrics::memory::{Resident, resident};
use crate::metrics::reporter::{ReportOptions, Reporter};
use crate::signals::Signals;
use crate::source::{BatchSource, DataSource, Share};
use athanor_backends::comm::{Engine, local};
use athanor_backends::cpu::device::DeviceOptions;
use athanor_backends::cpu::profile::Profile;
use athanor_ir::plan::{BufferRole, Plan};
use athanor_ir::run::RunSpec;
use athanor_ir::{Diagnostic, Memory, Result};
use job::Job;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the command line adds to a plan.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct TrainOptions {
    /// Write one JSON object per step here.
    pub metrics_json: Option<PathBuf>,
    /// Draw the loss here at the end, as SVG.
    pub plot: Option<PathBuf>,
    /// Continue an earlier run.
    pub resume: Resume,
    /// Stop after this many steps in all, instead of the plan's number; rates keep to the plan's schedule.
    pub steps: Option<u64>,
    /// Workers, at most as many as the plan was compiled for.
    pub threads: Option<usize>,
    /// Measure every kernel, from the second step on.
    pub profile: bool,
    /// Print nothing.
    pub quiet: bool,
    /// Use oneDNN if it is installed.
    pub library: bool,
    /// Communicate beside computation where the plan says so.
    pub overlap: bool,
    /// Write below this directory instead of the plan's `output_dir`.
    pub output_dir: Option<PathBuf>,
    /// Finish the step, save and stop when this becomes true; SIGINT and SIGTERM set it if `signals`.
    pub stop: Arc<AtomicBool>,
    /// Stop at SIGINT and SIGTERM; a second one ends the process at once with exit code 130.
    pub signals: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            metrics_json: None,
            plot: None,
            resume: Resume::No,
            steps: None,
            threads: None,
            profile: false,
            quiet: false,
            library: true,
            overlap: true,
            output_dir: None,
            stop: Arc::default(),
            signals: true,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Finished optimizer steps, those of earlier parts of the run included.
    pub steps: u64,
    /// Steps of this part.
    pub steps_here: u64,
    /// Loss of the first step of this part.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Seconds of all steps of this part, without saving.
    pub seconds: f64,
    /// Tokens per second over this part.
    pub tokens_per_s: f64,
    /// The run was asked to stop: the command exits with 130.
    pub interrupted: bool,
    /// Newest checkpoint that this part has written.
    pub checkpoint: Option<PathBuf>,
    /// Size of the devices' arenas of this process.
    pub arena_bytes: u64,
    /// Size of the host's.
    pub host_bytes: u64,
    /// Resident memory before the plan was loaded, and at the end.
    pub resident: Option<(Resident, Resident)>,
    /// Time by kernel, if it was measured.
    pub profile: Option<Profile>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let end = if self.interrupted { "stopped" } else { "finished" };
        write!(f, "{end} after {} steps", self.steps)?;
        if let (Some(first), Some(last)) = (self.first_loss, self.last_loss) {
            write!(f, ": loss {first:.4} → {last:.4}, {:.0} tokens/s", self.tokens_per_s)?;
        }
        write!(f, "\nmemory: arena {:.1} MiB as planned", mib(self.arena_bytes))?;
        if self.host_bytes > 0 {
            write!(f, ", {:.1} MiB on the host", mib(self.host_bytes))?;
        }
        if let Some((before, after)) = self.resident {
            let arenas = self.arena_bytes + self.host_bytes;
            let beside = after.peak.saturating_sub(before.now).saturating_sub(arenas);
            write!(
                f,
                "; process {:.1} MiB at its peak, {:.1} MiB before, {:.1} MiB beside the arena",
                mib(after.peak),
                mib(before.now),
                mib(beside)
            )?;
        }
        if let Some(path) = &self.checkpoint {
            write!(f, "\nsaved {}", path.display())?;
        }
        Ok(())
    }
}

/// A source of batches and what opening it had to say.
pub type Opened = (Box<dyn BatchSource>, Vec<Diagnostic>);

/// Most ranks that are threads of one process; a larger number is a plan for a cluster, or a damaged one.
const MOST_RANKS: usize = 1024;

/// The data that a run names, for [`train_with`] and [`train_as`].
///
/// # Errors
/// What opening the data reports.
pub fn open_data(run: &RunSpec, start: u64, share: Share) -> Result<Opened> {
    let source = DataSource::open(run, start, share)?;
    let notes = source.notes.clone();
    Ok((Box::new(source), notes))
}

/// Trains `plan` on batches that `open` gives for the run, from a 0-based step on and of a share of every batch; `kernels` is the
/// plan's shared object, if it has one. A plan for several ranks runs as so many threads of this process, each of which calls
/// `open` once all have loaded the plan.
///
/// # Errors
/// Codes of this crate and of the CPU device, and what `open` reports; of several ranks the error of the one that failed first.
/// What was saved before stays good.
pub fn train_with(
    plan: Plan,
    kernels: Option<PathBuf>,
    options: &TrainOptions,
    open: impl Fn(&RunSpec, u64, Share) -> Result<Opened> + Sync,
) -> Result<Summary> {
    train_as(None, plan, kernels, options, open)
}

/// As [`train_with`]; with an `engine` this process is one of the plan's ranks, and others are the rest.
///
/// # Errors
/// As [`train_with`].
pub fn train_as(
    engine: Option<&dyn Engine>,
    mut plan: Plan,
    kernels: Option<PathBuf>,
    options: &TrainOptions,
    open: impl Fn(&RunSpec, u64, Share) -> Result<Opened> + Sync,
) -> Result<Summary> {
    let before = resident();
    if let Some(dir) = &options.output_dir {
        plan.run.output_dir = dir.to_string_lossy().into_owned();
    }
    let device = DeviceOptions {
        threads: options.threads,
        kernels,
        library: options.library,
        overlap: options.overlap,
        profile: options.profile,
    };
    let (ranks, plan) = (plan.mesh.ranks(), Arc::new(plan));
    if engine.is_none() && ranks > MOST_RANKS {
        return Diagnostic::error(
            &NOT_TRAINABLE,
            format!("the plan is for {ranks} ranks; one process runs {MOST_RANKS}"),
        )
        .help("compile the configuration for fewer devices")
        .err();
    }
    let rank = |engine: Option<&dyn Engine>| train_rank(&plan, &device, options, engine, &open);
    let mut summary = if engine.is_some() || ranks == 1 {
        rank(engine)?
    } else {
        let mut all = local::run(ranks, local::TIMEOUT, |member| rank(Some(&member)))?;
        let each = (ranks / plan.stages.len().max(1)) as u64;
        let all_of = |memory| plan.stages.iter().map(|s| s.bytes_in(memory) as u64 * each).sum();
        let [arena_bytes, host_bytes] = Memory::ALL.map(all_of);
        Summary { arena_bytes, host_bytes, ..all.swap_remove(0) }
    };
    summary.resident = before.zip(resident());
    Ok(summary)
}

/// The part of one rank; the one that leads speaks for all.
fn train_rank(
    plan: &Arc<Plan>,
    device: &DeviceOptions,
    options: &TrainOptions,
    engine: Option<&dyn Engine>,
    open: impl Fn(&RunSpec, u64, Share) -> Result<Opened>,
) -> Result<Summary> {
    let mut executor = Executor::new(Arc::clone(plan), device, engine)?;
    executor.team().barrier()?;
    let (rank, leads) = (executor.team().rank(), executor.team().leads());
    let run = executor.run().clone();
    let (finished, resumed) = fill(&mut executor, &run, &options.resume)?;
    let (mut source, notes) = open(&run, finished, Share::of(&plan.mesh, rank))?;
    let total = options.steps.unwrap_or(run.steps);
    let epochs = run.epochs.max(1);
    let progress = Progress { epochs, steps_per_epoch: (run.steps / epochs).max(1), total };
    let report = ReportOptions {
        quiet: options.quiet || !leads,
        every: run.log_steps,
        metrics_json: options.metrics_json.clone().filter(|_| leads),
        plot: options.plot.clone().filter(|_| leads),
        output_dir: save::root(&run).parent().filter(|_| leads).map(Path::to_path_buf).unwrap_or_default(),
        title: format!("{}: training loss", executor.device().plan().model),
    };
    // Before anything is written, so that nothing is left behind where another run has its output.
    let mut saver = Saver::new(&run);
    if run.save_steps > 0 && leads {
        saver.claim()?;
    }
    let mut reporter = Reporter::new(report, progress, finished)?;
    for line in opening(&executor, resumed.as_deref(), finished) {
        reporter.say(&line)?;
    }
    for note in notes.into_iter().filter(|_| leads) {
        reporter.say(&format!("{}: {}", note.code.id, note.message))?;
    }
    let _signals = (options.signals && leads).then(|| Signals::new(&options.stop));
    let mut job = Job {
        saver,
        executor: &mut executor,
        run: &run,
        progress,
        stop: &options.stop,
        summary: Summary {
            steps: finished,
            steps_here: 0,
            first_loss: None,
            last_loss: None,
            seconds: 0.0,
            tokens_per_s: 0.0,
            interrupted: false,
            checkpoint: None,
            arena_bytes: 0,
            host_bytes: 0,
            resident: None,
            profile: None,
        },
    };
    let done = job.steps(finished, total, &mut *source, &mut reporter);
    let mut summary = job.summary;
    // The picture shows how a run failed, too; that failure is what is reported.
    let drawn = reporter.finish();
    done?;
    drawn?;
    let stage = executor.device().stage();
    [summary.arena_bytes, summary.host_bytes] = Memory::ALL.map(|memory| stage.bytes_in(memory) as u64);
    summary.profile = executor.device().profile().cloned();
    Ok(summary)
}

/// Puts values into the weights: drawn, loaded, or those of an earlier part of the run with its number of steps.
fn fill(executor: &mut Executor, run: &RunSpec, from: &Resume) -> Result<(u64, Option<PathBuf>)> {
    let place = match from {
        Resume::No => None,
        Resume::Latest => Some(resume::directory(&save::root(run))?),
        Resume::From(path) => Some(resume::directory(path)?),
    };
    let finished = if let Some(dir) = &place {
        let sequences = batch(executor);
        let (device, rank) = executor.device_of_rank();
        let state = resume::restore(device, rank, dir, sequences)?;
        executor.resume_scaling(state.scaling);
        state.global_step
    } else {
        if run.load_checkpoint.is_empty() {
            executor.initialise()?;
        } else {
            let (device, rank) = executor.device_of_rank();
            load_weights(device, rank, Path::new(&run.load_checkpoint))?;
        }
        0
    };
    // Tables and copies in low precision follow from the weights.
    executor.setup()?;
    Ok((finished, place))
}

/// Sequences of one step, of all ranks.
fn batch(executor: &Executor) -> u64 {
    let (run, mesh) = (executor.run(), &executor.device().plan().mesh);
    run.batch_size as u64 * run.accumulation as u64 * mesh.replicas() as u64
}

/// What is said before the first step.
fn opening(executor: &Executor, resumed: Option<&Path>, finished: u64) -> Vec<String> {
    let (device, run) = (executor.device(), executor.run());
    // The first and the last stage may have a weight both.
    let mut seen = HashSet::new();
    let buffers = device.plan().stages.iter().flat_map(|s| &s.buffers);
    let weights = buffers.filter(|b| matches!(b.role, BufferRole::Weight { .. }) && seen.insert(&b.name));
    let mesh = &device.plan().mesh;
    let count: usize = weights.map(|b| b.slice(mesh, 0).dims.iter().product::<usize>()).sum();
    let library = if device.uses_library() { ", oneDNN" } else { "" };
    let ranks = if mesh.ranks() == 1 { String::new() } else { format!("{} ranks, each: ", mesh.ranks()) };
    let host = match device.stage().host_bytes {
        0 => String::new(),
        bytes => format!(" and {bytes} on the host"),
    };
    let mut lines = vec![format!(
        "{}: {count} parameters, {} sequences of {} tokens per step, {ranks}arena {} bytes{host}, {} threads{library}",
        device.plan().model,
        batch(executor),
        run.seq_length,
        device.stage().arena_bytes,
        device.threads(),
    )];
    if let Some(path) = resumed {
        lines.push(format!("resume from {} after {finished} steps", path.display()));
    } else if !run.load_checkpoint.is_empty() {
        lines.push(format!("weights from {}", run.load_checkpoint));
    }
    lines
}

#[cfg(test)]
mod tests;
