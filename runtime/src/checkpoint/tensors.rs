//! The tensors of a checkpoint, in one file or many, and where the files are.

use super::differences::Differences;
use super::elements::{Elements, ElementsMut, copy, e4m3};
use super::file::{TensorFile, float};
use super::strided::Run;
use crate::codes::{CKPT_OPEN, TENSORS};
use athanor_ir::{DType, Diagnostic, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Index files beyond this are taken for damaged.
const MOST_INDEX: u64 = 1 << 28;

/// Name of the index of a checkpoint in parts.
pub const INDEX: &str = "model.safetensors.index.json";
/// Name of a checkpoint in one file.
pub const WHOLE: &str = "model.safetensors";

/// Rows and columns that share a scale in `DeepSeek`'s 8-bit files.
const BLOCK: usize = 128;
/// What the name of a scale has more than that of its weight.
const SCALE: &str = "_scale_inv";

/// File by name of tensor, from a Hugging Face index.
type Index = BTreeMap<String, String>;

/// Tensors of a checkpoint, in one file or several.
#[derive(Debug)]
pub struct Tensors {
    files: Vec<TensorFile>,
    by_name: BTreeMap<String, usize>,
}

/// Elements of a tensor, from the file or computed.
#[derive(Debug)]
pub struct Data<'a> {
    /// Their type.
    pub dtype: DType,
    /// Their bytes.
    pub bytes: Cow<'a, [u8]>,
}

impl Data<'_> {
    /// To copy from.
    pub fn elements(&self) -> Elements<'_> {
        Elements { dtype: self.dtype, bytes: &self.bytes }
    }
}

fn cannot<T>(path: &Path, why: impl std::fmt::Display) -> Result<T> {
    Diagnostic::error(&CKPT_OPEN, format!("cannot open the checkpoint {}: {why}", path.display()))
        .help("give a safetensors file, a Hugging Face directory, or an iteration directory")
        .err()
}

impl Tensors {
    /// Opens the weights at `path`: a safetensors file, a Hugging Face directory, an iteration directory, or the directory
    /// above it.
    ///
    /// # Errors
    /// As [`TensorFile::open`], and [`CKPT_OPEN`] for files that contradict one another or their index.
    pub fn of(path: &Path) -> Result<Self> {
        let (files, index) = weight_files(path)?;
        let this = Self::open(&files)?;
        if let Some(index) = index {
            this.check(&index, path)?;
        }
        Ok(this)
    }

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

    /// Every tensor must be where the index says, and none elsewhere.
    fn check(&self, index: &Index, path: &Path) -> Result<()> {
        let mut wrong = Differences::default();
        let file = |i: usize| self.files[i].path().file_name().unwrap_or_default().to_string_lossy();
        for (name, want) in index {
            if self.by_name.get(name).is_none_or(|i| file(*i) != *want) {
                wrong.add(|| format!("`{name}` is not in {want}"));
            }
        }
        for (name, i) in &self.by_name {
            if !index.contains_key(name) {
                wrong.add(|| format!("`{name}` in {} is not in the index", file(*i)));
            }
        }
        let what = format!("{INDEX} of {} does not fit its files", path.display());
        wrong.end(&CKPT_OPEN, &what, "download or save the checkpoint again")
    }

    /// Names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The files.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// The file that tensor `name` is in.
    pub fn file(&self, name: &str) -> Option<&TensorFile> {
        self.by_name.get(name).map(|i| &self.files[*i])
    }

    /// Type and dims of tensor `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.file(name)?.tensors.get(name)
    }

    /// The scale of an 8-bit weight, if `name` is one.
    pub fn scale_of(&self, name: &str) -> Option<String> {
        let info = self.info(name)?;
        let scale = format!("{name}{SCALE}");
        (info.dtype == Dtype::F8_E4M3 && self.by_name.contains_key(&scale)).then_some(scale)
    }

    /// Whether `name` is the scale of an 8-bit weight.
    pub fn is_scale(&self, name: &str) -> bool {
        name.strip_suffix(SCALE).is_some_and(|w| self.scale_of(w).is_some())
    }

    /// The type in which tensor `name` is read; why it cannot be read as a weight otherwise.
    ///
    /// # Errors
    /// The reason.
    pub fn dtype(&self, name: &str) -> std::result::Result<DType, String> {
        let Some(info) = self.info(name) else { return Err("it is not there".into()) };
        if let Some(d) = float(info.dtype) {
            return Ok(d);
        }
        let Some(scale) = self.scale_of(name) else {
            return Err(format!("{:?} is no float that weights can be read from", info.dtype));
        };
        let (&[r, c], Some(s)) = (info.shape.as_slice(), self.info(&scale)) else {
            return Err(format!("8-bit floats need two dims, not {:?}", info.shape));
        };
        let want = [r.div_ceil(BLOCK), c.div_ceil(BLOCK)];
        if s.shape != want || s.dtype != Dtype::F32 {
            return Err(format!("its scale is {:?} {:?}, not F32 {want:?}", s.dtype, s.shape));
        }
        Ok(DType::F32)
    }

    /// Elements of tensor `name`: a view of the file, or f32 where they are 8 bits wide and have scales.
    ///
    /// # Errors
    /// [`TENSORS`] where [`Self::dtype`] has none.
    pub fn data(&self, name: &str) -> Result<Data<'_>> {
        let (file, dtype) = match (self.file(name), self.dtype(name)) {
            (Some(file), Ok(dtype)) => (file, dtype),
            (_, Err(why)) => return unreadable(name, &why),
            (None, _) => return unreadable(name, "it is not there"),
        };
        let bytes = match (self.scale_of(name), self.info(name)) {
            (Some(scale), Some(info)) => {
                let scales = self.file(&scale).map(|f| f.bytes(&scale)).unwrap_or_default();
                Cow::Owned(scaled(file.bytes(name), info.shape.get(1).copied().unwrap_or(1), scales))
            }
            _ => Cow::Borrowed(file.bytes(name)),
        };
        Ok(Data { dtype, bytes })
    }

    /// Whether two tensors of one shape have the same values; NaNs count as equal if they have the same bits.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn equal(&self, a: &str, b: &str) -> Result<bool> {
        let (x, y) = (self.data(a)?, self.data(b)?);
        if x.dtype == y.dtype {
            return Ok(x.bytes == y.bytes);
        }
        let wide = |d: &Data<'_>| {
            let n = d.bytes.len() / d.dtype.bytes();
            let mut out = vec![0; n * 8];
            let run = Run { at: 0, step: 1, other: 0, other_step: 1, n };
            copy(d.elements(), &mut ElementsMut { dtype: DType::F64, bytes: &mut out }, run);
            out
        };
        Ok(wide(&x) == wide(&y))
    }
}

fn unreadable<T>(name: &str, why: &str) -> Result<T> {
    Diagnostic::error(&TENSORS, format!("`{name}` cannot be read: {why}"))
        .help("weights are F64, F32, BF16, F16, or F8_E4M3 with scales for blocks of 128 × 128")
        .err()
}

/// 8-bit floats with a row of `width` times the scales of their blocks, in f32.
fn scaled(bytes: &[u8], width: usize, scales: &[u8]) -> Vec<u8> {
    let table: [f32; 256] = std::array::from_fn(|i| e4m3(i as u8));
    let scales = scales.as_chunks::<4>().0;
    let per_row = width.div_ceil(BLOCK);
    let mut out = Vec::with_capacity(bytes.len() * 4);
    for (r, row) in bytes.chunks(width.max(1)).enumerate() {
        let scales = &scales[r / BLOCK * per_row..];
        for (block, scale) in row.chunks(BLOCK).zip(scales) {
            let scale = f32::from_le_bytes(*scale);
            out.extend(block.iter().flat_map(|b| (table[usize::from(*b)] * scale).to_le_bytes()));
        }
    }
    out
}

/// The safetensors files with the weights of the checkpoint at `path`, and their index if there is one.
fn weight_files(path: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    if path.as_os_str().is_empty() || !path.exists() {
        return cannot(path, "there is nothing");
    }
    if path.is_file() {
        return Ok((vec![path.to_path_buf()], None));
    }
    if path.join(super::TRACKER).is_file() {
        return weight_files(&super::resume::latest(path)?);
    }
    let index = path.join(INDEX);
    if index.is_file() {
        let map = indexed(&index)?;
        let names: BTreeSet<&String> = map.values().collect();
        return Ok((names.into_iter().map(|n| path.join(n)).collect(), Some(map)));
    }
    let whole = path.join(WHOLE);
    if whole.is_file() {
        return Ok((vec![whole], None));
    }
    match parts(path, "-model-").as_slice() {
        [] => cannot(path, "it has no model.safetensors, no index, and no weights of a saved iteration"),
        found => Ok((found.to_vec(), None)),
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

/// Reads an index.
fn indexed(index: &Path) -> Result<Index> {
    #[derive(Deserialize)]
    struct File {
        weight_map: Index,
    }
    let read = || {
        let file = std::fs::File::open(index)?;
        if file.metadata()?.len() > MOST_INDEX {
            return Err(std::io::Error::other("it is too large for an index"));
        }
        Ok(serde_json::from_reader::<_, File>(std::io::BufReader::new(file))?)
    };
    let map = match read() {
        Ok(i) => i.weight_map,
        Err(e) => return cannot(index, e),
    };
    // An index that leads out of its directory is not one that a tool wrote.
    if let Some(odd) = map.values().find(|n| Path::new(n).components().count() != 1 || n.starts_with('.')) {
        return cannot(index, format!("it names the file {odd:?}"));
    }
    Ok(map)
}
