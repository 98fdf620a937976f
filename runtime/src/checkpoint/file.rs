//! One safetensors file: a header that is believed only after it was checked, and a memory map of the tensors.

use crate::codes::{CKPT_OPEN, SAFETENSORS};
use athanor_ir::{DType, Diagnostic, Result};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Headers are at most this long, as in the library that defines the format.
const MOST_HEADER: u64 = 100_000_000;

/// An open safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    /// Byte offset of the first tensor.
    data: usize,
    /// Tensors by name; offsets count from [`Self::data_start`].
    pub tensors: BTreeMap<String, TensorInfo>,
    /// What the file says about itself.
    pub metadata: HashMap<String, String>,
}

/// A header whose names are all different.
#[derive(Default)]
struct Header {
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Header;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with a tensor per name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                        continue;
                    }
                    match header.tensors.entry(name) {
                        Entry::Vacant(e) => {
                            e.insert(map.next_value()?);
                        }
                        Entry::Occupied(e) => {
                            return Err(A::Error::custom(format_args!("`{}` is there twice", e.key())));
                        }
                    }
                }
                Ok(header)
            }
        }
        d.deserialize_map(Names)
    }
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
            Box::new(e.help("check the path; relative ones start at the directory of the command"))
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
        // SAFETY: the map is read only; that nobody shortens the file meanwhile is asked of the user, as for data sets.
        let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
        let Header { metadata, tensors } = header;
        let this = Self { path: path.to_path_buf(), map, data: 8 + size as usize, tensors, metadata };
        this.check()?;
        Ok(this)
    }

    /// Tensors must have the sizes of their shapes and follow one another up to the end of the file.
    fn check(&self) -> Result<()> {
        let len = self.map.len() as u64;
        let mut order: Vec<(&String, &TensorInfo)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, t)| t.data_offsets);
        let mut at = 0;
        for (name, t) in order {
            let (begin, end) = t.data_offsets;
            let here = (self.data as u64).saturating_add(begin as u64);
            let bits = t.shape.iter().try_fold(t.dtype.bitsize(), |n, d| n.checked_mul(*d));
            if begin != at || bits.map(|b| b.div_ceil(8)) != end.checked_sub(begin) {
                let why = format!("`{name}` {:?} {:?} cannot lie at {begin}..{end}", t.dtype, t.shape);
                return damaged(&self.path, here, why).err();
            }
            at = end;
        }
        let want = self.data as u64 + at as u64;
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

    /// Byte offset of the first tensor.
    pub fn data_start(&self) -> usize {
        self.data
    }

    /// Size of the file.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are no tensors in it.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Elements of tensor `name` as they are in the file; empty if there is no such tensor.
    pub fn bytes(&self, name: &str) -> &[u8] {
        self.range(name).and_then(|r| self.map.get(r)).unwrap_or_default()
    }

    /// Bytes of the file that tensor `name` takes.
    fn range(&self, name: &str) -> Option<Range<usize>> {
        self.tensors.get(name).map(|t| self.data + t.data_offsets.0..self.data + t.data_offsets.1)
    }

    /// Gives the memory of tensor `name` back to the system; it is read again if it is asked for again.
    pub fn put_away(&self, name: &str) {
        if let Some(range) = self.range(name).filter(|r| r.end <= self.map.len()) {
            // SAFETY: the pages are those of a file that is mapped to be read: they can be dropped at any time. That the
            // system may decline is of no consequence.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}

/// The float types that weights are read from as they are.
pub fn float(d: Dtype) -> Option<DType> {
    Some(match d {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        _ => return None,
    })
}

/// The format's name of a dtype.
pub fn format_dtype(d: DType) -> Dtype {
    match d {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I32 => Dtype::I32,
    }
}

/// Writes length and text of the header of a file with these tensors, one after the other.
///
/// # Errors
/// Of `out`.
pub fn write_header(out: &mut impl Write, tensors: &[(String, DType, Vec<usize>)]) -> io::Result<()> {
    let mut at = 0;
    let info = |(name, dtype, dims): &(String, DType, Vec<usize>)| {
        let begin = at;
        at += dims.iter().product::<usize>() * dtype.bytes();
        (name.clone(), TensorInfo { dtype: format_dtype(*dtype), shape: dims.clone(), data_offsets: (begin, at) })
    };
    let infos = tensors.iter().map(info).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(metadata), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}
