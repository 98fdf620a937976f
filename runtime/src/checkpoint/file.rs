//! One safetensors file: a header that is believed only after it was checked, and tensors read piece by piece.

use crate::codes::{CKPT_OPEN, SAFETENSORS};
use crate::init::write as write_elements;
use athanor_ir::{DType, Diagnostic, Result};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Headers are at most this long, as in the library that defines the format.
const MOST_HEADER: u64 = 100_000_000;

/// Bytes of a tensor that are held at a time while it is converted.
const PIECE: usize = 1 << 20;

/// An open safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// Byte offset of the first tensor.
    data: u64,
    /// Tensors by name; offsets count from `data`.
    pub tensors: BTreeMap<String, TensorInfo>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    _metadata: HashMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

fn damaged(path: &Path, offset: u64, why: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::error(&SAFETENSORS, format!("{}: byte {offset}: {why}", path.display()))
        .help("download or save the file again")
}

impl TensorFile {
    /// Opens `path` and checks its header against the length of the file.
    ///
    /// # Errors
    /// [`CKPT_OPEN`], and [`SAFETENSORS`] with the byte offset of the damage.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = |e: io::Error| {
            let e = Diagnostic::error(&CKPT_OPEN, format!("cannot open {}: {e}", path.display()));
            Box::new(e.help("check load_checkpoint; relative paths start at the directory of the command"))
        };
        let mut file = File::open(path).map_err(cannot)?;
        let meta = file.metadata().map_err(cannot)?;
        let len = meta.len();
        if !meta.is_file() {
            return Err(cannot(io::Error::other("it is not a file")));
        }
        let mut size = [0; 8];
        if len < 8 {
            return damaged(path, len, "the file ends before the 8 bytes of header length").err();
        }
        file.read_exact(&mut size).map_err(cannot)?;
        let size = u64::from_le_bytes(size);
        if size > MOST_HEADER || size > len - 8 {
            return damaged(path, 0, format!("a header of {size} bytes in a file of {len}")).err();
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(cannot)?;
        let header: Header = serde_json::from_slice(&header).or_else(|e| {
            // The column of the one line that a header is.
            let column = if e.line() == 1 { e.column().saturating_sub(1) as u64 } else { 0 };
            damaged(path, 8 + column, format!("the header is damaged: {e}")).err()
        })?;
        let this = Self { path: path.to_path_buf(), file, data: 8 + size, tensors: header.tensors };
        this.check(len)?;
        Ok(this)
    }

    /// Tensors must have the sizes of their shapes and follow one another up to the end of the file.
    fn check(&self, len: u64) -> Result<()> {
        let mut order: Vec<(&String, &TensorInfo)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, t)| t.data_offsets);
        let mut at = 0;
        for (name, t) in order {
            let (begin, end) = t.data_offsets;
            let here = self.data.saturating_add(begin as u64);
            let bits = t.shape.iter().try_fold(t.dtype.bitsize(), |n, d| n.checked_mul(*d));
            if begin != at || bits.map(|b| b.div_ceil(8)) != end.checked_sub(begin) {
                let why = format!("`{name}` {:?} {:?} cannot lie at {begin}..{end}", t.dtype, t.shape);
                return damaged(&self.path, here, why).err();
            }
            at = end;
        }
        let want = self.data + at as u64;
        if want != len {
            let why = format!("the file has {len} bytes, its tensors end at {want}");
            return damaged(&self.path, len.min(want), why).err();
        }
        Ok(())
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads tensor `name` into `out`, elements of `to`, rounding to nearest even; `false` if its dtype is not a float.
    ///
    /// # Errors
    /// [`SAFETENSORS`] if the file cannot be read, or is shorter than when it was opened.
    pub fn read(&self, name: &str, out: &mut [u8], to: DType) -> Result<bool> {
        let Some(info) = self.tensors.get(name) else { return Ok(false) };
        let Some(from) = dtype(info.dtype) else { return Ok(false) };
        let start = self.data + info.data_offsets.0 as u64;
        let mut file = &self.file;
        let fail = |at: u64, e: io::Error| Box::new(damaged(&self.path, at, format!("cannot read `{name}`: {e}")));
        file.seek(SeekFrom::Start(start)).map_err(|e| fail(start, e))?;
        if from == to && out.len() == info.data_offsets.1 - info.data_offsets.0 {
            return file.read_exact(out).map(|()| true).map_err(|e| fail(start, e));
        }
        let per_piece = PIECE / 8;
        let mut bytes = vec![0; per_piece * from.bytes()];
        for (i, place) in out.chunks_mut(per_piece * to.bytes()).enumerate() {
            let piece = &mut bytes[..place.len() / to.bytes() * from.bytes()];
            let at = start + (i * per_piece * from.bytes()) as u64;
            file.read_exact(piece).map_err(|e| fail(at, e))?;
            write_elements(place, to, &elements(piece, from));
        }
        Ok(true)
    }
}

/// Elements of `bytes` in f64.
fn elements(bytes: &[u8], dtype: DType) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks().0.iter().map(|c| f(*c)).collect()
    }
    match dtype {
        DType::F64 => each(bytes, f64::from_le_bytes),
        DType::F32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))),
        DType::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        DType::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        DType::I32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
    }
}

/// The float types that weights can have.
fn dtype(d: Dtype) -> Option<DType> {
    Some(match d {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        _ => return None,
    })
}

/// The format's name of a dtype.
pub(super) fn format_dtype(d: DType) -> Dtype {
    match d {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I32 => Dtype::I32,
    }
}
