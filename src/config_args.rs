//! Reading a configuration for `check`, `compile` and `train`: overrides, warnings, errors.

use crate::failure::{Failure, print};
use crate::mindformers::Flags;
use athanor_frontend::config::{self, Config};
use athanor_ir::diag::Severity;
use clap::Args;
use std::path::Path;

/// Changes to a configuration on the command line.
#[derive(Args, Clone, Default)]
pub struct Overrides {
    /// Change a key of the configuration: `--set runner_config.epochs=2`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    pub flags: Flags,
}

impl Overrides {
    /// All of them, in the order in which they apply; `--set` has the last word.
    pub fn all(&self) -> Vec<(String, String)> {
        self.flags.overrides().into_iter().chain(self.set.iter().cloned()).collect()
    }

    /// The configuration file: the positional argument or `--config`, one of which clap saw to.
    pub fn path<'a>(&'a self, positional: Option<&'a Path>) -> &'a Path {
        positional.or(self.flags.config_file.as_deref()).unwrap_or(Path::new(""))
    }
}

/// Splits `a.b=c`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (k, v) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if k.trim().is_empty() { Err("the key is empty".into()) } else { Ok((k.trim().to_owned(), v.to_owned())) }
}

/// Reads and checks the configuration at `path` for `devices` devices, or as many as it says; prints warnings and notes.
///
/// All mistakes are reported at once: reading collects its own, and what reading cannot see comes after.
pub fn read(path: &Path, overrides: &Overrides, devices: Option<u32>) -> Result<Config, Failure> {
    let mut loaded = config::load(path, &overrides.all());
    loaded.diagnostics.extend(overrides.flags.note());
    match loaded.config {
        Some(c) if loaded.diagnostics.iter().all(|d| d.severity < Severity::Error) => {
            let c = match devices {
                Some(n) => c.for_devices(n as usize)?,
                None => c,
            };
            print(&loaded.diagnostics);
            Ok(c)
        }
        _ => Err(loaded.diagnostics.into()),
    }
}
