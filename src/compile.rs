//! `athanor compile`: configuration to plan directory.

use crate::config_args::{Overrides, read};
use crate::failure::{Failure, print};
use crate::opt::Looking;
use crate::output::{emit, say};
use crate::stages::PipelineSummary;
use crate::text::{bytes, count};
use athanor_backends::cpu::features;
use athanor_frontend::{config, model, run as run_section};
use athanor_ir::Memory;
use athanor_ir::mlir::Context;
use athanor_ir::offload::Offloaded;
use athanor_ir::recompute::Recomputed;
use athanor_ir::target::CpuLevel;
use athanor_ir::{Module, Plan};
use athanor_passes::codegen::cache::Cache;
use athanor_passes::codegen::llvm::{BuildReport, build_shared_object};
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::manager;
use athanor_passes::observe::{Observe, Timings};
use athanor_passes::plan::{Compiled, PlanOptions, build};
use athanor_passes::registry;
use athanor_runtime::plan_dir::Writer;
use athanor_runtime::signals::RemoveOnInterrupt;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What both `compile` and `train` need to know to make a plan.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// 0 runs every op by the reference implementation, 1 by fused generated kernels
    #[arg(short = 'O', value_name = "LEVEL", default_value = "1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub opt_level: u8,
    /// Instruction sets that kernels may use [default: what this machine has]
    #[arg(long, value_enum)]
    pub cpu: Option<Cpu>,
    /// Workers of each device [default: the cores of this machine, shared by its devices]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Devices that will run it, each a thread of its own on the CPU [default: what the configuration says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub devices: Option<u32>,
    /// Take kernels that were compiled before from this directory, and leave new ones there
    #[arg(long, value_name = "DIR")]
    pub kernel_cache: Option<PathBuf>,
}

impl Options {
    /// The kernels that were compiled before.
    pub fn cache(&self) -> Option<Cache> {
        self.kernel_cache.as_ref().map(Cache::in_dir)
    }
}

/// Compile a configuration to a plan directory, which `train` and the runner execute.
#[derive(Parser)]
#[command(after_help = "\
Examples:\n  athanor compile examples/quickstart.yaml -o plan\n  \
athanor compile examples/quickstart.yaml -o plan --dump-ir plan/ir --timing\n  \
athanor compile examples/quickstart.yaml --until simplify | athanor opt - --passes autodiff,optimizer\n  \
athanor compile examples/w1.yaml -o plan --cpu avx2 --threads 8 --set runner_config.batch_size=4")]
pub struct Args {
    /// YAML file
    #[arg(required_unless_present = "config_file")]
    config: Option<PathBuf>,
    /// Plan directory to write; an older plan there is replaced
    #[arg(short, long, value_name = "DIR", default_value = "plan")]
    output: PathBuf,
    #[command(flatten)]
    options: Options,
    /// What will run it; `sim` makes no machine code: a plan to inspect, for as many devices as you like
    #[arg(long, value_enum, default_value = "cpu")]
    target: For,
    /// Compile the forward pass with logits as a result, instead of training
    #[arg(long)]
    forward: bool,
    #[command(flatten)]
    looking: Looking,
    #[command(flatten)]
    overrides: Overrides,
}

/// What a plan is for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Training on CPUs
    Cpu,
    /// Looking at
    Sim,
}

/// Names of CPU levels on the command line.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum Cpu {
    /// x86-64-v2
    Portable,
    /// x86-64-v3
    Avx2,
    /// x86-64-v4
    Avx512,
    /// Sapphire Rapids with AMX
    Amx,
}

impl From<Cpu> for CpuLevel {
    fn from(c: Cpu) -> Self {
        match c {
            Cpu::Portable => Self::Portable,
            Cpu::Avx2 => Self::Avx2,
            Cpu::Avx512 => Self::Avx512,
            Cpu::Amx => Self::Amx,
        }
    }
}

/// The last module and its plan, with the times of the passes.
pub struct Planned {
    /// The plan and the texts of its kernels.
    pub compiled: Compiled,
    /// Pass by pass.
    pub timings: Timings,
}

/// What a compilation is asked for, from configuration to pipeline.
pub struct Job<'a> {
    config: &'a config::Config,
    options: &'a Options,
    module: Module,
    pipeline: String,
    target: (usize, CpuLevel),
}

impl<'a> Job<'a> {
    /// The model of `config` and the passes for it; `forward` compiles it without training.
    pub fn new(config: &'a config::Config, options: &'a Options, forward: bool) -> Result<Self, Failure> {
        let run = run_section::spec(config).map_err(|e| {
            // Both are mistakes of the configuration: they are told together.
            let model = model::forward(&config.model, &config.sources, 1, model::Outputs::default());
            [*e].into_iter().chain(model.err().map(|e| *e)).collect::<Vec<_>>()
        })?;
        let module = model::build(config, run, forward)?;
        if let Some(func) = module.func("forward") {
            print(&model::recompute::notes(config, func));
            print(&model::offload::notes(config, func));
        }
        let level = if options.opt_level == 0 { OptLevel::O0 } else { OptLevel::O1 };
        let target =
            (threads(options.threads, module.mesh.ranks()), options.cpu.map_or_else(features::detect, CpuLevel::from));
        let pipeline = pipeline(&module, level, !forward, config.model.chunk_loss_num.value, target);
        Ok(Self { config, options, module, pipeline, target })
    }

    /// The module that the frontend made.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The module after the passes.
    pub fn passes(&self, observe: &Observe) -> Result<(Module, Timings), Failure> {
        Ok(manager::run(&self.module, &registry::build(&self.pipeline)?, observe)?)
    }

    /// Runs the passes and makes the plan; kernels are texts still.
    pub fn plan(&self, observe: &Observe) -> Result<Planned, Failure> {
        let (module, timings) = self.passes(observe)?;
        let options = PlanOptions {
            threads: self.target.0,
            level: self.target.1,
            config_hash: blake3::hash(config::effective(self.config).as_bytes()).to_hex().to_string(),
            reference: self.options.opt_level == 0,
        };
        Ok(Planned { compiled: build(&module, &options)?, timings })
    }
}

/// Workers asked for, or one per core that `ranks` devices share.
pub fn threads(given: Option<u16>, ranks: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    given.map_or_else(|| (cores() / ranks).max(1), usize::from)
}

/// Generates the kernels and puts the plan in its place.
pub fn write(compiled: &Compiled, cache: Option<&Cache>, to: Writer) -> Result<Option<BuildReport>, Failure> {
    let (texts, level) = (&compiled.texts, compiled.plan.target.cpu);
    let report = (!texts.is_empty()).then(|| build_shared_object(texts, level, cache, &to.kernels())).transpose()?;
    to.commit(&compiled.plan)?;
    Ok(report)
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let config = read(args.overrides.path(args.config.as_deref()), &args.overrides, args.options.devices)?;
    let job = Job::new(&config, &args.options, args.forward)?;
    let mut observe = args.looking.observe();
    if args.looking.until.is_some() {
        let (module, timings) = job.passes(&observe)?;
        times(&args.looking, &timings, None);
        if observe.dump_dir.is_none() {
            emit(&Context::new().emit(&module)?.print());
        }
        return Ok(());
    }
    let writer = Writer::create(&args.output)?;
    let _watch = RemoveOnInterrupt::new(writer.path().to_path_buf());
    // Dumps inside the plan travel with it and appear when it does.
    if let Some(inside) = args.looking.dump_ir.as_deref().and_then(|d| d.strip_prefix(&args.output).ok()) {
        observe.dump_dir = writer.ir().parent().map(|plan| plan.join(inside));
    }
    let Planned { compiled, timings } = job.plan(&observe)?;
    let compiled = if args.target == For::Sim { compiled.simulated() } else { compiled };
    let report = write(&compiled, args.options.cache().as_ref(), writer)?;
    times(&args.looking, &timings, report.as_ref());
    say!("{}: {}", args.output.display(), one_line(&compiled.plan, start.elapsed()));
    Ok(())
}

fn times(looking: &Looking, passes: &Timings, kernels: Option<&BuildReport>) {
    if !looking.timing {
        return;
    }
    eprint!("{passes}");
    if let Some(r) = kernels {
        let (total, link) = (r.total.as_secs_f64(), r.link.as_secs_f64());
        eprintln!("kernels: {} generated in {total:.2} s, of which linking took {link:.2} s", r.kernels.len());
    }
}

/// What there is to say about a plan that was made.
pub fn one_line(plan: &Plan, took: Duration) -> String {
    let [arena, host]: [u64; 2] =
        Memory::ALL.map(|m| plan.stages.iter().map(|s| s.bytes_in(m) as u64).max().unwrap_or(0));
    let host = if host == 0 { String::new() } else { format!(" and {} on the host", bytes(host)) };
    let steps: usize = plan.stages.iter().flat_map(|s| &s.programs).map(|p| p.steps.len()).sum();
    let pipeline = PipelineSummary::of(plan).map_or_else(String::new, |p| format!(", {}", p.line()));
    let again = plan.run.recompute.done.map_or_else(String::new, |d| format!(", {}", recomputed(&d)));
    let away = plan.run.offload.done.map_or_else(String::new, |d| format!(", {}", offloaded(&d)));
    format!(
        "{} for {} {} with {}: {}, {}, {} of memory{host}{pipeline}{again}{away}, compiled in {:.2} s",
        plan.model,
        plan.target.device,
        plan.target.cpu,
        count(plan.target.threads as u64, "thread"),
        count(steps as u64, "step"),
        count(plan.kernels.len() as u64, "kernel"),
        bytes(arena),
        took.as_secs_f64()
    )
}

/// What goes to the host: `12 values (3.1 MiB a micro-batch) and 40 states of the optimizer swapped`.
pub fn offloaded(done: &Offloaded) -> String {
    let values = || format!("{} ({} a micro-batch)", count(done.values as u64, "value"), bytes(done.bytes));
    let states = || format!("{} of the optimizer", count(done.moments as u64, "state"));
    let what = match (done.values, done.moments) {
        (0, _) => states(),
        (_, 0) => values(),
        _ => format!("{} and {}", values(), states()),
    };
    format!("{what} swapped")
}

/// What is computed again: `12 values of 6 layers recomputed (24.1 % more FLOPs)`.
pub fn recomputed(done: &Recomputed) -> String {
    let more = 100.0 * done.flops as f64 / done.of_flops.max(1) as f64;
    format!(
        "{} of {} recomputed ({more:.1} % more FLOPs)",
        count(done.values as u64, "value"),
        count(done.layers as u64, "layer")
    )
}
