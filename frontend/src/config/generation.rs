//! Which of the four layouts of a `MindFormers` YAML a file uses.

use std::fmt;

use athanor_ir::Diagnostic;

use super::codes;
use super::node::Node;
use super::report::Report;
use super::scalar;

/// A layout of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Legacy: `model.model_config.type`, up to release 1.7 and in the research folders.
    G1,
    /// Mcore: `use_legacy: False`, since release 1.6.
    G2,
    /// The experimental layout with `training_args`.
    G2_5,
    /// `PyNative` of 2.0 and later: `parallelism` and `training`.
    G3,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::G1 => "G1 (legacy)",
            Self::G2 => "G2 (Mcore)",
            Self::G2_5 => "G2.5 (training_args)",
            Self::G3 => "G3 (PyNative)",
        })
    }
}

/// The layout of `root`; `None` after a diagnostic if it is one that cannot be read yet.
pub(super) fn detect(report: &Report, root: &Node) -> Option<Generation> {
    let key = |k: &str| root.get(k).map(|e| e.key_span);
    let refuse = |generation: Generation, first: &str, second: &str| {
        let message = format!("this is a {generation} configuration, which is not supported yet");
        let found = Diagnostic::error(&codes::GENERATION, message).help(
            "rewrite it in the G2 layout: `use_legacy: False`, runner_config, parallel_config, model.model_config",
        );
        let found = report.mark(found, key(first), "this section");
        report.push(report.mark(found, key(second), "and this one belong to that layout"));
        None
    };
    if key("parallelism").is_some() && key("training").is_some() {
        return refuse(Generation::G3, "parallelism", "training");
    }
    for second in ["distribute_parallel_config", "checkpoint_config"] {
        if key("training_args").is_some() && key(second).is_some() {
            return refuse(Generation::G2_5, "training_args", second);
        }
    }
    let legacy = root.get("use_legacy").and_then(|e| scalar::boolean(e.value.text()?)).unwrap_or(true);
    Some(if legacy { Generation::G1 } else { Generation::G2 })
}
