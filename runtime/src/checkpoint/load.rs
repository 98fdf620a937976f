//! From a checkpoint to the buffers of a plan, with every difference reported at once.

use super::file::TensorFile;
use crate::codes::{CKPT_OPEN, TENSORS};
use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::plan::BufferRole;
use athanor_ir::{Diagnostic, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Differences that are listed one by one; of more, the number is given.
const MOST_LISTED: usize = 20;

/// Index files beyond this are taken for damaged.
const MOST_INDEX: u64 = 1 << 28;

/// Tensors of a checkpoint, in one file or several.
#[derive(Debug)]
pub struct Tensors {
    files: Vec<TensorFile>,
    by_name: BTreeMap<String, usize>,
}

fn cannot<T>(path: &Path, why: impl std::fmt::Display) -> Result<T> {
    Diagnostic::error(&CKPT_OPEN, format!("cannot open the checkpoint {}: {why}", path.display()))
        .help("give a safetensors file, a Hugging Face directory, or an iteration directory")
        .err()
}

impl Tensors {
    /// Opens `files`, which must not share a name.
    ///
    /// # Errors
    /// As [`TensorFile::open`], and [`CKPT_OPEN`] for a name that is there twice.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let files = files.iter().map(|p| TensorFile::open(p)).collect::<Result<Vec<_>>>()?;
        let mut by_name = BTreeMap::new();
        for (i, f) in files.iter().enumerate() {
            for name in f.tensors.keys() {
                if let Some(j) = by_name.insert(name.clone(), i) {
                    let other: &TensorFile = &files[j];
                    return cannot(f.path(), format!("`{name}` is also in {}", other.path().display()));
                }
            }
        }
        Ok(Self { files, by_name })
    }

    fn file(&self, name: &str) -> Option<&TensorFile> {
        self.by_name.get(name).map(|i| &self.files[*i])
    }

    /// The stored name of weight `name`: the same, or without the prefix that files of a bare model leave out.
    fn stored<'a>(&self, name: &'a str) -> Option<&'a str> {
        let bare = ["transformer.", "model."].iter().find_map(|p| name.strip_prefix(p));
        [Some(name), bare].into_iter().flatten().find(|n| self.by_name.contains_key(*n))
    }
}

/// Fills every weight of the plan from `path`: a safetensors file, a Hugging Face directory, an iteration directory, or
/// the directory above it.
///
/// # Errors
/// [`CKPT_OPEN`], [`crate::codes::SAFETENSORS`], and [`TENSORS`] that lists every difference.
pub fn load_weights(device: &mut CpuDevice, path: &Path) -> Result<()> {
    let tensors = Tensors::open(&weight_files(path)?)?;
    load(device, &tensors, path, |role| matches!(role, BufferRole::Weight { .. }))
}

/// Fills the buffers with a role that `wanted` accepts.
pub(super) fn load(
    device: &mut CpuDevice,
    tensors: &Tensors,
    path: &Path,
    wanted: impl Fn(&BufferRole) -> bool,
) -> Result<()> {
    let mut differences = vec![];
    let mut plan = vec![];
    let mut used = BTreeSet::new();
    for (i, b) in device.stage().buffers.iter().enumerate().filter(|(_, b)| wanted(&b.role)) {
        let Some((name, file)) = tensors.stored(&b.name).and_then(|n| Some((n, tensors.file(n)?))) else {
            differences.push(format!("missing: `{}` {:?}", b.name, b.dims));
            continue;
        };
        used.insert(name);
        let found = &file.tensors[name];
        if found.shape != b.dims {
            differences.push(format!("`{name}` is {:?}; the model has {:?}", found.shape, b.dims));
        } else if !matches!(format!("{:?}", found.dtype).as_str(), "F64" | "F32" | "BF16" | "F16") {
            differences.push(format!("`{name}` is {:?}, which is no float that weights can be read from", found.dtype));
        } else {
            plan.push((i, name.to_owned(), b.dtype));
        }
    }
    let unexpected = tensors.by_name.keys().filter(|n| !used.contains(n.as_str()) && !redundant(n));
    differences.extend(unexpected.map(|n| format!("unexpected: `{n}`")));
    if !differences.is_empty() {
        return Err(Box::new(mismatch(path, &differences)));
    }
    for (i, name, dtype) in plan {
        if let Some(file) = tensors.file(&name) {
            file.read(&name, device.bytes_mut(i), dtype)?;
        }
    }
    Ok(())
}

fn mismatch(path: &Path, differences: &[String]) -> Diagnostic {
    let mut text = format!("{} does not fit the model: {} differences", path.display(), differences.len());
    for d in differences.iter().take(MOST_LISTED) {
        let _ = write!(text, "\n  {d}");
    }
    if differences.len() > MOST_LISTED {
        let _ = write!(text, "\n  … and {} more", differences.len() - MOST_LISTED);
    }
    Diagnostic::error(&TENSORS, text).help("check that load_checkpoint is for this model size and family")
}

/// Tensors that carry nothing a plan needs: tables that are computed, optimizer state and counters that are read apart,
/// and an output layer that the plan shares with the embedding.
fn redundant(name: &str) -> bool {
    const COUNTERS: [&str; 6] =
        ["epoch_num", "step_num", "global_step", "loss_scale", "global_batch_size", "consumed_samples"];
    name.ends_with("rotary_emb.inv_freq")
        || name.ends_with(".attn.bias")
        || name.ends_with(".attn.masked_bias")
        || name.starts_with("adam_m.")
        || name.starts_with("adam_v.")
        || name == "lm_head.weight"
        || COUNTERS.contains(&name)
}

/// The safetensors files with the weights of the checkpoint at `path`.
fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.as_os_str().is_empty() || !path.exists() {
        return cannot(path, "there is nothing");
    }
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    if path.join(super::TRACKER).is_file() {
        return weight_files(&super::resume::latest(path)?);
    }
    let index = path.join("model.safetensors.index.json");
    if index.is_file() {
        return indexed(&index);
    }
    let whole = path.join("model.safetensors");
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    match parts(path, "-model-").as_slice() {
        [] => cannot(path, "it has no model.safetensors, no index, and no weights of a saved iteration"),
        found => Ok(found.to_vec()),
    }
}

/// Files `<prefix>{kind}<rank>-<world>.safetensors` of an iteration directory, by name.
pub(super) fn parts(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_part = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.contains(kind) && name.ends_with(".safetensors")
    };
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(is_part).collect();
    found.sort();
    found
}

/// Files that a Hugging Face index names.
fn indexed(index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let read = || {
        let file = std::fs::File::open(index)?;
        if file.metadata()?.len() > MOST_INDEX {
            return Err(std::io::Error::other("it is too large for an index"));
        }
        Ok(serde_json::from_reader::<_, Index>(std::io::BufReader::new(file))?)
    };
    let index_of = match read() {
        Ok(i) => i,
        Err(e) => return cannot(index, e),
    };
    let names: BTreeSet<String> = index_of.weight_map.into_values().collect();
    let dir = index.parent().unwrap_or(Path::new("."));
    // An index that leads out of its directory is not one that a tool wrote.
    if let Some(odd) = names.iter().find(|n| Path::new(n).components().count() != 1 || n.starts_with('.')) {
        return cannot(index, format!("it names the file {odd:?}"));
    }
    Ok(names.into_iter().map(|n| dir.join(n)).collect())
}
