//! From a description of the data to samples.

use super::blend::{self, BlendSpec};
use super::cache::{CacheKey, Identity, weight_text};
use super::gpt::GptDataset;
use super::gpt::index::{GptIndex, IndexOptions, Layout};
use super::gpt::masks::Masks;
use super::indexed::IndexedDataset;
use super::npy::Array;
use super::spec::{DataSpec, MegatronSpec};
use super::split::{Split, SplitMatrix, parse_split, sequence_range};
use super::token_bin::TokenBin;
use super::{Columns, Dataset, SampleMut, codes};
use athanor_ir::diag::{Diagnostic, Result, Severity};
use std::path::Path;
use std::sync::Arc;

/// A dataset ready to be read.
pub struct Opened {
    /// The samples.
    pub dataset: Arc<dyn Dataset>,
    /// Samples that the config asks for, if it says so: the epoch ends there even if the dataset has more.
    pub requested: Option<u64>,
    /// Notes and warnings, such as a cached index that had to be built anew.
    pub notes: Vec<Diagnostic>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("samples", &self.dataset.len())
            .field("requested", &self.requested)
            .finish_non_exhaustive()
    }
}

/// Opens one split of the data; raw token files have a training split only.
///
/// With `path_to_cache` the index is loaded from there, or built and saved there.
///
/// # Errors
/// Any code of this area; see [`super::CODES`].
pub fn open(spec: &DataSpec, split: Split) -> Result<Opened> {
    match spec {
        DataSpec::TokenBin(t) if split == Split::Train => {
            Ok(Opened { dataset: Arc::new(TokenBin::open(t)?), requested: None, notes: vec![] })
        }
        DataSpec::TokenBin(_) => no_split(split),
        DataSpec::Megatron(m) => open_megatron(m, split),
    }
}

/// Builds and saves the index of every split that has data, for a run that starts later (`data index`); gives the
/// number of samples of each.
///
/// # Errors
/// D0009 without `path_to_cache`, otherwise as [`open`].
pub fn index(m: &MegatronSpec) -> Result<Vec<(Split, u64)>> {
    if m.path_to_cache.is_none() {
        return spec_error(
            "there is no place for the index".into(),
            "set path_to_cache to a directory that all nodes see",
        );
    }
    let mut samples = vec![];
    for split in Split::ALL {
        // A split that is asked for zero samples is not read by any run.
        if m.sizes[split as usize] != Some(0) && has_data(m, split)? {
            samples.push((split, open_megatron(m, split)?.dataset.len()));
        }
    }
    Ok(samples)
}

fn has_data(m: &MegatronSpec, split: Split) -> Result<bool> {
    let own = [&m.train_data_path, &m.valid_data_path, &m.test_data_path];
    if own.iter().any(|p| p.is_some()) {
        return Ok(own[split as usize].is_some());
    }
    m.split.as_deref().map_or(Ok(true), |text| Ok(parse_split(text)?[split as usize].is_some()))
}

/// What the splits of a config are made of.
struct Source<'a> {
    blend: BlendSpec,
    shares: Option<(&'a str, SplitMatrix)>,
    fractions: (f64, f64),
    size: Option<u64>,
    split: Split,
}

fn spec_error<T>(message: String, help: &str) -> Result<T> {
    Diagnostic::error(&codes::SPEC, message).help(help).err()
}

fn no_split<T>(split: Split) -> Result<T> {
    spec_error(format!("the data has no {} split", split.name()), "give it a share in split, or its own data path")
}

fn source(m: &MegatronSpec, split: Split) -> Result<Source<'_>> {
    let own = [&m.train_data_path, &m.valid_data_path, &m.test_data_path];
    let size = m.sizes[split as usize];
    if own.iter().any(|p| p.is_some()) {
        if m.data_path.is_some() || m.split.is_some() {
            return spec_error(
                "train_data_path, valid_data_path and test_data_path exclude data_path and split".into(),
                "use either one data_path with split, or a path per split",
            );
        }
        let Some(list) = own[split as usize] else { return no_split(split) };
        let mut blend = BlendSpec::parse(list)?;
        if blend.prefixes.len() == 1 {
            // The reference drops the weight of a single path here, but not under data_path.
            blend.weights = None;
        }
        return Ok(Source { blend, shares: None, fractions: (0.0, 1.0), size, split });
    }
    let (Some(list), Some(text)) = (&m.data_path, &m.split) else {
        return spec_error(
            "data_path and split are both needed".into(),
            "for training data only, write split: \"1, 0, 0\"",
        );
    };
    let matrix = parse_split(text)?;
    let Some(fractions) = matrix[split as usize] else { return no_split(split) };
    Ok(Source { blend: BlendSpec::parse(list)?, shares: Some((text, matrix)), fractions, size, split })
}

fn open_megatron(m: &MegatronSpec, split: Split) -> Result<Opened> {
    if m.seq_length == 0 || m.seq_length > i32::MAX as usize - 1 {
        return spec_error(
            format!("seq_length {} is not a usable length", m.seq_length),
            "seq_length is a positive number",
        );
    }
    if m.create_compressed_eod_mask && m.eod_pad_length == 0 {
        return spec_error("create_compressed_eod_mask needs room for document ends".into(), "set eod_pad_length");
    }
    let source = source(m, split)?;
    let mut notes = vec![];
    let dataset: Arc<dyn Dataset> = match (&source.blend.weights, source.blend.prefixes.as_slice()) {
        (None, [prefix]) => Arc::new(open_gpt(m, &source, prefix, source.size, &mut notes)?),
        (None, prefixes) => {
            let sizes = vec![None; prefixes.len()];
            Arc::new(open_blend(m, &source, &sizes, &mut notes)?)
        }
        (Some(weights), _) => {
            let Some(size) = source.size else {
                return spec_error("weights in the data path need a number of samples".into(), "set sizes");
            };
            let sizes: Vec<_> = blend::size_per_dataset(weights, size).into_iter().map(Some).collect();
            Arc::new(open_blend(m, &source, &sizes, &mut notes)?)
        }
    };
    Ok(Opened { dataset, requested: source.size, notes })
}

fn identity<'a>(m: &MegatronSpec, source: &Source<'a>, prefix: &'a str, num_samples: Option<u64>) -> Identity<'a> {
    Identity {
        dataset_path: prefix,
        num_samples,
        split: source.split,
        random_seed: m.seed,
        sequence_length: m.seq_length,
        shares: source.shares,
    }
}

fn open_gpt(
    m: &MegatronSpec,
    source: &Source<'_>,
    prefix: &str,
    num_samples: Option<u64>,
    notes: &mut Vec<Diagnostic>,
) -> Result<GptDataset> {
    let indexed = Arc::new(IndexedDataset::open(Path::new(prefix), m.mmap_bin_files)?);
    let range = sequence_range(source.fractions, indexed.sequences());
    let Ok(last) = i32::try_from(range.end) else {
        return spec_error(format!("{prefix} has more than 2^31 sequences"), "split the dataset into several files");
    };
    let documents = range.start as i32..last;
    let options = IndexOptions {
        seq_length: m.seq_length,
        extra_token: m.add_extra_token_to_sequence,
        num_samples,
        seed: m.seed,
        drop_last: source.split != Split::Valid || m.drop_last_partial_validation_sequence,
    };
    let length = |d: i32| indexed.length(d as usize);
    let name = |e: Box<Diagnostic>| {
        let message = format!("{prefix} ({} split): {}", source.split.name(), e.message);
        Box::new(Diagnostic { message, ..*e })
    };
    let build = || GptIndex::build(documents.clone(), length, &options).map_err(name);
    let index = match &m.path_to_cache {
        None => build()?,
        Some(dir) => {
            let tokens = documents.clone().map(|d| length(d) as u64).sum();
            let layout = Layout::new(tokens, &options).map_err(name)?;
            let key = CacheKey::gpt(dir, &identity(m, source, prefix, num_samples));
            if let Some(index) = noted(key.load_gpt(layout, documents.len() as u64), notes) {
                index
            } else {
                let index = build()?;
                key.save_gpt(&index)?;
                index
            }
        }
    };
    let masks = Masks {
        eod: m.eod,
        pad: m.pad,
        eod_mask_loss: m.eod_mask_loss,
        reset_position_ids: m.reset_position_ids,
        reset_attention_mask: m.reset_attention_mask,
        eod_pad_length: if m.create_compressed_eod_mask { m.eod_pad_length } else { 0 },
    };
    Ok(GptDataset::new(indexed, index, m.seq_length, m.add_extra_token_to_sequence, masks))
}

/// A cached index, or `None` with a warning if it is damaged.
fn noted<T>(loaded: Result<Option<T>>, notes: &mut Vec<Diagnostic>) -> Option<T> {
    loaded.unwrap_or_else(|e| {
        notes.push(Diagnostic { severity: Severity::Warning, ..*e });
        None
    })
}

/// Samples of several datasets, interleaved.
#[derive(Debug)]
pub struct BlendedDataset {
    datasets: Vec<GptDataset>,
    dataset: Array<i16>,
    sample: Array<i64>,
}

impl BlendedDataset {
    /// Number of the dataset that sample `i` comes from, and its number there.
    pub fn source_of(&self, i: u64) -> Option<(usize, u64)> {
        let i = usize::try_from(i).ok()?;
        let (k, s) = (self.dataset.as_slice().get(i)?, self.sample.as_slice().get(i)?);
        Some((usize::try_from(*k).ok()?, u64::try_from(*s).ok()?))
    }

    fn pick(&self, i: u64) -> Result<(&GptDataset, u64)> {
        let found = self.source_of(i).and_then(|(k, s)| Some((self.datasets.get(k)?, s)));
        found.map_or_else(
            || {
                Diagnostic::error(&codes::CACHE, format!("the blend has no sample {i}"))
                    .help("delete the files under path_to_cache and start again")
                    .err()
            },
            Ok,
        )
    }
}

fn open_blend(
    m: &MegatronSpec,
    source: &Source<'_>,
    sizes: &[Option<u64>],
    notes: &mut Vec<Diagnostic>,
) -> Result<BlendedDataset> {
    let prefixes = &source.blend.prefixes;
    if prefixes.len() >= i16::MAX as usize {
        return spec_error(format!("{} datasets are too many to blend", prefixes.len()), "merge some of them");
    }
    let datasets: Vec<GptDataset> = prefixes
        .iter()
        .zip(sizes)
        .map(|(prefix, size)| open_gpt(m, source, prefix, *size, notes))
        .collect::<Result<_>>()?;
    let lengths: Vec<u64> = datasets.iter().map(Dataset::len).collect();
    let total: u64 = lengths.iter().sum();
    let (size, weights) = match &source.blend.weights {
        Some(w) => (sizes.iter().flatten().sum(), w.iter().map(|&w| weight_text(w)).collect::<Vec<_>>()),
        None => (source.size.map_or(total, |s| s.min(total)), lengths.iter().map(u64::to_string).collect()),
    };
    let build = || match &source.blend.weights {
        Some(w) => blend::weighted(w, size),
        None => blend::exhaustive(&lengths, Some(size)),
    };
    let (dataset, sample) = match &m.path_to_cache {
        None => build().map(|i| (Array::Owned(i.dataset), Array::Owned(i.sample)))?,
        Some(dir) => {
            let ids: Vec<_> = prefixes.iter().zip(sizes).map(|(p, n)| identity(m, source, p, *n)).collect();
            let key = CacheKey::blend(dir, &ids, source.split, &weights, Some(size));
            if let Some(arrays) = noted(key.load_blend(size), notes) {
                arrays
            } else {
                let index = build()?;
                key.save_blend(&index)?;
                (Array::Owned(index.dataset), Array::Owned(index.sample))
            }
        }
    };
    let blended = BlendedDataset { datasets, dataset, sample };
    for (k, prefix) in prefixes.iter().enumerate() {
        let asked = blended.dataset.as_slice().iter().filter(|&&d| d as usize == k).count() as u64;
        if asked > lengths[k] {
            return spec_error(
                format!("the blend needs {asked} samples of {prefix}, which has {}", lengths[k]),
                "ask for fewer samples under sizes, or give it a smaller weight",
            );
        }
    }
    Ok(blended)
}

impl Dataset for BlendedDataset {
    fn len(&self) -> u64 {
        self.dataset.len() as u64
    }

    fn seq_length(&self) -> usize {
        self.datasets.first().map_or(0, Dataset::seq_length)
    }

    fn sample(&self, index: u64, out: &mut SampleMut<'_>) -> Result<()> {
        let (dataset, sample) = self.pick(index)?;
        dataset.sample(sample, out)
    }

    fn columns(&self) -> Columns {
        self.datasets.first().map_or(Columns::default(), Dataset::columns)
    }

    fn resets_attention(&self) -> bool {
        self.datasets.iter().any(Dataset::resets_attention)
    }

    fn locate(&self, index: u64, offset: usize) -> String {
        self.pick(index).map_or_else(|e| e.message, |(dataset, sample)| dataset.locate(sample, offset))
    }
}

#[cfg(test)]
mod tests;
