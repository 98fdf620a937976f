//! The config.json of a Hugging Face model, found through `pretrained_model_dir`.

use std::path::Path;
use std::sync::Arc;

use crate::config::node::Node;
use crate::config::report::Report;
use crate::config::sources;
use crate::config::span::Spanned;
use crate::config::yaml;

/// The parsed config.json and its index among the sources; `None` after a diagnostic.
pub(super) fn load(report: &Report, named: &Spanned<String>, yaml_dir: Option<&Path>) -> Option<(Arc<Node>, u32)> {
    let dir = sources::resolve(&named.value, yaml_dir);
    let path = dir.join("config.json");
    let text = sources::read_text(report, &path, named.span)?;
    let file = report.add_source(path.display().to_string(), text);
    Some((yaml::read(report, file, yaml::MAX_JSON_DEPTH)?, file))
}
