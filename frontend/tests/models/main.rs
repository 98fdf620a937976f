//! What the model builders make of a configuration: names, roles, places, dtypes, frequencies, counts, refusals.

mod counts;
mod offload;
mod params;
mod recompute;
mod refusals;
mod rope;
mod run;
mod structure;

use athanor_frontend::config::{Config, parse};

/// A Mcore configuration with `model_config` lines, 4 sequences in a micro-batch.
pub fn config(model: &[&str]) -> Config {
    let model = model.iter().map(|l| ["    ", l, "\n"].concat()).collect::<String>();
    let text = format!(
        "run_mode: train\nuse_legacy: False\nmodel:\n  model_config:\n{model}runner_config:\n  batch_size: 4\n\
         optimizer:\n  type: AdamW\nlr_schedule:\n  type: ConstantWarmUpLR\n  learning_rate: 1.e-3\n  warmup_steps: 0\n\
         runner_wrapper:\n  type: MFTrainOneStepCell\ntrain_dataset:\n  data_loader:\n    type: TokenBinDataLoader\n\
    \x20   path: tokens.bin\n    dtype: int32\n"
    );
    let loaded = parse("pretrain.yaml", &text, &[]);
    let messages = || loaded.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    loaded.config.clone().unwrap_or_else(|| panic!("{}", messages()))
}

/// Lines of a small Llama, to which a test adds its own.
pub const LLAMA: [&str; 10] = [
    "model_type: llama",
    "vocab_size: 96",
    "hidden_size: 32",
    "num_hidden_layers: 2",
    "num_attention_heads: 4",
    "num_key_value_heads: 2",
    "intermediate_size: 48",
    "seq_length: 16",
    "rms_norm_eps: 1.e-5",
    "tie_word_embeddings: False",
];

/// [`LLAMA`] and more lines.
pub fn llama(more: &[&str]) -> Config {
    config(&LLAMA.iter().chain(more).copied().collect::<Vec<_>>())
}
