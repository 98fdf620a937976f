//! `train_dataset` and `train_dataset_task`: where the tokens come from.

use athanor_ir::Diagnostic;

use super::codes;
use super::known;
use super::node::{Kind, Node};
use super::reader::{FromNode, Rule, Section};
use super::report::Report;
use super::span::{Span, Spanned};

/// The `train_dataset` section.
#[derive(Debug, Clone)]
pub struct DatasetConfig {
    /// Where the section stands.
    pub span: Option<Span>,
    /// What is read.
    pub loader: DataLoader,
    /// Drop the samples that do not fill the last batch.
    pub drop_remainder: Spanned<bool>,
    /// Columns handed to the model, in order.
    pub input_columns: Option<Spanned<Vec<String>>>,
    /// Threads that prepare samples.
    pub num_parallel_workers: Spanned<usize>,
    /// Batches prepared ahead.
    pub prefetch_size: Spanned<usize>,
    /// `train_dataset.seed`. It shuffles no `GPTDataset`: that is `data_loader.config.seed`.
    pub seed: Option<Spanned<u64>>,
}

/// The supported values of `train_dataset.data_loader.type`.
#[derive(Debug, Clone)]
pub enum DataLoader {
    /// `BlendedMegatronDatasetDataLoader` with `GPTDataset`.
    Megatron(Box<GptDataset>),
    /// `TokenBinDataLoader`.
    TokenBin(TokenBin),
}

/// Tokens of one file in order: sample `r` starts at token `r·stride` and has `seq_length + 1` tokens.
#[derive(Debug, Clone)]
pub struct TokenBin {
    /// Raw little-endian tokens.
    pub path: Spanned<String>,
    /// Width of a token.
    pub dtype: Spanned<TokenDtype>,
    /// Tokens from one sample to the next; `None` is `seq_length`.
    pub stride: Option<Spanned<usize>>,
}

/// Type of the tokens in a [`TokenBin`] file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenDtype {
    /// Two bytes, unsigned.
    Uint16,
    /// Four bytes, signed.
    Int32,
}

/// One corpus of a blend.
#[derive(Debug, Clone, PartialEq)]
pub struct DataPath {
    /// Path without `.bin` and `.idx`.
    pub prefix: String,
    /// Share of the samples; `None` in a list without weights.
    pub weight: Option<f64>,
    /// Where the prefix is written.
    pub span: Span,
}

/// Megatron's `GPTDataset`, as `train_dataset.data_loader` and its `config` describe it.
#[derive(Debug, Clone)]
pub struct GptDataset {
    /// `sizes`: samples asked for of the train, validation and test splits.
    pub sizes: Spanned<[u64; 3]>,
    /// `shuffle` of the loader.
    pub shuffle: Spanned<bool>,
    /// Tokens per sample, without the extra one.
    pub seq_length: Spanned<usize>,
    /// Seed of the document and sample shuffles.
    pub seed: Spanned<u64>,
    /// `data_path`: corpora split by `split`.
    pub data_path: Vec<DataPath>,
    /// `train_data_path`, `valid_data_path`, `test_data_path`: corpora per split, instead of `data_path`.
    pub per_split: [Vec<DataPath>; 3],
    /// `split`: shares of the documents, summing to 1.
    pub split: Option<Spanned<[f64; 3]>>,
    /// Folder for the index caches; `None` is beside the data.
    pub path_to_cache: Option<Spanned<String>>,
    /// Threads that build the parts of a blend.
    pub num_dataset_builder_threads: Spanned<usize>,
    /// Map the `.bin` files instead of reading them.
    pub mmap_bin_files: Spanned<bool>,
    /// Positions restart after an end-of-document token.
    pub reset_position_ids: Spanned<bool>,
    /// Attention does not cross an end-of-document token.
    pub reset_attention_mask: Spanned<bool>,
    /// No loss on end-of-document tokens.
    pub eod_mask_loss: Spanned<bool>,
    /// Hand out the mask as a column.
    pub create_attention_mask: Spanned<bool>,
    /// Hand out document ends instead of the mask.
    pub create_compressed_eod_mask: Spanned<bool>,
    /// Document ends per sample in that column.
    pub eod_pad_length: Spanned<usize>,
    /// End-of-document token; -1 is none.
    pub eod: Spanned<i64>,
    /// Padding token; -1 is none.
    pub pad: Spanned<i64>,
    /// Drop the last validation sample if it is short.
    pub drop_last_partial_validation_sequence: Spanned<bool>,
    /// Samples carry the label of their last token.
    pub add_extra_token_to_sequence: Spanned<bool>,
}

impl FromNode for [u64; 3] {
    const EXPECTED: &'static str = "a list of three counts: train, validation, test";
    fn from_node(node: &Node) -> Option<Self> {
        Vec::from_node(node)?.try_into().ok()
    }
}

/// Reads `train_dataset`, falling back to the copy inside of `train_dataset_task`.
pub(super) fn read(report: &Report, top: &mut Section<'_>) -> Option<DatasetConfig> {
    let mut task = top.section("train_dataset_task");
    let task_type = task.opt::<String>("type");
    let copy = task.field("dataset_config");
    task.take(&["auto_register"]);
    task.finish(Rule::Strict);
    let own = top.field("train_dataset");
    let field = match (own, copy) {
        (Some(own), Some(copy)) => {
            if own.key_span.file == copy.node.span.file && !own.node.same_value(copy.node) {
                let message = "`train_dataset_task.dataset_config` differs from `train_dataset`, which is the one used";
                let found = Diagnostic::warning(&codes::CONTRADICTION, message)
                    .help("write `dataset_config: *train_dataset` and `train_dataset: &train_dataset`");
                let found = report.mark(found, Some(own.key_span), "used");
                report.push(report.mark(found, Some(copy.key_span), "not used"));
            }
            Some(own)
        }
        (own, copy) => own.or(copy),
    };
    let Some(field) = field else {
        top.missing("train_dataset", "add a `train_dataset` with a `data_loader`");
        return None;
    };
    if let Some(task) = task_type.filter(|t| t.value != "CausalLanguageModelDataset") {
        let what = format!("the data set task `{}`", task.value);
        top.not_supported(task.span, &what, "pretraining uses `type: CausalLanguageModelDataset`");
        return None;
    }
    let mut s = Section::new(report, "train_dataset", Some(field));
    let loader = data_loader(&mut s);
    refuse_packing(&mut s);
    let config = DatasetConfig {
        span: Some(field.key_span),
        drop_remainder: s.get("drop_remainder", true),
        input_columns: s.opt("input_columns"),
        num_parallel_workers: s.positive("num_parallel_workers", 8),
        prefetch_size: s.positive("prefetch_size", 1),
        seed: s.opt("seed"),
        loader: loader?,
    };
    s.finish(Rule::Open);
    Some(config)
}

/// Options of the data set that would change what is trained on.
fn refuse_packing(s: &mut Section<'_>) {
    for key in ["dynamic_batch", "eod_reset", "token_monitor"] {
        if let Some(on) = s.opt::<bool>(key).filter(|v| v.value) {
            s.not_supported(on.span, &format!("`train_dataset.{key}`"), &format!("write `{key}: False`"));
        }
    }
    if let Some(off) = s.opt::<bool>("drop_remainder").filter(|v| !v.value) {
        s.not_supported(off.span, "a last batch of another size", "write `drop_remainder: True`");
    }
    if let Some(repeat) = s.opt::<i64>("repeat").filter(|v| v.value != 1) {
        s.not_supported(repeat.span, "repeating the data set", "raise `runner_config.epochs` instead");
    }
}

const LOADERS: &[&str] = &[
    "BlendedMegatronDatasetDataLoader",
    "TokenBinDataLoader",
    "MindDataset",
    "HFDataLoader",
    "CommonDataLoader",
    "MultiSourceDataLoader",
    "TrainingDataLoader",
    "ADGenDataLoader",
    "SFTDataLoader",
    "WikitextDataLoader",
    "Flickr8kDataLoader",
    "MultiImgCapDataLoader",
    "ImageNet2012DataLoader",
    "ToolAlpacaDataLoader",
    "CMRCDataLoader",
    "ImageFolderDataset",
    "CLUENERDataLoader",
    "SQuADDataLoader",
    "AGNewsDataLoader",
    "GeneratorDataset",
];

fn data_loader(dataset: &mut Section<'_>) -> Option<DataLoader> {
    let mut s = dataset.section("data_loader");
    let Some(kind) = s.opt::<String>("type") else {
        if s.peek("type").is_none() {
            s.missing("type", "add `type: BlendedMegatronDatasetDataLoader` or `type: TokenBinDataLoader`");
        }
        return None;
    };
    match kind.value.as_str() {
        "BlendedMegatronDatasetDataLoader" => Some(DataLoader::Megatron(Box::new(gpt_dataset(s)))),
        "TokenBinDataLoader" => token_bin(s).map(DataLoader::TokenBin),
        name if LOADERS.contains(&name) => {
            let help = "build Megatron `.bin` and `.idx` files and use BlendedMegatronDatasetDataLoader";
            s.not_supported(kind.span, &format!("the data loader `{name}`"), help);
            None
        }
        name => {
            let help = match known::nearest(name, LOADERS.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "use BlendedMegatronDatasetDataLoader or TokenBinDataLoader".into(),
            };
            let found = Diagnostic::error(&codes::UNKNOWN_TYPE, format!("`{name}` is not a data loader")).help(help);
            s.error_at(found, kind.span, "unknown class");
            None
        }
    }
}

fn token_bin(mut s: Section<'_>) -> Option<TokenBin> {
    const DTYPES: &[(&str, TokenDtype)] = &[("uint16", TokenDtype::Uint16), ("int32", TokenDtype::Int32)];
    let path = s.opt_checked::<String>("path", "must not be empty", |p| !p.is_empty());
    if path.is_none() && s.peek("path").is_none() {
        s.missing("path", "name the file of raw little-endian tokens");
    }
    let dtype = s.opt_one_of("dtype", DTYPES);
    if dtype.is_none() && s.peek("dtype").is_none() {
        s.missing("dtype", "write `dtype: uint16` or `dtype: int32`");
    }
    let stride = s.opt_checked("stride", "must be at least 1", |v| *v >= 1);
    s.finish_with(Rule::Strict, &[]);
    Some(TokenBin { path: path?, dtype: dtype?, stride })
}

fn gpt_dataset(mut s: Section<'_>) -> GptDataset {
    let kinds = [("GPTDataset", true), ("MockGPTDataset", false), ("MultimodalDataset", false)];
    if let Some(kind) = s.opt_one_of("datasets_type", &kinds).filter(|v| !v.value) {
        s.not_supported(kind.span, "a `datasets_type` other than GPTDataset", "write `datasets_type: \"GPTDataset\"`");
    }
    let sizes = s.opt::<[u64; 3]>("sizes");
    if sizes.is_none() && s.peek("sizes").is_none() {
        s.missing("sizes", "add the samples to draw: `sizes: [1000, 0, 0]`");
    }
    let shuffle = s.get("shuffle", false);
    if shuffle.value {
        let help = "write `shuffle: False`: a GPTDataset shuffles its samples itself, by `config.seed`";
        s.not_supported(shuffle.span, "shuffling the samples of a GPTDataset again", help);
    }
    let mut c = s.section("config");
    s.finish(Rule::Open);
    let seq_length = c.opt_checked("seq_length", "must be at least 1", |v| *v >= 1);
    if seq_length.is_none() && c.peek("seq_length").is_none() {
        c.missing("seq_length", "add the tokens per sample");
    }
    warn_random_seed(&mut c);
    let data_path = paths(&mut c, "data_path");
    let per_split = ["train_data_path", "valid_data_path", "test_data_path"].map(|key| paths(&mut c, key));
    let split = split(&mut c);
    check_paths(&c, !data_path.is_empty(), !per_split[0].is_empty(), split.is_some());
    let eod_pad = if c.peek("compressed_eod_mask_length").is_some() && c.peek("eod_pad_length").is_none() {
        "compressed_eod_mask_length"
    } else {
        "eod_pad_length"
    };
    let config = GptDataset {
        sizes: sizes.unwrap_or(Spanned::default([0; 3])),
        shuffle,
        seq_length: seq_length.unwrap_or(Spanned::default(1)),
        seed: c.get("seed", 1234),
        data_path,
        per_split,
        split,
        path_to_cache: c.opt("path_to_cache"),
        num_dataset_builder_threads: c.positive("num_dataset_builder_threads", 1),
        mmap_bin_files: c.get("mmap_bin_files", true),
        reset_position_ids: c.get("reset_position_ids", false),
        reset_attention_mask: c.get("reset_attention_mask", false),
        eod_mask_loss: c.get("eod_mask_loss", false),
        create_attention_mask: c.get("create_attention_mask", true),
        create_compressed_eod_mask: c.get("create_compressed_eod_mask", false),
        eod_pad_length: c.positive(eod_pad, 128),
        eod: c.get("eod", -1),
        pad: c.get("pad", -1),
        drop_last_partial_validation_sequence: c.get("drop_last_partial_validation_sequence", true),
        add_extra_token_to_sequence: c.get("add_extra_token_to_sequence", true),
    };
    c.finish(Rule::Strict);
    config
}

fn warn_random_seed(c: &mut Section<'_>) {
    c.take(&["random_seed"]);
    if let Some(field) = c.peek("random_seed") {
        let found = Diagnostic::warning(
            &codes::COMPATIBILITY,
            "`random_seed` is not read; the seed of the data is `seed`, which is 1234 by default",
        );
        c.error_at(found.help("rename it to `seed` to use it"), Some(field.key_span), "not read, as in MindFormers");
    }
}

fn check_paths(c: &Section<'_>, joint: bool, per_split: bool, split: bool) {
    let place = |key: &str| c.peek(key).map(|f| f.key_span);
    if !joint && !per_split {
        c.missing("data_path", "add `data_path: ['1', /path/to/prefix]`, the prefix without `.bin`");
    } else if joint && per_split {
        let message = "`data_path` and `train_data_path` exclude each other";
        let found =
            Diagnostic::error(&codes::CONTRADICTION, message).help("keep `data_path` with `split`, or the others");
        let found = c.report.mark(found, place("data_path"), "one");
        c.report.push(c.report.mark(found, place("train_data_path"), "the other"));
    } else if joint && !split {
        c.missing("split", "`data_path` needs the shares of train, validation and test: `split: \"1, 0, 0\"`");
    } else if per_split && split {
        let found = Diagnostic::error(&codes::CONTRADICTION, "`split` divides `data_path`, which is not given")
            .help("remove `split`");
        c.error_at(found, place("split"), "divides nothing");
    }
}

/// A list of prefixes, with or without weights between them.
///
/// As in Megatron: an even list whose items 0, 2, 4, … are all numbers has weights.
fn paths<'a>(c: &mut Section<'a>, key: &'a str) -> Vec<DataPath> {
    let Some(field) = c.field(key) else { return vec![] };
    let items: Vec<&Node> = match &field.node.kind {
        Kind::Seq(items) => items.iter().map(|i| &**i).collect(),
        Kind::Scalar { .. } => vec![field.node],
        Kind::Map(_) => {
            super::reader::wrong_type(c.report, &c.path_of(key), field, "a list of weights and prefixes");
            return vec![];
        }
    };
    let weighted = items.len().is_multiple_of(2) && items.iter().step_by(2).all(|i| f64::from_node(i).is_some());
    let mut read = vec![];
    for pair in items.chunks(if weighted { 2 } else { 1 }) {
        let (weight, prefix) = match pair {
            [weight, prefix] => (f64::from_node(weight), *prefix),
            [prefix] => (None, *prefix),
            _ => continue,
        };
        let Some(text) = prefix.text().filter(|t| !t.is_empty()) else {
            let found = Diagnostic::error(&codes::WRONG_TYPE, format!("`{}` must name a prefix here", c.path_of(key)));
            c.error_at(found, Some(prefix.span), &format!("found {}", prefix.describe()));
            continue;
        };
        if weight.is_some_and(|w| w < 0.0) {
            let found = Diagnostic::error(&codes::OUT_OF_RANGE, "the weight of a corpus must not be negative");
            c.error_at(found, Some(pair[0].span), "negative");
        }
        read.push(DataPath { prefix: text.to_owned(), weight, span: prefix.span });
    }
    read
}

/// `"949, 50, 1"`: up to three numbers, the rest 0, scaled to sum to 1.
fn split(c: &mut Section<'_>) -> Option<Spanned<[f64; 3]>> {
    let text = c.opt::<String>("split")?;
    let parts: Option<Vec<f64>> =
        text.value.split([',', ' ', '/']).filter(|p| !p.is_empty()).map(super::scalar::float).collect();
    let sum: f64 = parts.iter().flatten().sum();
    match parts {
        Some(parts) if (1..=3).contains(&parts.len()) && parts.iter().all(|p| *p >= 0.0) && sum > 0.0 => {
            let share = |i: usize| parts.get(i).copied().unwrap_or(0.0) / sum;
            Some(text.map(|_| [share(0), share(1), share(2)]))
        }
        _ => {
            let message = format!("`{}` must be up to three shares, found {:?}", c.path_of("split"), text.value);
            let found = Diagnostic::error(&codes::OUT_OF_RANGE, message).help("write `split: \"1, 0, 0\"`");
            c.error_at(found, text.span, "not shares");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DataLoader, GptDataset, TokenDtype};
    use crate::config::testing::{LLAMA, accepted, complaints, load_with, with};

    fn megatron(changes: &[(&str, &str)]) -> GptDataset {
        let loader = "train_dataset:\n  data_loader:\n    type: BlendedMegatronDatasetDataLoader\n    \
                      datasets_type: GPTDataset\n    sizes: [1000, 0, 0]\n    config:\n      seq_length: 512\n      \
                      split: '949, 50, 1'\n      data_path: [a]\n";
        let text = LLAMA.split("train_dataset:").next().unwrap().to_owned() + loader;
        let paths: Vec<String> = changes.iter().map(|(k, _)| format!("train_dataset.data_loader.config.{k}")).collect();
        let changes: Vec<_> = paths.iter().map(String::as_str).zip(changes.iter().map(|(_, v)| *v)).collect();
        match accepted(load_with(&text, &changes)).dataset.loader {
            DataLoader::Megatron(data) => *data,
            DataLoader::TokenBin(_) => panic!("the other loader"),
        }
    }

    #[test]
    fn token_bin() {
        let DataLoader::TokenBin(bin) = with(&[("train_dataset.data_loader.stride", "64")]).dataset.loader else {
            panic!("the other loader")
        };
        assert_eq!((bin.path.as_str(), bin.dtype.value), ("tokens.bin", TokenDtype::Uint16));
        assert_eq!(bin.stride.map(|s| s.value), Some(64));
        let wrong = complaints(&[("train_dataset.data_loader.dtype", "int16")]);
        assert_eq!(wrong, ["C0007 `train_dataset.data_loader.dtype` cannot be `int16`"]);
    }

    #[test]
    fn defaults_of_gpt_dataset() {
        let data = megatron(&[]);
        assert_eq!((data.seed.value, data.eod.value, data.pad.value, data.eod_pad_length.value), (1234, -1, -1, 128));
        assert!(data.create_attention_mask.value && data.add_extra_token_to_sequence.value);
        assert_eq!(data.split.unwrap().value, [0.949, 0.05, 0.001]);
        assert_eq!(megatron(&[("split", "1, 0, 0")]).split.unwrap().value, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn weights_are_found_as_megatron_finds_them() {
        let read = |list| -> Vec<_> {
            megatron(&[("data_path", list)]).data_path.into_iter().map(|p| (p.weight, p.prefix)).collect()
        };
        assert_eq!(read("['1', wiki]"), [(Some(1.0), "wiki".into())]);
        assert_eq!(read("[0.3, a, 0.7, b]"), [(Some(0.3), "a".into()), (Some(0.7), "b".into())]);
        assert_eq!(read("[a, b]"), [(None, "a".into()), (None, "b".into())]);
        assert_eq!(read("[a, b, c]").len(), 3);
    }
}
