//! The command line of MindSpore Transformers' `run_mindformer.py`, where a user would paste it.

use crate::codes::NO_EFFECT;
use athanor_ir::Diagnostic;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of `run_mindformer.py`. Those that are keys of the configuration override them.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "MindSpore Transformers' own flags (`--a.b.c VALUE` works too)")]
pub struct Flags {
    /// The YAML file
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub config_file: Option<PathBuf>,
    /// `run_mode`
    #[arg(long, value_name = "MODE")]
    run_mode: Option<String>,
    /// Overrides: `--options runner_config.epochs=2 seed=1`
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = crate::config_args::key_value)]
    options: Vec<(String, String)>,
    /// `load_checkpoint`
    #[arg(long, value_name = "PATH")]
    load_checkpoint: Option<String>,
    /// `resume_training`: True, or the name of a checkpoint
    #[arg(long, value_name = "WHAT")]
    resume_training: Option<String>,
    /// `seed`
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// `runner_config.epochs`
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// `runner_config.batch_size`
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// `runner_config.gradient_accumulation_steps`
    #[arg(long, value_name = "N")]
    gradient_accumulation_steps: Option<String>,
    /// `output_dir`
    #[arg(long, alias = "output-dir", value_name = "DIR")]
    pub output_dir: Option<String>,
    /// `train_dataset.data_loader.dataset_dir`
    #[arg(long, aliases = ["train_dataset", "train_data"], value_name = "DIR")]
    train_dataset_dir: Option<String>,
    /// `use_parallel`
    #[arg(long, value_name = "BOOL")]
    use_parallel: Option<String>,
    /// `auto_trans_ckpt`
    #[arg(long, value_name = "BOOL")]
    auto_trans_ckpt: Option<String>,
    // What follows chooses devices, Python code or MindSpore's own profiler.
    #[arg(long, hide = true)]
    mode: Option<String>,
    #[arg(long, hide = true)]
    device_id: Option<String>,
    #[arg(long, hide = true)]
    device_target: Option<String>,
    #[arg(long, hide = true)]
    register_path: Option<String>,
    #[arg(long, hide = true)]
    sink_mode: Option<String>,
    #[arg(long, hide = true)]
    trust_remote_code: Option<String>,
}

impl Flags {
    /// Overrides of the configuration, in the order of precedence: `--options` win.
    pub fn overrides(&self) -> Vec<(String, String)> {
        let named = [
            ("run_mode", &self.run_mode),
            ("load_checkpoint", &self.load_checkpoint),
            ("resume_training", &self.resume_training),
            ("seed", &self.seed),
            ("runner_config.epochs", &self.epochs),
            ("runner_config.batch_size", &self.batch_size),
            ("runner_config.gradient_accumulation_steps", &self.gradient_accumulation_steps),
            ("output_dir", &self.output_dir),
            ("train_dataset.data_loader.dataset_dir", &self.train_dataset_dir),
            ("use_parallel", &self.use_parallel),
            ("auto_trans_ckpt", &self.auto_trans_ckpt),
        ];
        let given = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        given.chain(self.options.iter().cloned()).collect()
    }

    /// A note for flags that choose nothing here.
    pub fn note(&self) -> Option<Diagnostic> {
        let idle = [
            ("--mode", &self.mode),
            ("--device_id", &self.device_id),
            ("--device_target", &self.device_target),
            ("--register_path", &self.register_path),
            ("--sink_mode", &self.sink_mode),
            ("--trust_remote_code", &self.trust_remote_code),
        ];
        let given: Vec<&str> = idle.iter().filter(|(_, v)| v.is_some()).map(|(name, _)| *name).collect();
        (!given.is_empty()).then(|| {
            Diagnostic::note(&NO_EFFECT, format!("flags without an effect: {}", given.join(", ")))
                .help("remove them; Athanor compiles for the machine it is on and loads no Python code")
        })
    }
}

/// Commands that take a configuration.
const WITH_CONFIG: [&str; 3] = ["train", "check", "compile"];

/// The arguments with MindSpore Transformers' forms in those that clap reads:
///
/// - `run_mindformer.py …` and a line that starts with `--config` are `train …`,
/// - `--config X` is `--config-file X`,
/// - `--a.b.c V` and `--a.b.c=V` are `--set a.b.c=V`.
pub fn rewrite(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let first = args.get(1).and_then(|a| a.to_str()).unwrap_or_default().to_owned();
    if first.rsplit('/').next() == Some("run_mindformer.py") {
        args[1] = "train".into();
    } else if first == "--config" || first.starts_with("--config=") {
        args.insert(1, "train".into());
    }
    if !args.get(1).and_then(|a| a.to_str()).is_some_and(|a| WITH_CONFIG.contains(&a)) {
        return args;
    }
    let mut out: Vec<OsString> = args.drain(..2).collect();
    let mut rest = args.into_iter().peekable();
    while let Some(arg) = rest.next() {
        let text = arg.to_str().unwrap_or_default();
        let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v.to_owned())));
        if name == "--" {
            out.push(arg);
            out.extend(rest);
            break;
        }
        let Some(key) = name.strip_prefix("--") else {
            out.push(arg);
            continue;
        };
        if key == "config" {
            out.push("--config-file".into());
            out.extend(value.map(OsString::from));
        } else if key.contains('.') {
            // A value that is missing stays missing, and clap says so.
            let mut next = || rest.next_if(|n| !n.to_str().is_some_and(|n| n.starts_with("--")));
            let value = value.or_else(|| next().map(|n| n.to_string_lossy().into_owned()));
            out.push("--set".into());
            out.push(value.map_or_else(|| key.to_owned(), |v| format!("{key}={v}")).into());
        } else {
            out.push(arg);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let out = rewrite(line.split_whitespace().map(OsString::from));
        out.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn dotted_flags_are_overrides_where_there_is_a_configuration() {
        assert_eq!(
            rewritten("athanor train x.yaml --a.b 1 --c.d=2 --seed 3 --e.f -1"),
            "athanor train x.yaml --set a.b=1 --set c.d=2 --seed 3 --set e.f=-1"
        );
        assert_eq!(rewritten("athanor check x.yaml --a.b --seed 1"), "athanor check x.yaml --set a.b --seed 1");
        assert_eq!(rewritten("athanor opt --a.b 1"), "athanor opt --a.b 1");
        assert_eq!(rewritten("athanor train -- --a.b 1"), "athanor train -- --a.b 1");
    }

    #[test]
    fn a_line_for_the_script_is_training() {
        assert_eq!(
            rewritten("athanor run_mindformer.py --config x.yaml --use_parallel False"),
            "athanor train --config-file x.yaml --use_parallel False"
        );
        assert_eq!(rewritten("athanor --config=x.yaml"), "athanor train --config-file x.yaml");
        assert_eq!(rewritten("athanor explain C0003"), "athanor explain C0003");
    }
}
