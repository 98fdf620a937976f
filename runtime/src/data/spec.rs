//! What data to read: plain structs that travel inside `plan.json`.

use super::dtype::TokenType;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A dataset, as the config's `train_dataset.data_loader` names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum DataSpec {
    /// Megatron `.bin`/`.idx` files, sampled and blended as `GPTDataset` does.
    #[serde(rename = "BlendedMegatronDatasetDataLoader")]
    Megatron(MegatronSpec),
    /// A raw file of little-endian tokens.
    #[serde(rename = "TokenBinDataLoader")]
    TokenBin(TokenBinSpec),
}

impl DataSpec {
    /// Tokens per sample.
    pub fn seq_length(&self) -> usize {
        match self {
            Self::Megatron(m) => m.seq_length,
            Self::TokenBin(t) => t.seq_length,
        }
    }
}

/// A raw token file: sample `r` is the `seq_length + 1` tokens from token `r · stride`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBinSpec {
    /// The file.
    pub path: PathBuf,
    /// `uint16` or `int32`.
    pub dtype: TokenType,
    /// Tokens from the start of one sample to the start of the next.
    pub stride: u64,
    /// Input tokens per sample.
    pub seq_length: usize,
}

/// Keys of `train_dataset.data_loader` and its `config` for Megatron data; defaults are MindFormers' ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the keys are MindFormers' own")]
pub struct MegatronSpec {
    /// Requested samples of train, valid and test; `None` is one epoch (without weights only).
    pub sizes: [Option<u64>; 3],
    /// Input tokens per sample.
    pub seq_length: usize,
    /// Seed of the shuffles.
    #[serde(default = "default_seed")]
    pub seed: u32,
    /// Prefixes, or alternating weights and prefixes, shared by all splits.
    #[serde(default)]
    pub data_path: Option<Vec<String>>,
    /// The same for the training split alone; excludes `data_path` and `split`.
    #[serde(default)]
    pub train_data_path: Option<Vec<String>>,
    /// The same for the validation split alone.
    #[serde(default)]
    pub valid_data_path: Option<Vec<String>>,
    /// The same for the test split alone.
    #[serde(default)]
    pub test_data_path: Option<Vec<String>>,
    /// Relative sizes of train, valid and test, such as `"98,2,0"`; goes with `data_path`.
    #[serde(default)]
    pub split: Option<String>,
    /// Directory for index files that are built once and shared by all processes of a node; `None` builds in memory.
    #[serde(default)]
    pub path_to_cache: Option<PathBuf>,
    /// Map the `.bin` files instead of reading them.
    #[serde(default)]
    pub mmap_bin_files: bool,
    /// Restart position ids after each `eod`.
    #[serde(default)]
    pub reset_position_ids: bool,
    /// Tokens after an `eod` do not attend to tokens up to it.
    #[serde(default)]
    pub reset_attention_mask: bool,
    /// `eod` inputs do not count in the loss.
    #[serde(default)]
    pub eod_mask_loss: bool,
    /// Give the document ends of each sample in `eod_pad_length` places instead of an attention mask.
    #[serde(default)]
    pub create_compressed_eod_mask: bool,
    /// Places in the compressed mask.
    #[serde(default = "default_eod_pad_length")]
    pub eod_pad_length: usize,
    /// Token id that ends a document.
    #[serde(default = "minus_one")]
    pub eod: i32,
    /// Token id of padding: its labels do not count in the loss, and it is fed to the model as 0.
    #[serde(default = "minus_one")]
    pub pad: i32,
    /// Drop the last, shorter validation sample.
    #[serde(default = "yes")]
    pub drop_last_partial_validation_sequence: bool,
    /// Samples are read with one token more than `seq_length`, so that the last input has a label.
    #[serde(default = "yes")]
    pub add_extra_token_to_sequence: bool,
}

impl MegatronSpec {
    /// All defaults, one training split of `size` samples from `data_path`.
    pub fn new(data_path: Vec<String>, seq_length: usize, size: Option<u64>) -> Self {
        Self {
            sizes: [size, Some(0), Some(0)],
            seq_length,
            seed: default_seed(),
            data_path: Some(data_path),
            train_data_path: None,
            valid_data_path: None,
            test_data_path: None,
            split: Some("1, 0, 0".into()),
            path_to_cache: None,
            mmap_bin_files: false,
            reset_position_ids: false,
            reset_attention_mask: false,
            eod_mask_loss: false,
            create_compressed_eod_mask: false,
            eod_pad_length: default_eod_pad_length(),
            eod: -1,
            pad: -1,
            drop_last_partial_validation_sequence: true,
            add_extra_token_to_sequence: true,
        }
    }
}

fn default_seed() -> u32 {
    1234
}

fn default_eod_pad_length() -> usize {
    128
}

fn minus_one() -> i32 {
    -1
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_survive_json_and_refuse_unknown_keys() {
        let megatron = DataSpec::Megatron(MegatronSpec::new(vec!["1".into(), "p".into()], 8, Some(4)));
        let bin = DataSpec::TokenBin(TokenBinSpec {
            path: "t.bin".into(),
            dtype: TokenType::Uint16,
            stride: 9,
            seq_length: 8,
        });
        for spec in [megatron, bin] {
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<DataSpec>(&text).unwrap(), spec);
            let odd = text.replacen("\"seq_length\"", "\"sequence\":1,\"seq_length\"", 1);
            assert!(serde_json::from_str::<DataSpec>(&odd).unwrap_err().to_string().contains("sequence"));
        }
    }

    #[test]
    fn defaults_are_those_of_mindformers() {
        let text = r#"{"type":"BlendedMegatronDatasetDataLoader","sizes":[5,0,0],"seq_length":16,"data_path":["p"],"split":"1, 0, 0"}"#;
        let spec: DataSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec, DataSpec::Megatron(MegatronSpec::new(vec!["p".into()], 16, Some(5))));
    }
}
