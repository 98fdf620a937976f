//! A small complete configuration for tests, changed by overrides.

use super::{Config, Loaded, parse};

pub(super) const LLAMA: &str = "\
run_mode: train
use_legacy: False
runner_config: {epochs: 1, batch_size: 2}
model:
  model_config:
    model_type: llama
    vocab_size: 32000
    hidden_size: 512
    num_layers: 8
    num_attention_heads: 8
    num_query_groups: 4
    ffn_hidden_size: 1536
    seq_length: 512
optimizer: {type: AdamW}
lr_schedule: {type: ConstantWarmUpLR, learning_rate: 3.e-4}
train_dataset:
  data_loader: {type: TokenBinDataLoader, path: tokens.bin, dtype: uint16}
";

/// `text` with `changes` as overrides.
pub(super) fn load_with(text: &str, changes: &[(&str, &str)]) -> Loaded {
    let overrides: Vec<_> = changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    parse("test.yaml", text, &overrides)
}

/// [`LLAMA`] with `changes`, which must be accepted.
pub(super) fn with(changes: &[(&str, &str)]) -> Config {
    accepted(load_with(LLAMA, changes))
}

/// The configuration; panics with the diagnostics if there is none.
pub(super) fn accepted(loaded: Loaded) -> Config {
    loaded.config.unwrap_or_else(|| panic!("refused: {:#?}", loaded.diagnostics))
}

/// Codes and messages of the errors and warnings of [`LLAMA`] with `changes`.
pub(super) fn complaints(changes: &[(&str, &str)]) -> Vec<String> {
    let loaded = load_with(LLAMA, changes);
    let loud = loaded.diagnostics.iter().filter(|d| d.severity > athanor_ir::diag::Severity::Note);
    loud.map(|d| format!("{} {}", d.code.id, d.message)).collect()
}
