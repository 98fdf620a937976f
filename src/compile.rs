//! `athanor compile`: configuration to plan directory.

use crate::failure::{Failure, print};
use athanor_backends::cpu::features;
use athanor_frontend::{config, model, run as run_section};
use athanor_ir::diag::Severity;
use athanor_ir::target::CpuLevel;
use athanor_ir::{Module, Plan};
use athanor_passes::codegen::llvm::{BuildReport, build_shared_object};
use athanor_passes::compile::{OptLevel, pipeline};
use athanor_passes::manager::{self, Observe};
use athanor_passes::plan::{Compiled, PlanOptions, build};
use athanor_passes::registry;
use athanor_runtime::plan_dir;
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What both `compile` and `train` need to know to make a plan.
#[derive(Parser, Clone)]
pub struct Options {
    /// Change a key of the configuration: `--set runner_config.epochs=2`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// `-O0` runs every op by the reference implementation, `-O1` by generated kernels
    #[arg(short = 'O', default_value = "1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub opt_level: u8,
    /// Instruction sets that kernels may use [default: what this machine has]
    #[arg(long, value_enum)]
    pub cpu: Option<Cpu>,
    /// Workers that will run the plan [default: the cores of this machine]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Also return the logits of a forward pass, instead of training
    #[arg(long, hide = true)]
    pub forward: bool,
}

/// Compile a configuration to a plan directory.
#[derive(Parser)]
#[command(after_help = "Examples:\n  athanor compile examples/w1.yaml -o plan\n  \
                        athanor compile examples/w1.yaml -o plan --dump-ir plan/ir --timing\n  \
                        athanor compile examples/w1.yaml -o plan --until fuse --dump-ir ir")]
pub struct Args {
    /// YAML file
    config: PathBuf,
    /// Plan directory to write
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Stop after this pass; no plan is written
    #[arg(long, value_name = "PASS")]
    until: Option<String>,
    /// Write the module after every pass to this directory
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Print the time of every pass and kernel
    #[arg(long)]
    timing: bool,
}

/// Names of CPU levels on the command line.
#[derive(ValueEnum, Clone, Copy)]
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

/// Splits `a.b=c`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (k, v) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if k.trim().is_empty() { Err("the key is empty".into()) } else { Ok((k.trim().to_owned(), v.to_owned())) }
}

/// Reads and checks a configuration; prints warnings and notes.
pub fn read(path: &Path, set: &[(String, String)]) -> Result<config::Config, Failure> {
    let loaded = config::load(path, set);
    match loaded.config {
        Some(c) if loaded.diagnostics.iter().all(|d| d.severity < Severity::Error) => {
            print(&loaded.diagnostics);
            Ok(c)
        }
        _ => Err(loaded.diagnostics.into()),
    }
}

/// The model of a configuration as a module.
pub fn module(config: &config::Config, options: &Options) -> Result<Module, Failure> {
    let run = run_section::spec(config)?;
    Ok(model::build(config, run, options.forward)?)
}

/// Runs the passes and makes the plan.
pub fn plan(module: &Module, config: &config::Config, options: &Options, observe: &Observe) -> Result<Compiled, Failure> {
    let level = if options.opt_level == 0 { OptLevel::O0 } else { OptLevel::O1 };
    let passes = registry::build(&pipeline(module, level, !options.forward, config.model.chunk_loss_num.value))?;
    let (module, _) = manager::run(module, &passes, observe)?;
    let effective = config::effective(config);
    let plan_options = PlanOptions {
        threads: threads(options),
        level: cpu_level(options)?,
        config_hash: blake3::hash(effective.as_bytes()).to_hex().to_string(),
        reference: level == OptLevel::O0,
    };
    Ok(build(&module, &plan_options)?)
}

fn cpu_level(options: &Options) -> Result<CpuLevel, Failure> {
    Ok(options.cpu.map_or_else(features::detect, CpuLevel::from))
}

/// Workers asked for, or one per core.
pub fn threads(options: &Options) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    options.threads.map_or_else(cores, usize::from)
}

/// Writes plan and kernels to `dir`.
pub fn write(compiled: &Compiled, dir: &Path) -> Result<Option<BuildReport>, Failure> {
    let mut report = None;
    plan_dir::write(&compiled.plan, dir, |kernels: &Path| {
        if !compiled.texts.is_empty() {
            report = Some(build_shared_object(&compiled.texts, compiled.plan.target.cpu, kernels)?);
        }
        Ok(())
    })?;
    Ok(report)
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let config = read(&args.config, &args.options.set)?;
    let module = module(&config, &args.options)?;
    let observe = Observe {
        dump_dir: args.dump_ir.clone(),
        timing: args.timing,
        until: args.until.clone(),
        ..Observe::default()
    };
    if args.until.is_some() {
        let level = if args.options.opt_level == 0 { OptLevel::O0 } else { OptLevel::O1 };
        let text = pipeline(&module, level, !args.options.forward, config.model.chunk_loss_num.value);
        manager::run(&module, &registry::build(&text)?, &observe)?;
        return Ok(());
    }
    let compiled = plan(&module, &config, &args.options, &observe)?;
    let dir = args.output.clone().unwrap_or_else(|| PathBuf::from("plan"));
    let report = write(&compiled, &dir)?;
    summary(&compiled.plan, &dir, start.elapsed().as_secs_f64());
    if let (true, Some(r)) = (args.timing, report) {
        println!("kernels: {} in {:.2} s, linked in {:.2} s", r.kernels.len(), r.total.as_secs_f64(), r.link.as_secs_f64());
    }
    Ok(())
}

fn summary(plan: &Plan, dir: &Path, seconds: f64) {
    let stage = &plan.stages[0];
    let steps: Vec<String> = stage.programs.iter().map(|p| format!("{} {}", p.name, p.steps.len())).collect();
    println!("{}: plan for {} with {} threads", dir.display(), plan.target.cpu, plan.target.threads);
    println!("  steps    {}", steps.join(", "));
    println!("  kernels  {}", plan.kernels.len());
    println!("  memory   {:.1} MiB", stage.arena_bytes as f64 / f64::from(1 << 20));
    println!("  compiled in {seconds:.2} s");
}
