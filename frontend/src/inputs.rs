//! Files that a run will read: whether they are there is told before anything is compiled.

use athanor_ir::diag::{Code, Diagnostic};

use crate::config::{Config, DataLoader, Span};

/// A file that the run reads is not there.
pub const MISSING_FILE: Code = Code {
    id: "C0120",
    title: "a file that training reads is not there",
    explain: "`train_dataset` names a data set, or `load_checkpoint` weights, that do not exist. `athanor check` and `athanor \
              compile` only warn, since another machine may train; `athanor train` stops before it compiles. A relative path \
              starts at the folder of the YAML file or at the working directory.",
};

/// Codes of this module.
pub const CODES: &[&Code] = &[&MISSING_FILE];

/// One error for each file of `config` that is missing; `weights` are read only by a run that starts anew.
pub fn missing(config: &Config, weights: bool) -> Vec<Diagnostic> {
    let mut files: Vec<(String, Option<Span>)> = vec![];
    match &config.dataset.loader {
        DataLoader::TokenBin(d) => files.push((d.path.value.clone(), d.path.span)),
        DataLoader::Megatron(d) => {
            // A data set is named by its prefix.
            let both = |p: &str| [".idx", ".bin"].map(|end| format!("{p}{end}"));
            for part in d.data_path.iter().chain(&d.per_split[0]) {
                files.extend(both(&part.prefix).into_iter().map(|f| (f, Some(part.span))));
            }
        }
    }
    let absent = |path: &str| !config.resolve_path(path).exists();
    let mut found: Vec<Diagnostic> = vec![];
    for (path, span) in files.into_iter().filter(|(path, _)| absent(path)) {
        let d = report(config, &format!("the training data {path} is not there"), span);
        let d = d.help("make it with `athanor data build`, or correct the path");
        // One missing file of a data set is as bad as both.
        if !found.iter().any(|f| f.labels == d.labels && !f.labels.is_empty()) {
            found.push(d);
        }
    }
    if let Some(path) = config.general.load_checkpoint.as_ref().filter(|p| weights && !p.value.is_empty())
        && absent(&path.value)
    {
        let d = report(config, &format!("the checkpoint {} is not there", path.value), path.span);
        found.push(d.help("put it there, or clear `load_checkpoint` to start from new weights"));
    }
    found
}

fn report(config: &Config, message: &str, span: Option<Span>) -> Diagnostic {
    let d = Diagnostic::error(&MISSING_FILE, message);
    match span.and_then(|s| Some((s, config.sources.get(s.file as usize)?))) {
        Some((s, source)) => d.at(source, s.start as usize..s.end as usize, "named here"),
        None => d,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(data: &str, weights: &str) -> Config {
        let text = format!(
            "run_mode: train\nuse_legacy: False\nload_checkpoint: {weights}\nrunner_config:\n  batch_size: 2\n\
             model:\n  model_config:\n    model_type: llama\n    vocab_size: 64\n    hidden_size: 16\n    num_hidden_layers: 1\n\
             \x20   num_attention_heads: 2\n    intermediate_size: 32\n    seq_length: 8\noptimizer:\n  type: AdamW\n\
             lr_schedule:\n  type: ConstantWarmUpLR\n  learning_rate: 3.e-4\n  warmup_steps: 0\n{data}"
        );
        let loaded = parse("test.yaml", &text, &[]);
        loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
    }

    const TOKENS: &str =
        "train_dataset:\n  data_loader:\n    type: TokenBinDataLoader\n    path: nowhere.bin\n    dtype: int32\n";

    #[test]
    fn what_is_missing_is_marked_where_it_is_named() {
        let c = config(TOKENS, "nothing.safetensors");
        let found = missing(&c, true);
        let lines: Vec<(String, usize)> = found
            .iter()
            .map(|d| (d.message.clone(), c.sources[0].text[..d.labels[0].range.start].matches('\n').count() + 1))
            .collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].0.contains("nowhere.bin")
                && lines[1] == ("the checkpoint nothing.safetensors is not there".into(), 3)
        );
        assert_eq!(missing(&c, false).len(), 1, "a resumed run does not read the first weights");
        assert!(found.iter().all(|d| d.help.is_some() && d.code.id == "C0120"));
        assert_eq!(missing(&config(TOKENS, "''"), true).len(), 1);
    }
}
