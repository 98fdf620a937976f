//! `athanor data index`: the index of samples of a run, built before the run.

#[cfg(feature = "compiler")]
use crate::config_args::{Overrides, read};
use crate::failure::Failure;
use crate::output::say;
use crate::text::grouped;
use crate::train::is_plan;
use athanor_ir::Diagnostic;
use athanor_ir::run::RunSpec;
use athanor_runtime::data::codes::SPEC;
use athanor_runtime::data::open::index;
use athanor_runtime::data::spec::DataSpec;
use athanor_runtime::plan_dir;
use clap::Parser;
use std::path::{Path, PathBuf};

/// Build the sample index of a run ahead of it, so that no node waits for another at its start.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  athanor data index plan\n  athanor data index pretrain.yaml --cache /shared/index"
)]
pub struct Args {
    /// Plan directory, or the YAML file of the run
    #[cfg_attr(feature = "compiler", arg(value_name = "CONFIG|PLAN", required_unless_present = "config_file"))]
    #[cfg_attr(not(feature = "compiler"), arg(value_name = "PLAN", required = true))]
    config: Option<PathBuf>,
    /// Where to write it, instead of the configuration's `path_to_cache`
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[cfg(feature = "compiler")]
    #[command(flatten)]
    overrides: Overrides,
}

impl Args {
    #[cfg(feature = "compiler")]
    fn run_spec(&self) -> Result<RunSpec, Failure> {
        let path = self.overrides.path(self.config.as_deref());
        if is_plan(path) {
            return Ok(plan_dir::read(path)?.plan.run);
        }
        Ok(athanor_frontend::run::spec(&read(path, &self.overrides, None)?)?)
    }

    #[cfg(not(feature = "compiler"))]
    fn run_spec(&self) -> Result<RunSpec, Failure> {
        let path = self.config.as_deref().unwrap_or(Path::new(""));
        crate::train::needs_plan(path, is_plan(path))?;
        Ok(plan_dir::read(path)?.plan.run)
    }
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run = args.run_spec()?;
    let spec = |why: String| Diagnostic::error(&SPEC, why).help("compile the configuration again");
    let Some(data) = run.data else { return Err(spec("the run names no data".into()).into()) };
    let data: DataSpec = serde_json::from_value(data).map_err(|e| spec(format!("the data of the run: {e}")))?;
    let DataSpec::Megatron(mut megatron) = data else {
        say!("a raw token file needs no index");
        return Ok(());
    };
    if let Some(dir) = &args.cache {
        megatron.path_to_cache = Some(dir.clone());
    }
    for (split, samples) in index(&megatron)? {
        say!("{}: {} samples of {} tokens", split.name(), grouped(samples), megatron.seq_length);
    }
    let dir = megatron.path_to_cache.as_deref().unwrap_or(Path::new(""));
    say!("written to {}", dir.display());
    Ok(())
}
